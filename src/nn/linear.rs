//! Linear layers, alone or several over one input, and the precision of their weights.
//!
//! A layer reads a [`Source`]: rows, or rows that a norm or an activation makes. In training the source becomes a
//! tensor on the tape and the weights are f32. In serving the weights are laid out for the kernels, as f32, bf16, bytes or
//! ternary codes; the source fills one row at a time, and the row is rounded while it is still in the cache, once for all
//! layers of the stack that are held alike.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::LocalKey;

use candle_core::{Device, Result, Tensor, bail};

use self::gradient::{Product, Sizes, StraightThrough};
use super::attention::Products;
use super::op::{apply2, apply3, with_values};
use super::source::{Fill, Source};
use super::weights::{Init, Mode, Weights};
use crate::kernel::dense::{Bf16Rows, F32Rows, PackedBf16, PackedF32};
use crate::kernel::gemm::Matrix;
use crate::kernel::int8::Int8Matrix;
use crate::kernel::packed::{Output, PackedInt8, PackedMatrix};
use crate::kernel::quantize::QuantizedRows;
use crate::kernel::ternary::COLS_MAX;

mod gradient;
mod masters;
#[cfg(test)]
mod tests;

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
    /// As the part says where the weights were opened ([`Weights::dense`]); f32 in training.
    Dense,
    /// f32 whatever the part says: small layers at the model's edges.
    Full,
    /// W1.58A8: ternary weights with one scale, activations rounded to i8 row by row.
    Ternary(WeightScale),
}

/// How a part holds its dense weights in serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dense {
    /// As they are trained.
    #[default]
    F32,
    /// Rounded to bf16, activations too; sums in f32.
    Bf16,
    /// W8A8: a scale for each output, activations rounded to i8 row by row.
    Int8,
}

impl Dense {
    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Dense::F32 => "f32",
            Dense::Bf16 => "bf16",
            Dense::Int8 => "int8",
        }
    }

    /// The products of attention in a part that holds its weights so: rounded where they are.
    pub fn products(self) -> Products {
        if self == Dense::F32 { Products::F32 } else { Products::Bf16 }
    }
}

/// `N` layers `y = x W^T + b` that share their input.
#[derive(Clone, Debug)]
pub struct Linear<const N: usize = 1> {
    held: Held<N>,
    inputs: usize,
    outputs: [usize; N],
}

#[derive(Clone, Debug)]
enum Held<const N: usize> {
    /// f32, differentiable; masters of ternary layers are rounded on the way.
    Tape { weights: [Tensor; N], biases: [Option<Tensor>; N], ternary: bool },
    /// Laid out for this machine; neighbours that are held alike as one.
    Packed { weights: Vec<Packed>, biases: [Option<Vec<f32>>; N] },
}

#[derive(Clone, Debug)]
enum Packed {
    F32(Arc<PackedF32>),
    Bf16(Arc<PackedBf16>),
    Int8(Arc<PackedInt8>),
    Ternary(Arc<PackedMatrix>),
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

/// What layers hold, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// Weights and biases.
    pub parameters: usize,
    /// Bytes that they take in memory.
    pub bytes: usize,
    /// Whether the weights are ternary.
    pub is_ternary: bool,
}

thread_local! {
    static F32_ROWS: Cell<F32Rows> = Cell::default();
    static BF16_ROWS: Cell<Bf16Rows> = Cell::default();
    static BYTE_ROWS: Cell<QuantizedRows> = Cell::default();
}

/// Lends the rows of the last product on this thread to the next one: fresh memory for each would cost page faults.
fn with_rows<R: Default, T>(spare: &'static LocalKey<Cell<R>>, work: impl FnOnce(&mut R) -> T) -> T {
    let mut rows = spare.take();
    let result = work(&mut rows);
    spare.set(rows);
    result
}

impl Linear {
    /// Reads `weight` (`[outputs, inputs]`, or packed) and, with `bias`, `bias` (`[outputs]`).
    pub fn load(weights: &Weights, inputs: usize, outputs: usize, bias: bool, precision: Precision) -> Self {
        Self::stack([(weights.clone(), outputs)], inputs, bias, precision)
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.of(Source::Rows(x))
    }

    /// The product with what `source` makes, `[rows, outputs]`.
    pub fn of(&self, source: Source<'_>) -> Result<Tensor> {
        let [y] = self.products(source)?;
        Ok(y)
    }

    /// `residual + y`: the product with what `source` makes, added to `residual` (`[rows, outputs]`).
    pub fn onto(&self, residual: &Tensor, source: Source<'_>) -> Result<Tensor> {
        let Held::Packed { weights, biases } = &self.held else { return residual + self.of(source)? };
        let residual = residual.contiguous()?;
        let [y] = with_values([&residual], |[values]| {
            self.packed_products(weights, biases, &source, Some((values, residual.dims())))
        })?;
        Ok(y)
    }

