//! What becomes of the exact sums of a tile and some panels: floats with scales, bias and residual, or whole numbers.
//!
//! A micro-kernel may write the floats straight from its registers (`Lines`); the plain loop here does it for those that
//! leave sums. There are only separate f32 products and additions, whose bits are the same on every width of vectors.

use std::ops::Range;

use super::lookup::Sink;
use super::micro::{LANES, Micro, Sums, TILE_ROWS, Tile, Words};
use super::packed::{Member, Weights};
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

/// What a job multiplies: some panels of one matrix of a stack, and some activation rows.
pub(super) struct Place {
    /// The matrix.
    pub member: usize,
    /// The panels, of the stack's.
    pub panels: Range<usize>,
    /// The activation rows.
    pub rows: Range<usize>,
}

/// Where a product goes.
pub(super) trait Finish: Sync {
    /// Announces the rows and panels that come next; see [`Finish::put`].
    fn expect(&self, member: usize, rows: Range<usize>, panels: Range<usize>);

    /// Takes the sums `[panels, rows]` of some activation rows with some panels, which belong to matrix `member`.
    ///
    /// # Safety
    /// No other thread hands over the same rows with the same panels meanwhile.
    unsafe fn put(&self, member: usize, rows: Range<usize>, panels: Range<usize>, sums: &[Sums]);

    /// Multiplies the panels with the tile of those rows, and takes the product.
    ///
    /// # Safety
    /// As [`Finish::put`].
    unsafe fn fill<W: Weights>(&self, micro: &dyn Micro, place: Place, panels: &[Words], tile: &Tile<'_>) {
        // SAFETY: the caller's promise.
        unsafe { self.fill_by_sums::<W>(micro, place, panels, tile) }
    }

    /// The way of [`Finish::fill`] that is always there.
    ///
    /// # Safety
    /// As [`Finish::put`].
    unsafe fn fill_by_sums<W: Weights>(&self, micro: &dyn Micro, place: Place, panels: &[Words], tile: &Tile<'_>) {
        let mut sums = [[0; LANES]; TILE_ROWS];
        let sums = &mut sums[..place.panels.len() * tile.rows()];
        W::sums(micro, panels, tile, sums);
        // SAFETY: the caller's promise.
        unsafe { self.put(place.member, place.rows, place.panels, sums) }
    }
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
        for line in rows.map(|row| cells.line(row, &columns)) {
            prefetch(cells.values.pointer(line.start), line.len());
            if let Some(residual) = residual {
                prefetch(residual[line.clone()].as_ptr(), line.len());
            }
        }
    }

    unsafe fn put(&self, member: usize, rows: Range<usize>, panels: Range<usize>, sums: &[Sums]) {
        let target = &self.targets[member];
        for (panel, sums) in panels.zip(sums.chunks_exact(rows.len())) {
            let (columns, scales) = (target.cells.columns(panel..panel + 1), &self.lane_scales[panel]);
            if columns.len() == LANES {
                // SAFETY: the caller keeps others off these rows and columns.
                unsafe { target.lines(&rows, columns.start, std::slice::from_ref(scales)) }.put(sums);
            } else {
                // SAFETY: as above.
                unsafe { target.put_part(&rows, &columns, sums, scales) };
            }
        }
    }

    unsafe fn fill<W: Weights>(&self, micro: &dyn Micro, place: Place, panels: &[Words], tile: &Tile<'_>) {
        let target = &self.targets[place.member];
        let columns = target.cells.columns(place.panels.clone());
        if columns.len().is_multiple_of(LANES) {
            // SAFETY: the caller keeps others off these rows and columns.
            let lines = unsafe { target.lines(&place.rows, columns.start, &self.lane_scales[place.panels]) };
            W::floats(micro, panels, tile, &lines);
        } else {
            // SAFETY: as above.
            unsafe { self.fill_by_sums::<W>(micro, place, panels, tile) }
        }
    }
}

