//! The one storage format of ternary weights, the same on every machine and in every file.
//!
//! It is Hugging Face's packing: with `R = ceil(rows / 4)`, byte `[r, c]` holds the codes of rows `r, r+R, r+2R, r+3R`
//! of column `c` in bit pairs 0, 2, 4, 6; a code is the sign plus one. Bit pairs past the last row are zero.
//! What a kernel multiplies with is another layout, made at load (packed.rs).

use super::micro::{BLOCK, CLASSES, Lines, Micro, Sums, Tile, Words};
use super::packed::Weights;
use super::tally::Kind;

/// Most columns a ternary matrix may have: the bound under which every kernel's 32-bit sums are exact (micro.rs).
pub const COLS_MAX: usize = 1 << 17;

/// The least mean of |weights| that quantisation divides by.
const SCALE_MIN: f32 = 1e-5;

/// Why bytes are not a ternary matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TernaryError {
    /// The bytes do not fit the shape.
    #[error("packed ternary weights have {found} bytes: {rows} rows of {cols} columns need {expected}")]
    Length {
        /// Output rows.
        rows: usize,
        /// Input columns.
        cols: usize,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A bit pair holds 3, which is no sign.
    #[error("packed ternary weights hold code 3 at row {row}, column {col}: the codes are 0, 1, 2")]
    Code {
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
    },
    /// The matrix is wider than the exact sums allow.
    #[error("ternary weights have {0} columns: at most {COLS_MAX} are supported")]
    Cols(usize),
}

/// A matrix `[rows, cols]` of -1, 0, 1 with one scale: `W ~ sign * scale`.
#[derive(Clone, PartialEq)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    /// What a sign is worth: mean |W|. A product is `sum(sign * activation) * scale / activation scale`.
    pub scale: f32,
}

impl TernaryMatrix {
    /// Quantises row-major float weights `[rows, cols]` by their mean magnitude (BitNet b1.58, `absmean`):
    /// `s = 1 / max(mean |W|, 1e-5)`, `sign = clamp(round_half_even(W * s), -1, 1)`. NaN becomes 0.
    pub fn from_f32(rows: usize, cols: usize, weights: &[f32]) -> TernaryMatrix {
        assert_eq!(weights.len(), rows * cols, "weights do not fill [{rows}, {cols}]");
        let total: f64 = weights.iter().map(|weight| f64::from(weight.abs())).sum();
        let mean = (total / weights.len().max(1) as f64) as f32;
        let scale = mean.max(SCALE_MIN);
        let inverse = 1.0 / scale;
        TernaryMatrix::gather(rows, cols, scale, |index| {
            // Rounding half to even sends +-0.5 to 0; what rounds to 2 and more is clamped to 1.
            let scaled = weights[index] * inverse;
            i8::from(scaled > 0.5) - i8::from(scaled < -0.5)
        })
    }

    /// Takes signs -1, 0, 1, row-major `[rows, cols]`.
    pub fn from_signs(rows: usize, cols: usize, signs: &[i8], scale: f32) -> TernaryMatrix {
        assert_eq!(signs.len(), rows * cols, "signs do not fill [{rows}, {cols}]");
        assert!(signs.iter().all(|sign| (-1..=1).contains(sign)), "a ternary sign is -1, 0 or 1");
        TernaryMatrix::gather(rows, cols, scale, |index| signs[index])
    }

    /// Takes packed bytes `[ceil(rows / 4), cols]`; `scale` is what a sign is worth.
    pub fn from_packed(rows: usize, cols: usize, codes: Vec<u8>, scale: f32) -> Result<TernaryMatrix, TernaryError> {
        if cols > COLS_MAX {
            return Err(TernaryError::Cols(cols));
        }
        let expected = rows.div_ceil(4).saturating_mul(cols);
        if codes.len() != expected {
            return Err(TernaryError::Length { rows, cols, expected, found: codes.len() });
        }
        let matrix = TernaryMatrix { rows, cols, codes, scale };
        // Both bits of a pair set is code 3. In pairs past the last row it is as wrong, and named by the byte's row.
        match matrix.codes.iter().position(|byte| byte & (byte >> 1) & 0x55 != 0) {
            Some(index) => {
                let pair = ((matrix.codes[index] & (matrix.codes[index] >> 1) & 0x55).trailing_zeros() / 2) as usize;
                Err(TernaryError::Code { row: index / cols + pair * matrix.stride(), col: index % cols })
            }
            None => Ok(matrix),
        }
    }

    fn gather(rows: usize, cols: usize, scale: f32, sign: impl Fn(usize) -> i8) -> TernaryMatrix {
        assert!(cols <= COLS_MAX, "{cols} columns: at most {COLS_MAX} are supported");
        let stride = rows.div_ceil(4);
        let mut codes = vec![0u8; stride * cols];
        for row in 0..rows {
            let (pair, byte_row) = (row / stride, row % stride);
            let bytes = &mut codes[byte_row * cols..][..cols];
            for (col, byte) in bytes.iter_mut().enumerate() {
                *byte |= ((sign(row * cols + col) + 1) as u8) << (2 * pair);
            }
        }
        TernaryMatrix { rows, cols, codes, scale }
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns, at most [`COLS_MAX`].
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored bytes `[ceil(rows / 4), cols]`.
    pub fn packed(&self) -> &[u8] {
        &self.codes
    }

    /// The sign at `[row, col]`.
    pub fn sign(&self, row: usize, col: usize) -> i8 {
        let (bytes, shift) = self.row(row);
        ((bytes[col] >> shift) & 3) as i8 - 1
    }

    /// The float weights `sign * scale`, row-major `[rows, cols]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let values = [-self.scale, 0.0, self.scale, 0.0];
        let mut weights = Vec::with_capacity(self.rows * self.cols);
        for row in 0..self.rows {
            let (bytes, shift) = self.row(row);
            weights.extend(bytes.iter().map(|byte| values[usize::from((byte >> shift) & 3)]));
        }
        weights
    }

