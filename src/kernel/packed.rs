//! Matrices ready to multiply: their panels, and the micro-kernel that they were packed for.
//!
//! The instruction set is chosen once, at packing; a product has no dispatch left and cannot fail. Matrices that share
//! their input are packed as one stack and multiplied by one call, each into an output of its own. Here are the padding,
//! the blocking and the threads, the same for every micro-kernel and every kind of weights: a job is some tiles of
//! activations and some panels, and each panel meets every tile.

use std::marker::PhantomData;
use std::ops::Range;

pub use super::finish::Output;
use super::finish::{Finish, Floats, Integers, Members, Place};
use super::int8::Int8Matrix;
use super::isa::{self, Isa, IsaError};
use super::lookup::{self, Second};
use super::micro::{self, BLOCK, LANES, Lines, Micro, Sums, TILE_ROWS, Tile, Words};
use super::quantize::{QuantizedRows, share};
use super::tally::{self, Kind};
use super::ternary::TernaryMatrix;
use super::threads;

/// Below this many products a hand-over to other threads costs more than it saves (about 20 us of one AVX-512 core).
pub(super) const WORTH_SPREADING: usize = 1 << 22;

/// Tiles that each panel meets before the next panel: 384 rows of 2,048 columns stay in a 1 MiB cache.
const BLOCK_TILES: usize = 32;

/// Weights that can be laid out in panels (micro.rs draws them).
pub trait Weights {
    /// How products with them are accounted for.
    const KIND: Kind;
    /// Panel words of a block of 16 columns.
    const WORDS: usize;
    /// The word of weights that are all zero: what fills a panel that has fewer rows.
    const ZEROS: u32;
    /// Whether the lookup has a format for them (lookup/).
    const LOOKED_UP: bool = false;

    /// Output rows and input columns.
    fn shape(&self) -> [usize; 2];

    /// What a unit of the matrix is worth, times [`Weights::row_scale`].
    fn scale(&self) -> f32;

    /// What a unit of one output row is worth, times [`Weights::scale`].
    fn row_scale(&self, row: usize) -> f32;

    /// Gives the words of a row and their places in the panel, of `WORDS * blocks`.
    fn lay_row(&self, row: usize, put: impl FnMut(usize, u32));

    /// The micro-kernel's product for this kind of panels, as sums.
    fn sums(micro: &dyn Micro, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]);

    /// The micro-kernel's product for this kind of panels, as floats.
    fn floats(micro: &dyn Micro, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>);
}

/// Ternary matrices laid out for this machine, 2 bits a weight (rows padded to 32, columns to 16).
pub type PackedMatrix = Packed<TernaryMatrix>;

/// Int8 matrices laid out for this machine, a byte a weight (rows padded to 32, columns to 16).
pub type PackedInt8 = Packed<Int8Matrix>;

/// A stack of matrices `[rows, cols]` with the same columns, laid out for this machine.
pub struct Packed<W> {
    micro: Box<dyn Micro>,
    cols: usize,
    members: Vec<Member>,
    /// What a unit of each lane is worth, `[panels, 32]`.
    lane_scales: Vec<[f32; LANES]>,
    /// `[panels, WORDS * blocks]`.
    panels: Vec<Words>,
    /// The same weights in the lookup's format, once a product of many rows wanted it.
    second: Second,
    weights: PhantomData<fn(&W)>,
}

/// One matrix of a stack.
pub(super) struct Member {
    /// Output rows.
    pub rows: usize,
    /// What a unit is worth, times the lane's scale.
    pub scale: f32,
    /// Its panels, of the stack's.
    pub panels: Range<usize>,
}

impl<W: Weights> Packed<W> {
    /// Packs for the instruction set in use ([`isa::current`]).
    ///
    /// # Panics
    /// If the matrices differ in columns, or there is none.
    pub fn pack(stack: &[&W]) -> Packed<W> {
        Packed::pack_for(isa::current(), stack).expect("the instruction set in use is available")
    }

    /// Packs for a given instruction set; refuses one that the chip lacks.
    ///
    /// # Panics
    /// As [`Packed::pack`].
    pub fn pack_for(isa: Isa, stack: &[&W]) -> Result<Packed<W>, IsaError> {
        Ok(Packed::pack_with(micro::for_isa(isa)?, stack))
    }

    fn pack_with(micro: Box<dyn Micro>, stack: &[&W]) -> Packed<W> {
        let cols = stack.first().expect("a stack has a matrix").shape()[1];
        let (mut members, mut lane_scales, mut panels) = (Vec::new(), Vec::new(), Vec::new());
        let words = W::WORDS * cols.div_ceil(BLOCK);
        for matrix in stack {
            assert_eq!(matrix.shape()[1], cols, "the matrices of a stack differ in columns");
            let (rows, first) = (matrix.shape()[0], lane_scales.len());
            let count = rows.div_ceil(LANES);
            lane_scales.resize(first + count, [0.0; LANES]);
            panels.resize((first + count) * words, Words([W::ZEROS; LANES]));
            for row in 0..rows {
                let (panel, lane) = (first + row / LANES, row % LANES);
                lane_scales[panel][lane] = matrix.row_scale(row);
                let panel = &mut panels[panel * words..][..words];
                matrix.lay_row(row, |place, word| panel[place].0[lane] = word);
            }
            members.push(Member { rows, scale: matrix.scale(), panels: first..first + count });
        }
        Packed { micro, cols, members, lane_scales, panels, second: Second::default(), weights: PhantomData }
    }

