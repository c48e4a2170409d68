//! Moving rows about: gathering them from a table, averaging groups of them, putting matrices below each other.

use std::ops::Range;

use candle_core::{Result, Shape, Tensor, bail};

use super::op::{Gradients, Operation, apply1};
use crate::kernel::elementwise::{add_scaled_to, add_to};

/// Rows `ids` of `table` (`[rows, dim]`), as `[ids, dim]`. A row may be taken several times. Errors beyond the table.
pub fn gather(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (rows, dim) = table.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        bail!("gather: row {id} of a table with {rows} rows");
    }
    apply1(Gather { ids: ids.to_vec(), dim }, table)
}

struct Gather {
    ids: Vec<u32>,
    dim: usize,
}

impl Operation<1> for Gather {
    const NAME: &'static str = "gather";

    fn shape(&self, _: [&Shape; 1]) -> Result<Shape> {
        Ok(Shape::from((self.ids.len(), self.dim)))
    }

    fn forward(&self, [table]: [&[f32]; 1], out: &mut [f32]) {
        for (&id, row) in self.ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            row.copy_from_slice(&table[id as usize * self.dim..][..self.dim]);
        }
    }

    fn backward(&self, [table]: [&[f32]; 1], _: &[f32], grad: &[f32]) -> Gradients<1> {
        let mut d = vec![0.0; table.len()];
        for (&id, row) in self.ids.iter().zip(grad.chunks_exact(self.dim)) {
            add_to(&mut d[id as usize * self.dim..][..self.dim], row);
        }
        [Some(d)]
    }
}

/// The mean row of each group (a union of runs of rows of `x`, `[rows, dim]`) as `[groups, dim]`; an empty group
/// gives 0. Errors beyond `x`.
pub fn mean(x: &Tensor, groups: &[Vec<Range<usize>>]) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if let Some(run) = groups.iter().flatten().find(|run| run.end > rows) {
        bail!("mean: rows {run:?} of a matrix with {rows} rows");
    }
    apply1(Mean { groups: groups.to_vec(), dim }, x)
}

struct Mean {
    groups: Vec<Vec<Range<usize>>>,
    dim: usize,
}

impl Mean {
    /// Each group's number, share of a row, and rows.
    fn shares(&self) -> impl Iterator<Item = (usize, f32, usize)> + '_ {
        self.groups.iter().enumerate().flat_map(|(group, runs)| {
            let count: usize = runs.iter().map(ExactSizeIterator::len).sum();
            runs.iter().flat_map(Clone::clone).map(move |row| (group, 1.0 / count as f32, row))
        })
    }
}

impl Operation<1> for Mean {
    const NAME: &'static str = "mean_rows";

    fn shape(&self, _: [&Shape; 1]) -> Result<Shape> {
        Ok(Shape::from((self.groups.len(), self.dim)))
    }

    fn forward(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        for (group, share, row) in self.shares() {
            add_scaled_to(&mut out[group * self.dim..][..self.dim], share, &x[row * self.dim..][..self.dim]);
        }
    }

    fn backward(&self, [x]: [&[f32]; 1], _: &[f32], grad: &[f32]) -> Gradients<1> {
        let mut dx = vec![0.0; x.len()];
        for (group, share, row) in self.shares() {
            add_scaled_to(&mut dx[row * self.dim..][..self.dim], share, &grad[group * self.dim..][..self.dim]);
        }
        [Some(dx)]
    }
}

/// Matrices of one width below each other.
pub fn concat(parts: &[&Tensor]) -> Result<Tensor> {
    Tensor::cat(parts, 0)
}
