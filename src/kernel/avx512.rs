//! AVX-512 with VNNI: `vpdpbusd` multiplies 64 byte pairs an instruction, straight from two-bit codes.
//!
//! The codes are the unsigned factor and the activations the signed one. A panel block is two vectors (lanes 0..16 and
//! 16..32), a quad is broadcast to all lanes, and the class's mask is the only unpacking (micro.rs draws the layout).
//! A tile of many rows is summed class after class in one set of registers; a single row, which would leave the
//! multiplier waiting on two sums, keeps a sum for every class instead and reads the panel once. The loops are plain
//! and of fixed length: closures (`array::map`) and run-time lengths push the sums out of their registers, which
//! halved the speed.

use std::arch::x86_64::*;

use super::isa::{Avx512Vnni, Isa};
use super::micro::{CLASSES, LANES, Micro, PanelBlock, Quad, RowScale, Tile, TileLoop, activation_scale, check, fixed};
use super::scalar::MAGNITUDE;

/// 24 sums, 2 vectors of codes and a mask fit the 32 registers.
const TILE_ROWS: usize = 12;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 16;

/// The loop for a tile of 1, 2, .. 12 rows.
const TILES: [TileLoop; TILE_ROWS] = [
    row, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>, tile::<10>,
    tile::<11>, tile::<12>,
];

impl Micro for Avx512Vnni {
    fn isa(&self) -> Isa {
        Isa::Avx512Vnni
    }

    fn tile_rows_max(&self) -> usize {
        TILE_ROWS
    }

    fn multiply(&self, panel: &[PanelBlock], tile: Tile<'_>, sums: &mut [[i32; LANES]]) {
        check(panel, &tile, sums, TILE_ROWS);
        // SAFETY: self exists, so detection saw avx512f, bw, vl and vnni; check() established that the tile has
        // panel.len() blocks of sums.len() rows, the row count by which the loop is chosen.
        unsafe { TILES[sums.len() - 1](panel, &tile, sums) }
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw avx512f; the lengths are equal.
        unsafe { quantize(x, values) }
    }
}

/// A tile of `ROWS` rows.
///
/// # Safety
/// The tile has `ROWS` rows of `panel.len()` blocks, and `sums` has `ROWS` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile<const ROWS: usize>(panel: &[PanelBlock], tile: &Tile<'_>, sums: &mut [[i32; LANES]]) {
    // The first class adds 64 times the codes, so the ones that the codes are too large by weigh 64 as well.
    let mut acc = [[_mm512_setzero_si512(); 2]; ROWS];
    let (row_sums, sums) = fixed::<ROWS>(tile, sums);
    for (acc, row_sum) in acc.iter_mut().zip(row_sums) {
        *acc = [_mm512_set1_epi32(-64 * row_sum); 2];
    }
    for class in (0..CLASSES).rev() {
        let mask = _mm512_set1_epi8(3 << (2 * class));
        // SAFETY: class < 4, and the tile has [4, panel.len(), ROWS] cells.
        let mut quad = unsafe { tile.quads().as_ptr().add(class * panel.len() * ROWS) };
        for block in panel {
            let [low, high] = codes(block);
            let (low, high) = (_mm512_and_si512(low, mask), _mm512_and_si512(high, mask));
            for (m, acc) in acc.iter_mut().enumerate() {
                // SAFETY: as above; `quad` is at this block and m < ROWS.
                let activations = unsafe { broadcast(quad.add(m)) };
                acc[0] = _mm512_dpbusd_epi32(acc[0], low, activations);
                acc[1] = _mm512_dpbusd_epi32(acc[1], high, activations);
            }
            // SAFETY: at most one past the last cell.
            quad = unsafe { quad.add(ROWS) };
        }
        if class > 0 {
            for acc in &mut acc {
                *acc = [_mm512_srai_epi32::<2>(acc[0]), _mm512_srai_epi32::<2>(acc[1])];
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        store(sums, acc);
    }
}

/// A tile of one row: eight independent sums, the panel read once.
///
/// # Safety
/// The tile has one row of `panel.len()` blocks, and `sums` has one row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row(panel: &[PanelBlock], tile: &Tile<'_>, sums: &mut [[i32; LANES]]) {
    let mut acc = [[_mm512_setzero_si512(); 2]; CLASSES];
    let quads = tile.quads().as_ptr();
    for (index, block) in panel.iter().enumerate() {
        let [low, high] = codes(block);
        for (class, acc) in acc.iter_mut().enumerate() {
            let mask = _mm512_set1_epi8(3 << (2 * class));
            // SAFETY: the tile has [4, panel.len(), 1] cells.
            let activations = unsafe { broadcast(quads.add(class * panel.len() + index)) };
            acc[0] = _mm512_dpbusd_epi32(acc[0], _mm512_and_si512(low, mask), activations);
            acc[1] = _mm512_dpbusd_epi32(acc[1], _mm512_and_si512(high, mask), activations);
        }
    }
    let mut total = [_mm512_setzero_si512(); 2];
    for acc in acc.iter().rev() {
        for (total, acc) in total.iter_mut().zip(acc) {
            *total = _mm512_add_epi32(_mm512_srai_epi32::<2>(*total), *acc);
        }
    }
    let ones = _mm512_set1_epi32(tile.row_sums()[0]);
    store(&mut sums[0], [_mm512_sub_epi32(total[0], ones), _mm512_sub_epi32(total[1], ones)]);
}

