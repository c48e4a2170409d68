//! NEON with the byte dot product: `sdot` multiplies sixteen byte pairs an instruction and adds fours in 32 bits.
//!
//! Both factors are signed, so a class's mask must not reach the sign bit: the codes of classes 2, 1 and 0 are masked,
//! 16, 4 and 1 times too large, and `sums >>= 2` between the classes takes the factors out as micro.rs says; the top
//! class is shifted down instead and goes with class 0. So unpacking is one instruction a vector for every class, and
//! an int8 weight takes one as well, which takes its 128 off.
//! `sdot` takes one quad out of a vector of four, so a tile reads four rows at a time. It sums as many lanes at once as
//! give 24 sums at most: 8 of twelve rows, 16 of six, all 32 of two. A single ternary row sums each factor on its own, 16 lanes
//! at a time, and reads the panel once.

use std::arch::aarch64::*;
use std::arch::asm;

use super::isa::{Isa, NeonDot};
use super::micro::{
    CLASSES, LANES, Micro, Quad, RowScale, Sums, TILE_ROWS, Tile, TileLoop, Words, each_height, each_panel, fixed,
};
use super::neon::quantize;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 4;

/// The ternary loop for each height of a tile.
const TERNARY: [TileLoop; TILE_ROWS] = each_height!(ternary);

/// The int8 loop for each height of a tile.
const INT8: [TileLoop; TILE_ROWS] = each_height!(int8);

impl Micro for NeonDot {
    fn isa(&self) -> Isa {
        Isa::NeonDot
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, tile.blocks(), tile, sums, |panel, sums| {
            // SAFETY: self exists, so detection saw neon and dotprod; each_panel established that the tile has
            // panel.len() blocks of sums.len() rows, the row count by which the loop is chosen.
            unsafe { TERNARY[sums.len() - 1](panel, tile, sums) }
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, CLASSES * tile.blocks(), tile, sums, |panel, sums| {
            // SAFETY: as above; here panel.len() is four times the tile's blocks.
            unsafe { INT8[sums.len() - 1](panel, tile, sums) }
        });
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw neon; the lengths are equal.
        unsafe { quantize(x, values) }
    }
}

/// The sums of `ROWS` rows over `VECTORS` vectors of lanes.
type Acc<const ROWS: usize, const VECTORS: usize> = [[int32x4_t; VECTORS]; ROWS];

/// A ternary tile of `ROWS` rows.
///
/// # Safety
/// The tile has `ROWS` rows of `panel.len()` blocks, and `sums` has `ROWS` rows.
#[target_feature(enable = "neon,dotprod")]
unsafe fn ternary<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match ROWS {
            1 => ternary_row(panel, tile, sums),
            2 => ternary_lanes::<ROWS, 8>(panel, tile, sums),
            3..=6 => ternary_lanes::<ROWS, 4>(panel, tile, sums),
            _ => ternary_lanes::<ROWS, 2>(panel, tile, sums),
        }
    }
}

/// An int8 tile of `ROWS` rows.
///
/// # Safety
/// The tile has `ROWS` rows and as many cells a row as `panel` has words, and `sums` has `ROWS` rows.
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match ROWS {
            1..=2 => int8_lanes::<ROWS, 8>(panel, tile, sums),
            3..=6 => int8_lanes::<ROWS, 4>(panel, tile, sums),
            _ => int8_lanes::<ROWS, 2>(panel, tile, sums),
        }
    }
}

/// A ternary tile of `ROWS` rows, `VECTORS` vectors of lanes at a time.
///
/// # Safety
/// The tile has `ROWS` rows of `panel.len()` blocks, `sums` has `ROWS` rows, and `VECTORS` divides 8.
#[target_feature(enable = "neon,dotprod")]
unsafe fn ternary_lanes<const ROWS: usize, const VECTORS: usize>(panel: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
    let (row_sums, sums) = fixed::<ROWS>(tile, sums);
    let quads = tile.quads().as_ptr();
    for first in (0..LANES).step_by(VECTORS * VECTOR) {
        // The first class adds 16 times the codes, so the ones that the codes are too large by weigh 16 as well.
        let mut acc: Acc<ROWS, VECTORS> = [[vdupq_n_s32(0); VECTORS]; ROWS];
        for (acc, row_sum) in acc.iter_mut().zip(row_sums) {
            *acc = [vdupq_n_s32(-16 * row_sum); VECTORS];
        }
        for class in [2, 1, 0] {
            let mask = vdupq_n_u8(3 << (2 * class));
            // SAFETY: class < 4, and the tile has [4, panel.len(), ROWS] cells; first is a multiple of these lanes.
            unsafe {
                add(&mut acc, panel, quads.add(class * panel.len() * ROWS), first, |words| vandq_u8(words, mask))
            };
            if class > 0 {
                for acc in acc.as_flattened_mut() {
                    *acc = vshrq_n_s32::<2>(*acc);
                }
            }
        }
        // SAFETY: as above.
        unsafe { add(&mut acc, panel, quads.add(3 * panel.len() * ROWS), first, |words| vshrq_n_u8::<6>(words)) };
        store(sums, &acc, first);
    }
}

/// An int8 tile of `ROWS` rows, `VECTORS` vectors of lanes at a time.
///
/// # Safety
/// The tile has `ROWS` rows and as many cells a row as `panel` has words, `sums` has `ROWS` rows, `VECTORS` divides 8.
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8_lanes<const ROWS: usize, const VECTORS: usize>(panel: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
    let (_, sums) = fixed::<ROWS>(tile, sums);
    let sign = vdupq_n_u8(0x80);
    for first in (0..LANES).step_by(VECTORS * VECTOR) {
        let mut acc: Acc<ROWS, VECTORS> = [[vdupq_n_s32(0); VECTORS]; ROWS];
        // SAFETY: the tile has panel.len() times ROWS cells; first is a multiple of these lanes.
        unsafe { add(&mut acc, panel, tile.quads().as_ptr(), first, |words| veorq_u8(words, sign)) };
        store(sums, &acc, first);
    }
}

