//! What this program cannot read itself, read by an installed ffmpeg: a process that writes pictures into a pipe.
//!
//! It writes PPM, each picture with its own size before its RGB, because nothing else would tell the size of what comes.
//! No shell is between; the pipe bounds what it may be ahead, and the feed ends it on every way out.

use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};

use super::Reading;
use super::feed::Filler;
use super::pace::Verdict;
use crate::engine::{MediaFrame, PixelOrder};

/// How long it may take to end once it has written its last picture.
const ENDING: Duration = Duration::from_secs(5);
/// How long its last complaints are waited for.
const HEARING: Duration = Duration::from_millis(500);
/// What is kept of its complaints, bytes, and how many lines of them are told.
const COMPLAINT_BYTES: usize = 4096;
const COMPLAINT_LINES: usize = 4;
/// The longest header of a picture, bytes.
const HEADER_BYTES_MAX: usize = 64;

/// What it is to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    File(PathBuf),
    Url(String),
    Camera(String),
}

impl Input {
    /// Its name without what should stay secret.
    fn told(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Camera(name) => name.clone(),
            Self::Url(url) => without_secret(url),
        }
    }

    /// The options by which it is opened.
    fn options(&self) -> Vec<OsString> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        match self {
            // With its protocol, so that no name is taken for another one's.
            Self::File(path) => [words(&["-i"]), vec![prefixed("file:", path)]].concat(),
            Self::Url(url) if url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("rtsp:")) => {
                words(&["-rtsp_transport", "tcp", "-i", url])
            }
            Self::Url(url) => words(&["-i", url]),
            Self::Camera(name) => match (name.starts_with('/'), cfg!(target_os = "macos")) {
                (true, _) => words(&["-f", "v4l2", "-i", name]),
                (false, true) => words(&["-f", "avfoundation", "-framerate", "30", "-i", "0"]),
                (false, false) => words(&["-f", "v4l2", "-i", "/dev/video0"]),
            },
        }
    }
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut name = OsString::from(prefix);
    name.push(path);
    name
}

/// A URL without the name and the password in it.
fn without_secret(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.into(),
    }
}

/// All that it is told.
fn arguments(input: &Input, fps: f64, side_max: u32) -> Vec<OsString> {
    let scale =
        format!("fps={fps},scale=w=min({side_max}\\,iw):h=min({side_max}\\,ih):force_original_aspect_ratio=decrease");
    let before = ["-hide_banner", "-nostdin", "-loglevel", "error"].map(OsString::from).to_vec();
    let after = ["-map", "0:v:0", "-an", "-sn", "-dn", "-vf", &scale, "-f", "image2pipe", "-c:v", "ppm", "pipe:1"];
    [before, input.options(), after.map(OsString::from).to_vec()].concat()
}

