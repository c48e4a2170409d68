//! Ternary matrices at 1.6 bits a weight, five codes a byte: for single rows whose weights come from memory.
//!
//! ```text
//! weight row n = 160 g + 32 d + lane    group g, digit d = 0..4; the last group is padded
//! column     k = 4 q + i                quad q, byte i = 0..3
//! group      [quad q][lane][byte i]     code 0 + 3 code 1 + 9 code 2 + 27 code 3 + 85 code 4, of five rows
//! ```
//! A core multiplies two-bit codes faster than memory brings them; a fifth less to bring is up to a quarter more speed
//! as long as decoding keeps up (trits_avx512.rs). That holds for one row of activations and weights that no cache
//! keeps: from a cache two bits are faster. Several rows, and chips without a loop of their own, decode each group into
//! five panels of two bits and multiply those, which is the meaning of this format.
//! The codes of a byte belong to five rows and not to five columns because they then meet the same activation: sums of
//! any five combinations of the codes will do, and the byte itself is one of them.

use std::ops::Range;

use super::finish::{Finish, Floats, Integers, Output};
#[cfg(target_arch = "x86_64")]
use super::isa::Avx512Vbmi;
use super::isa::{self, Isa, IsaError};
use super::micro::{self, BLOCK, CLASSES, LANES, Micro, Quad, Sums, TILE_ROWS, Words};
use super::packed::{Member, WORTH_SPREADING};
use super::quantize::{QuantizedRows, share};
use super::ternary::{COLS_MAX, TernaryMatrix};
use super::threads;
use super::wide::wide;

/// Codes in a byte, and panels in a group.
pub(super) const DIGITS: usize = 5;

/// Weight rows in a group.
const GROUP: usize = DIGITS * LANES;

/// What a code adds to its byte, by digit. The last would do with 81; with 85 the upper six bits tell its code.
pub(super) const PLACES: [u8; DIGITS] = [1, 3, 9, 27, 85];

/// The most that the first four codes add.
pub(super) const LOWER_MAX: u8 = 2 * (PLACES[0] + PLACES[1] + PLACES[2] + PLACES[3]);

const _: () = assert!(LOWER_MAX / 4 < PLACES[4] / 4 && (PLACES[4] + LOWER_MAX) / 4 < 2 * PLACES[4] / 4);
const _: () = assert!(LOWER_MAX as u32 + 2 * PLACES[4] as u32 <= u8::MAX as u32);
// The sums of combinations wrap; what they are solved for does not, also not 16 times.
const _: () = assert!(COLS_MAX as i64 * 16 * 2 * 128 <= i32::MAX as i64);

/// Four bytes for each of 32 lanes. Two cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Trits(pub [[u8; 4]; LANES]);

/// One instruction set's loop for a single row. Implementors are proof tokens: who holds one may call it.
pub(super) trait TritRow: Send + Sync {
    /// `sums[d][n] = sum over k of sign[d][n][k] * activation[k]`, exactly; `total` is the sum of the activations.
    ///
    /// # Panics
    /// Unless the group and the activations are of one length.
    fn multiply(&self, group: &[Trits], activations: &[Quad], total: i32) -> [Sums; DIGITS];
}

fn row_for(isa: Isa) -> Option<Box<dyn TritRow>> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Avx512Vbmi::detect().map(|token| Box::new(token) as Box<dyn TritRow>),
        _ => None,
    }
}

/// A stack of ternary matrices with the same columns, 1.6 bits a weight (rows padded to 160, columns to 4).
pub struct TritMatrix {
    micro: Box<dyn Micro>,
    row: Option<Box<dyn TritRow>>,
    cols: usize,
    members: Vec<Member>,
    /// Ones: a ternary row has no scale of its own.
    lane_scales: Vec<[f32; LANES]>,
    /// `[groups, quads]`.
    groups: Vec<Trits>,
}

impl TritMatrix {
    /// Packs for the instruction set in use ([`isa::current`]).
    ///
    /// # Panics
    /// If the matrices differ in columns, or there is none.
    pub fn pack(stack: &[&TernaryMatrix]) -> TritMatrix {
        TritMatrix::pack_for(isa::current(), stack).expect("the instruction set in use is available")
    }

    /// Packs for a given instruction set; refuses one that the chip lacks.
    ///
    /// # Panics
    /// As [`TritMatrix::pack`].
    pub fn pack_for(isa: Isa, stack: &[&TernaryMatrix]) -> Result<TritMatrix, IsaError> {
        let micro = micro::for_isa(isa)?;
        let cols = stack.first().expect("a stack has a matrix").cols();
        let quads = cols.div_ceil(4);
        let (mut members, mut groups, mut panels) = (Vec::new(), Vec::new(), 0);
        for matrix in stack {
            assert_eq!(matrix.cols(), cols, "the matrices of a stack differ in columns");
            let first = groups.len();
            groups.resize(first + matrix.rows().div_ceil(GROUP) * quads, Trits([[0; 4]; LANES]));
            for row in 0..matrix.rows() {
                let group = &mut groups[first + row / GROUP * quads..][..quads];
                let (bytes, shift) = matrix.row(row);
                let (place, lane) = (PLACES[row % GROUP / LANES], row % LANES);
                for (trits, bytes) in group.iter_mut().zip(bytes.chunks(4)) {
                    for (trits, byte) in trits.0[lane].iter_mut().zip(bytes) {
                        *trits += (byte >> shift & 3) * place;
                    }
                }
            }
            let end = panels + matrix.rows().div_ceil(LANES);
            members.push(Member { rows: matrix.rows(), scale: matrix.scale, panels: panels..end });
            panels = end;
        }
        let lane_scales = vec![[1.0; LANES]; panels];
        Ok(TritMatrix { micro, row: row_for(isa), cols, members, lane_scales, groups })
    }

