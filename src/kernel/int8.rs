//! Weights of eight bits: each output row with its own scale.
//!
//! The storage of dense layers that multiply in integers. As with ternary weights, what a kernel multiplies with is
//! another layout, made at load (packed.rs).

use super::micro::{BLOCK, CLASSES, Lines, Micro, Sums, Tile, Words};
use super::packed::Weights;
use super::scalar::{peak, round};
use super::tally::Kind;
use super::ternary::COLS_MAX;

/// The largest magnitude of a weight: with -128 the sums of the widest matrix would not fit 32 bits (micro.rs).
pub const WEIGHT_MAX: i8 = 127;

/// A matrix `[rows, cols]` of signed bytes: `W[n][k] ~ values[n][k] * scales[n]`.
#[derive(Clone, PartialEq)]
pub struct Int8Matrix {
    rows: usize,
    cols: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl Int8Matrix {
    /// Rounds row-major floats `[rows, cols]`, half to even, with `scale = max |W| / 127` of each row. A row with an
    /// infinity or a NaN gets a scale that is none either, so that what is computed from it is not finite.
    pub fn from_f32(rows: usize, cols: usize, weights: &[f32]) -> Int8Matrix {
        assert_eq!(weights.len(), rows * cols, "weights do not fill [{rows}, {cols}]");
        let scales: Vec<f32> =
            (0..rows).map(|row| peak(&weights[row * cols..][..cols]) / f32::from(WEIGHT_MAX)).collect();
        let round = |index: usize| round(weights[index] / scales[index / cols]).max(-WEIGHT_MAX);
        let values = (0..rows * cols).map(round).collect();
        Int8Matrix::from_values(rows, cols, values, scales)
    }

    /// Takes bytes -127 to 127, row-major `[rows, cols]`, and the scale of each row.
    pub fn from_values(rows: usize, cols: usize, values: Vec<i8>, scales: Vec<f32>) -> Int8Matrix {
        assert_eq!(values.len(), rows * cols, "values do not fill [{rows}, {cols}]");
        assert_eq!(scales.len(), rows, "one scale for each of {rows} rows");
        assert!(cols <= COLS_MAX, "{cols} columns: at most {COLS_MAX} are supported");
        assert!(values.iter().all(|value| *value >= -WEIGHT_MAX), "an int8 weight is -127 to 127");
        Int8Matrix { rows, cols, values, scales }
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns, at most [`COLS_MAX`].
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes, row-major `[rows, cols]`.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// What a unit of each row is worth.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }
}

impl Weights for Int8Matrix {
    const KIND: Kind = Kind::Int8;
    const WORDS: usize = CLASSES;
    const ZEROS: u32 = 0x8080_8080;

    fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn scale(&self) -> f32 {
        1.0
    }

    fn row_scale(&self, row: usize) -> f32 {
        self.scales[row]
    }

    fn lay_row(&self, row: usize, mut put: impl FnMut(usize, u32)) {
        let blocks = self.cols.div_ceil(BLOCK);
        for (index, weights) in self.values[row * self.cols..][..self.cols].chunks(CLASSES).enumerate() {
            let mut quad = [0; CLASSES];
            quad[..weights.len()].copy_from_slice(weights);
            let word = u32::from_le_bytes(quad.map(|weight| weight.cast_unsigned() ^ 0x80));
            put(index % CLASSES * blocks + index / CLASSES, word);
        }
    }

    fn sums(micro: &dyn Micro, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        micro.int8(panels, tile, sums);
    }

    fn floats(micro: &dyn Micro, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>) {
        micro.int8_floats(panels, tile, lines);
    }
}

impl std::fmt::Debug for Int8Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Int8Matrix [{}, {}]", self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_by_their_own_largest_weight() {
        let matrix = Int8Matrix::from_f32(3, 3, &[127.0, 0.5, -1.5, -254.0, 1.0, 3.0, 0.0, 0.0, -0.0]);
        assert_eq!(matrix.values(), [127, 0, -2, -127, 0, 2, 0, 0, 0]);
        assert_eq!(matrix.scales(), [1.0, 2.0, 0.0]);
    }

    #[test]
    fn bad_floats_leave_their_mark_in_the_scale() {
        let matrix = Int8Matrix::from_f32(2, 2, &[f32::NAN, 1.0, f32::NEG_INFINITY, 1.0]);
        assert!(matrix.scales()[0].is_nan() && matrix.scales()[1] == f32::INFINITY);
        assert_eq!(matrix.values(), [0; 4]);
    }

    #[test]
    #[should_panic(expected = "-127 to 127")]
    fn a_weight_of_minus_128_is_refused() {
        Int8Matrix::from_values(1, 1, vec![-128], vec![1.0]);
    }
}
