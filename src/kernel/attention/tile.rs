//! The forward pass of some rows of one key-value head: tiles of 6 rows against 512 keys at a time.
//!
//! A row is one query of one of the heads that share the keys. Keys and values are laid out once as panels
//! (`pack.rs`), then every tile passes over them 512 keys at a time: scores, a product over a head's width
//! (`panel.rs`); their online softmax (`softmax.rs`); mixed values, a product over the keys. Nothing larger than a
//! tile's scores (12 KiB) is ever between the two products.

use std::ops::Range;

use super::in_place::{mix_in_place, score_in_place};
use super::lanes::Lanes;
use super::pack::{pack_keys, pack_values, to_words, words_of};
use super::panel::{mix, score};
use super::softmax::{State, UNSEEN, soften};
use super::{Block, Heads, Inputs, Strided};

/// Keys whose scores are in memory at a time.
pub(super) const KEYS: usize = 512;
/// Keys that are laid out at a time: of usual heads they stay in L2, or pass through it at a third of its rate.
const KEYS_LAID_OUT: usize = 4096;
/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Up to so many rows read keys and values where they are: laying them out would cost more than the products.
const ROWS_IN_PLACE: usize = 3;

/// Rows of one key-value head of one block; row `r` is query `r / group` with head `r % group` of the group.
pub(super) struct Task<'a> {
    pub inputs: Inputs<'a>,
    pub heads: Heads,
    pub block: &'a Block,
    pub head: usize,
    pub rows: Range<usize>,
    pub target: Strided,
}

/// Up to [`ROWS`] rows of a task.
pub(super) struct Tile {
    /// Its first row, counted from the task's first.
    pub first: usize,
    pub rows: usize,
    /// Where each row begins in the queries and in the target.
    offsets: [usize; ROWS],
    /// The keys that each row sees.
    visible: [Range<usize>; ROWS],
}

impl Tile {
    fn new(task: &Task<'_>, row: usize) -> Self {
        let rows = match task.rows.end - row {
            0..=1 => 1,
            2..=3 => 2,
            4..=5 => 4,
            _ => ROWS,
        };
        let (mut offsets, mut visible) = ([0; ROWS], [const { 0..0 }; ROWS]);
        for index in 0..rows {
            offsets[index] = task.offset(row + index);
            visible[index] = task.visible(row + index);
        }
        Tile { first: row - task.rows.start, rows, offsets, visible }
    }

    /// What row `index` sees of `stretch`, counted from its start.
    pub fn seen(&self, index: usize, stretch: &Range<usize>) -> Range<usize> {
        cut(&self.visible[index], stretch)
    }

    /// What some row sees: both ends of what a query sees only grow with the query.
    fn seen_by_any(&self, stretch: &Range<usize>) -> Range<usize> {
        cut(&(self.visible[0].start..self.visible[self.rows - 1].end), stretch)
    }
}

/// The part of `range` inside `stretch`, counted from its start.
fn cut(range: &Range<usize>, stretch: &Range<usize>) -> Range<usize> {
    let start = range.start.clamp(stretch.start, stretch.end) - stretch.start;
    start..(range.end.clamp(stretch.start, stretch.end) - stretch.start).max(start)
}

/// A thread's memory, kept from task to task: bounded by the width of a head and the rows of a task.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<f32>,
    states: Vec<State>,
    key_rows: Vec<usize>,
}

/// The parts of a [`Scratch`], each beginning at a cache line.
pub(super) struct Parts<'a> {
    /// Keys and values as `pack.rs` lays them out.
    pub keys: &'a mut [f32],
    pub values: &'a mut [f32],
    /// The tile's queries, `[rows, words]`.
    pub queries: &'a mut [f32],
    /// The tile's scores, then weights, `[rows, KEYS]`.
    pub scores: &'a mut [f32],
    /// The tile's weighted sums of values, `[rows, whole vectors of the width]`.
    pub mixed: &'a mut [f32],
    pub states: &'a mut [State],
    pub key_rows: &'a mut [usize],
}

