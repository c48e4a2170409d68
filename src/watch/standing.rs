//! One standing query: when its embeddings become words, and what the words are about. A plain rule that is given times.

use std::collections::VecDeque;

use super::event::{Span, Trigger};
use super::spec::Decode;
use crate::embedding::Embedding;
use crate::segment::{self, Policy, Segmenter};

/// Windows whose middles are remembered, for the beginning of a segment that is found later.
const MIDDLES_MAX: usize = 1024;

/// A question that is asked of every window.
#[derive(Debug)]
pub struct Standing {
    decode: Decode,
    /// Whether it is ever put into words.
    speaks: bool,
    segmenter: Segmenter,
    /// Why its first window becomes words.
    first: Trigger,
    /// When the clock of [`Decode::Uniform`] strikes next.
    due_ms: Option<u64>,
    /// Words that should have been made and could not be.
    owed: Option<Trigger>,
    /// Middle and first frame of the latest windows.
    middles: VecDeque<[u64; 2]>,
    /// Middle of the window that began the running segment.
    began_ms: Option<u64>,
    /// Beginning and first frame of the running segment.
    segment: [u64; 2],
    /// The latest window.
    latest: Option<Latest>,
}

/// The latest window, as one query found it.
#[derive(Debug, Clone)]
pub struct Latest {
    /// The answer embedding.
    pub embedding: Embedding,
    /// What words are about: from the beginning of the running segment to the end of the window. A segment begins in the
    /// middle of the window that first shows it, for that is when a window shows more of it than of what was before; the
    /// first one where its window does.
    pub segment: Span,
    /// Cosine distance to the mean of the running segment, 0 to 2.
    pub drift: f64,
}

/// What is decided about an embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decided {
    /// Cosine distance to the mean of the running segment, 0 to 2.
    pub drift: f64,
    /// Why it becomes words, if it does.
    pub trigger: Option<Trigger>,
    /// Why it does not although it should.
    pub held: Option<segment::Held>,
}

impl Standing {
    /// One that has not been asked yet; `changed` where there was another question in its place, `speaks` where it is ever
    /// put into words.
    pub fn new(decode: Decode, speaks: bool, changed: bool) -> Self {
        // Where words have another clock the segmenter only measures: no cosine distance is above 2.
        let measure =
            || Policy { threshold: 2.0, calm: None, smoothing: 0.0, silence_max_ms: None, ..Policy::default() };
        let policy = if let Decode::Drift(policy) = decode { policy } else { measure() };
        let first = if changed { Trigger::QueryChanged } else { Trigger::Rule(segment::Trigger::First) };
        Self {
            decode,
            speaks,
            segmenter: Segmenter::new(policy),
            first,
            due_ms: None,
            owed: None,
            middles: VecDeque::new(),
            began_ms: None,
            segment: [0; 2],
            latest: None,
        }
    }

    /// Takes the embedding of the next window.
    pub fn sees(&mut self, span: Span, embedding: Embedding) -> Decided {
        let ([start, end], [first_seq, last_seq]) = (span.ms, span.seq);
        let middle = start.midpoint(end);
        let decision = self.segmenter.push(middle, &embedding.values);
        self.middles.push_back([middle, first_seq]);
        if self.middles.len() > MIDDLES_MAX {
            self.middles.pop_front();
        }
        let (by_rule, begins_ms) = match self.decode {
            Decode::Drift(_) => (decision.trigger.map(Trigger::Rule), decision.segment_start_ms),
            Decode::Uniform { every_ms } => (self.strikes(start, every_ms), middle),
            Decode::Never => (None, middle),
        };
        if self.began_ms.replace(begins_ms) != Some(begins_ms) {
            let known = self.middles.partition_point(|[middle, _]| *middle < begins_ms);
            let shown = if self.latest.is_none() { start } else { begins_ms };
            self.segment = [shown, self.middles.get(known).map_or(first_seq, |[_, seq]| *seq)];
        }
        let by_rule = by_rule.map(|trigger| match trigger {
            Trigger::Rule(segment::Trigger::First) => self.first,
            other => other,
        });
        let trigger = by_rule.or(self.owed.take()).filter(|_| self.speaks);
        if trigger.is_some() && decision.trigger.is_none() {
            self.segmenter.spoken(middle, &embedding.values);
        }
        let segment = Span { seq: [self.segment[1], last_seq], ms: [self.segment[0], end] };
        self.latest = Some(Latest { embedding, segment, drift: decision.drift });
        let held = decision.held.filter(|_| matches!(self.decode, Decode::Drift(_)));
        Decided { drift: decision.drift, trigger, held }
    }

    /// Whether the clock strikes in a window that begins at `start`: at the first one, and then at the first one at or
    /// after every full time.
    fn strikes(&mut self, start: u64, every_ms: u64) -> Option<Trigger> {
        let every_ms = every_ms.max(1);
        let Some(due) = self.due_ms else {
            self.due_ms = Some(start.saturating_add(every_ms));
            return Some(Trigger::Rule(segment::Trigger::First));
        };
        let late = start.checked_sub(due)?;
        self.due_ms = Some(due.saturating_add((late / every_ms + 1).saturating_mul(every_ms)));
        Some(Trigger::Uniform)
    }

    /// Its latest window, to be put into words because somebody asks for it.
    pub fn flushed(&mut self) -> Option<&Latest> {
        let latest = self.latest.as_ref().filter(|_| self.speaks)?;
        let at_ms = self.middles.back().map_or(0, |[middle, _]| *middle);
        self.segmenter.spoken(at_ms, &latest.embedding.values);
        self.owed = None;
        Some(latest)
    }

    /// Its latest window.
    pub fn latest(&self) -> Option<&Latest> {
        self.latest.as_ref()
    }

    /// The words for its latest window could not be made: those of the next one are owed.
    pub fn owes(&mut self, trigger: Trigger) {
        self.owed = Some(trigger);
    }
}

#[cfg(test)]
mod tests;
