//! Faster than the multiplier: a core that multiplies some tokens and looks the products of others up, at once.
//!
//! `vpdpbusd` occupies two of a core's four vector pipes and leaves its load port idle. The load port can do the same
//! work in another way: four ternary weights make one of 81 sums of four activations, so a table of those sums for 32
//! tokens (16 bits each, one cache line an entry) turns 128 products into one load and one addition. Both are exact.
//!
//! ```text
//! group    4 columns (a quad of micro.rs)            code = c0 + 3 c1 + 9 c2 + 27 c3, one byte, c = sign + 1
//! table    [81 codes][32 tokens] i16                  5,184 bytes a group
//! pass     6 groups, 24 columns                       31,104 bytes of tables in a 32 KiB first-level cache
//! codes    [pass][row of weights][6 bytes]            2 bits a weight; a row's codes are read as one word
//! narrow   [row of weights][32 tokens] i16            a line a row, loaded, added to six times and stored, each pass
//! window   10 passes and more (windows.rs)            then the narrow sums join the wide ones: no sum can wrap
//! wide     [row of weights][32 tokens] i32
//! ```
//! Tokens are divided: blocks of 32 are looked up, the others are tiles of 12 for the multiplier. One loop (fused.rs)
//! advances both; neither needs to know where the other stands. What is left when the lookups are done is plain
//! multiplication. A looked-up block costs its tables (tables.rs) and two transpositions (transpose.rs) besides.

use std::cell::Cell;
use std::ops::Range;

use super::codes::Codes;
use super::fused::Place;
use super::multiplier::{Multiplier, Rows};
use super::{Sink, tables, transpose, windows};
use crate::kernel::isa::Avx512Vnni;
use crate::kernel::micro::{LANES, Quad, Words};
use crate::kernel::quantize::{QuantizedRows, share};

/// Groups of four columns whose tables are in the cache at once.
pub(super) const GROUPS: usize = 6;
/// Columns of a pass.
pub(super) const PASS_COLS: usize = 4 * GROUPS;
/// Entries of a table: the codes of four ternary weights.
pub(super) const TABLE_LINES: usize = 81;

/// Panels that are looked up before the next ones, at most: their narrow and wide sums stay in a 1 MiB cache.
const BLOCK_PANELS: usize = 96;

/// A cache line, and a vector: 32 numbers of 16 bits or 16 of 32 bits.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [i16; 32]);

pub(super) const ZERO: Line = Line([0; 32]);

/// Proof that this chip runs the fused loop.
#[derive(Clone, Copy, Debug)]
pub struct Fused(Avx512Vnni);

impl Fused {
    /// A token if the chip offers AVX-512 with VNNI, and BMI2.
    pub fn detect() -> Option<Fused> {
        let token = Avx512Vnni::detect()?;
        is_x86_feature_detected!("bmi2").then_some(Fused(token))
    }
}

/// Weights in both formats.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// `[panels, blocks]`, for the multiplier.
    pub panels: &'a [Words],
    /// The same weights for the lookup.
    pub codes: &'a Codes,
    /// Blocks of 16 columns.
    pub blocks: usize,
}

/// What one thread computes: these tokens and these panels of weights.
#[derive(Clone, Debug)]
pub struct Part {
    /// Tokens that are looked up; whole blocks of 32.
    pub looked_up: Range<usize>,
    /// Tokens that are multiplied; at least 12.
    pub multiplied: Range<usize>,
    /// Panels of 32 rows of weights.
    pub panels: Range<usize>,
}

