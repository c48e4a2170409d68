//! What a job survives, with real processes: `vljepa job run` killed at random moments, an input that changes or goes, a
//! part that is torn, a disk that is full. Whatever happened, the job ends with every input row once, and its output is
//! byte for byte that of a job nobody disturbed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{FREE, Process, serve};
use crate::tiny::{BERT, bundle};

const KILLS: usize = 50;
const ROWS: usize = 1500;
const ROWS_A_PART: usize = 25;
/// What a loaded machine may take for what should take a moment.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with the tiny model and an input of texts, of which every fiftieth row is poison.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(rows: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        bundle(&folder.path().join("model"), BERT);
        let lines = (0..rows).map(|row| match row % 50 {
            17 => format!("{{\"id\": \"row {row}\", \"text\": \n"),
            18 => format!("{{\"id\": \"row {row}\", \"text\": \"\"}}\n"),
            _ => format!("{{\"id\": \"row {row}\", \"text\": \"word{} word{}\"}}\n", row % 36, row % 31),
        });
        fs::write(folder.path().join("in.jsonl"), lines.collect::<String>()).expect("there is room");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn input(&self) -> PathBuf {
        self.path("in.jsonl")
    }

    /// The command that begins or goes on.
    fn command(&self, out: &str, format: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
        command.args(["job", "run"]).arg(self.input()).arg("--out").arg(self.path(out));
        command.args(["--rows-per-part", &ROWS_A_PART.to_string(), "--format", format, "--json"]);
        command.arg("--bundle").arg(self.path("model")).env_clear().env("VLJEPA_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn begin(&self, out: &str) -> Child {
        self.command(out, "parquet").spawn().expect("the binary runs")
    }

    /// The end of an undisturbed run.
    fn run(&self, out: &str, format: &str) -> Output {
        self.command(out, format).output().expect("the binary runs")
    }

    /// What the output holds for its readers.
    fn files(&self, out: &str) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.path(out)).into_iter().flatten().map(|entry| entry.expect("readable"));
        let named = entries.map(|entry| (entry.file_name().into_string().expect("UTF-8"), entry.path()));
        let ours = named.filter(|(name, _)| name.starts_with("part-") || name.starts_with("_errors-"));
        ours.map(|(name, path)| (name, fs::read(path).expect("readable"))).collect()
    }

    /// Lets a job run until its output has so many files, then kills it.
    fn killed_at(&self, out: &str, files: usize) {
        let mut child = self.begin(out);
        let began = Instant::now();
        while self.files(out).len() < files {
            assert!(began.elapsed() < PATIENCE, "no {files} files yet");
            assert!(child.try_wait().expect("it is ours").is_none(), "it ended before it was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(child);
    }
}

fn kill(mut child: Child) {
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

#[track_caller]
fn succeeded(output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stdout));
    assert!(!told.contains("panicked"), "{told}");
}

/// What a run that could not go on says.
#[track_caller]
fn failed(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

/// The output of a run that nobody disturbed, made once.
fn undisturbed() -> &'static (Scene, BTreeMap<String, Vec<u8>>, Duration) {
    static UNDISTURBED: OnceLock<(Scene, BTreeMap<String, Vec<u8>>, Duration)> = OnceLock::new();
    UNDISTURBED.get_or_init(|| {
        let scene = Scene::new(ROWS);
        let began = Instant::now();
        succeeded(&scene.run("undisturbed", "parquet"));
        let files = scene.files("undisturbed");
        (scene, files, began.elapsed())
    })
}

/// The same files with the same bytes; not printed, for they are long.
#[track_caller]
fn same(files: &BTreeMap<String, Vec<u8>>, as_files: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(files.keys().collect::<Vec<_>>(), as_files.keys().collect::<Vec<_>>());
    let other = files.iter().find(|(name, bytes)| as_files[*name] != **bytes);
    assert!(other.is_none(), "{} has other bytes", other.expect("just seen").0);
}

#[test]
fn an_undisturbed_job_has_every_row_once_and_poison_apart() {
    let scene = Scene::new(ROWS);
    succeeded(&scene.run("out", "jsonl"));
    let mut seen = BTreeMap::new();
    for (name, bytes) in scene.files("out") {
        for line in String::from_utf8(bytes).expect("UTF-8").lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let row = line["row"].as_u64().expect("a number");
            assert_eq!(seen.insert(row, name.starts_with('_')), None, "row {row} is there twice");
            assert_eq!(
                row / ROWS_A_PART as u64,
                name[name.len() - 11..name.len() - 6].parse::<u64>().expect("a number")
            );
        }
    }
    let expected = (0..ROWS as u64).map(|row| (row, matches!(row % 50, 17 | 18))).collect::<BTreeMap<_, _>>();
    assert_eq!(seen, expected);
}

