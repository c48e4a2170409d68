//! Laws of parts: whatever rows go in come out of readers that are not ours, the same rows make the same bytes, and a
//! part that grows over its bound says so.

use std::fs::File;
use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Int8Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::*;
use crate::engine::Code;
use crate::jobs::files::Files;
use crate::jobs::{Failure, Input, InputKind, MediaFacts, Output, Ranked};
use crate::settings::ObjectSettings;

const SPACE: Space = Space::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
const DIMENSIONS: usize = 6;

fn spec(format: Format, dtype: OutputDtype) -> Spec {
    let output = Output { format, ..Output::new("out") };
    let vectors = Vectors { dtype, ..Vectors::default() };
    let spec = Spec::new(Input::new("in.jsonl", InputKind::Jsonl), output);
    Spec { model: "tiny".into(), vectors, ..spec }
}

fn any_spec(format: Format) -> impl Strategy<Value = Spec> {
    let dtype = prop_oneof![Just(OutputDtype::F32), Just(OutputDtype::F16), Just(OutputDtype::Int8)];
    let segments = option::of(Just(Segments { window_ms: 100, stride_ms: 50 }));
    (dtype, vec("[a-zé\"\\\\]{1,5}", 0..3), segments, option::of(1..=DIMENSIONS), any::<bool>()).prop_map(
        move |(dtype, candidates, segments, dimensions, normalize)| {
            let vectors = Vectors { dimensions, normalize, dtype };
            Spec { candidates, segments, vectors, ..spec(format, dtype) }
        },
    )
}

/// Rows as `spec` has them.
fn any_rows(spec: &Spec) -> impl Strategy<Value = Vec<Done>> + use<> {
    let (candidates, segments) = (spec.candidates.clone(), spec.segments.is_some());
    let media =
        (any::<u32>(), 1..9u32, 1..9u32, 0..99u64, any::<u32>()).prop_map(|(bytes, width, height, frames, ms)| {
            MediaFacts { bytes: bytes.into(), width, height, frames, duration_ms: ms.into() }
        });
    let scores = vec(0f32..=1.0, candidates.len());
    let row = (
        any::<String>(),
        vec(-1f32..=1.0, DIMENSIONS),
        option::of(media),
        option::of(scores),
        any::<bool>(),
        option::of(any::<[u32; 2]>()),
    );
    let row = row.prop_map(move |(id, values, media, scores, truncated, span)| Done {
        row: 0,
        id,
        segment_ms: span.filter(|_| segments).map(|span| span.map(u64::from)),
        embedding: Embedding::normalized(values, SPACE),
        media,
        ranked: scores
            .filter(|_| !candidates.is_empty())
            .map(|scores| Ranked { answer: candidates[scores.len() - 1].clone(), scores }),
        truncated,
    });
    vec(row, 0..40).prop_map(|mut rows| {
        (0..).zip(&mut rows).for_each(|(number, done)| done.row = number);
        rows
    })
}

/// The files of one part.
fn written(spec: &Spec, rows: &[Done], shard: u32) -> Vec<(String, Vec<u8>)> {
    let mut writer = PartWriter::new(spec, SPACE, DIMENSIONS, 1 << 30);
    rows.iter().for_each(|row| writer.push(row).expect("it fits"));
    writer.finish(shard).expect("it can be written")
}

/// `law` for any job of the format and any rows of it.
fn for_any(format: Format, law: fn(&Spec, &[Done])) {
    let any = any_spec(format).prop_flat_map(|spec| (any_rows(&spec), Just(spec)));
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&any, |(rows, spec)| {
        law(&spec, &rows);
        Ok(())
    });
    outcome.expect("the law holds");
}

/// What should be read back, in the words of the JSON format; floats as f32 tells them.
fn expected(spec: &Spec, done: &Done) -> Value {
    let dimensions = spec.vectors.dimensions.unwrap_or(DIMENSIONS);
    let embedding = done.embedding.cut(dimensions, spec.vectors.normalize).expect("so many there are");
    let media = done.media.as_ref();
    let mut row = serde_json::json!({
        "id": done.id, "row": done.row, "space": SPACE, "truncated": done.truncated, "status": "OK",
        "embedding": Values::of(&embedding, spec.vectors.dtype),
        "media_bytes": media.map(|media| media.bytes), "media_width": media.map(|media| media.width),
        "media_height": media.map(|media| media.height), "media_frames": media.map(|media| media.frames),
        "media_duration_ms": media.map(|media| media.duration_ms),
    });
    if spec.segments.is_some() {
        row["segment_start_ms"] = done.segment_ms.map(|[start, _]| start).into();
        row["segment_end_ms"] = done.segment_ms.map(|[_, end]| end).into();
    }
    if !spec.candidates.is_empty() {
        row["answer"] = done.ranked.as_ref().map(|ranked| ranked.answer.clone()).into();
        row["scores"] = done.ranked.as_ref().map(|ranked| ranked.scores.clone()).into();
    }
    row
}