    /// The integers of the product with `x` (`[rows, inputs]`), when this layer is packed ternary.
    pub fn integers(&self, x: &Tensor) -> Result<Option<Integers>> {
        let Held::Packed { weights, .. } = &self.held else { return Ok(None) };
        let [Packed::Ternary(matrix)] = weights.as_slice() else { return Ok(None) };
        let integers = Source::Rows(x).fill(self.inputs, |count, fill| {
            let mut acc_i32 = vec![0; count * self.outputs[0]];
            with_rows(&BYTE_ROWS, |rows| {
                rows.assign_from(count, self.inputs, fill);
                matrix.multiply_i32(rows, &mut [&mut acc_i32]);
                Ok(Integers { act_int8: rows.values().to_vec(), act_scale: rows.scales().to_vec(), acc_i32 })
            })
        })?;
        Ok(Some(integers))
    }
}

impl<const N: usize> Linear<N> {
    /// Reads layers from their places, each with its outputs; all have the same inputs, precision, and biases or none.
    pub fn stack(layers: [(Weights, usize); N], inputs: usize, bias: bool, precision: Precision) -> Self {
        let outputs = layers.each_ref().map(|(_, outputs)| *outputs);
        let layers = layers.each_ref();
        let held = match Packed::load(layers, inputs, precision) {
            Some(weights) => {
                let values =
                    |place: &Weights, outputs| place.values(&[outputs], "bias", Init::Zeros).unwrap_or_default();
                Held::Packed { weights, biases: layers.map(|(place, outputs)| bias.then(|| values(place, *outputs))) }
            }
            None => Held::Tape {
                weights: layers.map(|(place, outputs)| master(place, *outputs, inputs, precision)),
                biases: layers.map(|(place, outputs)| bias.then(|| place.get(&[*outputs], "bias", Init::Zeros))),
                ternary: matches!(precision, Precision::Ternary(_)),
            },
        };
        Self { held, inputs, outputs }
    }

    /// Each layer's product with what `source` makes, `[rows, outputs]` each.
    pub fn products(&self, source: Source<'_>) -> Result<[Tensor; N]> {
        match &self.held {
            Held::Tape { weights, biases, ternary } => {
                let x = source.tensor()?;
                let mut products = weights.clone();
                for (layer, product) in products.iter_mut().enumerate() {
                    let sizes = Sizes { inputs: self.inputs, outputs: self.outputs[layer] };
                    *product = match (&biases[layer], ternary) {
                        (Some(bias), false) => apply3(Product(sizes), [&x, &weights[layer], bias])?,
                        (None, false) => apply2(Product(sizes), &x, &weights[layer])?,
                        (Some(bias), true) => {
                            apply2(StraightThrough(sizes), &x, &weights[layer])?.broadcast_add(bias)?
                        }
                        (None, true) => apply2(StraightThrough(sizes), &x, &weights[layer])?,
                    };
                }
                Ok(products)
            }
            Held::Packed { weights, biases } => self.packed_products(weights, biases, &source, None),
        }
    }

    /// What the layers hold.
    pub fn facts(&self) -> LayerFacts {
        let weights = self.inputs * self.outputs.iter().sum::<usize>();
        let (biases, bytes, is_ternary) = match &self.held {
            Held::Tape { biases, ternary, .. } => {
                (biases.iter().flatten().map(Tensor::elem_count).sum(), weights * size_of::<f32>(), *ternary)
            }
            Held::Packed { weights, biases } => {
                let bytes = weights.iter().map(Packed::bytes).sum();
                let is_ternary = matches!(weights.first(), Some(Packed::Ternary(_)));
                (biases.iter().flatten().map(Vec::len).sum::<usize>(), bytes, is_ternary)
            }
        };
        LayerFacts { parameters: weights + biases, bytes: bytes + biases * size_of::<f32>(), is_ternary }
    }

    /// The products with what `source` makes, with the biases and a residual (its values and dimensions).
    fn packed_products(
        &self,
        weights: &[Packed],
        biases: &[Option<Vec<f32>>; N],
        source: &Source<'_>,
        residual: Option<(&[f32], &[usize])>,
    ) -> Result<[Tensor; N]> {
        source.fill(self.inputs, |rows, fill| {
            if let Some((_, found)) = residual.filter(|(_, found)| *found != [rows, self.outputs[0]]) {
                bail!("linear: the residual is {found:?}, the product [{rows}, {}]", self.outputs[0]);
            }
            let mut values = self.outputs.map(|outputs| vec![0.0; rows * outputs]);
            let mut outputs: Vec<Output<'_>> = Vec::with_capacity(N);
            for (values, bias) in values.iter_mut().zip(biases) {
                outputs.push(Output { values, bias: bias.as_deref(), residual: residual.map(|(values, _)| values) });
            }
            let mut rest = outputs.as_mut_slice();
            for weights in weights {
                let (own, others) = rest.split_at_mut(weights.layers());
                weights.multiply(rows, fill, own);
                rest = others;
            }
            let mut tensors = Vec::with_capacity(N);
            for (values, outputs) in values.into_iter().zip(self.outputs) {
                tensors.push(Tensor::from_vec(values, (rows, outputs), &Device::Cpu)?);
            }
            Ok(tensors.try_into().expect("a product for each layer"))
        })
    }
}

