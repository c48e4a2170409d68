//! The tables of a pass: for each group of four columns, the 81 sums that four ternary weights can make of four
//! activations, for 32 tokens at once.

use std::arch::x86_64::*;

use super::product::{GROUPS, Line, TABLE_LINES};

/// Fills the tables of one pass from its quads (lay_quads).
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn build(quads: &[[Line; 2]; GROUPS], tables: &mut [Line; GROUPS * TABLE_LINES]) {
    for (quad, table) in quads.iter().zip(tables.as_chunks_mut::<TABLE_LINES>().0) {
        let [a, b, c, d] = columns(quad);
        let low = nine(a, b);
        let high = nine(c, d);
        for (high, lines) in high.iter().zip(table.as_chunks_mut::<9>().0) {
            for (low, line) in low.iter().zip(lines) {
                // SAFETY: a line is one aligned vector.
                unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), _mm512_add_epi16(*low, *high)) };
            }
        }
    }
}

/// The four columns of a quad, 16 bits a token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn columns(quad: &[Line; 2]) -> [__m512i; 4] {
    // SAFETY: a line is one aligned vector.
    let words = unsafe { [_mm512_load_si512(quad[0].0.as_ptr().cast()), _mm512_load_si512(quad[1].0.as_ptr().cast())] };
    let byte = |shift: __m128i| {
        let [x, y] = words.map(|words| _mm512_srai_epi32::<24>(_mm512_sll_epi32(words, shift)));
        _mm512_packs_epi32(x, y)
    };
    [byte(_mm_cvtsi32_si128(24)), byte(_mm_cvtsi32_si128(16)), byte(_mm_cvtsi32_si128(8)), byte(_mm_cvtsi32_si128(0))]
}

/// `[-a - b, -b, a - b, -a, 0, a, b - a, b, a + b]`: entry `i + 3 j` is `(i - 1) a + (j - 1) b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nine(a: __m512i, b: __m512i) -> [__m512i; 9] {
    let zero = _mm512_setzero_si512();
    let (sum, difference) = (_mm512_add_epi16(a, b), _mm512_sub_epi16(a, b));
    let minus = |x| _mm512_sub_epi16(zero, x);
    [minus(sum), minus(b), difference, minus(a), zero, a, minus(difference), b, sum]
}
