//! Attention over ragged batches: which key rows each query row sees is a [`Plan`], not a mask matrix.
//!
//! Queries, keys and values are row-major `[rows, heads * width]`, as a linear layer leaves them. No `T x T` matrix
//! ever exists: the forward pass holds the scores of 6 rows and 512 keys (`tile.rs`), the backward pass those of 64
//! queries, which it computes again (`gradient.rs`).

use std::cell::RefCell;
use std::ops::Range;

pub use self::gradient::backward;
use self::tile::{Scratch, Task};
use super::isa::Avx512Bf16;
use super::tally::{self, Kind};
use super::threads;
use super::wide::{Width, width};

mod gradient;
mod in_place;
mod lanes;
mod pack;
mod panel;
mod product;
mod softmax;
mod tile;

/// Which keys each query sees, block by block. Blocks must not share query rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The blocks, in any order.
    pub blocks: Vec<Block>,
}

/// Query rows and the key rows they see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Rows of the query matrix.
    pub queries: Range<usize>,
    /// Rows of the key and value matrices, read one range after the other.
    pub keys: Vec<Range<usize>>,
    /// What of these keys each query sees.
    pub mask: Mask,
}

/// What a query sees of its block's keys. `i` counts the block's queries, `j` its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every key.
    Full,
    /// Keys `j <= i + keys - queries`: the queries are the last tokens of the keys.
    Causal,
    /// Keys with `|i - j| < w`.
    Window(usize),
}

impl Plan {
    /// Every segment sees all of itself.
    pub fn full(segments: &[Range<usize>]) -> Self {
        Self::own(segments, Mask::Full)
    }

    /// Every segment sees itself up to and including each position.
    pub fn causal(segments: &[Range<usize>]) -> Self {
        Self::own(segments, Mask::Causal)
    }

    /// Every position sees the positions of its segment less than `width` away.
    pub fn window(segments: &[Range<usize>], width: usize) -> Self {
        Self::own(segments, Mask::Window(width))
    }

    fn own(segments: &[Range<usize>], mask: Mask) -> Self {
        let block = |s: &Range<usize>| Block { queries: s.clone(), keys: vec![s.clone()], mask };
        Self { blocks: segments.iter().map(block).collect() }
    }

    /// Query-key pairs that see each other.
    fn seen(&self) -> usize {
        let keys = |block: &Block| {
            let count = block.key_count();
            (0..block.queries.len()).map(|query| block.visible(query, count).len()).sum::<usize>()
        };
        self.blocks.iter().map(keys).sum()
    }

    /// Query-key pairs, an upper bound that ignores masks.
    fn pairs(&self) -> usize {
        self.blocks.iter().map(|block| block.queries.len() * block.key_count()).sum()
    }
}

impl Block {
    fn key_count(&self) -> usize {
        self.keys.iter().map(ExactSizeIterator::len).sum()
    }

    /// The key rows of keys `start..start + out.len()`.
    fn find_rows(&self, mut start: usize, mut out: &mut [usize]) {
        for range in &self.keys {
            let skipped = start.min(range.len());
            start -= skipped;
            let count = out.len().min(range.len() - skipped);
            let (found, rest) = std::mem::take(&mut out).split_at_mut(count);
            found.iter_mut().zip(range.start + skipped..).for_each(|(place, row)| *place = row);
            out = rest;
        }
    }

    fn key_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.keys.iter().flat_map(Clone::clone)
    }

    /// The keys that query `i` of this block sees are always one run.
    fn visible(&self, i: usize, keys: usize) -> Range<usize> {
        match self.mask {
            Mask::Full => 0..keys,
            Mask::Causal => 0..(i + 1 + keys).saturating_sub(self.queries.len()).min(keys),
            Mask::Window(width) => (i + 1).saturating_sub(width).min(keys)..(i + width).min(keys),
        }
    }
}

/// Sizes of one attention: query heads share key-value heads in equal groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key-value heads; divides `query`.
    pub key_value: usize,
    /// What the scores are multiplied by, usually `width^-0.5`.
    pub scale: f32,
}

/// The three matrices, with the width of a head worked out.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[query rows, query heads * width]`
    pub queries: &'a [f32],
    /// `[key rows, key-value heads * width]`
    pub keys: &'a [f32],
    /// `[key rows, key-value heads * width]`
    pub values: &'a [f32],
    /// Elements of a head.
    pub width: usize,
}

/// What the factors of attention's two products are rounded to; sums are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// Nothing is rounded.
    #[default]
    F32,
    /// bf16 where the chip multiplies pairs of them, else as [`Products::F32`].
    Bf16,
}

/// `softmax(Q K^T * scale) V` for each block and head into `out` (`[query rows, query heads * width]`).
///
/// Query rows outside every block, and rows that see no key, become 0. What a row becomes does not depend on the other
/// blocks of the plan.
pub fn forward(inputs: Inputs<'_>, heads: Heads, plan: &Plan, products: Products, out: &mut [f32]) {
    let pairs = products == Products::Bf16 && Avx512Bf16::detect().is_some();
    let kind = if pairs { Kind::AttentionBf16 } else { Kind::AttentionF32 };
    let operations = 4.0 * plan.seen() as f64 * (heads.query * inputs.width) as f64;
    tally::count(kind, operations, || {
        forward_by(|task, scratch| attend(task, products, scratch), inputs, heads, plan, out);
    });
}

