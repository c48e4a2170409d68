//! The vision encoder: V-JEPA 2's pre-norm ViT with three-axis rotation (Hugging Face's names, with or without
//! `vjepa2.`), and its attentive pooler with a classifier where a checkpoint has one. V-JEPA's own masked predictor
//! (`predictor.*`) is left alone.

mod pooler;
mod stem;

use super::config::{PositionKind, VisionConfig};
use super::{Observer, unobserved};
use crate::input::Clip;
use crate::nn::activation::Activation;
use crate::nn::attention::{Heads, Plan, Products, attention_in};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::norm::LayerNorm;
use crate::nn::rope::Rotary;
use crate::nn::rows;
use crate::nn::source::Source;
use crate::nn::weights::{Init, Weights};
use candle_core::{Result, Tensor, bail};
use ndarray::ArrayView4;
use pooler::Classifier;
use std::ops::Range;
use std::sync::Arc;
use stem::Stem;

/// The visual tokens of some clips.
pub struct Visual {
    /// `[sum of tokens, hidden]`, clip after clip, each in the order time, row, column.
    pub tokens: Tensor,
    /// The rows of each clip.
    pub segments: Vec<Range<usize>>,
}

/// V-JEPA 2.
pub struct VisionEncoder {
    /// Sizes and settings.
    pub config: VisionConfig,
    stem: Stem,
    positions: Option<Tensor>,
    layers: Vec<Layer>,
    layernorm: LayerNorm,
    classifier: Option<Classifier>,
}

struct Layer {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

struct Attention {
    /// `query`, `key`, `value`
    qkv: Linear<3>,
    proj: Linear,
    heads: usize,
    products: Products,
}

/// fc1, activation, fc2: here and in the pooler.
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl VisionEncoder {
    /// Reads the encoder, and the pooler and classifier where the weights have them. Faults are noted in `weights`.
    pub fn load(weights: &Weights, config: &VisionConfig) -> VisionEncoder {
        let root = if weights.has_prefix("vjepa2.") { weights.pp("vjepa2") } else { weights.clone() };
        let encoder = root.pp("encoder");
        let embeddings = encoder.pp("embeddings");
        let places = config.steps() * config.tokens_per_step();
        let table = || embeddings.get(&[places, config.hidden_size], "position_embeddings", Init::Normal(0.02));
        VisionEncoder {
            stem: Stem::load(&embeddings, config),
            positions: (config.position == PositionKind::RopeLearned).then(table),
            layers: (0..config.num_hidden_layers).map(|i| Layer::load(&encoder.pp("layer").pp(i), config)).collect(),
            layernorm: LayerNorm::load(&encoder.pp("layernorm"), config.hidden_size, config.layer_norm_eps),
            classifier: weights.has_prefix("pooler.").then(|| Classifier::load(weights, config)),
            config: config.clone(),
        }
    }

    /// The visual tokens of some clips; a clip's pixels are `[frames, 3, crop_size, crop_size]`, normalised.
    pub fn forward(&self, clips: &[&Clip]) -> Result<Visual> {
        let pixels: Vec<_> = clips.iter().map(|clip| clip.pixels.view()).collect();
        self.observe(&pixels, &mut unobserved)
    }

    /// [`forward`](Self::forward) over bare pixels, showing `patch_embed`, `attended0` (before the first block's
    /// MLP), `layer0` ...
    pub fn observe(&self, clips: &[ArrayView4<f32>], observer: &mut Observer) -> Result<Visual> {
        let steps = clips.iter().map(|clip| self.check(clip)).collect::<Result<Vec<_>>>()?;
        let segments = self.segments(&steps);
        let plan = Arc::new(Plan::full(&segments));
        let rotary = Rotary::three_axis(&self.places(&steps), self.config.head_dim(), self.config.rope_theta as f32);
        let mut x = self.stem.forward(clips)?; // [tokens, hidden]
        if let Some(table) = &self.positions {
            x = (x + self.learned(table, &segments)?)?;
        }
        observer("patch_embed", &x);
        for (i, layer) in self.layers.iter().enumerate() {
            let mixed = layer.attention.mixed(&x, &layer.norm1, &rotary, &plan)?;
            x = layer.attention.proj.onto(&x, Source::Rows(&mixed))?;
            observer(&format!("attended{i}"), &x);
            x = layer.mlp.onto(&x, &layer.norm2)?;
            observer(&format!("layer{i}"), &x);
        }
        let tokens = self.layernorm.forward(&x)?;
        observer("last_hidden_state", &tokens);
        Ok(Visual { tokens, segments })
    }

    /// Pooled rows `[clips, hidden]` and class logits `[clips, classes]`, where the checkpoint has a classifier.
    pub fn classify(&self, visual: &Visual) -> Result<Option<(Tensor, Tensor)>> {
        self.classifier.as_ref().map(|classifier| classifier.forward(visual)).transpose()
    }

    /// What the linears hold.
    pub fn facts(&self) -> Vec<LayerFacts> {
        self.layers.iter().flat_map(Layer::facts).chain(self.stem.facts()).collect()
    }

    fn check(&self, clip: &ArrayView4<f32>) -> Result<usize> {
        let (frames, channels, height, width) = clip.dim();
        let side = self.config.crop_size;
        if frames == 0 || (channels, height, width) != (self.config.in_chans, side, side) {
            bail!(
                "clip is [{frames}, {channels}, {height}, {width}]; the vision encoder takes [1.., 3, {side}, {side}]"
            );
        }
        Ok(self.config.steps_of(frames))
    }

    fn segments(&self, steps: &[usize]) -> Vec<Range<usize>> {
        let mut end = 0;
        let mut segment = |steps: &usize| {
            let start = end;
            end += steps * self.config.tokens_per_step();
            start..end
        };
        steps.iter().map(&mut segment).collect()
    }

    /// (time, row, column) of every token.
    fn places(&self, steps: &[usize]) -> Vec<[f32; 3]> {
        let grid = self.config.grid();
        let cells = |t: usize| (0..grid * grid).map(move |i| [t as f32, (i / grid) as f32, (i % grid) as f32]);
        steps.iter().flat_map(|&steps| (0..steps).flat_map(cells)).collect()
    }

    fn learned(&self, table: &Tensor, segments: &[Range<usize>]) -> Result<Tensor> {
        let places = table.dim(0)?;
        if let Some(long) = segments.iter().find(|segment| segment.len() > places) {
            bail!("clip makes {} tokens; the learned positions end at {places}", long.len());
        }
        let ids: Vec<u32> = segments.iter().flat_map(|segment| 0..segment.len() as u32).collect();
        rows::gather(table, &ids)
    }
}

impl Layer {
    fn load(w: &Weights, config: &VisionConfig) -> Layer {
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        Layer {
            norm1: LayerNorm::load(&w.pp("norm1"), hidden, eps),
            attention: Attention::load(&w.pp("attention"), config),
            norm2: LayerNorm::load(&w.pp("norm2"), hidden, eps),
            mlp: Mlp::load(&w.pp("mlp"), config, config.intermediate_size()),
        }
    }

