//! Where frames come from: files, folders, and through an installed ffmpeg everything else. A thread reads them and the
//! `feed` is the bounded place where they wait; `pace` says which of them are looked at, and when.

mod directory;
mod feed;
mod ffmpeg;
mod file;
mod natural;
mod pace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

pub(super) use feed::Feed;
use feed::Filler;
use ffmpeg::Input;
pub(super) use pace::FPS;
use pace::Ticks;

use crate::input::MediaLimits;
use crate::settings::Settings;
use crate::watch::Drops;

/// Schemes that a player of recordings has too: what is behind them waits to be read.
const RECORDED: [&str; 2] = ["http", "https"];
/// Schemes of what goes on whether it is read or not.
const LIVE: [&str; 8] = ["rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp", "rtp"];

/// What a person calls a camera that has no other name.
const WEBCAM: &str = "webcam";

/// How a source is read.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// Frames a second that are looked at.
    pub fps: f64,
    /// The longest side of a frame, pixels; larger ones are scaled down. Frames of a folder stay as they are.
    pub side_max: u32,
    /// Frames come when it is their time, as they would from a camera.
    pub realtime: bool,
    /// How much of it is looked at, milliseconds from its first frame on.
    pub limit_ms: Option<u64>,
    /// Time without a frame after which a source that ffmpeg reads is given up.
    pub stall: Duration,
    /// What becomes of frames for which there is no room; as the source is, if nobody says.
    pub drops: Option<Drops>,
    /// What a file may cost.
    pub limits: MediaLimits,
    /// What one picture of a folder may have, bytes.
    pub picture_bytes_max: usize,
}

impl Reading {
    /// A clock that says which frames are looked at.
    fn ticks(&self) -> Ticks {
        Ticks::new(self.fps, self.limit_ms)
    }

    /// The limits that hold for files: they are as large as an upload may be, and no more is decoded at once than for
    /// any other call.
    pub fn limits_of(settings: &Settings) -> MediaLimits {
        let media = &settings.media;
        MediaLimits {
            bytes_max: usize::try_from(settings.uploads.bytes_max).unwrap_or(usize::MAX),
            pixels_max: media.pixels_max,
            frames_max: media.frames_max,
            decode_bytes_max: media.decode_bytes_max,
        }
    }
}

/// What is to be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Directory(PathBuf),
    Camera(String),
    Url(String),
}

impl Source {
    /// Fails on what is not there, and on what could be taken for something else than a source.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        ensure!(!name.is_empty(), "SOURCE is empty");
        // Another program is given it.
        ensure!(!name.starts_with('-'), "SOURCE is {name:?}, must not begin with -; write ./{name} for a file");
        ensure!(!name.contains('\0'), "SOURCE has a NUL byte");
        if let Some((scheme, rest)) = name.split_once("://") {
            let known = RECORDED.iter().chain(&LIVE).any(|known| scheme.eq_ignore_ascii_case(known));
            let schemes = || [&RECORDED[..], &LIVE].concat().join(", ");
            ensure!(known, "SOURCE has scheme {scheme:?}, must be one of {}", schemes());
            ensure!(!rest.is_empty(), "SOURCE is {name:?}, names no host");
            return Ok(Self::Url(name.into()));
        }
        let path = Path::new(name);
        if name.starts_with("/dev/video") || (name == WEBCAM && !path.exists()) {
            return Ok(Self::Camera(name.into()));
        }
        let about = std::fs::metadata(path).with_context(|| name.to_owned())?;
        Ok(if about.is_dir() { Self::Directory(path.into()) } else { Self::File(path.into()) })
    }

    /// Whether it goes on although nobody reads it.
    pub fn is_live(&self) -> bool {
        match self {
            Self::File(_) | Self::Directory(_) => false,
            Self::Camera(_) => true,
            Self::Url(url) => !url
                .split("://")
                .next()
                .is_some_and(|scheme| RECORDED.iter().any(|recorded| scheme.eq_ignore_ascii_case(recorded))),
        }
    }

    /// What becomes of its frames for which there is no room.
    pub fn drops(&self, reading: &Reading) -> Drops {
        reading.drops.unwrap_or(if self.is_live() || reading.realtime { Drops::Oldest } else { Drops::Wait })
    }

    /// Begins to read it.
    pub fn open(self, reading: Reading) -> anyhow::Result<Feed> {
        let drops = self.drops(&reading);
        let (filler, feed) = feed::feed(drops, &reading);
        std::thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                let outcome = self.read(&filler, &reading);
                filler.end(outcome);
            })
            .context("no thread to read the source")?;
        Ok(feed)
    }

    fn read(&self, filler: &Filler, reading: &Reading) -> anyhow::Result<()> {
        match self {
            Self::Directory(folder) => directory::read(folder, filler, reading),
            Self::Camera(name) => ffmpeg::read(&Input::Camera(name.clone()), filler, reading),
            Self::Url(url) => ffmpeg::read(&Input::Url(url.clone()), filler, reading),
            Self::File(file) => match file::read(file, filler, reading) {
                Ok(()) => Ok(()),
                // What another program may know, and what is too large to be held.
                Err(file::Fault::Foreign(problem)) => {
                    let outcome = ffmpeg::read(&Input::File(file.clone()), filler, reading);
                    outcome.with_context(|| format!("{}: {problem}", file.display()))
                }
                Err(file::Fault::Broken(problem)) => bail!("{}: {problem}", file.display()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().to_str().expect("a plain name");
        assert_eq!(Source::named(name).expect("a folder"), Source::Directory(name.into()));
        assert_eq!(Source::named("/dev/video7").expect("a camera"), Source::Camera("/dev/video7".into()));
        assert_eq!(Source::named("webcam").expect("a camera"), Source::Camera("webcam".into()));
        for (url, live) in [("rtsp://a/b", true), ("RTSP://a", true), ("http://a/b.mp4", false), ("https://a", false)] {
            assert_eq!(Source::named(url).expect("a URL").is_live(), live, "{url}");
        }
        for (wrong, why) in [
            ("", "empty"),
            ("-i", "must not begin with -"),
            ("--help", "must not begin with -"),
            ("file:///etc/passwd", "scheme \"file\""),
            ("concat://a", "scheme \"concat\""),
            ("http://", "names no host"),
            ("a\0b", "NUL"),
            ("/nowhere/a.mp4", "/nowhere/a.mp4"),
        ] {
            let told = format!("{:#}", Source::named(wrong).expect_err("wrong"));
            assert!(told.contains(why), "{wrong:?}: {told}");
        }
    }
}
