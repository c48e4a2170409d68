//! A part as a Parquet table. Columns are of plain types that every reader knows; the embedding is a list of fixed size
//! whose element is named `element`, as the format asks. Rows are gathered and go to the writer in batches, cut by
//! number and size alone, so that the same rows give the same pages.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Float16Array, Float32Array, Int8Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{Layout, Values};
use crate::embedding::Embedding;
use crate::jobs::{Done, Fault, MediaFacts, OutputDtype, Ranked};

/// Rows of a batch.
const BATCH_ROWS_MAX: usize = 1024;
/// Bytes of a batch; what is gathered beyond them goes to the writer.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Bytes of a row group, as encoded: what a reader must hold at once.
const GROUP_BYTES_MAX: usize = 32 << 20;

/// A table that is being written.
pub(super) struct Table {
    layout: Layout,
    schema: SchemaRef,
    batch: Batch,
    writer: ArrowWriter<Vec<u8>>,
}

/// Rows that are not with the writer yet, by column.
#[derive(Default)]
struct Batch {
    bytes: usize,
    ids: Vec<String>,
    rows: Vec<i64>,
    embeddings: Vec<Values>,
    media: Vec<Option<MediaFacts>>,
    segments: Vec<Option<[u64; 2]>>,
    ranked: Vec<Option<Ranked>>,
    truncated: Vec<bool>,
}

impl Table {
    pub fn new(layout: &Layout) -> Self {
        let schema = Arc::new(schema(layout));
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties(layout)))
            .expect("every type of the schema has a Parquet type");
        Self { layout: layout.clone(), schema, batch: Batch::default(), writer }
    }

    pub fn push(&mut self, done: &Done, embedding: &Embedding) -> Result<(), Fault> {
        let batch = &mut self.batch;
        let ranked = done.ranked.as_ref().map_or(0, |ranked| ranked.answer.len() + 4 * ranked.scores.len());
        batch.bytes += size_of::<Done>() + done.id.len() + 4 * embedding.values.len() + ranked;
        batch.ids.push(done.id.clone());
        batch.rows.push(signed(done.row));
        batch.embeddings.push(Values::of(embedding, self.layout.vectors.dtype));
        batch.media.push(done.media);
        batch.segments.push(done.segment_ms);
        batch.ranked.push(done.ranked.clone());
        batch.truncated.push(done.truncated);
        match batch.rows.len() >= BATCH_ROWS_MAX || batch.bytes >= BATCH_BYTES_MAX {
            true => self.flush().map_err(broken),
            false => Ok(()),
        }
    }

    /// Everything in memory: rows that wait, the row group in work, and those that are done.
    pub fn held_bytes(&self) -> usize {
        self.batch.bytes + self.writer.memory_size() + self.writer.bytes_written()
    }

    pub fn finish(mut self) -> Result<Vec<u8>, Fault> {
        self.flush().and_then(|()| self.writer.into_inner()).map_err(broken)
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        let columns = std::mem::take(&mut self.batch).columns(&self.layout);
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

fn broken(error: ParquetError) -> Fault {
    Fault::Broken(format!("cannot write a table: {error}"))
}

/// Numbers that no memory and no clock reaches are told as the largest.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Batch {
    /// In the order of [`schema`].
    fn columns(self, layout: &Layout) -> Vec<ArrayRef> {
        let Self { ids, rows, embeddings, media, segments, ranked, truncated, .. } = self;
        let count = rows.len();
        let facts = |of: fn(&MediaFacts) -> u64| -> ArrayRef {
            Arc::new(media.iter().map(|media| media.as_ref().map(|media| signed(of(media)))).collect::<Int64Array>())
        };
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids)),
            Arc::new(Int64Array::from(rows)),
            vectors(embeddings, layout),
            Arc::new(StringArray::from(vec![layout.space.to_string(); count])),
            facts(|media| media.bytes),
            facts(|media| media.width.into()),
            facts(|media| media.height.into()),
            facts(|media| media.frames),
            facts(|media| media.duration_ms),
        ];
        if layout.segments.is_some() {
            let instants = |at: usize| segments.iter().map(move |segment| segment.map(|segment| signed(segment[at])));
            columns.extend([0, 1].map(|at| -> ArrayRef { Arc::new(instants(at).collect::<Int64Array>()) }));
        }
        if !layout.candidates.is_empty() {
            let answers = ranked.iter().map(|ranked| ranked.as_ref().map(|ranked| ranked.answer.as_str()));
            columns.push(Arc::new(answers.collect::<StringArray>()));
            columns.push(scores(&ranked, layout.candidates.len()));
        }
        columns.push(Arc::new(BooleanArray::from(truncated)));
        columns.push(Arc::new(StringArray::from(vec!["OK"; count])));
        columns
    }
}