/// Reads all of it. Frames come at a fixed rate, so that their number tells their time.
pub(super) fn read(input: &Input, filler: &Filler, reading: &Reading) -> anyhow::Result<()> {
    let mut command = Command::new("ffmpeg");
    command.args(arguments(input, reading.fps, reading.side_max));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    apart(&mut command);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "{} is read by ffmpeg, which is not installed: install it (such as apt install ffmpeg, dnf install ffmpeg, \
             brew install ffmpeg), or convert it to MP4 with H.264",
            input.told()
        ),
        _ => anyhow!("ffmpeg does not start: {error}"),
    })?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    filler.leave(child);
    let (output, errors) = (output.context("ffmpeg has no output")?, errors.context("ffmpeg has no error output")?);
    let complaints = Complaints::default();
    let listener = complaints.clone();
    let listening = std::thread::Builder::new().name("complaints".into()).spawn(move || listener.hear(errors));
    let listening = listening.context("no thread to hear ffmpeg")?;
    let (mut pictures, mut ticks) = (0u64, reading.ticks());
    let outcome = pictures_of(BufReader::with_capacity(1 << 16, output), reading.side_max, |width, height, pixels| {
        let pts_ms = (pictures as f64 * 1000.0 / reading.fps).round() as u64;
        pictures += 1;
        match ticks.judge(pts_ms) {
            Verdict::Take => filler.push(MediaFrame::Raw { width, height, order: PixelOrder::Rgb, pixels, pts_ms }),
            Verdict::Skip => filler.is_wanted(),
            Verdict::End => false,
        }
    });
    let secret = |text: String| match input {
        Input::Url(url) => text.replace(url.as_str(), &input.told()),
        _ => text,
    };
    let told = |what: &str| {
        // What it said last may still be on its way; a process that it began may hold the pipe for ever.
        until(HEARING, || listening.is_finished().then_some(()));
        let complaints = secret(complaints.last());
        let why = if complaints.is_empty() { String::new() } else { format!(": {complaints}") };
        anyhow!("{}: {what}{why}", input.told())
    };
    match outcome {
        // What is beyond the limit is not waited for.
        Ok(Stopped::Unwanted) => Ok(()),
        Err(error) => Err(told(&format!("ffmpeg's output is broken after {pictures} frames: {error:#}"))),
        Ok(Stopped::Ended) => match ended(filler) {
            Some(status) if status.success() && pictures > 0 => Ok(()),
            Some(status) if status.success() => Err(told("ffmpeg finds no frame in it")),
            Some(status) => Err(told(&format!("ffmpeg ended after {pictures} frames with {status}"))),
            None => Err(told(&format!("ffmpeg closed its output after {pictures} frames but did not end"))),
        },
    }
}

/// Signals of the terminal are for this program, which then ends that one in its own time.
#[cfg(unix)]
fn apart(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(not(unix))]
fn apart(_: &mut Command) {}

/// How it ended; none if it does not.
fn ended(filler: &Filler) -> Option<ExitStatus> {
    until(ENDING, || match filler.with_child(|child| child.try_wait()) {
        Some(Ok(Some(status))) => Some(Some(status)),
        _ => (!filler.is_wanted()).then_some(None),
    })?
}

