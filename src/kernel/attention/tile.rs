//! The forward pass of some rows of one key-value head: tiles of 6 rows against blocks of 512 keys.
//!
//! A row is one query of one of the heads that share the keys. For each block of keys, keys and values are laid out
//! once as panels, then every tile passes over them: scores (product over a head's width), online softmax, mixed
//! values (product over the keys). Nothing larger than a tile's scores (12 KiB) is ever between the two products.

use std::ops::Range;

use super::lanes::Lanes;
use super::pack::{keys_together, pack_keys, pack_values, to_words, words_of};
use super::{Block, Heads, Inputs, Strided};

/// Keys whose scores are in memory at a time.
const KEYS: usize = 512;
/// Keys that are laid out at a time: of usual heads they stay in L2, or pass through it at a third of its rate.
const KEYS_LAID_OUT: usize = 4096;
/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Up to so many rows read keys and values where they are: laying them out would cost more than the products.
const ROWS_IN_PLACE: usize = 3;
/// A score that no query sees: finite, so that differences to it are numbers, and far below every true one.
const UNSEEN: f32 = -1e30;

/// Rows of one key-value head of one block; row `r` is query `r / group` with head `r % group` of the group.
pub(super) struct Task<'a> {
    pub inputs: Inputs<'a>,
    pub heads: Heads,
    pub block: &'a Block,
    pub head: usize,
    pub rows: Range<usize>,
    pub target: Strided,
}

/// Online softmax of a row: the peak so far, and the sum of `2^(score - peak)`.
#[derive(Clone, Copy)]
struct State {
    peak: f32,
    total: f32,
}

/// A thread's memory, kept from task to task: bounded by the width of a head and the rows of a task.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<f32>,
    states: Vec<State>,
    key_rows: Vec<usize>,
}

/// The parts of a [`Scratch`], each beginning at a cache line.
struct Parts<'a> {
    /// Keys and values as `pack.rs` lays them out.
    keys: &'a mut [f32],
    values: &'a mut [f32],
    /// The tile's queries, `[rows, words]`.
    queries: &'a mut [f32],
    /// The tile's scores, then weights, `[rows, KEYS]`.
    scores: &'a mut [f32],
    /// The tile's weighted sums of values, `[rows, whole vectors of the width]`.
    mixed: &'a mut [f32],
    states: &'a mut [State],
    key_rows: &'a mut [usize],
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
    let seen = task.seen(task.rows.clone());
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
                let tile = row..row + tile_rows(task.rows.end - row);
                row = tile.end;
                task.fetch_ahead(row..(row + ROWS).min(task.rows.end));
                attend_tile::<L>(task, tile, &stretch, parts);
            }
        }
    }
}

/// One tile against the keys of `stretch`, which are laid out.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn attend_tile<L: Lanes>(task: &Task<'_>, tile: Range<usize>, stretch: &Range<usize>, parts: &mut Parts<'_>) {
    let seen = cut(task.seen(tile.clone()), stretch);
    if seen.is_empty() {
        return;
    }
    // SAFETY: the caller vouches for the instruction set and the task.
    unsafe {
        load_tile::<L>(task, tile.clone(), stretch, parts);
        for start in (seen.start / KEYS * KEYS..seen.end).step_by(KEYS) {
            let keys = start..(start + KEYS).min(stretch.len());
            let seen = seen.start.max(keys.start)..seen.end.min(keys.end);
            if task.in_place() {
                score_in_place::<L>(task, tile.len(), seen.clone(), parts);
            } else {
                score::<L>(task, tile.len(), seen.clone(), (stretch.len(), parts));
            }
            soften_tile::<L>(task, tile.clone(), seen.clone(), (stretch.start, parts));
            if task.in_place() {
                mix_in_place::<L>(task, tile.len(), seen, parts);
            } else {
                mix::<L>(task, tile.len(), seen, (stretch.len(), parts));
            }
        }
        store_tile::<L>(task, tile, stretch, parts);
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

/// The part of `range` inside `stretch`, counted from its start.
fn cut(range: Range<usize>, stretch: &Range<usize>) -> Range<usize> {
    let start = range.start.clamp(stretch.start, stretch.end) - stretch.start;
    start..(range.end.clamp(stretch.start, stretch.end) - stretch.start).max(start)
}

fn tile_rows(rest: usize) -> usize {
    match rest {
        0..=1 => 1,
        2..=3 => 2,
        4..=5 => 4,
        _ => ROWS,
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

    /// The keys that some of these rows see; both ends of what a query sees only grow with the query.
    fn seen(&self, rows: Range<usize>) -> Range<usize> {
        let visible = |row: usize| self.block.visible(row / self.group(), self.block.key_count());
        visible(rows.start).start..visible(rows.end - 1).end
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
                fetch(self.target.start.wrapping_add(start));
            }
        }
    }

    /// One head's part of row `row` of keys or values.
    pub fn line<'b>(&self, source: &'b [f32], row: usize) -> &'b [f32] {
        let start = (row * self.heads.key_value + self.head) * self.inputs.width;
        &source[start..start + self.inputs.width]
    }
}

