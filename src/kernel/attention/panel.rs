//! Products of a tile with panels of keys or values: 6 rows by 4 vectors stay in registers for all steps.
//!
//! Scores and mixed values are one loop: rows of words times the lines of a panel (`pack.rs`), the first from 0, the
//! second added to what is there.

use std::ops::Range;

use super::lanes::Lanes;
use super::pack::{keys_together, words_of};
use super::tile::{KEYS, Parts, Task};

/// Scores of the tile's rows with the panels of keys that hold `seen`.
///
/// # Safety
/// As for [`attend`](super::tile::attend); the queries and the `count` keys are laid out.
#[inline(always)]
pub(super) unsafe fn score<L: Lanes>(
    task: &Task<'_>,
    rows: usize,
    seen: Range<usize>,
    (count, parts): (usize, &mut Parts<'_>),
) {
    let (words, panel) = (words_of::<L>(task.inputs.width), L::COLUMNS * L::WIDTH);
    for start in (seen.start / panel * panel..seen.end).step_by(panel) {
        let columns = (count - start).div_ceil(L::WIDTH).min(L::COLUMNS);
        assert!((start + columns * L::WIDTH) * words <= parts.keys.len());
        assert!(rows * words <= parts.queries.len() && rows * KEYS <= parts.scores.len());
        const { assert!(KEYS.is_multiple_of(L::COLUMNS * L::WIDTH)) }; // no panel reaches from one run into the next
        // SAFETY: the panel, the rows of the queries and their scores lie inside the parts by the asserts.
        unsafe {
            let product = Product {
                left: parts.queries.as_ptr(),
                left_row: words,
                right: parts.keys.as_ptr().add(start * words),
                steps: words,
                out: parts.scores.as_mut_ptr().add(start % KEYS),
                out_row: KEYS,
            };
            multiply::<L, false>(product, rows, columns);
        }
    }
}

/// Adds the values of the keys that hold `seen`, weighted by the scores, to the tile's mixed values.
///
/// # Safety
/// As for [`attend`](super::tile::attend); the `count` values are laid out, and the scores are weights, 0 where nothing is seen.
#[inline(always)]
pub(super) unsafe fn mix<L: Lanes>(
    task: &Task<'_>,
    rows: usize,
    seen: Range<usize>,
    (count, parts): (usize, &mut Parts<'_>),
) {
    let (width, together) = (task.inputs.width.next_multiple_of(L::WIDTH), keys_together::<L>());
    let words = seen.start / together * together / L::PER_WORD..seen.end.next_multiple_of(together) / L::PER_WORD;
    let steps = count.next_multiple_of(together) / L::PER_WORD;
    for start in (0..width).step_by(L::COLUMNS * L::WIDTH) {
        let columns = ((width - start) / L::WIDTH).min(L::COLUMNS);
        assert!(start * steps + columns * L::WIDTH * words.end <= parts.values.len() && words.end <= steps);
        assert!(rows * width <= parts.mixed.len() && rows * KEYS <= parts.scores.len());
        assert!(words.start % (KEYS / L::PER_WORD) + words.len() <= (KEYS / L::PER_WORD));
        // SAFETY: the panel, the rows of the weights and of the mixed values lie inside the parts by the asserts.
        unsafe {
            let product = Product {
                left: parts.scores.as_ptr().add(words.start % (KEYS / L::PER_WORD)),
                left_row: KEYS,
                right: parts.values.as_ptr().add(start * steps + columns * L::WIDTH * words.start),
                steps: words.len(),
                out: parts.mixed.as_mut_ptr().add(start),
                out_row: width,
            };
            multiply::<L, true>(product, rows, columns);
        }
    }
}

/// A product of rows of words with one panel; bounds are the maker's affair.
#[derive(Clone, Copy)]
struct Product {
    left: *const f32,
    left_row: usize,
    right: *const f32,
    steps: usize,
    out: *mut f32,
    out_row: usize,
}

/// # Safety
/// The instruction set of `L` is there and the product's rows, columns and steps lie inside its matrices.
#[inline(always)]
unsafe fn multiply<L: Lanes, const ADD: bool>(product: Product, rows: usize, columns: usize) {
    macro_rules! choose {
        ($($r:literal $c:literal),*) => {
            match (rows, columns) {
                // SAFETY: the caller vouches for instruction set and sizes.
                $(($r, $c) if $c <= L::COLUMNS => unsafe { registers::<L, $r, $c, ADD>(product) },)*
                _ => unreachable!("a tile of {rows} rows and {columns} vectors"),
            }
        };
    }
    choose!(6 4, 6 3, 6 2, 6 1, 4 4, 4 3, 4 2, 4 1, 2 4, 2 3, 2 2, 2 1, 1 4, 1 3, 1 2, 1 1)
}

/// R rows by C vectors, all steps in registers.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn registers<L: Lanes, const R: usize, const C: usize, const ADD: bool>(product: Product) {
    let Product { left, left_row, right, steps, out, out_row } = product;
    // SAFETY: the caller vouches for instruction set and sizes.
    unsafe {
        let mut sums = [[L::splat(0.0); C]; R];
        if ADD {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (column, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(out.add(row * out_row + column * L::WIDTH));
                }
            }
        }
        for step in 0..steps {
            let mut lines = [L::splat(0.0); C];
            for (column, line) in lines.iter_mut().enumerate() {
                *line = L::load(right.add((step * C + column) * L::WIDTH));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let word = L::splat(*left.add(row * left_row + step));
                for (sum, &line) in sums.iter_mut().zip(&lines) {
                    *sum = sum.add_product(word, line);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (column, sum) in sums.iter().enumerate() {
                sum.store(out.add(row * out_row + column * L::WIDTH));
            }
        }
    }
}
