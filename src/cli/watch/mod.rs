//! `vljepa watch`: questions about a stream of frames, answered where the meaning changes. `asked.rs` is what is asked,
//! `source/` where frames come from, `run.rs` the way of frames and events through one session, `ward.rs` the cut of a
//! recording that has been seen whole, `show/` what is shown and written. The session itself is in `cli/client/watch.rs`,
//! be it in this process or on a server.

mod asked;
mod run;
mod show;
mod source;
mod ward;

use std::time::Duration;

use anyhow::ensure;

use self::asked::{Asked, Plan};
use self::run::{Ending, Interrupt};
use self::show::{OutputArgs, Shown};
use self::source::{FPS, Reading, Source};
use super::client::SourceArgs;
use super::job::milliseconds;
use super::runtime;
use crate::settings::Settings;
use crate::watch::{Drops, Event};

/// What a shell shows for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;
/// Frames a second that the bundled model was trained on.
const FPS_DEFAULT: f64 = 4.0;
/// Bounds of a frame's longest side, pixels.
const SIDE: std::ops::RangeInclusive<u32> = 16..=4096;

#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// A video (MP4, MOV, M4V with H.264), an animation (GIF, WebP, PNG), a picture or a folder of pictures; where ffmpeg
    /// is installed also any other video, rtsp:// and http(s):// addresses, webcam and /dev/video*.
    source: String,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    outputs: OutputArgs,
    #[command(flatten)]
    pub(super) place: SourceArgs,
}

/// The options that say how a source is read.
#[derive(Debug, clap::Args)]
struct ReadingArgs {
    /// Frames a second that are looked at, and the pace of a folder of pictures. The bundled model knows 4.
    #[arg(long, value_name = "N", default_value_t = FPS_DEFAULT)]
    fps: f64,
    /// What becomes of frames that come faster than they are understood; by default a recording waits, and of a live
    /// source and with --realtime the oldest are dropped.
    #[arg(long, value_enum)]
    drop: Option<Dropping>,
    /// Play a recording at its own pace instead of as fast as it is understood.
    #[arg(long)]
    realtime: bool,
    /// Look at no more than this much of the stream, such as 30s or 10m.
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    limit: Option<u64>,
    /// Scale frames down to this many pixels on their longer side.
    #[arg(long, value_name = "PIXELS", default_value_t = 640)]
    side: u32,
    /// Give up a source that ffmpeg reads when it brings no frame for this long.
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "30s")]
    stall: u64,
}

/// What becomes of frames for which there is no room.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Dropping {
    /// None is dropped; the source waits.
    Wait,
    /// The oldest that waits is dropped.
    Oldest,
    /// All that wait are dropped when a newer one comes.
    Latest,
}

impl ReadingArgs {
    fn reading(&self, settings: &Settings) -> anyhow::Result<Reading> {
        let (least, most) = FPS.into_inner();
        ensure!(FPS.contains(&self.fps), "--fps is {}, must be {least} to {most}", self.fps);
        let (least, most) = SIDE.into_inner();
        ensure!(SIDE.contains(&self.side), "--side is {}, must be {least} to {most} pixels", self.side);
        Ok(Reading {
            fps: self.fps,
            side_max: self.side,
            realtime: self.realtime,
            limit_ms: self.limit,
            stall: Duration::from_millis(self.stall),
            drops: self.drop.map(|drop| match drop {
                Dropping::Wait => Drops::Wait,
                Dropping::Oldest => Drops::Oldest,
                Dropping::Latest => Drops::LatestOnly,
            }),
            limits: Reading::limits_of(settings),
            picture_bytes_max: settings.media.bytes_max,
        })
    }
}

impl Watch {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        let source = Source::named(&self.source)?;
        let (reading, live) = (self.reading.reading(settings)?, source.is_live());
        let Plan { spec, cut } = self.asked.plan(source.drops(&reading), settings)?;
        self.outputs.check(&self.source)?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(async {
            let sessions = self.place.sessions(settings)?;
            let mut interrupt = Interrupt::listen()?;
            let questions: Vec<String> = spec.queries.iter().map(|query| query.question.clone()).collect();
            let mut shown = Shown::open(&self.outputs, &questions, &self.source)?;
            let feed = source.open(reading)?;
            let want_embeddings = self.outputs.embeddings || cut.is_some();
            let ending = match cut {
                None => {
                    let mut tell = |event: &Event, unsent| shown.tell(event, unsent);
                    run::watch(feed, &sessions, spec, want_embeddings, &mut interrupt, &mut tell).await
                }
                Some(cut) => ward::watch(feed, &sessions, spec, cut, &mut interrupt, &mut shown).await,
            };
            // Whatever happened, what has been told is completed.
            let ending = ending.unwrap_or_else(|fault| Ending { finished: None, fault: Some(fault), unsent: 0 });
            let completed = shown.end(ending.finished.as_ref(), ending.unsent);
            let error = ending.finished.and_then(|finished| finished.error).map(anyhow::Error::from);
            match ending.fault.or(error) {
                Some(fault) => Err(fault),
                None => completed.map(|()| interrupt.happened()),
            }
        });
        // A thread that reads a source is not waited for: it may hang in somebody else's code.
        runtime.shutdown_background();
        Ok(match outcome? {
            // That is how a live source is left.
            true if !live => INTERRUPTED,
            _ => 0,
        })
    }
}