/// Hands the exact sums of every token and panel of the part to `sink`.
///
/// # Panics
/// Unless the part lies within `x` and the weights, which have the same columns, at least one; see [`Part`].
pub fn multiply(token: Fused, weights: Weights<'_>, x: &QuantizedRows, part: &Part, sink: &mut impl Sink) {
    assert!(part.looked_up.len().is_multiple_of(LANES), "whole blocks of tokens are looked up");
    let mut scratch = SCRATCH.take();
    let mut multiplier = Multiplier::new(token.0, weights, x, part, std::mem::take(&mut scratch.cells));
    multiplier.begin(sink);
    let passes = weights.codes.passes();
    for first in part.looked_up.clone().step_by(LANES) {
        scratch.lay(x, first, passes);
        let blocks = part.panels.len().div_ceil(BLOCK_PANELS);
        for block in 0..blocks {
            let block = share(block, blocks, part.panels.len());
            let panels = part.panels.start + block.start..part.panels.start + block.end;
            scratch.narrow.resize(panels.len() * LANES, ZERO);
            scratch.wide.resize(panels.len() * LANES, [ZERO; 2]);
            for pass in 0..passes {
                let codes = weights.codes.rows(pass, panels.start * LANES..panels.end * LANES);
                scratch.pass(pass, codes, &mut multiplier, sink);
            }
            scratch.emit(first, panels, sink);
        }
    }
    scratch.cells = multiplier.finish(sink);
    SCRATCH.set(scratch);
}

thread_local! {
    /// The memory of the last product on this thread: page faults on fresh memory would cost as much as the tables.
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// The lookup's working memory, a block of 32 tokens at a time.
struct Scratch {
    /// Transposed activations of the block: two lines a quad, `passes * 6` quads.
    quads: Vec<[Line; 2]>,
    /// Of each pass, in its window.
    places: Vec<Place>,
    tables: Vec<Line>,
    narrow: Vec<Line>,
    wide: Vec<[Line; 2]>,
    /// The multiplier's tiles.
    cells: Vec<Quad>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Scratch {
    const fn new() -> Scratch {
        Scratch {
            quads: Vec::new(),
            places: Vec::new(),
            tables: Vec::new(),
            narrow: Vec::new(),
            wide: Vec::new(),
            cells: Vec::new(),
        }
    }

    /// Transposes the 32 tokens from `first` on; the columns that fill the last pass are zeros.
    fn lay(&mut self, x: &QuantizedRows, first: usize, passes: usize) {
        self.tables.resize(GROUPS * TABLE_LINES, ZERO);
        self.quads.clear();
        self.quads.resize(passes * GROUPS, [ZERO; 2]);
        let rows = std::array::from_fn(|row| &x.values()[(first + row) * x.cols()..][..x.cols()]);
        // SAFETY: the caller holds a Fused token, so detection saw avx512f, bw and vnni.
        unsafe {
            transpose::lay_quads(&rows, &mut self.quads);
            windows::places(&self.quads, &mut self.places);
        }
    }

    /// Adds the 24 columns of a pass to the sums of some panels, while the multiplier goes on with its tiles.
    fn pass(&mut self, pass: usize, codes: &[u8], multiplier: &mut Multiplier<'_>, sink: &mut impl Sink) {
        let tables: &mut [Line; GROUPS * TABLE_LINES] =
            self.tables.as_mut_slice().try_into().expect("lay() makes room for six tables");
        // SAFETY: the caller holds a Fused token, so detection saw avx512f and avx512bw.
        unsafe { tables::build(&self.quads.as_chunks().0[pass], tables) };
        let rows = Rows { codes, narrow: &mut self.narrow, wide: &mut self.wide };
        multiplier.advance(self.places[pass], tables, rows, sink);
    }

    /// Hands over the wide sums of 32 tokens.
    fn emit(&self, first: usize, panels: Range<usize>, sink: &mut impl Sink) {
        let tokens = first..first + LANES;
        let mut sums = [[0; LANES]; LANES];
        sink.expect(tokens.clone(), panels.start);
        for (panel, wide) in panels.clone().zip(self.wide.as_chunks::<LANES>().0) {
            if panel + 1 < panels.end {
                sink.expect(tokens.clone(), panel + 1);
            }
            // SAFETY: the caller holds a Fused token, so detection saw avx512f.
            unsafe { transpose::turn_sums(wide, &mut sums) };
            sink.put(tokens.clone(), panel, &sums);
        }
    }
}
