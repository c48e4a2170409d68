//! Ternary matrices at 1.6 bits a weight, five codes a byte: for single rows whose weights come from memory.
//!
//! ```text
//! column k = 20 w + 4 d + i           word w, digit d = 0..4, byte i = 0..3; the last word is padded
//! panel [word w][lane n][byte i]      code 0 + 3 code 1 + 9 code 2 + 27 code 3 + 84 code 4, the codes of the digits
//! ```
//! A core multiplies two-bit codes faster than memory brings them; a fifth less to bring is up to a quarter more speed
//! as long as decoding keeps up (trits_avx512.rs). That holds for one row of activations and weights that no cache
//! keeps: from a cache two bits are faster. Several rows, and chips without a loop of their own, decode each panel into
//! two bits and multiply that, which is the meaning of this format.

use std::ops::Range;

use super::finish::{Finish, Floats, Integers, Output};
#[cfg(target_arch = "x86_64")]
use super::isa::Avx512Vbmi;
use super::isa::{self, Isa, IsaError};
use super::micro::{self, BLOCK, CLASSES, LANES, Micro, Sums, TILE_ROWS, Words};
use super::packed::{Member, WORTH_SPREADING};
use super::quantize::{QuantizedRows, share};
use super::ternary::{COLS_MAX, TernaryMatrix};
use super::threads;
use super::wide::wide;

/// Codes in a byte.
pub(super) const DIGITS: usize = 5;

/// Columns in a word.
pub(super) const COLUMNS: usize = 4 * DIGITS;

/// What a code adds to its byte, by digit. The last would do with 81; with 84 the upper six bits tell its code.
pub(super) const PLACES: [u8; DIGITS] = [1, 3, 9, 27, 84];

/// The most that the first four codes add.
pub(super) const LOWER_MAX: u8 = 2 * (PLACES[0] + PLACES[1] + PLACES[2] + PLACES[3]);

const _: () = assert!(LOWER_MAX < PLACES[4] && PLACES[4].is_multiple_of(4));
const _: () = assert!(LOWER_MAX as u32 + 2 * PLACES[4] as u32 <= u8::MAX as u32);
// The last digit's products are summed with their place.
const _: () = assert!(COLS_MAX.div_ceil(COLUMNS) as i64 * 4 * 2 * PLACES[4] as i64 * 128 <= i32::MAX as i64);

/// Four bytes for each of a panel's 32 weight rows. Two cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Trits(pub [[u8; 4]; LANES]);

/// The activations that meet one word of a panel, by digit.
pub(super) type Quads = [[i8; 4]; DIGITS];

/// One instruction set's loop for a single row. Implementors are proof tokens: who holds one may call it.
pub(super) trait TritRow: Send + Sync {
    /// `sums[n] = sum over k of sign[n][k] * activation[k]`, exactly; `total` is the sum of the activations.
    ///
    /// # Panics
    /// Unless the panel and the activations are of one length.
    fn multiply(&self, panel: &[Trits], activations: &[Quads], total: i32) -> Sums;
}

fn row_for(isa: Isa) -> Option<Box<dyn TritRow>> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Avx512Vbmi::detect().map(|token| Box::new(token) as Box<dyn TritRow>),
        _ => None,
    }
}

