//! The attentive pooler and classifier of V-JEPA 2's classification checkpoints: self-attention blocks without
//! rotation, then one learned query that looks at all tokens of a clip (without an output projection), then a linear
//! map to class logits.

use super::{Mlp, Visual, even_heads};
use crate::model::config::VisionConfig;
use crate::nn::attention::{Block, Mask, Plan, Products, attention_in};
use crate::nn::linear::{Linear, Precision};
use crate::nn::norm::LayerNorm;
use crate::nn::rows;
use crate::nn::weights::{Init, Weights};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Width of a block's MLP over the hidden width; `mlp_ratio` is the encoder's alone (ViT-g: 48/11).
const MLP_RATIO: usize = 4;

pub(super) struct Classifier {
    blocks: Vec<PoolerBlock>,
    query_tokens: Tensor,
    cross: PoolerBlock,
    classifier: Linear,
}

/// Self-attention with an output projection, or cross-attention without.
struct PoolerBlock {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Option<Linear>,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    heads: usize,
    products: Products,
}

impl Classifier {
    pub(super) fn load(weights: &Weights, config: &VisionConfig) -> Classifier {
        let (w, hidden) = (weights.pp("pooler"), config.hidden_size);
        let classes = config.id2label.as_ref().map_or(2, |labels| labels.len());
        let own = |i| PoolerBlock::load(&w.pp("self_attention_layers").pp(i), "self_attn", config);
        Classifier {
            blocks: (0..config.num_pooler_layers).map(own).collect(),
            query_tokens: w.get(&[1, 1, hidden], "query_tokens", Init::Zeros),
            cross: PoolerBlock::load(&w.pp("cross_attention_layer"), "cross_attn", config),
            classifier: Linear::load(&weights.pp("classifier"), hidden, classes, true, Precision::Dense),
        }
    }

    pub(super) fn forward(&self, visual: &Visual) -> Result<(Tensor, Tensor)> {
        let plan = Arc::new(Plan::full(&visual.segments));
        let mut x = visual.tokens.clone();
        for block in &self.blocks {
            let normed = block.layer_norm1.forward(&x)?;
            x = block.finish(&x, block.attend(&normed, &normed, &plan)?)?;
        }
        let clips = visual.segments.len();
        let query = rows::gather(&self.query_tokens.flatten_to(1)?, &vec![0; clips])?; // [clips, hidden]
        let look = |(i, segment): (usize, &std::ops::Range<usize>)| Block {
            queries: i..i + 1,
            keys: vec![segment.clone()],
            mask: Mask::Full,
        };
        let plan = Arc::new(Plan { blocks: visual.segments.iter().enumerate().map(look).collect() });
        let seen = self.cross.attend(&query, &self.cross.layer_norm1.forward(&x)?, &plan)?;
        let pooled = self.cross.finish(&query, seen)?;
        let logits = self.classifier.forward(&pooled)?;
        Ok((pooled, logits))
    }
}

impl PoolerBlock {
    fn load(w: &Weights, attention: &str, config: &VisionConfig) -> PoolerBlock {
        let (hidden, eps, a) = (config.hidden_size, config.layer_norm_eps, w.pp(attention));
        let linear = |name| Linear::load(&a.pp(name), hidden, hidden, true, Precision::Dense);
        PoolerBlock {
            layer_norm1: LayerNorm::load(&w.pp("layer_norm1"), hidden, eps),
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            out_proj: (attention == "self_attn").then(|| linear("out_proj")),
            layer_norm2: LayerNorm::load(&w.pp("layer_norm2"), hidden, eps),
            mlp: Mlp::load(&w.pp("mlp"), config, MLP_RATIO * hidden),
            heads: config.num_attention_heads,
            products: w.dense().products(),
        }
    }

    fn attend(&self, queries: &Tensor, seen: &Tensor, plan: &Arc<Plan>) -> Result<Tensor> {
        let query = self.q_proj.forward(queries)?;
        let (key, value) = (self.k_proj.forward(seen)?, self.v_proj.forward(seen)?);
        let mixed = attention_in(self.products, [&query, &key, &value], even_heads(&query, self.heads)?, plan)?;
        self.out_proj.as_ref().map_or(Ok(mixed.clone()), |out| out.forward(&mixed))
    }

    fn finish(&self, x: &Tensor, attended: Tensor) -> Result<Tensor> {
        self.mlp.onto(&(x + attended)?, &self.layer_norm2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::weights::Mode;

    #[test]
    fn the_encoders_mlp_ratio_does_not_reach_the_pooler() {
        // ViT-g
        let config = VisionConfig {
            hidden_size: 22,
            num_attention_heads: 2,
            mlp_ratio: 48.0 / 11.0,
            num_pooler_layers: 1,
            ..VisionConfig::default()
        };
        let weights = Weights::fresh(1, Mode::Train);
        Classifier::load(&weights, &config);
        let made = weights.variables();
        let shapes = made.iter().filter(|(name, _)| name.ends_with("fc1.weight")).map(|(_, fc1)| fc1.dims());
        assert_eq!(shapes.collect::<Vec<_>>(), [[88, 22]; 2]);
    }
}
