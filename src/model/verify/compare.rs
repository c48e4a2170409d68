//! What "within tolerance" means: one comparison of computed with recorded values.
//!
//! Every verdict of `verify` is given here, so the rules are few and have tests of their own: a value that is not finite
//! never passes, a shape that differs never passes, nothing to compare never passes, and a zero reference admits only zero.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a difference is measured in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// The root mean square of the recorded tensor.
    Rms,
    /// The value itself.
    Absolute,
    /// Each recorded value's own size, with [`RELATIVE_FLOOR`] let through everywhere.
    Relative,
}

/// Absolute difference that a relative tolerance forgives: what f64 sums of unit vectors lose where the true value is 0.
pub const RELATIVE_FLOOR: f64 = 1e-12;

/// How far computed values may be from recorded ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// What `max` and `mean` are measured in.
    pub unit: Unit,
    /// Bound of the largest difference.
    pub max: f64,
    /// Bound of the mean difference, if there is one.
    pub mean: Option<f64>,
    /// Least cosine between the flattened tensors, if there is one.
    pub cosine: Option<f64>,
}

impl Tolerance {
    /// Equal to the last bit: integers, ids, labels.
    pub const EXACT: Tolerance = Tolerance { unit: Unit::Absolute, max: 0.0, mean: None, cosine: None };

    /// `max |diff| <= max * rms(recorded)`.
    pub const fn rms(max: f64) -> Tolerance {
        Tolerance { unit: Unit::Rms, max, mean: None, cosine: None }
    }

    /// `max |diff| <= max`.
    pub const fn absolute(max: f64) -> Tolerance {
        Tolerance { unit: Unit::Absolute, max, mean: None, cosine: None }
    }

    /// `|diff| <= max * |recorded|` for every value.
    pub const fn relative(max: f64) -> Tolerance {
        Tolerance { unit: Unit::Relative, max, mean: None, cosine: None }
    }

    /// Bounds the mean difference too, in the same unit.
    pub const fn with_mean(self, mean: f64) -> Tolerance {
        Tolerance { mean: Some(mean), ..self }
    }

    /// Bounds the cosine from below too.
    pub const fn with_cosine(self, cosine: f64) -> Tolerance {
        Tolerance { cosine: Some(cosine), ..self }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Absolute if self.max == 0.0 => f.write_str("exact")?,
            Unit::Rms => write!(f, "{:.1e} rms", self.max)?,
            Unit::Absolute => write!(f, "{:.1e}", self.max)?,
            Unit::Relative => write!(f, "{:.1e} relative", self.max)?,
        }
        if let Some(mean) = self.mean {
            write!(f, ", mean {mean:.1e}")?;
        }
        match self.cosine {
            Some(cosine) => write!(f, ", 1-cos {:.1e}", 1.0 - cosine),
            None => Ok(()),
        }
    }
}

impl Serialize for Tolerance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A tensor as plain numbers; f64 holds every type a checkpoint or a golden file uses, up to 2^53.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Lengths of the axes, outermost first.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub numbers: Vec<f64>,
}

/// One row of the report: a stage, how far it is off, and the verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// The stage's name in the golden file, behind the variant of the weights it was computed with, if there are several.
    pub name: String,
    /// Shape of the recorded tensor.
    pub shape: Vec<usize>,
    /// Largest absolute difference; not finite (null in JSON) if either side holds a value that is not.
    pub max_diff: f64,
    /// Root mean square of the recorded tensor.
    pub rms: f64,
    /// `max_diff / rms`; 0 if both are 0.
    pub max_over_rms: f64,
    /// Mean absolute difference over `rms`; 0 if both are 0.
    pub mean_over_rms: f64,
    /// Cosine between the flattened tensors; 1 if both are 0, 0 if one is.
    pub cosine: f64,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// Whether it was kept.
    pub ok: bool,
    /// Why not, or where: the shape that was computed, how many values are not finite or out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Compares `computed` with `recorded`.
pub fn compare(name: String, computed: &Values, recorded: &Values, tolerance: Tolerance) -> Stage {
    let mut stage = Stage {
        name,
        shape: recorded.shape.clone(),
        max_diff: f64::NAN,
        rms: norm(&recorded.numbers) / (recorded.numbers.len().max(1) as f64).sqrt(),
        max_over_rms: f64::NAN,
        mean_over_rms: f64::NAN,
        cosine: f64::NAN,
        tolerance,
        ok: false,
        note: None,
    };
    if computed.shape != recorded.shape || computed.numbers.len() != recorded.numbers.len() {
        stage.note = Some(format!("computed {:?}, recorded {:?}", computed.shape, recorded.shape));
        return stage;
    }
    if recorded.numbers.is_empty() {
        stage.note = Some("empty: nothing to compare".into());
        return stage;
    }
    let broken = |values: &[f64]| values.iter().filter(|v| !v.is_finite()).count();
    match (broken(&computed.numbers), broken(&recorded.numbers)) {
        (0, 0) => measure(&mut stage, &computed.numbers, &recorded.numbers),
        (here, there) => stage.note = Some(format!("not finite: {here} computed, {there} recorded")),
    }
    stage
}