impl Target<'_> {
    /// The lines of some rows and whole panels from a column on.
    ///
    /// # Safety
    /// Nobody else uses these cells while the lines live.
    #[inline(always)]
    unsafe fn lines<'b>(&'b self, rows: &Range<usize>, column: usize, scales: &'b [[f32; LANES]]) -> Lines<'b> {
        let (start, stride, width) = (rows.start * self.cells.width + column, self.cells.width, scales.len() * LANES);
        let end = start + (rows.len() - 1) * stride + width;
        assert!(column + width <= stride && end <= self.cells.values.len(), "the lines leave the output");
        Lines {
            first: self.cells.values.pointer(start),
            stride,
            scales,
            factors: &self.factors[rows.clone()],
            bias: self.bias.map(|bias| &bias[column..column + width]),
            residual: self.residual.map(|residual| &residual[start..end]),
        }
    }

    /// The end of a matrix whose rows are no multiple of the lanes.
    ///
    /// # Safety
    /// Nobody else uses these cells meanwhile.
    unsafe fn put_part(&self, rows: &Range<usize>, columns: &Range<usize>, sums: &[Sums], scales: &[f32; LANES]) {
        for (row, sums) in rows.clone().zip(sums) {
            let line = self.cells.line(row, columns);
            // SAFETY: the caller's promise.
            let out = unsafe { self.cells.values.range(line.clone()) };
            for (lane, out) in out.iter_mut().enumerate() {
                *out = sums[lane] as f32 * (scales[lane] * self.factors[row]);
            }
            for added in [self.bias.map(|bias| &bias[columns.clone()]), self.residual.map(|residual| &residual[line])] {
                out.iter_mut().zip(added.unwrap_or_default()).for_each(|(out, added)| *out += added);
            }
        }
    }
}

/// The cells of some output rows and whole panels, and what makes floats of their sums.
///
/// Who holds it may write `factors.len()` lines of `32 * scales.len()` floats, `stride` apart, the first at `first`,
/// and nobody else does.
pub struct Lines<'a> {
    pub(super) first: *mut f32,
    pub(super) stride: usize,
    /// What a unit of each lane is worth, for each panel.
    pub(super) scales: &'a [[f32; LANES]],
    /// The matrix's scale over the scale of each activation row.
    pub(super) factors: &'a [f32],
    /// One for each lane of the panels.
    pub(super) bias: Option<&'a [f32]>,
    /// Laid out as the lines are, up to the end of the last.
    pub(super) residual: Option<&'a [f32]>,
}

impl Lines<'_> {
    /// Fills the lines from their sums `[panels, rows]`.
    pub(super) fn put(&self, sums: &[Sums]) {
        for (panel, sums) in sums.chunks_exact(self.factors.len()).enumerate() {
            scale(self, panel, sums);
        }
    }
}

wide! {
    fn scale(lines: &Lines<'_>, panel: usize, sums: &[Sums]) {
        let (scales, column) = (&lines.scales[panel], panel * LANES);
        let bias: Option<&[f32; LANES]> = lines.bias.and_then(|bias| bias[column..].first_chunk());
        for (row, (sums, factor)) in sums.iter().zip(lines.factors).enumerate() {
            let start = row * lines.stride + column;
            let residual: Option<&[f32; LANES]> = lines.residual.and_then(|residual| residual[start..].first_chunk());
            // Summed in a place of its own, which no pointer can reach: so the compiler keeps it in registers.
            let mut line = [0.0; LANES];
            (0..LANES).for_each(|lane| line[lane] = sums[lane] as f32 * (scales[lane] * factor));
            for added in [bias, residual].into_iter().flatten() {
                (0..LANES).for_each(|lane| line[lane] += added[lane]);
            }
            // SAFETY: the row and the panel, which slices above have bounded, are of those that `lines` may write.
            unsafe { lines.first.add(start).cast::<[f32; LANES]>().write(line) };
        }
    }
}
