//! NEON with the byte dot product: `sdot` multiplies sixteen byte pairs an instruction and adds fours in 32 bits.
//!
//! Both factors are signed, so a class's mask must not reach the sign bit: the codes of classes 2, 1 and 0 are masked,
//! 16, 4 and 1 times too large, and `sums >>= 2` between the classes takes the factors out as micro.rs says; the top
//! class is shifted down instead and goes with class 0. So unpacking is one instruction a vector for every class.
//! `sdot` takes one quad out of a vector of four, so a tile reads four rows at a time. A group of eight lanes by twelve
//! rows is 24 sums, two vectors of codes and three of quads; a single row sums 16 lanes, each factor on its own.

use std::arch::aarch64::*;
use std::arch::asm;

use super::isa::{Isa, NeonDot};
use super::micro::{LANES, Micro, PanelBlock, Quad, RowScale, Tile, TileLoop, check, fixed};
use super::neon::quantize;

/// 24 sums, two vectors of codes, three of quads and a mask fit the 32 registers.
const TILE_ROWS: usize = 12;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 4;

/// Lanes that a tile sums at a time.
const GROUP: usize = 2 * VECTOR;

/// The loop for a tile of 1, 2, .. 12 rows.
const TILES: [TileLoop; TILE_ROWS] = [
    row, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>, tile::<10>,
    tile::<11>, tile::<12>,
];

impl Micro for NeonDot {
    fn isa(&self) -> Isa {
        Isa::NeonDot
    }

    fn tile_rows_max(&self) -> usize {
        TILE_ROWS
    }

    fn multiply(&self, panel: &[PanelBlock], tile: Tile<'_>, sums: &mut [[i32; LANES]]) {
        check(panel, &tile, sums, TILE_ROWS);
        // SAFETY: self exists, so detection saw neon and dotprod; check() established that the tile has panel.len()
        // blocks of sums.len() rows, the row count by which the loop is chosen.
        unsafe { TILES[sums.len() - 1](panel, &tile, sums) }
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw neon; the lengths are equal.
        unsafe { quantize(x, values) }
    }
}

/// A tile of `ROWS` rows.
///
/// # Safety
/// The tile has `ROWS` rows of `panel.len()` blocks, and `sums` has `ROWS` rows.
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const ROWS: usize>(panel: &[PanelBlock], tile: &Tile<'_>, sums: &mut [[i32; LANES]]) {
    let (row_sums, sums) = fixed::<ROWS>(tile, sums);
    for group in 0..LANES / GROUP {
        // The first class adds 16 times the codes, so the ones that the codes are too large by weigh 16 as well.
        let mut acc = [[vdupq_n_s32(0); 2]; ROWS];
        for (acc, row_sum) in acc.iter_mut().zip(row_sums) {
            *acc = [vdupq_n_s32(-16 * row_sum); 2];
        }
        for class in [2, 1, 0] {
            let mask = vdupq_n_u8(3 << (2 * class));
            // SAFETY: the group is one of four, the class below four, and the tile is the caller's.
            unsafe { add_class(&mut acc, panel, tile, (group, class), |words| vandq_u8(words, mask)) };
            if class > 0 {
                for acc in &mut acc {
                    *acc = [vshrq_n_s32::<2>(acc[0]), vshrq_n_s32::<2>(acc[1])];
                }
            }
        }
        // SAFETY: as above.
        unsafe { add_class(&mut acc, panel, tile, (group, 3), |words| vshrq_n_u8::<6>(words)) };
        for (sums, acc) in sums.iter_mut().zip(acc) {
            // SAFETY: group < 4, and eight sums from 8 * group lie within 32.
            unsafe {
                let lanes = sums.as_mut_ptr().add(group * GROUP);
                vst1q_s32(lanes, acc[0]);
                vst1q_s32(lanes.add(VECTOR), acc[1]);
            }
        }
    }
}