/// The tile's queries as words, times the scale and log2(e): scores are then exponents of 2. And its mixed values of
/// earlier stretches.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn load_tile<L: Lanes>(task: &Task<'_>, tile: Range<usize>, stretch: &Range<usize>, parts: &mut Parts<'_>) {
    let (width, words) = (task.inputs.width, words_of::<L>(task.inputs.width));
    let scale = task.heads.scale * std::f32::consts::LOG2_E;
    let lines = parts.mixed.chunks_exact_mut(width.next_multiple_of(L::WIDTH));
    for ((row, queries), mixed) in tile.zip(parts.queries.chunks_exact_mut(words)).zip(lines) {
        let offset = task.offset(row);
        // SAFETY: the caller vouches for the instruction set.
        unsafe { to_words::<L>(&task.inputs.queries[offset..offset + width], scale, queries) };
        if task.seen(row..row + 1).start < stretch.start {
            // SAFETY: the caller vouches for the task; nobody else touches these elements.
            mixed[..width].copy_from_slice(unsafe { task.target.line(offset, width) });
        } else {
            mixed.fill(0.0);
        }
    }
}

/// Scores of the tile's rows with the panels of keys that hold `seen`.
///
/// # Safety
/// As for [`attend`]; the queries and the `count` keys are laid out.
#[inline(always)]
unsafe fn score<L: Lanes>(task: &Task<'_>, rows: usize, seen: Range<usize>, (count, parts): (usize, &mut Parts<'_>)) {
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
/// As for [`attend`]; the `count` values are laid out, and the scores are weights, 0 where nothing is seen.
#[inline(always)]
unsafe fn mix<L: Lanes>(task: &Task<'_>, rows: usize, seen: Range<usize>, (count, parts): (usize, &mut Parts<'_>)) {
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

/// Turns the tile's scores of the keys `seen` (of the stretch that begins at key `first`) into weights, as words, and
/// brings its mixed values so far to the new peaks.
///
/// # Safety
/// As for [`attend`]; the scores are there.
#[inline(always)]
unsafe fn soften_tile<L: Lanes>(
    task: &Task<'_>,
    tile: Range<usize>,
    seen: Range<usize>,
    (first, parts): (usize, &mut Parts<'_>),
) {
    let together = keys_together::<L>();
    let start = seen.start / KEYS * KEYS;
    let whole = seen.start / together * together - start..seen.end.next_multiple_of(together) - start;
    let columns = task.inputs.width.next_multiple_of(L::WIDTH);
    let lines = parts.scores.chunks_exact_mut(KEYS).zip(parts.mixed.chunks_exact_mut(columns));
    for (row, (scores, mixed)) in tile.zip(lines) {
        let piece = cut(task.seen(row..row + 1), &(first + seen.start..first + seen.end));
        let piece = piece.start + seen.start - start..piece.end + seen.start - start;
        if piece.is_empty() {
            scores[whole.clone()].fill(0.0);
        } else {
            let state = &mut parts.states[row - task.rows.start];
            // SAFETY: the caller vouches for the instruction set.
            let factor = unsafe { soften::<L>(scores, piece, whole.clone(), state) };
            mixed.iter_mut().for_each(|mixed| *mixed *= factor);
        }
        if L::PER_WORD == 2 {
            for start in whole.clone().step_by(together) {
                let scores = &mut scores[start / 2..start + together];
                // SAFETY: the caller vouches for the instruction set; the slice holds from start / 2 to both vectors.
                unsafe {
                    let from = scores.as_ptr().add(start - start / 2);
                    L::pairs(L::load(from), L::load(from.add(L::WIDTH))).store(scores.as_mut_ptr());
                }
            }
        }
    }
}

/// `2^(score - peak)` of the keys in `seen`, 0 elsewhere in `whole`. Returns what sums of earlier keys shrink by.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn soften<L: Lanes>(scores: &mut [f32], seen: Range<usize>, whole: Range<usize>, state: &mut State) -> f32 {
    let vectors = seen.start / L::WIDTH * L::WIDTH..seen.end.next_multiple_of(L::WIDTH);
    scores[vectors.start..seen.start].fill(UNSEEN);
    scores[seen.end..vectors.end].fill(UNSEEN);
    let before = state.peak;
    // SAFETY: the caller vouches for the instruction set; the vectors lie inside the scores, which were just sliced.
    unsafe {
        let (start, end) = (scores.as_mut_ptr().add(vectors.start), scores.as_mut_ptr().add(vectors.end));
        let mut peaks = L::splat(before);
        let mut place = start;
        while place < end {
            peaks = L::load(place).greater(peaks);
            place = place.add(L::WIDTH);
        }
        state.peak = fold(peaks, |a, b| if a > b { a } else { b });
        let (peak, mut sums) = (L::splat(state.peak), L::splat(0.0));
        let mut place = start;
        while place < end {
            let weight = L::load(place).minus(peak).power_of_two();
            weight.store(place);
            sums = sums.plus(weight);
            place = place.add(L::WIDTH);
        }
        let factor = (before - state.peak).power_of_two();
        state.total = state.total * factor + fold(sums, |a, b| a + b);
        scores[whole.start..seen.start.max(whole.start)].fill(0.0);
        scores[seen.end.min(whole.end)..whole.end].fill(0.0);
        factor
    }
}

/// All lanes as one, halves first.
///
/// # Safety
/// The instruction set of `L` is there.
#[inline(always)]
unsafe fn fold<L: Lanes>(vector: L, join: impl Fn(f32, f32) -> f32) -> f32 {
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

/// Writes the mixed values of rows that see something of this stretch; divided by their total after the last key.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn store_tile<L: Lanes>(task: &Task<'_>, tile: Range<usize>, stretch: &Range<usize>, parts: &Parts<'_>) {
    let width = task.inputs.width;
    let lines = parts.mixed.chunks_exact(width.next_multiple_of(L::WIDTH));
    for (row, mixed) in tile.zip(lines) {
        let seen = task.seen(row..row + 1);
        if cut(seen.clone(), stretch).is_empty() {
            continue;
        }
        let factor = if seen.end <= stretch.end { 1.0 / parts.states[row - task.rows.start].total } else { 1.0 };
        // SAFETY: the caller vouches for the task; nobody else touches these elements.
        let out = unsafe { task.target.line(task.offset(row), width) };
        for (out, &value) in out.iter_mut().zip(mixed) {
            *out = value * factor;
        }
    }
}

/// Scores of a few rows, from the keys where they are.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn score_in_place<L: Lanes>(task: &Task<'_>, rows: usize, seen: Range<usize>, parts: &mut Parts<'_>) {
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
/// As for [`attend`].
#[inline(always)]
unsafe fn mix_in_place<L: Lanes>(task: &Task<'_>, rows: usize, seen: Range<usize>, parts: &mut Parts<'_>) {
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
