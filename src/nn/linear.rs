//! The linear layer. Its precision belongs to it: dense f32, or BitNet W1.58A8 — packed for the machine's kernel when
//! serving, f32 masters with a straight-through estimator when training.

use std::sync::Arc;

use candle_core::{Device, Result, Shape, Tensor};

use super::op::{Gradients, Operation, apply2, apply3, columns, with_values};
use super::weights::{Init, Mode, Weights};
use crate::kernel::elementwise::{add_to, round_row, round_ternary};
use crate::kernel::gemm::{Matrix, product};
use crate::kernel::packed::{Output, PackedMatrix};
use crate::kernel::quantize::{QuantizedRows, quantize};

/// What the `weight_scale` of a packed checkpoint means; its quantization_config says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightScale {
    /// `bitlinear`: outputs are divided by it.
    Divides,
    /// `autobitlinear` (BitNet b1.58-2B-4T): outputs are multiplied by it.
    Multiplies,
}

/// How a linear layer's weights are held and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32
    Dense,
    /// W1.58A8: ternary weights with one scale, activations rounded to i8 row by row.
    Ternary(WeightScale),
}

/// `y = x W^T + b`
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    inputs: usize,
    outputs: usize,
}

#[derive(Clone, Debug)]
enum Weight {
    Dense(Tensor),
    /// f32 masters of a ternary layer in training.
    Master(Tensor),
    Packed(Arc<PackedMatrix>),
}

/// The whole numbers inside a ternary product, for comparison with recorded ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// Activations, `[rows, inputs]`.
    pub act_int8: Vec<i8>,
    /// `127 / max|x|` of each row.
    pub act_scale: Vec<f32>,
    /// Sums over the inputs, `[rows, outputs]`.
    pub acc_i32: Vec<i32>,
}

impl Linear {
    /// Reads `weight` (`[outputs, inputs]`, or packed) and, with `bias`, `bias` (`[outputs]`).
    pub fn load(weights: &Weights, inputs: usize, outputs: usize, bias: bool, precision: Precision) -> Self {
        let dense = || weights.get(&[outputs, inputs], "weight", Init::FanIn(0.7));
        let weight = match (precision, weights.mode()) {
            (Precision::Dense, _) => Weight::Dense(dense()),
            (Precision::Ternary(scale), Mode::Infer) => {
                Weight::Packed(Arc::new(PackedMatrix::pack(&[&weights.ternary(outputs, inputs, "weight", scale)])))
            }
            (Precision::Ternary(scale), Mode::Train) if weights.is_packed("weight") => {
                let values = weights.ternary(outputs, inputs, "weight", scale).dequantize();
                Weight::Master(weights.variable("weight", values, &[outputs, inputs]))
            }
            (Precision::Ternary(_), Mode::Train) => Weight::Master(dense()),
        };
        let bias = bias.then(|| weights.get(&[outputs], "bias", Init::Zeros));
        Self { weight, bias, inputs, outputs }
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let sizes = Sizes { inputs: self.inputs, outputs: self.outputs };
        let y = match (&self.weight, &self.bias) {
            (Weight::Dense(weight), Some(bias)) => return apply3(Dense(sizes), [x, weight, bias]),
            (Weight::Dense(weight), None) => apply2(Dense(sizes), x, weight)?,
            (Weight::Master(weight), _) => apply2(StraightThrough(sizes), x, weight)?,
            (Weight::Packed(matrix), _) => packed_product(matrix, x)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// The integers of the product with `x` (`[rows, inputs]`), when this layer is packed ternary.
    pub fn integers(&self, x: &Tensor) -> Result<Option<Integers>> {
        let Weight::Packed(matrix) = &self.weight else { return Ok(None) };
        let rows = quantized(matrix, x)?;
        let mut acc_i32 = vec![0; rows.rows() * self.outputs];
        matrix.multiply_i32(&rows, &mut [&mut acc_i32]);
        let (act_int8, act_scale) = (rows.values().to_vec(), rows.scales().to_vec());
        Ok(Some(Integers { act_int8, act_scale, acc_i32 }))
    }

    /// Elements of the input rows.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Elements of the output rows.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Weights and biases, counted.
    pub fn parameters(&self) -> usize {
        self.inputs * self.outputs + if self.bias.is_some() { self.outputs } else { 0 }
    }

    /// Bytes that the parameters hold in memory.
    pub fn bytes(&self) -> usize {
        let bias = if self.bias.is_some() { self.outputs * size_of::<f32>() } else { 0 };
        bias + match &self.weight {
            Weight::Packed(matrix) => matrix.bytes(),
            _ => self.inputs * self.outputs * size_of::<f32>(),
        }
    }

    /// Whether this layer multiplies ternary weights.
    pub fn is_ternary(&self) -> bool {
        !matches!(self.weight, Weight::Dense(_))
    }
}

fn quantized(matrix: &PackedMatrix, x: &Tensor) -> Result<QuantizedRows> {
    let rows = x.dims2()?.0;
    columns("ternary linear", x.shape(), matrix.cols())?;
    with_values([&x.contiguous()?], |[values]| Ok(quantize(rows, matrix.cols(), values)))
}

fn packed_product(matrix: &PackedMatrix, x: &Tensor) -> Result<Tensor> {
    let rows = quantized(matrix, x)?;
    let mut out = vec![0.0; rows.rows() * matrix.rows()];
    matrix.multiply(&rows, &mut [Output::plain(&mut out)]);
    Tensor::from_vec(out, (rows.rows(), matrix.rows()), &Device::Cpu)
}

#[derive(Clone, Copy)]
struct Sizes {
    inputs: usize,
    outputs: usize,
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

struct Dense(Sizes);

impl Operation<2> for Dense {
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

impl Operation<3> for Dense {
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
struct StraightThrough(Sizes);

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
