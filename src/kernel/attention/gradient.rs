//! The backward pass: the weights of 64 queries at a time, computed again from queries and keys.

use std::ops::Range;

use super::product::{View, small_product};
use super::{Block, Heads, Inputs, Plan, Strided, check};
use crate::kernel::elementwise;
use crate::kernel::{threads, wide::wide};

/// Gradients of [`forward`](super::forward) into `dq`, `dk`, `dv` (shapes of queries, keys, values), given its result and the
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

/// Queries whose scores are in memory at a time.
const CHUNK: usize = 64;

/// One block's keys of one head, transposed, rows padded to whole vectors.
struct Packed<'a> {
    block: &'a Block,
    head: usize,
    count: usize,
    padded: usize,
    /// `[width, padded]`
    keys: Vec<f32>,
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
        Self { block, head, count, padded, keys }
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
            *score = elementwise::exp((*score - peak) * scale);
        }
        let total = elementwise::sum(scores);
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
        elementwise::dot(a, b)
    }
}
