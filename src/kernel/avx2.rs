//! AVX2: `vpmaddubsw` multiplies 32 byte pairs an instruction and adds neighbours in 16 bits.
//!
//! Sixteen bits are few: after `WINDOW` additions the sums are widened to 32 bits, and a constant assertion shows that
//! nothing wraps before. A panel block is four vectors of eight lanes; each group of eight lanes is summed on its own,
//! so that the sums of eight rows fit the sixteen registers. Here the codes are shifted down: the factors of the
//! mask alone (micro.rs) would fill the 16 bits at once.

use std::arch::x86_64::*;

use super::isa::{Avx2, Isa};
use super::micro::{CLASSES, LANES, Micro, Quad, RowScale, Sums, Tile, Words, activation_scale, each_panel};
use super::quantize::share;
use super::scalar::{MAGNITUDE, round};

/// Eight sums, the codes, a quad and a product fit the 16 registers.
const ROWS_MAX: usize = 8;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 8;

/// Additions between two widenings.
const WINDOW: usize = 64;

// Each addition is two products of a code (at most 2) and an activation.
const _: () = assert!(WINDOW as i32 * 2 * 2 * i8::MAX as i32 <= i16::MAX as i32);
const _: () = assert!(WINDOW as i32 * 2 * 2 * i8::MIN as i32 >= i16::MIN as i32);

/// A loop for some rows of a tile, from the row given on.
type RowsLoop = unsafe fn(&[Words], &Tile<'_>, usize, &mut [Sums]);

/// The ternary loop for 1, 2, .. 8 rows.
const TERNARY: [RowsLoop; ROWS_MAX] =
    [ternary::<1>, ternary::<2>, ternary::<3>, ternary::<4>, ternary::<5>, ternary::<6>, ternary::<7>, ternary::<8>];

/// The int8 loop for 1, 2, .. 6 rows: they and two vectors of lanes have twelve sums.
const INT8: [RowsLoop; INT8_ROWS_MAX] = [int8::<1>, int8::<2>, int8::<3>, int8::<4>, int8::<5>, int8::<6>];
const INT8_ROWS_MAX: usize = 6;

impl Micro for Avx2 {
    fn isa(&self) -> Isa {
        Isa::Avx2
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        let groups = tile.rows().div_ceil(ROWS_MAX);
        each_panel(panels, tile.blocks(), tile, sums, |panel, sums| {
            for rows in (0..groups).map(|group| share(group, groups, tile.rows())) {
                // SAFETY: self exists, so detection saw avx2; each_panel established that the tile has panel.len()
                // blocks, and it has these rows, by whose count the loop is chosen.
                unsafe { TERNARY[rows.len() - 1](panel, tile, rows.start, &mut sums[rows]) }
            }
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        let groups = tile.rows().div_ceil(INT8_ROWS_MAX);
        each_panel(panels, CLASSES * tile.blocks(), tile, sums, |panel, sums| {
            for rows in (0..groups).map(|group| share(group, groups, tile.rows())) {
                // SAFETY: as above; here panel.len() is four times the tile's blocks.
                unsafe { INT8[rows.len() - 1](panel, tile, rows.start, &mut sums[rows]) }
            }
        });
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw avx2; the lengths are equal.
        unsafe { quantize(x, values) }
    }
}

/// `ROWS` rows of a ternary tile, from `first` on.
///
/// # Safety
/// The tile has those rows, of `panel.len()` blocks, and `sums` has `ROWS` rows.
#[target_feature(enable = "avx2")]
unsafe fn ternary<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
    for group in 0..LANES / VECTOR {
        // A code is the sign plus one: the ones add up to the sum of the row.
        let mut wide = [_mm256_setzero_si256(); ROWS];
        for (wide, row_sum) in wide.iter_mut().zip(&tile.row_sums()[first..]) {
            *wide = _mm256_set1_epi32(-row_sum);
        }
        for class in 0..CLASSES {
            for (index, window) in panel.chunks(WINDOW).enumerate() {
                let cell = (class * panel.len() + index * WINDOW) * tile.rows() + first;
                // SAFETY: class < 4, the window begins inside the panel, and the tile has [4, panel.len(), rows] cells.
                let quads = unsafe { tile.quads().as_ptr().add(cell) };
                // SAFETY: from there the tile has ROWS cells in each of window.len() blocks, tile.rows() cells apart.
                let narrow = unsafe { window_sums::<ROWS>(window, (group, class), quads, tile.rows()) };
                for (wide, narrow) in wide.iter_mut().zip(narrow) {
                    let widened = _mm256_madd_epi16(narrow, _mm256_set1_epi16(1));
                    *wide = _mm256_add_epi32(*wide, widened);
                }
            }
        }
        for (sums, wide) in sums.iter_mut().zip(wide) {
            // SAFETY: group < 4, and eight sums from 8 * group lie within 32; written without alignment.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().add(group * VECTOR).cast(), wide) };
        }
    }
}

/// The 16-bit sums of eight lanes over one class of at most `WINDOW` blocks; neighbours belong to the same lane.
///
/// # Safety
/// `quads` points at `ROWS` cells in each of `window.len()` blocks, `stride` cells apart, and `group < 4`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn window_sums<const ROWS: usize>(
    window: &[Words],
    (group, class): (usize, usize),
    quads: *const Quad,
    stride: usize,
) -> [__m256i; ROWS] {
    debug_assert!(window.len() <= WINDOW);
    let shift = _mm_cvtsi32_si128(2 * class as i32);
    let mask = _mm256_set1_epi8(3);
    let mut narrow = [_mm256_setzero_si256(); ROWS];
    for (block, words) in window.iter().enumerate() {
        // SAFETY: group < 4, and these are 32 words aligned to 64 bytes, that is four aligned vectors.
        let words = unsafe { _mm256_load_si256(words.0.as_ptr().cast::<__m256i>().add(group)) };
        let codes = _mm256_and_si256(_mm256_srl_epi16(words, shift), mask);
        for (m, narrow) in narrow.iter_mut().enumerate() {
            // SAFETY: the caller's promise, and m < ROWS. A quad is read without alignment.
            let quad = unsafe { quads.add(block * stride + m).cast::<i32>().read_unaligned() };
            *narrow = _mm256_add_epi16(*narrow, _mm256_maddubs_epi16(codes, _mm256_set1_epi32(quad)));
        }
    }
    narrow
}

/// `ROWS` rows of an int8 tile, from `first` on. Byte products would not fit 16 bits in pairs: both sides are widened to
/// 16 bits, whose products `vpmaddwd` adds in pairs of 32; a lane has two such sums until the end.
///
/// # Safety
/// The tile has those rows, of as many cells as `panel` has words, and `sums` has `ROWS` rows.
#[target_feature(enable = "avx2")]
unsafe fn int8<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
    for group in 0..LANES / VECTOR {
        let mut acc = [[_mm256_setzero_si256(); 2]; ROWS];
        for (index, words) in panel.iter().enumerate() {
            let words = words.0[group * VECTOR..][..VECTOR].as_ptr().cast::<__m128i>();
            // SAFETY: eight words are two vectors of 16 bytes, aligned as the group begins at a multiple of 32 bytes.
            let [low, high] = unsafe { [_mm_load_si128(words), _mm_load_si128(words.add(1))] };
            let weights = [_mm256_cvtepu8_epi16(low), _mm256_cvtepu8_epi16(high)];
            for (m, acc) in acc.iter_mut().enumerate() {
                let cell = index * tile.rows() + first + m;
                // SAFETY: the tile has [panel.len(), rows] cells. A quad is four bytes, read without alignment.
                let quad = unsafe { tile.quads().as_ptr().add(cell).cast::<i32>().read_unaligned() };
                let quad = _mm256_cvtepi8_epi16(_mm_set1_epi32(quad));
                acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(weights[0], quad));
                acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(weights[1], quad));
            }
        }
        for ((sums, acc), row_sum) in sums.iter_mut().zip(acc).zip(&tile.row_sums()[first..]) {
            // Lanes 0, 1, 4, 5 and 2, 3, 6, 7.
            let pairs = _mm256_hadd_epi32(acc[0], acc[1]);
            let lanes = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            // A byte is the weight plus 2^7.
            let excess = _mm256_slli_epi32::<7>(_mm256_set1_epi32(*row_sum));
            // SAFETY: group < 4, and eight sums from 8 * group lie within 32; written without alignment.
            unsafe {
                let place = sums.as_mut_ptr().add(group * VECTOR).cast();
                _mm256_storeu_si256(place, _mm256_sub_epi32(lanes, excess));
            }
        }
    }
}