/// Embeddings one after the other, as lists of one size.
fn vectors(embeddings: Vec<Values>, layout: &Layout) -> ArrayRef {
    let floats = embeddings.iter().flat_map(|values| match values {
        Values::Floats(values) => values.as_slice(),
        Values::Integers(_) => &[],
    });
    let values: ArrayRef = match layout.vectors.dtype {
        OutputDtype::F32 => Arc::new(Float32Array::from_iter_values(floats.copied())),
        OutputDtype::F16 => Arc::new(Float16Array::from_iter_values(floats.map(|&value| f16::from_f32(value)))),
        OutputDtype::Int8 => {
            let integers = embeddings.iter().flat_map(|values| match values {
                Values::Integers(values) => values.as_slice(),
                Values::Floats(_) => &[],
            });
            Arc::new(Int8Array::from_iter_values(integers.copied()))
        }
    };
    let (element, dimensions) = (element(values.data_type().clone()), size(layout.dimensions));
    Arc::new(FixedSizeListArray::new(element, dimensions, values, None))
}

/// A row without scores has none, in a list as long as the others'.
fn scores(ranked: &[Option<Ranked>], candidates: usize) -> ArrayRef {
    let mut values = Vec::with_capacity(ranked.len() * candidates);
    for ranked in ranked {
        match ranked {
            Some(Ranked { scores, .. }) => {
                assert_eq!(scores.len(), candidates, "every candidate has its score");
                values.extend_from_slice(scores);
            }
            None => values.resize(values.len() + candidates, 0.0),
        }
    }
    let known = ranked.iter().map(Option::is_some).collect::<Vec<_>>().into();
    let values = Arc::new(Float32Array::from(values));
    Arc::new(FixedSizeListArray::new(element(DataType::Float32), size(candidates), values, Some(known)))
}

fn size(values: usize) -> i32 {
    i32::try_from(values).expect("settings bound dimensions and candidates")
}

fn element(of: DataType) -> FieldRef {
    Arc::new(Field::new("element", of, false))
}

fn schema(layout: &Layout) -> Schema {
    let value = match layout.vectors.dtype {
        OutputDtype::F32 => DataType::Float32,
        OutputDtype::F16 => DataType::Float16,
        OutputDtype::Int8 => DataType::Int8,
    };
    let list = |of: DataType, values: usize| DataType::FixedSizeList(element(of), size(values));
    let required = |name: &str, of: DataType| Field::new(name, of, false);
    let optional = |name: &&str| Field::new(*name, DataType::Int64, true);
    let mut fields = vec![
        required("id", DataType::Utf8),
        required("row", DataType::Int64),
        required("embedding", list(value, layout.dimensions)),
        required("space", DataType::Utf8),
    ];
    fields.extend(
        ["media_bytes", "media_width", "media_height", "media_frames", "media_duration_ms"].iter().map(optional),
    );
    if layout.segments.is_some() {
        fields.extend(["segment_start_ms", "segment_end_ms"].iter().map(optional));
    }
    if !layout.candidates.is_empty() {
        fields.push(Field::new("answer", DataType::Utf8, true));
        fields.push(Field::new("scores", list(DataType::Float32, layout.candidates.len()), true));
    }
    fields.extend([required("truncated", DataType::Boolean), required("status", DataType::Utf8)]);
    Schema::new(fields)
}

/// How columns are packed, and what the file says of itself.
fn properties(layout: &Layout) -> WriterProperties {
    let value = |list: &str| ColumnPath::from(vec![list.into(), "list".into(), "element".into()]);
    let candidates = serde_json::to_string(&layout.candidates).expect("texts are JSON");
    let dtype = serde_json::to_value(layout.vectors.dtype).expect("a word is JSON");
    let said = [
        ("vljepa.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("vljepa.model", layout.model.clone()),
        ("vljepa.space", layout.space.to_string()),
        ("vljepa.dtype", dtype.as_str().expect("it is a word").to_owned()),
        ("vljepa.normalize", layout.vectors.normalize.to_string()),
        ("vljepa.candidates", candidates),
    ];
    let said = said.map(|(key, value)| KeyValue::new(key.to_owned(), value)).to_vec();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_bytes(Some(GROUP_BYTES_MAX))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // Of a vector's values, nobody asks for the least; and only 256 of them can be told apart at all.
        .set_column_statistics_enabled(value("embedding"), EnabledStatistics::None)
        .set_column_statistics_enabled(value("scores"), EnabledStatistics::None)
        .set_column_dictionary_enabled(value("embedding"), layout.vectors.dtype == OutputDtype::Int8)
        .set_column_dictionary_enabled(value("scores"), false)
        .set_column_dictionary_enabled(ColumnPath::from("id"), false)
        .set_column_dictionary_enabled(ColumnPath::from("row"), false)
        .set_key_value_metadata(Some(said))
        .build()
}
