//! Everything that is not a matrix product, on rows of f32: norms, activations, rotation, and their gradients.
//!
//! Each function is one loop that the compiler vectorises for every width (see `wide`). Gradients recompute what they
//! need from the inputs, so nothing is kept between the passes.

use super::{micro::activation_scale, threads::for_rows, wide::wide};

/// `e^x` to about 2 ulp; x is clamped to ±87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    let x = x.clamp(-87.0, 87.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p.mul_add(r, c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p * r).mul_add(r, r + 1.0) * power
}

/// `erf(x)` to 3e-7, the rational approximation of Eigen and XLA (odd degree 13 over even degree 8).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let mut p = -2.726_142_3e-10f32;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506e-5, -7.349_906e-4, -2.954_600_1e-3, -1.609_603_3e-2] {
        p = p.mul_add(s, c);
    }
    let mut q = -1.456_607_2e-5f32;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_473_9e-2] {
        q = q.mul_add(s, c);
    }
    x * p / q
}

#[inline(always)]
fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

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

/// A scalar function of an MLP, with its derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)`, by erf.
    GeluErf,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `x * logistic(x)`
    Silu,
    /// `max(x, 0)^2`
    Relu2,
}

impl Activation {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + tanh(gelu_inner(x))),
            Activation::Silu => x * logistic(x),
            Activation::Relu2 => {
                let x = x.max(0.0);
                x * x
            }
        }
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        match self {
            Activation::GeluErf => {
                let density = 0.398_942_3 * exp(-0.5 * x * x);
                0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * density
            }
            Activation::GeluTanh => {
                let t = tanh(gelu_inner(x));
                let inner = GELU_SCALE * (1.0 + 3.0 * 0.044_715 * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            }
            Activation::Silu => {
                let s = logistic(x);
                s * (1.0 + x * (1.0 - s))
            }
            Activation::Relu2 => 2.0 * x.max(0.0),
        }
    }
}

const GELU_SCALE: f32 = 0.797_884_6; // sqrt(2 / pi)

#[inline(always)]
fn gelu_inner(x: f32) -> f32 {
    GELU_SCALE * (0.044_715 * x * x).mul_add(x, x)
}

/// One loop for each activation, so that the choice is not made for every element.
macro_rules! for_activation {
    ($kind:expr, $act:ident => $loop:expr) => {
        match $kind {
            Activation::GeluErf => {
                const $act: Activation = Activation::GeluErf;
                $loop
            }
            Activation::GeluTanh => {
                const $act: Activation = Activation::GeluTanh;
                $loop
            }
            Activation::Silu => {
                const $act: Activation = Activation::Silu;
                $loop
            }
            Activation::Relu2 => {
                const $act: Activation = Activation::Relu2;
                $loop
            }
        }
    };
}

wide! {
    fn activate_run(kind: Activation, x: &[f32], out: &mut [f32]) {
        for_activation!(kind, ACT => for (y, &x) in out.iter_mut().zip(x) { *y = ACT.value(x); })
    }
}

/// `out = act(x)`
pub fn activate(kind: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for_rows(out, 1, x.len() * 16, |first, out| activate_run(kind, &x[first..first + out.len()], out));
}

wide! {
    /// `dx = act'(x) * grad`
    pub fn activate_gradient(kind: Activation, x: &[f32], grad: &[f32], dx: &mut [f32]) {
        for_activation!(kind, ACT => for ((d, &x), &g) in dx.iter_mut().zip(x).zip(grad) { *d = ACT.slope(x) * g; })
    }
}

wide! {
    fn gate_run(kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for_activation!(kind, ACT => for ((y, &x), &u) in out.iter_mut().zip(gate).zip(up) { *y = ACT.value(x) * u; })
    }
}

/// `out = act(gate) * up`
pub fn gate(kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len());
    for_rows(out, 1, gate.len() * 16, |first, out| {
        let run = first..first + out.len();
        gate_run(kind, &gate[run.clone()], &up[run], out);
    });
}

wide! {
    /// `dgate = act'(gate) * up * grad`, `dup = act(gate) * grad`
    pub fn gate_gradient(
        kind: Activation, inputs: (&[f32], &[f32]), grad: &[f32], out: (&mut [f32], &mut [f32]),
    ) {
        let ((gate, up), (dgate, dup)) = (inputs, out);
        for_activation!(kind, ACT =>
            for ((((a, b), &x), &u), &g) in dgate.iter_mut().zip(dup.iter_mut()).zip(gate).zip(up).zip(grad) {
                *a = ACT.slope(x) * u * g;
                *b = ACT.value(x) * g;
            })
    }
}

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
    assert!(weight.len() == bias.len() && x.len() == out.len() && x.len() % weight.len() == 0);
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
    assert!(x.len() == out.len() && x.len() % weight.len() == 0);
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

