//! Everything that is not a matrix product, on rows of f32: norms, activations, rotation, rounding, and their gradients.
//!
//! Each function is one loop that the compiler vectorises for every width (see `wide`). Gradients recompute what they
//! need from the inputs, so nothing is kept between the passes.

mod activation;
mod norm;
mod rotate;

pub(crate) use activation::exp;
pub use activation::{Activation, activate, activate_gradient, gate, gate_gradient};
pub use norm::{layer_norm, layer_norm_gradient, rms_norm, rms_norm_gradient, rms_norm_in_place};
pub use rotate::{Angles, Pairing, rotate};

use super::{micro::activation_scale, wide::wide};

/// The sum, in 16 lanes.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The inner product, in 16 lanes.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (left, right) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = x.mul_add(*y, *lane);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

wide! {
    /// `out += x`
    pub fn add_to(out: &mut [f32], x: &[f32]) {
        for (y, &x) in out.iter_mut().zip(x) { *y += x; }
    }
}

wide! {
    /// `out += factor * x`
    pub fn add_scaled_to(out: &mut [f32], factor: f32, x: &[f32]) {
        for (y, &x) in out.iter_mut().zip(x) { *y = factor.mul_add(x, *y); }
    }
}

wide! {
    /// `sum(x^2)`
    pub fn square_sum(x: &[f32]) -> f32 {
        dot(x, x)
    }
}

wide! {
    /// One row of W1.58A8 activations as whole numbers in f32: `clamp(round_half_even(x * s), -128, 127)` with
    /// `s = 127 / max(|x|, 1e-5)`. Returns s. The integer form is `quantize`, this one serves training.
    pub fn round_row(x: &[f32], out: &mut [f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        let chunks = x.chunks_exact(16);
        let rest = chunks.remainder().iter().fold(0.0f32, |a, v| a.max(v.abs()));
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                let size = value.abs();
                *lane = if size > *lane { size } else { *lane };
            }
        }
        let scale = activation_scale(lanes.iter().fold(rest, |a, &b| a.max(b)));
        for (y, &x) in out.iter_mut().zip(x) {
            *y = (x * scale).round_ties_even().clamp(-128.0, 127.0);
        }
        scale
    }
}

wide! {
    /// Ternary weights as whole numbers in f32: `clamp(round_half_even(w / s), -1, 1)` with `s = max(mean|w|, 1e-5)`.
    /// Returns s.
    pub fn round_ternary(w: &[f32], out: &mut [f32]) -> f32 {
        let total: f64 = w.chunks(256).map(|run| {
            let mut lanes = [0.0f32; 16];
            let chunks = run.chunks_exact(16);
            let rest: f32 = chunks.remainder().iter().map(|v| v.abs()).sum();
            for chunk in chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) { *lane += value.abs(); }
            }
            f64::from(lanes.iter().sum::<f32>() + rest)
        }).sum();
        let mean = ((total / w.len().max(1) as f64) as f32).max(1e-5);
        let inverse = 1.0 / mean;
        for (y, &w) in out.iter_mut().zip(w) {
            *y = (w * inverse).round_ties_even().clamp(-1.0, 1.0);
        }
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_follows_the_published_rule() {
        let mut out = [0.0; 4];
        assert_eq!(round_row(&[127.0, 0.5, 1.5, -2.5], &mut out), 1.0);
        assert_eq!(out, [127.0, 0.0, 2.0, -2.0]);
        assert_eq!(round_row(&[0.0; 4], &mut out), 1e-5f32.recip() * 127.0);
        assert_eq!(out, [0.0; 4]);
        assert_eq!(round_ternary(&[1.0, -1.0, 0.1, -3.9], &mut out), 1.5);
        assert_eq!(out, [1.0, -1.0, 0.0, -1.0]);
    }
}
