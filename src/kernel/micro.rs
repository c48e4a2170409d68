//! What a micro-kernel promises, and the layouts that it reads.
//!
//! A micro-kernel multiplies panels of weights with one tile of activations, all columns at once, and leaves exact
//! 32-bit sums. Everything else (padding, blocking, threads, scales) lies outside, in packed.rs, once for all of them.
//!
//! ```text
//! column k = 16 b + 4 j + i     block b, class j = 0..3, byte i = 0..3; the last block is padded with zeros
//! tile          [class j][block b][row m]    one quad a cell: the four activations i = 0..3
//! ternary panel [block b][lane n]    one u32 a weight row: bits 8 i + 2 j .. + 2 hold the code (sign + 1) of column k
//! int8 panel    [class j][block b][lane n]    one u32 a weight row: byte i holds the weight of column k, plus 128
//! ```
//! Activations have one layout, so what was rounded once can meet any weights. A mask `3 << 2 j` over a ternary word
//! leaves four codes, `4^j` times too large, that meet one quad of class j: so the two bits are never unpacked. Summing
//! the classes downwards with `acc >>= 2` between them takes the factors out again (Horner), exactly, because all that
//! has been added by then is a multiple of four.

pub use super::finish::Lines;
use super::int8::WEIGHT_MAX;
#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512Vnni, AvxVnni};
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
/// The most rows of a tile: 24 vectors of sums, 2 of weights and a mask fit the 32 registers of AVX-512.
pub const TILE_ROWS: usize = 12;

// The codes are 0, 1, 2: with the row sum taken off first every partial sum lies within 128 a column, and the first
// class adds up 64 times that; taken off last, within 256 a column, but of a fourth of them in the first class.
const _: () = assert!((COLS_MAX as i64) * 128 * 64 <= i32::MAX as i64);
// Sums of bytes may wrap on the way, but not in the end.
const _: () = assert!((COLS_MAX as i64) * 128 * (WEIGHT_MAX as i64) <= i32::MAX as i64);

/// One word for each of a panel's 32 weight rows. Two cache lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Words(pub [u32; LANES]);

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
    /// A tile of at most [`TILE_ROWS`] rows from its cells `[4, blocks, rows]` and the sum of each row.
    pub fn new(quads: &'a [Quad], row_sums: &'a [i32]) -> Tile<'a> {
        assert!((1..=TILE_ROWS).contains(&row_sums.len()), "a tile has 1 to {TILE_ROWS} rows");
        assert!(quads.len().is_multiple_of(CLASSES * row_sums.len()), "a tile is [4, blocks, rows]");
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

    /// Rows, 1 to [`TILE_ROWS`].
    pub fn rows(&self) -> usize {
        self.row_sums.len()
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

/// The exact sums of one activation row with the 32 weight rows of a panel.
pub type Sums = [i32; LANES];

/// One instruction set's loops. Implementors are proof tokens: who holds one may call it.
pub trait Micro: Send + Sync {
    /// The instruction set.
    fn isa(&self) -> Isa;

    /// `sums[p][m][n] = sum over k of sign[n][k] * activation[m][k]`, exactly, for each ternary panel p.
    ///
    /// # Panics
    /// Unless each panel has the tile's blocks and its rows of `sums`.
    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]);

    /// `sums[p][m][n] = sum over k of weight[n][k] * activation[m][k]`, exactly, for each int8 panel p.
    ///
    /// # Panics
    /// Unless each panel has four times the tile's blocks and its rows of `sums`.
    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]);

    /// As [`Micro::ternary`], straight to the floats that the sums become.
    ///
    /// # Panics
    /// Unless each panel has the tile's blocks and `lines` their lanes and the tile's rows.
    fn ternary_floats(&self, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>) {
        let mut sums = [[0; LANES]; TILE_ROWS];
        let sums = &mut sums[..lines.scales.len() * tile.rows()];
        self.ternary(panels, tile, sums);
        lines.put(sums);
    }

    /// As [`Micro::int8`], straight to the floats that the sums become.
    ///
    /// # Panics
    /// Unless each panel has four times the tile's blocks and `lines` their lanes and the tile's rows.
    fn int8_floats(&self, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>) {
        let mut sums = [[0; LANES]; TILE_ROWS];
        let sums = &mut sums[..lines.scales.len() * tile.rows()];
        self.int8(panels, tile, sums);
        lines.put(sums);
    }

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
        Isa::AvxVnni => AvxVnni::detect().map(|token| Box::new(token) as Box<dyn Micro>),
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

/// A loop for tiles of one height: panel, tile, sums. Safe to call from [`each_panel`], on a chip that has its features.
#[cfg(target_arch = "aarch64")]
pub(super) type TileLoop = unsafe fn(&[Words], &Tile<'_>, &mut [Sums]);

/// A tile's row sums and its place for results as arrays: loops of a known length are unrolled into registers.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) fn fixed<'a, const ROWS: usize>(
    tile: &Tile<'a>,
    sums: &'a mut [Sums],
) -> (&'a [i32; ROWS], &'a mut [Sums; ROWS]) {
    let row_sums = tile.row_sums().try_into().expect("the loop is chosen by the rows of the tile");
    (row_sums, sums.try_into().expect("the loop is chosen by the rows of the tile"))
}

/// The loops for a tile of 1, 2, .. 12 rows, of one that is generic over its rows.
macro_rules! each_height {
    ($rows:ident) => {
        [
            $rows::<1>,
            $rows::<2>,
            $rows::<3>,
            $rows::<4>,
            $rows::<5>,
            $rows::<6>,
            $rows::<7>,
            $rows::<8>,
            $rows::<9>,
            $rows::<10>,
            $rows::<11>,
            $rows::<12>,
        ]
    };
}
pub(super) use each_height;

/// Calls `multiply(panel, sums)` for each panel of `words` words, after asserting what [`Micro`] requires of them: the
/// kernels' pointers rest on it.
#[inline(always)]
pub(super) fn each_panel(
    panels: &[Words],
    words: usize,
    tile: &Tile<'_>,
    sums: &mut [Sums],
    mut multiply: impl FnMut(&[Words], &mut [Sums]),
) {
    let whole = sums.len().is_multiple_of(tile.rows()) && panels.len() == sums.len() / tile.rows() * words;
    assert!(whole, "{} words and {} rows of sums for panels of {words} words", panels.len(), sums.len());
    for (index, sums) in sums.chunks_exact_mut(tile.rows()).enumerate() {
        multiply(&panels[index * words..][..words], sums);
    }
}

/// As [`each_panel`], for floats: calls `multiply(panel, its index in the lines)`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn each_panel_of_lines(
    panels: &[Words],
    words: usize,
    tile: &Tile<'_>,
    lines: &Lines<'_>,
    multiply: impl Fn(&[Words], usize),
) {
    assert_eq!(lines.factors.len(), tile.rows(), "the lines and the tile differ in rows");
    assert_eq!(panels.len(), lines.scales.len() * words, "the lines and the panels differ in lanes");
    for index in 0..lines.scales.len() {
        multiply(&panels[index * words..][..words], index);
    }
}

/// The activation scale of a row whose largest magnitude is `peak` (NaN if the row has one).
#[inline]
pub(super) fn activation_scale(peak: f32) -> f32 {
    // Not f32::max, which would lose the NaN.
    let peak = if peak < 1e-5 { 1e-5 } else { peak };
    // PyTorch divides a number by a tensor as reciprocal times number, with two roundings; published scales have both.
    peak.recip() * 127.0
}
