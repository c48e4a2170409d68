//! The figures of the causal rule, chosen on streams that are used for nothing else.
//!
//! One figure after the other, each by its whole curve of thresholds: by the geometric mean of the least rates that keep
//! [`SHARES`] of the quality of decoding every embedding. Then the threshold: the one that decodes least while quality stays
//! within [`KEPT`] of that; where none does, the best.

use super::curve::{Curve, Point, Way};
use super::score::Scorer;
use super::ways::{Said, Spot, gate};
use super::words::{Voice, Words};
use crate::segment::{Policy, Reference};
use crate::train::evaluate::EvaluateError;
use crate::train::stream::recording::Recording;

/// Qualities that a rule should have at few decodes, as shares of decoding every embedding.
const SHARES: [f64; 4] = [0.8, 0.9, 0.95, KEPT];
/// What is tried later must save this share of the decodes, or what was there stays.
const WORTH: f64 = 0.01;
/// Share of the quality of decoding every embedding that must be kept.
pub const KEPT: f64 = 0.98;

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen {
    /// The rule, with its threshold.
    pub policy: Policy,
    /// What of a segment it says.
    pub said: Said,
    /// What it comes to on the streams that it was chosen on.
    pub point: Point,
}

/// Some recordings with all that is known of them.
pub struct Ground<'r, 'w> {
    /// The recordings.
    pub recordings: &'r [Recording],
    /// What is said at their embeddings.
    pub words: Words<'w>,
    /// How good that is.
    pub scorer: Scorer<'r>,
}

impl Ground<'_, '_> {
    /// What spots, a list a recording, come to.
    pub fn point(&mut self, spots: &[Vec<Spot>], voice: Voice, threshold: Option<f64>) -> Result<Point, EvaluateError> {
        self.words.make(spots)?;
        let decodes: usize = spots.iter().map(Vec::len).sum();
        let score = self.scorer.score(&self.words, spots, voice);
        Ok(Point { rate_hz: decodes as f64 / self.seconds(), threshold, score })
    }

    /// Length of all recordings, seconds.
    pub fn seconds(&self) -> f64 {
        self.recordings
            .iter()
            .map(|recording| recording.duration_ms as f64 / 1000.0)
            .sum::<f64>()
            .max(f64::MIN_POSITIVE)
    }

    /// The causal rule at every threshold.
    pub fn gate_curve(&mut self, policy: Policy, said: Said, voice: Voice) -> Result<Curve, EvaluateError> {
        let mut points = Vec::new();
        for threshold in thresholds() {
            let policy = Policy { threshold, ..policy };
            let recordings = self.recordings;
            let spots: Vec<_> = recordings.iter().map(|recording| gate(recording, policy, said)).collect();
            points.push(self.point(&spots, voice, Some(threshold))?);
        }
        Ok(Curve::new(Way::Gate, voice, points))
    }
}

/// Thresholds from where nearly everything is a change to where nothing is.
pub fn thresholds() -> impl Iterator<Item = f64> {
    // to three digits, so that what is chosen can be written down
    (0..32).map(|step| 0.004 * 1.2f64.powi(step)).map(|value| (value * 1000.0).round() / 1000.0)
}

/// Chooses on these recordings, where `all` is the quality of decoding every embedding.
pub fn choose(ground: &mut Ground, voice: Voice, all: f64) -> Result<Chosen, EvaluateError> {
    let plain = Policy {
        reference: Reference::Segment,
        threshold: 0.0,
        calm: None,
        unsettled_max_ms: 3_000,
        smoothing: 0.0,
        gap_min_ms: 0,
        silence_max_ms: None,
        per_minute_max: None,
    };
    let mut best = (plain, Said::One, f64::INFINITY);
    for alternatives in figures() {
        let from = (best.0, best.1);
        for alternative in alternatives {
            let (mut policy, mut said) = from;
            alternative(&mut policy, &mut said);
            let curve = ground.gate_curve(policy, said, voice)?;
            let cost = cost(&curve, all);
            if cost < (1.0 - WORTH) * best.2 {
                best = (policy, said, cost);
            }
        }
    }
    let (policy, said, _) = best;
    let points = ground.gate_curve(policy, said, voice)?.points;
    let enough = points.iter().find(|point| point.score.cider >= KEPT * all);
    let most = || points.iter().reduce(|best, point| if point.score.cider > best.score.cider { point } else { best });
    let point =
        enough.or_else(most).copied().unwrap_or(Point { rate_hz: 0.0, threshold: None, score: Default::default() });
    let threshold = point.threshold.unwrap_or(Policy::default().threshold);
    Ok(Chosen { policy: Policy { threshold, ..policy }, said, point })
}

/// The geometric mean of the least rates that keep [`SHARES`] of `all`, decodes a second. A share that is never kept counts
/// as a rate that nobody would want, so that a rule that reaches more is always better.
fn cost(curve: &Curve, all: f64) -> f64 {
    const NEVER_HZ: f64 = 1000.0;
    let rates = SHARES.map(|share| curve.rate_for(share * all).unwrap_or(NEVER_HZ).ln());
    (rates.iter().sum::<f64>() / SHARES.len() as f64).exp()
}

type Alternative = Box<dyn Fn(&mut Policy, &mut Said)>;

/// What is tried, a figure after the other; each is tried beside what was best before.
fn figures() -> Vec<Vec<Alternative>> {
    let mut first: Vec<Alternative> = Vec::new();
    for reference in [Reference::Segment, Reference::Mean, Reference::Last] {
        for calm in [None, Some(0.02), Some(0.05), Some(0.1), Some(0.2)] {
            first.push(Box::new(move |policy, _| (policy.reference, policy.calm) = (reference, calm)));
        }
    }
    let smoothing = |value: f64| -> Alternative { Box::new(move |policy, _| policy.smoothing = value) };
    let unsettled = |value: u64| -> Alternative { Box::new(move |policy, _| policy.unsettled_max_ms = value) };
    let gap = |value: u64| -> Alternative { Box::new(move |policy, _| policy.gap_min_ms = value) };
    let silence = |value: u64| -> Alternative { Box::new(move |policy, _| policy.silence_max_ms = Some(value)) };
    let said = |value: Said| -> Alternative { Box::new(move |_, said| *said = value) };
    vec![
        first,
        [0.2, 0.4, 0.6].map(smoothing).into(),
        [1_000, 1_500, 2_000, 5_000].map(unsettled).into(),
        [1_000, 1_500, 2_000].map(gap).into(),
        [10_000, 20_000, 30_000].map(silence).into(),
        vec![said(Said::Mean)],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_that_is_tried_can_be() {
        let mut count = 0;
        for alternative in figures().into_iter().flatten() {
            let (mut policy, mut said) = (Policy::default(), Said::One);
            alternative(&mut policy, &mut said);
            for threshold in thresholds() {
                assert_eq!(Policy { threshold, ..policy }.check(), Ok(()));
            }
            count += 1;
        }
        assert!(count > 20);
        assert!(thresholds().collect::<Vec<_>>().windows(2).all(|w| w[0] < w[1]));
    }
}
