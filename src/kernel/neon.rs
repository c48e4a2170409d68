//! NEON: `smlal` multiplies eight byte pairs an instruction into 16-bit sums, one for every byte of the panel.
//!
//! As in avx2.rs sixteen bits are few, the codes are shifted down, and the sums are widened after each `WINDOW`, by a
//! constant assertion soon enough; and each group of eight lanes is summed on its own. A vector of codes (four lanes of
//! four bytes) needs two vectors of sums, so four of those for each row: 24 of the 32 registers for six rows. What
//! chips with the byte dot product do instead is in neondot.rs.

use std::arch::aarch64::*;

use super::isa::{Isa, Neon};
use super::micro::{CLASSES, LANES, Micro, PanelBlock, Quad, RowScale, Tile, TileLoop, activation_scale, check, fixed};
use super::scalar::{MAGNITUDE, round};

/// 24 sums, two vectors of codes and a quad fit the 32 registers.
const TILE_ROWS: usize = 6;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 4;

/// Lanes summed at a time: two vectors of codes.
const GROUP: usize = 2 * VECTOR;

/// Additions between two widenings.
const WINDOW: usize = 127;

// Each addition is one product of a code (at most 2) and an activation.
const _: () = assert!(WINDOW as i32 * 2 * i8::MAX as i32 <= i16::MAX as i32);
const _: () = assert!(WINDOW as i32 * 2 * i8::MIN as i32 >= i16::MIN as i32);

/// The loop for a tile of 1, 2, .. 6 rows.
const TILES: [TileLoop; TILE_ROWS] = [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>];

/// The 16-bit sums of one row over a group of lanes: the low and the high half of each of its two vectors of codes.
type Narrow = [[int16x8_t; 2]; 2];

impl Micro for Neon {
    fn isa(&self) -> Isa {
        Isa::Neon
    }

    fn tile_rows_max(&self) -> usize {
        TILE_ROWS
    }

    fn multiply(&self, panel: &[PanelBlock], tile: Tile<'_>, sums: &mut [[i32; LANES]]) {
        check(panel, &tile, sums, TILE_ROWS);
        // SAFETY: self exists, so detection saw neon; check() established that the tile has panel.len() blocks of
        // sums.len() rows, the row count by which the loop is chosen.
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
#[target_feature(enable = "neon")]
unsafe fn tile<const ROWS: usize>(panel: &[PanelBlock], tile: &Tile<'_>, sums: &mut [[i32; LANES]]) {
    let (row_sums, sums) = fixed::<ROWS>(tile, sums);
    for group in 0..LANES / GROUP {
        // A code is the sign plus one: the ones add up to the sum of the row.
        let mut wide = [[vdupq_n_s32(0); 2]; ROWS];
        for (wide, row_sum) in wide.iter_mut().zip(row_sums) {
            *wide = [vdupq_n_s32(-row_sum); 2];
        }
        for class in 0..CLASSES {
            for (index, window) in panel.chunks(WINDOW).enumerate() {
                let cell = (class * panel.len() + index * WINDOW) * ROWS;
                // SAFETY: class < 4, the window begins inside the panel, and the tile has [4, panel.len(), ROWS] cells.
                let quads = unsafe { tile.quads().as_ptr().add(cell) };
                // SAFETY: from there the tile has window.len() blocks of ROWS cells in this class.
                let narrow = unsafe { window_sums::<ROWS>(window, group, class, quads) };
                for (wide, narrow) in wide.iter_mut().zip(narrow) {
                    for (wide, [low, high]) in wide.iter_mut().zip(narrow) {
                        // Neighbours twice over: four bytes belong to one lane.
                        *wide = vaddq_s32(*wide, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
                    }
                }
            }
        }
        for (sums, wide) in sums.iter_mut().zip(wide) {
            // SAFETY: group < 4, and eight sums from 8 * group lie within 32.
            unsafe {
                let lanes = sums.as_mut_ptr().add(group * GROUP);
                vst1q_s32(lanes, wide[0]);
                vst1q_s32(lanes.add(VECTOR), wide[1]);
            }
        }
    }
}

/// The 16-bit sums of eight lanes over one class of at most `WINDOW` blocks.
///
/// # Safety
/// `quads` points at `[window.len(), ROWS]` cells, and `group < 4`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn window_sums<const ROWS: usize>(
    window: &[PanelBlock],
    group: usize,
    class: usize,
    mut quads: *const Quad,
) -> [Narrow; ROWS] {
    debug_assert!(window.len() <= WINDOW);
    let (mask, down) = (vdupq_n_u8(3), vdupq_n_s8(-2 * class as i8));
    let mut narrow = [[[vdupq_n_s16(0); 2]; 2]; ROWS];
    for block in window {
        let words = block.0.as_ptr().cast::<u8>();
        let mut codes = [vdupq_n_s8(0); 2];
        for (vector, codes) in codes.iter_mut().enumerate() {
            // SAFETY: group < 4: sixteen bytes from 32 * group + 16 * vector lie within the 128 of a block.
            let words = unsafe { vld1q_u8(words.add(4 * (group * GROUP + vector * VECTOR))) };
            *codes = vreinterpretq_s8_u8(vandq_u8(vshlq_u8(words, down), mask));
        }
        for (m, narrow) in narrow.iter_mut().enumerate() {
            // SAFETY: the caller's promise; `quads` is at this block and m < ROWS. A quad is read without alignment.
            let quad = vdup_n_s32(unsafe { quads.add(m).cast::<i32>().read_unaligned() });
            let quad = vreinterpretq_s8_s32(vcombine_s32(quad, quad));
            for ([low, high], codes) in narrow.iter_mut().zip(codes) {
                *low = vmlal_s8(*low, vget_low_s8(codes), vget_low_s8(quad));
                *high = vmlal_high_s8(*high, codes, quad);
            }
        }
        // SAFETY: at most one past the last cell.
        quads = unsafe { quads.add(ROWS) };
    }
    narrow
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
