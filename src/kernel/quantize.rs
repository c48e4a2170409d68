//! Activations as bytes: each row with its own scale and the sum of its bytes.
//!
//! The values are those of BitNet b1.58: `s = 127 / max(max |x|, 1e-5)`, `q = clamp(round_half_even(x * s), -128, 127)`,
//! the same on every instruction set. The sum is what the kernels take off because their codes are signs plus one.

use rayon::prelude::*;

use super::isa;
use super::micro::{self, Micro, RowScale};
use super::threads;

/// Below this many floats a hand-over to other threads costs more than it saves.
const WORTH_SPREADING: usize = 1 << 17;

/// Rows of signed bytes `[rows, cols]`, each with a scale: `x ~ value / scale`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizedRows {
    rows: usize,
    cols: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// Quantises row-major floats `[rows, cols]`. A row with an infinity or a NaN gives zeros and a scale of 0 or NaN, so
/// that what is computed from it is NaN.
pub fn quantize(rows: usize, cols: usize, x: &[f32]) -> QuantizedRows {
    let mut quantized = QuantizedRows::default();
    quantized.assign(rows, cols, x);
    quantized
}

impl QuantizedRows {
    /// Takes bytes `[rows, cols]` and the scale of each row.
    pub fn from_values(cols: usize, values: Vec<i8>, scales: Vec<f32>) -> QuantizedRows {
        let rows = scales.len();
        assert_eq!(values.len(), rows * cols, "values do not fill [{rows}, {cols}]");
        let sum = |row: usize| values[row * cols..][..cols].iter().map(|value| i32::from(*value)).sum();
        let sums = (0..rows).map(sum).collect();
        QuantizedRows { rows, cols, values, scales, sums }
    }

    /// Quantises `x` into this one's memory; see [`quantize`].
    pub fn assign(&mut self, rows: usize, cols: usize, x: &[f32]) {
        let micro = micro::for_isa(isa::current()).expect("the instruction set in use is available");
        self.assign_with(micro.as_ref(), rows, cols, x);
    }

    fn assign_with(&mut self, micro: &dyn Micro, rows: usize, cols: usize, x: &[f32]) {
        assert_eq!(x.len(), rows * cols, "floats do not fill [{rows}, {cols}]");
        (self.rows, self.cols) = (rows, cols);
        self.values.resize(rows * cols, 0);
        self.scales.resize(rows, 0.0);
        self.sums.resize(rows, 0);
        // A row of no columns has no chunk, and keeps what quantising nothing would give.
        self.scales.fill(micro::activation_scale(0.0));
        self.sums.fill(0);
        let width = cols.max(1);
        let cells = self.scales.iter_mut().zip(&mut self.sums);
        if x.len() >= WORTH_SPREADING && threads::available() > 1 {
            let cells: Vec<_> = cells.collect();
            let bytes = x.par_chunks(width).zip(self.values.par_chunks_mut(width));
            bytes.zip(cells).for_each(|((x, values), cell)| micro.quantize(x, values).put(cell));
        } else {
            let bytes = x.chunks(width).zip(self.values.chunks_mut(width));
            bytes.zip(cells).for_each(|((x, values), cell)| micro.quantize(x, values).put(cell));
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes, row-major `[rows, cols]`.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// The scale of each row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The sum of each row's bytes.
    pub fn sums(&self) -> &[i32] {
        &self.sums
    }
}

impl RowScale {
    fn put(self, (scale, sum): (&mut f32, &mut i32)) {
        (*scale, *sum) = (self.scale, self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::isa::Isa;
    use crate::kernel::scalar::Scalar;
    use proptest::prelude::*;

    /// Quantises on every instruction set of this machine and demands the scalar's result, NaN scales included.
    fn assert_all_equal(cols: usize, x: &[f32]) -> QuantizedRows {
        let rows = x.len() / cols;
        let mut expected = QuantizedRows::default();
        expected.assign_with(&Scalar, rows, cols, x);
        for isa in Isa::ALL {
            let Ok(micro) = micro::for_isa(isa) else {
                println!("this machine cannot run {isa}");
                continue;
            };
            let mut quantized = QuantizedRows::default();
            quantized.assign_with(micro.as_ref(), rows, cols, x);
            assert_eq!(quantized.values, expected.values, "{isa} {rows}x{cols}");
            assert_eq!(quantized.sums, expected.sums, "{isa} {rows}x{cols}");
            let bits = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&quantized.scales), bits(&expected.scales), "{isa} {rows}x{cols}");
        }
        expected
    }

    #[test]
    fn the_largest_becomes_127_and_halves_go_to_even() {
        // The scale is 1, so the halves stay exact.
        let quantized = assert_all_equal(8, &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5]);
        assert_eq!(quantized.values(), [127, 0, 2, 2, 0, -2, -127, 126]);
        assert_eq!(quantized.scales(), [1.0]);
        assert_eq!(quantized.sums(), [128]);
        let tiny = assert_all_equal(2, &[1e-6, -5e-6, 0.0, 0.0]);
        assert_eq!(tiny.values(), [13, -64, 0, 0]);
    }

    #[test]
    fn bad_floats_give_rows_that_become_nan() {
        let x = [1.0, f32::NAN, -2.0, f32::INFINITY, f32::NEG_INFINITY, 3.0, f32::MAX, 1e-45, -0.0];
        for cols in [1, 3, 9] {
            assert_all_equal(cols, &x);
        }
        let quantized = assert_all_equal(3, &x);
        assert_eq!(quantized.values(), [0, 0, 0, 0, 0, 0, 127, 0, 0]);
        assert!(quantized.scales()[0].is_nan() && quantized.scales()[1] == 0.0);
    }

    #[test]
    fn buffers_are_reused_without_a_trace() {
        let mut quantized = quantize(2, 40, &[1.0; 80]);
        quantized.assign(1, 3, &[1.0, -1.0, 0.0]);
        assert_eq!(quantized, quantize(1, 3, &[1.0, -1.0, 0.0]));
        assert_eq!(quantized, QuantizedRows::from_values(3, vec![127, -127, 0], vec![127.0]));
        quantized.assign(2, 0, &[]);
        assert_eq!((quantized.sums(), quantized.values().len()), (&[0, 0][..], 0));
    }

    #[test]
    fn threads_change_nothing() {
        let x: Vec<f32> = (0..WORTH_SPREADING).map(|index| ((index * 37 % 1001) as f32 - 500.0) / 7.0).collect();
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        assert_eq!(quantize(128, x.len() / 128, &x), one_thread.install(|| quantize(128, x.len() / 128, &x)));
    }

    proptest! {
        #[test]
        fn every_instruction_set_equals_the_scalar(x in prop::collection::vec(-1e3f32..1e3, 1..200)) {
            assert_all_equal(x.len(), &x);
        }

        #[test]
        fn any_bits_are_survived(bits in prop::collection::vec(any::<u32>(), 1..70)) {
            let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            assert_all_equal(x.len(), &x);
        }
    }
}
