//! LayerNorm and RMSNorm over rows, with their gradients.

use super::{dot, sum};
use crate::kernel::{threads::for_rows, wide::wide};

wide! {
    fn layer_norm_run(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let dim = weight.len();
        for (x, y) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let (mean, inverse) = moments(x, eps);
            for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = ((x - mean) * inverse).mul_add(w, b);
            }
        }
    }
}

#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum(x) / x.len() as f32;
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|v| (v - mean) * (v - mean)).sum();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            let d = value - mean;
            *lane = d.mul_add(d, *lane);
        }
    }
    let variance = (lanes.iter().sum::<f32>() + rest) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// LayerNorm of rows of `weight.len()`: `(x - mean) / sqrt(var + eps) * weight + bias`.
pub fn layer_norm(x: &[f32], (weight, bias): (&[f32], &[f32]), eps: f32, out: &mut [f32]) {
    assert!(weight.len() == bias.len() && x.len() == out.len() && x.len().is_multiple_of(weight.len()));
    for_rows(out, weight.len(), x.len() * 8, |first, out| {
        let start = first * weight.len();
        layer_norm_run(&x[start..start + out.len()], weight, bias, eps, out);
    });
}

wide! {
    /// Gradients of [`layer_norm`]: `dx` is written, `dweight` and `dbias` are added to.
    pub fn layer_norm_gradient(
        x: &[f32], weight: &[f32], eps: f32, grad: &[f32], out: (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let (dx, dweight, dbias) = out;
        let dim = weight.len();
        let mut scaled = vec![0.0f32; dim];
        for ((x, g), d) in x.chunks_exact(dim).zip(grad.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim)) {
            let (mean, inverse) = moments(x, eps);
            for i in 0..dim {
                d[i] = (x[i] - mean) * inverse; // normalised, for now
                scaled[i] = g[i] * weight[i];
                dweight[i] += g[i] * d[i];
                dbias[i] += g[i];
            }
            let shift = sum(&scaled) / dim as f32;
            let slope = dot(&scaled, d) / dim as f32;
            for (d, &s) in d.iter_mut().zip(&scaled) {
                *d = inverse * (s - shift - *d * slope);
            }
        }
    }
}

wide! {
    /// RMSNorm of one row in place, see [`rms_norm`].
    pub fn rms_norm_in_place(row: &mut [f32], weight: &[f32], settings: (f32, f32)) {
        let ((eps, offset), dim) = (settings, weight.len());
        assert_eq!(row.len(), dim, "a row has the weights' length");
        let inverse = 1.0 / (dot(row, row) / dim as f32 + eps).sqrt();
        for (y, &w) in row.iter_mut().zip(weight) { *y = *y * inverse * (w + offset); }
    }
}

wide! {
    fn rms_norm_run(x: &[f32], weight: &[f32], settings: (f32, f32), out: &mut [f32]) {
        let ((eps, offset), dim) = (settings, weight.len());
        for (x, y) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let inverse = 1.0 / (dot(x, x) / dim as f32 + eps).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * inverse * (w + offset);
            }
        }
    }
}

/// RMSNorm of rows of `weight.len()`: `x / sqrt(mean(x^2) + eps) * (weight + offset)`.
pub fn rms_norm(x: &[f32], weight: &[f32], (eps, offset): (f32, f32), out: &mut [f32]) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(weight.len()));
    for_rows(out, weight.len(), x.len() * 8, |first, out| {
        let start = first * weight.len();
        rms_norm_run(&x[start..start + out.len()], weight, (eps, offset), out);
    });
}

wide! {
    /// Gradients of [`rms_norm`]: `dx` is written, `dweight` is added to.
    pub fn rms_norm_gradient(
        x: &[f32], weight: &[f32], settings: (f32, f32), grad: &[f32], out: (&mut [f32], &mut [f32]),
    ) {
        let ((eps, offset), (dx, dweight), dim) = (settings, out, weight.len());
        let mut scaled = vec![0.0f32; dim];
        for ((x, g), d) in x.chunks_exact(dim).zip(grad.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim)) {
            let inverse = 1.0 / (dot(x, x) / dim as f32 + eps).sqrt();
            for i in 0..dim {
                scaled[i] = g[i] * (weight[i] + offset);
                dweight[i] += g[i] * x[i] * inverse;
            }
            let slope = dot(&scaled, x) * inverse * inverse / dim as f32;
            for ((d, &s), &x) in d.iter_mut().zip(&scaled).zip(x) {
                *d = inverse * (s - x * slope);
            }
        }
    }
}
