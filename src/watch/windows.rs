//! Which windows of a stream are complete, and which of their frames are looked at: a rule about times and numbers alone,
//! without a clock. A recording that is cut by [`input::Windows`](crate::input::Windows) is cut at the same places.
//!
//! A window `[start, start + window_ms)` begins every `stride_ms` from the first frame's time on. It is complete when a
//! frame at or after its end has come; where the stream ends or is flushed, the last ones count by the rule for
//! recordings. Windows without a frame are nothing, and are passed over in one step however many they are.

use std::collections::VecDeque;

use super::event::Span;
use crate::engine::EngineError;
use crate::input::{self, Sampling, end_ms};

/// What a window shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window<P> {
    /// Its frames and its time.
    pub span: Span,
    /// The pictures that are looked at, in order; one at least.
    pub pictures: Vec<P>,
}

/// How many frames of a window are looked at, and how many are kept for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// This many; none: all of them, as far as the model takes them.
    pub frames: Option<usize>,
    /// The most that the model takes.
    pub frames_max: usize,
    /// The most that are kept, at least 2. Of more, the one goes whose neighbours are closest in time.
    pub kept_max: usize,
}

#[derive(Debug)]
struct Kept<P> {
    seq: u64,
    ms: u64,
    picture: P,
}

/// The windows of one stream, whose pictures are `P`.
#[derive(Debug)]
pub struct Windows<P> {
    rule: input::Windows,
    choice: Choice,
    /// Frames that a window to come may show, by time.
    kept: VecDeque<Kept<P>>,
    /// Times of the first frame, of the last one and of the one before that.
    first_ms: Option<u64>,
    last_ms: u64,
    before_ms: u64,
    /// Beginning of the next window; wider than times are, for it may lie behind all of them.
    start: u128,
    /// No window has been given yet.
    none_yet: bool,
}

impl<P: Clone> Windows<P> {
    /// Of a stream without frames; both times of `rule` are 1 at least.
    pub fn new(rule: input::Windows, choice: Choice) -> Self {
        let (kept, first_ms) = (VecDeque::new(), None);
        Self { rule, choice, kept, first_ms, last_ms: 0, before_ms: 0, start: 0, none_yet: true }
    }

    /// Whether a frame of this time may come now.
    pub fn check(&self, ms: u64) -> Result<(), EngineError> {
        match self.first_ms.is_some() && ms < self.last_ms {
            true => Err(EngineError::Invalid {
                field: "frame.pts_ms".into(),
                problem: format!("is {ms}, must be at least {}, the time of the frame before", self.last_ms),
            }),
            false => Ok(()),
        }
    }

    /// Takes the next frame, of a time that [`check`](Self::check) allows.
    pub fn push(&mut self, seq: u64, ms: u64, picture: P) {
        match self.first_ms {
            None => (self.first_ms, self.start, self.before_ms) = (Some(ms), ms.into(), ms),
            Some(_) => {
                assert!(ms >= self.last_ms, "time falls from {} to {ms}", self.last_ms);
                self.before_ms = self.last_ms;
            }
        }
        self.last_ms = ms;
        self.kept.push_back(Kept { seq, ms, picture });
        if self.kept.len() > self.choice.kept_max.max(2) {
            self.thin();
        }
    }

    /// How long the stream is, milliseconds.
    pub fn duration_ms(&self) -> u64 {
        self.first_ms.map_or(0, |first| self.last_ms - first)
    }

    /// The next window that is over.
    pub fn complete(&mut self) -> Option<Window<P>> {
        loop {
            self.settle()?;
            if self.stop() > u128::from(self.last_ms) {
                return None;
            }
            let window = self.take(self.last_ms);
            if window.is_some() {
                return window;
            }
        }
    }

    /// The next window that counts if the stream ends here; it does not come again if the stream goes on.
    pub fn rest(&mut self) -> Option<Window<P>> {
        loop {
            self.settle()?;
            let first = self.first_ms?;
            let end = end_ms(self.before_ms, self.last_ms);
            let start = u64::try_from(self.start).ok()? - first;
            if !self.rule.counts(start, end - first, self.none_yet) {
                return None;
            }
            let window = self.take(end);
            if window.is_some() {
                return window;
            }
        }
    }

    fn stop(&self) -> u128 {
        self.start + u128::from(self.rule.window_ms)
    }

    /// Goes on to the next window in which a frame begins, and lets go of the frames before it. None where no frame is left.
    fn settle(&mut self) -> Option<()> {
        loop {
            while self.kept.front().is_some_and(|kept| u128::from(kept.ms) < self.start) {
                self.kept.pop_front();
            }
            let (ms, first) = (u128::from(self.kept.front()?.ms), u128::from(self.first_ms?));
            if ms < self.stop() {
                return Some(());
            }
            // The earliest window that is not over when that frame is shown.
            let over = (ms - first - u128::from(self.rule.window_ms)) / u128::from(self.rule.stride_ms) + 1;
            self.start = first + over * u128::from(self.rule.stride_ms);
        }
    }

    /// The window that is next, ended at `end` if it is not before, and steps to the one after it. None if none of its
    /// frames is shown within it.
    fn take(&mut self, end: u64) -> Option<Window<P>> {
        let start = u64::try_from(self.start).ok()?;
        let range = [start, u64::try_from(self.stop()).map_or(end, |stop| stop.min(end))];
        self.start += u128::from(self.rule.stride_ms);
        let Choice { frames, frames_max, .. } = self.choice;
        let sampling = Sampling { frames, ..Sampling::default() }.within(range);
        let inside = self.kept.partition_point(|kept| sampling.end_ms.is_none_or(|end| kept.ms < end));
        let seq = [self.kept.front()?.seq, self.kept.get(inside.checked_sub(1)?)?.seq];
        let times: Vec<u64> = self.kept.iter().take(inside).map(|kept| kept.ms).collect();
        let chosen = sampling.indices(&times, (inside > frames_max).then_some(frames_max), frames_max).ok()?;
        let pictures = chosen.into_iter().map(|at| self.kept[at].picture.clone()).collect();
        self.none_yet = false;
        Some(Window { span: Span { seq, ms: range }, pictures })
    }

    /// Lets one frame go: neither the first nor the last, but one without which the widest gap is the least.
    fn thin(&mut self) {
        let gap = |at: usize| self.kept[at + 1].ms - self.kept[at - 1].ms;
        let closest = (1..self.kept.len() - 1).min_by_key(|&at| gap(at));
        if let Some(at) = closest {
            self.kept.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