    /// Output rows, of all matrices together.
    pub fn rows(&self) -> usize {
        self.members.iter().map(|member| member.rows).sum()
    }

    /// Matrices in the stack.
    pub fn matrices(&self) -> usize {
        self.members.len()
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of weights in memory now. The lookup's format joins them with the first product that is looked up.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice()) + size_of_val(self.lane_scales.as_slice()) + self.second.bytes()
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.micro.isa()
    }

    /// For each matrix `values[m][n] = sum over k of weight[n][k] * byte[m][k] * (row scale[n] * (scale / scale of row
    /// m)) + bias[n] + residual[m][n]`. The sum is exact, the quotient is rounded once from f64, and each f32 product
    /// and addition once: the same bits on every instruction set. (A ternary row scale is 1.)
    ///
    /// # Panics
    /// Unless `x` has this stack's columns and there is an output `[x.rows(), its rows]` for each matrix.
    pub fn multiply(&self, x: &QuantizedRows, outputs: &mut [Output<'_>]) {
        let operations = 2.0 * x.rows() as f64 * self.rows() as f64 * self.cols as f64;
        tally::count(W::KIND, operations, || {
            self.run(x, &Floats::new(x, &self.members, &self.lane_scales, outputs));
        });
    }

    /// For each matrix the exact sums `out[m][n] = sum over k of weight[n][k] * byte[m][k]`, row-major.
    ///
    /// # Panics
    /// As [`Packed::multiply`].
    pub fn multiply_i32(&self, x: &QuantizedRows, outputs: &mut [&mut [i32]]) {
        self.run(x, &Integers::new(x, &self.members, outputs));
    }

    /// Hands the sums of every tile and panel to `finish`.
    fn run(&self, x: &QuantizedRows, finish: &impl Finish) {
        assert_eq!(x.cols(), self.cols, "activations and weights differ in columns");
        let (tiles, panels) = (x.tiles(), self.lane_scales.len());
        let cost = x.rows() * self.rows() * self.cols;
        let threads = if cost >= WORTH_SPREADING { threads::available() } else { 1 };
        if W::LOOKED_UP && self.isa() == Isa::Avx512Vnni {
            // SAFETY: the parts of a product do not overlap, and each has a sink of its own.
            let sink = || unsafe { Members::new(&self.members, finish) };
            if self.second.product(&self.panels, x, (lookup::current(), threads), sink) {
                return;
            }
        }
        let blocks = tiles.div_ceil(BLOCK_TILES);
        // A single thread wants a single run of panels; several want as many jobs each, and four to even out what
        // else the machine does.
        let runs = if threads > 1 { (threads * 4usize.div_ceil(blocks.max(1))).min(panels) } else { 1 };
        let job = |job: usize| {
            let (tiles, panels) = (share(job / runs, blocks, tiles), share(job % runs, runs, panels));
            self.run_job(x, tiles, panels, finish);
        };
        threads::for_each(blocks * runs, if threads > 1 { usize::MAX } else { 0 }, job);
    }

    /// Multiplies some panels with some tiles. Low tiles meet several panels in one call.
    fn run_job(&self, x: &QuantizedRows, tiles: Range<usize>, panels: Range<usize>, finish: &impl Finish) {
        let words = W::WORDS * self.cols.div_ceil(BLOCK);
        let at_once = (TILE_ROWS * x.tiles() / x.rows()).max(1);
        for (member, matrix) in self.members.iter().enumerate() {
            let end = panels.end.min(matrix.panels.end);
            for first in (panels.start.max(matrix.panels.start)..end).step_by(at_once) {
                let panels = first..(first + at_once).min(end);
                let weights = &self.panels[panels.start * words..panels.end * words];
                for tile in tiles.clone() {
                    let (rows, tile) = x.tile(tile);
                    let place = Place { member, panels: panels.clone(), rows };
                    // SAFETY: every tile meets every panel in one job, once.
                    unsafe { finish.fill::<W>(self.micro.as_ref(), place, weights, &tile) };
                }
            }
        }
    }
}

impl<W: Weights> std::fmt::Debug for Packed<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows: Vec<_> = self.members.iter().map(|member| member.rows).collect();
        write!(f, "Packed {rows:?} of {} columns for {}", self.cols, self.isa())
    }
}

#[cfg(test)]
mod tests;
