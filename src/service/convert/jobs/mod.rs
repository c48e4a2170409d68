//! What JobService is asked: a job to make, pages, names. `locations.rs` judges where a job may read and write,
//! `told.rs` is the way back.

mod locations;
mod told;

use tonic::Request;

use super::{Checked, count, invalid, text};
use crate::embedding::Dtype;
use crate::engine::{EngineError, Models, shortened};
use crate::jobs::{
    Columns, Format, Input, InputKind, JobId, NewJob, Output, OutputDtype, Rank, Segments, Spec, Vectors,
};
use crate::service::proto::{self, JobFormat, JobInputKind, JobRank};
use crate::settings::Settings;

pub(in crate::service) use locations::Grounds;
pub(in crate::service) use told::{job, job_errors, jobs};

const TITLE_BYTES_MAX: usize = 200;
const REQUEST_ID_BYTES_MAX: usize = 64;
const COLUMN_BYTES_MAX: usize = 128;
const SEGMENT_MS_MAX: u64 = 86_400_000;
const JOB_ID_LENGTH: usize = 16;
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// The model that a job is for.
pub(in crate::service) struct Target<'a> {
    /// Its name.
    pub model: String,
    /// Dimensions of its space.
    pub dimensions: usize,
    /// The server's.
    pub settings: &'a Settings,
}

/// CreateJob's job, its locations found.
pub(in crate::service) async fn new_job(
    request: Request<proto::CreateJobRequest>,
    models: &Models,
    grounds: &Grounds,
) -> Checked<NewJob> {
    let (owner, request) = (job_owner(&request), request.into_inner());
    let (model, engine) = models.entry(request.spec.as_ref().map_or("", |spec| &spec.model))?;
    let target = Target { model, dimensions: engine.dimensions(), settings: models.settings() };
    let mut new = asked(request, owner, &target)?;
    let (grounds, spec) = (grounds.clone(), &mut new.spec);
    let (input, output) = (spec.input.location.clone(), spec.output.location.clone());
    let found = tokio::task::spawn_blocking(move || grounds.find(&input, &output)).await;
    let found = found.map_err(|error| EngineError::Internal(error.to_string()))?;
    (spec.input.location, spec.output.location) = found?;
    if spec.question.is_none() && spec.input.kind == InputKind::Files {
        return Err(invalid("spec.question", "is empty, media files bring none of their own"));
    }
    Ok(new)
}

/// CreateJob's job; its locations are as the client gave them.
pub(in crate::service) fn asked(
    request: proto::CreateJobRequest,
    owner: Option<String>,
    target: &Target,
) -> Checked<NewJob> {
    let proto::CreateJobRequest { spec, title, request_id } = request;
    let spec = spec.ok_or_else(|| invalid("spec", "is missing"))?;
    let spec = spec_of(spec, target).map_err(|error| error.within("spec"))?;
    plain("title", &title, TITLE_BYTES_MAX)?;
    let named = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if request_id.len() > REQUEST_ID_BYTES_MAX || !request_id.chars().all(named) {
        let problem = format!(
            "is {:?}, must be 0 to {REQUEST_ID_BYTES_MAX} letters, digits, \".\", \"-\", \"_\"",
            shortened(&request_id)
        );
        return Err(invalid("request_id", problem));
    }
    Ok(NewJob { spec, title, owner, request_id })
}

fn spec_of(spec: proto::JobSpec, target: &Target) -> Checked<Spec> {
    let settings = target.settings;
    let input = input(spec.input.ok_or_else(|| invalid("input", "is missing"))?)?;
    let output = output(spec.output.ok_or_else(|| invalid("output", "is missing"))?, settings)?;
    let question = match spec.question.is_empty() {
        true => None,
        false => Some(text("question", spec.question, settings)?),
    };
    count("candidates", spec.candidates.len(), 0, settings.text.candidates_max)?;
    let candidate = |(at, one)| text(&format!("candidates[{at}]"), one, settings);
    let (default, max) = (settings.service.deadline_default_ms, settings.service.deadline_max_ms);
    let timeout = spec.item_timeout_ms;
    number("item_timeout_ms", timeout, 0, max)?;
    Ok(Spec {
        model: target.model.clone(),
        input,
        output,
        question,
        candidates: (0..).zip(spec.candidates).map(candidate).collect::<Checked<_>>()?,
        segments: spec.segments.map(segments).transpose()?,
        vectors: vectors(spec.embedding.unwrap_or_default(), target.dimensions)?,
        errors_max: spec.errors_max,
        item_ms_max: if timeout == 0 { default.min(max) } else { timeout },
        rank: match known("rank", spec.rank)? {
            JobRank::Low => Rank::Low,
            JobRank::Unspecified | JobRank::Normal => Rank::Normal,
            JobRank::High => Rank::High,
        },
    })
}

