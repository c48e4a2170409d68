//! What a session tells.

use crate::embedding::Embedding;
use crate::engine::{Choice, EngineError, Timing};

/// An event with its number.
#[derive(Debug, Clone)]
pub struct Numbered {
    /// From 1, without gaps.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A window was looked at with one query.
    Seen(Seen),
    /// A query was put into words.
    Spoken(Spoken),
    /// Frames were dropped.
    Dropped(Dropped),
    /// One frame, or what was asked for at it, could not be done, and only it.
    Failed(FrameFailed),
    /// The session is over; always the last one.
    Finished(Finished),
}

/// How a session ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What became of everything.
    pub stats: Stats,
    /// Why it could not go on, if nobody stopped it.
    pub error: Option<EngineError>,
}

/// Part of the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Numbers of its first and last frame.
    pub seq: [u64; 2],
    /// From when to when it goes, milliseconds.
    pub ms: [u64; 2],
}

/// A window that was looked at with one query.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which query, from 0.
    pub query: usize,
    /// The window.
    pub span: Span,
    /// Cosine distance to the mean of the running segment, 0 to 2.
    pub drift: f64,
    /// The window shows the pictures of one before again: nothing was encoded.
    pub repeated: bool,
    /// The answer embedding.
    pub embedding: Embedding,
    /// Where the time went; nothing for what was repeated.
    pub timing: Timing,
}

/// Why a query was put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The stream's own rule.
    Rule(crate::segment::Trigger),
    /// The query was changed, and this is its first window.
    QueryChanged,
    /// Somebody flushed.
    Flush,
    /// The clock of [`Decode::Uniform`](super::Decode::Uniform).
    Uniform,
    /// Somebody brought the embedding.
    Speak,
}

/// A query that was put into words.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// Which query, from 0.
    pub query: usize,
    /// The answer in words.
    pub text: String,
    /// Every candidate in the order given; empty when the decoder spoke.
    pub choices: Vec<Choice>,
    /// Why.
    pub trigger: Trigger,
    /// What the words are about: from where the stream became so, which is the middle of the window that first showed it, to
    /// the end of the window.
    pub segment: Span,
    /// Cosine distance that led to it, 0 to 2.
    pub drift: f64,
    /// Where the time went.
    pub timing: Timing,
}

/// Why frames were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Newer ones came before they were looked at.
    Behind,
    /// The session ended before they were looked at.
    Ended,
}

/// Frames that were dropped, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Which.
    pub span: Span,
    /// How many.
    pub frames: u64,
    /// Why.
    pub reason: DropReason,
}

/// A frame that could not be used; or a window, a change of a query or words that could not be, at the newest frame they are
/// about. The session goes on.
#[derive(Debug, Clone)]
pub struct FrameFailed {
    /// The frame's number.
    pub seq: u64,
    /// Why.
    pub error: EngineError,
}

/// What became of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Frames that came, duplicates not counted.
    pub frames: u64,
    /// Frames that were dropped.
    pub frames_dropped: u64,
    /// Frames that could not be used.
    pub frames_failed: u64,
    /// Frames that were the same as the one before.
    pub frames_still: u64,
    /// Frames that the vision encoder looked at, each counted once.
    pub frames_encoded: u64,
    /// Frames that were taken and differed, but that no window's choice fell on. So every frame is told once: those that
    /// came are the dropped, failed, still, encoded and skipped ones together.
    pub frames_skipped: u64,
    /// Windows that were looked at.
    pub windows: u64,
    /// Windows that were the same as one before: not encoded.
    pub windows_repeated: u64,
    /// Embeddings, one a window and query.
    pub embeddings: u64,
    /// Times that an embedding became words.
    pub decodes: u64,
    /// What decoding every query once a second would have come to.
    pub decodes_uniform_1hz: u64,
    /// Length of the stream, milliseconds.
    pub duration_ms: u64,
    /// Time in the vision encoder, milliseconds.
    pub vision_ms: f64,
    /// Time in the predictor, milliseconds.
    pub predictor_ms: f64,
    /// Time in the decoder or in ranking candidates, milliseconds.
    pub words_ms: f64,
}
