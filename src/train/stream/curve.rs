//! Quality against decode rate, and what can be read from such curves.

use super::score::Score;
use super::words::Voice;

/// A way of choosing what is put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// At a steady rate.
    Uniform,
    /// Ward's segments, the embedding in the middle.
    WardMiddle,
    /// Ward's segments, the mean of the embeddings.
    WardMean,
    /// The causal rule.
    Gate,
}

/// What a way comes to at one of its settings.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Point {
    /// Decodes a second of stream.
    pub rate_hz: f64,
    /// The causal rule's threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How good the texts are.
    #[serde(flatten)]
    pub score: Score,
}

/// A way over all its rates.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Curve {
    /// Which way.
    pub way: Way,
    /// Who speaks.
    pub voice: Voice,
    /// From the lowest rate to the highest.
    pub points: Vec<Point>,
}

impl Curve {
    /// A curve through points, in any order; those without a decode are left out.
    pub fn new(way: Way, voice: Voice, mut points: Vec<Point>) -> Curve {
        points.retain(|point| point.rate_hz > 0.0);
        points.sort_by(|a, b| a.rate_hz.total_cmp(&b.rate_hz));
        Curve { way, voice, points }
    }

    /// The least rate at which CIDEr reaches `quality`, interpolated between points by the logarithm of the rate; none
    /// where it never does.
    pub fn rate_for(&self, quality: f64) -> Option<f64> {
        let at = self.points.iter().position(|point| point.score.cider >= quality)?;
        let above = self.points[at];
        let Some(below) = at.checked_sub(1).map(|before| self.points[before]) else { return Some(above.rate_hz) };
        let share = (quality - below.score.cider) / (above.score.cider - below.score.cider);
        Some((below.rate_hz.ln() + share * (above.rate_hz / below.rate_hz).ln()).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        let point = |&(rate_hz, cider)| Point { rate_hz, threshold: None, score: Score { cider, ..Score::default() } };
        Curve::new(Way::Uniform, Voice::Nearest, points.iter().map(point).collect())
    }

    #[test]
    fn a_rate_is_read_between_two_points_by_its_logarithm() {
        let curve = curve(&[(1.0, 4.0), (0.01, 1.0), (0.0, 0.0), (0.1, 2.0)]);
        let near = |quality, expected: f64| {
            let found = curve.rate_for(quality).expect("reached");
            assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        };
        near(0.5, 0.01);
        near(1.0, 0.01);
        near(1.5, 0.1f64.sqrt() / 10.0);
        near(2.0, 0.1);
        near(3.0, 0.1f64.sqrt());
        assert_eq!(curve.rate_for(4.1), None);
    }

    #[test]
    fn a_dip_does_not_hide_what_was_reached_before() {
        let curve = curve(&[(0.1, 3.0), (0.2, 2.0), (0.4, 4.0)]);
        assert_eq!(curve.rate_for(2.5), Some(0.1));
        let found = curve.rate_for(3.5).expect("reached");
        assert!((0.2..0.4).contains(&found), "{found}");
    }
}
