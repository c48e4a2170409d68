//! What a micro-kernel promises, and the two layouts that it reads.
//!
//! A micro-kernel multiplies one panel of weights with one tile of activations, all columns at once, and leaves exact
//! 32-bit sums. Everything else (padding, blocking, threads, scales) lies outside, in packed.rs, once for all of them.
//!
//! ```text
//! column k = 16 b + 4 j + i     block b, class j = 0..3, byte i = 0..3; the last block is padded with zeros
//! panel    [block b][lane n]    one u32 a weight row: bits 8 i + 2 j .. + 2 hold the code (sign + 1) of column k
//! tile     [class j][block b][row m]    one quad a cell: the four activations i = 0..3
//! ```
//! A mask `3 << 2 j` over a panel word leaves four codes, `4^j` times too large, that meet one quad of class j:
//! so the two bits are never unpacked. Summing the classes downwards with `acc >>= 2` between them takes the factors
//! out again (Horner), exactly, because all that has been added by then is a multiple of four.

#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512Vnni};
use super::isa::{Isa, IsaError};
#[cfg(target_arch = "aarch64")]
use super::isa::{Neon, NeonDot};
use super::scalar::Scalar;
use super::ternary::COLS_MAX;

/// Weight rows in a panel.
pub const LANES: usize = 32;
/// Columns in a block.
pub const BLOCK: usize = 16;
/// Quads in a block, and bit pairs in a byte.
pub const CLASSES: usize = 4;

// The codes are 0, 1, 2 and the row sum is taken off first, so every partial sum lies within 128 a column; the first
// class adds up 64 times that.
const _: () = assert!((COLS_MAX as i64) * 128 * 64 <= i32::MAX as i64);

/// One block of a panel: a word for each of 32 weight rows. Two cache lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct PanelBlock(pub [u32; LANES]);

/// Four neighbouring activations of one row, in memory order.
pub type Quad = [i8; 4];

/// Some rows of activations, laid out for a micro-kernel.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// `[4, blocks, rows]`.
    quads: &'a [Quad],
    /// The sum of each row's activations; their count is the tile's rows.
    row_sums: &'a [i32],
}

impl<'a> Tile<'a> {
    /// A tile from its cells `[4, blocks, rows]` and the sum of each row.
    pub fn new(quads: &'a [Quad], row_sums: &'a [i32]) -> Tile<'a> {
        assert!(
            !row_sums.is_empty() && quads.len().is_multiple_of(CLASSES * row_sums.len()),
            "a tile is [4, blocks, rows]"
        );
        Tile { quads, row_sums }
    }

    /// The cells `[4, blocks, rows]`.
    pub fn quads(&self) -> &'a [Quad] {
        self.quads
    }

    /// The sum of each row.
    pub fn row_sums(&self) -> &'a [i32] {
        self.row_sums
    }

    /// Blocks of 16 columns.
    pub fn blocks(&self) -> usize {
        self.quads.len() / (CLASSES * self.row_sums.len())
    }
}

/// What quantising a row of floats gives besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RowScale {
    /// `127 / max(max |x|, 1e-5)`; 0 for a row with an infinity, NaN for a row with a NaN.
    pub scale: f32,
    /// The sum of the row's bytes.
    pub sum: i32,
}

/// One instruction set's loops. Implementors are proof tokens: who holds one may call it.
pub trait Micro: Send + Sync {
    /// The instruction set.
    fn isa(&self) -> Isa;

    /// The most rows that a tile may have.
    fn tile_rows_max(&self) -> usize;

    /// `sums[m][n] = sum over k of sign[n][k] * activation[m][k]`, exactly.
    ///
    /// # Panics
    /// Unless the panel has the tile's blocks, `sums` its rows, and the rows are at most [`Micro::tile_rows_max`].
    fn multiply(&self, panel: &[PanelBlock], tile: Tile<'_>, sums: &mut [[i32; LANES]]);

    /// `values = clamp(round_half_even(x * scale), -128, 127)`, where what is no number becomes 0.
    ///
    /// # Panics
    /// Unless both slices have the same length.
    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale;
}

/// The micro-kernel of an instruction set.
pub fn for_isa(isa: Isa) -> Result<Box<dyn Micro>, IsaError> {
    // The tokens have no size, so none of these boxes allocates.
    let micro: Option<Box<dyn Micro>> = match isa {
        Isa::Scalar => Some(Box::new(Scalar)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::detect().map(|token| Box::new(token) as Box<dyn Micro>),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Avx512Vnni::detect().map(|token| Box::new(token) as Box<dyn Micro>),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Neon::detect().map(|token| Box::new(token) as Box<dyn Micro>),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => NeonDot::detect().map(|token| Box::new(token) as Box<dyn Micro>),
        #[allow(unreachable_patterns, reason = "which sets are written for another chip depends on this one")]
        _ => None,
    };
    micro.ok_or(IsaError::Unavailable(isa))
}

/// A loop for tiles of one height: panel, tile, sums. Safe to call after [`check`], on a chip that has its features.
pub(super) type TileLoop = unsafe fn(&[PanelBlock], &Tile<'_>, &mut [[i32; LANES]]);

/// Asserts what [`Micro::multiply`] requires; the kernels' pointers rest on it.
pub(super) fn check(panel: &[PanelBlock], tile: &Tile<'_>, sums: &[[i32; LANES]], rows_max: usize) {
    let rows = tile.row_sums().len();
    assert!(
        rows <= rows_max && sums.len() == rows,
        "a tile of {rows} rows, sums for {}, at most {rows_max}",
        sums.len()
    );
    assert_eq!(tile.quads().len(), CLASSES * panel.len() * rows, "the panel and the tile differ in blocks");
}

/// A tile's row sums and its place for results as arrays: loops of a known length are unrolled into registers.
#[inline(always)]
pub(super) fn fixed<'a, const ROWS: usize>(
    tile: &Tile<'a>,
    sums: &'a mut [[i32; LANES]],
) -> (&'a [i32; ROWS], &'a mut [[i32; LANES]; ROWS]) {
    let row_sums = tile.row_sums().try_into().expect("the loop is chosen by the rows of the tile");
    (row_sums, sums.try_into().expect("the loop is chosen by the rows of the tile"))
}

/// The activation scale of a row whose largest magnitude is `peak` (NaN if the row has one).
#[inline]
pub(super) fn activation_scale(peak: f32) -> f32 {
    // Not f32::max, which would lose the NaN.
    let peak = if peak < 1e-5 { 1e-5 } else { peak };
    // PyTorch divides a number by a tensor as reciprocal times number, with two roundings; published scales have both.
    peak.recip() * 127.0
}
