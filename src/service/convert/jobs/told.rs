//! How jobs are told to clients.

use std::time::{Duration, UNIX_EPOCH};

use super::Grounds;
use crate::jobs::{
    Columns, ErrorsPage, Failed, Format, Input, InputKind, JobPage, JobView, Output, OutputDtype, Rank, Segments, Spec,
    State, Vectors,
};
use crate::service::proto::{self, Dtype, JobFormat, JobInputKind, JobRank, JobState};

/// A job as it stands.
pub(in crate::service) fn job(view: JobView, grounds: &Grounds) -> proto::Job {
    let progress = progress(&view);
    let job = view.job;
    proto::Job {
        id: job.id.0,
        title: job.title,
        state: state(job.state) as i32,
        reason: job.reason,
        progress: Some(progress),
        created: Some(time(job.created_ms)),
        started: job.started_ms.map(time),
        ended: job.ended_ms.map(time),
        space: job.plan.map(|plan| plan.space).unwrap_or_default(),
        spec: Some(spec(job.spec, grounds)),
    }
}

/// A row that failed.
fn job_error(failed: Failed) -> proto::JobError {
    let Failed { row, id, failure } = failed;
    proto::JobError { row, id, code: failure.code.name().into(), message: failure.message }
}

fn progress(view: &JobView) -> proto::JobProgress {
    let (plan, progress) = (view.job.plan.as_ref(), &view.job.progress);
    proto::JobProgress {
        rows: plan.map(|plan| plan.rows),
        succeeded: progress.tally.succeeded,
        failed: progress.tally.failed,
        skipped: progress.tally.skipped,
        in_work: view.in_work,
        parts: plan.map_or(0, |plan| plan.shards),
        parts_done: progress.shards,
        rows_per_second: view.rows_per_second,
        left_ms: view.left_ms,
        written: progress.tally.written,
    }
}

fn state(state: State) -> JobState {
    match state {
        State::Pending => JobState::Pending,
        State::Running => JobState::Running,
        State::Paused => JobState::Paused,
        State::Cancelling => JobState::Cancelling,
        State::Cancelled => JobState::Cancelled,
        State::Succeeded => JobState::Succeeded,
        State::Failed => JobState::Failed,
    }
}

fn time(ms: u64) -> prost_types::Timestamp {
    (UNIX_EPOCH + Duration::from_millis(ms)).into()
}

fn spec(spec: Spec, grounds: &Grounds) -> proto::JobSpec {
    let segments = |Segments { window_ms, stride_ms }| proto::JobSegments { window_ms, stride_ms };
    proto::JobSpec {
        model: spec.model,
        input: Some(input(spec.input, grounds)),
        output: Some(output(spec.output, grounds)),
        question: spec.question.unwrap_or_default(),
        candidates: spec.candidates,
        segments: spec.segments.map(segments),
        embedding: Some(embedding(spec.vectors)),
        errors_max: spec.errors_max,
        item_timeout_ms: spec.item_ms_max,
        rank: match spec.rank {
            Rank::Low => JobRank::Low,
            Rank::Normal => JobRank::Normal,
            Rank::High => JobRank::High,
        } as i32,
    }
}

fn input(Input { location, kind, columns, fenced: _ }: Input, grounds: &Grounds) -> proto::JobInput {
    let Columns { id, media, bytes, question, text } = columns;
    proto::JobInput {
        location: grounds.told(&location),
        kind: match kind {
            InputKind::Files => JobInputKind::Files,
            InputKind::Jsonl => JobInputKind::Jsonl,
            InputKind::Parquet => JobInputKind::Parquet,
        } as i32,
        columns: Some(proto::JobColumns { id, media, bytes, question, text }),
    }
}

fn output(Output { location, format, rows_a_part }: Output, grounds: &Grounds) -> proto::JobOutput {
    proto::JobOutput {
        location: grounds.told(&location),
        format: match format {
            Format::Parquet => JobFormat::Parquet,
            Format::Jsonl => JobFormat::Jsonl,
        } as i32,
        rows_a_part: rows_a_part as u32,
    }
}

fn embedding(Vectors { dimensions, normalize, dtype }: Vectors) -> proto::OutputOptions {
    proto::OutputOptions {
        dimensions: dimensions.unwrap_or(0) as u32,
        normalize: Some(normalize),
        dtype: match dtype {
            OutputDtype::F32 => Dtype::F32,
            OutputDtype::F16 => Dtype::F16,
            OutputDtype::Int8 => Dtype::Int8,
        } as i32,
    }
}

/// A page of jobs.
pub(in crate::service) fn jobs(page: JobPage, grounds: &Grounds) -> proto::ListJobsResponse {
    proto::ListJobsResponse {
        jobs: page.jobs.into_iter().map(|view| job(view, grounds)).collect(),
        next_page_token: page.next.map(|id| id.0).unwrap_or_default(),
    }
}

/// A page of rows that failed.
pub(in crate::service) fn job_errors(page: ErrorsPage) -> proto::ListJobErrorsResponse {
    proto::ListJobErrorsResponse {
        errors: page.errors.into_iter().map(job_error).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }
}
