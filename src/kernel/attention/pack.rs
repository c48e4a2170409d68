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
    let words = words_of::<L>(task.inputs.width);
    let mut line = [0.0; WORDS_AT_ONCE];
    let vectors = rows.len().div_ceil(L::WIDTH);
    for (key, &row) in rows.iter().enumerate() {
        fetch_later(task, task.inputs.keys, rows.get(key + ROWS_AHEAD));
        let source = task.line(task.inputs.keys, row);
        let (panel, column) = (key / (L::COLUMNS * L::WIDTH), key % (L::COLUMNS * L::WIDTH));
        let step = (vectors - panel * L::COLUMNS).min(L::COLUMNS) * L::WIDTH;
        let out = &mut out[panel * L::COLUMNS * L::WIDTH * words..];
        for (index, source) in source.chunks(WORDS_AT_ONCE * L::PER_WORD).enumerate() {
            let line = &mut line[..words_of::<L>(source.len())];
            // SAFETY: the caller vouches for the instruction set.
            unsafe { to_words::<L>(source, 1.0, line) };
            let out = &mut out[index * WORDS_AT_ONCE * step..];
            for (place, &word) in out[column..].iter_mut().step_by(step).zip(line.iter()) {
                *place = word;
            }
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

/// Words of a row that are on the way at a time.
const WORDS_AT_ONCE: usize = 64;

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
