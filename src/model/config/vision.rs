//! The vision encoder's config: V-JEPA 2 as published, and two departures that a small model trained from scratch
//! wants (a convolutional stem, learned positions). What is absent has V-JEPA 2's own default (ViT-L, 256 pixels).

use super::{Faults, LAYERS_MAX, POSITIONS_MAX, WIDTH_MAX};
use crate::model::precision::DenseKind;
use serde::{Deserialize, Serialize};

/// `vjepa2`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Always `vjepa2`.
    pub model_type: String,
    /// Side of a token's patch, pixels.
    pub patch_size: usize,
    /// Side of a frame, pixels.
    pub crop_size: usize,
    /// Frames of a clip as trained.
    pub frames_per_clip: usize,
    /// Frames of one token.
    pub tubelet_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Colour channels.
    pub in_chans: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Width of the MLP over `hidden_size`.
    pub mlp_ratio: f64,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Whether query, key and value have a bias.
    pub qkv_bias: bool,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Self-attention blocks of the attentive pooler (read where the weights hold a pooler).
    pub num_pooler_layers: usize,
    /// Class names of the classifier, by index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id2label: Option<std::collections::BTreeMap<String, String>>,
    /// How pixels become tokens; absent: one linear map of a tubelet, as published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// How a token knows its place.
    pub position: PositionKind,
    /// Base of the rotation's frequencies (10000 as published).
    pub rope_theta: f64,
    /// How dense weights are held in serving; absent: whatever this chip is best at.
    #[serde(rename = "precision", skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseKind>,
}

/// A stem other than the published one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stem {
    /// Two convolutions, each followed by GELU, shared by all frames; a token is then a linear map of the cells
    /// that its tubelet covers.
    Conv {
        /// From pixels.
        first: Convolution,
        /// From the first one's channels.
        second: Convolution,
    },
}

/// One square convolution, padded so that its output is `input / stride` cells wide.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Convolution {
    /// Side of the kernel, cells.
    pub kernel: usize,
    /// Step, cells.
    pub stride: usize,
    /// Channels that come out.
    pub channels: usize,
}

/// How a token knows its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PositionKind {
    /// Three-axis rotation only, as published.
    #[default]
    #[serde(rename = "rope")]
    Rope,
    /// Rotation, and a learned vector for every place added at the input.
    #[serde(rename = "rope+learned")]
    RopeLearned,
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            model_type: "vjepa2".into(),
            patch_size: 16,
            crop_size: 256,
            frames_per_clip: 64,
            tubelet_size: 2,
            hidden_size: 1024,
            in_chans: 3,
            num_attention_heads: 16,
            num_hidden_layers: 24,
            mlp_ratio: 4.0,
            layer_norm_eps: 1e-6,
            qkv_bias: true,
            hidden_act: "gelu".into(),
            num_pooler_layers: 3,
            id2label: None,
            stem: None,
            position: PositionKind::Rope,
            rope_theta: 10_000.0,
            dense: None,
        }
    }
}

impl VisionConfig {
    /// Tokens along a frame's side.
    pub fn grid(&self) -> usize {
        self.crop_size / self.patch_size
    }

    /// Tokens of one step in time.
    pub fn tokens_per_step(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Steps in time of a clip as trained.
    pub fn steps(&self) -> usize {
        (self.frames_per_clip / self.tubelet_size).max(1)
    }

    /// Steps in time that `frames` frames make: too few are repeated, what does not fill a tubelet is dropped.
    pub fn steps_of(&self, frames: usize) -> usize {
        if frames < self.tubelet_size { frames } else { frames / self.tubelet_size }
    }

    /// Dimensions of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of the MLP.
    pub fn intermediate_size(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    /// Bounds and relations.
    pub fn check(&self, faults: &mut Faults) {
        faults.that(self.model_type == "vjepa2", "model_type", &self.model_type, "must be vjepa2");
        faults.within("patch_size", self.patch_size, 1..=256);
        faults.within("crop_size", self.crop_size, 1..=4096);
        faults.within("frames_per_clip", self.frames_per_clip, 1..=4096);
        faults.within("tubelet_size", self.tubelet_size, 1..=64);
        faults.within("hidden_size", self.hidden_size, 1..=WIDTH_MAX);
        faults.within("in_chans", self.in_chans, 3..=3);
        faults.within("num_attention_heads", self.num_attention_heads, 1..=1024);
        faults.within("num_hidden_layers", self.num_hidden_layers, 1..=LAYERS_MAX);
        faults.divides("crop_size", self.crop_size, self.patch_size);
        faults.divides("hidden_size", self.hidden_size, self.num_attention_heads);
        let width = self.hidden_size as f64 * self.mlp_ratio;
        faults.that((1.0..=WIDTH_MAX as f64).contains(&width), "mlp_ratio", self.mlp_ratio, "must make a width");
        faults.epsilon("layer_norm_eps", self.layer_norm_eps);
        faults.base("rope_theta", self.rope_theta);
        let gelu = crate::nn::activation::Activation::from_name(&self.hidden_act).is_some();
        faults.that(gelu, "hidden_act", &self.hidden_act, "must be a known activation");
        if let Some(Stem::Conv { first, second }) = &self.stem {
            for (name, convolution) in [("stem.first", first), ("stem.second", second)] {
                let Convolution { kernel, stride, channels } = *convolution;
                let ok = stride >= 1 && (stride..=64).contains(&kernel) && (1..=WIDTH_MAX).contains(&channels);
                let value = format_args!("{kernel}x{kernel} stride {stride} to {channels}");
                faults.that(ok, name, value, "must have 1 <= stride <= kernel <= 64 and channels");
            }
            faults.divides("patch_size", self.patch_size, first.stride * second.stride);
        }
        if self.patch_size > 0 && self.tubelet_size > 0 {
            faults.within("frames_per_clip (as tokens)", self.steps() * self.tokens_per_step(), 1..=POSITIONS_MAX);
        }
    }
}