fn input(proto::JobInput { location, kind, columns }: proto::JobInput) -> Checked<Input> {
    locations::checked(&location).map_err(|problem| invalid("input.location", problem))?;
    let kind = match known("input.kind", kind)? {
        JobInputKind::Unspecified => InputKind::of(&location),
        JobInputKind::Files => InputKind::Files,
        JobInputKind::Jsonl => InputKind::Jsonl,
        JobInputKind::Parquet => InputKind::Parquet,
    };
    let defaults = Columns::default();
    let asked = columns.unwrap_or_default();
    let column = |name: &str, asked: String, default: String| {
        plain(&format!("input.columns.{name}"), &asked, COLUMN_BYTES_MAX)?;
        Ok(if asked.is_empty() { default } else { asked })
    };
    let columns = Columns {
        id: column("id", asked.id, defaults.id)?,
        media: column("media", asked.media, defaults.media)?,
        bytes: column("bytes", asked.bytes, defaults.bytes)?,
        question: column("question", asked.question, defaults.question)?,
        text: column("text", asked.text, defaults.text)?,
    };
    Ok(Input { location, kind, columns, fenced: true })
}

fn output(
    proto::JobOutput { location, format, rows_a_part }: proto::JobOutput,
    settings: &Settings,
) -> Checked<Output> {
    locations::checked(&location).map_err(|problem| invalid("output.location", problem))?;
    let (rows, max) = (rows_a_part as usize, settings.jobs.part_rows_max);
    count("output.rows_a_part", rows, 0, max)?;
    let format = match known("output.format", format)? {
        JobFormat::Unspecified | JobFormat::Parquet => Format::Parquet,
        JobFormat::Jsonl => Format::Jsonl,
    };
    let rows_a_part = if rows == 0 { Output::ROWS_A_PART.min(max as u64) } else { rows as u64 };
    Ok(Output { location, format, rows_a_part })
}

fn segments(proto::JobSegments { window_ms, stride_ms }: proto::JobSegments) -> Checked<Segments> {
    number("segments.window_ms", window_ms, 1, SEGMENT_MS_MAX)?;
    number("segments.stride_ms", stride_ms, 0, SEGMENT_MS_MAX)?;
    Ok(Segments { window_ms, stride_ms: if stride_ms == 0 { window_ms } else { stride_ms } })
}

fn vectors(options: proto::OutputOptions, dimensions_max: usize) -> Checked<Vectors> {
    let asked = super::output(Some(options), dimensions_max).map_err(|error| match error {
        EngineError::Invalid { field, problem } => invalid(field.replacen("output", "embedding", 1), problem),
        other => other,
    })?;
    let dtype = match asked.dtype {
        Dtype::F32 => OutputDtype::F32,
        Dtype::F16 => OutputDtype::F16,
        Dtype::Int8 => OutputDtype::Int8,
        Dtype::Binary => {
            return Err(invalid("embedding.dtype", "is DTYPE_BINARY, must be DTYPE_F32, DTYPE_F16 or DTYPE_INT8"));
        }
    };
    let dimensions = Some(asked.dimensions).filter(|&dimensions| dimensions < dimensions_max);
    Ok(Vectors { dimensions, normalize: asked.normalize, dtype })
}

/// Who asks, as far as jobs are concerned.
pub(in crate::service) fn job_owner<T>(request: &Request<T>) -> Option<String> {
    super::owner(request).map(|owner| owner.to_string())
}

/// A job's name. One that no job can have is not looked for.
pub(in crate::service) fn job_id(id: &str) -> Checked<JobId> {
    match id.is_empty() {
        true => Err(invalid("id", "is empty")),
        false => named(id).ok_or_else(|| EngineError::Gone { what: "job", name: shortened(id) }),
    }
}

/// The most that one page may hold.
fn page_size(asked: u32) -> Checked<usize> {
    count("page_size", asked as usize, 0, PAGE_MAX)?;
    Ok(if asked == 0 { PAGE_DEFAULT } else { asked as usize })
}

/// The job after which a page of jobs begins, and how many it may have.
pub(in crate::service) fn job_page(request: &proto::ListJobsRequest) -> Checked<(Option<JobId>, usize)> {
    let proto::ListJobsRequest { page_size: size, page_token: token } = request;
    let after = (!token.is_empty()).then(|| named(token).ok_or_else(|| strange(token))).transpose()?;
    Ok((after, page_size(*size)?))
}

fn strange(token: &str) -> EngineError {
    invalid("page_token", format!("is {:?}, which no answer had", shortened(token)))
}

/// What may be the name of a job.
fn named(id: &str) -> Option<JobId> {
    let drawn =
        id.len() == JOB_ID_LENGTH && id.bytes().all(|letter| letter.is_ascii_digit() || letter.is_ascii_lowercase());
    drawn.then(|| JobId(id.into()))
}

fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Checked<E> {
    E::try_from(value).map_err(|_| invalid(field, format!("is {value}, which means nothing")))
}

fn number(field: &str, value: u64, min: u64, max: u64) -> Checked<()> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(invalid(field, format!("is {value}, must be from {min} to {max}"))),
    }
}

/// A name that people are shown: short, and nothing that a terminal would act on.
fn plain(field: &str, text: &str, bytes_max: usize) -> Checked<()> {
    match text.len() {
        bytes if bytes > bytes_max => Err(invalid(field, format!("is {bytes} bytes, at most {bytes_max}"))),
        _ if text.chars().any(char::is_control) => Err(invalid(field, "has control characters")),
        _ => Ok(()),
    }
}
pub(in crate::service) fn errors_page(request: &proto::ListJobErrorsRequest) -> Checked<(JobId, (String, usize))> {
    let proto::ListJobErrorsRequest { id, page_size: size, page_token } = request;
    Ok((job_id(id)?, (page_token.clone(), page_size(*size)?)))
}
