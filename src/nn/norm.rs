//! LayerNorm, RMSNorm and the L2 norm, over rows.

use candle_core::{Result, Shape, Tensor};

use super::op::{Gradients, Operation, apply1, apply2, apply3, columns, with_values};
use super::weights::{Init, Weights};
use crate::kernel::elementwise as kernel;

/// Writes the normed row into its place.
pub(crate) type NormRow<'a> = &'a (dyn Fn(&[f32], &mut [f32]) + Sync);

/// `(x - mean) / sqrt(var + eps) * weight + bias` over rows of `[rows, dim]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[dim]`.
    pub fn load(weights: &Weights, dim: usize, eps: f64) -> Self {
        let weight = weights.get(&[dim], "weight", Init::Ones);
        Self { weight, bias: weights.get(&[dim], "bias", Init::Zeros), eps: eps as f32 }
    }

    /// `[rows, dim]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        apply3(LayerNormOperation { eps: self.eps }, [x, &self.weight, &self.bias])
    }

    /// Calls `work` with what norms one row.
    pub(crate) fn with_row<R>(&self, work: impl FnOnce(NormRow<'_>) -> Result<R>) -> Result<R> {
        with_values([&self.weight, &self.bias], |[weight, bias]| {
            work(&|x, out| kernel::layer_norm(x, (weight, bias), self.eps, out))
        })
    }
}

struct LayerNormOperation {
    eps: f32,
}

impl Operation<3> for LayerNormOperation {
    const NAME: &'static str = "layer_norm";

    fn shape(&self, [x, weight, _]: [&Shape; 3]) -> Result<Shape> {
        columns("layer norm", x, weight.elem_count())?;
        Ok(x.clone())
    }

    fn forward(&self, [x, weight, bias]: [&[f32]; 3], out: &mut [f32]) {
        kernel::layer_norm(x, (weight, bias), self.eps, out);
    }

    fn backward(&self, [x, weight, _]: [&[f32]; 3], _: &[f32], grad: &[f32]) -> Gradients<3> {
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; weight.len()]);
        kernel::layer_norm_gradient(x, weight, self.eps, grad, (&mut dx, &mut dw, &mut db));
        [Some(dx), Some(dw), Some(db)]
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over rows of `[rows, dim]`; Gemma stores `weight - 1`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
    offset: f32,
}

impl RmsNorm {
    /// Reads `weight`, `[dim]`. With `unit_offset` the factor is `1 + weight`.
    pub fn load(weights: &Weights, dim: usize, eps: f64, unit_offset: bool) -> Self {
        let (init, offset) = if unit_offset { (Init::Zeros, 1.0) } else { (Init::Ones, 0.0) };
        Self { weight: weights.get(&[dim], "weight", init), eps: eps as f32, offset }
    }

    /// `[rows, k * dim]` to the same shape: each run of `dim` elements (a head, say) is normalised by itself.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        apply2(RmsNormOperation { eps: self.eps, offset: self.offset }, x, &self.weight)
    }

    /// Calls `work` with what norms one row.
    pub(crate) fn with_row<R>(&self, work: impl FnOnce(NormRow<'_>) -> Result<R>) -> Result<R> {
        with_values([&self.weight], |[weight]| {
            work(&|x, out| kernel::rms_norm(x, weight, (self.eps, self.offset), out))
        })
    }

    /// Calls `work` with what norms one row in place.
    pub(crate) fn with_row_in_place<R>(
        &self,
        work: impl FnOnce(&(dyn Fn(&mut [f32]) + Sync)) -> Result<R>,
    ) -> Result<R> {
        with_values([&self.weight], |[weight]| {
            work(&|row| kernel::rms_norm_in_place(row, weight, (self.eps, self.offset)))
        })
    }
}

struct RmsNormOperation {
    eps: f32,
    offset: f32,
}

impl Operation<2> for RmsNormOperation {
    const NAME: &'static str = "rms_norm";

    fn shape(&self, [x, weight]: [&Shape; 2]) -> Result<Shape> {
        let dim = weight.elem_count();
        if x.dims().last().is_none_or(|last| last % dim != 0) {
            candle_core::bail!("rms norm: the input is {x:?}, expected [rows, a multiple of {dim}]");
        }
        Ok(x.clone())
    }

    fn forward(&self, [x, weight]: [&[f32]; 2], out: &mut [f32]) {
        kernel::rms_norm(x, weight, (self.eps, self.offset), out);
    }

    fn backward(&self, [x, weight]: [&[f32]; 2], _: &[f32], grad: &[f32]) -> Gradients<2> {
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        kernel::rms_norm_gradient(x, weight, (self.eps, self.offset), grad, (&mut dx, &mut dw));
        [Some(dx), Some(dw)]
    }
}

/// Rows of `[rows, dim]` at unit length; a row of zeros stays zero.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let (_, dim) = x.dims2()?;
    apply1(L2Operation { dim }, x)
}

struct L2Operation {
    dim: usize,
}

/// A row is divided by at least this, as in PyTorch's `normalize`.
const SHORTEST: f32 = 1e-12;

impl Operation<1> for L2Operation {
    const NAME: &'static str = "l2_normalize";

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        Ok(x.clone())
    }

    fn forward(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for (x, y) in x.chunks_exact(self.dim).zip(out.chunks_exact_mut(self.dim)) {
            kernel::add_scaled_to(y, 1.0 / kernel::square_sum(x).sqrt().max(SHORTEST), x);
        }
    }

    /// `dx = (g - y (y . g)) / |x|`
    fn backward(&self, [x]: [&[f32]; 1], out: &[f32], grad: &[f32]) -> Gradients<1> {
        let mut dx = vec![0.0; x.len()];
        let rows = x.chunks_exact(self.dim).zip(out.chunks_exact(self.dim)).zip(grad.chunks_exact(self.dim));
        for (((x, y), g), d) in rows.zip(dx.chunks_exact_mut(self.dim)) {
            let inverse = 1.0 / kernel::square_sum(x).sqrt().max(SHORTEST);
            let along: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
            kernel::add_scaled_to(d, inverse, g);
            kernel::add_scaled_to(d, -along * inverse, y);
        }
        [Some(dx)]
    }
}
