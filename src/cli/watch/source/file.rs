//! A file as a stream: a video frame by frame as it is decoded, an animation or a picture whole, since their formats
//! tell neither times nor number before.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::anyhow;

use super::Reading;
use super::feed::Filler;
use super::pace::Verdict;
use crate::cli::read_media;
use crate::engine::{MediaFrame, PixelOrder};
use crate::input::{Footage, Frame, InputError, shrunk};

/// Frames that may stand before their turn; a stream of H.264 has at most 16 such.
const AHEAD_MAX: usize = 64;

/// Why a file was not read to its end.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another decoder may know what to do with it, and nothing of it has been shown.
    Foreign(anyhow::Error),
    /// Nobody does, or part of it has been shown already.
    Broken(anyhow::Error),
}

/// Reads all of it.
pub(super) fn read(file: &Path, filler: &Filler, reading: &Reading) -> Result<(), Fault> {
    let limits = &reading.limits;
    let size = std::fs::metadata(file).map_err(|error| Fault::Broken(error.into()))?.len();
    if size > limits.bytes_max as u64 {
        let max = limits.bytes_max;
        return Err(Fault::Foreign(anyhow!("has {size} bytes, at most {max} are held (uploads.bytes_max)")));
    }
    let bytes = read_media(file, limits.bytes_max as u64).map_err(Fault::Broken)?;
    let mut go_on = |_| filler.is_wanted();
    let footage = match Footage::open(&bytes, limits, &mut go_on) {
        Ok(footage) => footage,
        Err(InputError::GivenUp) => return Ok(()),
        Err(error) => return Err(Fault::Foreign(error.into())),
    };
    let wanted = wanted(footage.times(), reading);
    let mut turn = Turn { filler, side_max: reading.side_max, wanted: &wanted, given: 0, ahead: BTreeMap::new() };
    let decoded = footage.decode(&wanted, &mut go_on, &mut |at, frame| turn.take(at, frame));
    let shown = turn.given > 0 || !turn.ahead.is_empty();
    turn.rest();
    match decoded {
        Ok(_) | Err(InputError::GivenUp) => Ok(()),
        Err(error) if shown => Err(Fault::Broken(error.into())),
        Err(error) => Err(Fault::Foreign(error.into())),
    }
}

/// The numbers of the frames that are looked at.
fn wanted(times: &[u64], reading: &Reading) -> Vec<usize> {
    let mut ticks = reading.ticks();
    let judged = times.iter().enumerate().map(|(at, &time)| (at, ticks.judge(time)));
    let within = judged.take_while(|(_, verdict)| *verdict != Verdict::End);
    within.filter(|(_, verdict)| *verdict == Verdict::Take).map(|(at, _)| at).collect()
}

/// Brings frames, which come in the order in which they are decoded, into that in which they are shown.
struct Turn<'a> {
    filler: &'a Filler,
    side_max: u32,
    wanted: &'a [usize],
    /// How many of `wanted` have been given on.
    given: usize,
    ahead: BTreeMap<usize, MediaFrame>,
}

impl Turn<'_> {
    fn take(&mut self, at: usize, frame: &Frame) -> Result<(), InputError> {
        self.ahead.insert(at, raw(frame, self.side_max));
        if self.ahead.len() > AHEAD_MAX {
            let reason = format!("over {AHEAD_MAX} frames are stored before one that is shown before them");
            return Err(InputError::Undecodable { format: "MP4", reason });
        }
        while let Some(next) = self.wanted.get(self.given)
            && let Some(frame) = self.ahead.remove(next)
        {
            self.given += 1;
            if !self.filler.push(frame) {
                return Err(InputError::GivenUp);
            }
        }
        Ok(())
    }

    /// Gives on what is left although a frame before it was not decoded.
    fn rest(&mut self) {
        for frame in std::mem::take(&mut self.ahead).into_values() {
            if !self.filler.push(frame) {
                break;
            }
        }
    }
}

