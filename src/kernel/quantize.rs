//! Activations as bytes: each row with its own scale and the sum of its bytes.
//!
//! The values are those of BitNet b1.58: `s = 127 / max(max |x|, 1e-5)`, `q = clamp(round_half_even(x * s), -128, 127)`,
//! the same on every instruction set. The sum is what the kernels take off because their codes are signs plus one.

use std::cell::Cell;
use std::ops::Range;

use super::interleave::interleave;
use super::isa;
use super::micro::{self, BLOCK, CLASSES, Micro, Quad, RowScale, TILE_ROWS, Tile};
use super::shared::Shared;
use super::tally::{self, Kind};
use super::threads;

/// Rows of signed bytes `[rows, cols]`, each with a scale: `x ~ value / scale`.
///
/// They are kept twice: as rows, and cut into tiles of about equal height, laid out as micro.rs draws them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizedRows {
    rows: usize,
    cols: usize,
    values: Vec<i8>,
    quads: Vec<Quad>,
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

thread_local! {
    /// The floats of a row that is made where it is rounded.
    static ROW: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl QuantizedRows {
    /// Takes bytes `[rows, cols]` and the scale of each row.
    pub fn from_values(cols: usize, values: Vec<i8>, scales: Vec<f32>) -> QuantizedRows {
        let rows = scales.len();
        assert_eq!(values.len(), rows * cols, "values do not fill [{rows}, {cols}]");
        let mut quantized = QuantizedRows::default();
        quantized.assign_rows(rows, cols, |row, bytes| {
            bytes.copy_from_slice(&values[row * cols..][..cols]);
            RowScale { scale: scales[row], sum: bytes.iter().map(|value| i32::from(*value)).sum() }
        });
        quantized
    }

    /// Quantises `x` into this one's memory; see [`quantize`].
    pub fn assign(&mut self, rows: usize, cols: usize, x: &[f32]) {
        let micro = micro::for_isa(isa::current()).expect("the instruction set in use is available");
        self.assign_with(micro.as_ref(), rows, cols, x);
    }

    /// As [`QuantizedRows::assign`], of rows that are made one by one: `fill(row, floats)` writes all floats of a row
    /// into a buffer that stays in the cache and holds anything before. Norms and gates that end here never pass
    /// through memory.
    pub fn assign_from(&mut self, rows: usize, cols: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
        let micro = micro::for_isa(isa::current()).expect("the instruction set in use is available");
        self.assign_rows(rows, cols, |row, bytes| {
            let mut floats = ROW.take();
            floats.resize(cols, 0.0);
            fill(row, &mut floats);
            let scale = micro.quantize(&floats, bytes);
            ROW.set(floats);
            scale
        });
    }

    fn assign_with(&mut self, micro: &dyn Micro, rows: usize, cols: usize, x: &[f32]) {
        assert_eq!(x.len(), rows * cols, "floats do not fill [{rows}, {cols}]");
        self.assign_rows(rows, cols, |row, bytes| micro.quantize(&x[row * cols..][..cols], bytes));
    }

    /// Fills every row with `round(row, bytes)`, tile by tile, and lays each tile out while it is in the cache.
    fn assign_rows(&mut self, rows: usize, cols: usize, round: impl Fn(usize, &mut [i8]) -> RowScale + Sync) {
        tally::count(Kind::Rounding, 0.0, || self.round_rows(rows, cols, round));
    }

    fn round_rows(&mut self, rows: usize, cols: usize, round: impl Fn(usize, &mut [i8]) -> RowScale + Sync) {
        (self.rows, self.cols) = (rows, cols);
        self.values.resize(rows * cols, 0);
        self.quads.resize(rows * self.row_quads(), [0; 4]);
        self.scales.resize(rows, 0.0);
        self.sums.resize(rows, 0);
        let (tiles, row_quads) = (self.tiles(), self.row_quads());
        let (values, quads) = (Shared::new(&mut self.values), Shared::new(&mut self.quads));
        let (scales, sums) = (Shared::new(&mut self.scales), Shared::new(&mut self.sums));
        threads::for_each(tiles, rows * cols, |tile| {
            let span = share(tile, tiles, rows);
            let cells = |width: usize| span.start * width..span.end * width;
            // SAFETY: the shares of different tiles do not overlap, and each tile is one task.
            let (values, quads) = unsafe { (values.range(cells(cols)), quads.range(cells(row_quads))) };
            // SAFETY: as above.
            let (scales, sums) = unsafe { (scales.range(span.clone()), sums.range(span.clone())) };
            for (index, row) in span.clone().enumerate() {
                let RowScale { scale, sum } = round(row, &mut values[index * cols..][..cols]);
                (scales[index], sums[index]) = (scale, sum);
            }
            interleave(values, cols, quads);
        });
    }

    /// Quads in a row: the padded columns over four.
    fn row_quads(&self) -> usize {
        self.cols.div_ceil(BLOCK) * CLASSES
    }

    /// Tiles that the rows are cut into, each of at most [`TILE_ROWS`] rows and as equal as can be.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The rows of the tile `index`, and the tile.
    pub fn tile(&self, index: usize) -> (Range<usize>, Tile<'_>) {
        let rows = share(index, self.tiles(), self.rows);
        let quads = &self.quads[rows.start * self.row_quads()..rows.end * self.row_quads()];
        (rows.clone(), Tile::new(quads, &self.sums[rows]))
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

/// The part `index` of `total` things in `parts` about equal parts, the larger ones first.
pub(super) fn share(index: usize, parts: usize, total: usize) -> Range<usize> {
    let (each, more) = (total / parts, total % parts);
    let start = |index: usize| index * each + index.min(more);
    start(index)..start(index + 1)
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
        let x: Vec<f32> = (0..1 << 19).map(|index| ((index * 37 % 1001) as f32 - 500.0) / 7.0).collect();
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        assert_eq!(quantize(128, x.len() / 128, &x), one_thread.install(|| quantize(128, x.len() / 128, &x)));
    }

    #[test]
    fn rows_made_on_the_spot_equal_rows_given() {
        let (rows, cols) = (29, 37);
        let x: Vec<f32> = (0..rows * cols).map(|index| (index as f32 * 0.7).sin() * 3.0).collect();
        let mut made = QuantizedRows::default();
        made.assign_from(rows, cols, |row, floats| floats.copy_from_slice(&x[row * cols..][..cols]));
        assert_eq!(made, quantize(rows, cols, &x));
    }

    #[test]
    fn tiles_are_about_equal_and_hold_every_row() {
        for rows in 0..100 {
            let quantized = QuantizedRows::from_values(1, (0..rows).map(|row| row as i8).collect(), vec![1.0; rows]);
            let tiles: Vec<_> = (0..quantized.tiles()).map(|index| quantized.tile(index)).collect();
            let values = tiles.iter().flat_map(|(_, tile)| tile.quads()[..tile.rows()].iter().map(|quad| quad[0]));
            assert!(values.eq(quantized.values().iter().copied()), "{rows} rows");
            let heights = tiles.iter().map(|(_, tile)| tile.rows());
            assert!(heights.clone().max() <= heights.min().map(|height| height + 1), "{rows} rows");
        }
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
