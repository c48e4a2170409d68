//! Dense weights, kept as f32 or as bf16 of half the bytes, multiplied with float rows of the same kind.
//!
//! Packed once at load, so that a product of few rows does not pay for the layout again, as it does with gemm.rs.
//! Products of two bf16 are exact in f32 and are summed in f32, so chips differ in the order of additions alone:
//! `vdpbf16ps` where there is AVX-512 BF16 (dense/avx512.rs), widened to f32 elsewhere (dense/portable.rs).
//!
//! ```text
//! cell    one column as f32, or columns 2 c and 2 c + 1 as bf16: the even one low, 0 beside an odd last one
//! panel   [cell c][lane n]    32 weight rows; each matrix of a stack begins a panel
//! tile    [cell c][row m]     at most 12 rows of activations
//! ```

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use super::finish::Output;
use super::gemm::Matrix;
use super::shared::Shared;
use super::tally::{self, Kind};
use super::threads;
use super::wide::wide;

/// Weight rows in a panel: two vectors of AVX-512.
const LANES: usize = 32;

/// Rows in a tile: 24 sums, 2 vectors of weights and a broadcast fit the 32 registers of AVX-512.
const TILE_ROWS: usize = 12;

/// Activation bytes that each panel meets before the next panel: they and the panel stay in a 1 MiB cache.
const BLOCK_BYTES: usize = 3 << 18;

/// Below this many multiplies a hand-over to other threads costs more than it saves (about 20 us of one core).
const WORTH_SPREADING: usize = 1 << 21;

/// Two columns as bf16, the even one in the low half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pair(u32);

/// What a product multiplies at once: 32 bits that hold one column or two.
pub trait Cell: Copy + Default + Send + Sync + 'static {
    /// The name of the numbers in it.
    const NAME: &'static str;

    /// Columns in a cell.
    const COLUMNS: usize;

    /// Rounds a row of floats to cells.
    fn round(x: &[f32], cells: &mut [Self]);

    /// One of the columns, as f32.
    fn column(self, column: usize) -> f32;

    /// The loops of AVX-512, if the chip has what they need.
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    fn avx512() -> Option<Loops<Self>>;
}

impl Cell for f32 {
    const NAME: &'static str = "f32";
    const COLUMNS: usize = 1;

    fn round(x: &[f32], cells: &mut [f32]) {
        cells.copy_from_slice(x);
    }

    #[inline(always)]
    fn column(self, _: usize) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    fn avx512() -> Option<Loops<f32>> {
        avx512::f32_loops()
    }
}

impl Cell for Pair {
    const NAME: &'static str = "bf16";
    const COLUMNS: usize = 2;

    fn round(x: &[f32], cells: &mut [Pair]) {
        let (pairs, last) = x.as_chunks();
        round_pairs(pairs, cells);
        if let (&[last], Some(cell)) = (last, cells.last_mut()) {
            *cell = Pair(u32::from(rounded(last)));
        }
    }

    #[inline(always)]
    fn column(self, column: usize) -> f32 {
        f32::from_bits(if column == 0 { self.0 << 16 } else { self.0 & 0xffff_0000 })
    }

    #[cfg(target_arch = "x86_64")]
    fn avx512() -> Option<Loops<Pair>> {
        avx512::bf16_loops()
    }
}

/// The nearest bf16 of a float, half to even; a NaN stays one.
#[inline(always)]
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if value.is_nan() { bits >> 16 | 0x40 } else { nearest }) as u16
}

wide! {
    fn round_pairs(x: &[[f32; 2]], pairs: &mut [Pair]) {
        for (pair, [even, odd]) in pairs.iter_mut().zip(x) {
            *pair = Pair(u32::from(rounded(*even)) | u32::from(rounded(*odd)) << 16);
        }
    }
}

/// One cell of 32 weight rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct PanelCells<C>([C; LANES]);

/// A loop for tiles of one height: panel `[cells]`, tile `[cells, rows]`, sums `[rows]`.
///
/// # Safety
/// The slices have those sizes, the rows are those of the loop, and the chip has its features.
type TileLoop<C> = unsafe fn(&[PanelCells<C>], &[C], &mut [[f32; LANES]]);

/// A loop for each height, 1 to 12; who holds it has seen that the chip has its features.
#[derive(Clone, Copy)]
pub struct Loops<C: 'static> {
    name: &'static str,
    tiles: [TileLoop<C>; TILE_ROWS],
}

impl<C: Cell> Loops<C> {
    fn best() -> Loops<C> {
        #[cfg(target_arch = "x86_64")]
        if let Some(loops) = C::avx512() {
            return loops;
        }
        portable::best()
    }
}

/// Rows of floats `[rows, cols]` as f32 or rounded to bf16 (half to even), in the order in which products read them.
#[derive(Clone, Debug, Default)]
pub struct DenseRows<C> {
    rows: usize,
    cols: usize,
    /// Tile after tile, each `[cells, its rows]`.
    cells: Vec<C>,
}

