//! NEON: `smull` and `smlal` multiply eight byte pairs an instruction into 16-bit sums, one for every byte of a panel.
//!
//! As in avx2.rs sixteen bits are few: sums of codes, which are shifted down, are widened to 32 bits after each
//! `WINDOW`, sums of bytes after two products, and constant assertions show that nothing wraps before. A vector of
//! weights (four lanes of four bytes) needs two vectors of sums, so eight lanes need four for each row: of codes six
//! rows fit the 32 registers, of bytes four. What chips with the byte dot product do instead is in neondot.rs.

use std::arch::aarch64::*;

use super::int8::WEIGHT_MAX;
use super::isa::{Isa, Neon};
use super::micro::{CLASSES, LANES, Micro, Quad, RowScale, Sums, Tile, Words, activation_scale, each_panel};
use super::quantize::share;
use super::scalar::{MAGNITUDE, round};

/// 24 sums, two vectors of codes and a quad fit the 32 registers.
const TERNARY_ROWS_MAX: usize = 6;

/// 16 sums, four vectors of weights in halves and two quads fit them too.
const INT8_ROWS_MAX: usize = 4;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 4;

/// Lanes summed at a time: two vectors of weights.
const GROUP: usize = 2 * VECTOR;

/// Additions of codes between two widenings.
const WINDOW: usize = 127;

// Each addition is one product of a code (at most 2) and an activation.
const _: () = assert!(WINDOW as i32 * 2 * i8::MAX as i32 <= i16::MAX as i32);
const _: () = assert!(WINDOW as i32 * 2 * i8::MIN as i32 >= i16::MIN as i32);
// Two products of a weight and an activation.
const _: () = assert!(2 * WEIGHT_MAX as i32 * -(i8::MIN as i32) <= i16::MAX as i32);

/// A loop for some rows of a tile, from the row given on.
type RowsLoop = unsafe fn(&[Words], &Tile<'_>, usize, &mut [Sums]);

/// The ternary loop for 1, 2, .. 6 rows.
const TERNARY: [RowsLoop; TERNARY_ROWS_MAX] =
    [ternary::<1>, ternary::<2>, ternary::<3>, ternary::<4>, ternary::<5>, ternary::<6>];

/// The int8 loop for 1, 2, .. 4 rows.
const INT8: [RowsLoop; INT8_ROWS_MAX] = [int8::<1>, int8::<2>, int8::<3>, int8::<4>];

/// Sums of one row over a group of lanes: the low and the high half of each of its two vectors of weights.
type Halves<T> = [[T; 2]; 2];

impl Micro for Neon {
    fn isa(&self) -> Isa {
        Isa::Neon
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, tile.blocks(), tile, sums, |panel, sums| {
            // SAFETY: self exists, so detection saw neon; each_panel established that the tile has panel.len() blocks.
            unsafe { each_rows(&TERNARY, panel, tile, sums) }
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, CLASSES * tile.blocks(), tile, sums, |panel, sums| {
            // SAFETY: as above; here panel.len() is four times the tile's blocks.
            unsafe { each_rows(&INT8, panel, tile, sums) }
        });
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw neon; the lengths are equal.
        unsafe { quantize(x, values) }
    }
}

/// Runs a loop over the rows of a tile, some at a time.
///
/// # Safety
/// The loops may be called with this panel and tile.
unsafe fn each_rows(loops: &[RowsLoop], panel: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
    let groups = tile.rows().div_ceil(loops.len());
    for group in 0..groups {
        let rows = share(group, groups, tile.rows());
        // SAFETY: the caller's promise; the tile has these rows, by whose count the loop is chosen.
        unsafe { loops[rows.len() - 1](panel, tile, rows.start, &mut sums[rows]) }
    }
}

/// `ROWS` rows of a ternary tile, from `first` on.
///
/// # Safety
/// The tile has those rows, of `panel.len()` blocks, and `sums` has `ROWS` rows.
#[target_feature(enable = "neon")]
unsafe fn ternary<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
    for group in 0..LANES / GROUP {
        // A code is the sign plus one: the ones add up to the sum of the row.
        let mut wide = [[vdupq_n_s32(0); 2]; ROWS];
        for (wide, row_sum) in wide.iter_mut().zip(&tile.row_sums()[first..]) {
            *wide = [vdupq_n_s32(-row_sum); 2];
        }
        for class in 0..CLASSES {
            for (index, window) in panel.chunks(WINDOW).enumerate() {
                let cell = (class * panel.len() + index * WINDOW) * tile.rows() + first;
                // SAFETY: class < 4, the window begins inside the panel, and the tile has [4, panel.len(), rows] cells.
                let quads = unsafe { tile.quads().as_ptr().add(cell) };
                // SAFETY: from there the tile has ROWS cells in each of window.len() blocks, tile.rows() cells apart.
                let narrow = unsafe { window_sums::<ROWS>(window, (group, class), quads, tile.rows()) };
                for (wide, narrow) in wide.as_flattened_mut().iter_mut().zip(narrow.as_flattened()) {
                    *wide = vaddq_s32(*wide, lanes(narrow.map(|half| vpaddlq_s16(half))));
                }
            }
        }
        store(sums, &wide, group);
    }
}

