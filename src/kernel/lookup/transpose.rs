//! Turning rows into columns, 16 by 16 words at a time: activations on the way in, sums on the way out.

use std::arch::x86_64::*;

use super::product::Line;
use crate::kernel::micro::{BLOCK, CLASSES, LANES, Quad};

/// Words of a vector.
const WORDS: usize = 16;
/// Columns of 16 quads.
const CHUNK: usize = WORDS * size_of::<Quad>();

/// Transposes 16 vectors of 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; WORDS]) -> [__m512i; WORDS] {
    let mut pairs = rows;
    for i in 0..WORDS / 2 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // fours[4 i + c] holds columns c, c + 4, c + 8, c + 12 of rows 4 i .. 4 i + 4, a lane each.
    let mut fours = pairs;
    for i in 0..WORDS / 4 {
        for half in 0..2 {
            let (low, high) = (pairs[4 * i + half], pairs[4 * i + 2 + half]);
            fours[4 * i + 2 * half] = _mm512_unpacklo_epi64(low, high);
            fours[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(low, high);
        }
    }
    let mut columns = fours;
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let low = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
        let high = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e)];
        columns[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
        columns[c + 4] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
        columns[c + 8] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
        columns[c + 12] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
    }
    columns
}

/// Calls `put(quad, words)` for every quad of columns, in order; word `i` is that quad of `rows[i]`, and 0 past the end
/// of the rows' columns or of the rows. Whole blocks: the last is filled with zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn each_quad(rows: &[&[i8]], mut put: impl FnMut(usize, __m512i)) {
    assert!(rows.len() <= WORDS, "more rows than words of a vector");
    let cols = rows.first().map_or(0, |row| row.len());
    assert!(rows.iter().all(|row| row.len() == cols), "rows differ in length");
    let quads = cols.div_ceil(BLOCK) * CLASSES;
    for first in (0..cols).step_by(CHUNK) {
        let bytes = u64::MAX >> CHUNK.saturating_sub(cols - first);
        let mut words = [_mm512_setzero_si512(); WORDS];
        for (words, row) in words.iter_mut().zip(rows) {
            // SAFETY: the mask leaves out every byte at or past the end of the row.
            *words = unsafe { _mm512_maskz_loadu_epi8(bytes, row.as_ptr().add(first)) };
        }
        let first = first / size_of::<Quad>();
        for (quad, words) in (first..quads).zip(transpose(words)) {
            put(quad, words);
        }
    }
}

/// Writes rows as a tile `[class][block][row]` (micro.rs).
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn lay_tile(rows: &[&[i8]], cells: &mut [Quad]) {
    let quads = rows.first().map_or(0, |row| row.len().div_ceil(BLOCK)) * CLASSES;
    assert_eq!(cells.len(), quads * rows.len(), "a tile is [4, blocks, rows]");
    let (mask, cells) = (u16::MAX >> (WORDS - rows.len().max(1)), cells.as_mut_ptr());
    each_quad(rows, |quad, words| {
        let cell = (quad % CLASSES * (quads / CLASSES) + quad / CLASSES) * rows.len();
        // SAFETY: quad < quads, so the cell's rows.len() quads lie in the tile, and the mask has as many bits.
        unsafe { _mm512_mask_storeu_epi32(cells.add(cell).cast(), mask, words) };
    });
}

/// Writes 32 rows as two lines a quad: the words of 16 rows each, in the order that packing the two restores.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn lay_quads(rows: &[&[i8]; LANES], lines: &mut [[Line; 2]]) {
    for half in 0..2 {
        // `packs` takes four words of one line, then four of the other: rows 0..4, 8..12, .. and rows 4..8, 12..16, ..
        let of_line: [&[i8]; WORDS] = std::array::from_fn(|word| rows[word / 4 * 8 + 4 * half + word % 4]);
        each_quad(&of_line, |quad, words| {
            // SAFETY: a line is one aligned vector.
            unsafe { _mm512_store_si512(lines[quad][half].0.as_mut_ptr().cast(), words) };
        });
    }
}

/// Turns the wide sums of 32 rows of weights, two lines of 16 tokens each, into 32 sums a token.
#[target_feature(enable = "avx512f")]
pub(super) fn turn_sums(wide: &[[Line; 2]; LANES], sums: &mut [[i32; LANES]; LANES]) {
    for half in 0..2 {
        for side in 0..LANES / WORDS {
            let mut rows = [_mm512_setzero_si512(); WORDS];
            for (rows, lines) in rows.iter_mut().zip(&wide[side * WORDS..]) {
                // SAFETY: a line is one aligned vector.
                *rows = unsafe { _mm512_load_si512(lines[half].0.as_ptr().cast()) };
            }
            for (sums, tokens) in sums[half * WORDS..].iter_mut().zip(transpose(rows)) {
                // SAFETY: side * 16 + 16 <= 32 sums, written without alignment.
                unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(side * WORDS).cast(), tokens) };
            }
        }
    }
}
