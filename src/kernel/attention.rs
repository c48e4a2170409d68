//! Attention over ragged batches: which key rows each query row sees is a [`Plan`], not a mask matrix.
//!
//! Queries, keys and values are row-major `[rows, heads * width]`, as a linear layer leaves them. The scores of at
//! most 64 queries are in memory at a time, so no `T x T` matrix ever exists, also in the backward pass, which
//! computes them again.

use std::ops::Range;

use self::product::{View, small_product};
use super::{threads, wide::wide};

mod product;

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

    /// Query-key pairs, an upper bound that ignores masks.
    fn pairs(&self) -> usize {
        self.blocks.iter().map(|block| block.queries.len() * block.key_count()).sum()
    }
}

impl Block {
    fn key_count(&self) -> usize {
        self.keys.iter().map(ExactSizeIterator::len).sum()
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

/// `softmax(Q K^T * scale) V` for each block and head into `out` (`[query rows, query heads * width]`).
///
/// Query rows outside every block, and rows that see no key, become 0.
pub fn forward(inputs: Inputs<'_>, heads: Heads, plan: &Plan, out: &mut [f32]) {
    let row = heads.query * inputs.width;
    check(inputs, heads, plan);
    assert_eq!(out.len(), inputs.queries.len(), "attention's target has the shape of its queries");
    out.fill(0.0);
    let target = Strided { start: out.as_mut_ptr(), len: out.len() };
    let tasks = plan.blocks.len() * heads.key_value;
    threads::for_each(tasks, plan.pairs() * row * 2, |task| {
        let (block, head) = (&plan.blocks[task / heads.key_value], task % heads.key_value);
        let packed = Packed::new(inputs, heads, block, head);
        let mut mixed = vec![0.0; CHUNK * inputs.width];
        packed.for_each_chunk(inputs, heads, |chunk, weights| {
            let count = chunk.rows.len();
            let weights = View { values: weights, row: packed.padded, column: 1 };
            let values = View { values: &packed.values, row: inputs.width, column: 1 };
            small_product(&mut mixed, weights, values, (count, inputs.width, packed.count), false);
            for (index, query) in chunk.rows.clone().enumerate() {
                let source = &mixed[index * inputs.width..(index + 1) * inputs.width];
                // SAFETY: blocks do not share query rows and each task has its own heads, so no other task writes
                // these elements; check() bounded the rows.
                unsafe { target.write(query * row + chunk.head * inputs.width, source, false) };
            }
        });
    });
}

/// Gradients of [`forward`] into `dq`, `dk`, `dv` (shapes of queries, keys, values), given its result and the
/// gradient of that result.
pub fn backward(
    inputs: Inputs<'_>,
    (heads, plan): (Heads, &Plan),
    (out, grad): (&[f32], &[f32]),
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
) {
    check(inputs, heads, plan);
    assert!(out.len() == inputs.queries.len() && grad.len() == out.len() && dq.len() == out.len());
    assert!(dk.len() == inputs.keys.len() && dv.len() == inputs.values.len());
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let target = |values: &mut [f32]| Strided { start: values.as_mut_ptr(), len: values.len() };
    let gradient = Gradient { inputs, heads, out, grad, dq: target(dq), dk: target(dk), dv: target(dv) };
    threads::for_each(heads.key_value, plan.pairs() * heads.query * inputs.width * 5, |head| {
        plan.blocks.iter().for_each(|block| gradient.block(block, head));
    });
}

fn check(inputs: Inputs<'_>, heads: Heads, plan: &Plan) {
    let (row, key_row) = (heads.query * inputs.width, heads.key_value * inputs.width);
    assert!(inputs.width > 0 && heads.key_value > 0 && heads.query.is_multiple_of(heads.key_value), "heads {heads:?}");
    assert!(
        inputs.queries.len().is_multiple_of(row) && inputs.keys.len().is_multiple_of(key_row),
        "rows of {row} and {key_row}"
    );
    assert_eq!(inputs.keys.len(), inputs.values.len(), "keys and values have one shape");
    let mut seen = vec![false; inputs.queries.len() / row];
    for block in &plan.blocks {
        for query in block.queries.clone() {
            assert!(!std::mem::replace(&mut seen[query], true), "query row {query} is in two blocks");
        }
        assert!(block.keys.iter().all(|keys| keys.end * key_row <= inputs.keys.len()), "key rows {:?}", block.keys);
    }
}

/// Queries whose scores are in memory at a time.
const CHUNK: usize = 64;

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

/// One block's keys and values of one head, gathered: keys transposed, rows padded to whole vectors.
struct Packed<'a> {
    block: &'a Block,
    head: usize,
    count: usize,
    padded: usize,
    /// `[width, padded]`
    keys: Vec<f32>,
    /// `[count, width]`
    values: Vec<f32>,
}

/// Some queries of one head.
struct Chunk {
    head: usize,
    rows: Range<usize>,
}

impl<'a> Packed<'a> {
    fn new(inputs: Inputs<'_>, heads: Heads, block: &'a Block, head: usize) -> Self {
        let (width, count) = (inputs.width, block.key_count());
        let padded = count.next_multiple_of(16);
        let keys = transposed(inputs.keys, block, (heads.key_value, head, width));
        let mut values = Vec::with_capacity(count * width);
        for row in block.key_rows() {
            let start = (row * heads.key_value + head) * width;
            values.extend_from_slice(&inputs.values[start..start + width]);
        }
        Self { block, head, count, padded, keys, values }
    }