/// The 16-bit sums of eight lanes over one class of at most `WINDOW` blocks.
///
/// # Safety
/// `quads` points at `ROWS` cells in each of `window.len()` blocks, `stride` cells apart, and `group < 4`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn window_sums<const ROWS: usize>(
    window: &[Words],
    (group, class): (usize, usize),
    mut quads: *const Quad,
    stride: usize,
) -> [Halves<int16x8_t>; ROWS] {
    debug_assert!(window.len() <= WINDOW);
    let (mask, down) = (vdupq_n_u8(3), vdupq_n_s8(-2 * class as i8));
    let mut narrow = [[[vdupq_n_s16(0); 2]; 2]; ROWS];
    for words in window {
        let codes = vectors(words, group).map(|words| vreinterpretq_s8_u8(vandq_u8(vshlq_u8(words, down), mask)));
        for (m, narrow) in narrow.iter_mut().enumerate() {
            // SAFETY: the caller's promise; `quads` is at this block and m < ROWS.
            let quad = unsafe { broadcast(quads.add(m)) };
            for ([low, high], codes) in narrow.iter_mut().zip(codes) {
                *low = vmlal_s8(*low, vget_low_s8(codes), vget_low_s8(quad));
                *high = vmlal_high_s8(*high, codes, quad);
            }
        }
        quads = quads.wrapping_add(stride);
    }
    narrow
}

/// `ROWS` rows of an int8 tile, from `first` on.
///
/// # Safety
/// The tile has those rows, of as many cells as `panel` has words, and `sums` has `ROWS` rows.
#[target_feature(enable = "neon")]
unsafe fn int8<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
    let sign = vdupq_n_u8(0x80);
    for group in 0..LANES / GROUP {
        let mut acc = [[[vdupq_n_s32(0); 2]; 2]; ROWS];
        // SAFETY: the tile has panel.len() cells a row, and the row `first`.
        let mut quads = unsafe { tile.quads().as_ptr().add(first) };
        for pair in panel.as_chunks::<2>().0 {
            let [even, odd] = pair
                .each_ref()
                .map(|words| vectors(words, group).map(|words| vreinterpretq_s8_u8(veorq_u8(words, sign))));
            for (m, acc) in acc.iter_mut().enumerate() {
                // SAFETY: `quads` is at the first of these two words, whose cells lie tile.rows() apart.
                let [left, right] = unsafe { [broadcast(quads.add(m)), broadcast(quads.add(m + tile.rows()))] };
                for ((acc, even), odd) in acc.iter_mut().zip(even).zip(odd) {
                    let low = vmull_s8(vget_low_s8(even), vget_low_s8(left));
                    acc[0] = vpadalq_s16(acc[0], vmlal_s8(low, vget_low_s8(odd), vget_low_s8(right)));
                    acc[1] = vpadalq_s16(acc[1], vmlal_high_s8(vmull_high_s8(even, left), odd, right));
                }
            }
            quads = quads.wrapping_add(2 * tile.rows());
        }
        let mut wide = [[vdupq_n_s32(0); 2]; ROWS];
        for (wide, acc) in wide.as_flattened_mut().iter_mut().zip(acc.as_flattened()) {
            *wide = lanes(*acc);
        }
        store(sums, &wide, group);
    }
}

