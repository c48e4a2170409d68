//! Keys and values of one head laid out for the tile products.
//!
//! Both are matrices cut into panels of a few vectors; a panel holds its columns step by step, so a tile streams it:
//! keys `[panel][word of the width][keys of the panel]`, values `[panel][word of keys][columns of the panel]`. In bf16
//! a word pairs element `i` with element `i + WIDTH` of each two vectors, on both sides of a product.

use super::lanes::Lanes;
use super::tile::{Task, fetch};

/// Words of a head's row.
pub(super) fn words_of<L: Lanes>(width: usize) -> usize {
    if L::PER_WORD == 1 { width } else { width.next_multiple_of(2 * L::WIDTH) / 2 }
}

/// Keys that one run of words covers: when values are mixed, words pair key `k` with key `k + WIDTH`.
pub(super) const fn keys_together<L: Lanes>() -> usize {
    if L::PER_WORD == 1 { 1 } else { 2 * L::WIDTH }
}

/// `source * factor` as words; the last words are filled up with 0.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
pub(super) unsafe fn to_words<L: Lanes>(source: &[f32], factor: f32, words: &mut [f32]) {
    if L::PER_WORD == 1 {
        for (word, &value) in words.iter_mut().zip(source) {
            *word = value * factor;
        }
        return;
    }
    let mut filled = [0.0; 32];
    for (source, words) in source.chunks(2 * L::WIDTH).zip(words.chunks_exact_mut(L::WIDTH)) {
        let source = if source.len() == 2 * L::WIDTH {
            source
        } else {
            filled[..source.len()].copy_from_slice(source);
            &filled[..2 * L::WIDTH]
        };
        // SAFETY: the caller vouches for the instruction set; the slices hold two vectors and one.
        unsafe {
            let (factor, low) = (L::splat(factor), source.as_ptr());
            let words_of_both = L::pairs(L::load(low).times(factor), L::load(low.add(L::WIDTH)).times(factor));
            words_of_both.store(words.as_mut_ptr());
        }
    }
}

/// Lays out the keys of `rows`.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
pub(super) unsafe fn pack_keys<L: Lanes>(task: &Task<'_>, rows: &[usize], out: &mut [f32]) {
    let (words, source) = (words_of::<L>(task.inputs.width), task.inputs.keys);
    let vectors = rows.len().div_ceil(L::WIDTH);
    for vector in 0..vectors {
        let keys = &rows[vector * L::WIDTH..rows.len().min((vector + 1) * L::WIDTH)];
        for index in 0..L::WIDTH {
            fetch_later(task, source, rows.get((vector + 1) * L::WIDTH + index));
        }
        let panel = vector / L::COLUMNS * L::COLUMNS;
        let step = (vectors - panel).min(L::COLUMNS) * L::WIDTH;
        let out = &mut out[panel * L::WIDTH * words + (vector - panel) * L::WIDTH..];
        for word in (0..words).step_by(L::WIDTH) {
            let steps = (words - word).min(L::WIDTH);
            assert!((word + steps - 1) * step + L::WIDTH <= out.len());
            // SAFETY: the caller vouches for the instruction set; the last vector ends inside the target.
            unsafe {
                let mut lines = [L::splat(0.0); 16];
                for (line, &row) in lines.iter_mut().zip(keys) {
                    *line = words_at::<L>(task.line(source, row), word);
                }
                L::store_turned(&lines, out.as_mut_ptr().add(word * step), step, steps);
            }
        }
    }
}

/// A vector of the words of `line` from word `word` on.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn words_at<L: Lanes>(line: &[f32], word: usize) -> L {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        if L::PER_WORD == 1 {
            vector_at(line, word)
        } else {
            L::pairs(vector_at(line, 2 * word), vector_at(line, 2 * word + L::WIDTH))
        }
    }
}

/// Rows of keys and values are asked for so many rows early: they lie far apart, where no prefetcher of the chip finds
/// them.
const ROWS_AHEAD: usize = 8;

#[inline(always)]
fn fetch_later(task: &Task<'_>, source: &[f32], row: Option<&usize>) {
    if let Some(&row) = row {
        let line = task.line(source, row);
        line.iter().step_by(16).for_each(|value| fetch(value));
    }
}

/// Lays out the values of `rows`; the last run of words is filled up with 0.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
pub(super) unsafe fn pack_values<L: Lanes>(task: &Task<'_>, rows: &[usize], out: &mut [f32]) {
    let width = task.inputs.width;
    let steps = rows.len().next_multiple_of(keys_together::<L>()) / L::PER_WORD;
    for step in 0..steps {
        let key = step / L::WIDTH * keys_together::<L>() + step % L::WIDTH;
        let key = if L::PER_WORD == 1 { step } else { key };
        fetch_later(task, task.inputs.values, rows.get(key + ROWS_AHEAD));
        if L::PER_WORD == 2 {
            fetch_later(task, task.inputs.values, rows.get(key + ROWS_AHEAD + L::WIDTH));
        }
        let value = |key: usize| rows.get(key).map_or(&[][..], |&row| task.line(task.inputs.values, row));
        let (low, high) = (value(key), value(key + L::WIDTH));
        for start in (0..width).step_by(L::WIDTH) {
            let group = start / (L::COLUMNS * L::WIDTH) * (L::COLUMNS * L::WIDTH);
            let columns = ((width - group).div_ceil(L::WIDTH)).min(L::COLUMNS) * L::WIDTH;
            let out = &mut out[group * steps + step * columns + start - group..][..L::WIDTH];
            // SAFETY: the caller vouches for the instruction set; the target holds a vector.
            unsafe {
                let low = vector_at::<L>(low, start);
                let words = if L::PER_WORD == 1 { low } else { L::pairs(low, vector_at::<L>(high, start)) };
                words.store(out.as_mut_ptr());
            }
        }
    }
}

/// The vector of `line` from `start`, 0 beyond its end.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn vector_at<L: Lanes>(line: &[f32], start: usize) -> L {
    let line = line.get(start..).unwrap_or_default();
    // SAFETY: the caller vouches for the instruction set; either the line or the array holds a vector.
    unsafe {
        if line.len() >= L::WIDTH {
            return L::load(line.as_ptr());
        }
        let mut filled = [0.0; 16];
        filled[..line.len()].copy_from_slice(line);
        L::load(filled.as_ptr())
    }
}