fn table(bytes: &[u8]) -> ParquetRecordBatchReaderBuilder<File> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("there is room");
    ParquetRecordBatchReaderBuilder::try_new(file).expect("a table")
}

/// Rows of a table as JSON, by arrow's own reader.
fn read(bytes: &[u8]) -> (Vec<Value>, Vec<(String, Option<String>)>) {
    let builder = table(bytes);
    let said = builder.metadata().file_metadata().key_value_metadata().expect("it says something").clone();
    let batches = builder.build().expect("readable").map(|batch| batch.expect("readable"));
    let rows = batches.flat_map(|batch| (0..batch.num_rows()).map(|at| row(&batch, at)).collect::<Vec<_>>()).collect();
    (rows, said.into_iter().map(|said| (said.key, said.value)).collect())
}

fn row(batch: &RecordBatch, at: usize) -> Value {
    let fields = batch.schema().fields().clone();
    let cells = fields.iter().zip(batch.columns()).map(|(field, column)| (field.name().clone(), cell(column, at)));
    Value::Object(cells.collect())
}

fn cell(column: &dyn Array, at: usize) -> Value {
    if column.is_null(at) {
        return Value::Null;
    }
    if let Some(texts) = column.as_string_opt::<i32>() {
        return texts.value(at).into();
    }
    if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
        return numbers.value(at).into();
    }
    if let Some(words) = column.as_boolean_opt() {
        return words.value(at).into();
    }
    let list = column.as_fixed_size_list().value(at);
    if let Some(floats) = list.as_primitive_opt::<Float32Type>() {
        return floats.values().to_vec().into();
    }
    if let Some(halves) = list.as_primitive_opt::<Float16Type>() {
        return halves.values().iter().map(|half| half.to_f32()).collect::<Vec<_>>().into();
    }
    list.as_primitive::<Int8Type>().values().to_vec().into()
}

#[test]
fn a_table_reads_back_as_it_was_written() {
    for_any(Format::Parquet, |spec, rows| {
        let mut files = written(spec, rows, 3);
        let (name, bytes) = files.pop().expect("a part");
        assert_eq!((&*name, files.len()), ("part-00003.parquet", 0));
        let (read, said) = read(&bytes);
        assert_eq!(read, rows.iter().map(|row| expected(spec, row)).collect::<Vec<_>>());
        let candidates = serde_json::to_string(&spec.candidates).expect("texts");
        for (key, value) in [("space", SPACE.to_string()), ("model", "tiny".into()), ("candidates", candidates)] {
            assert!(said.contains(&(format!("vljepa.{key}"), Some(value))), "{key}: {said:?}");
        }
    });
}

#[test]
fn lines_read_back_as_they_were_written() {
    for_any(Format::Jsonl, |spec, rows| {
        let files = written(spec, rows, 12);
        assert_eq!(files.len(), usize::from(!rows.is_empty()), "without a row there are no columns");
        for (name, bytes) in files {
            assert_eq!(name, "part-00012.jsonl");
            let text = String::from_utf8(bytes).expect("JSON is UTF-8");
            // Through f32, as a reader of such a column has it: that is what the digits promise.
            let narrow = |value: &mut Value| {
                let list = value.as_array_mut().into_iter().flatten();
                list.for_each(|number| {
                    *number = serde_json::json!(number.to_string().parse::<f32>().expect("a float"))
                });
            };
            for (line, done) in text.lines().zip(rows) {
                let (mut line, mut expected): (Value, _) =
                    (serde_json::from_str(line).expect("JSON"), expected(spec, done));
                ["embedding", "scores"].iter().for_each(|list| line.get_mut(*list).into_iter().for_each(narrow));
                ["embedding", "scores"].iter().for_each(|list| expected.get_mut(*list).into_iter().for_each(narrow));
                assert_eq!(line, expected);
            }
            assert_eq!(text.lines().count(), rows.len());
        }
    });
}

#[test]
fn the_same_rows_make_the_same_bytes() {
    for format in [Format::Parquet, Format::Jsonl] {
        for_any(format, |spec, rows| assert_eq!(written(spec, rows, 0), written(spec, rows, 0)));
    }
}

/// A row of a text.
fn text(row: u64, values: Vec<f32>) -> Done {
    let embedding = Embedding::normalized(values, SPACE);
    Done { row, id: row.to_string(), segment_ms: None, embedding, media: None, ranked: None, truncated: false }
}

