//! The online softmax of a tile: scores become weights, sums so far shrink to the new peaks.
//!
//! Scores are exponents of 2. The three passes over the rows (peaks, weights, totals) are apart because each is a short
//! chain of dependent steps: so the chip works on several rows at once.

use std::ops::Range;

use super::lanes::Lanes;
use super::pack::keys_together;
use super::tile::{KEYS, Parts, ROWS, Task, Tile};

/// A score that no query sees: finite, so that differences to it are numbers, and far below every true one.
pub(super) const UNSEEN: f32 = -1e30;

/// A row so far: its peak, and the sum of `2^(score - peak)`.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub peak: f32,
    pub total: f32,
}

/// Turns the tile's scores of the keys `seen` (of the stretch that begins at key `first`, at most [`KEYS`]) into
/// weights, as words, and brings its mixed values so far to the new peaks.
///
/// # Safety
/// As for [`attend`](super::tile::attend); the scores are there.
#[inline(always)]
pub(super) unsafe fn soften<L: Lanes>(
    task: &Task<'_>,
    tile: &Tile,
    (first, seen): (usize, Range<usize>),
    parts: &mut Parts<'_>,
) {
    let (together, start) = (keys_together::<L>(), seen.start / KEYS * KEYS);
    let whole = seen.start / together * together - start..seen.end.next_multiple_of(together) - start;
    let mut pieces = [const { 0..0 }; ROWS];
    let mut factors = [1.0; ROWS];
    let mut sums = [0.0; ROWS];
    let states = &mut parts.states[tile.first..tile.first + tile.rows];
    for (index, scores) in parts.scores.chunks_exact_mut(KEYS).take(tile.rows).enumerate() {
        let piece = tile.seen(index, &(first + seen.start..first + seen.end));
        let piece = piece.start + seen.start - start..piece.end + seen.start - start;
        if !piece.is_empty() {
            let before = states[index].peak;
            // SAFETY: the caller vouches for the instruction set.
            let peak = unsafe { peak::<L>(scores, &piece, before) };
            // SAFETY: a float needs no instruction set.
            factors[index] = if before == UNSEEN { 0.0 } else { unsafe { (before - peak).power_of_two() } };
            states[index].peak = peak;
        }
        pieces[index] = piece;
    }
    for (index, scores) in parts.scores.chunks_exact_mut(KEYS).take(tile.rows).enumerate() {
        // SAFETY: the caller vouches for the instruction set.
        sums[index] = unsafe { weigh::<L>(scores, &pieces[index], &whole, states[index].peak) };
    }
    let columns = task.inputs.width.next_multiple_of(L::WIDTH);
    for (index, mixed) in parts.mixed.chunks_exact_mut(columns).take(tile.rows).enumerate() {
        states[index].total = states[index].total * factors[index] + sums[index];
        if factors[index] != 1.0 && factors[index] != 0.0 {
            mixed.iter_mut().for_each(|mixed| *mixed *= factors[index]);
        }
    }
}

/// Vectors that hold `seen`.
fn vectors_of<L: Lanes>(seen: &Range<usize>) -> Range<usize> {
    seen.start / L::WIDTH * L::WIDTH..seen.end.next_multiple_of(L::WIDTH)
}

/// The greatest of `peak` and the scores in `seen`; what shares a vector with them becomes [`UNSEEN`].
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn peak<L: Lanes>(scores: &mut [f32], seen: &Range<usize>, peak: f32) -> f32 {
    let vectors = vectors_of::<L>(seen);
    scores[vectors.start..seen.start].fill(UNSEEN);
    scores[seen.end..vectors.end].fill(UNSEEN);
    // SAFETY: the caller vouches for the instruction set; the vectors lie inside the scores, which were just sliced.
    unsafe {
        let (mut place, end) = (scores.as_ptr().add(vectors.start), scores.as_ptr().add(vectors.end));
        let mut peaks = L::splat(peak);
        while place < end {
            peaks = L::load(place).greater(peaks);
            place = place.add(L::WIDTH);
        }
        fold(peaks, |a, b| if a > b { a } else { b })
    }
}

/// `2^(score - peak)` of the keys in `seen`, 0 elsewhere in `whole`, as words. Returns their sum.
///
/// # Safety
/// The instruction set of `L` is there; [`peak`] has seen the scores.
#[inline(always)]
unsafe fn weigh<L: Lanes>(scores: &mut [f32], seen: &Range<usize>, whole: &Range<usize>, peak: f32) -> f32 {
    if seen.is_empty() {
        scores[whole.start / L::PER_WORD..whole.end].fill(0.0);
        return 0.0;
    }
    let vectors = vectors_of::<L>(seen);
    assert!(vectors.end <= scores.len() && whole.end <= scores.len());
    // SAFETY: the caller vouches for the instruction set; the vectors lie inside the scores by the assert.
    let sum = unsafe {
        let (mut place, end) = (scores.as_mut_ptr().add(vectors.start), scores.as_mut_ptr().add(vectors.end));
        let (peak, mut sums) = (L::splat(peak), L::splat(0.0));
        while place < end {
            let weight = L::load(place).minus(peak).power_of_two();
            weight.store(place);
            sums = sums.plus(weight);
            place = place.add(L::WIDTH);
        }
        fold(sums, |a, b| a + b)
    };
    scores[whole.start..seen.start.max(whole.start)].fill(0.0);
    scores[seen.end.min(whole.end)..whole.end].fill(0.0);
    if L::PER_WORD == 2 {
        for start in whole.clone().step_by(2 * L::WIDTH) {
            // SAFETY: the caller vouches for the instruction set; both vectors end at most at `whole.end`, and their
            // words take half the place, not after them.
            unsafe {
                let from = scores.as_ptr().add(start);
                let words = L::pairs(L::load(from), L::load(from.add(L::WIDTH)));
                words.store(scores.as_mut_ptr().add(start / 2));
            }
        }
    }
    sum
}

/// All lanes as one, halves first.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
pub(super) unsafe fn fold<L: Lanes>(vector: L, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    const { assert!(L::WIDTH <= 16) };
    // SAFETY: the caller vouches for the instruction set; the array holds any vector.
    unsafe { vector.store(lanes.as_mut_ptr()) };
    let mut half = L::WIDTH / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