/// Looks again and again until there is an answer; none if there is none within `bound`.
fn until<Answer>(bound: Duration, mut look: impl FnMut() -> Option<Answer>) -> Option<Answer> {
    let began = Instant::now();
    loop {
        let answer = look();
        if answer.is_some() || began.elapsed() > bound {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Why no more pictures are read.
#[derive(Debug, PartialEq, Eq)]
enum Stopped {
    /// There are no more.
    Ended,
    /// Nobody wants more.
    Unwanted,
}

/// Reads one PPM after the other, of at most `side_max` pixels in each direction, and gives width, height and RGB on
/// until `each` says no.
fn pictures_of(
    mut output: impl Read,
    side_max: u32,
    mut each: impl FnMut(u32, u32, Vec<u8>) -> bool,
) -> anyhow::Result<Stopped> {
    while let Some([width, height]) = header(&mut output)? {
        for (name, side) in [("width", width), ("height", height)] {
            ensure!((1..=side_max).contains(&side), "{name} of a picture is {side}, must be 1 to {side_max}");
        }
        let mut pixels = vec![0; 3 * width as usize * height as usize];
        output.read_exact(&mut pixels).context("a picture is cut short")?;
        if !each(width, height, pixels) {
            return Ok(Stopped::Unwanted);
        }
    }
    Ok(Stopped::Ended)
}

/// The next picture's width and height: `P6`, both, and the largest sample, 255, with white space after each.
fn header(output: &mut impl Read) -> anyhow::Result<Option<[u32; 2]>> {
    let mut words: Vec<String> = vec![String::new()];
    for read in 0..HEADER_BYTES_MAX {
        let mut byte = [0];
        if output.read(&mut byte)? == 0 {
            ensure!(read == 0, "a picture's header is cut short");
            return Ok(None);
        }
        match byte[0] {
            space if space.is_ascii_whitespace() => words.push(String::new()),
            letter => words.last_mut().context("no word")?.push(char::from(letter)),
        }
        if let [kind, width, height, most, _] = &words[..] {
            ensure!(kind == "P6" && most == "255", "a picture begins with {kind:?} and {most:?}, must be P6 and 255");
            let side = |text: &str| text.parse().with_context(|| format!("a picture's side is {text:?}"));
            return Ok(Some([side(width)?, side(height)?]));
        }
    }
    bail!("a picture's header has over {HEADER_BYTES_MAX} bytes");
}

/// The last that it complained of.
#[derive(Clone, Default)]
struct Complaints(Arc<Mutex<Vec<u8>>>);

impl Complaints {
    /// Hears it to its end, keeping little.
    fn hear(&self, mut errors: impl Read) {
        let mut some = [0; 1024];
        while let Ok(count @ 1..) = errors.read(&mut some) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&some[..count]);
            let over = kept.len().saturating_sub(COMPLAINT_BYTES);
            kept.drain(..over);
        }
    }

    /// The last lines on one, without what could steer a terminal.
    fn last(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(COMPLAINT_LINES)..].join("; ");
        last.chars().filter(|letter| !letter.is_control()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(input: &Input) -> String {
        let arguments = arguments(input, 4.0, 640);
        arguments.iter().map(|word| word.to_str().expect("plain")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn it_is_told_what_to_read_and_how() {
        let file = spoken(&Input::File("a b;$(c).mkv".into()));
        assert!(file.starts_with("-hide_banner -nostdin -loglevel error -i file:a b;$(c).mkv -map 0:v:0 "), "{file}");
        let scale = "-vf fps=4,scale=w=min(640\\,iw):h=min(640\\,ih):force_original_aspect_ratio=decrease";
        assert!(file.ends_with(&format!("{scale} -f image2pipe -c:v ppm pipe:1")), "{file}");
        assert!(spoken(&Input::Url("RTSP://c/1".into())).contains("-rtsp_transport tcp -i RTSP://c/1 "));
        assert!(spoken(&Input::Camera("/dev/video3".into())).contains("-f v4l2 -i /dev/video3 "));
    }

    #[test]
    fn a_password_is_not_told() {
        for (url, told) in [
            ("rtsp://me:se@cret@host/a@b", "rtsp://host/a@b"),
            ("https://host/a?b=c@d", "https://host/a?b=c@d"),
            ("rtsp://host", "rtsp://host"),
        ] {
            assert_eq!(without_secret(url), told);
        }
    }

    #[test]
    fn pictures_are_read_one_after_the_other() {
        let two = [&b"P6\n2 1\n255\nabcdef"[..], b"P6\n1 1\n255\nxyz"].concat();
        let mut seen = vec![];
        let outcome = pictures_of(&two[..], 640, |width, height, pixels| {
            seen.push((width, height, pixels));
            true
        });
        assert_eq!(outcome.expect("sound"), Stopped::Ended);
        assert_eq!(seen, [(2, 1, b"abcdef".to_vec()), (1, 1, b"xyz".to_vec())]);
        assert_eq!(pictures_of(&two[..], 640, |_, _, _| false).expect("sound"), Stopped::Unwanted);
        for (wrong, why) in [
            (&b"P6\n2 1\n255\nabcde"[..], "cut short"),
            (b"P6\n2", "header is cut short"),
            (b"P5\n1 1\n255\nabc", "must be P6"),
            (b"P6\n641 1\n255\n", "width of a picture is 641, must be 1 to 640"),
            (b"P6\n1 0\n255\n", "height of a picture is 0"),
            (b"P6\n-1 1\n255\n", "\"-1\""),
            (&[b'1'; 100], "over 64 bytes"),
        ] {
            let told = format!("{:#}", pictures_of(wrong, 640, |_, _, _| true).expect_err("wrong"));
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn of_complaints_the_last_are_kept() {
        let complaints = Complaints::default();
        let long = format!("{}\n\x1b[31mone\n\ntwo\n", "x".repeat(100_000));
        complaints.hear(long.as_bytes());
        assert!(complaints.0.lock().expect("sound").len() <= COMPLAINT_BYTES);
        assert!(complaints.last().ends_with("x; [31mone; two"), "{}", complaints.last());
    }
}
