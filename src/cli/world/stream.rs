//! `vljepa world --stream`: one stream as a folder of pictures, with what is true of every moment as JSON lines and as
//! subtitles.
//!
//! annotations.jsonl begins with a line about the stream, `{"fps", "duration_ms", "frames", "size", "seed"}`; each further
//! line is a stretch, `{"start_ms", "end_ms", "event", "caption", "cut"}`. Frame `n` is frame_{n}.png, filmed at `n / fps`
//! seconds.

use std::path::Path;

use anyhow::{Context, ensure};

use super::World;
use crate::cli::cue::{Cue, Format};
use crate::cli::side;
use crate::input::{Frame, encode};
use crate::train::data::EVALUATION;
use crate::train::world::{self, Annotation, Config, Stream, StreamConfig};

/// Pictures of a stream, at most.
const FRAMES_MAX: usize = 100_000;
/// Shortest and longest stream, seconds.
const SECONDS: [f64; 2] = [2.0, 86_400.0];
/// Fewest and most frames a second.
const FPS: [f32; 2] = [0.1, 60.0];

/// Writes the stream that the flags ask for.
pub(super) fn run(args: &World) -> anyhow::Result<()> {
    side("--size", args.size)?;
    let config = config(args)?;
    let seed = if args.held_out { args.seed | EVALUATION } else { args.seed & !EVALUATION };
    let stream = world::World::new(Config::default()).stream(seed, &config);
    let frames = stream.frames_len();
    ensure!(frames <= FRAMES_MAX, "--duration and --fps ask for {frames} pictures, at most {FRAMES_MAX} are written");
    empty(&args.out)?;
    let put = |name: &str, bytes: &[u8]| {
        let path = args.out.join(name);
        std::fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    put("annotations.jsonl", lines(&stream, args.size, seed).as_bytes())?;
    put("annotations.srt", subtitles(&stream).as_bytes())?;
    let side = u32::try_from(args.size).context("--size")?;
    for (index, rgb) in stream.frames(args.size).enumerate() {
        let frame = Frame { width: side, height: side, rgb, pts_ms: stream.frame_ms(index).round() as u64 };
        put(&format!("frame_{index:06}.png"), &encode::png(&frame)?)?;
    }
    let (cuts, events) = stream.annotations.iter().fold((0, 0), |(cuts, events), said| {
        (cuts + usize::from(said.cut), events + usize::from(said.event != world::Event::Nothing))
    });
    println!(
        "{:.1} s of a stream in {frames} pictures, with {events} events and {cuts} cuts, are in {}",
        stream.duration_ms as f64 / 1000.0,
        args.out.display()
    );
    Ok(())
}

fn config(args: &World) -> anyhow::Result<StreamConfig> {
    let mut config = StreamConfig::default();
    if let Some(seconds) = args.duration {
        let [least, most] = SECONDS;
        ensure!((least..=most).contains(&seconds), "--duration is {seconds}, must be {least} to {most} seconds");
        config.duration_ms = [(seconds * 1000.0).round() as u64; 2];
    }
    if let Some(fps) = args.fps {
        let [least, most] = FPS;
        ensure!((least..=most).contains(&fps), "--fps is {fps}, must be {least} to {most}");
        config.fps = fps;
    }
    Ok(config)
}

/// Makes the folder; one that has anything in it is refused, for its pictures would become part of the stream.
fn empty(folder: &Path) -> anyhow::Result<()> {
    let about = || folder.display().to_string();
    std::fs::create_dir_all(folder).with_context(about)?;
    let mut inside = std::fs::read_dir(folder).with_context(about)?;
    ensure!(inside.next().is_none(), "--out {}: is not empty, a stream wants a folder of its own", folder.display());
    Ok(())
}

/// What is true, as JSON lines.
fn lines(stream: &Stream, size: usize, seed: u64) -> String {
    let about = serde_json::json!({
        "fps": stream.fps, "duration_ms": stream.duration_ms, "frames": stream.frames_len(), "size": size, "seed": seed,
    });
    let said = stream.annotations.iter().map(|said| {
        serde_json::json!({
            "start_ms": said.start_ms, "end_ms": said.end_ms, "event": said.event.phrase(), "caption": said.caption,
            "cut": said.cut,
        })
    });
    std::iter::once(about).chain(said).map(|line| format!("{line}\n")).collect()
}

/// The captions as subtitles.
fn subtitles(stream: &Stream) -> String {
    let cue = |said: &Annotation| Cue { ms: [said.start_ms, said.end_ms], lines: vec![said.caption.clone()] };
    (1..).zip(&stream.annotations).map(|(number, said)| Format::Srt.cue(number, &cue(said))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        world: World,
    }

    fn asked(folder: &Path, flags: &[&str]) -> anyhow::Result<()> {
        let out = folder.to_str().expect("a name");
        let always = ["world", "--stream", "--size", "16", "--out", out];
        let line = always.iter().chain(flags);
        run(&Line::try_parse_from(line)?.world)
    }

    #[test]
    fn a_stream_is_pictures_lines_and_subtitles() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("new");
        asked(&out, &["--duration", "20", "--seed", "5", "--held-out"]).expect("a stream");
        let lines = std::fs::read_to_string(out.join("annotations.jsonl")).expect("lines");
        let lines: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((&lines[0]["fps"], &lines[0]["frames"]), (&4.0.into(), &80.into()));
        assert_eq!(lines[0]["seed"], (5 | EVALUATION));
        assert_eq!((&lines[1]["start_ms"], &lines[lines.len() - 1]["end_ms"]), (&0.into(), &20_000.into()));
        let subtitles = std::fs::read_to_string(out.join("annotations.srt")).expect("subtitles");
        let end_ms = lines[1]["end_ms"].as_u64().expect("a time");
        let first = format!("1\n00:00:00,000 --> 00:00:{:02},{:03}\n", end_ms / 1000, end_ms % 1000);
        assert!(subtitles.starts_with(&first), "{subtitles}");
        assert_eq!(subtitles.matches(" --> ").count(), lines.len() - 1);
        let frame = std::fs::read(out.join("frame_000079.png")).expect("the last frame");
        assert!(frame.starts_with(b"\x89PNG"));
        assert!(!out.join("frame_000080.png").exists());
        let again = asked(&out, &["--duration", "20"]).expect_err("it is there already");
        assert!(again.to_string().contains("is not empty"), "{again}");
    }

    #[test]
    fn what_cannot_be_written_is_told_before_anything_is() {
        let folder = tempfile::tempdir().expect("a folder");
        for (flags, told) in [
            (["--duration", "1"], "--duration is 1, must be 2 to 86400 seconds"),
            (["--duration", "nan"], "--duration is NaN"),
            (["--fps", "0"], "--fps is 0, must be 0.1 to 60"),
            (["--size", "8"], "--size"),
            (["--clips", "3"], "--clips"),
        ] {
            let out = folder.path().join("none");
            let error = asked(&out, &flags).expect_err(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!out.exists());
        }
        let much = asked(folder.path(), &["--duration", "80000"]).expect_err("too many pictures");
        assert!(much.to_string().contains("320000 pictures, at most 100000"), "{much}");
    }
}