/// The two vectors of a panel block.
#[inline]
#[target_feature(enable = "avx512f")]
fn codes(block: &PanelBlock) -> [__m512i; 2] {
    let words = block.0.as_ptr().cast::<__m512i>();
    // SAFETY: a block is 32 words aligned to 64 bytes, that is two aligned vectors.
    unsafe { [_mm512_load_si512(words), _mm512_load_si512(words.add(1))] }
}

/// A quad in every lane.
///
/// # Safety
/// `quad` can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(quad: *const Quad) -> __m512i {
    // SAFETY: the caller's promise; a quad is four bytes, read without alignment.
    _mm512_set1_epi32(unsafe { quad.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(sums: &mut [i32; LANES], acc: [__m512i; 2]) {
    let lanes = sums.as_mut_ptr();
    // SAFETY: 32 sums are two vectors, written without alignment.
    unsafe {
        _mm512_storeu_si512(lanes.cast(), acc[0]);
        _mm512_storeu_si512(lanes.add(VECTOR).cast(), acc[1]);
    }
}

/// # Safety
/// `x` and `values` have the same length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn quantize(x: &[f32], values: &mut [i8]) -> RowScale {
    let magnitude = _mm512_set1_epi32(MAGNITUDE as i32);
    let mut peaks = _mm512_setzero_si512();
    let load = |first: usize| {
        let lanes = lanes_from(first, x.len());
        // SAFETY: the mask leaves out every lane at or past x.len().
        (lanes, unsafe { _mm512_maskz_loadu_ps(lanes, x.as_ptr().add(first)) })
    };
    for first in (0..x.len()).step_by(VECTOR) {
        let (_, x) = load(first);
        peaks = _mm512_max_epi32(peaks, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
    }
    let scale = activation_scale(f32::from_bits(_mm512_reduce_max_epi32(peaks) as u32));
    let (scales, low, high) = (_mm512_set1_ps(scale), _mm512_set1_ps(-128.0), _mm512_set1_ps(127.0));
    let mut sums = _mm512_setzero_si512();
    for first in (0..x.len()).step_by(VECTOR) {
        let (lanes, x) = load(first);
        let scaled = _mm512_mul_ps(x, scales);
        let numbers = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(scaled, scaled);
        let clamped = _mm512_min_ps(_mm512_max_ps(scaled, low), high);
        // Rust runs with the default rounding mode, half to even.
        let rounded = _mm512_maskz_cvtps_epi32(numbers, clamped);
        sums = _mm512_add_epi32(sums, rounded);
        // SAFETY: the mask leaves out every lane at or past values.len(), which is x.len().
        unsafe { _mm512_mask_cvtepi32_storeu_epi8(values.as_mut_ptr().add(first), lanes, rounded) };
    }
    RowScale { scale, sum: _mm512_reduce_add_epi32(sums) }
}

/// The lanes of the vector at `first` that lie before `len`; `first < len`.
#[inline]
fn lanes_from(first: usize, len: usize) -> __mmask16 {
    u16::MAX >> VECTOR.saturating_sub(len - first)
}
