//! AVX-512: `vfmadd231ps` multiplies 16 columns an instruction, and with AVX-512 BF16 `vdpbf16ps` 16 pairs.
//!
//! A panel's cell is two vectors of weights, a tile's cell is broadcast. The loops are of fixed length, so that all sums
//! stay in registers, and add in one order whatever the height: more sums a lane would make a single row a third faster
//! in cache, but different from the same row among others.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{LANES, Loops, Pair, PanelCells, TILE_ROWS, TileLoop};

/// The f32 loops, if the chip and the operating system offer AVX-512 F.
pub(super) fn f32_loops() -> Option<Loops<f32>> {
    is_x86_feature_detected!("avx512f").then_some(Loops { name: "avx512f", tiles: single::TILES })
}

/// The bf16 loops, if the chip and the operating system offer AVX-512 F and BF16.
pub(super) fn bf16_loops() -> Option<Loops<Pair>> {
    let offered = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    offered.then_some(Loops { name: "avx512bf16", tiles: pairs::TILES })
}

/// Declares the loops over one kind of cell, with what adds the product of two vectors of cells.
macro_rules! tiles {
    ($name:ident, $Cell:ty, $features:literal, $multiply:expr) => {
        mod $name {
            use super::*;

            #[rustfmt::skip]
            pub(super) const TILES: [TileLoop<$Cell>; TILE_ROWS] = [
                tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>,
                tile::<10>, tile::<11>, tile::<12>,
            ];

            /// A tile of `ROWS` rows.
            ///
            /// # Safety
            /// The tile has `panel.len()` cells of `ROWS` rows, `sums` has `ROWS` rows; the chip has the features.
            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize>(panel: &[PanelCells<$Cell>], tile: &[$Cell], sums: &mut [[f32; LANES]]) {
                let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
                let mut cells = tile.as_ptr();
                for weights in panel {
                    // SAFETY: the tile has ROWS cells for each cell of the panel.
                    cells = unsafe { step::<ROWS>(weights, cells, &mut acc) };
                }
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    // SAFETY: a row of sums is two vectors, written without alignment.
                    unsafe {
                        _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
                        _mm512_storeu_ps(sums.as_mut_ptr().add(LANES / 2), acc[1]);
                    }
                }
            }

            /// One cell of a panel with one cell of each of `ROWS` rows; returns where the next ones are.
            ///
            /// # Safety
            /// `cells` points at `ROWS` cells.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn step<const ROWS: usize>(
                weights: &PanelCells<$Cell>,
                cells: *const $Cell,
                acc: &mut [[__m512; 2]; ROWS],
            ) -> *const $Cell {
                let vectors = weights.0.as_ptr().cast::<__m512i>();
                // SAFETY: 32 cells of 32 bits aligned to 64 bytes are two aligned vectors.
                let weights = unsafe { [_mm512_load_si512(vectors), _mm512_load_si512(vectors.add(1))] };
                for (row, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: row < ROWS, and a cell has 32 bits.
                    let x = _mm512_set1_epi32(unsafe { *cells.add(row).cast::<i32>() });
                    acc[0] = $multiply(acc[0], weights[0], x);
                    acc[1] = $multiply(acc[1], weights[1], x);
                }
                // SAFETY: at most one past the last cell.
                unsafe { cells.add(ROWS) }
            }
        }
    };
}

tiles!(single, f32, "avx512f", |sum, weights, x| _mm512_fmadd_ps(
    _mm512_castsi512_ps(weights),
    _mm512_castsi512_ps(x),
    sum
));
tiles!(pairs, Pair, "avx512f,avx512bf16", |sum, weights, x| {
    // SAFETY: 512 bits are 512 bits, whatever numbers they hold.
    let [weights, x] = unsafe { [transmute::<__m512i, __m512bh>(weights), transmute::<__m512i, __m512bh>(x)] };
    _mm512_dpbf16_ps(sum, weights, x)
});