/// Fills in the figures and the verdict for two equally long lists of finite numbers.
fn measure(stage: &mut Stage, computed: &[f64], recorded: &[f64]) {
    let tolerance = stage.tolerance;
    let allowed = |reference: f64, bound: f64| match tolerance.unit {
        Unit::Rms => bound * stage.rms,
        Unit::Absolute => bound,
        Unit::Relative => bound * reference.abs() + RELATIVE_FLOOR,
    };
    let differences = || computed.iter().zip(recorded).map(|(c, r)| ((c - r).abs(), *r));
    let out = differences().filter(|&(diff, reference)| diff > allowed(reference, tolerance.max)).count();
    let max_diff = differences().map(|(diff, _)| diff).fold(0.0, f64::max);
    let mean_diff = differences().map(|(diff, _)| diff).sum::<f64>() / computed.len() as f64;
    let mean_size = recorded.iter().map(|r| r.abs()).sum::<f64>() / recorded.len() as f64;
    let mean_ok = tolerance.mean.is_none_or(|bound| mean_diff <= allowed(mean_size, bound));
    stage.max_diff = max_diff;
    let over_rms = |diff: f64| if diff == 0.0 { 0.0 } else { diff / stage.rms };
    (stage.max_over_rms, stage.mean_over_rms) = (over_rms(max_diff), over_rms(mean_diff));
    stage.cosine = cosine(computed, recorded);
    let cosine_ok = tolerance.cosine.is_none_or(|bound| stage.cosine >= bound);
    stage.ok = out == 0 && mean_ok && cosine_ok;
    stage.note = match (out, mean_ok) {
        (0, true) => None,
        (0, false) => Some(format!("mean difference {mean_diff:.1e}")),
        _ => Some(format!("{out} of {} values are out", computed.len())),
    };
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Cosine of two flattened tensors; 1 if both are 0, 0 if one is.
pub(super) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    match (norm(a), norm(b)) {
        (0.0, 0.0) => 1.0,
        (0.0, _) | (_, 0.0) => 0.0,
        (na, nb) => a.iter().zip(b).map(|(x, y)| (x / na) * (y / nb)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(numbers: &[f64]) -> Values {
        Values { shape: vec![numbers.len()], numbers: numbers.to_vec() }
    }

    fn judge(computed: &[f64], recorded: &[f64], tolerance: Tolerance) -> Stage {
        compare("stage".into(), &values(computed), &values(recorded), tolerance)
    }

    #[test]
    fn what_is_not_finite_never_passes() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let loose = Tolerance::absolute(f64::INFINITY);
            assert!(!judge(&[1.0, bad], &[1.0, 2.0], loose).ok);
            assert!(!judge(&[1.0, 2.0], &[1.0, bad], loose).ok);
            assert!(!judge(&[1.0, bad], &[1.0, bad], loose).ok);
        }
    }

    #[test]
    fn a_zero_reference_admits_only_zero() {
        assert!(judge(&[0.0, 0.0], &[0.0, 0.0], Tolerance::rms(1e-4)).ok);
        assert!(judge(&[0.0, -0.0], &[0.0, 0.0], Tolerance::EXACT).ok);
        let off = judge(&[0.0, 1e-20], &[0.0, 0.0], Tolerance::rms(1e-4));
        assert!(!off.ok && off.cosine == 0.0 && off.max_over_rms == f64::INFINITY);
    }

    #[test]
    fn shapes_must_agree_and_hold_something() {
        let square = Values { shape: vec![2, 2], numbers: vec![1.0; 4] };
        let stage = compare("stage".into(), &square, &values(&[1.0; 4]), Tolerance::absolute(9.0));
        assert!(!stage.ok && stage.note.is_some_and(|note| note.contains("[2, 2]")));
        assert!(!judge(&[], &[], Tolerance::absolute(9.0)).ok);
    }

    #[test]
    fn the_bound_itself_passes_and_a_hair_more_does_not() {
        // rms of [3, 4] over two values is 5 / sqrt(2)
        let rms = 5.0 / 2f64.sqrt();
        assert!(judge(&[3.0, 4.0 + 0.0999 * rms], &[3.0, 4.0], Tolerance::rms(0.1)).ok);
        assert!(!judge(&[3.0, 4.0 + 0.1001 * rms], &[3.0, 4.0], Tolerance::rms(0.1)).ok);
        assert!(judge(&[1.5], &[1.0], Tolerance::absolute(0.5)).ok);
        assert!(!judge(&[1.0 + 1e-12], &[1.0], Tolerance::EXACT).ok);
    }

    #[test]
    fn a_relative_bound_holds_value_by_value() {
        assert!(judge(&[1e6 + 1e-4, 1e-3], &[1e6, 1e-3], Tolerance::relative(1e-9)).ok);
        assert!(!judge(&[1e6, 1e-3 + 1e-4], &[1e6, 1e-3], Tolerance::relative(1e-9)).ok);
        assert!(judge(&[1e-16], &[0.0], Tolerance::relative(1e-9)).ok, "what f64 rounding leaves of a zero");
    }

    #[test]
    fn mean_and_cosine_are_bounds_of_their_own() {
        let (off, reference) = ([1.01, 1.01, 1.01, 1.01], [1.0; 4]);
        assert!(judge(&off, &reference, Tolerance::rms(0.05)).ok);
        assert!(!judge(&off, &reference, Tolerance::rms(0.05).with_mean(1e-3)).ok);
        assert!(judge(&off, &reference, Tolerance::rms(0.05).with_cosine(0.9999)).ok);
        assert!(!judge(&[1.0, 0.0], &[0.0, 1.0], Tolerance::absolute(9.0).with_cosine(0.5)).ok);
    }

    #[test]
    fn a_tolerance_reads_as_it_is_meant() {
        assert_eq!(Tolerance::EXACT.to_string(), "exact");
        assert_eq!(Tolerance::rms(0.05).with_mean(1e-3).to_string(), "5.0e-2 rms, mean 1.0e-3");
        assert_eq!(Tolerance::rms(0.05).with_cosine(0.75).to_string(), "5.0e-2 rms, 1-cos 2.5e-1");
    }
}
