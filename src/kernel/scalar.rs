//! The meaning of the integer kernels, in plain Rust.
//!
//! Every other instruction set must equal this file bit for bit, on every shape around a tile's edge and on the worst
//! inputs. It is also what runs on a chip for which there is nothing better.

use super::isa::Isa;
use super::micro::{CLASSES, LANES, Micro, RowScale, Sums, Tile, Words, activation_scale, each_panel};

/// The kernel that needs no proof.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

impl Micro for Scalar {
    fn isa(&self) -> Isa {
        Isa::Scalar
    }

    fn ternary(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, tile.blocks(), tile, sums, |panel, sums| {
            add_classes(tile, sums, |class, block| {
                let codes = panel[block].0.map(|word| (word >> (2 * class)) & 0x0303_0303);
                codes.map(|codes| codes.to_le_bytes().map(|code| i32::from(code) - 1))
            });
        });
    }

    fn int8(&self, panels: &[Words], tile: &Tile<'_>, sums: &mut [Sums]) {
        each_panel(panels, CLASSES * tile.blocks(), tile, sums, |panel, sums| {
            add_classes(tile, sums, |class, block| {
                let words = panel[class * tile.blocks() + block].0;
                words.map(|word| word.to_le_bytes().map(|weight| i32::from(weight) - 128))
            });
        });
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

/// Adds up every class and block; `weights(class, block)` are the four weights of each lane there.
#[inline(always)]
fn add_classes(tile: &Tile<'_>, sums: &mut [Sums], weights: impl Fn(usize, usize) -> [[i32; 4]; LANES]) {
    sums.fill([0; LANES]);
    for (cell, quads) in tile.quads().chunks_exact(tile.rows()).enumerate() {
        let weights = weights(cell / tile.blocks(), cell % tile.blocks());
        for (sums, quad) in sums.iter_mut().zip(quads) {
            let quad = quad.map(i32::from);
            for (sum, weights) in sums.iter_mut().zip(&weights) {
                *sum += weights[0] * quad[0] + weights[1] * quad[1] + weights[2] * quad[2] + weights[3] * quad[3];
            }
        }
    }
}

/// The largest magnitude. Compared as integers, whose order puts infinity above every number and NaN above infinity.
#[inline(always)]
pub(super) fn peak(x: &[f32]) -> f32 {
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