    /// Calls `work` with the attention weights `[rows, padded]` of each chunk of each query head of this group.
    fn for_each_chunk(&self, inputs: Inputs<'_>, heads: Heads, mut work: impl FnMut(&Chunk, &[f32])) {
        let group = heads.query / heads.key_value;
        let mut weights = vec![0.0; CHUNK.min(self.block.queries.len()) * self.padded];
        for head in self.head * group..(self.head + 1) * group {
            for start in self.block.queries.clone().step_by(CHUNK) {
                let rows = start..(start + CHUNK).min(self.block.queries.end);
                let weights = &mut weights[..rows.len() * self.padded];
                let row = heads.query * inputs.width;
                let queries = View { values: &inputs.queries[start * row + head * inputs.width..], row, column: 1 };
                let keys = View { values: &self.keys, row: self.padded, column: 1 };
                small_product(weights, queries, keys, (rows.len(), self.padded, inputs.width), false);
                for (index, scores) in weights.chunks_mut(self.padded.max(1)).enumerate() {
                    let visible = self.block.visible(start - self.block.queries.start + index, self.count);
                    softmax(scores, visible, heads.scale);
                }
                work(&Chunk { head, rows }, weights);
            }
        }
    }
}

/// `[width, padded keys]` of one head of `source`.
fn transposed(source: &[f32], block: &Block, (heads, head, width): (usize, usize, usize)) -> Vec<f32> {
    let padded = block.key_count().next_multiple_of(16);
    let mut out = vec![0.0; width * padded];
    for (index, row) in block.key_rows().enumerate() {
        let start = (row * heads + head) * width;
        for (column, &value) in source[start..start + width].iter().enumerate() {
            out[column * padded + index] = value;
        }
    }
    out
}

/// Everything the backward pass of one block and head reads and writes.
struct Gradient<'a> {
    inputs: Inputs<'a>,
    heads: Heads,
    out: &'a [f32],
    grad: &'a [f32],
    dq: Strided,
    dk: Strided,
    dv: Strided,
}

