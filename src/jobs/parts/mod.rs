//! Rows of embeddings become a part of the output: `part-00000.parquet` or `.jsonl`, and what failed stands apart in
//! `_errors-00000.jsonl`.
//!
//! The same rows make the same bytes, on whatever machine and however often: nothing of a time, a machine or an attempt
//! goes into a part. `table.rs` and `lines.rs` are the two formats of one row, `errors.rs` writes and reads what failed.
//! The underscore is for readers that take a whole directory as one table, as pyarrow and pandas do: they pass over it.

mod errors;
mod lines;
mod table;
#[cfg(test)]
mod tests;

use crate::embedding::{Embedding, Space};

use super::{Done, Failed, Fault, Format, OutputDtype, Segments, Spec, Vectors};
pub use errors::{ErrorsToken, read_errors};
use lines::Lines;
use table::Table;

/// What every output row has in common.
#[derive(Debug, Clone)]
struct Layout {
    model: String,
    space: Space,
    vectors: Vectors,
    /// Values of an embedding as it is written.
    dimensions: usize,
    segments: Option<Segments>,
    candidates: Vec<String>,
}

enum Rows {
    Table(Box<Table>),
    Lines(Lines),
}

/// Takes the rows of one shard, in order, and makes its files.
pub struct PartWriter {
    layout: Layout,
    rows: Rows,
    errors: Vec<u8>,
    bytes_max: usize,
    rows_a_part: u64,
}

impl PartWriter {
    /// A part without rows, of a job that runs on a model of `space` with `dimensions`; it may hold `bytes_max` bytes
    /// in memory.
    pub fn new(spec: &Spec, space: Space, dimensions: usize, bytes_max: usize) -> Self {
        let layout = Layout {
            model: spec.model.clone(),
            space,
            vectors: spec.vectors,
            dimensions: spec.vectors.dimensions.unwrap_or(dimensions),
            segments: spec.segments,
            candidates: spec.candidates.clone(),
        };
        let rows = match spec.output.format {
            Format::Parquet => Rows::Table(Box::new(Table::new(&layout))),
            Format::Jsonl => Rows::Lines(Lines::default()),
        };
        Self { layout, rows, errors: vec![], bytes_max, rows_a_part: spec.output.rows_a_part }
    }

    /// Takes the next row of the output.
    pub fn push(&mut self, done: &Done) -> Result<(), Fault> {
        let (space, found) = (self.layout.space, done.embedding.space);
        if found != space {
            return Err(Fault::Broken(format!("row {} is of space {found}, its job of space {space}", done.row)));
        }
        let wrong = |error| Fault::Broken(format!("row {}: {error}", done.row));
        let Vectors { normalize, .. } = self.layout.vectors;
        let embedding = done.embedding.cut(self.layout.dimensions, normalize).map_err(wrong)?;
        match &mut self.rows {
            Rows::Table(table) => table.push(done, &embedding)?,
            Rows::Lines(lines) => lines.push(&self.layout, done, &embedding),
        }
        self.bounded(done.row)
    }

    /// Takes the next row that failed.
    pub fn fail(&mut self, failed: &Failed) -> Result<(), Fault> {
        errors::write(&mut self.errors, failed);
        self.bounded(failed.row)
    }

    /// The part's files under their final names. A table without rows is still a table; lines without a line are no
    /// file, because readers cannot tell columns from it.
    pub fn finish(self, shard_index: u32) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let (ending, part) = match self.rows {
            Rows::Table(table) => ("parquet", table.finish()?),
            Rows::Lines(lines) => ("jsonl", lines.finish()),
        };
        let files = [(format!("part-{shard_index:05}.{ending}"), part), (errors::name(shard_index), self.errors)];
        Ok(files.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect())
    }

    fn bounded(&self, row: u64) -> Result<(), Fault> {
        let rows = match &self.rows {
            Rows::Table(table) => table.held_bytes(),
            Rows::Lines(lines) => lines.held_bytes(),
        };
        let (held, max, rows_a_part) = (rows + self.errors.len(), self.bytes_max, self.rows_a_part);
        match held <= max {
            true => Ok(()),
            false => Err(Fault::Broken(format!(
                "at row {row} its part is {held} bytes, jobs.part_bytes_max is {max}: rows_a_part is {rows_a_part}, \
                 fewer make smaller parts"
            ))),
        }
    }
}

/// The values of an embedding as they are written.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i8>),
}

impl Values {
    /// One conversion for both formats: what [`Embedding::to_bytes`] gives for the type.
    fn of(embedding: &Embedding, dtype: OutputDtype) -> Self {
        let bytes = embedding.to_bytes(dtype.into());
        match dtype {
            OutputDtype::F32 => Self::Floats(embedding.values.clone()),
            OutputDtype::F16 => {
                let halves = bytes.as_chunks().0.iter();
                Self::Floats(halves.map(|&value| half::f16::from_le_bytes(value).to_f32()).collect())
            }
            OutputDtype::Int8 => Self::Integers(bytes.into_iter().map(|byte| byte as i8).collect()),
        }
    }
}
