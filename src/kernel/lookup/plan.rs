//! Who computes what: parts for the threads, and in each part the tokens that are looked up.
//!
//! Both formats give the same sums, so a plan can only be slow. Its rates were measured on a Zen 4 core (docs/KERNELS.md);
//! they are ratios of instruction counts more than of clocks.

use super::product::Part;
use super::{codes, fused};
use crate::kernel::micro::{LANES, TILE_ROWS};
use crate::kernel::quantize::share;

/// Cycles of a unit of the fused loop: a block of a tile and eight rows of a pass.
const FUSED_CYCLES: usize = 101;
/// Cycles of a block of a tile of 12 rows that is multiplied alone.
const PLAIN_CYCLES: usize = 98;
/// Cycles of the six tables of a pass.
const TABLES_CYCLES: usize = 960;
/// Cycles to transpose 16 columns of 32 tokens.
const LAY_CYCLES: usize = 160;
/// Cycles to transpose the sums of a panel and 32 tokens.
const TURN_CYCLES: usize = 440;

/// Fewer tokens than these are not divided further: the division of a part is in blocks of 32.
const PART_TOKENS: usize = 128;
/// Fewer panels than these would pay for their tables with too few rows.
const PART_PANELS: usize = 16;

/// Cuts a product into parts for some threads.
pub(super) fn parts(tokens: usize, panels: usize, blocks: usize, threads: usize) -> Vec<Part> {
    // Two parts a thread even out what else the machine does; a single thread wants a single part.
    let wanted = if threads > 1 { 2 * threads } else { 1 };
    let by_tokens = (tokens / PART_TOKENS).clamp(1, wanted);
    let by_panels = if by_tokens < threads { threads.div_ceil(by_tokens).min(panels / PART_PANELS).max(1) } else { 1 };
    let part = |index: usize| {
        let tokens = share(index / by_panels, by_tokens, tokens);
        let panels = share(index % by_panels, by_panels, panels);
        let middle = tokens.start + LANES * blocks_looked_up(tokens.len(), panels.len(), blocks);
        Part { looked_up: tokens.start..middle, multiplied: middle..tokens.end, panels }
    };
    (0..by_tokens * by_panels).map(part).collect()
}

/// How many blocks of 32 tokens are looked up: as many as take the least time.
fn blocks_looked_up(tokens: usize, panels: usize, blocks: usize) -> usize {
    let most = if blocks > 0 { tokens.saturating_sub(TILE_ROWS) / LANES } else { 0 };
    (0..=most).min_by_key(|count| cycles(tokens, *count, panels, blocks)).unwrap_or(0)
}

/// About how long a part takes whose first `count` blocks of tokens are looked up.
fn cycles(tokens: usize, count: usize, panels: usize, blocks: usize) -> usize {
    let passes = codes::passes(blocks);
    let units = count * passes * panels * LANES / fused::UNIT_ROWS;
    let tiles = (tokens - count * LANES) / TILE_ROWS * panels * blocks;
    let rest = (tokens - count * LANES) % TILE_ROWS * panels * blocks;
    let besides = count * (passes * TABLES_CYCLES + blocks * LAY_CYCLES + panels * TURN_CYCLES);
    units * FUSED_CYCLES + besides + tiles.saturating_sub(units) * PLAIN_CYCLES + rest * PLAIN_CYCLES / TILE_ROWS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_product_once() {
        for (tokens, panels, blocks) in [(1, 1, 1), (44, 7, 2), (64, 64, 128), (288, 96, 128), (2112, 512, 128)] {
            for threads in [1, 2, 3, 8, 64] {
                let parts = parts(tokens, panels, blocks, threads);
                let area = |part: &Part| (part.looked_up.len() + part.multiplied.len()) * part.panels.len();
                assert_eq!(parts.iter().map(area).sum::<usize>(), tokens * panels);
                for part in &parts {
                    assert!(part.looked_up.len().is_multiple_of(LANES) && part.looked_up.end == part.multiplied.start);
                    assert!(part.looked_up.is_empty() || part.multiplied.len() >= TILE_ROWS);
                }
                let mut corners: Vec<_> = parts.iter().map(|part| (part.looked_up.start, part.panels.start)).collect();
                corners.dedup();
                assert_eq!(corners.len(), parts.len(), "no part is there twice");
            }
        }
    }

    #[test]
    fn about_half_of_many_tokens_are_looked_up_and_none_of_few() {
        assert_eq!(blocks_looked_up(43, 64, 128), 0);
        assert_eq!(blocks_looked_up(64, 64, 128), 1);
        for tokens in [256, 512, 1088, 2112] {
            let share = (LANES * blocks_looked_up(tokens, 64, 128)) as f64 / tokens as f64;
            assert!((0.4..0.6).contains(&share), "{share} of {tokens}");
        }
        assert_eq!(blocks_looked_up(1000, 64, 0), 0);
    }

    #[test]
    fn threads_share_tokens_first_and_panels_of_few_tokens() {
        let shape = |tokens, threads| {
            let parts = parts(tokens, 64, 128, threads);
            (parts.len(), parts.iter().all(|part| part.panels.len() == 64))
        };
        assert_eq!(shape(2112, 1), (1, true));
        assert_eq!(shape(2112, 2), (4, true));
        assert_eq!(shape(200, 2), (2, false));
    }
}
