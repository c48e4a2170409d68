//! The activations of the MLPs and their slopes, by polynomials that the compiler vectorises.

use crate::kernel::{threads::for_rows, wide::wide};

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
}
