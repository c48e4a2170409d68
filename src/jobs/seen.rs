//! The metrics of jobs: every name and label stands here, once. How many jobs are in which state is not recorded but
//! read when it is asked for.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use super::shard::Tally;

const ITEMS: &str = "vljepa_job_items_total";
const SHARD: &str = "vljepa_job_shard_duration_seconds";

/// Tells the recorder what the names mean.
pub fn describe() {
    describe_counter!(ITEMS, "Rows of jobs in parts that are written, by what became of them");
    describe_histogram!(SHARD, Unit::Seconds, "Time from the beginning of a shard until its part counts");
}

/// A shard is settled.
pub(super) fn settled(tally: &Tally) {
    let Tally { succeeded, failed, skipped, written: _ } = *tally;
    for (outcome, rows) in [("succeeded", succeeded), ("failed", failed), ("skipped", skipped)] {
        counter!(ITEMS, "outcome" => outcome).increment(rows);
    }
}

/// A shard took this long.
pub(super) fn shard(time: std::time::Duration) {
    histogram!(SHARD).record(time.as_secs_f64());
}