    /// Output rows, of all matrices together.
    pub fn rows(&self) -> usize {
        self.members.iter().map(|member| member.rows).sum()
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of weights in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.groups.as_slice())
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.micro.isa()
    }

    /// The product of [`PackedMatrix::multiply`](super::packed::PackedMatrix), with the same bits.
    ///
    /// # Panics
    /// Unless `x` has this stack's columns and there is an output `[x.rows(), its rows]` for each matrix.
    pub fn multiply(&self, x: &QuantizedRows, outputs: &mut [Output<'_>]) {
        self.run(x, &Floats::new(x, &self.members, &self.lane_scales, outputs));
    }

    /// For each matrix the exact sums `out[m][n] = sum over k of sign[n][k] * byte[m][k]`, row-major.
    ///
    /// # Panics
    /// As [`TritMatrix::multiply`].
    pub fn multiply_i32(&self, x: &QuantizedRows, outputs: &mut [&mut [i32]]) {
        self.run(x, &Integers::new(x, &self.members, outputs));
    }

    fn run(&self, x: &QuantizedRows, finish: &impl Finish) {
        assert_eq!(x.cols(), self.cols, "activations and weights differ in columns");
        let groups = self.members.iter().map(|member| member.rows.div_ceil(GROUP)).sum();
        let cost = x.rows() * self.rows() * self.cols;
        let runs = if cost >= WORTH_SPREADING { (4 * threads::available()).min(groups) } else { 1 };
        match &self.row {
            Some(row) if x.rows() == 1 => {
                let quads = quads(x.values());
                let run = |run| self.run_row(row.as_ref(), (x, &quads), share(run, runs, groups), finish);
                threads::for_each(runs, cost, run);
            }
            _ => threads::for_each(runs, cost, |run| self.run_decoded(x, share(run, runs, groups), finish)),
        }
    }

    /// Multiplies some groups with the only row of `x`.
    fn run_row(&self, row: &dyn TritRow, x: (&QuantizedRows, &[Quad]), groups: Range<usize>, finish: &impl Finish) {
        self.each_group(groups, |member, panels, group| {
            finish.expect(member, 0..1, panels.clone());
            let sums = row.multiply(group, x.1, x.0.sums()[0]);
            // SAFETY: every group belongs to one run.
            unsafe { finish.put(member, 0..1, panels.clone(), &sums[..panels.len()]) };
        });
    }

    /// Decodes some groups, each once, and multiplies them with every tile.
    fn run_decoded(&self, x: &QuantizedRows, groups: Range<usize>, finish: &impl Finish) {
        let blocks = self.cols.div_ceil(BLOCK);
        let mut codes = vec![Words([0; LANES]); DIGITS * blocks];
        let mut sums = [[0; LANES]; DIGITS * TILE_ROWS];
        self.each_group(groups, |member, panels, group| {
            decode(group, &mut codes);
            for tile in 0..x.tiles() {
                let (rows, tile) = x.tile(tile);
                let sums = &mut sums[..panels.len() * rows.len()];
                self.micro.ternary(&codes[..panels.len() * blocks], &tile, sums);
                // SAFETY: every group belongs to one run, which meets each tile once.
                unsafe { finish.put(member, rows, panels.clone(), sums) };
            }
        });
    }

    /// Calls `work(member, panels, group)` for some groups.
    fn each_group(&self, groups: Range<usize>, mut work: impl FnMut(usize, Range<usize>, &[Trits])) {
        let (quads, mut first) = (self.cols.div_ceil(4), 0);
        for (index, member) in self.members.iter().enumerate() {
            let end = first + member.rows.div_ceil(GROUP);
            for group in groups.start.max(first)..groups.end.min(end) {
                let panel = member.panels.start + (group - first) * DIGITS;
                let panels = panel..(panel + DIGITS).min(member.panels.end);
                work(index, panels, &self.groups[group * quads..][..quads]);
            }
            first = end;
        }
    }
}

/// The activations of one row, padded with zeros to whole quads.
fn quads(values: &[i8]) -> Vec<Quad> {
    let mut quads = vec![[0; 4]; values.len().div_ceil(4)];
    quads.as_flattened_mut()[..values.len()].copy_from_slice(values);
    quads
}

wide! {
    /// The five panels of two bits (micro.rs draws them) of a group, `[5, blocks]`.
    fn decode(group: &[Trits], codes: &mut [Words]) {
        codes.fill(Words([0; LANES]));
        let blocks = codes.len() / DIGITS;
        for (quad, trits) in group.iter().enumerate() {
            let mut rest = trits.0;
            for (digit, place) in PLACES.into_iter().enumerate().rev() {
                let words = &mut codes[digit * blocks + quad / CLASSES].0;
                for (rest, word) in rest.iter_mut().zip(words) {
                    let mut code = [0; 4];
                    for (rest, code) in rest.iter_mut().zip(&mut code) {
                        *code = u8::from(*rest >= place) + u8::from(*rest >= 2 * place);
                        *rest -= *code * place;
                    }
                    *word |= u32::from_le_bytes(code) << (2 * (quad % CLASSES));
                }
            }
        }
    }
}

impl std::fmt::Debug for TritMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows: Vec<_> = self.members.iter().map(|member| member.rows).collect();
        write!(f, "TritMatrix {rows:?} of {} columns for {}", self.cols, self.isa())
    }
}

#[cfg(test)]
mod tests;
