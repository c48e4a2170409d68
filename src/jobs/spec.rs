//! What a job is asked to do, as data: it is stored as it came, and every shard of the job runs by it.

use serde::{Deserialize, Serialize};

use crate::embedding::Dtype;

/// What a job is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Name of the model.
    pub model: String,
    /// Where its rows come from.
    pub input: Input,
    /// Where its parts go.
    pub output: Output,
    /// What is asked of media whose row brings no question.
    pub question: Option<String>,
    /// Candidate answers of every question: adds the nearest one and all scores to each row; none: none.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// How long clips are cut: one output row a segment; none: a clip is one row.
    pub segments: Option<Segments>,
    /// How embeddings are written.
    pub vectors: Vectors,
    /// Rows that may fail before the job does; none: all may.
    pub errors_max: Option<u64>,
    /// Time that one row gets, decoding and waiting included, milliseconds.
    pub item_ms_max: u64,
    /// Its place among other jobs.
    #[serde(default)]
    pub rank: Rank,
}

impl Spec {
    /// A job of which nothing is said but where it reads and writes: of the first model that is served, without question,
    /// candidates and segments, whole embeddings as they are, any number of rows may fail, a minute each, rank normal.
    pub fn new(input: Input, output: Output) -> Self {
        Self {
            model: String::new(),
            input,
            output,
            question: None,
            candidates: vec![],
            segments: None,
            vectors: Vectors::default(),
            errors_max: None,
            item_ms_max: 60_000,
            rank: Rank::default(),
        }
    }
}

/// Where rows come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// A file, a directory or a glob pattern, as the machine that reads it knows it.
    pub location: String,
    /// How it is read.
    pub kind: InputKind,
    /// Names of the columns or fields of a row.
    #[serde(default)]
    pub columns: Columns,
    /// Whether media that rows name must lie below the input's own directory: so it is where rows are a client's, whoever
    /// computes them. Else they may lie wherever the process may read: who asks is who runs it. A stored job that does
    /// not say so is fenced.
    #[serde(default = "fenced")]
    pub fenced: bool,
}

fn fenced() -> bool {
    true
}

impl Input {
    /// An input whose columns have their default names, and whose media lie below its own directory.
    pub fn new(location: impl Into<String>, kind: InputKind) -> Self {
        Self { location: location.into(), kind, columns: Columns::default(), fenced: fenced() }
    }
}

/// How an input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// Every media file of a directory and those below it, or of a glob pattern, by name.
    Files,
    /// A JSON object a line: `{id, media, question}`, `{id, text}`, or a line of OpenAI's batch format.
    Jsonl,
    /// A table with a column of paths, of media bytes or of texts.
    Parquet,
}

impl InputKind {
    /// How an input is read unless somebody says it: `.jsonl` and `.ndjson` as lines, `.parquet` as a table, all else as
    /// media files.
    pub fn of(location: &str) -> Self {
        let ending = location.rsplit_once('.').map_or("", |(_, ending)| ending);
        match &*ending.to_ascii_lowercase() {
            "jsonl" | "ndjson" => Self::Jsonl,
            "parquet" => Self::Parquet,
            _ => Self::Files,
        }
    }
}

/// Names of the columns of a Parquet file, and of the fields of a JSON line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// The caller's own id; a row without one is named by its number, from 0.
    pub id: String,
    /// Path of a media file, relative to the input's directory.
    pub media: String,
    /// The bytes of a media file (Parquet alone).
    pub bytes: String,
    /// The question.
    pub question: String,
    /// A text to embed.
    pub text: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [id, media, bytes, question, text] = ["id", "media", "bytes", "question", "text"].map(String::from);
        Self { id, media, bytes, question, text }
    }
}

/// Where parts go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// A directory, or an object store's URL.
    pub location: String,
    /// How parts are written.
    pub format: Format,
    /// Input rows of one part, the last one's excepted.
    pub rows_a_part: u64,
}

impl Output {
    /// Input rows of one part where nobody says how many.
    pub const ROWS_A_PART: u64 = 1024;

    /// An output in Parquet, with [`Output::ROWS_A_PART`].
    pub fn new(location: impl Into<String>) -> Self {
        Self { location: location.into(), format: Format::default(), rows_a_part: Self::ROWS_A_PART }
    }
}

/// How parts are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `part-00000.parquet`, the embedding a list of fixed size.
    #[default]
    Parquet,
    /// `part-00000.jsonl`, the embedding an array of numbers.
    Jsonl,
}

/// How clips are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// Length of a segment, milliseconds.
    pub window_ms: u64,
    /// From the beginning of one to the beginning of the next, milliseconds.
    pub stride_ms: u64,
}

/// How embeddings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    /// Only the first so many dimensions; none: all.
    pub dimensions: Option<usize>,
    /// Whether a shortened embedding is scaled back to unit length.
    pub normalize: bool,
    /// Type of the values.
    pub dtype: OutputDtype,
}

impl Default for Vectors {
    /// All dimensions, exact.
    fn default() -> Self {
        Self { dimensions: None, normalize: true, dtype: OutputDtype::default() }
    }
}

/// The types that a column of embeddings may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputDtype {
    /// Exact.
    #[default]
    F32,
    /// Half the bytes.
    F16,
    /// A quarter: value / max |value| * 127, rounded; the direction is kept, the length is not.
    Int8,
}

impl From<OutputDtype> for Dtype {
    fn from(dtype: OutputDtype) -> Self {
        match dtype {
            OutputDtype::F32 => Self::F32,
            OutputDtype::F16 => Self::F16,
            OutputDtype::Int8 => Self::Int8,
        }
    }
}

/// A job's place among other jobs: those of a higher rank run first, those of one rank in turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rank {
    /// After all others.
    Low,
    /// As most.
    #[default]
    Normal,
    /// Before all others.
    High,
}