/// Which two elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(i, i + width / 2)`: Llama, Gemma.
    Halves,
    /// `(2i, 2i + 1)`: V-JEPA 2. With an odd width the last element stays.
    Neighbours,
}

/// Tables for [`rotate`]: cosine and sine for every row and element of a head, `[rows, width]`.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
    /// Elements of a head.
    pub width: usize,
    /// Which elements turn together.
    pub pairing: Pairing,
}

/// Turns the pairs `(a, b)` of every head: `a' = a cos_a - b sin_a`, `b' = b cos_b + a sin_b`.
///
/// `backwards` applies the transposed map, which is the gradient.
pub fn rotate(x: &[f32], angles: Angles<'_>, row: usize, backwards: bool, out: &mut [f32]) {
    let rows = angles.cos.len() / angles.width;
    assert!(x.len() == out.len() && x.len() == rows * row && row % angles.width == 0);
    assert_eq!(angles.cos.len(), angles.sin.len());
    for_rows(out, row, x.len() * 4, |first, out| {
        let lines = out.len() / row;
        let table = first * angles.width..(first + lines) * angles.width;
        let angles = Angles { cos: &angles.cos[table.clone()], sin: &angles.sin[table], ..angles };
        rotate_run(&x[first * row..(first + lines) * row], angles, row, backwards, out);
    });
}

wide! {
    fn rotate_run(x: &[f32], angles: Angles<'_>, row: usize, backwards: bool, out: &mut [f32]) {
        let width = angles.width;
        let tables = angles.cos.chunks_exact(width).zip(angles.sin.chunks_exact(width));
        for ((x, y), (cos, sin)) in x.chunks_exact(row).zip(out.chunks_exact_mut(row)).zip(tables) {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                match angles.pairing {
                    Pairing::Halves => {
                        let half = width / 2;
                        for i in 0..half {
                            (y[i], y[i + half]) =
                                turn((x[i], x[i + half]), (cos[i], cos[i + half]), (sin[i], sin[i + half]), backwards);
                        }
                    }
                    Pairing::Neighbours => {
                        for i in (0..width - width % 2).step_by(2) {
                            (y[i], y[i + 1]) =
                                turn((x[i], x[i + 1]), (cos[i], cos[i + 1]), (sin[i], sin[i + 1]), backwards);
                        }
                        if width % 2 == 1 {
                            y[width - 1] = x[width - 1] * cos[width - 1];
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn((a, b): (f32, f32), cos: (f32, f32), sin: (f32, f32), backwards: bool) -> (f32, f32) {
    if backwards {
        (a * cos.0 + b * sin.1, b * cos.1 - a * sin.0)
    } else {
        (a * cos.0 - b * sin.0, b * cos.1 + a * sin.1)
    }
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

    fn grid() -> Vec<f32> {
        (-400..=400).map(|i| i as f32 * 0.0237).collect()
    }

    /// erf by its Maclaurin series in f64, good to 1e-12 up to |x| = 4.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut total) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            total += term / (2 * n + 1) as f64;
        }
        total * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exp_and_erf_are_accurate() {
        for x in grid() {
            let expected = (x as f64).exp();
            assert!((exp(x) as f64 / expected - 1.0).abs() < 3e-7, "exp {x}");
            if x.abs() < 4.0 {
                assert!((erf(x) as f64 - erf_series(x as f64)).abs() < 5e-7, "erf {x}");
            }
        }
        assert_eq!(exp(-1e9), exp(-87.0));
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn slopes_equal_finite_differences() {
        for kind in [Activation::GeluErf, Activation::GeluTanh, Activation::Silu, Activation::Relu2] {
            for x in grid() {
                let h = 2e-3; // small beside the tolerance: squared ReLU has a kink in its slope at 0
                let expected = (kind.value(x + h) as f64 - kind.value(x - h) as f64) / (2.0 * h as f64);
                assert!((kind.slope(x) as f64 - expected).abs() < 2e-3 * (1.0 + x.abs() as f64), "{kind:?} {x}");
            }
        }
    }

    #[test]
    fn a_turn_backwards_is_the_transpose() {
        for (pairing, width) in [(Pairing::Halves, 8), (Pairing::Neighbours, 8), (Pairing::Neighbours, 7)] {
            let cos: Vec<f32> = (0..width * 2).map(|i| (i as f32).cos()).collect();
            let sin: Vec<f32> = (0..width * 2).map(|i| (i as f32 * 1.3).sin()).collect();
            let angles = Angles { cos: &cos, sin: &sin, width, pairing };
            let x: Vec<f32> = (0..width * 4).map(|i| (i as f32 * 0.7).sin()).collect();
            let g: Vec<f32> = (0..width * 4).map(|i| (i as f32 * 0.3).cos()).collect();
            let (mut y, mut d) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            rotate(&x, angles, width * 2, false, &mut y);
            rotate(&g, angles, width * 2, true, &mut d);
            assert!((dot(&y, &g) - dot(&x, &d)).abs() < 1e-4);
        }
    }

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
