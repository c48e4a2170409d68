//! What a job is asked to do, as it is said on the command line: the same words whether a server is to do it or this
//! process.

use std::path::Path;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::jobs::{Columns, Format, Input, InputKind, Output, OutputDtype, Rank, Segments, Spec, Vectors};
use crate::service::proto;
use crate::settings::Settings;

/// The options that say what a job does.
#[derive(Debug, clap::Args)]
pub(super) struct Asked {
    /// A directory or glob pattern of images and clips; a .jsonl file with {"id", "media", "question"} or {"id", "text"}
    /// a line; a .parquet file.
    pub(super) input: String,
    /// Directory of the parts, or an object store's URL; its own for each job.
    #[arg(long, value_name = "DIR")]
    pub(super) out: String,
    /// How the input is read, if its name does not tell.
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Question about every image or clip whose row brings none.
    #[arg(long)]
    question: Option<String>,
    /// Answers to choose from, separated by commas; adds the nearest one and all scores to each row.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    choices: Vec<String>,
    /// Keep the first N dimensions of each embedding.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    dimensions: Option<u32>,
    /// Leave a shortened embedding as long as it is, instead of scaling it to unit length.
    #[arg(long, requires = "dimensions")]
    no_normalize: bool,
    /// Type of the embeddings' values.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: Dtype,
    /// How parts are written.
    #[arg(long, default_value = "parquet")]
    format: PartFormat,
    /// Input rows of one part; 1024 if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows_per_part: Option<u32>,
    /// Rows that may fail before the job does; all may if not given.
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    /// Time that one row gets, such as 30s or 500ms.
    #[arg(long, value_name = "TIME", value_parser = super::milliseconds)]
    item_timeout: Option<u64>,
    /// Place among other jobs.
    #[arg(long, default_value = "normal")]
    priority: Priority,
    /// Cut clips into segments of so many milliseconds; one row each.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    segment_window: Option<u64>,
    /// From the beginning of one segment to that of the next; the window if not given.
    #[arg(long, value_name = "MS", requires = "segment_window", value_parser = clap::value_parser!(u64).range(1..))]
    segment_stride: Option<u64>,
    /// Name of the column or field with the caller's id; "id" if not given.
    #[arg(long, value_name = "NAME")]
    id_column: Option<String>,
    /// Name of the column or field with a media file's path; "media" if not given.
    #[arg(long, value_name = "NAME")]
    media_column: Option<String>,
    /// Name of the column with a media file's bytes (Parquet); "bytes" if not given.
    #[arg(long, value_name = "NAME")]
    bytes_column: Option<String>,
    /// Name of the column or field with a question; "question" if not given.
    #[arg(long, value_name = "NAME")]
    question_column: Option<String>,
    /// Name of the column or field with a text; "text" if not given.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Files,
    Jsonl,
    Parquet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
    Int8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PartFormat {
    Parquet,
    Jsonl,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Priority {
    Low,
    Normal,
    High,
}

impl Asked {
    /// For a server, which judges it.
    pub(super) fn message(&self) -> anyhow::Result<proto::JobSpec> {
        let columns = proto::JobColumns {
            id: self.id_column.clone().unwrap_or_default(),
            media: self.media_column.clone().unwrap_or_default(),
            bytes: self.bytes_column.clone().unwrap_or_default(),
            question: self.question_column.clone().unwrap_or_default(),
            text: self.text_column.clone().unwrap_or_default(),
        };
        let kind = match self.kind {
            None => proto::JobInputKind::Unspecified,
            Some(Kind::Files) => proto::JobInputKind::Files,
            Some(Kind::Jsonl) => proto::JobInputKind::Jsonl,
            Some(Kind::Parquet) => proto::JobInputKind::Parquet,
        };
        let format = match self.format {
            PartFormat::Parquet => proto::JobFormat::Parquet,
            PartFormat::Jsonl => proto::JobFormat::Jsonl,
        };
        let dtype = match self.dtype {
            Dtype::F32 => proto::Dtype::F32,
            Dtype::F16 => proto::Dtype::F16,
            Dtype::Int8 => proto::Dtype::Int8,
        };
        let rank = match self.priority {
            Priority::Low => proto::JobRank::Low,
            Priority::Normal => proto::JobRank::Normal,
            Priority::High => proto::JobRank::High,
        };
        let stride_ms = self.segment_stride.unwrap_or(0);
        Ok(proto::JobSpec {
            model: String::new(),
            input: Some(proto::JobInput { location: self.input.clone(), kind: kind as i32, columns: Some(columns) }),
            output: Some(proto::JobOutput {
                location: self.out.clone(),
                format: format as i32,
                rows_a_part: self.rows_per_part.unwrap_or(0),
            }),
            question: self.question.clone().unwrap_or_default(),
            candidates: self.candidates()?,
            segments: self.segment_window.map(|window_ms| proto::JobSegments { window_ms, stride_ms }),
            embedding: Some(proto::OutputOptions {
                dimensions: self.dimensions.unwrap_or(0),
                normalize: Some(!self.no_normalize),
                dtype: dtype as i32,
            }),
            errors_max: self.max_errors,
            item_timeout_ms: self.item_timeout.unwrap_or(0),
            rank: rank as i32,
        })
    }

    /// For this process, with a model called `model` of so many dimensions.
    pub(super) fn spec(&self, model: &str, dimensions: usize, settings: &Settings) -> anyhow::Result<Spec> {
        let candidates = self.candidates()?;
        let max = settings.text.candidates_max;
        ensure!(candidates.len() <= max, "--choices has {} choices, at most {max}", candidates.len());
        let long = self.question.iter().chain(&candidates).map(String::len).max().unwrap_or(0);
        let max = settings.text.bytes_max;
        ensure!(long <= max, "--question or one of --choices is {long} bytes, at most {max}");
        let asked = self.dimensions.map(|asked| asked as usize);
        ensure!(
            asked.is_none_or(|asked| asked <= dimensions),
            "--dimensions is {}, must be 1 to {dimensions}",
            asked.unwrap_or(0)
        );
        let (rows, max) = (self.rows_per_part.map(u64::from), settings.jobs.part_rows_max as u64);
        ensure!(rows.is_none_or(|rows| rows <= max), "--rows-per-part is {}, must be 1 to {max}", rows.unwrap_or(0));
        let (patience, max) =
            (self.item_timeout.unwrap_or(settings.service.deadline_default_ms), settings.service.deadline_max_ms);
        ensure!((1..=max).contains(&patience), "--item-timeout is {patience} ms, must be 1 to {max} ms");
        let input = self.input()?;
        ensure!(
            self.question.is_some() || input.kind != InputKind::Files,
            "--question is missing, media files bring none of their own"
        );
        let stride_ms = |window_ms| self.segment_stride.unwrap_or(window_ms);
        Ok(Spec {
            model: model.into(),
            input,
            output: Output {
                location: whole(&self.out)?,
                format: match self.format {
                    PartFormat::Parquet => Format::Parquet,
                    PartFormat::Jsonl => Format::Jsonl,
                },
                rows_a_part: rows.unwrap_or(Output::ROWS_A_PART.min(settings.jobs.part_rows_max as u64)),
            },
            question: self.question.clone(),
            candidates,
            segments: self.segment_window.map(|window_ms| Segments { window_ms, stride_ms: stride_ms(window_ms) }),
            vectors: Vectors {
                dimensions: asked.filter(|&asked| asked < dimensions),
                normalize: !self.no_normalize,
                dtype: match self.dtype {
                    Dtype::F32 => OutputDtype::F32,
                    Dtype::F16 => OutputDtype::F16,
                    Dtype::Int8 => OutputDtype::Int8,
                },
            },
            errors_max: self.max_errors,
            item_ms_max: patience,
            rank: match self.priority {
                Priority::Low => Rank::Low,
                Priority::Normal => Rank::Normal,
                Priority::High => Rank::High,
            },
        })
    }

    fn input(&self) -> anyhow::Result<Input> {
        let kind = match self.kind {
            None => InputKind::of(&self.input),
            Some(Kind::Files) => InputKind::Files,
            Some(Kind::Jsonl) => InputKind::Jsonl,
            Some(Kind::Parquet) => InputKind::Parquet,
        };
        let pattern = kind == InputKind::Files && self.input.contains(['*', '?', '[']);
        ensure!(pattern || Path::new(&self.input).exists(), "{}: no such file or directory", self.input);
        let Columns { id, media, bytes, question, text } = Columns::default();
        let columns = Columns {
            id: self.id_column.clone().unwrap_or(id),
            media: self.media_column.clone().unwrap_or(media),
            bytes: self.bytes_column.clone().unwrap_or(bytes),
            question: self.question_column.clone().unwrap_or(question),
            text: self.text_column.clone().unwrap_or(text),
        };
        // Who asks is who runs it: rows may name what this process may read.
        Ok(Input { location: whole(&self.input)?, kind, columns, fenced: false })
    }

    fn candidates(&self) -> anyhow::Result<Vec<String>> {
        let choices: Vec<String> = self.choices.iter().map(|choice| choice.trim().to_owned()).collect();
        ensure!(choices.iter().all(|choice| !choice.is_empty()), "--choices has an empty choice");
        Ok(choices)
    }
}

/// A location that means the same from wherever the command is given.
fn whole(location: &str) -> anyhow::Result<String> {
    if location.contains("://") {
        return Ok(location.into());
    }
    let path = std::path::absolute(location).with_context(|| location.to_owned())?;
    path.into_os_string().into_string().map_err(|_| anyhow::anyhow!("{location}: its whole path is no UTF-8"))
}
