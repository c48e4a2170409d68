//! The engine's metrics: every name and label stands here, once.
//!
//! They go to the `metrics` facade, which forgets them unless somebody above has installed a recorder. What can be
//! looked up at any time, such as the depth of the queue, is not recorded here but read when it is asked for.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use super::request::Class;

const QUEUE_WAIT: &str = "vljepa_queue_wait_seconds";
const STAGE: &str = "vljepa_stage_duration_seconds";
const BATCH_ITEMS: &str = "vljepa_batch_items";
const BATCH_COST: &str = "vljepa_batch_cost_tokens";
const REJECTED: &str = "vljepa_admission_rejected_total";
const FRAMES: &str = "vljepa_frames_total";

/// Histograms that count something else than seconds.
pub const COUNTED: [&str; 2] = [BATCH_ITEMS, BATCH_COST];

/// Tells the recorder what the names mean.
pub fn describe() {
    describe_histogram!(QUEUE_WAIT, Unit::Seconds, "Time from admission until the model begins");
    describe_histogram!(STAGE, Unit::Seconds, "Time of one stage; one that a batch shares counts once");
    describe_histogram!(BATCH_ITEMS, "Pieces of work that ran together");
    describe_histogram!(BATCH_COST, "Cost of what ran together, tokens");
    describe_counter!(REJECTED, "Work that was refused before it began, by reason");
    describe_counter!(FRAMES, "Frames, by what became of them: whether the model looked at them, and why it did not");
}

/// A piece of work has waited this long for `model`.
pub(super) fn waited(model: &Arc<str>, class: Class, time: Duration) {
    histogram!(QUEUE_WAIT, "model" => model.clone(), "class" => class.name()).record(time.as_secs_f64());
}

/// A stage of `model` took this long.
pub(super) fn stage(model: &Arc<str>, stage: &'static str, time: Duration) {
    histogram!(STAGE, "model" => model.clone(), "stage" => stage).record(time.as_secs_f64());
}

/// So much runs together.
pub(super) fn batch(model: &Arc<str>, items: usize, cost: usize) {
    histogram!(BATCH_ITEMS, "model" => model.clone()).record(items as f64);
    histogram!(BATCH_COST, "model" => model.clone()).record(cost as f64);
}

/// Work was refused.
pub fn refused(reason: &'static str) {
    counter!(REJECTED, "reason" => reason).increment(1);
}

/// Frames were decoded, and so many of them used.
pub(super) fn frames(decoded: usize, used: usize) {
    // A clip that is too short for the model has its frames looked at more than once.
    let used = used.min(decoded);
    became("used", used as u64);
    became("skipped", (decoded - used) as u64);
}

/// So many frames came to this: `used` and `skipped` are told by the engine of clips; live sessions tell of theirs, which
/// may be `still`, `dropped` or `failed` as well.
pub fn became(outcome: &'static str, frames: u64) {
    counter!(FRAMES, "outcome" => outcome).increment(frames);
}
