//! The causal rule of live sessions: which embedding of an endless stream is worth words, decided when it comes.
//!
//! Pure: it is given embeddings with their times and knows neither clock nor model. However the stream is chunked, the
//! decisions are the same. In f64, so that every machine decides alike.

use std::collections::VecDeque;

use super::policy::{Policy, Reference};
use super::{cosine_distance, widened};

/// Why an embedding becomes words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// It is the first one.
    First,
    /// The meaning has changed.
    Drift,
    /// There have been no words for too long.
    MaxSilence,
}

/// Why one does not although it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Held {
    /// The stream is still moving.
    Unsettled,
    /// Too little time has passed.
    Gap,
    /// The minute's decodes are used up.
    Budget,
}

/// What is decided about one embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Distance to the reference, before the embedding joined it; 0 for the first.
    pub drift: f64,
    /// Why it becomes words, if it does.
    pub trigger: Option<Trigger>,
    /// Why it does not although it should.
    pub held: Option<Held>,
    /// When the running segment began: of a change that is put into words, where it was first seen. Words for silence
    /// alone begin none.
    pub segment_start_ms: u64,
}

/// The rule, on its way through one stream. Its memory does not grow with the stream.
#[derive(Debug, Clone)]
pub struct Segmenter {
    policy: Policy,
    now_ms: u64,
    running: Option<Running>,
    /// Times of the latest decodes, at most `per_minute_max` of them; none where the policy has no such bound.
    recent_ms: VecDeque<u64>,
}

/// What is known once there have been words.
#[derive(Debug, Clone)]
struct Running {
    reference: Vec<f64>,
    /// How many embeddings the reference is the mean of.
    joined: u64,
    smoothed: Vec<f64>,
    previous: Vec<f64>,
    start_ms: u64,
    spoken_ms: u64,
    /// Since when the stream has been far from the reference.
    changed_ms: Option<u64>,
}

const MINUTE_MS: u64 = 60_000;

impl Segmenter {
    /// One that has seen nothing yet. Whether the policy's figures can be, [`Policy::check`] says.
    pub fn new(policy: Policy) -> Self {
        Self { policy, now_ms: 0, running: None, recent_ms: VecDeque::new() }
    }

    /// Takes the next embedding, which stands for the time `at_ms`; a time that falls counts as the latest one. An
    /// embedding with a value that is no finite number is as if it had not come.
    ///
    /// # Panics
    /// If its length differs from the first one's.
    pub fn push(&mut self, at_ms: u64, embedding: &[f32]) -> Decision {
        self.now_ms = self.now_ms.max(at_ms);
        let at_ms = self.now_ms;
        let Some(embedding) = widened(embedding) else {
            let segment_start_ms = self.running.as_ref().map_or(at_ms, |running| running.start_ms);
            return Decision { drift: 0.0, trigger: None, held: None, segment_start_ms };
        };
        let Some(running) = &mut self.running else {
            self.speak(at_ms, at_ms, embedding);
            return Decision { drift: 0.0, trigger: Some(Trigger::First), held: None, segment_start_ms: at_ms };
        };
        let Policy { threshold, calm, smoothing, .. } = self.policy;
        let (drift, step) = running.measure(smoothing, &embedding);
        let far = drift > threshold;
        let changed_ms = far.then(|| running.changed_ms.unwrap_or(at_ms));
        running.changed_ms = changed_ms;
        let settled = |since: u64| calm.is_none_or(|c| step < c) || at_ms - since >= self.policy.unsettled_max_ms;
        let wanted = match changed_ms {
            Some(since) if settled(since) => Some(Trigger::Drift),
            _ => self.silent(at_ms).then_some(Trigger::MaxSilence),
        };
        let held = match wanted {
            Some(_) => self.barred(at_ms),
            None => far.then_some(Held::Unsettled),
        };
        let trigger = wanted.filter(|_| held.is_none());
        self.take(at_ms, embedding, trigger, far);
        let segment_start_ms = self.running.as_ref().map_or(at_ms, |running| running.start_ms);
        Decision { drift, trigger, held, segment_start_ms }
    }