/// A stack of ternary matrices with the same columns, 1.6 bits a weight (rows padded to 32, columns to 20).
pub struct TritMatrix {
    micro: Box<dyn Micro>,
    row: Option<Box<dyn TritRow>>,
    cols: usize,
    members: Vec<Member>,
    /// Ones: a ternary row has no scale of its own.
    lane_scales: Vec<[f32; LANES]>,
    /// `[panels, words]`.
    panels: Vec<Trits>,
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
        let words = cols.div_ceil(COLUMNS);
        let (mut members, mut panels, mut count) = (Vec::new(), Vec::new(), 0);
        for matrix in stack {
            assert_eq!(matrix.cols(), cols, "the matrices of a stack differ in columns");
            let first = count;
            count += matrix.rows().div_ceil(LANES);
            panels.resize(count * words, Trits([[0; 4]; LANES]));
            for row in 0..matrix.rows() {
                let panel = &mut panels[(first + row / LANES) * words..][..words];
                let (bytes, shift) = matrix.row(row);
                for (trits, bytes) in panel.iter_mut().zip(bytes.chunks(COLUMNS)) {
                    trits.0[row % LANES] = encoded(bytes, shift);
                }
            }
            members.push(Member { rows: matrix.rows(), scale: matrix.scale, panels: first..count });
        }
        let lane_scales = vec![[1.0; LANES]; count];
        Ok(TritMatrix { micro, row: row_for(isa), cols, members, lane_scales, panels })
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
        size_of_val(self.panels.as_slice())
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
        let (panels, cost) = (self.lane_scales.len(), x.rows() * self.rows() * self.cols);
        let runs = if cost >= WORTH_SPREADING { (4 * threads::available()).min(panels) } else { 1 };
        match &self.row {
            Some(row) if x.rows() == 1 => {
                let quads = quads(x.values());
                threads::for_each(runs, cost, |run| {
                    self.run_row(row.as_ref(), (x, &quads), share(run, runs, panels), finish)
                });
            }
            _ => threads::for_each(runs, cost, |run| self.run_decoded(x, share(run, runs, panels), finish)),
        }
    }

    /// Multiplies some panels with the only row, some at a time, as they lie in memory.
    fn run_row(
        &self,
        row: &dyn TritRow,
        (x, quads): (&QuantizedRows, &[Quads]),
        panels: Range<usize>,
        finish: &impl Finish,
    ) {
        let mut sums = [[0; LANES]; TILE_ROWS];
        for (member, panels) in self.by_member(panels) {
            for first in panels.clone().step_by(TILE_ROWS) {
                let panels = first..(first + TILE_ROWS).min(panels.end);
                finish.expect(member, 0..1, panels.clone());
                let sums = &mut sums[..panels.len()];
                for (sums, panel) in sums.iter_mut().zip(panels.clone()) {
                    *sums = row.multiply(self.panel(panel), quads, x.sums()[0]);
                }
                // SAFETY: every panel belongs to one run.
                unsafe { finish.put(member, 0..1, panels, sums) };
            }
        }
    }

    /// Decodes some panels, each once, and multiplies them with every tile.
    fn run_decoded(&self, x: &QuantizedRows, panels: Range<usize>, finish: &impl Finish) {
        let mut codes = vec![Words([0; LANES]); self.cols.div_ceil(COLUMNS) * DIGITS.div_ceil(CLASSES)];
        let mut sums = [[0; LANES]; TILE_ROWS];
        for (member, panels) in self.by_member(panels) {
            for panel in panels {
                decode(self.panel(panel), &mut codes);
                for tile in 0..x.tiles() {
                    let (rows, tile) = x.tile(tile);
                    let sums = &mut sums[..rows.len()];
                    self.micro.ternary(&codes[..self.cols.div_ceil(BLOCK)], &tile, sums);
                    // SAFETY: every panel belongs to one run, which meets each tile once.
                    unsafe { finish.put(member, rows, panel..panel + 1, sums) };
                }
            }
        }
    }

    /// A run of panels, cut where a matrix ends.
    fn by_member(&self, panels: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let part = move |member: &Member| panels.start.max(member.panels.start)..panels.end.min(member.panels.end);
        self.members.iter().map(part).enumerate()
    }

    fn panel(&self, panel: usize) -> &[Trits] {
        let words = self.cols.div_ceil(COLUMNS);
        &self.panels[panel * words..][..words]
    }
}

/// Up to 20 codes of one row, which are each byte's two bits at `shift`.
fn encoded(bytes: &[u8], shift: u32) -> [u8; 4] {
    let mut trits = [0; 4];
    for (quad, place) in bytes.chunks(4).zip(PLACES) {
        for (trits, byte) in trits.iter_mut().zip(quad) {
            *trits += (byte >> shift & 3) * place;
        }
    }
    trits
}

/// The activations of one row, padded with zeros to whole words.
fn quads(values: &[i8]) -> Vec<Quads> {
    let mut quads = vec![[[0; 4]; DIGITS]; values.len().div_ceil(COLUMNS)];
    quads.as_flattened_mut().as_flattened_mut()[..values.len()].copy_from_slice(values);
    quads
}

wide! {
    /// The two-bit panel (micro.rs draws it) of one at 1.6 bits; what follows its last block is padding.
    fn decode(trits: &[Trits], codes: &mut [Words]) {
        codes.fill(Words([0; LANES]));
        for (word, trits) in trits.iter().enumerate() {
            let mut rest = trits.0;
            for (digit, place) in PLACES.into_iter().enumerate().rev() {
                let quad = word * DIGITS + digit;
                for (rest, codes) in rest.iter_mut().zip(&mut codes[quad / CLASSES].0) {
                    let mut code = [0; 4];
                    for (rest, code) in rest.iter_mut().zip(&mut code) {
                        *code = u8::from(*rest >= place) + u8::from(*rest >= 2 * place);
                        *rest -= *code * place;
                    }
                    *codes |= u32::from_le_bytes(code) << (2 * (quad % CLASSES));
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
