//! How far a checkpoint in some precision is from itself in f32: the cosine of every token, stage by stage.
//!
//! The same checks that compare with recorded tensors run twice, and what they computed is compared instead. The second
//! run is in the asked precision from end to end, so a part's rows include what the parts before it lost.

use std::path::Path;

use serde::Serialize;

use super::compare::{Values, cosine};
use super::golden::Golden;
use super::trial::{Computed, Trial};
use super::{VerifyError, examine};
use crate::model::precision::{DenseKind, Precisions};

/// A stage of one part, compared token by token.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// The part: `vision`, `predictor`, `text` or `decoder`.
    pub part: &'static str,
    /// How it held its dense weights.
    pub precision: &'static str,
    /// The stage's name, as in recorded files.
    pub stage: String,
    /// How many tokens were compared.
    pub tokens: usize,
    /// The least cosine of a token with the same token in f32; NaN (null in JSON) if one is not finite.
    pub least: f64,
    /// The mean cosine.
    pub mean: f64,
}

/// Runs what `dir` holds on the inputs in `golden`, in f32 and as `asked`; parts that are not named stay f32.
pub fn drift(dir: &Path, golden: Option<&Path>, asked: Precisions) -> Result<Vec<Drift>, VerifyError> {
    let run = |precisions| {
        let mut trial = Trial::keeping(Golden::open(golden.unwrap_or(dir))?, precisions);
        examine(&mut trial, dir)?;
        Ok::<_, VerifyError>(trial.computed())
    };
    let (reference, rounded) = (run(Precisions::all(DenseKind::F32))?, run(asked)?);
    Ok(rounded.iter().zip(&reference).filter_map(|(rounded, reference)| compare(rounded, reference)).collect())
}

/// None where a stage is whole numbers or has no rows.
fn compare(rounded: &Computed, reference: &Computed) -> Option<Drift> {
    assert_eq!(rounded.stage, reference.stage, "two runs of the same checks compute the same stages");
    let rows = |values: &Values| values.shape.last().copied().filter(|width| *width > 1 && !values.numbers.is_empty());
    let width = rows(&reference.values).filter(|_| rounded.values.shape == reference.values.shape)?;
    let pairs = rounded.values.numbers.chunks(width).zip(reference.values.numbers.chunks(width));
    let padding = |row: &[f64]| row.iter().all(|value| *value == 0.0);
    let cosines = pairs.filter(|(rounded, reference)| !(padding(rounded) && padding(reference)));
    let cosines: Vec<f64> = cosines.map(|(rounded, reference)| cosine(rounded, reference)).collect();
    let least =
        |least: f64, cosine: &f64| if cosine.is_nan() || least.is_nan() { f64::NAN } else { least.min(*cosine) };
    Some(Drift {
        part: rounded.part.name(),
        precision: rounded.dense.name(),
        stage: rounded.stage.clone(),
        tokens: cosines.len(),
        least: cosines.iter().fold(1.0, least),
        mean: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
    })
    .filter(|drift| drift.tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bundle::Part;
    use crate::nn::linear::Dense;

    fn stage(numbers: &[f64]) -> Computed {
        let values = Values { shape: vec![numbers.len() / 2, 2], numbers: numbers.to_vec() };
        Computed { part: Part::Text, dense: Dense::Bf16, stage: "rows".into(), values }
    }

    #[test]
    fn the_worst_token_counts_and_padding_does_not() {
        let drift = compare(&stage(&[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]), &stage(&[2.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        let drift = drift.expect("two tokens");
        assert_eq!((drift.tokens, drift.part, drift.precision), (2, "text", "bf16"));
        assert!((drift.least - 0.5f64.sqrt()).abs() < 1e-12 && (drift.mean - (1.0 + drift.least) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_token_that_vanishes_is_worth_nothing_and_one_that_is_no_number_spoils_the_stage() {
        let reference = stage(&[1.0, 0.0, 1.0, 1.0]);
        assert_eq!(compare(&stage(&[0.0, 0.0, 1.0, 1.0]), &reference).expect("two tokens").least, 0.0);
        assert!(compare(&stage(&[f64::NAN, 0.0, 1.0, 1.0]), &reference).expect("two tokens").least.is_nan());
        assert!(compare(&stage(&[0.0; 4]), &stage(&[0.0; 4])).is_none());
    }
}