/// # Safety
/// `x` and `values` have the same length.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize(x: &[f32], values: &mut [i8]) -> RowScale {
    let (vectors, rest) = x.as_chunks::<VECTOR>();
    let magnitude = _mm256_set1_epi32(MAGNITUDE as i32);
    let mut peaks = _mm256_setzero_si256();
    for x in vectors {
        // SAFETY: x is eight floats, read without alignment.
        let bits = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        peaks = _mm256_max_epi32(peaks, _mm256_and_si256(bits, magnitude));
    }
    let peak = lanes(peaks).into_iter().max().unwrap_or(0) as u32;
    let peak = rest.iter().fold(peak, |peak, x| peak.max(x.to_bits() & MAGNITUDE));
    let scale = activation_scale(f32::from_bits(peak));

    let (scales, low, high) = (_mm256_set1_ps(scale), _mm256_set1_ps(-128.0), _mm256_set1_ps(127.0));
    let mut sums = _mm256_setzero_si256();
    for (index, x) in vectors.iter().enumerate() {
        // SAFETY: x is eight floats, read without alignment.
        let scaled = _mm256_mul_ps(unsafe { _mm256_loadu_ps(x.as_ptr()) }, scales);
        let numbers = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled));
        let clamped = _mm256_min_ps(_mm256_max_ps(scaled, low), high);
        // Rust runs with the default rounding mode, half to even.
        let rounded = _mm256_and_si256(_mm256_cvtps_epi32(clamped), numbers);
        sums = _mm256_add_epi32(sums, rounded);
        let shorts = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
        // SAFETY: values is as long as x, so it has eight bytes from 8 * index; written without alignment.
        unsafe { _mm_storel_epi64(values.as_mut_ptr().add(index * VECTOR).cast(), _mm_packs_epi16(shorts, shorts)) };
    }
    let mut sum = lanes(sums).into_iter().sum();
    for (value, x) in values[vectors.len() * VECTOR..].iter_mut().zip(rest) {
        *value = round(x * scale);
        sum += i32::from(*value);
    }
    RowScale { scale, sum }
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(vector: __m256i) -> [i32; VECTOR] {
    let mut lanes = [0; VECTOR];
    // SAFETY: eight lanes are one vector, written without alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) };
    lanes
}
