//! Jobs, shards and attempts to test with.

use vljepa::jobs::{Format, Input, InputKind, Job, JobId, Output, Plan, Shard, Spec, Staged, StagedFile, Tally};

/// Something to do: `texts.jsonl` into `out`.
pub fn spec() -> Spec {
    let output = Output { format: Format::Jsonl, rows_a_part: 10, ..Output::new("out") };
    Spec { model: "tiny".into(), ..Spec::new(Input::new("texts.jsonl", InputKind::Jsonl), output) }
}

/// A job nobody has begun.
pub fn job(id: &str) -> Job {
    Job::new(JobId(id.into()), spec(), 1_700_000_000_000)
}

/// A job's shards, ten rows each.
pub fn shards(count: u32) -> Vec<Shard> {
    let shard = |index: u32| Shard {
        index,
        first_row: u64::from(index) * 10,
        rows: 10,
        start: u64::from(index) * 100,
        end: u64::from(index) * 100 + 100,
        digest: "d".repeat(64),
    };
    (0..count).map(shard).collect()
}

/// The plan with so many shards.
pub fn plan(shards: u32) -> Plan {
    Plan { shards, rows: u64::from(shards) * 10, space: "5".repeat(16) }
}

/// What an attempt at a shard has made: nine rows well, one badly.
pub fn staged(shard: u32, attempt: &str) -> Staged {
    let name = format!("part-{shard:05}.jsonl");
    let temporary = format!("_staged/{attempt}-{name}");
    let file = StagedFile { temporary, name, bytes: 900, sha256: "a".repeat(64) };
    let tally = Tally { succeeded: 9, failed: 1, skipped: 0, written: 9 };
    Staged { attempt: attempt.into(), files: vec![file], tally }
}
