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
use super::micro::{
    CLASSES, LANES, Lines, Micro, Quad, RowScale, Sums, TILE_ROWS, Tile, Words, activation_scale, each_height,
    each_panel, each_panel_of_lines,
};
use super::scalar::MAGNITUDE;

/// Lanes of a vector of 32-bit numbers.
const VECTOR: usize = 16;

/// Bytes of a vector.
const BYTES: usize = 64;

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Where the sums of a tile and a panel go.
enum End<'a> {
    Sums(&'a mut [Sums]),
    /// The lines of this panel of them.
    Floats(&'a Lines<'a>, usize),
}

/// A loop for tiles of one height: panel, tile, end. Safe to call from [`each_panel`] or [`each_panel_of_lines`] with
/// what it gives, on a chip that has avx512f, bw, vl and vnni.
type TileLoop = unsafe fn(&[Words], &Tile<'_>, End<'_>);

/// The loops for a tile of 1, 2, .. 12 rows.
const TERNARY: [TileLoop; TILE_ROWS] = each_height!(ternary);
const INT8: [TileLoop; TILE_ROWS] = each_height!(int8);

impl Micro for Avx512Vnni {
    fn isa(&self) -> Isa {
        Isa::Avx512Vnni
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, tile.blocks(), tile, sums, |panel, sums| {
            // SAFETY: self exists, so detection saw the features; each_panel established that the tile has
            // panel.len() blocks and as many rows as sums; the loop is chosen by them.
            unsafe { TERNARY[tile.rows() - 1](panel, tile, End::Sums(sums)) }
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, CLASSES * tile.blocks(), tile, sums, |panel, sums| {
            // SAFETY: as above; here panel.len() is four times the tile's blocks.
            unsafe { INT8[tile.rows() - 1](panel, tile, End::Sums(sums)) }
        });
    }

    fn ternary_floats(&self, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>) {
        each_panel_of_lines(panels, tile.blocks(), tile, lines, |panel, index| {
            // SAFETY: as above; the lines have the tile's rows and this panel.
            unsafe { TERNARY[tile.rows() - 1](panel, tile, End::Floats(lines, index)) }
        });
    }

    fn int8_floats(&self, panels: &[Words], tile: &Tile<'_>, lines: &Lines<'_>) {
        each_panel_of_lines(panels, CLASSES * tile.blocks(), tile, lines, |panel, index| {
            // SAFETY: as above; here panel.len() is four times the tile's blocks.
            unsafe { INT8[tile.rows() - 1](panel, tile, End::Floats(lines, index)) }
        });
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw avx512f; the lengths are equal.
        unsafe { quantize(x, values) }
    }
}

/// A ternary tile of `ROWS` rows.
///
/// # Safety
/// The tile has `ROWS` rows of `panel.len()` blocks, and `end` has `ROWS` rows and this panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn ternary<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, end: End<'_>) {
    if ROWS == 1 {
        // SAFETY: the caller's promise, with ROWS = 1.
        return unsafe { ternary_row(panel, tile, end) };
    }
    let mut acc = [[_mm512_setzero_si512(); 2]; ROWS];
    // The next panel, a fourth of it in each class: a low tile is done with this one before it can come from memory.
    let mut ahead = panel.as_ptr_range().end.cast::<i8>();
    for class in (0..CLASSES).rev() {
        expect::<ROWS>(&end);
        let mask = _mm512_set1_epi8(3 << (2 * class));
        // SAFETY: class < 4, and the tile has [4, panel.len(), ROWS] cells.
        let mut quad = unsafe { tile.quads().as_ptr().add(class * panel.len() * ROWS) };
        for words in panel {
            _mm_prefetch::<_MM_HINT_T1>(ahead);
            ahead = ahead.wrapping_add(size_of::<Words>() / CLASSES);
            let [low, high] = vectors(words);
            // SAFETY: as above; `quad` is at this block, which has ROWS cells, and ends at most one past the last.
            quad = unsafe { add(&mut acc, [_mm512_and_si512(low, mask), _mm512_and_si512(high, mask)], quad) };
        }
        if class > 0 {
            for acc in &mut acc {
                *acc = [_mm512_srai_epi32::<2>(acc[0]), _mm512_srai_epi32::<2>(acc[1])];
            }
        }
    }
    // SAFETY: the caller's promise. A code is the sign plus one.
    unsafe { finish::<ROWS, 0>(acc, tile, end) }
}