/// Adds the products of some words, from lane `first` on, with their quads; `weights` makes signed bytes of a vector.
///
/// # Safety
/// `quads` points at `[panel.len(), ROWS]` cells, and `first` is a multiple of the lanes in `VECTORS`, which divides 8.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add<const ROWS: usize, const VECTORS: usize>(
    acc: &mut Acc<ROWS, VECTORS>,
    panel: &[Words],
    mut quads: *const Quad,
    first: usize,
    weights: impl Fn(uint8x16_t) -> uint8x16_t,
) {
    let whole = ROWS / 4 * 4;
    for words in panel {
        let (mut fours, mut singles) = ([vdupq_n_s8(0); 3], [vdupq_n_s8(0); 3]);
        for (four, quad) in fours.iter_mut().take(ROWS / 4).enumerate() {
            // SAFETY: four neighbouring rows of this cell, read without alignment.
            *quad = unsafe { vld1q_s8(quads.add(4 * four).cast()) };
        }
        for (m, quad) in singles.iter_mut().take(ROWS - whole).enumerate() {
            // SAFETY: a row of this cell below ROWS.
            *quad = unsafe { single(quads.add(whole + m)) };
        }
        for vector in 0..VECTORS {
            // SAFETY: sixteen bytes of the 128 that words are.
            let words = unsafe { vld1q_u8(words.0.as_ptr().add(first + vector * VECTOR).cast()) };
            let weights = vreinterpretq_s8_u8(weights(words));
            for (acc, quad) in acc.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
                acc[0][vector] = dot::<0>(acc[0][vector], weights, quad);
                acc[1][vector] = dot::<1>(acc[1][vector], weights, quad);
                acc[2][vector] = dot::<2>(acc[2][vector], weights, quad);
                acc[3][vector] = dot::<3>(acc[3][vector], weights, quad);
            }
            for (acc, quad) in acc[whole..].iter_mut().zip(singles) {
                acc[vector] = dot::<0>(acc[vector], weights, quad);
            }
        }
        // SAFETY: at most one past the last cell.
        quads = unsafe { quads.add(ROWS) };
    }
}

/// A ternary tile of one row: half a panel at a time, read once, each factor with sums of its own.
///
/// # Safety
/// The tile has one row of `panel.len()` blocks, and `sums` has one row.
#[target_feature(enable = "neon,dotprod")]
unsafe fn ternary_row(panel: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
    let quads = tile.quads().as_ptr();
    for first in [0, LANES / 2] {
        let mut acc = [[vdupq_n_s32(0); 3]; 4];
        for (index, words) in panel.iter().enumerate() {
            let mut quad = [vdupq_n_s8(0); CLASSES];
            for (class, quad) in quad.iter_mut().enumerate() {
                // SAFETY: class < 4, and the tile has [4, panel.len(), 1] cells.
                *quad = unsafe { single(quads.add(class * panel.len() + index)) };
            }
            for (vector, acc) in acc.iter_mut().enumerate() {
                // SAFETY: sixteen bytes of the 128 that words are.
                let words = unsafe { vld1q_u8(words.0.as_ptr().add(first + vector * VECTOR).cast()) };
                for (class, acc) in acc.iter_mut().enumerate() {
                    let codes = vandq_u8(words, vdupq_n_u8(3 << (2 * class)));
                    *acc = dot::<0>(*acc, vreinterpretq_s8_u8(codes), quad[class]);
                }
                acc[0] = dot::<0>(acc[0], vreinterpretq_s8_u8(vshrq_n_u8::<6>(words)), quad[3]);
            }
        }
        // A code is the sign plus one: the ones add up to the sum of the row.
        let ones = vdupq_n_s32(tile.row_sums()[0]);
        let mut totals = [[ones; 4]];
        for (total, [one, four, sixteen]) in totals[0].iter_mut().zip(acc) {
            // Each sum is a multiple of its factor.
            *total = vsubq_s32(vsraq_n_s32::<2>(vsraq_n_s32::<4>(one, sixteen), four), ones);
        }
        store(sums, &totals, first);
    }
}

/// Writes the sums of the lanes from `first` on; these are inside a panel.
#[inline]
#[target_feature(enable = "neon")]
fn store<const VECTORS: usize>(sums: &mut [Sums], acc: &[[int32x4_t; VECTORS]], first: usize) {
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (lanes, acc) in sums[first..][..VECTORS * VECTOR].as_chunks_mut::<VECTOR>().0.iter_mut().zip(acc) {
            // SAFETY: the four lanes of one vector.
            unsafe { vst1q_s32(lanes.as_mut_ptr(), *acc) };
        }
    }
}

/// A quad in the first of four places.
///
/// # Safety
/// `quad` can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn single(quad: *const Quad) -> int8x16_t {
    // SAFETY: the caller's promise; a quad is four bytes, read without alignment.
    vreinterpretq_s8_s32(vsetq_lane_s32::<0>(unsafe { quad.cast::<i32>().read_unaligned() }, vdupq_n_s32(0)))
}

/// `sum[lane] += weights[4 lane .. + 4] . quads[QUAD]`. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const QUAD: usize>(mut sum: int32x4_t, weights: int8x16_t, quads: int8x16_t) -> int32x4_t {
    // SAFETY: sdot reads and writes the named registers only, and this function requires dotprod.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {quads:v}.4b[{quad}]",
            sum = inlateout(vreg) sum,
            weights = in(vreg) weights,
            quads = in(vreg) quads,
            quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
