//! AVX-512 with byte permutations: a row times a group of 1.6-bit weights, decoded between the load and `vpdpbusd`.
//!
//! ```text
//! byte  = code 0 + 3 code 1 + 9 code 2 + 27 code 3 + 85 code 4
//! last  = UPPER[byte >> 2]      85 code 4
//! codes = LOWER[byte - last]    code 2 + 4 code 3 + 16 code 0 + 64 code 1
//! ```
//! The five operands are the byte, `last`, `codes`, and `codes` of two pairs and of one: beside five `vpdpbusd` that
//! takes a shift, two permutations, a subtraction and two masks. At the end the sums are solved for those of the codes.
//! The shift moves bits of the neighbouring byte in above bit 5, which a permutation of 64 bytes does not read; one of
//! 128, which the first could be as well, is no longer free beside the multiplications when there are two of them.
//! Prefetching by hand lost to the hardware's.

use std::arch::x86_64::*;

use super::isa::Avx512Vbmi;
use super::micro::{LANES, Quad, Sums};
use super::trits::{DIGITS, LOWER_MAX, PLACES, TritRow, Trits};

/// The last code with its place, by the upper six bits of a byte.
const UPPER: [u8; 64] = {
    let mut upper = [0; 64];
    let mut index = 0;
    while index < 64 {
        let code = (4 * index + 3) / PLACES[4] as usize;
        upper[index] = if code > 2 { 0 } else { code as u8 * PLACES[4] };
        index += 1;
    }
    upper
};

/// The first four codes in bit pairs, by what they add to a byte.
const LOWER: [u8; 128] = {
    let mut lower = [0; 128];
    let mut index = 0;
    while index <= LOWER_MAX as usize {
        lower[index] = (index / 9 % 3 + 4 * (index / 27) + 16 * (index % 3) + 64 * (index / 3 % 3)) as u8;
        index += 1;
    }
    lower
};

/// `85 * x * INVERSE == x` in 32 bits.
const INVERSE: i32 = -50_529_027;
const _: () = assert!(INVERSE.wrapping_mul(PLACES[4] as i32) == 1);

impl TritRow for Avx512Vbmi {
    fn multiply(&self, group: &[Trits], activations: &[Quad], total: i32) -> [Sums; DIGITS] {
        assert_eq!(group.len(), activations.len(), "the group and the activations differ in quads");
        // SAFETY: self exists, so detection saw all these features.
        unsafe { row(group, activations, total) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn row(group: &[Trits], activations: &[Quad], total: i32) -> [Sums; DIGITS] {
    // SAFETY: UPPER is one vector and LOWER two, read without alignment.
    let [upper, low, high] = unsafe {
        [UPPER.as_ptr(), LOWER.as_ptr(), LOWER.as_ptr().add(64)].map(|table| _mm512_loadu_si512(table.cast()))
    };
    let [pairs, one] = [_mm512_set1_epi8(15), _mm512_set1_epi8(3)];
    let mut acc = [[_mm512_setzero_si512(); DIGITS]; 2];
    for (trits, quad) in group.iter().zip(activations) {
        let quad = _mm512_set1_epi32(i32::from_le_bytes(quad.map(i8::cast_unsigned)));
        for (half, acc) in acc.iter_mut().enumerate() {
            // SAFETY: 32 lanes of four bytes, aligned to 64, are two aligned vectors.
            let bytes = unsafe { _mm512_load_si512(trits.0.as_ptr().cast::<__m512i>().add(half)) };
            let last = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(bytes), upper);
            let codes = _mm512_permutex2var_epi8(low, _mm512_sub_epi8(bytes, last), high);
            acc[0] = _mm512_dpbusd_epi32(acc[0], bytes, quad);
            acc[1] = _mm512_dpbusd_epi32(acc[1], last, quad);
            acc[2] = _mm512_dpbusd_epi32(acc[2], codes, quad);
            acc[3] = _mm512_dpbusd_epi32(acc[3], _mm512_and_si512(codes, pairs), quad);
            acc[4] = _mm512_dpbusd_epi32(acc[4], _mm512_and_si512(codes, one), quad);
        }
    }
    let mut sums = [[0; LANES]; DIGITS];
    for (half, acc) in acc.into_iter().enumerate() {
        for (sums, solved) in sums.iter_mut().zip(solve(acc)) {
            // A code is the sign plus one: the ones add up to the sum of the row.
            let solved = _mm512_sub_epi32(solved, _mm512_set1_epi32(total));
            // SAFETY: sixteen sums from 16 * half lie within 32, written without alignment.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(16 * half).cast(), solved) };
        }
    }
    sums
}

/// The sums of the five codes from those of the operands.
#[inline]
#[target_feature(enable = "avx512f")]
fn solve([bytes, last, codes, pairs, two]: [__m512i; DIGITS]) -> [__m512i; DIGITS] {
    let times = |factor, sum| _mm512_mullo_epi32(_mm512_set1_epi32(factor), sum);
    let four = times(INVERSE, last);
    let three = _mm512_srai_epi32::<2>(_mm512_sub_epi32(pairs, two));
    let upper = _mm512_add_epi32(last, _mm512_add_epi32(times(9, two), times(27, three)));
    // Code 0 + 3 code 1, and 16 times code 0 + 4 code 1.
    let (first, second) = (_mm512_sub_epi32(bytes, upper), _mm512_sub_epi32(codes, pairs));
    let one = _mm512_srai_epi32::<4>(_mm512_sub_epi32(second, times(16, first)));
    [_mm512_sub_epi32(first, times(3, one)), one, two, three, four]
}
