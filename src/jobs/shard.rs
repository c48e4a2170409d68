//! The unit of work and of loss: consecutive rows that become one part of the output.

use serde::{Deserialize, Serialize};

/// Consecutive rows of a job's input, cut once and for all when the job is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number, from 0; also that of its part.
    pub index: u32,
    /// Number of its first row in the whole input, from 0.
    pub first_row: u64,
    /// How many rows it has.
    pub rows: u64,
    /// First byte of its lines; 0 where the input has no lines.
    pub start: u64,
    /// The byte after its last one; 0 where the input has no lines.
    pub end: u64,
    /// SHA-256 of those bytes, of a table's footer where the input has no lines: an input that has changed since it was
    /// planned is found out. Hexadecimal.
    pub digest: String,
}

/// What became of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Input rows with an embedding in the output.
    pub succeeded: u64,
    /// Input rows with an error beside the output.
    pub failed: u64,
    /// Rows that were nothing to embed, such as empty lines; they leave nothing.
    pub skipped: u64,
    /// Rows written to the output: more than succeeded where clips are cut into segments.
    pub written: u64,
}

impl Tally {
    /// All input rows.
    pub fn rows(&self) -> u64 {
        self.succeeded + self.failed + self.skipped
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.written += other.written;
    }
}

/// A file of the output that is complete and on the disk, still under a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// The name it has, below the output's location.
    pub temporary: String,
    /// The name it will have.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

/// What one attempt at a shard has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The attempt, unlike any other.
    pub attempt: String,
    /// Its files: the part, and the errors if there are any.
    pub files: Vec<StagedFile>,
    /// What became of the shard's rows.
    pub tally: Tally,
}

impl Staged {
    /// Whether its files have the names and the bytes of another attempt's.
    pub fn same_bytes(&self, other: &Self) -> bool {
        let of = |file: &StagedFile| (file.name.clone(), file.bytes, file.sha256.clone());
        self.files.iter().map(of).eq(other.files.iter().map(of))
    }
}

/// What the store knows of a shard that somebody has finished: the one attempt whose files count. From here on the
/// shard can only go forward: whoever finds the record unsettled gives the files their names and settles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The attempt that counts.
    pub staged: Staged,
    /// Whether its files have their names.
    pub settled: bool,
}
