//! What becomes of the exact sums of a tile and some panels: floats with scales, bias and residual, or whole numbers.
//!
//! It follows each micro-kernel's call while the sums are in the nearest cache, and is plain Rust: only separate f32
//! products and additions, whose bits are the same on every width of vectors. The lines that it will write are asked
//! for before the micro-kernel's call, which is long enough to hide the memory.

use std::ops::Range;

use super::lookup::Sink;
use super::micro::{LANES, Sums};
use super::packed::Member;
use super::quantize::QuantizedRows;
use super::shared::{Shared, prefetch};
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
    /// Announces the rows and panels that come next; see [`Finish::put`].
    fn expect(&self, member: usize, rows: Range<usize>, panels: Range<usize>);

    /// Takes the sums `[panels, rows]` of some activation rows with some panels, which belong to matrix `member`.
    ///
    /// # Safety
    /// No other thread hands over the same rows with the same panels meanwhile.
    unsafe fn put(&self, member: usize, rows: Range<usize>, panels: Range<usize>, sums: &[Sums]);
}

/// Takes the sums of one part of a product from the lookup, which knows panels but not their matrices.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Members<'a, F> {
    members: &'a [Member],
    finish: &'a F,
}

impl<'a, F: Finish> Members<'a, F> {
    /// The sink of one part.
    ///
    /// # Safety
    /// No other thread hands over the same rows with the same panels while this one lives.
    pub(super) unsafe fn new(members: &'a [Member], finish: &'a F) -> Members<'a, F> {
        Members { members, finish }
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    fn member(&self, panel: usize) -> usize {
        let member = self.members.iter().position(|member| member.panels.contains(&panel));
        member.expect("every panel belongs to a matrix")
    }
}

impl<F: Finish> Sink for Members<'_, F> {
    fn expect(&mut self, tokens: Range<usize>, panel: usize) {
        self.finish.expect(self.member(panel), tokens, panel..panel + 1);
    }

    fn put(&mut self, tokens: Range<usize>, panel: usize, sums: &[Sums]) {
        // SAFETY: new()'s caller keeps others off these rows and panels.
        unsafe { self.finish.put(self.member(panel), tokens, panel..panel + 1, sums) }
    }
}

/// A row-major output, filled panel by panel.
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

    /// The columns of some panels.
    #[inline(always)]
    fn columns(&self, panels: Range<usize>) -> Range<usize> {
        (panels.start - self.first_panel) * LANES..((panels.end - self.first_panel) * LANES).min(self.width)
    }

    /// Some columns of a row.
    #[inline(always)]
    fn line(&self, row: usize, columns: &Range<usize>) -> Range<usize> {
        row * self.width + columns.start..row * self.width + columns.end
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
    fn expect(&self, _: usize, _: Range<usize>, _: Range<usize>) {}

    unsafe fn put(&self, member: usize, rows: Range<usize>, panels: Range<usize>, sums: &[Sums]) {
        let cells = &self.0[member];
        for (panel, sums) in panels.zip(sums.chunks_exact(rows.len())) {
            let columns = cells.columns(panel..panel + 1);
            for (row, sums) in rows.clone().zip(sums) {
                // SAFETY: the caller keeps others off these rows and columns.
                let out = unsafe { cells.values.range(cells.line(row, &columns)) };
                out.copy_from_slice(&sums[..columns.len()]);
            }
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
            let cells = x.rows() * member.rows;
            assert!(output.bias.is_none_or(|bias| bias.len() == member.rows), "a bias is not [{}]", member.rows);
            assert!(output.residual.is_none_or(|residual| residual.len() == cells), "a residual is not [{cells}]");
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
    fn expect(&self, member: usize, rows: Range<usize>, panels: Range<usize>) {
        let Target { cells, residual, .. } = &self.targets[member];
        let columns = cells.columns(panels);
        for row in rows {
            let line = cells.line(row, &columns);
            prefetch(cells.values.pointer(&line), line.len());
            if let Some(residual) = residual {
                prefetch(residual[line.clone()].as_ptr(), line.len());
            }
        }
    }

    unsafe fn put(&self, member: usize, rows: Range<usize>, panels: Range<usize>, sums: &[Sums]) {
        scale(&self.targets[member], &self.lane_scales[panels.clone()], (rows, panels), sums);
    }
}

wide! {
    /// Only for [`Floats::put`], whose promise it passes on.
    fn scale(
        target: &Target<'_>,
        lane_scales: &[[f32; LANES]],
        place: (Range<usize>, Range<usize>),
        sums: &[Sums],
    ) {
        let (rows, panels) = place;
        let factors = &target.factors[rows.clone()];
        for ((panel, scales), sums) in panels.zip(lane_scales).zip(sums.chunks_exact(factors.len())) {
            let columns = target.cells.columns(panel..panel + 1);
            let bias = target.bias.map(|bias| &bias[columns.clone()]);
            for ((row, sums), factor) in rows.clone().zip(sums).zip(factors) {
                let line = target.cells.line(row, &columns);
                let residual = target.residual.map(|residual| &residual[line.clone()]);
                // SAFETY: the caller of put keeps others off these rows and columns.
                let out = unsafe { target.cells.values.range(line) };
                // A whole line has a length that the compiler knows.
                match <&mut [f32; LANES]>::try_from(&mut *out) {
                    Ok(out) => scale_line(out, sums, (scales, *factor), [bias, residual]),
                    Err(_) => scale_line(out, sums, (scales, *factor), [bias, residual]),
                }
            }
        }
    }
}

#[inline(always)]
fn scale_line(out: &mut [f32], sums: &Sums, scales: (&[f32; LANES], f32), added: [Option<&[f32]>; 2]) {
    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales.0) {
        *out = *sum as f32 * (scale * scales.1);
    }
    for added in added.into_iter().flatten() {
        let added = &added[..out.len()];
        for (out, added) in out.iter_mut().zip(added) {
            *out += added;
        }
    }
}
