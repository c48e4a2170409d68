//! How well the distance of consecutive embeddings tells where something happens.

use super::recording::Recording;
use crate::segment::cosine_distance;
use crate::train::world::Event;

/// Distances of consecutive embeddings, by what both windows together show. A step at a cut counts for the cut alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Separation {
    /// Chance that a step at a cut is longer than one where nothing happens.
    pub cut_auc: f64,
    /// Chance that a step at an event is longer than one where nothing happens.
    pub event_auc: f64,
    /// Mean distance at cuts.
    pub cut_mean: f64,
    /// Mean distance at events.
    pub event_mean: f64,
    /// Mean distance where nothing happens.
    pub hold_mean: f64,
}

impl Separation {
    /// Of the steps of some recordings.
    pub fn of(recordings: &[Recording]) -> Separation {
        let (mut cuts, mut events, mut holds) = (Vec::new(), Vec::new(), Vec::new());
        for recording in recordings {
            for (rows, windows) in recording.rows.windows(2).zip(recording.windows.windows(2)) {
                let wide = |row: &[f32]| row.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
                let distance = cosine_distance(&wide(&rows[0]), &wide(&rows[1]));
                let (start, end) = (windows[0][0], windows[1][1]);
                let (mut cut, mut event) = (false, false);
                for shown in recording.annotations.iter().filter(|a| a.start_ms < end && a.end_ms > start) {
                    cut |= shown.cut && shown.start_ms > start;
                    event |= shown.event != Event::Nothing;
                }
                match (cut, event) {
                    (true, _) => cuts.push(distance),
                    (false, true) => events.push(distance),
                    (false, false) => holds.push(distance),
                }
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Separation {
            cut_auc: auc(&cuts, &holds),
            event_auc: auc(&events, &holds),
            cut_mean: mean(&cuts),
            event_mean: mean(&events),
            hold_mean: mean(&holds),
        }
    }
}

/// Area under the ROC curve: the share of pairs in which the positive is the larger; equal ones count half. One half where
/// there are no pairs.
fn auc(positive: &[f64], negative: &[f64]) -> f64 {
    let pairs = positive.len() as f64 * negative.len() as f64;
    if pairs == 0.0 {
        return 0.5;
    }
    let mut sorted = negative.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = |value: &f64| {
        let (less, most) = (sorted.partition_point(|n| n < value), sorted.partition_point(|n| n <= value));
        less as f64 + (most - less) as f64 / 2.0
    };
    positive.iter().map(below).sum::<f64>() / pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs() {
        assert_eq!(auc(&[3.0, 1.0], &[0.0, 2.0]), 0.75);
        assert_eq!(auc(&[1.0], &[1.0]), 0.5);
        assert_eq!(auc(&[2.0, 2.0], &[1.0, 1.5, 0.0]), 1.0);
        assert_eq!((auc(&[], &[1.0]), auc(&[1.0], &[])), (0.5, 0.5));
    }
}