impl<C: Cell> DenseRows<C> {
    /// Lays out row-major `x` in this one's memory.
    pub fn assign(&mut self, rows: usize, cols: usize, x: &[f32]) {
        assert_eq!(x.len(), rows * cols, "floats do not fill [{rows}, {cols}]");
        self.assign_from(rows, cols, |row, buffer| buffer.copy_from_slice(&x[row * cols..][..cols]));
    }

    /// Lays out rows as `fill(row, buffer of cols floats)` makes them, each while it is still in the nearest cache.
    pub fn assign_from(&mut self, rows: usize, cols: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
        (self.rows, self.cols) = (rows, cols);
        let width = cols.div_ceil(C::COLUMNS);
        self.cells.resize(rows * width, C::default());
        let height = self.tile_rows();
        let lay = |(index, tile): (usize, &mut [C])| {
            let mut buffer = vec![0.0; cols];
            let mut cells = vec![C::default(); tile.len()];
            for (row, cells) in cells.chunks_exact_mut(width).enumerate() {
                fill(index * height + row, &mut buffer);
                C::round(&buffer, cells);
            }
            interleave(&cells, tile.len() / width, tile);
        };
        let tile = (height * width).max(1);
        if rows * cols >= WORTH_SPREADING / 8 && threads::available() > 1 {
            self.cells.par_chunks_mut(tile).enumerate().for_each(lay);
        } else {
            self.cells.chunks_mut(tile).enumerate().for_each(lay);
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

    /// Rows of every tile but the last: as equal as can be, so that no odd row is left over.
    fn tile_rows(&self) -> usize {
        self.rows.div_ceil(self.rows.div_ceil(TILE_ROWS).max(1)).max(1)
    }

    /// The tile that begins at row `start`, and its rows.
    fn tile(&self, start: usize) -> (Range<usize>, &[C]) {
        let (rows, width) = (start..(start + self.tile_rows()).min(self.rows), self.cols.div_ceil(C::COLUMNS));
        (rows.clone(), &self.cells[rows.start * width..rows.end * width])
    }
}

/// Turns rows `[rows, cells]` into a tile `[cells, rows]`, by squares that fit the registers.
fn interleave<C: Copy>(cells: &[C], rows: usize, tile: &mut [C]) {
    const SIDE: usize = 4;
    let width = tile.len() / rows;
    let squares = width / SIDE * SIDE;
    for first in (0..rows / SIDE * SIDE).step_by(SIDE) {
        let row = |row: usize| cells[(first + row) * width..][..squares].as_chunks::<SIDE>().0;
        let square = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
        for ((((a, b), c), d), tile) in square.zip(tile.chunks_exact_mut(SIDE * rows)) {
            for column in 0..SIDE {
                tile[column * rows + first..][..SIDE].copy_from_slice(&[a[column], b[column], c[column], d[column]]);
            }
        }
    }
    for row in 0..rows {
        let rest = if row < rows / SIDE * SIDE { squares..width } else { 0..width };
        for cell in rest {
            tile[cell * rows + row] = cells[row * width + cell];
        }
    }
}

/// Matrices that share their input, laid out for this machine: `[rows of each, cols]`.
pub struct PackedDense<C: 'static> {
    loops: Loops<C>,
    cols: usize,
    /// Rows of each matrix of the stack.
    rows: Vec<usize>,
    /// `[panels, cells]`.
    panels: Vec<PanelCells<C>>,
}

/// Rows for weights kept as f32.
pub type F32Rows = DenseRows<f32>;

/// Rows for weights kept as bf16.
pub type Bf16Rows = DenseRows<Pair>;

/// Weights kept as f32.
pub type PackedF32 = PackedDense<f32>;

/// Weights kept as bf16.
pub type PackedBf16 = PackedDense<Pair>;

impl<C: Cell> PackedDense<C> {
    /// Rounds and packs matrices `[rows, cols]` of equal columns for this machine.
    pub fn pack(stack: &[Matrix<'_>]) -> PackedDense<C> {
        PackedDense::pack_for(Loops::best(), stack)
    }

    fn pack_for(loops: Loops<C>, stack: &[Matrix<'_>]) -> PackedDense<C> {
        let cols = stack.first().map_or(0, Matrix::columns);
        let width = cols.div_ceil(C::COLUMNS);
        let panels = stack.iter().map(|matrix| matrix.rows().div_ceil(LANES)).sum::<usize>();
        let mut panels = vec![PanelCells([C::default(); LANES]); panels * width];
        let mut rest = panels.as_mut_slice();
        let mut cells = vec![C::default(); width];
        for matrix in stack {
            assert_eq!(matrix.columns(), cols, "matrices of a stack differ in columns");
            for row in 0..matrix.rows() {
                C::round(&matrix.row(row).collect::<Vec<_>>(), &mut cells);
                for (panel, cell) in rest[row / LANES * width..].iter_mut().zip(&cells) {
                    panel.0[row % LANES] = *cell;
                }
            }
            rest = &mut rest[matrix.rows().div_ceil(LANES) * width..];
        }
        PackedDense { loops, cols, rows: stack.iter().map(Matrix::rows).collect(), panels }
    }

    /// Matrices in the stack.
    pub fn matrices(&self) -> usize {
        self.rows.len()
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of weights in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice())
    }

    /// The instructions that it multiplies with.
    pub fn instructions(&self) -> &'static str {
        self.loops.name
    }

