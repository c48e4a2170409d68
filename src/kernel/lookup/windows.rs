//! How long the sums of a block of tokens may stay in 16 bits: as long as the magnitudes allow.
//!
//! Every sum of products with -1, 0 and 1 lies within the sum of the magnitudes, whatever the weights are. So a window
//! ends before the magnitudes of any of its 32 tokens would exceed what 16 bits hold: after 10 passes (240 columns) at
//! the worst, when every activation is -128, and after 40 and more for activations as they are.

use std::arch::x86_64::*;

use super::fused::{Place, WindowEnd};
use super::product::{GROUPS, Line, PASS_COLS};

/// What 16 bits hold.
const MAGNITUDE_MAX: i32 = i16::MAX as i32;
// A window has one pass at least.
const _: () = assert!((PASS_COLS * 128) as i32 <= MAGNITUDE_MAX);

/// The place of every pass in its window, from the quads of a block of tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn places(quads: &[[Line; 2]], places: &mut Vec<Place>) {
    places.clear();
    let mut window = [_mm512_setzero_si512(); 2];
    let mut end = WindowEnd::Begin;
    for pass in quads.chunks(GROUPS) {
        let more = magnitudes(pass);
        let sums = [_mm512_add_epi32(window[0], more[0]), _mm512_add_epi32(window[1], more[1])];
        let most = _mm512_max_epi32(sums[0], sums[1]);
        let full = _mm512_cmpgt_epi32_mask(most, _mm512_set1_epi32(MAGNITUDE_MAX)) != 0;
        if let Some(last) = places.last_mut().filter(|_| full) {
            last.end = end;
            end = WindowEnd::Add;
        }
        window = if full { more } else { sums };
        places.push(Place { first: full || places.is_empty(), end: WindowEnd::Open });
    }
    if let Some(last) = places.last_mut() {
        last.end = end;
    }
}

/// The sums of a pass's magnitudes, for 32 tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn magnitudes(pass: &[[Line; 2]]) -> [__m512i; 2] {
    let mut sums = [_mm512_setzero_si512(); 2];
    for lines in pass {
        for (line, sum) in lines.iter().zip(&mut sums) {
            // SAFETY: a line is one aligned vector.
            let quads = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
            // The magnitude of -128 is 128 as an unsigned byte, which the first factor is.
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_abs_epi8(quads), _mm512_set1_epi8(1));
        }
    }
    sums
}
