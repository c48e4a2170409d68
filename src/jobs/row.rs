//! A row on its way: as it comes from an input, and as it goes into a part or beside it.

use std::path::PathBuf;

use crate::embedding::Embedding;
use crate::engine::{Code, EngineError};

/// A row of a job's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its number in the whole input, from 0.
    pub number: u64,
    /// The caller's id; the number where the row brings none.
    pub id: String,
    /// What is to be embedded, or why that cannot be told.
    pub item: Result<Item, Failure>,
}

/// What is to be embedded.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A text.
    Text(String),
    /// The answer to a question about a picture or a clip.
    Media {
        /// Where it is.
        place: MediaPlace,
        /// The row's own question; the job's if it brings none.
        question: Option<String>,
    },
}

/// Where a media file is.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaPlace {
    /// On the disk.
    File(PathBuf),
    /// In the input.
    Bytes(Vec<u8>),
}

/// Why a row has no embedding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of error.
    pub code: Code,
    /// Field, value and bound.
    pub message: String,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// A row that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its number in the whole input, from 0.
    pub row: u64,
    /// The caller's id.
    pub id: String,
    /// Why.
    pub failure: Failure,
}

/// A row of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Number of the input row that it is of, from 0.
    pub row: u64,
    /// The caller's id.
    pub id: String,
    /// The instants that it covers, from and to, milliseconds; where clips are cut into segments.
    pub segment_ms: Option<[u64; 2]>,
    /// As the model gave it, whole.
    pub embedding: Embedding,
    /// What it is of, if that is media.
    pub media: Option<MediaFacts>,
    /// The nearest candidate and the scores of all, if there are candidates.
    pub ranked: Option<Ranked>,
    /// Whether a text was cut to the model's longest.
    pub truncated: bool,
}

/// What is known of a media file once it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaFacts {
    /// Size of the file.
    pub bytes: u64,
    /// Pixels in a row of the first frame.
    pub width: u32,
    /// Rows of the first frame.
    pub height: u32,
    /// Frames that were decoded.
    pub frames: u64,
    /// When the last frame is shown, milliseconds.
    pub duration_ms: u64,
}

/// How the candidates fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The nearest candidate.
    pub answer: String,
    /// Probability of each candidate, in the order given.
    pub scores: Vec<f32>,
}

/// Why an attempt at a shard, or at a plan, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The model stops; nothing is wrong with the job.
    #[error("the model has stopped")]
    Stopped,
    /// The job cannot go on until somebody has seen to it: an input that has changed, a full disk.
    #[error("{0}")]
    Broken(String),
}
