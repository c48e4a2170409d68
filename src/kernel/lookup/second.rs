//! The lookup's side of a packed stack: its codes, once a product wanted them, and when one does.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::Sink;
use super::choice::Lookup;
use super::codes::Codes;
use super::plan;
use super::product::{Fused, Part, Weights, multiply};
use crate::kernel::micro::{BLOCK, LANES, Sums, Words};
use crate::kernel::quantize::QuantizedRows;
use crate::kernel::threads;

/// The weights of a stack in the lookup's format, 2 bits a weight; nothing until a product wants it.
#[derive(Default)]
pub(in crate::kernel) struct Second(OnceLock<Codes>);

impl Second {
    /// Bytes in memory.
    pub(in crate::kernel) fn bytes(&self) -> usize {
        self.0.get().map_or(0, Codes::bytes)
    }

    /// Computes the product with ternary panels over `threads` threads, and hands its sums to the sinks that `sink`
    /// makes, one a part; does nothing and returns false where multiplication alone is wanted.
    pub(in crate::kernel) fn product<S: Sink>(
        &self,
        panels: &[Words],
        x: &QuantizedRows,
        (setting, threads): (Lookup, usize),
        sink: impl Fn() -> S + Sync + Send,
    ) -> bool {
        let Some(token) = Fused::detect().filter(|_| setting != Lookup::Never) else { return false };
        let blocks = x.cols().div_ceil(BLOCK);
        let parts = plan::parts(x.rows(), panels.len().checked_div(blocks).unwrap_or(0), blocks, threads);
        if parts.iter().any(|part| part.looked_up.is_empty()) || setting == Lookup::Auto && !wins(token) {
            return false;
        }
        let codes = self.0.get_or_init(|| Codes::new(panels, blocks));
        let weights = Weights { panels, codes, blocks };
        let cost = if threads > 1 { usize::MAX } else { 0 };
        threads::for_each(parts.len(), cost, |part| multiply(token, weights, x, &parts[part], &mut sink()));
        true
    }
}

/// Whether looking up is faster than multiplying on this machine now: tried once a process.
fn wins(token: Fused) -> bool {
    static WINS: OnceLock<bool> = OnceLock::new();
    *WINS.get_or_init(|| {
        let trial = Trial::new();
        let [mut plain, mut fused] = [Duration::MAX; 2];
        for _ in 0..TRIALS {
            plain = plain.min(trial.time(token, 0));
            fused = fused.min(trial.time(token, TRIAL_TOKENS / 2));
        }
        fused.as_secs_f64() < plain.as_secs_f64() * WORTH_SECOND_FORMAT
    })
}

/// How often each way is tried; the fastest counts, because what disturbs a trial only makes it slower.
const TRIALS: usize = 4;
/// Tokens of a trial: two blocks to look up, and as many to multiply.
const TRIAL_TOKENS: usize = 4 * LANES;
/// Rows of weights and columns of a trial.
const TRIAL_ROWS: usize = 1024;
/// The part of the time that the lookup must keep below to be worth its memory.
const WORTH_SECOND_FORMAT: f64 = 0.9;

/// A product large enough to show what a chip does, and small enough to take a millisecond.
struct Trial {
    panels: Vec<Words>,
    codes: Codes,
    x: QuantizedRows,
}

impl Trial {
    fn new() -> Trial {
        // Any bits will do but code 3; these look up all over the tables.
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state ^ state >> 15
        };
        let blocks = TRIAL_ROWS / BLOCK;
        let mut word = || {
            let bits = noise();
            bits & !(bits >> 1 & 0x5555_5555)
        };
        let panels: Vec<_> = (0..TRIAL_ROWS / LANES * blocks).map(|_| Words(std::array::from_fn(|_| word()))).collect();
        let values = (0..TRIAL_TOKENS * TRIAL_ROWS).map(|_| noise() as i8).collect();
        let x = QuantizedRows::from_values(TRIAL_ROWS, values, vec![1.0; TRIAL_TOKENS]);
        Trial { codes: Codes::new(&panels, blocks), panels, x }
    }

    /// How long the product takes when its first tokens are looked up.
    fn time(&self, token: Fused, looked_up: usize) -> Duration {
        struct Nowhere;
        impl Sink for Nowhere {
            fn expect(&mut self, _: Range<usize>, _: usize) {}

            fn put(&mut self, _: Range<usize>, _: usize, sums: &[Sums]) {
                std::hint::black_box(sums);
            }
        }
        let blocks = TRIAL_ROWS / BLOCK;
        let weights = Weights { panels: &self.panels, codes: &self.codes, blocks };
        let panels = 0..TRIAL_ROWS / LANES;
        let part = Part { looked_up: 0..looked_up, multiplied: looked_up..TRIAL_TOKENS, panels };
        let start = Instant::now();
        multiply(token, weights, &self.x, &part, &mut Nowhere);
        start.elapsed()
    }
}
