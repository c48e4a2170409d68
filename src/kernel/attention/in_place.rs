//! Scores and mixed values of a few rows, a decoder's next word, from keys and values where they are.
//!
//! Every key is read once or a few times: what laying it out as a panel costs would never come back.

use std::ops::Range;

use super::lanes::Lanes;
use super::softmax::fold;
use super::tile::{KEYS, Parts, Task};

/// Scores of a few rows, from the keys where they are.
///
/// # Safety
/// As for [`attend`](super::tile::attend).
#[inline(always)]
pub(super) unsafe fn score_in_place<L: Lanes>(task: &Task<'_>, rows: usize, seen: Range<usize>, parts: &mut Parts<'_>) {
    for key in seen {
        let line = task.line(task.inputs.keys, parts.key_rows[key]);
        for (row, query) in parts.queries.chunks_exact(line.len()).take(rows).enumerate() {
            // SAFETY: the caller vouches for the instruction set.
            parts.scores[row * KEYS + key % KEYS] = unsafe { inner_product::<L>(query, line) };
        }
    }
}

/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn inner_product<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let whole = a.len() / L::WIDTH * L::WIDTH;
    let rest: f32 = a[whole..].iter().zip(&b[whole..]).map(|(x, y)| x * y).sum();
    assert_eq!(a.len(), b.len());
    // SAFETY: the caller vouches for the instruction set; both slices hold `whole` values.
    unsafe {
        let mut sums = L::splat(0.0);
        for at in (0..whole).step_by(L::WIDTH) {
            sums = sums.add_product(L::load(a.as_ptr().add(at)), L::load(b.as_ptr().add(at)));
        }
        fold(sums, |x, y| x + y) + rest
    }
}

/// # Safety
/// As for [`attend`](super::tile::attend).
#[inline(always)]
pub(super) unsafe fn mix_in_place<L: Lanes>(task: &Task<'_>, rows: usize, seen: Range<usize>, parts: &mut Parts<'_>) {
    let width = task.inputs.width;
    let whole = width / L::WIDTH * L::WIDTH;
    let columns = width.next_multiple_of(L::WIDTH);
    for key in seen {
        let line = task.line(task.inputs.values, parts.key_rows[key]);
        for (row, mixed) in parts.mixed.chunks_exact_mut(columns).take(rows).enumerate() {
            let weight = parts.scores[row * KEYS + key % KEYS];
            // SAFETY: the caller vouches for the instruction set; both slices hold `whole` values.
            unsafe {
                let factor = L::splat(weight);
                for at in (0..whole).step_by(L::WIDTH) {
                    let place = mixed.as_mut_ptr().add(at);
                    L::load(place).add_product(factor, L::load(line.as_ptr().add(at))).store(place);
                }
            }
            for (mixed, value) in mixed[whole..].iter_mut().zip(&line[whole..]) {
                *mixed += weight * value;
            }
        }
    }
}