fn raw(frame: &Frame, side_max: u32) -> MediaFrame {
    let Frame { width, height, rgb, pts_ms } = shrunk(frame, side_max).into_owned();
    MediaFrame::Raw { width, height, order: PixelOrder::Rgb, pixels: rgb, pts_ms }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::feed;
    use super::*;
    use crate::input::MediaLimits;
    use crate::watch::Drops;

    fn reading(fps: f64) -> Reading {
        let limits = MediaLimits { bytes_max: 1 << 24, pixels_max: 1 << 24, frames_max: 64, decode_bytes_max: 1 << 28 };
        let stall = Duration::from_secs(5);
        Reading { fps, side_max: 20, realtime: false, limit_ms: None, stall, drops: None, limits, picture_bytes_max: 1 }
    }

    /// The times and longer sides of all frames of a file, and how it ended.
    async fn read_all(name: &str, reading: Reading) -> (Vec<(u64, u32)>, Result<(), Fault>) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/media").join(name);
        let (filler, mut feed) = feed::feed(Drops::Wait, &reading);
        let thread = std::thread::spawn(move || {
            let outcome = read(&file, &filler, &reading);
            filler.end(Ok(()));
            outcome
        });
        let mut frames = vec![];
        while let Some(frame) = feed.next().await.expect("no fault") {
            let MediaFrame::Raw { width, height, pts_ms, .. } = frame else { panic!("a raw frame") };
            frames.push((pts_ms, width.max(height)));
        }
        (frames, thread.join().expect("it ends"))
    }

    #[tokio::test]
    async fn frames_come_in_the_order_in_which_they_are_shown_and_small() {
        for name in ["plain.mp4", "reordered.mp4", "fragmented.mp4", "rotated.mp4", "animated.gif", "colour.png"] {
            let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/media").join(name));
            let bytes = bytes.expect("a file");
            let limits = reading(1000.0).limits;
            let footage = Footage::open(&bytes, &limits, &mut |_| true).expect("sound");
            let (frames, outcome) = read_all(name, reading(1000.0)).await;
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
            assert_eq!(frames.iter().map(|frame| frame.0).collect::<Vec<_>>(), footage.times(), "{name}");
            assert!(frames.iter().all(|frame| frame.1 <= 20), "{name}: {frames:?}");
            let (fewer, _) = read_all(name, reading(2.0)).await;
            assert!(fewer.len() <= frames.len() && fewer[0] == frames[0], "{name}: {fewer:?}");
        }
    }

    #[tokio::test]
    async fn frames_that_are_decoded_early_wait_for_their_turn() {
        let given = |order: Vec<usize>| async move {
            let (filler, mut feed) = feed::feed(Drops::Wait, &reading(4.0));
            let thread = std::thread::spawn(move || {
                let wanted: Vec<usize> = (0..100).collect();
                let mut turn =
                    Turn { filler: &filler, side_max: 20, wanted: &wanted, given: 0, ahead: BTreeMap::new() };
                let frame = |at: usize| Frame { width: 1, height: 1, rgb: vec![0; 3], pts_ms: at as u64 };
                let outcome = order.into_iter().try_for_each(|at| turn.take(at, &frame(at)));
                turn.rest();
                filler.end(Ok(()));
                outcome
            });
            let mut times = vec![];
            while let Some(frame) = feed.next().await.expect("no fault") {
                times.push(frame.pts_ms());
            }
            (times, thread.join().expect("it ends"))
        };
        let (times, outcome) = given(vec![0, 3, 1, 2, 6, 4, 8]).await;
        assert_eq!((times, outcome), (vec![0, 1, 2, 3, 4, 6, 8], Ok(())));
        let (_, outcome) = given((1..100).collect()).await;
        assert!(outcome.expect_err("too many").to_string().contains("over 64 frames"));
    }

    #[tokio::test]
    async fn what_cannot_be_read_here_may_be_read_elsewhere() {
        for name in ["xhevc.mp4", "xtext.jpg", "xempty.jpg", "xcut_colour.png"] {
            let (frames, outcome) = read_all(name, reading(4.0)).await;
            assert!(frames.is_empty() && matches!(outcome, Err(Fault::Foreign(_))), "{name}: {outcome:?}");
        }
        let mut small = reading(4.0);
        small.limits.bytes_max = 10;
        let (_, outcome) = read_all("plain.mp4", small).await;
        let Err(Fault::Foreign(error)) = outcome else { panic!("too large: {outcome:?}") };
        assert!(error.to_string().contains("at most 10 are held (uploads.bytes_max)"), "{error}");
    }
}