    /// `values[m][n] = sum over k of weight[n][k] * x[m][k] (+ bias[n]) (+ residual[m][n])`, for each matrix.
    ///
    /// # Panics
    /// Unless `x` has this stack's columns, and each output the sizes `[x.rows(), rows]` of its matrix.
    pub fn multiply(&self, x: &DenseRows<C>, outputs: &mut [Output<'_>]) {
        let kind = if C::COLUMNS == 1 { Kind::F32 } else { Kind::Bf16 };
        let operations = 2.0 * x.rows as f64 * self.rows.iter().sum::<usize>() as f64 * self.cols as f64;
        tally::count(kind, operations, || self.product(x, outputs));
    }

    fn product(&self, x: &DenseRows<C>, outputs: &mut [Output<'_>]) {
        assert_eq!(x.cols, self.cols, "activations and weights differ in columns");
        assert_eq!(outputs.len(), self.rows.len(), "one output for each matrix of a stack");
        let targets = outputs.iter_mut().zip(&self.rows).map(|(output, &cols)| Target::new(output, x.rows, cols));
        let targets: Vec<Target<'_>> = targets.collect();
        let columns = |target| move |column| (target, column);
        let panels = targets.iter().flat_map(|target| (0..target.cols).step_by(LANES).map(columns(target)));
        let panels: Vec<(&Target<'_>, usize)> = panels.collect();
        let spread = self.rows.iter().sum::<usize>().saturating_mul(x.rows * self.cols) >= WORTH_SPREADING;
        let threads = if spread { threads::available() } else { 1 };
        // Four runs a thread even out what else the machine does; a single thread wants a single run.
        let run = if threads > 1 { panels.len().div_ceil(4 * threads) } else { panels.len() }.max(1);
        let runs = |(index, targets): (usize, &[(&Target<'_>, usize)])| self.run(index * run, targets, x);
        match threads {
            1 => panels.chunks(run).enumerate().for_each(runs),
            _ => panels.par_chunks(run).enumerate().for_each(runs),
        }
    }

    /// Multiplies the panels from `first` on, each with its place in an output, with every tile.
    fn run(&self, first: usize, places: &[(&Target<'_>, usize)], x: &DenseRows<C>) {
        let (width, height) = (self.cols.div_ceil(C::COLUMNS), x.tile_rows());
        let tiles = BLOCK_BYTES / (height * width * size_of::<C>()).max(1);
        let block = tiles.max(1) * height;
        let mut sums = [[0.0; LANES]; TILE_ROWS];
        for start in (0..x.rows).step_by(block) {
            for (panel, (target, column)) in places.iter().enumerate() {
                let panel = &self.panels[(first + panel) * width..][..width];
                for start in (start..x.rows.min(start + block)).step_by(height) {
                    let (rows, tile) = x.tile(start);
                    let sums = &mut sums[..rows.len()];
                    // SAFETY: the panel has `width` cells and the tile `width` for each of its 1 to 12 rows, by which
                    // the loop is chosen; who made the loops saw their features on this chip.
                    unsafe { self.loops.tiles[rows.len() - 1](panel, tile, sums) };
                    for (row, sums) in rows.zip(sums) {
                        // SAFETY: every column belongs to one panel, and every panel to one run.
                        unsafe { target.put(row, *column, sums) };
                    }
                }
            }
        }
    }
}

impl<C: Cell> std::fmt::Debug for PackedDense<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedDense {:?} x {} in {} for {}", self.rows, self.cols, C::NAME, self.loops.name)
    }
}

/// An output that several threads write, each its own columns.
struct Target<'a> {
    /// `[rows, cols]`
    values: Shared<'a, f32>,
    cols: usize,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

impl<'a> Target<'a> {
    fn new(output: &'a mut Output<'_>, rows: usize, cols: usize) -> Target<'a> {
        let Output { values, bias, residual } = output;
        assert_eq!(values.len(), rows * cols, "an output is not [{rows}, {cols}]");
        assert!(bias.is_none_or(|bias| bias.len() == cols), "a bias is not [{cols}]");
        assert!(residual.is_none_or(|residual| residual.len() == rows * cols), "a residual is not [{rows}, {cols}]");
        Target { values: Shared::new(values), cols, bias: *bias, residual: *residual }
    }

    /// Finishes and writes the sums of the columns from `column` on, as many as there are.
    ///
    /// # Safety
    /// No other thread writes these columns of this row meanwhile.
    unsafe fn put(&self, row: usize, column: usize, sums: &[f32; LANES]) {
        let (place, count) = (row * self.cols + column, LANES.min(self.cols - column));
        // SAFETY: the caller's promise.
        let values = unsafe { self.values.range(place..place + count) };
        values.copy_from_slice(&sums[..count]);
        for added in [self.bias.map(|bias| &bias[column..]), self.residual.map(|residual| &residual[place..])] {
            added.into_iter().for_each(|added| values.iter_mut().zip(added).for_each(|(value, added)| *value += added));
        }
    }
}