#[test]
fn a_large_table_has_several_row_groups() {
    let mut writer = PartWriter::new(&spec(Format::Parquet, OutputDtype::F32), SPACE, 1 << 10, 1 << 30);
    // Values that do not compress.
    let values = |row: u64| (0..1u64 << 10).map(|at| ((row * 1031 + at) as f32 * 0.7).sin()).collect();
    (0..9_000).for_each(|row| writer.push(&text(row, values(row))).expect("it fits"));
    let part = writer.finish(0).expect("it can be written").remove(0).1;
    let builder = table(&part);
    let groups = builder.metadata().row_groups();
    let sizes: Vec<i64> = groups.iter().map(|group| group.compressed_size()).collect();
    assert!(groups.len() >= 2 && sizes.iter().all(|&bytes| bytes < 40 << 20), "{sizes:?}");
    assert_eq!(groups.iter().map(|group| group.num_rows()).sum::<i64>(), 9_000);
}

#[test]
fn a_part_over_its_bound_says_what_to_change() {
    for format in [Format::Parquet, Format::Jsonl] {
        let mut writer = PartWriter::new(&spec(format, OutputDtype::F32), SPACE, DIMENSIONS, 100_000);
        let pushed = (0..).find_map(|row| writer.push(&text(row, vec![0.5; DIMENSIONS])).err()).expect("it is bounded");
        let message = pushed.to_string();
        assert!(
            message.starts_with("at row ") && message.contains("jobs.part_bytes_max is 100000: rows_a_part is 10"),
            "{message}"
        );
    }
    let mut writer = PartWriter::new(&spec(Format::Parquet, OutputDtype::F32), SPACE, DIMENSIONS, 100_000);
    assert!((0..).find_map(|row| writer.fail(&failed(row)).err()).is_some(), "errors count too");
}

#[test]
fn vectors_of_another_space_or_length_are_not_mixed_in() {
    let mut writer = PartWriter::new(&spec(Format::Parquet, OutputDtype::F32), SPACE, DIMENSIONS, 1 << 20);
    let other = Embedding { space: Space::from_bytes([9; 8]), ..text(0, vec![0.5; DIMENSIONS]).embedding };
    let fault = writer.push(&Done { embedding: other, ..text(4, vec![]) }).expect_err("another space").to_string();
    assert_eq!(fault, "row 4 is of space 0909090909090909, its job of space 0102030405060708");
    let fault = writer.push(&text(5, vec![0.5; 2])).expect_err("too short").to_string();
    assert_eq!(fault, "row 5: dimensions is 6, must be from 1 to 2");
}

fn failed(row: u64) -> Failed {
    let failure = Failure { code: Code::InvalidArgument, message: format!("text: row {row}\nis \"empty\"") };
    Failed { row, id: format!("é{row}"), failure }
}

#[tokio::test]
async fn errors_are_read_page_by_page() {
    let directory = tempfile::tempdir().expect("a folder");
    let location = directory.path().to_str().expect("UTF-8");
    let files = Files::open(location, &ObjectSettings::default()).expect("a place");
    let mut writer = PartWriter::new(&spec(Format::Jsonl, OutputDtype::F32), SPACE, DIMENSIONS, 1 << 30);
    let mut all: Vec<Failed> = (0..25).map(failed).collect();
    all[7].id = "x".repeat(2 * PAGE);
    all.iter().for_each(|failed| writer.fail(failed).expect("it fits"));
    let parts = writer.finish(7).expect("it can be written");
    let [(name, bytes)] = parts.try_into().expect("only errors");
    assert_eq!(name, "_errors-00007.jsonl");
    files.put(&name, bytes).await.expect("there is room");
    for max in [1, 4, 25, 1000] {
        let (mut read, mut from) = (vec![], Some(ErrorsToken { shard: 7, byte: 0 }));
        while let Some(token) = from {
            let (page, next) = read_errors(&files, token, max).await.expect("readable");
            assert!((1..=max).contains(&page.len()));
            read.extend(page);
            from = next.map(|next| next.to_string().parse().expect("a token"));
        }
        assert_eq!(read, all);
    }
    for (token, problem) in [
        (ErrorsToken { shard: 7, byte: 3 }, "page_token: is \"7.3\", must be a token that an answer brought"),
        (ErrorsToken { shard: 7, byte: u64::MAX }, "page_token: is \"7.18446744073709551615\", must be"),
        (ErrorsToken { shard: 8, byte: 0 }, "_errors-00008.jsonl: it is gone"),
    ] {
        let error = read_errors(&files, token, 9).await.expect_err("no such place").to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert!("7".parse::<ErrorsToken>().is_err() && "a.b".parse::<ErrorsToken>().is_err());
}

/// More than a page holds.
const PAGE: usize = 1 << 20;