/// The f32 weights `[outputs, inputs]` of a layer that is not packed.
fn master(place: &Weights, outputs: usize, inputs: usize, precision: Precision) -> Tensor {
    match precision {
        Precision::Ternary(scale) if place.is_packed("weight") => {
            let values = masters::masters(&place.ternary(outputs, inputs, "weight", scale), place.hash("weight"));
            place.variable("weight", values, &[outputs, inputs])
        }
        _ => place.get(&[outputs, inputs], "weight", INIT),
    }
}

const INIT: Init = Init::FanIn(0.7);

impl Packed {
    /// Packs what serving multiplies, neighbours that are held alike as one; none in training.
    fn load<const N: usize>(
        layers: [&(Weights, usize); N],
        inputs: usize,
        precision: Precision,
    ) -> Option<Vec<Packed>> {
        if layers.iter().any(|(place, _)| place.mode() == Mode::Train) {
            return None;
        }
        let held = |place: &Weights| match precision {
            Precision::Dense if inputs <= COLS_MAX || place.dense() != Dense::Int8 => place.dense(),
            _ => Dense::F32,
        };
        if let Precision::Ternary(scale) = precision {
            let stack = layers.map(|(place, outputs)| place.ternary(*outputs, inputs, "weight", scale));
            return Some(vec![Packed::Ternary(Arc::new(PackedMatrix::pack(&stack.each_ref())))]);
        }
        let alike = layers.chunk_by(|(one, _), (next, _)| held(one) == held(next));
        Some(alike.map(|layers| Packed::dense(layers, inputs, held(&layers[0].0))).collect())
    }

    fn dense(layers: &[&(Weights, usize)], inputs: usize, held: Dense) -> Packed {
        let values = |(place, outputs): &&(Weights, usize)| {
            place.values(&[*outputs, inputs], "weight", INIT).unwrap_or_default()
        };
        let values: Vec<Vec<f32>> = layers.iter().map(values).collect();
        let rows = |values: &[f32]| values.len() / inputs.max(1);
        let floats: Vec<Matrix<'_>> = values.iter().map(|values| Matrix::new(values, rows(values), inputs)).collect();
        match held {
            Dense::F32 => Packed::F32(Arc::new(PackedF32::pack(&floats))),
            Dense::Bf16 => Packed::Bf16(Arc::new(PackedBf16::pack(&floats))),
            Dense::Int8 => {
                let bytes: Vec<Int8Matrix> =
                    values.iter().map(|values| Int8Matrix::from_f32(rows(values), inputs, values)).collect();
                Packed::Int8(Arc::new(PackedInt8::pack(&bytes.iter().collect::<Vec<_>>())))
            }
        }
    }

    /// Multiplies the rows that `fill` makes with every layer in here.
    fn multiply(&self, rows: usize, fill: Fill<'_>, outputs: &mut [Output<'_>]) {
        match self {
            Packed::F32(matrix) => with_rows(&F32_ROWS, |x| {
                x.assign_from(rows, matrix.cols(), fill);
                matrix.multiply(x, outputs);
            }),
            Packed::Bf16(matrix) => with_rows(&BF16_ROWS, |x| {
                x.assign_from(rows, matrix.cols(), fill);
                matrix.multiply(x, outputs);
            }),
            Packed::Int8(matrix) => with_rows(&BYTE_ROWS, |x| {
                x.assign_from(rows, matrix.cols(), fill);
                matrix.multiply(x, outputs);
            }),
            Packed::Ternary(matrix) => with_rows(&BYTE_ROWS, |x| {
                x.assign_from(rows, matrix.cols(), fill);
                matrix.multiply(x, outputs);
            }),
        }
    }

    /// Layers in here.
    fn layers(&self) -> usize {
        match self {
            Packed::F32(matrix) => matrix.matrices(),
            Packed::Bf16(matrix) => matrix.matrices(),
            Packed::Int8(matrix) => matrix.matrices(),
            Packed::Ternary(matrix) => matrix.matrices(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Packed::F32(matrix) => matrix.bytes(),
            Packed::Bf16(matrix) => matrix.bytes(),
            Packed::Int8(matrix) => matrix.bytes(),
            Packed::Ternary(matrix) => matrix.bytes(),
        }
    }
}
