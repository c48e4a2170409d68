//! AVX-512 with byte permutations: a row times a panel of 1.6-bit weights, decoded between the load and `vpdpbusd`.
//!
//! ```text
//! last  = UPPER[byte >> 2]      84 times the last code: used as it is, divided out of the sums at the end
//! codes = LOWER[byte - last]    the other four codes in bit pairs, then masked as in avx512.rs
//! ```
//! So twenty columns cost a shift, two permutations, a subtraction and four masks beside their five `vpdpbusd`. The
//! shift moves bits of the neighbouring byte in above bit 5, which a permutation of 64 bytes does not read; one of 128,
//! which the first could be as well, is no longer free beside the multiplications when there are two of them.
//! Prefetching by hand lost to the hardware's.

use std::arch::x86_64::*;

use super::isa::Avx512Vbmi;
use super::micro::{LANES, Sums};
use super::trits::{DIGITS, LOWER_MAX, PLACES, Quads, TritRow, Trits};

/// The last code with its place, by the upper six bits of a byte.
const UPPER: [u8; 64] = {
    let mut upper = [0; 64];
    let mut index = 0;
    while index < 64 {
        let code = index * 4 / PLACES[4] as usize;
        upper[index] = if code > 2 { 0 } else { code as u8 * PLACES[4] };
        index += 1;
    }
    upper
};

/// The bit pairs of the first four codes, by what they add to a byte.
const LOWER: [u8; 128] = {
    let mut lower = [0; 128];
    let mut index = 0;
    while index <= LOWER_MAX as usize {
        lower[index] = (index % 3 + 4 * (index / 3 % 3) + 16 * (index / 9 % 3) + 64 * (index / 27)) as u8;
        index += 1;
    }
    lower
};

/// `x * INVERSE == x / 21` in 32 bits, where that is whole.
const INVERSE: i32 = 1_022_611_261;
const _: () = assert!(INVERSE.wrapping_mul(PLACES[4] as i32 / 4) == 1);

impl TritRow for Avx512Vbmi {
    fn multiply(&self, panel: &[Trits], activations: &[Quads], total: i32) -> Sums {
        assert_eq!(panel.len(), activations.len(), "the panel and the activations differ in words");
        // SAFETY: self exists, so detection saw all these features; the lengths are equal.
        unsafe { row(panel, activations, total) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn row(panel: &[Trits], activations: &[Quads], total: i32) -> Sums {
    // SAFETY: UPPER is one vector and LOWER two, read without alignment.
    let [upper, low, high] = unsafe {
        [UPPER.as_ptr(), LOWER.as_ptr(), LOWER.as_ptr().add(64)].map(|table| _mm512_loadu_si512(table.cast()))
    };
    let mut acc = [[_mm512_setzero_si512(); DIGITS]; 2];
    for (trits, quads) in panel.iter().zip(activations) {
        for (half, [first @ .., fifth]) in acc.iter_mut().enumerate() {
            // SAFETY: 32 lanes of four bytes, aligned to 64, are two aligned vectors.
            let bytes = unsafe { _mm512_load_si512(trits.0.as_ptr().cast::<__m512i>().add(half)) };
            let last = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(bytes), upper);
            let codes = _mm512_permutex2var_epi8(low, _mm512_sub_epi8(bytes, last), high);
            for (digit, (acc, quad)) in first.iter_mut().zip(quads).enumerate() {
                let masked = _mm512_and_si512(codes, _mm512_set1_epi8(3 << (2 * digit)));
                *acc = _mm512_dpbusd_epi32(*acc, masked, broadcast(*quad));
            }
            *fifth = _mm512_dpbusd_epi32(*fifth, last, broadcast(quads[DIGITS - 1]));
        }
    }
    let mut sums = [0; LANES];
    for (half, [first @ .., fifth]) in acc.iter().enumerate() {
        // Every sum is a multiple of its factor: 1, 4, 16 and 64, and 84 for the last.
        let mut all = _mm512_setzero_si512();
        for acc in first.iter().rev() {
            all = _mm512_add_epi32(_mm512_srai_epi32::<2>(all), *acc);
        }
        let last = _mm512_mullo_epi32(_mm512_srai_epi32::<2>(*fifth), _mm512_set1_epi32(INVERSE));
        // A code is the sign plus one: the ones add up to the sum of the row.
        all = _mm512_sub_epi32(_mm512_add_epi32(all, last), _mm512_set1_epi32(total));
        // SAFETY: sixteen sums from 16 * half lie within 32, written without alignment.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(16 * half).cast(), all) };
    }
    sums
}

/// A quad in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(quad: [i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(quad.map(i8::cast_unsigned)))
}
