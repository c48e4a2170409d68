//! The same sums in plain Rust, compiled for AVX2 and for the baseline of the build (NEON, where that is ARM): a bf16
//! is the upper half of an f32, so a shift and a mask widen a pair, and multiply-adds in f32 do the rest.

use super::{Cell, LANES, Loops, PanelCells, TILE_ROWS};
#[cfg(target_arch = "x86_64")]
use crate::kernel::wide::{Width, width};

/// Lanes whose sums stay in registers together.
const GROUP: usize = 16;

/// Rows whose sums stay in registers together.
const ROWS: usize = 4;

/// The fastest loops of this chip without AVX-512.
pub(super) fn best<C: Cell>() -> Loops<C> {
    #[cfg(target_arch = "x86_64")]
    if width() != Width::Baseline {
        return Loops { name: "avx2", tiles: [avx2; TILE_ROWS] };
    }
    baseline_loops()
}

/// The loops that every chip runs.
pub(super) fn baseline_loops<C: Cell>() -> Loops<C> {
    Loops { name: "baseline", tiles: [baseline; TILE_ROWS] }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<C: Cell>(panel: &[PanelCells<C>], tile: &[C], sums: &mut [[f32; LANES]]) {
    walk::<C, true>(panel, tile, sums);
}

fn baseline<C: Cell>(panel: &[PanelCells<C>], tile: &[C], sums: &mut [[f32; LANES]]) {
    // Without the instruction, a fused multiply-add is a call.
    walk::<C, { cfg!(target_arch = "aarch64") }>(panel, tile, sums);
}

/// Goes through a tile four rows at a time, the last ones singly.
#[inline(always)]
fn walk<C: Cell, const FUSED: bool>(panel: &[PanelCells<C>], tile: &[C], sums: &mut [[f32; LANES]]) {
    let height = sums.len();
    let (fours, ones) = sums.as_chunks_mut::<ROWS>();
    let whole = fours.len() * ROWS;
    for (index, sums) in fours.iter_mut().enumerate() {
        group::<C, ROWS, FUSED>(panel, tile, (index * ROWS, height), sums);
    }
    for (index, sums) in ones.iter_mut().enumerate() {
        group::<C, 1, FUSED>(panel, tile, (whole + index, height), std::array::from_mut(sums));
    }
}

/// `N` rows from `first` on, of a tile with `height`.
#[inline(always)]
fn group<C: Cell, const N: usize, const FUSED: bool>(
    panel: &[PanelCells<C>],
    tile: &[C],
    (first, height): (usize, usize),
    sums: &mut [[f32; LANES]; N],
) {
    for lanes in (0..LANES).step_by(GROUP) {
        let mut acc = [[0.0f32; GROUP]; N];
        for (weights, cells) in panel.iter().zip(tile.chunks_exact(height)) {
            let weights: &[C; GROUP] = weights.0[lanes..][..GROUP].try_into().expect("a group of lanes");
            let cells: &[C; N] = cells[first..][..N].try_into().expect("a group of rows");
            for column in 0..C::COLUMNS {
                for (acc, cell) in acc.iter_mut().zip(cells) {
                    let x = cell.column(column);
                    for (acc, weight) in acc.iter_mut().zip(weights) {
                        let weight = weight.column(column);
                        *acc = if FUSED { weight.mul_add(x, *acc) } else { weight * x + *acc };
                    }
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(&acc) {
            sums[lanes..][..GROUP].copy_from_slice(acc);
        }
    }
}
