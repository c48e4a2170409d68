//! What `bench kernel` and the criterion benches run: kernels over random numbers of the sizes that models of published
//! sizes meet.

use std::fmt;
use std::str::FromStr;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::samples::Contestant;
use crate::kernel::attention::{self, Heads, Inputs, Plan, Products};
use crate::kernel::dense::{DenseRows, PackedBf16, PackedF32};
use crate::kernel::elementwise::{Activation, activate, gate, layer_norm, rms_norm};
use crate::kernel::gemm::{Matrix, product};
use crate::kernel::int8::Int8Matrix;
use crate::kernel::isa::{self, Isa};
use crate::kernel::lookup::{self, Lookup};
use crate::kernel::packed::{Output, PackedInt8, PackedMatrix};
use crate::kernel::peak::Peaks;
use crate::kernel::quantize::{QuantizedRows, quantize};
use crate::kernel::ternary::{COLS_MAX, TernaryMatrix};
use crate::kernel::trits::TritMatrix;

const OUTPUTS_MAX: usize = 1 << 20;

/// Outputs and inputs of a weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let sizes = text.split_once('x').and_then(|(n, k)| Some((n.parse().ok()?, k.parse().ok()?)));
        match sizes {
            Some((outputs, inputs)) if (1..=OUTPUTS_MAX).contains(&outputs) && (1..=COLS_MAX).contains(&inputs) => {
                Ok(Shape { outputs, inputs })
            }
            _ => Err(format!("a shape is NxK, at most {OUTPUTS_MAX} outputs x {COLS_MAX} inputs")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.outputs, self.inputs)
    }
}

/// What one call does, and so what bounds it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// Multiplications and additions of a kind of product, reading weights of so many bytes.
    Products { operations: f64, numbers: Numbers, weight_bytes: usize },
    /// One pass over inputs and outputs of so many bytes.
    Passes { bytes: f64 },
}

/// The numbers that are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    Bytes,
    Halves,
    Floats,
}

impl Work {
    /// The limit that takes longest, and the seconds it takes; passes have none of their own.
    pub(super) fn limit(self, peaks: &Peaks) -> Option<(&'static str, f64)> {
        let Work::Products { operations, numbers, weight_bytes } = self else { return None };
        let (name, rate) = match numbers {
            Numbers::Bytes => ("int8", peaks.int8),
            Numbers::Halves => ("bf16", peaks.bf16),
            Numbers::Floats => ("f32", peaks.f32),
        };
        let reading = weight_bytes as f64 / peaks.read(weight_bytes);
        match rate.map(|rate| operations / rate) {
            Some(computing) if computing >= reading => Some((name, computing)),
            Some(_) => Some(("reading", reading)),
            None => None,
        }
    }
}

/// Kernels that do the same work.
pub(super) struct Case<'a> {
    /// Sizes of the weights, or of what is passed over.
    pub(super) shape: String,
    /// Rows of activations.
    pub(super) rows: usize,
    pub(super) work: Work,
    /// The first is what the others are compared with.
    pub(super) contestants: Vec<Contestant<'a>>,
}

