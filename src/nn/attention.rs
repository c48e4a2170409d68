//! Attention as a differentiable layer over a ragged batch.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};

use super::op::{Gradients, Operation, apply3};
use crate::kernel::attention as kernel;
pub use crate::kernel::attention::{Block, Heads, Mask, Plan, Products};

/// `softmax(q k^T * scale) v` for each head over what `plan` lets each query see.
///
/// `q` is `[query rows, heads.query * width]`, `k` and `v` are `[key rows, heads.key_value * width]`; the result has
/// the shape of `q`. Rows that see no key are 0. Errors when shapes and plan do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, plan: &Arc<Plan>) -> Result<Tensor> {
    attention_in(Products::F32, [q, k, v], heads, plan)
}

/// [`attention`] of `[q, k, v]` with the products of its forward pass in `products`; the backward pass is f32.
pub fn attention_in(products: Products, [q, k, v]: [&Tensor; 3], heads: Heads, plan: &Arc<Plan>) -> Result<Tensor> {
    let width = q.dims2()?.1 / heads.query.max(1);
    apply3(Attend { products, heads, width, plan: plan.clone() }, [q, k, v])
}

struct Attend {
    products: Products,
    heads: Heads,
    width: usize,
    plan: Arc<Plan>,
}

impl Attend {
    fn inputs<'a>(&self, [queries, keys, values]: [&'a [f32]; 3]) -> kernel::Inputs<'a> {
        kernel::Inputs { queries, keys, values, width: self.width }
    }
}

impl Operation<3> for Attend {
    const NAME: &'static str = "attention";

    fn shape(&self, [q, k, v]: [&Shape; 3]) -> Result<Shape> {
        let (query_rows, key_rows) = (q.dims2()?.0, k.dims2()?.0);
        let (row, key_row) = (self.width * self.heads.query, self.width * self.heads.key_value);
        if k != v || self.width == 0 || q.dims() != [query_rows, row] || k.dims() != [key_rows, key_row] {
            bail!("attention: queries {q:?}, keys {k:?} and values {v:?} do not fit {:?}", self.heads);
        }
        for block in &self.plan.blocks {
            let end = block.keys.iter().map(|keys| keys.end).max().unwrap_or(0);
            if block.queries.end > query_rows || end > key_rows {
                bail!("attention: {block:?} reaches beyond {query_rows} query rows or {key_rows} key rows");
            }
        }
        Ok(q.clone())
    }

    fn forward(&self, inputs: [&[f32]; 3], out: &mut [f32]) {
        kernel::forward(self.inputs(inputs), self.heads, &self.plan, self.products, out);
    }

    fn backward(&self, inputs: [&[f32]; 3], out: &[f32], grad: &[f32]) -> Gradients<3> {
        let [mut dq, mut dk, mut dv] = inputs.map(|values| vec![0.0; values.len()]);
        let targets = (&mut dq[..], &mut dk[..], &mut dv[..]);
        kernel::backward(self.inputs(inputs), (self.heads, &self.plan), (out, grad), targets);
        [Some(dq), Some(dk), Some(dv)]
    }
}
