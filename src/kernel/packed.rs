//! A ternary matrix ready to multiply: its panels, and the micro-kernel that it was packed for.
//!
//! The instruction set is chosen once, at packing; a product has no dispatch left and cannot fail. Here are the
//! padding, the blocking and the threads, the same for every micro-kernel: activations are cut into tiles of about
//! equal height (no odd row is left over), runs of panels go to threads, and each panel meets every tile.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::isa::{self, Isa, IsaError};
use super::micro::{self, BLOCK, CLASSES, LANES, Micro, PanelBlock, Quad, Tile};
use super::quantize::QuantizedRows;
use super::ternary::TernaryMatrix;
use super::threads;

/// Below this many products a hand-over to other threads costs more than it saves (about 20 us of one AVX-512 core).
const WORTH_SPREADING: usize = 1 << 22;

/// Activation rows that each panel meets before the next panel: 384 rows of 2,048 columns stay in a 1 MiB cache.
const BLOCK_ROWS: usize = 384;

/// A ternary matrix `[rows, cols]` laid out for this machine, 2 bits a weight (rows padded to 32, columns to 16).
pub struct PackedMatrix {
    micro: Box<dyn Micro>,
    rows: usize,
    cols: usize,
    scale: f32,
    /// `[panels, blocks]`.
    panels: Vec<PanelBlock>,
}

impl PackedMatrix {
    /// Packs for the instruction set in use ([`isa::current`]).
    pub fn pack(matrix: &TernaryMatrix) -> PackedMatrix {
        PackedMatrix::pack_for(isa::current(), matrix).expect("the instruction set in use is available")
    }

