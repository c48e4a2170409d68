//! `vljepa watch` as a person runs it: every kind of source, every output, in this process and on a server; and what
//! becomes of a process that reads for it.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::tiny::{BERT, bundle};

const VIDEO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/star.mp4");
const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/star.gif");
const STILL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/squares.jpg");
const QUESTION: &str = "what is happening in the clip?";
const COLOUR: &str = "which colour does the star have?";

/// A tiny random model: what it says means nothing, and takes no time.
fn tiny() -> &'static str {
    static TINY: OnceLock<(TempDir, String)> = OnceLock::new();
    let (_, path) = TINY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        bundle(folder.path(), BERT);
        let path = folder.path().to_str().expect("a plain path").to_owned();
        (folder, path)
    });
    path
}

/// A question to the tiny model.
fn asked() -> [&'static str; 6] {
    ["--ask", "word1", "--choices", "word2,word3", "--bundle", tiny()]
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    command.arg("watch").args(arguments).stdin(Stdio::null());
    command
}

fn watch(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn events(lines: &str, event: &str) -> Vec<Value> {
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON object a line"));
    all.filter(|line| line["event"] == event).collect()
}

/// A folder for outputs, and the name of a file in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).expect("UTF-8")
    }
}

#[test]
fn a_video_is_told_in_lines_subtitles_events_and_a_chart() {
    let folder = Folder::new();
    let [srt, vtt, jsonl, chart] = ["a.srt", "a.vtt", "a.jsonl", "a.png"].map(|name| folder.file(name));
    let outputs = ["--srt", &srt, "--vtt", &vtt, "--jsonl", &jsonl, "--chart", &chart];
    let output = watch(&[&[VIDEO, "--ask", QUESTION, "--ask", COLOUR, "--fps", "1000"], &outputs[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let lines = folder.read("a.jsonl");
    let (seen, spoken) = (events(&lines, "seen"), events(&lines, "spoken"));
    assert!(!spoken.is_empty() && seen.len() >= spoken.len(), "{lines}");
    assert!(spoken.iter().any(|one| one["query"] == 1 && one["text"] == "blue"), "{lines}");
    let stats = &events(&lines, "finished")[0]["stats"];
    assert_eq!(stats["decodes"], spoken.len());
    assert_eq!(stats["embeddings"], seen.len());
    // One plain line a decode, nothing else; the figures on the other side.
    let printed = text(&output.stdout);
    assert_eq!(printed.lines().count(), spoken.len(), "{printed}");
    for (line, one) in printed.lines().zip(&spoken) {
        let told = format!("  {}   (drift ", one["text"].as_str().expect("a text"));
        assert!(line.starts_with("00:00:0") && line.contains(&told), "{line}");
    }
    assert!(text(&output.stderr).starts_with("frames   "), "{output:?}");
    // The same cues in both files, the last one up to the end of the stream.
    let (srt, vtt) = (folder.read("a.srt"), folder.read("a.vtt"));
    assert!(srt.contains("blue\n"), "{srt}");
    assert_eq!(vtt.strip_prefix("WEBVTT\n\n").expect("its first line"), srt.replace(",", "."));
    let last = srt.lines().rev().find(|line| line.contains(" --> ")).expect("a cue");
    // The stream is shorter than the shortest last cue.
    assert!(stats["duration_ms"].as_u64() < Some(1000) && last.ends_with("--> 00:00:01,000"), "{last} {stats}");
    assert!(std::fs::read(&chart).expect("a file").starts_with(b"\x89PNG"));
}

#[test]
fn every_kind_of_file_is_a_stream() {
    let folder = Folder::new();
    std::fs::create_dir(folder.file("frames")).expect("a folder");
    for at in [10, 9, 1, 2] {
        std::fs::copy(STILL, folder.file(&format!("frames/frame_{at}.jpg"))).expect("a copy");
    }
    let frames = folder.file("frames");
    let everything = [&asked()[..], &["--fps", "1000", "--jsonl", "-"]].concat();
    for (source, count) in [(STILL, 1), (CLIP, 8), (VIDEO, 8), (&*frames, 4)] {
        let output = watch(&[&[source], &everything[..]].concat());
        assert!(output.status.success(), "{source}: {output:?}");
        let lines = text(&output.stdout);
        let finished = events(&lines, "finished");
        assert_eq!(finished[0]["stats"]["frames"], count, "{source}: {lines}");
        assert!(!events(&lines, "spoken").is_empty(), "{source}: {lines}");
    }
    // Four frames that are the same: one is looked at.
    let looked = [&*frames, "--jsonl", "-", "--window", "500ms", "--threshold", "0.2"];
    let output = watch(&[&asked()[..], &looked].concat());
    let stats = &events(&text(&output.stdout), "finished")[0]["stats"];
    assert_eq!((&stats["frames_still"], &stats["decodes"]), (&3.into(), &1.into()), "{output:?}");
}

#[test]
fn a_recording_is_cut_when_all_has_been_seen() {
    for (flags, count) in [(&["--segments", "3"][..], 6), (&["--rate", "0.1"], 2)] {
        let decode = ["--decode", "ward", "--window", "400ms", "--stride", "100ms", "--fps", "1000", "--jsonl", "-"];
        let output = watch(&[&[VIDEO, "--ask", "word4"], &asked()[..], &decode, flags].concat());
        assert!(output.status.success(), "{output:?}");
        let lines = text(&output.stdout);
        let spoken = events(&lines, "spoken");
        assert_eq!(spoken.len(), count, "{lines}");
        assert!(spoken.iter().all(|one| one["trigger"] == "speak"), "{lines}");
        assert_eq!(events(&lines, "finished")[0]["stats"]["decodes"], count);
        for query in 0..2 {
            let own: Vec<&Value> = spoken.iter().filter(|one| one["query"] == query).collect();
            assert_eq!(own.len(), count / 2);
            assert!(own.windows(2).all(|pair| pair[0]["end_ms"] == pair[1]["start_ms"]), "{lines}");
        }
    }
}

#[test]
fn other_ways_to_decode() {
    let decodes = |arguments: &[&str]| {
        let small = ["--window", "400ms", "--stride", "100ms", "--fps", "1000", "--jsonl", "-"];
        let output = watch(&[&[VIDEO, "--ask", "word1", "--bundle", tiny()], &small[..], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let lines = text(&output.stdout);
        (events(&lines, "seen").len(), events(&lines, "spoken"))
    };
    let (seen, spoken) = decodes(&["--decode", "never"]);
    assert!(seen > 4 && spoken.is_empty(), "{seen} {spoken:?}");
    let (again, every) = decodes(&["--decode", "uniform", "--every", "1ms"]);
    assert_eq!((again, every.len()), (seen, seen));
    let (_, few) = decodes(&["--decode", "drift", "--threshold", "2", "--choices", "word2,word3"]);
    assert_eq!(few.len(), 1);
    assert_eq!(few[0]["choices"].as_array().map(Vec::len), Some(2));
    let (limited, _) = decodes(&["--limit", "600ms"]);
    assert!((1..seen).contains(&limited), "{limited}");
}

#[test]
fn what_cannot_be_watched_is_told_before_anything_is_computed() {
    let film = Folder::new();
    std::fs::write(film.file("film.mp4"), "no film").expect("a file");
    let film_path = film.file("film.mp4");
    for (arguments, told) in [
        (&["/nowhere.mp4", "--ask", "a"][..], "/nowhere.mp4: No such file"),
        (&["ftp://host/a", "--ask", "a"], "SOURCE has scheme \"ftp\""),
        (&[VIDEO, "--ask", "a", "--fps", "0"], "--fps is 0, must be 0.001 to 1000"),
        (&[VIDEO, "--ask", "a", "--side", "1"], "--side is 1, must be 16 to 4096 pixels"),
        (&[VIDEO, "--ask", ""], "--ask is empty"),
        (&[VIDEO, "--ask", "a", "--srt", "/nowhere/a.srt"], "--srt /nowhere/a.srt: No such file"),
        (&[&*film_path, "--ask", "a", "--srt", &film_path], "is SOURCE as well"),
        (&[VIDEO, "--ask", "a", "--server", "127.0.0.1:1"], "--server 127.0.0.1:1"),
    ] {
        let output = watch(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && error.contains(told) && error.lines().count() == 1, "{error}");
    }
    let refused = watch(&["-i", "--ask", "a"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&film_path).expect("UTF-8"), "no film");
}

#[test]
fn a_server_tells_the_same_as_this_process() {
    let server = Process::of(Path::new(tiny()), &[]);
    let address = server.address.to_string();
    let both = [["--bundle", tiny()], ["--server", &*address]].map(|place| {
        ["drift", "ward", "uniform"].map(|decode| {
            let asked = [VIDEO, "--ask", "word1", "--ask", "word2", "--choices", "", "--choices", "word3,word4"];
            let how = ["--decode", decode, "--window", "400ms", "--fps", "1000", "--jsonl", "-"];
            let output = watch(&[&asked[..], &how, &place].concat());
            assert!(output.status.success(), "{output:?}");
            let lines = text(&output.stdout);
            let facts = |one: &Value| {
                ["query", "text", "trigger", "start_ms", "end_ms", "first_seq", "last_seq"]
                    .map(|name| one[name].clone())
            };
            let spoken: Vec<_> = events(&lines, "spoken").iter().map(facts).collect();
            (events(&lines, "seen").len(), spoken)
        })
    });
    assert_eq!(both[0], both[1]);
    assert!(both[0].iter().all(|(seen, spoken)| *seen > 0 && !spoken.is_empty()), "{both:?}");
}

/// Passes connections on to a server; the first ones break after so many bytes of the client each.
fn breaking(server: SocketAddr, after: &'static [u64]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let limits = after.iter().copied().chain(std::iter::repeat(u64::MAX));
        for (client, limit) in listener.incoming().zip(limits) {
            let (client, server) = (client.expect("a client"), TcpStream::connect(server).expect("the server"));
            let pass = |from: &TcpStream, to: &TcpStream, limit: u64| {
                let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                std::thread::spawn(move || {
                    // That it breaks is the point.
                    let _ = std::io::copy(&mut (&from).take(limit), &mut &to);
                    [from, to].map(|end| end.shutdown(Shutdown::Both))
                })
            };
            pass(&client, &server, limit);
            pass(&server, &client, u64::MAX);
        }
    });
    address
}

#[test]
fn a_call_that_breaks_is_taken_up_and_nothing_is_lost_or_told_twice() {
    let server = Process::of(Path::new(tiny()), &[]);
    let through = |address: SocketAddr| {
        let small = ["--window", "400ms", "--stride", "100ms", "--fps", "1000", "--jsonl", "-", "--decode", "uniform"];
        let asked = [VIDEO, "--every", "200ms", "--ask", "word1", "--choices", "word2,word3"];
        let output = watch(&[&asked[..], &small, &["--server", &address.to_string()]].concat());
        assert!(output.status.success(), "{output:?}");
        let lines = text(&output.stdout);
        let mut all: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for one in &mut all {
            // Only times differ from run to run.
            let fields = one.as_object_mut().expect("an object");
            fields.remove("timing_ms");
            if let Some(stats) = fields.get_mut("stats").and_then(Value::as_object_mut) {
                stats.retain(|name, _| !name.ends_with("_ms") || name == "duration_ms");
            }
        }
        all
    };
    let whole = through(server.address);
    assert!(whole.len() > 6, "{whole:?}");
    for after in [&[20_000][..], &[300, 5_000, 40_000, 70_000, 10_000], &[100_000, 500, 60_000]] {
        assert_eq!(through(breaking(server.address, after)), whole, "{after:?}");
    }
}

/// A program called ffmpeg that does what a test wants, before all others on the path.
fn fake(script: &str) -> (Folder, String) {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let file = folder.file("ffmpeg");
    std::fs::write(&file, format!("#!/bin/sh\necho $$ > {}\n{script}\n", folder.file("pid"))).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!("{}:/usr/bin:/bin", folder.0.path().display());
    (folder, path)
}

fn picture(shade: char) -> String {
    format!("printf 'P6\\n2 1\\n255\\n{}'\n", shade.to_string().repeat(6))
}

fn watch_with(path: &str, arguments: &[&str]) -> Child {
    let mut command = command(&[arguments, &asked()].concat());
    command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

/// Whether the fake still runs; it has a moment to be gone.
fn lives(folder: &Folder) -> bool {
    let process = PathBuf::from("/proc").join(folder.read("pid").trim());
    let began = Instant::now();
    while process.exists() && began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    process.exists()
}

#[test]
fn ffmpeg_is_given_the_source_and_its_pictures_are_frames() {
    let script =
        format!("for word in \"$@\"; do echo \"$word\"; done > $(dirname $0)/words\n{}", picture('a').repeat(9));
    let (folder, path) = fake(&script);
    let url = "rtsp://me:secret@camera/1?a=$(touch x)&b";
    let arguments = [url, "--jsonl", "-", "--side", "320", "--drop", "wait"];
    let output = watch_with(&path, &arguments).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(events(&text(&output.stdout), "finished")[0]["stats"]["frames"], 9);
    let words = folder.read("words");
    assert!(words.contains(&format!("\n-rtsp_transport\ntcp\n-i\n{url}\n")), "{words}");
    assert!(words.contains("fps=4,scale=w=min(320\\,iw):"), "{words}");
}

#[test]
fn an_ffmpeg_that_dies_is_quoted_and_what_came_before_is_kept() {
    let script = format!("{}echo 'x: Connection refused by rtsp://u:pw@h/' >&2\nexit 3", picture('a').repeat(5));
    let (folder, path) = fake(&script);
    let srt = folder.file("a.srt");
    let arguments = ["rtsp://u:pw@h/", "--drop", "wait", "--srt", &srt];
    let output = watch_with(&path, &arguments).wait_with_output().expect("it ends");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("rtsp://h/: ffmpeg ended after 5 frames with exit status: 3"), "{error}");
    assert!(error.contains("Connection refused by rtsp://h/") && !error.contains("pw"), "{error}");
    assert!(error.contains("frames   5 in "), "the figures are told: {error}");
    assert!(folder.read("a.srt").contains(" --> "), "the subtitles are completed");
    for (script, told) in [
        ("exit 0".to_owned(), "finds no frame"),
        (format!("{}printf 'P6\\n2 1\\n255\\nabc'", picture('a')), "broken after 1 frames: a picture is cut short"),
        ("printf 'P6\\n99999 1\\n255\\n'; sleep 60".into(), "must be 1 to 640"),
    ] {
        let (folder, path) = fake(&script);
        let output = watch_with(&path, &["rtsp://h/"]).wait_with_output().expect("it ends");
        assert!(text(&output.stderr).contains(told), "{script}: {output:?}");
        assert!(!lives(&folder), "{script}");
    }
}

#[test]
fn an_ffmpeg_that_hangs_is_given_up() {
    let (folder, path) = fake(&format!("{}exec sleep 600", picture('a')));
    let began = Instant::now();
    let arguments = ["rtsp://h/", "--stall", "1s", "--fps", "4"];
    let output = watch_with(&path, &arguments).wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("brought no frame for 1 s; --stall"), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(!lives(&folder));
}

#[test]
fn an_ffmpeg_without_end_is_left_at_the_limit_and_at_a_signal() {
    let endless = format!("while :; do\n{}done", picture('a'));
    let (folder, path) = fake(&endless);
    let arguments = ["rtsp://h/", "--jsonl", "-", "--limit", "3s", "--drop", "wait"];
    let output = watch_with(&path, &arguments).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(events(&text(&output.stdout), "finished")[0]["stats"]["frames"], 12);
    assert!(!lives(&folder));
    for (drop, source, status) in [("oldest", "rtsp://h/", 0), ("wait", "http://h/", 130)] {
        let (folder, path) = fake(&endless);
        let srt = folder.file("a.srt");
        let child = watch_with(&path, &[source, "--drop", drop, "--threshold", "0.2", "--srt", &srt]);
        std::thread::sleep(Duration::from_secs(3));
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(text(&output.stderr).contains("decodes  1, "), "{output:?}");
        assert!(folder.read("a.srt").contains(" --> "));
        assert!(!lives(&folder), "{drop}");
    }
}

#[test]
fn without_ffmpeg_it_is_said_what_to_install() {
    let folder = Folder::new();
    let path = folder.0.path().to_str().expect("a plain path");
    std::fs::write(folder.file("film.mkv"), b"\x1A\x45\xDF\xA3rest").expect("a file");
    let file = folder.file("film.mkv");
    for source in ["rtsp://h/", &*file] {
        let output = watch_with(path, &[source]).wait_with_output().expect("it ends");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("ffmpeg, which is not installed: install it (such as apt install ffmpeg"), "{error}");
    }
}

#[test]
fn the_true_ffmpeg_reads_what_this_program_does_not() {
    let there = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        println!("skipped: ffmpeg is not installed");
        return;
    }
    let folder = Folder::new();
    let film = folder.file("a film; 100%.avi");
    let made = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=1280x720:rate=10:duration=3", "-c:v", "mjpeg"])
        .arg(&film)
        .stdin(Stdio::null())
        .status();
    assert!(made.expect("it runs").success());
    let output = watch(&[&asked()[..], &[&*film, "--jsonl", "-"]].concat());
    assert!(output.status.success(), "{output:?}");
    let stats = &events(&text(&output.stdout), "finished")[0]["stats"];
    assert!((11..=13).contains(&stats["frames"].as_u64().expect("a number")), "{stats}");
}
