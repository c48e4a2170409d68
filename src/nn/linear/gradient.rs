//! The linear layer on the tape: its product and gradients in f32, and the straight-through estimator of W1.58A8.
//! Apart from the layer itself, which in serving never comes here with rounded weights.

use candle_core::{Result, Shape};

use crate::kernel::elementwise::{add_to, round_row, round_ternary};
use crate::kernel::gemm::{Matrix, product};
use crate::nn::op::{Gradients, Operation, columns};

/// Columns of the input and of the result.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Sizes {
    fn result(self, name: &str, x: &Shape) -> Result<Shape> {
        columns(name, x, self.inputs)?;
        Ok(Shape::from((x.dims2()?.0, self.outputs)))
    }

    fn rows(self, x: &[f32]) -> usize {
        x.len() / self.inputs
    }

    /// `x W^T`
    fn product(self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let weight = Matrix::new(weight, self.outputs, self.inputs);
        product(out, Matrix::new(x, self.rows(x), self.inputs), weight.transposed());
    }

    /// `dx = g W`, `dW = g^T x`
    fn gradients(self, x: &[f32], weight: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        let (x, grad) = (Matrix::new(x, self.rows(x), self.inputs), Matrix::new(grad, self.rows(x), self.outputs));
        product(&mut dx, grad, Matrix::new(weight, self.outputs, self.inputs));
        product(&mut dw, grad.transposed(), x);
        (dx, dw)
    }
}

/// `x W^T`, with or without a bias.
pub(super) struct Product(pub(super) Sizes);

impl Operation<2> for Product {
    const NAME: &'static str = "linear";

    fn shape(&self, [x, _]: [&Shape; 2]) -> Result<Shape> {
        self.0.result(<Self as Operation<2>>::NAME, x)
    }

    fn forward(&self, [x, weight]: [&[f32]; 2], out: &mut [f32]) {
        self.0.product(x, weight, out);
    }

    fn backward(&self, [x, weight]: [&[f32]; 2], _: &[f32], grad: &[f32]) -> Gradients<2> {
        let (dx, dw) = self.0.gradients(x, weight, grad);
        [Some(dx), Some(dw)]
    }
}

impl Operation<3> for Product {
    const NAME: &'static str = "linear with bias";

    fn shape(&self, [x, _, _]: [&Shape; 3]) -> Result<Shape> {
        self.0.result(<Self as Operation<3>>::NAME, x)
    }

    fn forward(&self, [x, weight, bias]: [&[f32]; 3], out: &mut [f32]) {
        self.0.product(x, weight, out);
        out.chunks_exact_mut(bias.len()).for_each(|row| add_to(row, bias));
    }

    fn backward(&self, [x, weight, bias]: [&[f32]; 3], _: &[f32], grad: &[f32]) -> Gradients<3> {
        let (dx, dw) = self.0.gradients(x, weight, grad);
        let mut db = vec![0.0; bias.len()];
        grad.chunks_exact(bias.len()).for_each(|row| add_to(&mut db, row));
        [Some(dx), Some(dw), Some(db)]
    }
}

/// W1.58A8 in training: the forward pass rounds both sides exactly as serving does, the backward pass treats both
/// roundings as the identity (BitNet b1.58). Products of the rounded numbers stay whole, so f32 is exact here up to
/// sums of 2^24.
pub(super) struct StraightThrough(pub(super) Sizes);

impl StraightThrough {
    fn rounded(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut whole = vec![0.0; x.len()];
        let rows = x.chunks_exact(self.0.inputs).zip(whole.chunks_exact_mut(self.0.inputs));
        let scales = rows.map(|(x, out)| round_row(x, out)).collect();
        (whole, scales)
    }
}

impl Operation<2> for StraightThrough {
    const NAME: &'static str = "ternary linear";

    fn shape(&self, [x, _]: [&Shape; 2]) -> Result<Shape> {
        self.0.result(Self::NAME, x)
    }

    fn forward(&self, [x, weight]: [&[f32]; 2], out: &mut [f32]) {
        let mut signs = vec![0.0; weight.len()];
        let mean = round_ternary(weight, &mut signs);
        let (whole, scales) = self.rounded(x);
        self.0.product(&whole, &signs, out);
        for (row, scale) in out.chunks_exact_mut(self.0.outputs).zip(scales) {
            row.iter_mut().for_each(|y| *y *= mean / scale);
        }
    }

    fn backward(&self, [x, weight]: [&[f32]; 2], _: &[f32], grad: &[f32]) -> Gradients<2> {
        let mut ternary = vec![0.0; weight.len()];
        let mean = round_ternary(weight, &mut ternary);
        ternary.iter_mut().for_each(|w| *w *= mean);
        let (mut whole, scales) = self.rounded(x);
        for (row, scale) in whole.chunks_exact_mut(self.0.inputs).zip(scales) {
            row.iter_mut().for_each(|x| *x /= scale);
        }
        let (dx, dw) = self.0.gradients(&whole, &ternary, grad);
        [Some(dx), Some(dw)]
    }
}