    /// Packs for a given instruction set; refuses one that the chip lacks.
    pub fn pack_for(isa: Isa, matrix: &TernaryMatrix) -> Result<PackedMatrix, IsaError> {
        let micro = micro::for_isa(isa)?;
        let (rows, cols, scale) = (matrix.rows(), matrix.cols(), matrix.scale);
        let blocks = cols.div_ceil(BLOCK);
        let mut panels = vec![PanelBlock([0; LANES]); rows.div_ceil(LANES) * blocks];
        for row in 0..rows {
            let panel = &mut panels[row / LANES * blocks..][..blocks];
            let (bytes, shift) = matrix.row(row);
            for (block, bytes) in panel.iter_mut().zip(bytes.chunks(BLOCK)) {
                block.0[row % LANES] = word(bytes, shift);
            }
        }
        Ok(PackedMatrix { micro, rows, cols, scale, panels })
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of weights in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice())
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.micro.isa()
    }

    /// `out[m][n] = sum over k of sign[n][k] * value[m][k] * scale / scale of row m`, row-major `[x.rows(), rows]`.
    /// The sum is exact, the two float roundings are the same on every instruction set.
    ///
    /// # Panics
    /// Unless `x` has this matrix's columns and `out` has `x.rows() * rows` elements.
    pub fn multiply(&self, x: &QuantizedRows, out: &mut [f32]) {
        let factor = |scale: &f32| (f64::from(self.scale) / f64::from(*scale)) as f32;
        let factors: Vec<f32> = x.scales().iter().map(factor).collect();
        self.run(x, out, |row, sums, out: &mut [f32]| {
            let factor = factors[row];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = *sum as f32 * factor;
            }
        });
    }

    /// The exact sums `out[m][n] = sum over k of sign[n][k] * value[m][k]`, row-major `[x.rows(), rows]`.
    ///
    /// # Panics
    /// As [`PackedMatrix::multiply`].
    pub fn multiply_i32(&self, x: &QuantizedRows, out: &mut [i32]) {
        self.run(x, out, |_, sums, out| out.copy_from_slice(&sums[..out.len()]));
    }

    /// Hands the sums of every activation row and panel to `finish(row, sums, out)`, with the part of `out` they fill.
    fn run<T: Send>(&self, x: &QuantizedRows, out: &mut [T], finish: impl Fn(usize, &[i32; LANES], &mut [T]) + Sync) {
        assert_eq!(x.cols(), self.cols, "activations and weights differ in columns");
        assert_eq!(out.len(), x.rows() * self.rows, "the output is not [{}, {}]", x.rows(), self.rows);
        if out.is_empty() {
            return;
        }
        let panels = self.rows.div_ceil(LANES);
        let spread = out.len().saturating_mul(self.cols) >= WORTH_SPREADING;
        let threads = if spread { threads::available() } else { 1 };
        // Four runs a thread even out what else the machine does; a single thread wants a single run.
        let runs = if threads > 1 { (4 * threads).min(panels) } else { 1 };
        let tiles = Tiles::interleave(x, self.micro.tile_rows_max(), threads > 1);
        let run = |(panels, mut out): (Range<usize>, Vec<&mut [T]>)| self.run_panels(panels, &tiles, &mut out, &finish);
        let split = split_columns(out, self.rows, panels.div_ceil(runs));
        match threads {
            1 => split.into_iter().for_each(run),
            _ => split.into_par_iter().for_each(run),
        }
        tiles.recycle();
    }

    /// Multiplies a run of panels with every tile; `out` holds, for each activation row, the columns of that run.
    fn run_panels<T>(
        &self,
        panels: Range<usize>,
        tiles: &Tiles<'_>,
        out: &mut [&mut [T]],
        finish: &impl Fn(usize, &[i32; LANES], &mut [T]),
    ) {
        let blocks = self.cols.div_ceil(BLOCK);
        let mut sums = vec![[0; LANES]; tiles.height];
        for first in (0..tiles.x.rows()).step_by((BLOCK_ROWS / tiles.height).max(1) * tiles.height) {
            let last = (first + (BLOCK_ROWS / tiles.height).max(1) * tiles.height).min(tiles.x.rows());
            for panel in panels.clone() {
                let weights = &self.panels[panel * blocks..][..blocks];
                let column = (panel - panels.start) * LANES;
                for start in (first..last).step_by(tiles.height) {
                    let (rows, tile) = tiles.tile(start);
                    self.micro.multiply(weights, tile, &mut sums[..rows.len()]);
                    for (row, sums) in rows.zip(&sums) {
                        let width = LANES.min(out[row].len() - column);
                        finish(row, sums, &mut out[row][column..][..width]);
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix [{}, {}] * {} for {}", self.rows, self.cols, self.scale, self.isa())
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

/// Cuts a row-major `[_, cols]` matrix into runs of whole panels: for each run its panels and its part of every row.
fn split_columns<T>(out: &mut [T], cols: usize, panels: usize) -> Vec<(Range<usize>, Vec<&mut [T]>)> {
    let rows = out.len() / cols;
    let run = |start: usize| (start..(start + panels).min(cols.div_ceil(LANES)), Vec::with_capacity(rows));
    let mut runs: Vec<_> = (0..cols.div_ceil(LANES)).step_by(panels).map(run).collect();
    for row in out.chunks_mut(cols) {
        for ((_, parts), part) in runs.iter_mut().zip(row.chunks_mut(panels * LANES)) {
            parts.push(part);
        }
    }
    runs
}

/// Activations cut into tiles of `height` rows (the last may have fewer), each laid out as micro.rs draws it.
struct Tiles<'a> {
    x: &'a QuantizedRows,
    height: usize,
    /// Quads in a row: the padded columns over four.
    row_quads: usize,
    quads: Vec<Quad>,
}

thread_local! {
    /// The quads of the last product on this thread: page faults on fresh memory would cost as much as the layout.
    static SPARE: Cell<Vec<Quad>> = const { Cell::new(Vec::new()) };
}

impl<'a> Tiles<'a> {
    /// Lays out at least one row in tiles of at most `height_max`, as equal as can be.
    fn interleave(x: &'a QuantizedRows, height_max: usize, spread: bool) -> Tiles<'a> {
        let height = x.rows().div_ceil(x.rows().div_ceil(height_max));
        let row_quads = x.cols().div_ceil(BLOCK) * CLASSES;
        let mut quads = SPARE.take();
        quads.resize(x.rows() * row_quads, [0; 4]);
        let lay = |(index, tile): (usize, &mut [Quad])| {
            let rows = tile.len() / row_quads;
            for row in 0..rows {
                let values = &x.values()[(index * height + row) * x.cols()..][..x.cols()];
                interleave_row(values, &mut tile[row..], rows);
            }
        };
        let tile_quads = (height * row_quads).max(1);
        if spread {
            quads.par_chunks_mut(tile_quads).enumerate().for_each(lay);
        } else {
            quads.chunks_mut(tile_quads).enumerate().for_each(lay);
        }
        Tiles { x, height, row_quads, quads }
    }

    /// The tile that begins at row `start`, and its rows.
    fn tile(&self, start: usize) -> (Range<usize>, Tile<'_>) {
        let rows = start..(start + self.height).min(self.x.rows());
        let quads = &self.quads[rows.start * self.row_quads..rows.end * self.row_quads];
        (rows.clone(), Tile::new(quads, &self.x.sums()[rows]))
    }

    /// Keeps the memory for this thread's next product.
    fn recycle(self) {
        SPARE.set(self.quads);
    }
}

/// Writes one row's quads into its cells `[class][block]`, which lie `rows` apart; the last block is filled with zeros.
fn interleave_row(values: &[i8], cells: &mut [Quad], rows: usize) {
    let blocks = values.len().div_ceil(BLOCK);
    let mut put = |block: usize, quads: &[Quad; CLASSES]| {
        for (class, quad) in quads.iter().enumerate() {
            cells[(class * blocks + block) * rows] = *quad;
        }
    };
    let (whole, rest) = values.as_chunks::<BLOCK>();
    let quads =
        |values: &[i8; BLOCK]| std::array::from_fn(|class| std::array::from_fn(|byte| values[4 * class + byte]));
    for (block, values) in whole.iter().enumerate() {
        put(block, &quads(values));
    }
    if !rest.is_empty() {
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        put(whole.len(), &quads(&last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::quantize::quantize;
    use crate::kernel::ternary::COLS_MAX;
    use proptest::prelude::*;

    /// A small generator, so that every run sees the same numbers.
    fn noise(seed: usize) -> impl FnMut() -> usize {
        let mut state = seed as u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as usize
        }
    }

    fn signs(count: usize, seed: usize) -> Vec<i8> {
        let mut next = noise(seed);
        (0..count).map(|_| (next() % 3) as i8 - 1).collect()
    }

    fn bytes(rows: usize, cols: usize, seed: usize) -> QuantizedRows {
        let mut next = noise(seed);
        let values = (0..rows * cols).map(|_| (next() % 256) as u8 as i8).collect();
        QuantizedRows::from_values(cols, values, (1..=rows).map(|row| row as f32 * 0.75).collect())
    }

    /// The definition: `[x.rows(), rows]`.
    fn definition(rows: usize, signs: &[i8], x: &QuantizedRows) -> Vec<i32> {
        let dot = |m: usize, n: usize| {
            let activations = &x.values()[m * x.cols()..][..x.cols()];
            let pairs = activations.iter().zip(&signs[n * x.cols()..]);
            pairs.map(|(value, sign)| i32::from(*value) * i32::from(*sign)).sum()
        };
        (0..x.rows() * rows).map(|index| dot(index / rows, index % rows)).collect()
    }

    /// Packs for every instruction set of this machine; says which it lacks.
    fn pack_all(matrix: &TernaryMatrix) -> Vec<PackedMatrix> {
        let pack = |isa| PackedMatrix::pack_for(isa, matrix).inspect_err(|refused| println!("{refused}")).ok();
        Isa::ALL.into_iter().filter_map(pack).collect()
    }

    /// Demands the exact sums, and the same float bits, of every instruction set.
    fn assert_exact(rows: usize, signs: &[i8], batches: &[QuantizedRows]) {
        let cols = batches[0].cols();
        let matrix = TernaryMatrix::from_signs(rows, cols, signs, 0.037);
        let packed = pack_all(&matrix);
        for x in batches {
            let expected = definition(rows, signs, x);
            let mut floats = Vec::new();
            for packed in &packed {
                let mut sums = vec![i32::MIN; expected.len()];
                packed.multiply_i32(x, &mut sums);
                assert!(sums == expected, "{packed:?} times {} rows", x.rows());
                let mut out = vec![f32::NAN; expected.len()];
                packed.multiply(x, &mut out);
                floats.push(out.iter().map(|out| out.to_bits()).collect::<Vec<_>>());
            }
            assert!(floats.iter().all(|bits| *bits == floats[0]), "{matrix:?} times {} rows", x.rows());
        }
    }

    #[test]
    fn every_instruction_set_is_exact_around_every_edge() {
        for cols in [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 100, 257, 2048] {
            let heights = [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, 33];
            let batches: Vec<_> = heights.into_iter().map(|height| bytes(height, cols, height)).collect();
            for rows in [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 65] {
                assert_exact(rows, &signs(rows * cols, cols), &batches);
            }
        }
    }

    #[test]
    fn every_tile_height_is_exact() {
        let batches: Vec<_> = (1..=40).map(|height| bytes(height, 35, height)).collect();
        assert_exact(37, &signs(37 * 35, 1), &batches);
    }

    #[test]
    fn the_worst_inputs_do_not_wrap() {
        for cols in [64, 1024, 1040, COLS_MAX] {
            for (sign, value) in [(1, 127), (1, -128), (-1, 127), (-1, -127), (-1, -128), (0, -128), (1, 0)] {
                let mut values = vec![value; 2 * cols];
                values[cols..].fill(0);
                let x = QuantizedRows::from_values(cols, values, vec![1.0, 1.0]);
                let single = QuantizedRows::from_values(cols, vec![value; cols], vec![1.0]);
                assert_exact(2, &[vec![sign; cols], vec![-sign; cols]].concat(), &[x, single]);
            }
        }
    }

    #[test]
    fn nothing_times_anything_is_fine() {
        for (rows, cols, height) in [(0, 5, 3), (3, 5, 0), (3, 0, 2), (0, 0, 0)] {
            assert_exact(rows, &signs(rows * cols, 1), &[bytes(height, cols, 1)]);
        }
    }

    #[test]
    fn threads_and_blocks_change_nothing() {
        let (rows, cols) = (257, 100);
        let matrix = TernaryMatrix::from_signs(rows, cols, &signs(rows * cols, 3), 1.0);
        let packed = PackedMatrix::pack(&matrix);
        let x = bytes(BLOCK_ROWS * 2 + 5, cols, 4);
        assert!(x.rows() * rows * cols >= WORTH_SPREADING);
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let (mut spread, mut serial) = (vec![0; x.rows() * rows], vec![0; x.rows() * rows]);
        packed.multiply_i32(&x, &mut spread);
        one_thread.install(|| packed.multiply_i32(&x, &mut serial));
        assert!(spread == serial);
    }

    #[test]
    fn a_batch_equals_singles() {
        let matrix = TernaryMatrix::from_signs(40, 50, &signs(2000, 5), 0.1);
        let packed = PackedMatrix::pack(&matrix);
        let mut next = noise(6);
        let x: Vec<f32> = (0..19 * 50).map(|_| next() as f32 - 8e6).collect();
        let mut batch = vec![0.0; 19 * 40];
        packed.multiply(&quantize(19, 50, &x), &mut batch);
        for (x, batch) in x.chunks(50).zip(batch.chunks(40)) {
            let mut single = vec![0.0; 40];
            packed.multiply(&quantize(1, 50, x), &mut single);
            assert_eq!(single, batch);
        }
    }

    #[test]
    fn a_row_that_is_not_finite_gives_nan() {
        let packed = PackedMatrix::pack(&TernaryMatrix::from_signs(2, 2, &[1, 0, 0, 1], 1.0));
        let mut out = vec![0.0; 6];
        packed.multiply(&quantize(3, 2, &[1.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 0.0]), &mut out);
        assert!(out[..4].iter().all(|out| out.is_nan()));
        assert_eq!(out[4..], [1.0, 0.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_shape_is_exact(rows in 1usize..80, cols in 1usize..300, height in 1usize..40, seed: u16) {
            assert_exact(rows, &signs(rows * cols, seed.into()), &[bytes(height, cols, seed.into())]);
        }
    }
}