type Visit<'v> = &'v mut dyn FnMut(Case<'_>);

/// Values between -1 and 1, the same for the same count.
fn noise(count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(count as u64);
    (0..count).map(|_| (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A matrix of random signs, each as often as the others.
fn signs(Shape { outputs, inputs }: Shape) -> TernaryMatrix {
    let four = |code: usize| (0..4).map(|place| ((code / 3usize.pow(place) % 3) << (2 * place)) as u8).sum::<u8>();
    let bytes: Vec<u8> = (0..81).map(four).collect();
    let mut random = vec![0; outputs.div_ceil(4) * inputs];
    ChaCha8Rng::seed_from_u64(inputs as u64).fill_bytes(&mut random);
    random.iter_mut().for_each(|byte| *byte = bytes[usize::from(*byte) % bytes.len()]);
    TernaryMatrix::from_packed(outputs, inputs, random, 0.02).expect("codes of signs only")
}

fn bytes(rows: usize, inputs: usize) -> QuantizedRows {
    quantize(rows, inputs, &noise(rows * inputs))
}

/// Ternary products of rounded rows, all costs after rounding included: by the multiplier alone and, where this machine
/// can, with the lookup beside it.
pub(super) fn ternary(shape: Shape, rows: &[usize], visit: Visit<'_>) {
    let looked_up = lookup::force(Lookup::Always).is_ok() && isa::current() == Isa::best();
    let signs = signs(shape);
    let (packed, trits) = (PackedMatrix::pack(&[&signs]), rows.contains(&1).then(|| TritMatrix::pack(&[&signs])));
    drop(signs);
    for &rows in rows {
        let (mut out, mut other) = (vec![0.0; rows * shape.outputs], vec![0.0; rows * shape.outputs]);
        let x = bytes(rows, shape.inputs);
        let by = |how: Lookup, out: &mut [f32]| {
            lookup::force(how).expect("just tried");
            packed.multiply(&x, &mut [Output::plain(out)]);
        };
        let mut contestants: Vec<Contestant<'_>> = vec![("ternary", Box::new(|| by(Lookup::Never, &mut out)))];
        if looked_up && rows >= LOOKED_UP_FROM {
            contestants.push(("ternary, lookup", Box::new(|| by(Lookup::Always, &mut other))));
        } else if let (1, Some(trits)) = (rows, &trits) {
            contestants.push(("ternary, 1.6 bits", Box::new(|| trits.multiply(&x, &mut [Output::plain(&mut other)]))));
        }
        visit(matrix_case(shape, rows, (Numbers::Bytes, packed.bytes()), contestants));
    }
    lookup::force(Lookup::Auto).expect("every machine has this");
}

/// Rows below which the lookup is not of interest.
const LOOKED_UP_FROM: usize = 256;

/// Products of bytes with a scale an output row.
pub(super) fn int8(shape: Shape, rows: &[usize], visit: Visit<'_>) {
    let Shape { outputs, inputs } = shape;
    let packed = PackedInt8::pack(&[&Int8Matrix::from_f32(outputs, inputs, &noise(outputs * inputs))]);
    for &rows in rows {
        let (x, mut out) = (bytes(rows, inputs), vec![0.0; rows * outputs]);
        let call = Box::new(|| packed.multiply(&x, &mut [Output::plain(&mut out)]));
        visit(matrix_case(shape, rows, (Numbers::Bytes, packed.bytes()), vec![("int8", call)]));
    }
}

/// Products of weights kept as bf16, laying out the rows included.
pub(super) fn halves(shape: Shape, rows: &[usize], visit: Visit<'_>) {
    let Shape { outputs, inputs } = shape;
    let packed = PackedBf16::pack(&[Matrix::new(&noise(outputs * inputs), outputs, inputs)]);
    for &rows in rows {
        let (x, mut laid, mut out) = (noise(rows * inputs), DenseRows::default(), vec![0.0; rows * outputs]);
        let call = Box::new(|| {
            laid.assign(rows, inputs, &x);
            packed.multiply(&laid, &mut [Output::plain(&mut out)]);
        });
        visit(matrix_case(shape, rows, (Numbers::Halves, packed.bytes()), vec![("bf16", call)]));
    }
}

/// f32 products: the general one, and of packed weights, laying out the rows included.
pub(super) fn floats(shape: Shape, rows: &[usize], visit: Visit<'_>) {
    let Shape { outputs, inputs } = shape;
    let weights = noise(outputs * inputs);
    let matrix = Matrix::new(&weights, outputs, inputs);
    let packed = PackedF32::pack(&[matrix]);
    for &rows in rows {
        let (x, mut laid) = (noise(rows * inputs), DenseRows::default());
        let (mut out, mut other) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
        let general = Box::new(|| product(&mut out, Matrix::new(&x, rows, inputs), matrix.transposed()));
        let own = Box::new(|| {
            laid.assign(rows, inputs, &x);
            packed.multiply(&laid, &mut [Output::plain(&mut other)]);
        });
        let contestants: Vec<Contestant<'_>> = vec![("f32", general), ("f32, packed", own)];
        visit(matrix_case(shape, rows, (Numbers::Floats, packed.bytes()), contestants));
    }
}

fn matrix_case<'a>(
    shape: Shape,
    rows: usize,
    (numbers, weight_bytes): (Numbers, usize),
    contestants: Vec<Contestant<'a>>,
) -> Case<'a> {
    let operations = 2.0 * rows as f64 * shape.outputs as f64 * shape.inputs as f64;
    Case { shape: shape.to_string(), rows, work: Work::Products { operations, numbers, weight_bytes }, contestants }
}

/// Attention of all rows over all: the vision encoder's heads, the predictor's, the text encoder's.
pub(super) fn attention(visit: Visit<'_>) {
    for (query, key_value, width, rows) in [(16, 16, 64, 2048), (32, 8, 64, 1088), (32, 8, 64, 2112), (3, 1, 256, 256)]
    {
        let [queries, keys, values] = [query, key_value, key_value].map(|heads| noise(rows * heads * width));
        let inputs = Inputs { queries: &queries, keys: &keys, values: &values, width };
        let heads = Heads { query, key_value, scale: (width as f32).powf(-0.5) };
        let plan = Plan::full(std::slice::from_ref(&(0..rows)));
        let operations = 4.0 * (query * width) as f64 * (rows * rows) as f64;
        for (name, products, numbers) in
            [("attention f32", Products::F32, Numbers::Floats), ("attention bf16", Products::Bf16, Numbers::Halves)]
        {
            let mut out = vec![0.0; queries.len()];
            visit(Case {
                shape: format!("{query}/{key_value}x{width}"),
                rows,
                work: Work::Products { operations, numbers, weight_bytes: 0 },
                contestants: vec![(name, Box::new(|| attention::forward(inputs, heads, &plan, products, &mut out)))],
            });
        }
    }
}

/// Floats to bytes.
pub(super) fn rounding(visit: Visit<'_>) {
    for (rows, width) in [(2112, 2048), (2112, 8192), (2048, 1024)] {
        let x = noise(rows * width);
        let mut quantized = QuantizedRows::default();
        visit(Case {
            shape: width.to_string(),
            rows,
            work: Work::Passes { bytes: 5.0 * x.len() as f64 },
            contestants: vec![("rounding", Box::new(|| quantized.assign(rows, width, &x)))],
        });
    }
}

/// Norms and activations of the published sizes; the second operand is a row of weights or a matrix.
pub(super) fn elementwise(visit: Visit<'_>) {
    pass("layer norm", [2048, 1024, 1], visit, |x, w, out| layer_norm(x, (w, w), 1e-6, out));
    pass("rms norm", [2112, 2048, 1], visit, |x, w, out| rms_norm(x, w, (1e-5, 0.0), out));
    pass("gelu, erf", [2048, 4096, 0], visit, |x, _, out| activate(Activation::GeluErf, x, out));
    pass("gelu gate", [256, 1152, 256], visit, |x, up, out| gate(Activation::GeluTanh, x, up, out));
    pass("silu gate", [2112, 8192, 2112], visit, |x, up, out| gate(Activation::Silu, x, up, out));
}

/// One pass over `[rows, width]` with a second operand `[second, width]`: `run(x, second, out)`.
fn pass(
    name: &'static str,
    [rows, width, second]: [usize; 3],
    visit: Visit<'_>,
    run: impl Fn(&[f32], &[f32], &mut [f32]),
) {
    let (x, second) = (noise(rows * width), noise(second * width));
    let mut out = vec![0.0; x.len()];
    visit(Case {
        shape: width.to_string(),
        rows,
        work: Work::Passes { bytes: 4.0 * (2 * x.len() + second.len()) as f64 },
        contestants: vec![(name, Box::new(|| run(&x, &second, &mut out)))],
    });
}