/// An int8 tile of `ROWS` rows.
///
/// # Safety
/// The tile has `ROWS` rows and as many cells a row as `panel` has words, and `end` has `ROWS` rows and this panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn int8<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, end: End<'_>) {
    let mut acc = [[_mm512_setzero_si512(); 2]; ROWS];
    let mut quad = tile.quads().as_ptr();
    for class in panel.chunks_exact((panel.len() / CLASSES).max(1)) {
        expect::<ROWS>(&end);
        for words in class {
            // SAFETY: the tile has panel.len() times ROWS cells, of which `quad` is at these; it ends one past the last.
            quad = unsafe { add(&mut acc, vectors(words), quad) };
        }
    }
    // SAFETY: the caller's promise. A byte is the weight plus 2^7.
    unsafe { finish::<ROWS, 7>(acc, tile, end) }
}

/// Adds the products of one quad of each row, and returns the place of the next quads.
///
/// # Safety
/// `quad` points at `ROWS` cells.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add<const ROWS: usize>(
    acc: &mut [[__m512i; 2]; ROWS],
    [low, high]: [__m512i; 2],
    quad: *const Quad,
) -> *const Quad {
    for (m, acc) in acc.iter_mut().enumerate() {
        // SAFETY: the caller's promise, and m < ROWS.
        let activations = unsafe { broadcast(quad.add(m)) };
        acc[0] = _mm512_dpbusd_epi32(acc[0], low, activations);
        acc[1] = _mm512_dpbusd_epi32(acc[1], high, activations);
    }
    // SAFETY: at most one past the last cell.
    unsafe { quad.add(ROWS) }
}

/// A ternary tile of one row: eight independent sums, the panel read once.
///
/// # Safety
/// The tile has one row of `panel.len()` blocks, and `end` has one row and this panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn ternary_row(panel: &[Words], tile: &Tile<'_>, end: End<'_>) {
    let mut acc = [[_mm512_setzero_si512(); 2]; CLASSES];
    let quads = tile.quads().as_ptr();
    for (index, words) in panel.iter().enumerate() {
        let [low, high] = vectors(words);
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
    // SAFETY: the caller's promise. A code is the sign plus one.
    unsafe { finish::<1, 0>([total], tile, end) }
}

/// Asks for the lines that a tile will write: its product is long enough to hide the memory. Asked for in each class,
/// as what comes early is pushed out of the nearest cache again.
#[inline]
#[target_feature(enable = "avx512f")]
fn expect<const ROWS: usize>(end: &End<'_>) {
    let End::Floats(lines, panel) = end else { return };
    let mut line = lines.first.wrapping_add(panel * LANES).cast::<i8>();
    for _ in 0..ROWS {
        _mm_prefetch::<_MM_HINT_T0>(line);
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(LINE));
        line = line.wrapping_add(lines.stride * size_of::<f32>());
    }
}

/// Takes off what the weights are too large by, `2^EXCESS` each, and keeps the sums or the floats made of them.
///
/// # Safety
/// The tile and `end` have `ROWS` rows, and `end` has this panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish<const ROWS: usize, const EXCESS: u32>(mut acc: [[__m512i; 2]; ROWS], tile: &Tile<'_>, end: End<'_>) {
    for (m, acc) in acc.iter_mut().enumerate() {
        // SAFETY: the tile has ROWS rows, and m < ROWS.
        let row_sum = _mm512_set1_epi32(unsafe { *tile.row_sums().get_unchecked(m) });
        let excess = _mm512_slli_epi32::<EXCESS>(row_sum);
        *acc = [_mm512_sub_epi32(acc[0], excess), _mm512_sub_epi32(acc[1], excess)];
    }
    match end {
        End::Sums(sums) => {
            for (sums, acc) in sums.iter_mut().zip(acc) {
                // SAFETY: 32 sums are two vectors, written without alignment.
                unsafe { sums.as_mut_ptr().cast::<[__m512i; 2]>().write_unaligned(acc) };
            }
        }
        // SAFETY: the caller's promise.
        End::Floats(lines, panel) => unsafe { write_lines(acc, lines, panel) },
    }
}