/// Adds one class of a group of lanes; `codes` takes it out of the panel's words.
///
/// # Safety
/// The tile has `ROWS` rows of `panel.len()` blocks, the group and the class are below four.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_class<const ROWS: usize>(
    acc: &mut [[int32x4_t; 2]; ROWS],
    panel: &[PanelBlock],
    tile: &Tile<'_>,
    (group, class): (usize, usize),
    codes: impl Fn(uint8x16_t) -> uint8x16_t,
) {
    // SAFETY: class < 4, and the tile has [4, panel.len(), ROWS] cells.
    let mut quads = unsafe { tile.quads().as_ptr().add(class * panel.len() * ROWS) };
    for block in panel {
        let words = block.0.as_ptr().cast::<u8>();
        // SAFETY: group < 4: 32 bytes from 32 * group lie within the 128 of a block.
        let [low, high] = unsafe { [0, VECTOR].map(|lane| vld1q_u8(words.add(4 * (group * GROUP + lane)))) };
        let codes = [codes(low), codes(high)].map(|codes| vreinterpretq_s8_u8(codes));
        let (fours, rest) = acc.as_chunks_mut::<4>();
        for (four, acc) in fours.iter_mut().enumerate() {
            // SAFETY: four neighbouring rows of this block, read without alignment.
            let quads = unsafe { vld1q_s8(quads.add(4 * four).cast()) };
            for vector in 0..2 {
                acc[0][vector] = dot::<0>(acc[0][vector], codes[vector], quads);
                acc[1][vector] = dot::<1>(acc[1][vector], codes[vector], quads);
                acc[2][vector] = dot::<2>(acc[2][vector], codes[vector], quads);
                acc[3][vector] = dot::<3>(acc[3][vector], codes[vector], quads);
            }
        }
        for (m, acc) in rest.iter_mut().enumerate() {
            // SAFETY: `quads` is at this block and the row is below ROWS.
            let quad = unsafe { single(quads.add(ROWS / 4 * 4 + m)) };
            *acc = [dot::<0>(acc[0], codes[0], quad), dot::<0>(acc[1], codes[1], quad)];
        }
        // SAFETY: at most one past the last cell.
        quads = unsafe { quads.add(ROWS) };
    }
}

/// A tile of one row: half a panel at a time, read once, each factor with sums of its own.
///
/// # Safety
/// The tile has one row of `panel.len()` blocks, and `sums` has one row.
#[target_feature(enable = "neon,dotprod")]
unsafe fn row(panel: &[PanelBlock], tile: &Tile<'_>, sums: &mut [[i32; LANES]]) {
    let quads = tile.quads().as_ptr();
    for half in 0..2 {
        let mut acc = [[vdupq_n_s32(0); 3]; 4];
        for (index, block) in panel.iter().enumerate() {
            // SAFETY: class < 4, and the tile has [4, panel.len(), 1] cells.
            let quad = |class| unsafe { single(quads.add(class * panel.len() + index)) };
            let quads = [quad(0), quad(1), quad(2), quad(3)];
            for (vector, acc) in acc.iter_mut().enumerate() {
                let words = block.0.as_ptr().cast::<u8>();
                // SAFETY: half < 2 and vector < 4: sixteen bytes from 64 * half + 16 * vector lie within a block's 128.
                let words = unsafe { vld1q_u8(words.add(64 * half + 16 * vector)) };
                for (class, acc) in acc.iter_mut().enumerate() {
                    let codes = vandq_u8(words, vdupq_n_u8(3 << (2 * class)));
                    *acc = dot::<0>(*acc, vreinterpretq_s8_u8(codes), quads[class]);
                }
                acc[0] = dot::<0>(acc[0], vreinterpretq_s8_u8(vshrq_n_u8::<6>(words)), quads[3]);
            }
        }
        let ones = vdupq_n_s32(tile.row_sums()[0]);
        for (vector, [one, four, sixteen]) in acc.into_iter().enumerate() {
            // Each sum is a multiple of its factor.
            let total = vsraq_n_s32::<2>(vsraq_n_s32::<4>(one, sixteen), four);
            // SAFETY: half < 2 and vector < 4: four sums from 16 * half + 4 * vector lie within 32.
            unsafe { vst1q_s32(sums[0].as_mut_ptr().add(16 * half + VECTOR * vector), vsubq_s32(total, ones)) };
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

/// `sum[lane] += codes[4 lane .. + 4] . quads[QUAD]`. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const QUAD: usize>(mut sum: int32x4_t, codes: int8x16_t, quads: int8x16_t) -> int32x4_t {
    // SAFETY: sdot reads and writes the named registers only, and this function requires dotprod.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {quads:v}.4b[{quad}]",
            sum = inlateout(vreg) sum,
            codes = in(vreg) codes,
            quads = in(vreg) quads,
            quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
