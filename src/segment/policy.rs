//! What a live session may be told about when an embedding becomes words, and which figures can be.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// What a new embedding is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reference {
    /// The embedding that was put into words last.
    Last,
    /// The mean of all embeddings since then, that one included and those that were held as well: what is held for long
    /// becomes what the next ones are compared with.
    Mean,
    /// The mean of the running segment: of the embeddings since then that were not far from it. Those of a change that
    /// waits for its words stay out, so that waiting does not wear the change away.
    Segment,
}

/// When an embedding becomes words. Times are those of the stream, milliseconds; distances are cosine distances, 0 to 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// What an embedding is compared with.
    pub reference: Reference,
    /// Above this distance to the reference the meaning has changed.
    pub threshold: f64,
    /// Below this distance of two consecutive embeddings the stream is calm again, and only then words are made; none:
    /// that is not waited for. A stream that has come back to its reference before is as if nothing had been.
    pub calm: Option<f64>,
    /// Time from where a change was first seen after which words are made although the stream is not calm.
    pub unsettled_max_ms: u64,
    /// Weight of the past in the smoothed embedding that is compared, 0 (no smoothing) to 0.99.
    pub smoothing: f64,
    /// Time that must pass between two decodes.
    pub gap_min_ms: u64,
    /// Time after which there are words although nothing has changed; none: never.
    pub silence_max_ms: Option<u64>,
    /// The most decodes in any minute; none: no bound.
    pub per_minute_max: Option<u32>,
}

impl Default for Policy {
    /// Figures that were chosen on 200 generated streams for the bundled model, as `vljepa evaluate stream` chooses them for any
    /// (docs/WATCH.md).
    fn default() -> Self {
        Self {
            reference: Reference::Last,
            threshold: 0.043,
            calm: Some(0.05),
            unsettled_max_ms: 3_000,
            smoothing: 0.4,
            gap_min_ms: 0,
            silence_max_ms: None,
            per_minute_max: None,
        }
    }
}

/// A figure of a policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, must be {bound}")]
pub struct PolicyError {
    /// Which figure, by its name in [`Policy`].
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it may be.
    pub bound: String,
}

/// Largest cosine distance.
const DISTANCE_MAX: f64 = 2.0;
const SMOOTHING: RangeInclusive<f64> = 0.0..=0.99;
/// A day.
const TIME_MAX_MS: u64 = 86_400_000;
/// A thousand a second; so many times of decodes are remembered at most.
const PER_MINUTE: RangeInclusive<u32> = 1..=60_000;

impl Policy {
    /// Whether its figures can be; the first that cannot, in the order of the fields.
    pub fn check(&self) -> Result<(), PolicyError> {
        let wrong =
            |field, value: &dyn Display, bound: String| Err(PolicyError { field, value: value.to_string(), bound });
        if !(0.0..=DISTANCE_MAX).contains(&self.threshold) {
            return wrong("threshold", &self.threshold, format!("from 0 to {DISTANCE_MAX}"));
        }
        if let Some(calm) = self.calm.filter(|calm| !(*calm > 0.0 && *calm <= DISTANCE_MAX)) {
            return wrong("calm", &calm, format!("above 0, at most {DISTANCE_MAX}"));
        }
        if self.unsettled_max_ms > TIME_MAX_MS {
            return wrong("unsettled_max_ms", &self.unsettled_max_ms, format!("at most {TIME_MAX_MS}"));
        }
        if !SMOOTHING.contains(&self.smoothing) {
            let bound = format!("from {} to {}", SMOOTHING.start(), SMOOTHING.end());
            return wrong("smoothing", &self.smoothing, bound);
        }
        if self.gap_min_ms > TIME_MAX_MS {
            return wrong("gap_min_ms", &self.gap_min_ms, format!("at most {TIME_MAX_MS}"));
        }
        let silence = self.gap_min_ms.max(1)..=TIME_MAX_MS;
        if let Some(silent) = self.silence_max_ms.filter(|silent| !silence.contains(silent)) {
            let (least, most) = silence.into_inner();
            return wrong("silence_max_ms", &silent, format!("from {least}, no less than gap_min_ms, to {most}"));
        }
        match self.per_minute_max.filter(|most| !PER_MINUTE.contains(most)) {
            Some(most) => {
                let bound = format!("from {} to {}", PER_MINUTE.start(), PER_MINUTE.end());
                wrong("per_minute_max", &most, bound)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_cannot_be_are_told() {
        let told = |policy: Policy| policy.check().expect_err("cannot be").to_string();
        let default = Policy::default();
        assert_eq!(default.check(), Ok(()));
        let edge = Policy {
            threshold: 2.0,
            calm: Some(2.0),
            unsettled_max_ms: TIME_MAX_MS,
            smoothing: 0.99,
            gap_min_ms: TIME_MAX_MS,
            silence_max_ms: Some(TIME_MAX_MS),
            per_minute_max: Some(60_000),
            ..default
        };
        assert_eq!(edge.check(), Ok(()));
        assert_eq!(told(Policy { threshold: -0.1, ..default }), "threshold is -0.1, must be from 0 to 2");
        assert_eq!(told(Policy { threshold: f64::NAN, ..default }), "threshold is NaN, must be from 0 to 2");
        assert_eq!(told(Policy { calm: Some(0.0), ..default }), "calm is 0, must be above 0, at most 2");
        assert_eq!(told(Policy { calm: Some(f64::NAN), ..default }), "calm is NaN, must be above 0, at most 2");
        let long = Policy { unsettled_max_ms: 86_400_001, ..default };
        assert_eq!(told(long), "unsettled_max_ms is 86400001, must be at most 86400000");
        assert_eq!(told(Policy { smoothing: 1.0, ..default }), "smoothing is 1, must be from 0 to 0.99");
        let long = Policy { gap_min_ms: u64::MAX, ..default };
        assert_eq!(told(long), format!("gap_min_ms is {}, must be at most 86400000", u64::MAX));
        let short = Policy { gap_min_ms: 700, silence_max_ms: Some(699), ..default };
        assert_eq!(told(short), "silence_max_ms is 699, must be from 700, no less than gap_min_ms, to 86400000");
        let none = Policy { gap_min_ms: 0, silence_max_ms: Some(0), ..default };
        assert_eq!(told(none), "silence_max_ms is 0, must be from 1, no less than gap_min_ms, to 86400000");
        let none = Policy { per_minute_max: Some(0), ..default };
        assert_eq!(told(none), "per_minute_max is 0, must be from 1 to 60000");
    }
}
