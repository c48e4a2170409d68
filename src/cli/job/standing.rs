//! How a job stands, as the commands show it: the same whether a server tells it or a run in this process knows it.

use serde_json::{Value, json};

use crate::jobs::{JobView, State};
use crate::service::proto;

/// A job, plain.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    pub id: String,
    pub title: String,
    pub state: State,
    pub reason: String,
    pub model: String,
    pub input: String,
    pub output: String,
    pub progress: Progress,
    /// Fingerprint of its embeddings' space; empty before it has begun.
    pub space: String,
    /// Milliseconds since 1970: made, begun, ended.
    pub times_ms: [Option<u64>; 3],
}

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Progress {
    /// Rows of the input, once it is cut.
    pub rows: Option<u64>,
    pub succeeded: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Rows in parts that are written.
    pub written: u64,
    pub in_work: u64,
    pub parts: u32,
    pub parts_done: u32,
    pub rows_per_second: f64,
    pub left_ms: Option<u64>,
}

impl Progress {
    /// Rows that are through, also in parts that are not written yet.
    pub fn through(&self) -> u64 {
        self.settled() + self.in_work
    }

    /// Rows of parts that are written.
    fn settled(&self) -> u64 {
        self.succeeded + self.failed + self.skipped
    }

    /// On one line, such as `120 of 400 rows, 2 failed, 3 of 10 parts, 41.2 rows/s, 6 s left`.
    pub fn line(&self) -> String {
        let Some(rows) = self.rows else { return "the input is being looked at".into() };
        let mut line = format!("{} of {rows} rows", self.through().min(rows));
        for (count, what) in [(self.failed, "failed"), (self.skipped, "skipped")] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        line += &format!(", {} of {} parts", self.parts_done, self.parts);
        if self.rows_per_second > 0.0 {
            line += &format!(", {:.1} rows/s", self.rows_per_second);
        }
        if let Some(left) = self.left_ms {
            line += &format!(", {} left", duration(left));
        }
        line
    }
}

impl Standing {
    /// On one line, with its state.
    pub fn line(&self) -> String {
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!("{}{reason}; {}", self.state.name(), self.progress.line())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Self { id, title, state, reason, model, input, output, progress, space, times_ms } = self;
        let [created_ms, started_ms, ended_ms] = times_ms;
        json!({
            "id": id, "title": title, "state": state.name(), "reason": reason, "model": model, "input": input,
            "output": output, "space": space, "created_ms": created_ms, "started_ms": started_ms,
            "ended_ms": ended_ms, "rows": progress.rows, "succeeded": progress.succeeded, "failed": progress.failed,
            "skipped": progress.skipped, "written": progress.written, "in_work": progress.in_work,
            "parts": progress.parts, "parts_done": progress.parts_done,
            "rows_per_second": progress.rows_per_second, "left_ms": progress.left_ms,
        })
    }

    /// Each fact with its name, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let [created, started, ended] = self.times_ms;
        let between = |from: Option<u64>, to: Option<u64>| Some(duration(to?.saturating_sub(from?)));
        let facts = [
            ("job", Some(self.id.clone())),
            ("title", Some(self.title.clone())),
            ("state", Some(self.state.name().to_owned())),
            ("reason", Some(self.reason.clone())),
            ("progress", Some(self.progress.line())),
            ("rows written", Some(self.progress.written.to_string())),
            ("model", Some(self.model.clone())),
            ("input", Some(self.input.clone())),
            ("output", Some(self.output.clone())),
            ("space", Some(self.space.clone())),
            ("made", created.map(utc)),
            ("took", between(started, ended)),
        ];
        let told = facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)));
        told.filter(|(_, fact)| !fact.is_empty()).collect()
    }
}

