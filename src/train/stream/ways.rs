//! The ways of choosing what is put into words: at a steady rate, by clustering the whole recording, or by the causal rule.
//!
//! A way gives spots: which embeddings, or the mean of which run of them, at which time. What becomes of them is the same
//! for all.

use std::ops::Range;

use super::recording::Recording;
use crate::segment::{Policy, Segmenter, midpoint};

/// Something that is put into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The time it stands for, milliseconds.
    pub at_ms: u64,
    /// The embeddings whose mean it is; one alone is itself.
    pub run: Range<usize>,
}

/// What of a segment is put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// One embedding: the middle one of a segment, or the one at which the causal rule decides.
    One,
    /// The mean of the segment, as far as it is known by then.
    Mean,
}

/// Every `step`-th embedding, from the one with index `first` on.
pub fn uniform(recording: &Recording, step: usize, first: usize) -> Vec<Spot> {
    let spot = |index: usize| Spot { at_ms: recording.middle_ms(index), run: index..index + 1 };
    (first..recording.rows.len()).step_by(step.max(1)).map(spot).collect()
}

/// One a segment of the recording cut into so many, at the middle of the segment.
pub fn ward(recording: &Recording, segments: usize, said: Said) -> Vec<Spot> {
    let spot = |run: Range<usize>| {
        let middle = midpoint(&run);
        let at_ms = recording.middle_ms(middle);
        Spot { at_ms, run: if said == Said::One { middle..middle + 1 } else { run } }
    };
    recording.tree.cut(segments).into_iter().map(spot).collect()
}

/// What the causal rule would say, each at the embedding at which it decides. It is given the ends of the windows as times,
/// as in a live session.
pub fn gate(recording: &Recording, policy: Policy, said: Said) -> Vec<Spot> {
    let mut segmenter = Segmenter::new(policy);
    let mut spots = Vec::new();
    for (index, (row, &[_, end_ms])) in recording.rows.iter().zip(&recording.windows).enumerate() {
        let made = segmenter.push(end_ms, row);
        if made.trigger.is_none() {
            continue;
        }
        let first = recording.windows.partition_point(|window| window[1] < made.segment_start_ms);
        let run = if said == Said::One { index..index + 1 } else { first.min(index)..index + 1 };
        spots.push(Spot { at_ms: recording.middle_ms(index), run });
    }
    spots
}
