//! What a session is asked to do, and what is sent to it.

use std::any::Any;
use std::sync::Arc;

use crate::embedding::Embedding;
use crate::engine::{EngineError, Manner, MediaFrame};
use crate::segment::Policy;

/// What is to be let go when a frame's picture or a query is: the count of their bytes, for whoever keeps one.
pub type Held = Option<Arc<dyn Any + Send + Sync>>;

/// What a session is asked to do.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The standing queries; one at least.
    pub queries: Vec<Query>,
    /// How frames become windows.
    pub view: View,
    /// When an embedding becomes words.
    pub decode: Decode,
    /// What becomes of frames that come faster than they are understood.
    pub drops: Drops,
}

/// A question that is asked of every window.
#[derive(Debug, Clone)]
pub struct Query {
    /// The question.
    pub question: String,
    /// How it is put into words; none: it never is.
    pub manner: Option<Manner>,
    /// Dropped with the query.
    pub held: Held,
}

/// How frames become windows: one covers `[start, start + window_ms)`, a new one begins every `stride_ms`, from the first
/// frame's time on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// Length of a window, milliseconds.
    pub window_ms: u64,
    /// From the beginning of one window to that of the next, milliseconds, at most the window.
    pub stride_ms: u64,
    /// How many frames of a window are looked at; none: the model's own number.
    pub frames: Option<usize>,
    /// Mean difference of two pictures as the model sees them, 0 to 255 levels, up to which they are the same.
    pub still: f32,
}

impl Default for View {
    fn default() -> Self {
        Self { window_ms: 2000, stride_ms: 500, frames: None, still: 1.0 }
    }
}

/// When an embedding becomes words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decode {
    /// When the meaning has changed.
    Drift(Policy),
    /// Every so many milliseconds of the stream.
    Uniform {
        /// Time between two decodes of a query.
        every_ms: u64,
    },
    /// Only when somebody asks for it.
    Never,
}

/// What becomes of frames that come faster than they are understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drops {
    /// They wait, and with them whoever sends them.
    #[default]
    Wait,
    /// The oldest that waits is dropped.
    Oldest,
    /// All that wait are dropped.
    LatestOnly,
}

/// One frame of the stream.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its number; one that is not above all before it is a duplicate and ignored.
    pub seq: u64,
    /// The picture, with its time, which must not fall; or what came instead of one, which is told when its turn has come.
    pub picture: Result<MediaFrame, Unusable>,
    /// Dropped with the picture's bytes.
    pub held: Held,
}

/// What came instead of a picture.
#[derive(Debug, Clone)]
pub struct Unusable {
    /// When it would be shown, milliseconds.
    pub pts_ms: u64,
    /// What is wrong with it.
    pub error: EngineError,
}

impl Frame {
    /// A frame of which nobody counts the bytes.
    pub fn new(seq: u64, picture: MediaFrame) -> Self {
        Self { seq, picture: Ok(picture), held: None }
    }

    /// When it is shown, milliseconds.
    pub fn pts_ms(&self) -> u64 {
        self.picture.as_ref().map_or_else(|unusable| unusable.pts_ms, MediaFrame::pts_ms)
    }

    /// What its picture takes as it came, bytes; nothing where there is none.
    pub fn bytes(&self) -> usize {
        self.picture.as_ref().map_or(0, MediaFrame::bytes)
    }
}

/// What is sent to a session.
#[derive(Debug, Clone)]
pub enum Input {
    /// The next frame.
    Frame(Frame),
    /// From the next window on, query number `query` is this one; one more than there are adds one.
    Update {
        /// Which, from 0.
        query: usize,
        /// What is asked now.
        to: Query,
    },
    /// Look at what has come, whole window or not, and put every query into words.
    Flush,
    /// Put this embedding into words in the manner of query number `query`.
    Speak {
        /// Which, from 0.
        query: usize,
        /// Of the model's space.
        embedding: Embedding,
        /// What it stands for, milliseconds.
        range_ms: [u64; 2],
    },
    /// Look at what has come, then end.
    Stop,
}