/// The floats of finish.rs, straight from the registers.
///
/// # Safety
/// `lines` has `ROWS` rows and this panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn write_lines<const ROWS: usize>(acc: [[__m512i; 2]; ROWS], lines: &Lines<'_>, panel: usize) {
    let column = panel * LANES;
    // SAFETY: the panel is one of the lines', and 32 scales are two vectors, read without alignment.
    let scales = unsafe { lines.scales.get_unchecked(panel).as_ptr().cast::<[__m512; 2]>().read_unaligned() };
    for (m, acc) in acc.into_iter().enumerate() {
        // SAFETY: the lines have ROWS rows, and m < ROWS.
        let factor = _mm512_set1_ps(unsafe { *lines.factors.get_unchecked(m) });
        let mut line = [_mm512_setzero_ps(); 2];
        for ((line, acc), scale) in line.iter_mut().zip(acc).zip(scales) {
            *line = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_mul_ps(scale, factor));
        }
        let start = m * lines.stride + column;
        let bias = lines.bias.map(|bias| bias.as_ptr().wrapping_add(column));
        let residual = lines.residual.map(|residual| residual.as_ptr().wrapping_add(start));
        for added in [bias, residual].into_iter().flatten() {
            // SAFETY: bias has 32 floats for each panel, residual the same cells as the lines.
            let added = unsafe { added.cast::<[__m512; 2]>().read_unaligned() };
            line = [_mm512_add_ps(line[0], added[0]), _mm512_add_ps(line[1], added[1])];
        }
        // SAFETY: row m and this panel are cells that the lines may write.
        unsafe { lines.first.add(start).cast::<[__m512; 2]>().write_unaligned(line) };
    }
}

/// The two vectors of a panel's words.
#[inline]
#[target_feature(enable = "avx512f")]
fn vectors(words: &Words) -> [__m512i; 2] {
    let words = words.0.as_ptr().cast::<__m512i>();
    // SAFETY: they are 32 words aligned to 64 bytes, that is two aligned vectors.
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

/// # Safety
/// `x` and `values` have the same length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn quantize(x: &[f32], values: &mut [i8]) -> RowScale {
    let scale = activation_scale(peak(x));
    // With any other scale no product exceeds 127 by more than its roundings, so nothing is clamped below.
    if scale.is_nan() || scale == 0.0 {
        values.fill(0);
        return RowScale { scale, sum: 0 };
    }
    let scales = _mm512_set1_ps(scale);
    // Packing works within quarters of a vector: this brings their words into order again.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut sums = _mm512_setzero_si512();
    let mut round = |x: &[f32; BYTES]| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|vector| {
            // SAFETY: 64 floats are four vectors, read without alignment.
            let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(vector * VECTOR)) };
            // Rust runs with the default rounding mode, half to even.
            _mm512_cvtps_epi32(_mm512_mul_ps(x, scales))
        });
        let packed = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        let bytes = _mm512_permutexvar_epi32(order, packed);
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), bytes);
        bytes
    };
    let (whole, rest) = x.as_chunks::<BYTES>();
    for (x, values) in whole.iter().zip(values.as_chunks_mut::<BYTES>().0) {
        // SAFETY: 64 bytes are a vector, written without alignment.
        unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), round(x)) };
    }
    if !rest.is_empty() {
        let mut padded = [0.0; BYTES];
        padded[..rest.len()].copy_from_slice(rest);
        // SAFETY: the mask leaves out every byte at or past values.len(), which is x.len().
        unsafe {
            let first = values.as_mut_ptr().add(whole.len() * BYTES);
            _mm512_mask_storeu_epi8(first, u64::MAX >> (BYTES - rest.len()), round(&padded));
        }
    }
    RowScale { scale, sum: _mm512_reduce_add_epi32(sums) }
}

/// The largest magnitude, NaN above all (scalar.rs says why integers are compared).
#[inline]
#[target_feature(enable = "avx512f")]
fn peak(x: &[f32]) -> f32 {
    let magnitude = _mm512_set1_epi32(MAGNITUDE as i32);
    let (whole, rest) = x.as_chunks::<BYTES>();
    let mut peaks = [_mm512_setzero_si512(); BYTES / VECTOR];
    for x in whole {
        for (vector, peak) in peaks.iter_mut().enumerate() {
            // SAFETY: 64 floats are four vectors, read without alignment.
            let bits = unsafe { _mm512_loadu_si512(x.as_ptr().add(vector * VECTOR).cast()) };
            *peak = _mm512_max_epi32(*peak, _mm512_and_si512(bits, magnitude));
        }
    }
    let [a, b, c, d] = peaks;
    let peak = _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_max_epi32(a, b), _mm512_max_epi32(c, d)));
    f32::from_bits(rest.iter().fold(peak as u32, |peak, x| peak.max(x.to_bits() & MAGNITUDE)))
}