impl Scratch {
    fn parts<L: Lanes>(&mut self, task: &Task<'_>) -> Parts<'_> {
        const LINE: usize = 16;
        let (words, columns) = (words_of::<L>(task.inputs.width), task.inputs.width.next_multiple_of(L::WIDTH));
        let count = task.block.key_count().min(KEYS_LAID_OUT);
        let keys = if task.in_place() { 0 } else { count.next_multiple_of(L::WIDTH * L::PER_WORD) };
        let sizes = [keys * words, keys / L::PER_WORD * columns, ROWS * words, ROWS * KEYS, ROWS * columns];
        let sizes = sizes.map(|size| size.next_multiple_of(LINE));
        let needed = sizes.iter().sum::<usize>() + LINE;
        if self.values.len() < needed {
            self.values.resize(needed, 0.0);
        }
        self.states.clear();
        self.states.resize(task.rows.len(), State { peak: UNSEEN, total: 0.0 });
        self.key_rows.resize(count, 0);
        let start = self.values.as_ptr().align_offset(LINE * size_of::<f32>());
        let (keys, rest) = self.values[start..].split_at_mut(sizes[0]);
        let (values, rest) = rest.split_at_mut(sizes[1]);
        let (queries, rest) = rest.split_at_mut(sizes[2]);
        let (scores, mixed) = rest.split_at_mut(sizes[3]);
        Parts { keys, values, queries, scores, mixed, states: &mut self.states, key_rows: &mut self.key_rows }
    }
}

/// Computes the task's rows of the target.
///
/// # Safety
/// The instruction set of `L` is there; the task's rows lie inside its inputs and target, and no other thread touches
/// them in the target.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes>(task: &Task<'_>, scratch: &mut Scratch) {
    let count = task.block.key_count();
    let parts = &mut scratch.parts::<L>(task);
    let seen = task.visible(task.rows.start).start..task.visible(task.rows.end - 1).end;
    for start in (seen.start / KEYS_LAID_OUT * KEYS_LAID_OUT..seen.end).step_by(KEYS_LAID_OUT) {
        let stretch = start..(start + KEYS_LAID_OUT).min(count);
        task.block.find_rows(start, &mut parts.key_rows[..stretch.len()]);
        // SAFETY: the caller vouches for the instruction set and the task; the parts have the sizes asked for above.
        unsafe {
            if !task.in_place() {
                pack_keys::<L>(task, &parts.key_rows[..stretch.len()], parts.keys);
                pack_values::<L>(task, &parts.key_rows[..stretch.len()], parts.values);
            }
            let mut row = task.rows.start;
            while row < task.rows.end {
                let tile = Tile::new(task, row);
                row += tile.rows;
                task.fetch_ahead(row..(row + ROWS).min(task.rows.end));
                attend_tile::<L>(task, &tile, &stretch, parts);
            }
        }
    }
}

/// One tile against the keys of `stretch`, which are laid out.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn attend_tile<L: Lanes>(task: &Task<'_>, tile: &Tile, stretch: &Range<usize>, parts: &mut Parts<'_>) {
    let seen = tile.seen_by_any(stretch);
    if seen.is_empty() {
        return;
    }
    // SAFETY: the caller vouches for the instruction set and the task.
    unsafe {
        load_tile::<L>(task, tile, stretch, parts);
        for start in (seen.start / KEYS * KEYS..seen.end).step_by(KEYS) {
            let seen = seen.start.max(start)..seen.end.min(start + KEYS);
            if task.in_place() {
                score_in_place::<L>(task, tile.rows, seen.clone(), parts);
                soften::<L>(task, tile, (stretch.start, seen.clone()), parts);
                mix_in_place::<L>(task, tile.rows, seen, parts);
            } else {
                score::<L>(task, tile.rows, seen.clone(), (stretch.len(), parts));
                soften::<L>(task, tile, (stretch.start, seen.clone()), parts);
                mix::<L>(task, tile.rows, seen, (stretch.len(), parts));
            }
        }
        store_tile::<L>(task, tile, stretch, parts);
    }
}