fn forward_by(
    attend: impl Fn(&Task<'_>, &mut Scratch) + Sync + Send,
    inputs: Inputs<'_>,
    heads: Heads,
    plan: &Plan,
    out: &mut [f32],
) {
    let row = heads.query * inputs.width;
    let attended = check(inputs, heads, plan);
    assert_eq!(out.len(), inputs.queries.len(), "attention's target has the shape of its queries");
    for (out, _) in out.chunks_exact_mut(row).zip(attended).filter(|(_, attended)| !attended) {
        out.fill(0.0);
    }
    let target = Strided { start: out.as_mut_ptr(), len: out.len() };
    let group = heads.query / heads.key_value;
    let mut tasks = Vec::new();
    let parts = (4 * threads::available()).div_ceil((plan.blocks.len() * heads.key_value).max(1));
    for block in &plan.blocks {
        let rows = block.queries.len() * group;
        let chunk = rows.div_ceil(parts).max(ROWS_PER_TASK).next_multiple_of(tile::ROWS);
        for head in 0..heads.key_value {
            for start in (0..rows).step_by(chunk) {
                let rows = start..(start + chunk).min(rows);
                tasks.push(Task { inputs, heads, block, head, rows, target });
            }
        }
    }
    threads::for_each(tasks.len(), plan.pairs() * row * 2, |index| {
        SCRATCH.with_borrow_mut(|scratch| attend(&tasks[index], scratch));
    });
}

/// Rows for which it pays that each task lays out keys and values for itself.
const ROWS_PER_TASK: usize = 192;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs a task by the widest vectors there are.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only x86 has products of bf16 pairs"))]
fn attend(task: &Task<'_>, products: Products, scratch: &mut Scratch) {
    #[cfg(target_arch = "x86_64")]
    if products == Products::Bf16 && !task.in_place() && Avx512Bf16::detect().is_some() {
        // SAFETY: the token proves the instruction set; forward() made the task from checked inputs, with rows of its
        // own.
        return unsafe { avx512_bf16(task, scratch) };
    }
    match width() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: width() detected AVX-512; the task as above.
        Width::Avx512 => unsafe { avx512(task, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: width() detected AVX2 and FMA; the task as above.
        Width::Avx2 => unsafe { avx2(task, scratch) },
        // SAFETY: every chip of the architecture has these vectors; the task as above.
        Width::Baseline => unsafe { tile::attend::<lanes::Baseline>(task, scratch) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn avx512_bf16(task: &Task<'_>, scratch: &mut Scratch) {
    // SAFETY: the caller vouches for the task.
    unsafe { tile::attend::<lanes::Pairs>(task, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512(task: &Task<'_>, scratch: &mut Scratch) {
    // SAFETY: the caller vouches for the task.
    unsafe { tile::attend::<std::arch::x86_64::__m512>(task, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(task: &Task<'_>, scratch: &mut Scratch) {
    // SAFETY: the caller vouches for the task.
    unsafe { tile::attend::<std::arch::x86_64::__m256>(task, scratch) }
}

/// Refuses what does not fit. Returns for each query row whether it sees any key.
fn check(inputs: Inputs<'_>, heads: Heads, plan: &Plan) -> Vec<bool> {
    let (row, key_row) = (heads.query * inputs.width, heads.key_value * inputs.width);
    assert!(inputs.width > 0 && heads.key_value > 0 && heads.query.is_multiple_of(heads.key_value), "heads {heads:?}");
    assert!(
        inputs.queries.len().is_multiple_of(row) && inputs.keys.len().is_multiple_of(key_row),
        "rows of {row} and {key_row}"
    );
    assert_eq!(inputs.keys.len(), inputs.values.len(), "keys and values have one shape");
    assert!(heads.scale.is_finite() && heads.scale > 1e-12, "scores are multiplied by {}", heads.scale);
    let mut blocks = vec![false; inputs.queries.len() / row];
    let mut attended = blocks.clone();
    for block in &plan.blocks {
        let keys = block.key_count();
        for (index, query) in block.queries.clone().enumerate() {
            assert!(!std::mem::replace(&mut blocks[query], true), "query row {query} is in two blocks");
            attended[query] = !block.visible(index, keys).is_empty();
        }
        assert!(block.keys.iter().all(|keys| keys.end * key_row <= inputs.keys.len()), "key rows {:?}", block.keys);
    }
    attended
}

/// A target that several tasks write to, each its own elements.
#[derive(Clone, Copy)]
struct Strided {
    start: *mut f32,
    len: usize,
}

// SAFETY: the pointer is only written through `write`, whose callers prove that their elements are theirs alone.
unsafe impl Send for Strided {}
// SAFETY: as above.
unsafe impl Sync for Strided {}

impl Strided {
    /// The elements from `offset` on.
    ///
    /// # Safety
    /// No other reference to these elements lives as long as the slice.
    #[inline(always)]
    unsafe fn line<'a>(&self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset + len <= self.len);
        // SAFETY: in bounds by the assert; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// Writes or adds `source` at `offset`.
    ///
    /// # Safety
    /// No other thread touches these elements meanwhile.
    unsafe fn write(&self, offset: usize, source: &[f32], add: bool) {
        assert!(offset + source.len() <= self.len);
        for (index, &value) in source.iter().enumerate() {
            // SAFETY: in bounds by the assert; exclusive by the caller's promise.
            unsafe {
                let place = self.start.add(offset + index);
                *place = if add { *place + value } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests;