impl Gradient<'_> {
    /// With weights P and scores S: dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dO * O)), dQ = dS K, dK = dS^T Q.
    fn block(&self, block: &Block, head: usize) {
        let (width, row) = (self.inputs.width, self.heads.query * self.inputs.width);
        let packed = Packed::new(self.inputs, self.heads, block, head);
        let (count, padded) = (packed.count, packed.padded);
        let values = transposed(self.inputs.values, block, (self.heads.key_value, head, width));
        let mut keys = Vec::with_capacity(count * width);
        for key in block.key_rows() {
            let start = (key * self.heads.key_value + head) * width;
            keys.extend_from_slice(&self.inputs.keys[start..start + width]);
        }
        let (mut dk, mut dv) = (vec![0.0; count * width], vec![0.0; count * width]);
        let mut ds = vec![0.0; CHUNK * padded];
        let mut dq = vec![0.0; CHUNK * width];
        packed.for_each_chunk(self.inputs, self.heads, |chunk, weights| {
            let (rows, start) = (chunk.rows.len(), chunk.rows.start * row + chunk.head * width);
            let grad = View { values: &self.grad[start..], row, column: 1 };
            let queries = View { values: &self.inputs.queries[start..], row, column: 1 };
            small_product(
                &mut ds,
                grad,
                View { values: &values, row: padded, column: 1 },
                (rows, padded, width),
                false,
            );
            for (index, query) in chunk.rows.clone().enumerate() {
                let at = query * row + chunk.head * width;
                let shared = dot(&self.grad[at..at + width], &self.out[at..at + width]);
                let line = index * padded..(index + 1) * padded;
                score_gradient(&mut ds[line.clone()], &weights[line], shared, self.heads.scale);
            }
            let scores = View { values: &ds, row: padded, column: 1 };
            small_product(&mut dq, scores, View { values: &keys, row: width, column: 1 }, (rows, width, count), false);
            for (index, query) in chunk.rows.clone().enumerate() {
                // SAFETY: this task alone has this head, and one thread runs a task.
                unsafe {
                    self.dq.write(query * row + chunk.head * width, &dq[index * width..(index + 1) * width], false)
                };
            }
            let columns = |values| View { values, row: 1, column: padded };
            small_product(&mut dv, columns(weights), grad, (count, width, rows), true);
            small_product(&mut dk, columns(&ds), queries, (count, width, rows), true);
        });
        for (index, key) in block.key_rows().enumerate() {
            let (at, line) = ((key * self.heads.key_value + head) * width, index * width..(index + 1) * width);
            // SAFETY: as for dq: the columns of this key-value head belong to this task.
            unsafe {
                self.dk.write(at, &dk[line.clone()], true);
                self.dv.write(at, &dv[line], true);
            }
        }
    }
}

wide! {
    /// Softmax of `scores[visible] * scale` in place; everything else becomes 0.
    fn softmax(scores: &mut [f32], visible: Range<usize>, scale: f32) {
        scores[..visible.start.min(visible.end)].fill(0.0);
        scores[visible.end..].fill(0.0);
        if visible.is_empty() {
            scores.fill(0.0);
            return;
        }
        let scores = &mut scores[visible];
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut chunks = scores.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, &score) in lanes.iter_mut().zip(chunk) {
                *lane = if score > *lane { score } else { *lane };
            }
        }
        let mut peak = chunks.remainder().iter().chain(&lanes).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        if peak == f32::NEG_INFINITY { peak = 0.0; }
        for score in scores.iter_mut() {
            *score = super::elementwise::exp((*score - peak) * scale);
        }
        let total = super::elementwise::sum(scores);
        let inverse = 1.0 / total;
        for score in scores.iter_mut() {
            *score *= inverse;
        }
    }
}

wide! {
    /// `ds = weights * (ds - shared) * scale`
    fn score_gradient(ds: &mut [f32], weights: &[f32], shared: f32, scale: f32) {
        for (d, &weight) in ds.iter_mut().zip(weights) {
            *d = weight * (*d - shared) * scale;
        }
    }
}

wide! {
    /// The inner product.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        super::elementwise::dot(a, b)
    }
}

#[cfg(test)]
mod tests;
