//! From pixels to tokens. Published: one linear map of a flattened tubelet (channels x frames x rows x columns), which
//! is a Conv3d whose kernel equals its stride. Our own departure for small models: two convolutions a frame, written
//! as gathers and products so that gradients flow, then a linear map of the cells that a tubelet covers.
//! Too few frames for a tubelet are repeated whole; frames that do not fill one at the end are dropped.

use crate::model::config::{self, Convolution, VisionConfig};
use crate::nn::activation::Activation;
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::rows;
use crate::nn::weights::{Init, Weights};
use candle_core::{Device, Result, Tensor};
use ndarray::ArrayView4;

pub(super) enum Stem {
    Patches { weight: Tensor, bias: Tensor, sizes: Sizes },
    Conv(Box<ConvStem>),
}

/// What the layout of a tubelet depends on.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    channels: usize,
    side: usize,
    patch: usize,
    tubelet: usize,
}

pub(super) struct ConvStem {
    sizes: Sizes,
    first: Linear,
    second: Linear,
    proj: Linear,
    geometry: [Convolution; 2],
}

impl Stem {
    pub(super) fn load(embeddings: &Weights, config: &VisionConfig) -> Stem {
        let sizes = Sizes {
            channels: config.in_chans,
            side: config.crop_size,
            patch: config.patch_size,
            tubelet: config.tubelet_size,
        };
        match config.stem {
            None => Stem::patches(embeddings, config, sizes),
            Some(config::Stem::Conv { first, second }) => {
                let w = embeddings.pp("stem").fine();
                let cells = config.patch_size / (first.stride * second.stride);
                let inputs = [
                    config.in_chans * first.kernel * first.kernel,
                    first.channels * second.kernel * second.kernel,
                    second.channels * config.tubelet_size * cells * cells,
                ];
                let proj = embeddings.pp("patch_embeddings").pp("proj").fine();
                Stem::Conv(Box::new(ConvStem {
                    sizes,
                    first: Linear::load(&w.pp("first"), inputs[0], first.channels, true, Precision::Dense),
                    second: Linear::load(&w.pp("second"), inputs[1], second.channels, true, Precision::Dense),
                    proj: Linear::load(&proj, inputs[2], config.hidden_size, true, Precision::Dense),
                    geometry: [first, second],
                }))
            }
        }
    }

    fn patches(embeddings: &Weights, config: &VisionConfig, sizes: Sizes) -> Stem {
        let (w, hidden) = (embeddings.pp("patch_embeddings").pp("proj"), config.hidden_size);
        let Sizes { channels, patch, tubelet, .. } = sizes;
        let shape = [hidden, channels, tubelet, patch, patch];
        Stem::Patches {
            weight: w.get(&shape, "weight", Init::FanIn(1.0)),
            bias: w.get(&[hidden], "bias", Init::Zeros),
            sizes,
        }
    }

    pub(super) fn forward(&self, clips: &[ArrayView4<f32>]) -> Result<Tensor> {
        match self {
            Stem::Patches { weight, bias, sizes } => {
                let flat = sizes.tubelets(clips)?; // [tokens, channels * tubelet * patch * patch]
                flat.matmul(&weight.flatten_from(1)?.t()?)?.broadcast_add(bias)
            }
            Stem::Conv(conv) => conv.forward(clips),
        }
    }

    pub(super) fn facts(&self) -> Vec<LayerFacts> {
        match self {
            Stem::Patches { .. } => Vec::new(),
            Stem::Conv(conv) => vec![conv.first.facts(), conv.second.facts(), conv.proj.facts()],
        }
    }
}

impl Sizes {
    /// Which frames fill the tubelets of a clip of `frames` frames, in order.
    fn frames(&self, frames: usize) -> impl Iterator<Item = usize> {
        let available = if frames < self.tubelet { frames * self.tubelet } else { frames };
        (0..available / self.tubelet * self.tubelet).map(move |i| i % frames)
    }

    fn tubelets(&self, clips: &[ArrayView4<f32>]) -> Result<Tensor> {
        let Sizes { channels, side, patch, tubelet } = *self;
        let grid = side / patch;
        let width = channels * tubelet * patch * patch;
        let mut flat = Vec::new();
        for clip in clips {
            let clip = clip.as_standard_layout();
            let pixels = clip.as_slice().expect("standard layout is contiguous");
            let frames: Vec<usize> = self.frames(clip.dim().0).collect();
            for step in frames.chunks_exact(tubelet) {
                for cell in 0..grid * grid {
                    let (y, x) = (cell / grid * patch, cell % grid * patch);
                    for channel in 0..channels {
                        for frame in step {
                            for row in y..y + patch {
                                let at = ((frame * channels + channel) * side + row) * side + x;
                                flat.extend_from_slice(&pixels[at..at + patch]);
                            }
                        }
                    }
                }
            }
        }
        let tokens = flat.len() / width;
        Tensor::from_vec(flat, (tokens, width), &Device::Cpu)
    }
}

