//! Rotary position codes: half-split (Llama, Gemma) and three-axis (V-JEPA 2), as tables made once for a batch.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};

use super::op::{Gradients, Operation, apply1};
use crate::kernel::elementwise::{Angles, Pairing, rotate};

/// Cosines and sines for every row of a batch.
#[derive(Clone, Debug)]
pub struct Rotary {
    tables: Arc<Tables>,
}

#[derive(Debug)]
struct Tables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    width: usize,
    pairing: Pairing,
}

impl Tables {
    fn angles(&self) -> Angles<'_> {
        Angles { cos: &self.cos, sin: &self.sin, width: self.width, pairing: self.pairing }
    }
}

/// The stretch of low frequencies that Llama 3.1 introduced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Long wavelengths are multiplied by this.
    pub factor: f64,
    /// `original_len / low` is the shortest wavelength that gets the whole factor.
    pub low: f64,
    /// `original_len / high` is the longest wavelength that stays as it is.
    pub high: f64,
    /// Positions that the model was first trained with.
    pub original_len: f64,
}

/// `theta^(-2i / head_dim)` for `i` in `0..head_dim / 2`.
pub fn inverse_frequencies(head_dim: usize, theta: f64) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect()
}

/// Llama 3.1's rule: wavelengths above `original_len / low` divided by `factor`, below `original_len / high` kept,
/// between them a linear blend.
pub fn llama3_scaled(inverse_frequencies: &[f32], scaling: &Llama3Scaling) -> Vec<f32> {
    let scale = |&f: &f32| {
        let f = f64::from(f);
        let wavelength = 2.0 * std::f64::consts::PI / f;
        let keep = ((scaling.original_len / wavelength - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0);
        ((1.0 - keep) * f / scaling.factor + keep * f) as f32
    };
    inverse_frequencies.iter().map(scale).collect()
}

impl Rotary {
    /// Llama's and Gemma's rotation: element `i` turns with `i + head_dim / 2`; `head_dim = 2 * inverse_frequencies`.
    pub fn half_split(positions: &[f32], inverse_frequencies: &[f32]) -> Self {
        let half = inverse_frequencies.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for &position in positions {
            for index in 0..2 * half {
                let angle = position * inverse_frequencies[index % half];
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        Self { tables: Arc::new(Tables { cos, sin, width: 2 * half, pairing: Pairing::Halves }) }
    }

    /// V-JEPA 2's rotation: `2 * ((head_dim / 3) / 2)` elements for each of depth, height and width; the rest stays.
    ///
    /// Published weights need the reference's quirk: pairs are neighbours `(2i, 2i + 1)` but the table of frequencies
    /// is tiled `[f0..fn, f0..fn]`, so the two members of a pair turn by different angles.
    pub fn three_axis(positions: &[[f32; 3]], head_dim: usize, base: f32) -> Self {
        let axis = 2 * ((head_dim / 3) / 2);
        let half = axis / 2;
        let frequency = |index: usize| 1.0 / base.powf(index as f32 / (axis as f32 / 2.0));
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for &place in position {
                for index in 0..axis {
                    let angle = place * frequency(index % half);
                    cos.push(angle.cos());
                    sin.push(angle.sin());
                }
            }
            cos.extend(std::iter::repeat_n(1.0, head_dim - 3 * axis));
            sin.extend(std::iter::repeat_n(0.0, head_dim - 3 * axis));
        }
        Self { tables: Arc::new(Tables { cos, sin, width: head_dim, pairing: Pairing::Neighbours }) }
    }

    /// Turns `[rows, heads * head_dim]`; the rows are those that the tables were made for.
    pub fn apply(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        apply1(Rotate { tables: self.tables.clone(), heads }, x)
    }
}

struct Rotate {
    tables: Arc<Tables>,
    heads: usize,
}

impl Operation<1> for Rotate {
    const NAME: &'static str = "rotate";

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        let (rows, width) = (self.tables.cos.len() / self.tables.width, self.heads * self.tables.width);
        if x.dims() != [rows, width] {
            bail!("rotary: the input is {x:?}, the tables are for [{rows}, {width}]");
        }
        Ok(x.clone())
    }

    fn forward(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        rotate(x, self.tables.angles(), self.heads * self.tables.width, false, out);
    }

    fn backward(&self, [x]: [&[f32]; 1], _: &[f32], grad: &[f32]) -> Gradients<1> {
        let mut dx = vec![0.0; x.len()];
        rotate(grad, self.tables.angles(), self.heads * self.tables.width, true, &mut dx);
        [Some(dx)]
    }
}