/// The tile's queries as words, times the scale and log2(e): scores are then exponents of 2. And its mixed values of
/// earlier stretches.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn load_tile<L: Lanes>(task: &Task<'_>, tile: &Tile, stretch: &Range<usize>, parts: &mut Parts<'_>) {
    let (width, words) = (task.inputs.width, words_of::<L>(task.inputs.width));
    let scale = task.heads.scale * std::f32::consts::LOG2_E;
    let lines = parts.mixed.chunks_exact_mut(width.next_multiple_of(L::WIDTH));
    let lines = lines.zip(parts.queries.chunks_exact_mut(words)).take(tile.rows);
    for (index, (mixed, queries)) in lines.enumerate() {
        let offset = tile.offsets[index];
        // SAFETY: the caller vouches for the instruction set.
        unsafe { to_words::<L>(&task.inputs.queries[offset..offset + width], scale, queries) };
        if tile.visible[index].start < stretch.start {
            // SAFETY: the caller vouches for the task; nobody else touches these elements.
            mixed[..width].copy_from_slice(unsafe { task.target.line(offset, width) });
        } else {
            mixed.fill(0.0);
        }
    }
}

/// Writes the mixed values of rows that see something of this stretch; divided by their total after the last key.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn store_tile<L: Lanes>(task: &Task<'_>, tile: &Tile, stretch: &Range<usize>, parts: &Parts<'_>) {
    let width = task.inputs.width;
    let lines = parts.mixed.chunks_exact(width.next_multiple_of(L::WIDTH)).take(tile.rows);
    for (index, mixed) in lines.enumerate() {
        if tile.seen(index, stretch).is_empty() {
            continue;
        }
        let last = tile.visible[index].end <= stretch.end;
        let factor = if last { 1.0 / parts.states[tile.first + index].total } else { 1.0 };
        // SAFETY: the caller vouches for the task; nobody else touches these elements.
        let out = unsafe { task.target.line(tile.offsets[index], width) };
        for (out, &value) in out.iter_mut().zip(mixed) {
            *out = value * factor;
        }
    }
}

impl Task<'_> {
    /// Whether the block has so few rows that keys and values are read where they are.
    pub fn in_place(&self) -> bool {
        self.block.queries.len() * self.group() <= ROWS_IN_PLACE
    }

    fn group(&self) -> usize {
        self.heads.query / self.heads.key_value
    }

    fn visible(&self, row: usize) -> Range<usize> {
        self.block.visible(row / self.group(), self.block.key_count())
    }

    /// Where row `row` begins in the queries and in the target.
    fn offset(&self, row: usize) -> usize {
        let (query, head) = (self.block.queries.start + row / self.group(), row % self.group());
        (query * self.heads.query + self.head * self.group() + head) * self.inputs.width
    }

    /// Asks for what the next tile reads: its rows lie far apart, where no prefetcher of the chip finds them.
    fn fetch_ahead(&self, rows: Range<usize>) {
        const LINE: usize = 16;
        for row in rows {
            let offset = self.offset(row);
            for start in (offset..offset + self.inputs.width).step_by(LINE) {
                fetch(self.inputs.queries.as_ptr().wrapping_add(start));
            }
        }
    }

    /// One head's part of row `row` of keys or values.
    pub fn line<'b>(&self, source: &'b [f32], row: usize) -> &'b [f32] {
        let start = (row * self.heads.key_value + self.head) * self.inputs.width;
        &source[start..start + self.inputs.width]
    }
}

/// Brings the line of `place` nearer, where there is a way to ask for it.
#[inline(always)]
pub(super) fn fetch(place: *const f32) {
    // SAFETY: a prefetch reads nothing, whatever the address; every x86-64 has it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
