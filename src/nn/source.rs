//! What a linear layer reads: rows that exist, or rows that a norm or an activation makes from others.
//!
//! The forward pass of a model says "the product of these weights with the normed rows" once. In training the source
//! becomes a tensor on the tape; a layer with rounded weights lets it fill one row at a time instead, so that the
//! normed or activated matrix never exists in memory.

use candle_core::{Result, Tensor, bail};

use super::activation::Activation;
use super::norm::{LayerNorm, RmsNorm};
use super::op::with_values;
use crate::kernel::elementwise as kernel;

/// Rows `[rows, columns]`, made or to be made.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// As they are.
    Rows(&'a Tensor),
    /// Layer-normed.
    LayerNormed(&'a LayerNorm, &'a Tensor),
    /// Root-mean-square-normed.
    RmsNormed(&'a RmsNorm, &'a Tensor),
    /// `act(x)`
    Activated(Activation, &'a Tensor),
    /// `act(gate) * up`, then normed where there is a norm.
    Gated(Activation, [&'a Tensor; 2], Option<&'a RmsNorm>),
}

/// Writes row `index` into its place.
pub(super) type Fill<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

impl Source<'_> {
    /// All rows, on the tape.
    pub fn tensor(&self) -> Result<Tensor> {
        match *self {
            Source::Rows(x) => Ok(x.clone()),
            Source::LayerNormed(norm, x) => norm.forward(x),
            Source::RmsNormed(norm, x) => norm.forward(x),
            Source::Activated(activation, x) => activation.apply(x),
            Source::Gated(activation, [gate, up], norm) => {
                let gated = activation.gate(gate, up)?;
                norm.map_or(Ok(gated.clone()), |norm| norm.forward(&gated))
            }
        }
    }

    /// Calls `work` with the number of rows and what fills one of them. Errors unless they have `columns` columns.
    pub(crate) fn fill<R>(&self, columns: usize, work: impl FnOnce(usize, Fill<'_>) -> Result<R>) -> Result<R> {
        let base = match *self {
            Source::Rows(x) | Source::LayerNormed(_, x) | Source::RmsNormed(_, x) | Source::Activated(_, x) => x,
            Source::Gated(_, [gate, _], _) => gate,
        };
        let rows = match base.dims() {
            [rows, found] if *found == columns => *rows,
            found => bail!("linear: the input is {found:?}, expected [rows, {columns}]"),
        };
        let row = move |index: usize| index * columns..(index + 1) * columns;
        let x = base.contiguous()?;
        match *self {
            Source::Rows(_) => with_values([&x], |[x]| work(rows, &|index, out| out.copy_from_slice(&x[row(index)]))),
            Source::LayerNormed(norm, _) => norm
                .with_row(|norm_row| with_values([&x], |[x]| work(rows, &|index, out| norm_row(&x[row(index)], out)))),
            Source::RmsNormed(norm, _) => norm
                .with_row(|norm_row| with_values([&x], |[x]| work(rows, &|index, out| norm_row(&x[row(index)], out)))),
            Source::Activated(kind, _) => {
                with_values([&x], |[x]| work(rows, &|index, out| kernel::activate(kind, &x[row(index)], out)))
            }
            Source::Gated(kind, [_, up], norm) => {
                if up.dims() != x.dims() {
                    bail!("gate: {:?} and {:?} differ", x.dims(), up.dims());
                }
                with_values([&x, &up.contiguous()?], |[gate, up]| {
                    let gated = |index, out: &mut [f32]| kernel::gate(kind, &gate[row(index)], &up[row(index)], out);
                    match norm {
                        None => work(rows, &gated),
                        Some(norm) => norm.with_row_in_place(|norm_row| {
                            work(rows, &|index, out| {
                                gated(index, out);
                                norm_row(out);
                            })
                        }),
                    }
                })
            }
        }
    }
}
