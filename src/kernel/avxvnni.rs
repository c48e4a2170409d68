//! AVX-VNNI: the byte dot product `vpdpbusd` on 256-bit vectors, for chips that have it without AVX-512.
//!
//! The method is that of avx512.rs; sixteen registers hold the sums of six rows and half a panel's lanes, its codes, a
//! mask and a quad. The loops are written once and compiled twice: for AVX-VNNI, and in tests for the 256-bit vectors of
//! AVX-512, whose instruction is the same but for its encoding, so that chips with only that check them too.

use super::avx2;
use super::isa::{AvxVnni, Isa};
use super::micro::{CLASSES, LANES, Micro, RowScale, Sums, Tile, Words, each_panel};
use super::quantize::share;

/// The most rows that are multiplied at once.
const ROWS_MAX: usize = 6;

/// Lanes multiplied at once: two vectors.
const HALF: usize = LANES / 2;

/// A loop for some rows of a tile, from the row given on. Safe to call from [`each_group`] with what it gives, on a chip
/// that has its features.
type RowsLoop = unsafe fn(&[Words], &Tile<'_>, usize, &mut [Sums]);

/// Calls `multiply(rows - 1, panel, first row, sums)` for each panel and each group of at most six rows of the tile.
fn each_group(
    panels: &[Words],
    words: usize,
    tile: &Tile<'_>,
    sums: &mut [Sums],
    multiply: impl Fn(usize, &[Words], usize, &mut [Sums]),
) {
    let groups = tile.rows().div_ceil(ROWS_MAX);
    each_panel(panels, words, tile, sums, |panel, sums| {
        for rows in (0..groups).map(|group| share(group, groups, tile.rows())) {
            multiply(rows.len() - 1, panel, rows.start, &mut sums[rows]);
        }
    });
}

impl Micro for AvxVnni {
    fn isa(&self) -> Isa {
        Isa::AvxVnni
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_group(panels, tile.blocks(), tile, sums, |index, panel, first, sums| {
            // SAFETY: self exists, so detection saw avx2 and avxvnni; each_group gives rows that the tile has, each of
            // panel.len() blocks, and the loop for their count.
            unsafe { vex::TERNARY[index](panel, tile, first, sums) }
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_group(panels, CLASSES * tile.blocks(), tile, sums, |index, panel, first, sums| {
            // SAFETY: as above; here panel.len() is four times the tile's blocks.
            unsafe { vex::INT8[index](panel, tile, first, sums) }
        });
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        // SAFETY: self exists, so detection saw avx2; the lengths are equal.
        unsafe { avx2::quantize(x, values) }
    }
}

/// The loops, for the features given and the dot product that they name.
macro_rules! loops {
    ($module:ident, $features:literal, $dot:ident) => {
        mod $module {
            use std::arch::x86_64::*;

            use super::super::micro::{CLASSES, Quad, Sums, Tile, Words};
            use super::{HALF, LANES, ROWS_MAX, RowsLoop};

            /// The loop for 1, 2, .. 6 rows.
            pub(super) const TERNARY: [RowsLoop; ROWS_MAX] =
                [ternary_row, ternary::<2>, ternary::<3>, ternary::<4>, ternary::<5>, ternary::<6>];
            pub(super) const INT8: [RowsLoop; ROWS_MAX] =
                [int8::<1>, int8::<2>, int8::<3>, int8::<4>, int8::<5>, int8::<6>];

            /// `ROWS` rows of a ternary tile, from `first` on.
            ///
            /// # Safety
            /// The tile has those rows, of `panel.len()` blocks, and `sums` has `ROWS` rows.
            #[target_feature(enable = $features)]
            unsafe fn ternary<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
                for half in 0..LANES / HALF {
                    let mut acc = [[_mm256_setzero_si256(); 2]; ROWS];
                    for class in (0..CLASSES).rev() {
                        let mask = _mm256_set1_epi8(3 << (2 * class));
                        for (block, words) in panel.iter().enumerate() {
                            let [low, high] = vectors(words, half);
                            let codes = [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)];
                            let cell = (class * panel.len() + block) * tile.rows() + first;
                            // SAFETY: class < 4, and the tile has [4, panel.len(), rows] cells.
                            unsafe { add(&mut acc, codes, tile.quads().as_ptr().add(cell)) };
                        }
                        if class > 0 {
                            for acc in &mut acc {
                                *acc = [_mm256_srai_epi32::<2>(acc[0]), _mm256_srai_epi32::<2>(acc[1])];
                            }
                        }
                    }
                    // A code is the sign plus one.
                    finish::<ROWS, 0>(acc, &tile.row_sums()[first..], half, sums);
                }
            }

            /// One row of a ternary tile: eight independent sums, each half of the panel read once.
            ///
            /// # Safety
            /// As for `ternary::<1>`.
            #[target_feature(enable = $features)]
            unsafe fn ternary_row(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
                for half in 0..LANES / HALF {
                    let mut acc = [[_mm256_setzero_si256(); 2]; CLASSES];
                    for (block, words) in panel.iter().enumerate() {
                        let [low, high] = vectors(words, half);
                        for (class, acc) in acc.iter_mut().enumerate() {
                            let mask = _mm256_set1_epi8(3 << (2 * class));
                            let codes = [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)];
                            let cell = (class * panel.len() + block) * tile.rows() + first;
                            // SAFETY: the tile has [4, panel.len(), rows] cells.
                            unsafe { add(std::array::from_mut(acc), codes, tile.quads().as_ptr().add(cell)) };
                        }
                    }
                    let mut total = [_mm256_setzero_si256(); 2];
                    for acc in acc.iter().rev() {
                        for (total, acc) in total.iter_mut().zip(acc) {
                            *total = _mm256_add_epi32(_mm256_srai_epi32::<2>(*total), *acc);
                        }
                    }
                    finish::<1, 0>([total], &tile.row_sums()[first..], half, sums);
                }
            }

            /// `ROWS` rows of an int8 tile, from `first` on.
            ///
            /// # Safety
            /// The tile has those rows, of as many cells as `panel` has words, and `sums` has `ROWS` rows.
            #[target_feature(enable = $features)]
            unsafe fn int8<const ROWS: usize>(panel: &[Words], tile: &Tile<'_>, first: usize, sums: &mut [Sums]) {
                for half in 0..LANES / HALF {
                    let mut acc = [[_mm256_setzero_si256(); 2]; ROWS];
                    for (index, words) in panel.iter().enumerate() {
                        let cell = index * tile.rows() + first;
                        // SAFETY: the tile has [panel.len(), rows] cells.
                        unsafe { add(&mut acc, vectors(words, half), tile.quads().as_ptr().add(cell)) };
                    }
                    // A byte is the weight plus 2^7.
                    finish::<ROWS, 7>(acc, &tile.row_sums()[first..], half, sums);
                }
            }

            /// The two vectors of half a panel's words.
            #[inline]
            #[target_feature(enable = $features)]
            fn vectors(words: &Words, half: usize) -> [__m256i; 2] {
                let words = words.0[half * HALF..][..HALF].as_ptr().cast::<__m256i>();
                // SAFETY: half of 32 words aligned to 64 bytes are two aligned vectors.
                unsafe { [_mm256_load_si256(words), _mm256_load_si256(words.add(1))] }
            }

            /// Adds the products of one quad of each row.
            ///
            /// # Safety
            /// `quads` points at `ROWS` cells.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn add<const ROWS: usize>(
                acc: &mut [[__m256i; 2]; ROWS],
                [low, high]: [__m256i; 2],
                quads: *const Quad,
            ) {
                for (m, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller's promise, and m < ROWS. A quad is four bytes, read without alignment.
                    let quad = _mm256_set1_epi32(unsafe { quads.add(m).cast::<i32>().read_unaligned() });
                    acc[0] = $dot(acc[0], low, quad);
                    acc[1] = $dot(acc[1], high, quad);
                }
            }

            /// Takes off what the weights are too large by, `2^EXCESS` each, and keeps the sums.
            #[inline]
            #[target_feature(enable = $features)]
            fn finish<const ROWS: usize, const EXCESS: i32>(
                acc: [[__m256i; 2]; ROWS],
                row_sums: &[i32],
                half: usize,
                sums: &mut [Sums],
            ) {
                for ((sums, acc), row_sum) in sums.iter_mut().zip(acc).zip(row_sums) {
                    let excess = _mm256_slli_epi32::<EXCESS>(_mm256_set1_epi32(*row_sum));
                    let acc = [_mm256_sub_epi32(acc[0], excess), _mm256_sub_epi32(acc[1], excess)];
                    let half = &mut sums[half * HALF..][..HALF];
                    // SAFETY: half of 32 sums are two vectors, written without alignment.
                    unsafe { half.as_mut_ptr().cast::<[__m256i; 2]>().write_unaligned(acc) };
                }
            }
        }
    };
}

loops!(vex, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
#[cfg(test)]
loops!(evex, "avx512f,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

/// The same loops for chips with AVX-512, to be tested there.
#[cfg(test)]
pub(super) struct Twin(pub super::isa::Avx512Vnni);

#[cfg(test)]
impl Micro for Twin {
    fn isa(&self) -> Isa {
        Isa::AvxVnni
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_group(panels, tile.blocks(), tile, sums, |index, panel, first, sums| {
            // SAFETY: the token proves avx512f, vl and vnni; the rest as for AvxVnni.
            unsafe { evex::TERNARY[index](panel, tile, first, sums) }
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_group(panels, CLASSES * tile.blocks(), tile, sums, |index, panel, first, sums| {
            // SAFETY: as above.
            unsafe { evex::INT8[index](panel, tile, first, sums) }
        });
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        self.0.quantize(x, values)
    }
}