    /// The bytes that hold a row and how far its codes are shifted up in them.
    pub(super) fn row(&self, row: usize) -> (&[u8], u32) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let (pair, byte_row) = (row / self.stride(), row % self.stride());
        (&self.codes[byte_row * self.cols..][..self.cols], 2 * pair as u32)
    }

    /// Rows of bytes.
    fn stride(&self) -> usize {
        self.rows.div_ceil(4)
    }
}

impl Weights for TernaryMatrix {
    const KIND: Kind = Kind::Ternary;
    const WORDS: usize = 1;
    const ZEROS: u32 = 0x5555_5555;
    const LOOKED_UP: bool = true;

    fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    fn scale(&self) -> f32 {
        self.scale
    }

    fn row_scale(&self, _: usize) -> f32 {
        1.0
    }

    fn lay_row(&self, row: usize, mut put: impl FnMut(usize, u32)) {
        let (bytes, shift) = self.row(row);
        bytes.chunks(BLOCK).enumerate().for_each(|(block, bytes)| put(block, word(bytes, shift)));
    }

    fn sums(micro: &dyn Micro, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        micro.ternary(panels, tile, sums);
    }

    fn floats(micro: &dyn Micro, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>) {
        micro.ternary_floats(panels, tile, lines);
    }
}

/// The panel word of up to 16 columns of one row: each byte's two bits at `shift`, moved to their class.
fn word(bytes: &[u8], shift: u32) -> u32 {
    let mut columns = [0; BLOCK];
    columns[..bytes.len()].copy_from_slice(bytes);
    let (quads, _) = columns.as_chunks::<CLASSES>();
    let classes =
        quads.iter().zip(0..).map(|(quad, class)| (u32::from_le_bytes(*quad) >> shift & 0x0303_0303) << (2 * class));
    classes.fold(0, |word, codes| word | codes)
}

impl std::fmt::Debug for TernaryMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TernaryMatrix [{}, {}] * {}", self.rows, self.cols, self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_survive_packing_for_every_row_count() {
        for rows in 0..=19 {
            for cols in [1, 3, 64] {
                let signs: Vec<i8> = (0..rows * cols).map(|index| (index * 7 % 3) as i8 - 1).collect();
                let matrix = TernaryMatrix::from_signs(rows, cols, &signs, 0.5);
                let read: Vec<i8> = (0..rows * cols).map(|index| matrix.sign(index / cols, index % cols)).collect();
                assert_eq!(read, signs);
                let floats: Vec<f32> = signs.iter().map(|sign| f32::from(*sign) * 0.5).collect();
                assert_eq!(matrix.dequantize(), floats);
                let again = TernaryMatrix::from_packed(rows, cols, matrix.packed().to_vec(), 0.5);
                assert_eq!(again, Ok(matrix));
            }
        }
    }

    #[test]
    fn the_byte_holds_rows_a_quarter_apart() {
        // Rows 0..8 hold -1, 0, 1, 1, 0, -1, -1, 1: byte 0 is rows 0, 2, 4, 6 and byte 1 rows 1, 3, 5, 7.
        let matrix = TernaryMatrix::from_signs(8, 1, &[-1, 0, 1, 1, 0, -1, -1, 1], 1.0);
        assert_eq!(matrix.packed(), [0b00_01_10_00, 0b10_00_10_01]);
    }

    #[test]
    fn quantisation_rounds_half_to_even_and_survives_bad_floats() {
        // The mean magnitude is 1, so the weights are their own scaled values.
        let matrix = TernaryMatrix::from_f32(2, 3, &[0.5, -0.5, 0.500_001, -1.5, 2.499_999, -0.5]);
        assert_eq!(matrix.scale, 1.0);
        let signs: Vec<i8> = (0..6).map(|index| matrix.sign(index / 3, index % 3)).collect();
        assert_eq!(signs, [0, 0, 1, -1, 1, 0]);
        assert_eq!(TernaryMatrix::from_f32(1, 2, &[0.0, 0.0]).scale, SCALE_MIN);
        assert!(TernaryMatrix::from_f32(0, 0, &[]).packed().is_empty());
        let hostile = TernaryMatrix::from_f32(1, 3, &[f32::NAN, f32::INFINITY, 1.0]);
        assert_eq!(hostile.sign(0, 0), 0);
    }

    #[test]
    fn bytes_that_are_no_matrix_are_refused() {
        let short = TernaryMatrix::from_packed(5, 3, vec![0; 5], 1.0);
        assert_eq!(short, Err(TernaryError::Length { rows: 5, cols: 3, expected: 6, found: 5 }));
        let mut bytes = vec![0x55; 6];
        bytes[4] = 0b00_11_01_01;
        assert_eq!(TernaryMatrix::from_packed(8, 3, bytes, 1.0), Err(TernaryError::Code { row: 5, col: 1 }));
        let wide = TernaryMatrix::from_packed(0, COLS_MAX + 1, vec![], 1.0);
        assert_eq!(wide, Err(TernaryError::Cols(COLS_MAX + 1)));
    }
}