/// The two vectors of a group of lanes.
#[inline]
#[target_feature(enable = "neon")]
fn vectors(words: &Words, group: usize) -> [uint8x16_t; 2] {
    let words = &words.0[group * GROUP..][..GROUP];
    // SAFETY: eight words are two vectors.
    unsafe { [vld1q_u8(words.as_ptr().cast()), vld1q_u8(words.as_ptr().add(VECTOR).cast())] }
}

/// A quad in every lane.
///
/// # Safety
/// `quad` can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn broadcast(quad: *const Quad) -> int8x16_t {
    // SAFETY: the caller's promise; a quad is four bytes, read without alignment.
    let quad = vdup_n_s32(unsafe { quad.cast::<i32>().read_unaligned() });
    vreinterpretq_s8_s32(vcombine_s32(quad, quad))
}

/// Four lanes of two sums each, in two halves, as four sums.
#[inline]
#[target_feature(enable = "neon")]
fn lanes([low, high]: [int32x4_t; 2]) -> int32x4_t {
    vpaddq_s32(low, high)
}

#[inline]
#[target_feature(enable = "neon")]
fn store(sums: &mut [Sums], wide: &[[int32x4_t; 2]], group: usize) {
    for (sums, wide) in sums.iter_mut().zip(wide) {
        let lanes = &mut sums[group * GROUP..][..GROUP];
        // SAFETY: eight lanes are two vectors.
        unsafe {
            vst1q_s32(lanes.as_mut_ptr(), wide[0]);
            vst1q_s32(lanes.as_mut_ptr().add(VECTOR), wide[1]);
        }
    }
}

/// The rounding of [`Micro::quantize`]; `fcvtns` rounds half to even, gives 0 for NaN and saturates, and so does each
/// narrowing.
///
/// # Safety
/// `x` and `values` have the same length.
#[target_feature(enable = "neon")]
pub(super) unsafe fn quantize(x: &[f32], values: &mut [i8]) -> RowScale {
    let (vectors, rest) = x.as_chunks::<{ 4 * VECTOR }>();
    let mut peaks = [vdupq_n_u32(0); 4];
    for x in vectors {
        for (part, peaks) in peaks.iter_mut().enumerate() {
            // SAFETY: part < 4, and x is sixteen floats.
            let x = unsafe { vld1q_f32(x.as_ptr().add(part * VECTOR)) };
            *peaks = vmaxq_u32(*peaks, vreinterpretq_u32_f32(vabsq_f32(x)));
        }
    }
    let peak = vmaxvq_u32(vmaxq_u32(vmaxq_u32(peaks[0], peaks[1]), vmaxq_u32(peaks[2], peaks[3])));
    let peak = rest.iter().fold(peak, |peak, x| peak.max(x.to_bits() & MAGNITUDE));
    let scale = activation_scale(f32::from_bits(peak));

    let mut sums = vdupq_n_s32(0);
    for (index, x) in vectors.iter().enumerate() {
        // SAFETY: x is sixteen floats, four from 0, 4, 8 and 12.
        let rounded = |part| unsafe { vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x.as_ptr().add(part * VECTOR)), scale)) };
        let low = vqmovn_high_s32(vqmovn_s32(rounded(0)), rounded(1));
        let high = vqmovn_high_s32(vqmovn_s32(rounded(2)), rounded(3));
        let bytes = vqmovn_high_s16(vqmovn_s16(low), high);
        sums = vpadalq_s16(sums, vpaddlq_s8(bytes));
        // SAFETY: values is as long as x, so it has sixteen bytes from 16 * index.
        unsafe { vst1q_s8(values.as_mut_ptr().add(index * 4 * VECTOR), bytes) };
    }
    let mut sum = vaddvq_s32(sums);
    for (value, x) in values[vectors.len() * 4 * VECTOR..].iter_mut().zip(rest) {
        *value = round(x * scale);
        sum += i32::from(*value);
    }
    RowScale { scale, sum }
}
