//! The metrics of live sessions: what became of frames, and why embeddings became words or did not. How many sessions there
//! are is not recorded but read when it is asked for.

use metrics::{Unit, counter, describe_counter};

use super::event::Trigger;
use crate::engine::seen::became;
use crate::segment::{self, Held};

const DECISIONS: &str = "vljepa_selective_decode_total";

/// Tells the recorder what the names mean.
pub fn describe() {
    describe_counter!(DECISIONS, Unit::Count, "Embeddings of live sessions, by why they became words or did not");
}

/// So many frames of a session came to this.
pub(super) fn frames(outcome: &'static str, frames: u64) {
    if frames > 0 {
        became(outcome, frames);
    }
}

/// An embedding becomes words.
pub(super) fn spoken(trigger: Trigger) {
    let decision = match trigger {
        Trigger::Rule(segment::Trigger::First) => "first",
        Trigger::Rule(segment::Trigger::Drift) => "drift",
        Trigger::Rule(segment::Trigger::MaxSilence) => "max_silence",
        Trigger::QueryChanged => "query_changed",
        Trigger::Flush => "flush",
        Trigger::Uniform => "uniform",
        Trigger::Speak => "speak",
    };
    decided(decision);
}

/// An embedding does not.
pub(super) fn silent(held: Option<Held>) {
    decided(match held {
        None => "unchanged",
        Some(Held::Unsettled) => "unsettled",
        Some(Held::Gap) => "gap",
        Some(Held::Budget) => "budget",
    });
}

fn decided(decision: &'static str) {
    counter!(DECISIONS, "decision" => decision).increment(1);
}
