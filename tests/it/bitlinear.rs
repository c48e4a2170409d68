//! The four recorded BitLinear W1.58A8 layers (fixtures/golden/bitlinear): integers exact, products to 1e-6 of their
//! root mean square. The README there states formulas and tolerances.

use safetensors::SafeTensors;
use vljepa::kernel::isa::Isa;
use vljepa::kernel::packed::{Output, PackedMatrix};
use vljepa::kernel::quantize::{QuantizedRows, quantize};
use vljepa::kernel::ternary::TernaryMatrix;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/bitlinear/io.safetensors");

/// Reads one recorded layer's tensors by their short names.
struct Case<'a> {
    file: &'a SafeTensors<'a>,
    number: usize,
}

impl Case<'_> {
    fn bytes(&self, name: &str) -> Vec<u8> {
        let name = format!("{}.{name}", self.number);
        self.file.tensor(&name).unwrap_or_else(|error| panic!("{name}: {error}")).data().to_vec()
    }

    fn read<const N: usize, T>(&self, name: &str, parse: fn([u8; N]) -> T) -> Vec<T> {
        self.bytes(name).as_chunks::<N>().0.iter().map(|bytes| parse(*bytes)).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.read(name, f32::from_le_bytes)
    }

    fn signs(&self, name: &str) -> Vec<i8> {
        self.read(name, i8::from_le_bytes)
    }

    /// Rows and columns of a recorded matrix.
    fn shape(&self, name: &str) -> (usize, usize) {
        let shape = self.file.tensor(&format!("{}.{name}", self.number)).expect("recorded").shape().to_vec();
        (shape[0], shape[1])
    }
}

/// Runs `check` on each recorded layer.
fn each_case(check: impl Fn(&Case)) {
    let bytes = std::fs::read(GOLDEN).expect("the golden file is in the repository");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for number in 0..4 {
        check(&Case { file: &file, number });
    }
}

fn activations(case: &Case) -> QuantizedRows {
    let (rows, cols) = case.shape("x");
    quantize(rows, cols, &case.floats("x"))
}

#[test]
fn activations_are_the_recorded_bytes() {
    each_case(|case| {
        let x = activations(case);
        assert_eq!(x.values(), case.signs("act_int8"), "case {}", case.number);
        assert_eq!(x.scales(), case.floats("act_scale"), "case {}", case.number);
    });
}

#[test]
fn float_weights_become_the_recorded_signs_and_bytes() {
    each_case(|case| {
        let (rows, cols) = case.shape("w");
        let matrix = TernaryMatrix::from_f32(rows, cols, &case.floats("w"));
        let recorded = case.signs("w_ternary");
        let signs: Vec<i8> = (0..rows * cols).map(|index| matrix.sign(index / cols, index % cols)).collect();
        assert_eq!(signs, recorded, "case {}", case.number);
        assert_eq!(matrix.packed(), case.bytes("w_packed"), "case {}", case.number);
        assert_eq!(TernaryMatrix::from_signs(rows, cols, &recorded, matrix.scale), matrix);
        // The recording keeps the reciprocal. A mean depends on the order of its sum: 1e-6, not exact.
        let product = matrix.scale * case.floats("w_scale")[0];
        assert!((product - 1.0).abs() <= 1e-6, "case {}: scale {} gives {product}", case.number, matrix.scale);
    });
}

#[test]
fn every_instruction_set_gives_the_recorded_sums_and_products() {
    each_case(|case| {
        let (rows, cols) = case.shape("w");
        let scale = 1.0 / case.floats("w_scale")[0];
        let matrix = TernaryMatrix::from_packed(rows, cols, case.bytes("w_packed"), scale).expect("well packed");
        let x = activations(case);
        let exact = case.read("y_exact_f64", f64::from_le_bytes);
        let rms = (exact.iter().map(|y| y * y).sum::<f64>() / exact.len() as f64).sqrt();
        for isa in Isa::ALL {
            let Ok(packed) = PackedMatrix::pack_for(isa, &[&matrix]).inspect_err(|refused| println!("{refused}"))
            else {
                continue;
            };
            let mut sums = vec![0; exact.len()];
            packed.multiply_i32(&x, &mut [&mut sums]);
            assert_eq!(sums, case.read("acc_i32", i32::from_le_bytes), "case {} on {isa}", case.number);
            let mut out = vec![0.0; exact.len()];
            packed.multiply(&x, &mut [Output::plain(&mut out)]);
            let worst = out.iter().zip(&exact).map(|(y, exact)| (f64::from(*y) - exact).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-6 * rms, "case {} on {isa}: {worst:e} off, rms {rms:e}", case.number);
        }
    });
}
