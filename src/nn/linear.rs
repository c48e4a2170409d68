//! Linear layers, alone or several over one input, and the precision of their weights.
//!
//! A layer reads a [`Source`]: rows, or rows that a norm or an activation makes. In training the source becomes a
//! tensor on the tape and the weights are f32. In serving the weights may be bytes or ternary codes; then the source
//! fills one row at a time and the row is rounded while it is still in the cache, once for all layers of the stack.

use std::cell::Cell;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

use self::gradient::{Product, Sizes, StraightThrough};
use super::op::{apply2, apply3, with_values};
use super::source::Source;
use super::weights::{Init, Mode, Weights};
use crate::kernel::int8::Int8Matrix;
use crate::kernel::packed::{Output, PackedInt8, PackedMatrix};
use crate::kernel::quantize::QuantizedRows;
use crate::kernel::ternary::COLS_MAX;

mod gradient;
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
    /// W8A8: a scale for each output, activations rounded to i8 row by row.
    Int8,
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
    /// Laid out for this machine, all layers as one.
    Packed { weights: Packed, biases: [Option<Vec<f32>>; N] },
}

#[derive(Clone, Debug)]
enum Packed {
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
    /// The rounded rows of the last product on this thread: fresh memory for each would cost page faults.
    static ROUNDED: Cell<QuantizedRows> = Cell::default();
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
        let [y] = self.rounded(&source, |rows| {
            if residual.dims() != [rows.rows(), self.outputs[0]] {
                bail!(
                    "linear: the residual is {:?}, the product [{}, {}]",
                    residual.dims(),
                    rows.rows(),
                    self.outputs[0]
                );
            }
            with_values([&residual.contiguous()?], |[residual]| {
                self.packed_products(weights, biases, rows, Some(residual))
            })
        })?;
        Ok(y)
    }

    /// The integers of the product with `x` (`[rows, inputs]`), when this layer is packed ternary.
    pub fn integers(&self, x: &Tensor) -> Result<Option<Integers>> {
        let Held::Packed { weights: Packed::Ternary(matrix), .. } = &self.held else { return Ok(None) };
        let integers = self.rounded(&Source::Rows(x), |rows| {
            let mut acc_i32 = vec![0; rows.rows() * self.outputs[0]];
            matrix.multiply_i32(rows, &mut [&mut acc_i32]);
            Ok(Integers { act_int8: rows.values().to_vec(), act_scale: rows.scales().to_vec(), acc_i32 })
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
            Held::Packed { weights, biases } => {
                self.rounded(&source, |rows| self.packed_products(weights, biases, rows, None))
            }
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
                (biases.iter().flatten().map(Vec::len).sum::<usize>(), weights.bytes(), weights.is_ternary())
            }
        };
        LayerFacts { parameters: weights + biases, bytes: bytes + biases * size_of::<f32>(), is_ternary }
    }

    /// Rounds the rows of `source` into this thread's memory and hands them to `work`.
    fn rounded<R>(&self, source: &Source<'_>, work: impl FnOnce(&QuantizedRows) -> Result<R>) -> Result<R> {
        let mut rows = ROUNDED.take();
        let result = source.fill(self.inputs, |count, fill| {
            rows.assign_from(count, self.inputs, fill);
            work(&rows)
        });
        ROUNDED.set(rows);
        result
    }

    /// The products of rounded rows, the residual added to each.
    fn packed_products(
        &self,
        weights: &Packed,
        biases: &[Option<Vec<f32>>; N],
        rows: &QuantizedRows,
        residual: Option<&[f32]>,
    ) -> Result<[Tensor; N]> {
        let mut values = self.outputs.map(|outputs| vec![0.0; rows.rows() * outputs]);
        let mut outputs: Vec<Output<'_>> = Vec::with_capacity(N);
        for (values, bias) in values.iter_mut().zip(biases) {
            outputs.push(Output { values, bias: bias.as_deref(), residual });
        }
        match weights {
            Packed::Int8(matrix) => matrix.multiply(rows, &mut outputs),
            Packed::Ternary(matrix) => matrix.multiply(rows, &mut outputs),
        }
        let mut tensors = Vec::with_capacity(N);
        for (values, outputs) in values.into_iter().zip(self.outputs) {
            tensors.push(Tensor::from_vec(values, (rows.rows(), outputs), &Device::Cpu)?);
        }
        Ok(tensors.try_into().expect("a product for each layer"))
    }
}

/// The f32 weights `[outputs, inputs]` of a layer that is not packed.
fn master(place: &Weights, outputs: usize, inputs: usize, precision: Precision) -> Tensor {
    match precision {
        Precision::Ternary(scale) if place.is_packed("weight") => {
            let values = place.ternary(outputs, inputs, "weight", scale).dequantize();
            place.variable("weight", values, &[outputs, inputs])
        }
        _ => place.get(&[outputs, inputs], "weight", INIT),
    }
}

const INIT: Init = Init::FanIn(0.7);

impl Packed {
    /// Packs what serving multiplies as bytes or codes; none where the product is f32.
    fn load<const N: usize>(layers: [&(Weights, usize); N], inputs: usize, precision: Precision) -> Option<Packed> {
        if layers.iter().any(|(place, _)| place.mode() == Mode::Train) {
            return None;
        }
        match (precision, layers.first()?.0.dense()) {
            (Precision::Ternary(scale), _) => {
                let stack = layers.map(|(place, outputs)| place.ternary(*outputs, inputs, "weight", scale));
                Some(Packed::Ternary(Arc::new(PackedMatrix::pack(&stack.each_ref()))))
            }
            (Precision::Dense, Dense::Int8) if inputs <= COLS_MAX => {
                let matrix = |(place, outputs): &(Weights, usize)| {
                    let values = place.values(&[*outputs, inputs], "weight", INIT).unwrap_or_default();
                    Int8Matrix::from_f32(values.len() / inputs.max(1), inputs, &values)
                };
                let stack = layers.map(matrix);
                Some(Packed::Int8(Arc::new(PackedInt8::pack(&stack.each_ref()))))
            }
            (Precision::Dense | Precision::Full, _) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Packed::Int8(matrix) => matrix.bytes(),
            Packed::Ternary(matrix) => matrix.bytes(),
        }
    }

    fn is_ternary(&self) -> bool {
        matches!(self, Packed::Ternary(_))
    }
}