impl From<JobView> for Standing {
    fn from(view: JobView) -> Self {
        let (job, plan) = (view.job, |plan: &crate::jobs::Plan| (plan.rows, plan.shards));
        let planned = job.plan.as_ref().map(plan);
        let tally = job.progress.tally;
        let progress = Progress {
            rows: planned.map(|(rows, _)| rows),
            succeeded: tally.succeeded,
            failed: tally.failed,
            skipped: tally.skipped,
            written: tally.written,
            in_work: view.in_work,
            parts: planned.map_or(0, |(_, parts)| parts),
            parts_done: job.progress.shards,
            rows_per_second: view.rows_per_second,
            left_ms: view.left_ms,
        };
        Self {
            id: job.id.0,
            title: job.title,
            state: job.state,
            reason: job.reason,
            model: job.spec.model,
            input: job.spec.input.location,
            output: job.spec.output.location,
            progress,
            space: job.plan.map(|plan| plan.space).unwrap_or_default(),
            times_ms: [Some(job.created_ms), job.started_ms, job.ended_ms],
        }
    }
}

impl From<proto::Job> for Standing {
    fn from(job: proto::Job) -> Self {
        let state = job.state();
        let (spec, told) = (job.spec.unwrap_or_default(), job.progress.unwrap_or_default());
        let progress = Progress {
            rows: told.rows,
            succeeded: told.succeeded,
            failed: told.failed,
            skipped: told.skipped,
            written: told.written,
            in_work: told.in_work,
            parts: told.parts,
            parts_done: told.parts_done,
            rows_per_second: told.rows_per_second,
            left_ms: told.left_ms,
        };
        // Before 1970 there were no jobs.
        let ms = |seconds: i64, nanos: i32| 1000 * seconds.unsigned_abs() + u64::from(nanos.unsigned_abs()) / 1_000_000;
        let times = [job.created, job.started, job.ended];
        Self {
            id: job.id,
            title: job.title,
            state: state_of(state),
            reason: job.reason,
            model: spec.model,
            input: spec.input.map(|input| input.location).unwrap_or_default(),
            output: spec.output.map(|output| output.location).unwrap_or_default(),
            progress,
            space: job.space,
            times_ms: times.map(|time| time.map(|time| ms(time.seconds, time.nanos))),
        }
    }
}

/// A state that this program does not know yet is one that goes on.
fn state_of(state: proto::JobState) -> State {
    use proto::JobState;
    match state {
        JobState::Pending => State::Pending,
        JobState::Unspecified | JobState::Running => State::Running,
        JobState::Paused => State::Paused,
        JobState::Cancelling => State::Cancelling,
        JobState::Cancelled => State::Cancelled,
        JobState::Succeeded => State::Succeeded,
        JobState::Failed => State::Failed,
    }
}

/// A time as people say it: `12.3 s`, `4 min 5 s`, `2 h 3 min`.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{:.1} s", ms as f64 / 1e3),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A moment, such as `2026-11-23 01:20:14 UTC`.
pub(super) fn utc(ms: u64) -> String {
    let moment = prost_types::Timestamp { seconds: (ms / 1000) as i64, nanos: 0 };
    moment.to_string().replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_as_the_calendar_has_them() {
        for (ms, told) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_000, "2024-02-29 23:59:59 UTC"),
            (1_735_689_599_000, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(ms), told);
        }
        assert_eq!(
            [900, 59_949, 60_000, 245_000, 7_380_000].map(duration).join(", "),
            "0.9 s, 59.9 s, 1 min 0 s, 4 min 5 s, 2 h 3 min"
        );
    }

    #[test]
    fn a_line_tells_what_there_is_to_tell() {
        let mut progress = Progress::default();
        assert_eq!(progress.line(), "the input is being looked at");
        progress.rows = Some(400);
        progress.parts = 10;
        assert_eq!(progress.line(), "0 of 400 rows, 0 of 10 parts");
        (progress.succeeded, progress.failed, progress.in_work) = (100, 2, 18);
        (progress.parts_done, progress.rows_per_second, progress.left_ms) = (3, 41.16, Some(6_000));
        assert_eq!(progress.line(), "120 of 400 rows, 2 failed, 3 of 10 parts, 41.2 rows/s, 6.0 s left");
    }
}