#[test]
fn a_job_killed_fifty_times_ends_as_if_nothing_had_been() {
    let (scene, expected, took) = undisturbed();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    println!("seed {seed}, undisturbed it takes {took:?}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Most processes get over their start; all together do not get to the end long before the last kill.
    let longest_us = (*took / 6).as_micros() as u64;
    let (mut jobs, mut kills) = (0, 0);
    while kills < KILLS {
        let out = format!("killed-{jobs}");
        while kills < KILLS {
            let mut child = scene.begin(&out);
            std::thread::sleep(Duration::from_micros(random.random_range(0..longest_us)));
            let ended = child.try_wait().expect("it is ours").is_some();
            kill(child);
            if ended {
                break;
            }
            kills += 1;
        }
        let parts = scene.files(&out).len();
        succeeded(&scene.run(&out, "parquet"));
        same(&scene.files(&out), expected);
        println!("job {jobs}: after {kills} kills {parts} files were there");
        jobs += 1;
    }
}

#[test]
fn an_input_that_changes_or_goes_stops_the_job_until_it_is_back() {
    let (_, expected, _) = undisturbed();
    let scene = Scene::new(ROWS);
    scene.killed_at("out", 5);
    let (input, away) = (scene.input(), scene.path("away.jsonl"));
    fs::rename(&input, &away).expect("it is there");
    let told = failed(&scene.run("out", "parquet"));
    assert!(told.contains("in.jsonl"), "{told}");
    let text = fs::read_to_string(&away).expect("it is there");
    fs::write(&input, text.replace("row 1490", "row 149X")).expect("there is room");
    let told = failed(&scene.run("out", "parquet"));
    assert!(told.contains("in.jsonl") && told.contains("chang"), "{told}");
    fs::rename(&away, &input).expect("it is there");
    succeeded(&scene.run("out", "parquet"));
    same(&scene.files("out"), expected);
}

#[test]
fn a_part_that_is_torn_or_gone_is_made_anew_when_the_job_goes_on() {
    let (_, expected, _) = undisturbed();
    for torn in [true, false] {
        let scene = Scene::new(ROWS);
        scene.killed_at("out", 5);
        let part = scene.path("out/part-00000.parquet");
        let bytes = fs::read(&part).expect("it is there");
        match torn {
            true => fs::write(&part, &bytes[..bytes.len() / 2]).expect("there is room"),
            false => fs::remove_file(&part).expect("it is there"),
        }
        succeeded(&scene.run("out", "parquet"));
        same(&scene.files("out"), expected);
    }
}

#[test]
fn what_a_killed_run_left_in_its_folder_goes() {
    let (_, expected, _) = undisturbed();
    let scene = Scene::new(ROWS);
    scene.killed_at("out", 3);
    let staged = scene.path("out/_staged");
    fs::create_dir_all(&staged).expect("there is room");
    fs::write(staged.join("dead.part-00009.parquet"), b"half a pa").expect("there is room");
    succeeded(&scene.run("out", "parquet"));
    same(&scene.files("out"), expected);
    let left = fs::read_dir(&staged).into_iter().flatten().count();
    assert_eq!(left, 0, "temporary files are left");
}

#[test]
fn two_runs_of_one_output_do_not_meet() {
    let scene = Scene::new(ROWS);
    let first = scene.begin("out");
    let began = Instant::now();
    while !scene.path("out/part-00000.parquet").exists() {
        assert!(began.elapsed() < PATIENCE, "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = scene.run("out", "parquet");
    let first = first.wait_with_output().expect("it is ours");
    succeeded(&first);
    // On a loaded machine the first may have ended before the second looked.
    if second.status.code() != Some(0) {
        let told = failed(&second);
        assert!(told.contains("another process works with this store"), "{told}");
    }
}

#[test]
fn two_servers_do_not_share_a_store() {
    let scene = Scene::new(0);
    let store = scene.path("store").into_os_string().into_string().expect("UTF-8");
    let variables = [("VLJEPA_JOBS_DIRECTORY", &*store)];
    let first = Process::start(&variables);
    let mut second = serve(&scene.path("model"), FREE, &variables);
    let mut second = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let began = Instant::now();
    while second.try_wait().expect("it is ours").is_none() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    // One that serves nonetheless is killed, which is no exit status of 1.
    let _ = second.kill();
    let told = failed(&second.wait_with_output().expect("it is ours"));
    assert!(told.contains("another process works with this store; one server or run at a time may"), "{told}");
    drop(first);
}

#[test]
fn another_job_does_not_write_into_an_output() {
    let (scene, expected, _) = undisturbed();
    let parquet = scene.path("undisturbed").join("part-00000.parquet");
    let other = Scene::new(50);
    fs::create_dir_all(other.path("out")).expect("there is room");
    fs::copy(&parquet, other.path("out/part-00000.parquet")).expect("there is room");
    let told = failed(&other.run("out", "parquet"));
    assert!(told.contains("holds part-00000.parquet of some other job"), "{told}");
    same(&other.files("out"), &expected.clone().into_iter().filter(|(name, _)| name == "part-00000.parquet").collect());
}

/// The largest memory of its own that a run showed while so many parts were there, bytes.
fn peak(seen: &[(usize, u64)], parts: std::ops::Range<usize>) -> u64 {
    seen.iter().filter(|(done, _)| parts.contains(done)).map(|(_, bytes)| *bytes).max().expect("it was looked at")
}

/// A short form of a job of a million rows: each row is 8 KiB, 20 MiB of them between the two looks, so that keeping them
/// would show. Little is in flight and freed memory goes back at once, so that it is the rows that are looked at and not
/// the allocator.
#[test]
fn memory_is_flat_from_the_first_quarter_to_the_end() {
    const PARTS: usize = 200;
    const GROWTH_MAX: u64 = 12 << 20;
    let scene = Scene::new(0);
    let line = |row: usize| format!("{{\"id\": \"{row:08192}\", \"text\": \"word{}\"}}\n", row % 36);
    fs::write(scene.input(), (0..PARTS * ROWS_A_PART).map(line).collect::<String>()).expect("there is room");
    let mut command = scene.command("out", "parquet");
    command.env("MIMALLOC_PURGE_DELAY", "0");
    command.envs([("VLJEPA_JOBS_SHARDS_AT_ONCE", "1"), ("VLJEPA_JOBS_TEXTS_AT_ONCE", "16")]);
    let mut child = command.spawn().expect("the binary runs");
    let status = format!("/proc/{}/status", child.id());
    let (mut seen, began) = (Vec::new(), Instant::now());
    while child.try_wait().expect("it is ours").is_none() {
        let memory = fs::read_to_string(&status).ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().strip_suffix(" kB")?;
            line.parse::<u64>().ok()
        });
        let entries = fs::read_dir(scene.path("out")).into_iter().flatten().flatten();
        let parts = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("part-")).count();
        seen.extend(memory.map(|memory| (parts, memory << 10)));
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    succeeded(&child.wait_with_output().expect("it is ours"));
    assert_eq!(scene.files("out").len(), PARTS);
    let (early, late) = (peak(&seen, PARTS / 4..PARTS / 2), peak(&seen, 3 * PARTS / 4..PARTS + 1));
    let told = format!("{early} bytes in the second quarter, {late} in the last");
    println!("{told}");
    assert!(late < early + GROWTH_MAX, "{told}");
}

/// Runs a shell script where it may mount, if this machine lets us.
fn unshared(script: &str, arguments: &[&Path]) -> Option<Output> {
    let may = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !may.is_ok_and(|may| may.status.success()) {
        println!("not run: this machine does not let us mount");
        return None;
    }
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-euc", script, "sh"])
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Some(command.output().expect("it may"))
}

#[test]
fn a_full_disk_stops_the_job_until_there_is_room() {
    let (_, expected, _) = undisturbed();
    let scene = Scene::new(ROWS);
    fs::create_dir(scene.path("out")).expect("there is room");
    // The disk goes with the shell: what is on it is copied out.
    let script = r#"
        mount -t tmpfs -o size=96k tmpfs "$1"
        run() { "$2" job run "$3" --out "$1" --state "$5" --rows-per-part 25 --json --bundle "$4"; }
        if run "$@"; then exit 3; fi
        mount -o remount,size=64m "$1"
        run "$@"
        cp -r "$1" "$6"
    "#;
    let binary = Path::new(env!("CARGO_BIN_EXE_vljepa"));
    let [out, input, model, state, copy] = ["out", "in.jsonl", "model", "state", "copy"].map(|name| scene.path(name));
    let Some(output) = unshared(script, &[&out, binary, &input, &model, &state, &copy]) else { return };
    succeeded(&output);
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("No space left on device") && told.contains("part-"), "{told}");
    same(&scene.files("copy"), expected);
}