    /// Notes that the running segment was put into words at `at_ms` for another reason (a flush, a changed query), with
    /// `embedding` as the new reference. It counts for the gap, the silence and the minute as any decode does; a segment
    /// begins. Without a finite embedding only the time is noted.
    ///
    /// # Panics
    /// If its length differs from the first one's.
    pub fn spoken(&mut self, at_ms: u64, embedding: &[f32]) {
        self.now_ms = self.now_ms.max(at_ms);
        match (widened(embedding), &self.running) {
            (Some(embedding), _) => self.speak(self.now_ms, self.now_ms, embedding),
            (None, Some(_)) => self.note(self.now_ms),
            (None, None) => {}
        }
    }

    /// Whether there have been no words for too long.
    fn silent(&self, at_ms: u64) -> bool {
        let since = self.running.as_ref().map_or(0, |running| at_ms - running.spoken_ms);
        self.policy.silence_max_ms.is_some_and(|most| since >= most)
    }

    /// What forbids words at this time, whatever there is to say.
    fn barred(&mut self, at_ms: u64) -> Option<Held> {
        let since = self.running.as_ref().map_or(u64::MAX, |running| at_ms - running.spoken_ms);
        while self.recent_ms.front().is_some_and(|&spoken| at_ms - spoken >= MINUTE_MS) {
            self.recent_ms.pop_front();
        }
        let used = |most: u32| self.recent_ms.len() >= most as usize;
        match self.policy.per_minute_max {
            _ if since < self.policy.gap_min_ms => Some(Held::Gap),
            Some(most) if used(most) => Some(Held::Budget),
            _ => None,
        }
    }

    /// What becomes of the embedding and of the reference.
    fn take(&mut self, at_ms: u64, embedding: Vec<f64>, trigger: Option<Trigger>, far: bool) {
        let kind = self.policy.reference;
        let Some(running) = &mut self.running else { return };
        match trigger {
            Some(Trigger::MaxSilence) if kind == Reference::Segment && !far => {
                running.join();
                running.previous = embedding;
                self.note(at_ms);
            }
            Some(_) => {
                let start_ms = running.changed_ms.unwrap_or(running.start_ms);
                self.speak(at_ms, start_ms, embedding);
            }
            None => {
                let joins = match kind {
                    Reference::Last => false,
                    Reference::Mean => true,
                    Reference::Segment => !far,
                };
                if joins {
                    running.join();
                }
                running.previous = embedding;
            }
        }
    }

    /// Words at `at_ms` for a segment that began at `start_ms`: the embedding becomes the reference.
    fn speak(&mut self, at_ms: u64, start_ms: u64, embedding: Vec<f64>) {
        if let Some(running) = &self.running {
            assert_eq!(embedding.len(), running.reference.len(), "embeddings of one stream differ in length");
        }
        let (reference, smoothed) = (embedding.clone(), embedding.clone());
        self.running = Some(Running {
            reference,
            joined: 1,
            smoothed,
            previous: embedding,
            start_ms,
            spoken_ms: at_ms,
            changed_ms: None,
        });
        self.note(at_ms);
    }

    /// Counts a decode.
    fn note(&mut self, at_ms: u64) {
        if let Some(running) = &mut self.running {
            running.spoken_ms = at_ms;
        }
        if let Some(most) = self.policy.per_minute_max {
            // of more than the minute may have, the latest tell as much as all
            while self.recent_ms.len() >= most.max(1) as usize {
                self.recent_ms.pop_front();
            }
            self.recent_ms.push_back(at_ms);
        }
    }
}

impl Running {
    /// Distances of the smoothed embedding to the reference, and of the embedding to the one before it.
    fn measure(&mut self, smoothing: f64, embedding: &[f64]) -> (f64, f64) {
        assert_eq!(embedding.len(), self.reference.len(), "embeddings of one stream differ in length");
        for (past, new) in self.smoothed.iter_mut().zip(embedding) {
            *past = if smoothing > 0.0 { smoothing * *past + (1.0 - smoothing) * new } else { *new };
        }
        (cosine_distance(&self.smoothed, &self.reference), cosine_distance(embedding, &self.previous))
    }

    /// What was compared last becomes part of the mean.
    fn join(&mut self) {
        self.joined += 1;
        let share = self.joined as f64;
        self.reference.iter_mut().zip(&self.smoothed).for_each(|(mean, new)| *mean += (new - *mean) / share);
    }
}

#[cfg(test)]
mod tests;
