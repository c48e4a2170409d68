//! What becomes of the exact sums of a tile and a panel: floats with scales, bias and residual, or whole numbers.
//!
//! It follows each micro-kernel's call while the sums are in the nearest cache, and is plain Rust: only separate f32
//! products and additions, whose bits are the same on every width of vectors.

use std::ops::Range;

use super::micro::{LANES, Sums};
use super::packed::Member;
use super::quantize::QuantizedRows;
use super::shared::Shared;
use super::wide::wide;

/// Where the product with one matrix of a stack goes: `values[m][n] = product (+ bias[n]) (+ residual[m][n])`.
#[derive(Debug)]
pub struct Output<'a> {
    /// Row-major `[activation rows, rows of the matrix]`; what it held is lost.
    pub values: &'a mut [f32],
    /// Added to every row, `[rows of the matrix]`.
    pub bias: Option<&'a [f32]>,
    /// Added last, of the shape of `values`.
    pub residual: Option<&'a [f32]>,
}

impl<'a> Output<'a> {
    /// The product alone.
    pub fn plain(values: &'a mut [f32]) -> Output<'a> {
        Output { values, bias: None, residual: None }
    }
}

/// Takes the sums of a product.
pub(super) trait Finish: Sync {
    /// Takes the sums of some activation rows with a panel of the stack, which belongs to matrix `member`.
    ///
    /// # Safety
    /// No other thread hands over the same rows with the same panel meanwhile.
    unsafe fn put(&self, member: usize, rows: Range<usize>, panel: usize, sums: &[Sums]);
}

/// The cells of a row-major output that belong to one panel.
struct Cells<'a, T> {
    values: Shared<'a, T>,
    /// Columns of the output.
    width: usize,
    /// The stack's panel that holds column 0.
    first_panel: usize,
}

impl<'a, T> Cells<'a, T> {
    fn new(x: &QuantizedRows, member: &Member, values: &'a mut [T]) -> Cells<'a, T> {
        assert_eq!(values.len(), x.rows() * member.rows, "an output is not [{}, {}]", x.rows(), member.rows);
        Cells { values: Shared::new(values), width: member.rows, first_panel: member.panels.start }
    }

    /// The columns of the panel.
    fn columns(&self, panel: usize) -> Range<usize> {
        let first = (panel - self.first_panel) * LANES;
        first..(first + LANES).min(self.width)
    }
}

/// Sums as they are.
pub(super) struct Integers<'a>(Vec<Cells<'a, i32>>);

impl<'a> Integers<'a> {
    pub(super) fn new(x: &QuantizedRows, members: &[Member], outputs: &'a mut [&mut [i32]]) -> Integers<'a> {
        assert_eq!(outputs.len(), members.len(), "one output for each matrix of a stack");
        Integers(members.iter().zip(outputs).map(|(member, output)| Cells::new(x, member, output)).collect())
    }
}

impl Finish for Integers<'_> {
    unsafe fn put(&self, member: usize, rows: Range<usize>, panel: usize, sums: &[Sums]) {
        let cells = &self.0[member];
        let columns = cells.columns(panel);
        for (row, sums) in rows.zip(sums) {
            let start = row * cells.width + columns.start;
            // SAFETY: the caller keeps others off these rows and columns.
            let out = unsafe { cells.values.range(start..start + columns.len()) };
            out.copy_from_slice(&sums[..columns.len()]);
        }
    }
}

/// Sums times scales, with bias and residual.
pub(super) struct Floats<'a> {
    targets: Vec<Target<'a>>,
    lane_scales: &'a [[f32; LANES]],
}

struct Target<'a> {
    cells: Cells<'a, f32>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    /// The matrix's scale over the scale of each activation row.
    factors: Vec<f32>,
}

impl<'a> Floats<'a> {
    pub(super) fn new(
        x: &QuantizedRows,
        members: &[Member],
        lane_scales: &'a [[f32; LANES]],
        outputs: &'a mut [Output<'_>],
    ) -> Floats<'a> {
        assert_eq!(outputs.len(), members.len(), "one output for each matrix of a stack");
        let target = |(member, output): (&Member, &'a mut Output<'_>)| {
            let factor = |scale: &f32| (f64::from(member.scale) / f64::from(*scale)) as f32;
            assert!(output.bias.is_none_or(|bias| bias.len() == member.rows), "a bias is not [{}]", member.rows);
            assert!(
                output.residual.is_none_or(|residual| residual.len() == output.values.len()),
                "a residual is not [{}, {}]",
                x.rows(),
                member.rows
            );
            Target {
                bias: output.bias,
                residual: output.residual,
                cells: Cells::new(x, member, output.values),
                factors: x.scales().iter().map(factor).collect(),
            }
        };
        Floats { targets: members.iter().zip(outputs).map(target).collect(), lane_scales }
    }
}

impl Finish for Floats<'_> {
    unsafe fn put(&self, member: usize, rows: Range<usize>, panel: usize, sums: &[Sums]) {
        let target = &self.targets[member];
        let columns = target.cells.columns(panel);
        let factors = &target.factors[rows.clone()];
        for ((row, sums), factor) in rows.zip(sums).zip(factors) {
            let start = row * target.cells.width + columns.start;
            let cells = start..start + columns.len();
            // SAFETY: the caller keeps others off these rows and columns.
            let out = unsafe { target.cells.values.range(cells.clone()) };
            let bias = target.bias.map(|bias| &bias[columns.clone()]);
            let residual = target.residual.map(|residual| &residual[cells]);
            scale(out, sums, (&self.lane_scales[panel], *factor), (bias, residual));
        }
    }
}

wide! {
    fn scale(
        out: &mut [f32],
        sums: &Sums,
        scales: (&[f32; LANES], f32),
        added: (Option<&[f32]>, Option<&[f32]>),
    ) {
        for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales.0) {
            *out = *sum as f32 * (scale * scales.1);
        }
        for added in [added.0, added.1].into_iter().flatten() {
            for (out, added) in out.iter_mut().zip(added) {
                *out += added;
            }
        }
    }
}