    fn facts(&self) -> [LayerFacts; 4] {
        let Attention { qkv, proj, .. } = &self.attention;
        [qkv.facts(), proj.facts(), self.mlp.fc1.facts(), self.mlp.fc2.facts()]
    }
}

impl Attention {
    fn load(w: &Weights, config: &VisionConfig) -> Attention {
        let hidden = config.hidden_size;
        // docs/PRECISION.md: of all bytes, those of the values cost the worst token most.
        let places = [w.pp("query"), w.pp("key"), w.pp("value").fine()].map(|place| (place, hidden));
        Attention {
            qkv: Linear::stack(places, hidden, config.qkv_bias, Precision::Dense),
            proj: Linear::load(&w.pp("proj"), hidden, hidden, true, Precision::Dense),
            heads: config.num_attention_heads,
            products: w.dense().products(),
        }
    }

    /// The rows that `proj` takes: `x` is the block's input.
    fn mixed(&self, x: &Tensor, norm: &LayerNorm, rotary: &Rotary, plan: &Arc<Plan>) -> Result<Tensor> {
        let [query, key, value] = self.qkv.products(Source::LayerNormed(norm, x))?;
        let query = rotary.apply(&query, self.heads)?; // [tokens, heads * head_dim]
        let key = rotary.apply(&key, self.heads)?;
        attention_in(self.products, [&query, &key, &value], even_heads(&query, self.heads)?, plan)
    }
}

/// As many key and value heads as query heads; scores are divided by the root of the head's width.
fn even_heads(query: &Tensor, heads: usize) -> Result<Heads> {
    let head_dim = query.dim(1)? / heads;
    Ok(Heads { query: heads, key_value: heads, scale: (head_dim as f32).powf(-0.5) })
}

impl Mlp {
    fn load(w: &Weights, config: &VisionConfig, wide: usize) -> Mlp {
        let hidden = config.hidden_size;
        Mlp {
            fc1: Linear::load(&w.pp("fc1"), hidden, wide, true, Precision::Dense),
            fc2: Linear::load(&w.pp("fc2"), wide, hidden, true, Precision::Dense),
            activation: Activation::from_name(&config.hidden_act).unwrap_or(Activation::GeluErf),
        }
    }

    /// `x + mlp(norm(x))`
    fn onto(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let wide = self.fc1.of(Source::LayerNormed(norm, x))?; // [tokens, intermediate]
        self.fc2.onto(x, Source::Activated(self.activation, &wide))
    }
}
