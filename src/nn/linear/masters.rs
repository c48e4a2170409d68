//! Masters of ternary weights that were stored as codes alone: what training goes on from.
//!
//! Rounded again they must give the very codes and scale they come from, or a model that is trained further would begin as
//! another one: codes times their scale do not, for their mean magnitude, which is the scale that rounding takes (BitNet
//! b1.58), is smaller by the share of zeros. Nor should they lie all at one distance from where rounding turns, or none
//! of them would turn for a long time, and then all at once.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::kernel::ternary::TernaryMatrix;

/// Zeros lie below this, in scales; rounding turns at 0.5.
const ZERO_MAX: f32 = 0.45;
/// Ones lie above this, in scales.
const ONE_MIN: f32 = 0.55;

/// Masters `[rows, cols]`, spread as trained ones are; equal seeds give equal masters.
pub fn masters(codes: &TernaryMatrix, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let signs: Vec<f32> =
        (0..codes.rows()).flat_map(|row| (0..codes.cols()).map(move |col| f32::from(codes.sign(row, col)))).collect();
    // In scales: zeros of both signs, and how far ones lie beyond the least.
    let mut values: Vec<f32> = signs
        .iter()
        .map(|sign| if *sign == 0.0 { rng.random_range(-ZERO_MAX..ZERO_MAX) } else { rng.random_range(0.0..1.0) })
        .collect();
    let sum = |ones: bool| {
        let own = signs.iter().zip(&values).filter(|(sign, _)| (**sign != 0.0) == ones);
        own.map(|(_, value)| f64::from(value.abs())).sum::<f64>()
    };
    let ones = signs.iter().filter(|sign| **sign != 0.0).count() as f64;
    if ones == 0.0 {
        return vec![0.0; signs.len()]; // no mean magnitude would keep them zeros
    }
    // The mean magnitude shall be one scale: zeros + ones * ONE_MIN + stretch * beyond = count.
    let stretch = (signs.len() as f64 - sum(false) - ones * f64::from(ONE_MIN)) / sum(true).max(f64::MIN_POSITIVE);
    for (value, sign) in values.iter_mut().zip(&signs) {
        let scales = if *sign == 0.0 { *value } else { sign * (ONE_MIN + stretch as f32 * *value) };
        *value = scales * codes.scale;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_round_to_the_codes_and_the_scale_that_they_come_from() {
        for (share, scale) in [(0.68, 0.05), (0.3, 2.0), (0.95, 1e-3)] {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let mut sign = || if rng.random_bool(share) { if rng.random() { 1 } else { -1 } } else { 0 };
            let signs: Vec<i8> = (0..64 * 96).map(|_| sign()).collect();
            let codes = TernaryMatrix::from_signs(64, 96, &signs, scale);
            let again = TernaryMatrix::from_f32(64, 96, &masters(&codes, 7));
            assert_eq!(again.packed(), codes.packed(), "{share}");
            assert!((again.scale / scale - 1.0).abs() < 1e-5, "{share}: {} for {scale}", again.scale);
        }
    }

    #[test]
    fn a_matrix_of_zeros_stays_one() {
        let codes = TernaryMatrix::from_signs(4, 8, &[0; 32], 0.1);
        assert_eq!(TernaryMatrix::from_f32(4, 8, &masters(&codes, 1)).packed(), codes.packed());
    }
}
