//! The meaning of the integer kernels, in plain Rust.
//!
//! Every other instruction set must equal this file bit for bit, on every shape around a tile's edge and on the worst
//! inputs. It is also what runs on a chip for which there is nothing better.

use super::isa::Isa;
use super::micro::{CLASSES, LANES, Micro, PanelBlock, RowScale, Tile, activation_scale, check};

/// The kernel that needs no proof.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

const TILE_ROWS: usize = 4;

impl Micro for Scalar {
    fn isa(&self) -> Isa {
        Isa::Scalar
    }

    fn tile_rows_max(&self) -> usize {
        TILE_ROWS
    }

    fn multiply(&self, panel: &[PanelBlock], tile: Tile<'_>, sums: &mut [[i32; LANES]]) {
        check(panel, &tile, sums, TILE_ROWS);
        let rows = sums.len();
        // A code is the sign plus one: the ones add up to the sum of the row.
        for (lanes, row_sum) in sums.iter_mut().zip(tile.row_sums()) {
            lanes.fill(-row_sum);
        }
        for class in 0..CLASSES {
            for (block, words) in panel.iter().enumerate() {
                let cell = (class * panel.len() + block) * rows;
                for (lanes, quad) in sums.iter_mut().zip(&tile.quads()[cell..][..rows]) {
                    add_quad(lanes, words, class, quad.map(i32::from));
                }
            }
        }
    }

    fn quantize(&self, x: &[f32], values: &mut [i8]) -> RowScale {
        assert_eq!(x.len(), values.len(), "a row and its bytes differ in length");
        let scale = activation_scale(peak(x));
        for (value, x) in values.iter_mut().zip(x) {
            *value = round(x * scale);
        }
        RowScale { scale, sum: values.iter().map(|value| i32::from(*value)).sum() }
    }
}

/// Adds one class of one block to the 32 sums of a row.
#[inline(always)]
fn add_quad(sums: &mut [i32; LANES], words: &PanelBlock, class: usize, quad: [i32; 4]) {
    for (sum, word) in sums.iter_mut().zip(&words.0) {
        let codes = (word >> (2 * class)) & 0x0303_0303;
        let code = |byte: u32| ((codes >> (8 * byte)) & 3) as i32;
        *sum += code(0) * quad[0] + code(1) * quad[1] + code(2) * quad[2] + code(3) * quad[3];
    }
}

/// The largest magnitude. Compared as integers, whose order puts infinity above every number and NaN above infinity.
#[inline(always)]
fn peak(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |peak, x| peak.max(x.to_bits() & MAGNITUDE)))
}

/// All bits of a float but its sign.
pub(super) const MAGNITUDE: u32 = 0x7fff_ffff;

/// A scaled activation as a byte; NaN gives 0.
#[inline(always)]
pub(super) fn round(scaled: f32) -> i8 {
    scaled.round_ties_even().clamp(-128.0, 127.0) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_clamped_and_total() {
        let cases = [(0.5, 0), (1.5, 2), (-0.5, 0), (-2.5, -2), (126.5, 126), (127.5, 127), (-128.5, -128)];
        for (scaled, byte) in cases {
            assert_eq!(round(scaled), byte, "{scaled}");
        }
        assert_eq!([round(f32::NAN), round(f32::INFINITY), round(f32::NEG_INFINITY)], [0, 127, -128]);
    }

    #[test]
    fn the_peak_sees_infinity_and_nan() {
        assert_eq!(peak(&[]), 0.0);
        assert_eq!(peak(&[-3.0, 2.0]), 3.0);
        assert_eq!(peak(&[1.0, f32::NEG_INFINITY]), f32::INFINITY);
        assert!(peak(&[f32::INFINITY, -f32::NAN, 1.0]).is_nan());
    }
}
