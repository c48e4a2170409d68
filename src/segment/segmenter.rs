//! The causal rule of live sessions: which embedding of an endless stream is worth words, decided when it comes.
//!
//! Pure: it is given embeddings with their times and knows neither clock nor model. However the stream is chunked, the
//! decisions are the same.

/// When an embedding becomes words. Times are those of the stream, milliseconds; distances are cosine distances, 0 to 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Above this distance to the running segment's mean the meaning has changed.
    pub threshold: f64,
    /// Below this distance of two consecutive embeddings the stream is calm again, and only then words are made; none:
    /// that is not waited for.
    pub calm: Option<f64>,
    /// Weight of the past in the smoothed embedding that is compared, 0 (no smoothing) to below 1.
    pub smoothing: f64,
    /// Time that must pass between two decodes.
    pub gap_min_ms: u64,
    /// Time after which there are words although nothing has changed; none: never.
    pub silence_max_ms: Option<u64>,
    /// The most decodes in any minute; none: no bound.
    pub per_minute_max: Option<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { threshold: 0.3, calm: None, smoothing: 0.0, gap_min_ms: 0, silence_max_ms: None, per_minute_max: None }
    }
}

/// Why an embedding becomes words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// It is the first one.
    First,
    /// The meaning has changed.
    Drift,
    /// Nothing has changed for too long.
    MaxSilence,
}

/// Why one does not although the meaning has changed.
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
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Distance to the mean of the running segment, before it joined it; 0 for the first.
    pub drift: f64,
    /// Why it becomes words, if it does.
    pub trigger: Option<Trigger>,
    /// Why it does not although it should.
    pub held: Option<Held>,
    /// When the running segment began: with a trigger that of the new one, which is where the change was first seen.
    pub segment_start_ms: u64,
}

/// The rule, on its way through one stream.
#[derive(Debug, Clone)]
pub struct Segmenter {
    policy: Policy,
}

impl Segmenter {
    /// One that has seen nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }

    /// Takes the next embedding, which stands for the time `at_ms`; times never fall.
    pub fn push(&mut self, _at_ms: u64, _embedding: &[f32]) -> Decision {
        let _ = self.policy;
        unimplemented!("by the branch of streams")
    }

    /// Notes that the running segment was put into words at `at_ms` for another reason (a flush, a changed query), with
    /// `embedding` as the new reference.
    pub fn spoken(&mut self, _at_ms: u64, _embedding: &[f32]) {
        unimplemented!("by the branch of streams")
    }
}