impl ConvStem {
    fn forward(&self, clips: &[ArrayView4<f32>]) -> Result<Tensor> {
        let [first, second] = self.geometry;
        let side1 = self.sizes.side / first.stride;
        let side2 = side1 / second.stride;
        let gelu = Activation::GeluErf;
        let (windows, frames) = self.windows(clips)?; // [frames * side1^2, channels * kernel^2]
        let x = gelu.apply(&self.first.forward(&windows)?)?; // [frames * side1^2, channels1]
        let outside = Tensor::zeros((1, first.channels), x.dtype(), &Device::Cpu)?;
        let x = rows::gather(&rows::concat(&[&x, &outside])?, &second.cells(frames, side1))?;
        let x = x.reshape((frames * side2 * side2, ()))?; // [frames * side2^2, kernel^2 * channels1]
        let x = gelu.apply(&self.second.forward(&x)?)?; // [frames * side2^2, channels2]
        let cells = self.sizes.patch / (first.stride * second.stride);
        let order = self.tubelet_cells(frames, side2, cells);
        let tokens = order.len() / (self.sizes.tubelet * cells * cells);
        let x = rows::gather(&x, &order)?.reshape((tokens, ()))?; // [tokens, tubelet * cells^2 * channels2]
        self.proj.forward(&x)
    }

    /// The first convolution's windows over pixels, zero outside the frame, and the number of frames.
    fn windows(&self, clips: &[ArrayView4<f32>]) -> Result<(Tensor, usize)> {
        let Sizes { channels, side, .. } = self.sizes;
        let first = self.geometry[0];
        let (out, width) = (side / first.stride, channels * first.kernel * first.kernel);
        let mut flat = Vec::new();
        let mut frames = 0;
        for clip in clips {
            let clip = clip.as_standard_layout();
            let pixels = clip.as_slice().expect("standard layout is contiguous");
            for frame in self.sizes.frames(clip.dim().0) {
                let image = &pixels[frame * channels * side * side..][..channels * side * side];
                let start = flat.len();
                flat.resize(start + out * out * width, 0.0);
                for (cell, window) in flat[start..].chunks_exact_mut(width).enumerate() {
                    first.copy_window(image, side, (cell / out, cell % out), window);
                }
                frames += 1;
            }
        }
        Ok((Tensor::from_vec(flat, (frames * out * out, width), &Device::Cpu)?, frames))
    }

    /// For each token, the rows of the cells in its tubelet: frame, row, column.
    fn tubelet_cells(&self, frames: usize, side: usize, cells: usize) -> Vec<u32> {
        let (grid, tubelet) = (side / cells, self.sizes.tubelet);
        let mut order = Vec::with_capacity(frames * side * side);
        for step in 0..frames / tubelet {
            for token in 0..grid * grid {
                for frame in step * tubelet..(step + 1) * tubelet {
                    for cell in 0..cells * cells {
                        let y = token / grid * cells + cell / cells;
                        let x = token % grid * cells + cell % cells;
                        order.push(((frame * side + y) * side + x) as u32);
                    }
                }
            }
        }
        order
    }
}

impl Convolution {
    /// Cells of padding before the first one; the rest of `kernel - stride` comes after the last.
    fn before(&self) -> usize {
        (self.kernel - self.stride).div_ceil(2)
    }

    /// Where tap `tap` of output `out` reads, unless outside.
    fn reads(&self, out: usize, tap: usize, side: usize) -> Option<usize> {
        (out * self.stride + tap).checked_sub(self.before()).filter(|&at| at < side)
    }

    /// Fills `window` (channels x rows x columns, zeroed) around one output cell.
    fn copy_window(&self, image: &[f32], side: usize, (y, x): (usize, usize), window: &mut [f32]) {
        for (line, taps) in window.chunks_exact_mut(self.kernel).enumerate() {
            let (channel, tap_y) = (line / self.kernel, line % self.kernel);
            let Some(row) = self.reads(y, tap_y, side) else { continue };
            let pixels = &image[(channel * side + row) * side..][..side];
            for (tap_x, tap) in taps.iter_mut().enumerate() {
                if let Some(column) = self.reads(x, tap_x, side) {
                    *tap = pixels[column];
                }
            }
        }
    }

    /// Rows of a `[frames * side^2, channels]` table that each output cell reads; what lies outside is the row after
    /// the last.
    fn cells(&self, frames: usize, side: usize) -> Vec<u32> {
        let (out, outside) = (side / self.stride, frames * side * side);
        let mut ids = Vec::with_capacity(frames * out * out * self.kernel * self.kernel);
        for frame in 0..frames {
            for cell in 0..out * out {
                for tap in 0..self.kernel * self.kernel {
                    let row = self.reads(cell / out, tap / self.kernel, side);
                    let column = self.reads(cell % out, tap % self.kernel, side);
                    let inside = row.zip(column).map(|(y, x)| (frame * side + y) * side + x);
                    ids.push(inside.unwrap_or(outside) as u32);
                }
            }
        }
        ids
    }
}
