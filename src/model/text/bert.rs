//! BERT as MiniLM uses it: word, position and type embeddings, post-norm blocks, exact GELU. Hugging Face's names,
//! with or without `bert.`; the checkpoint's own pooler is left alone.

use crate::model::Observer;
use crate::model::config::BertConfig;
use crate::nn::activation::Activation;
use crate::nn::attention::{Heads, Plan, Products, attention_in};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::norm::LayerNorm;
use crate::nn::rows;
use crate::nn::source::Source;
use crate::nn::table::Table;
use crate::nn::weights::{Init, Weights};
use candle_core::{Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

pub(super) struct Bert {
    word_embeddings: Table,
    position_embeddings: Tensor,
    token_type_embeddings: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: Heads,
    products: Products,
}

struct Layer {
    /// `query`, `key`, `value`
    qkv: Linear<3>,
    attended: Linear,
    attended_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    activation: Activation,
}

impl Bert {
    pub(super) fn load(weights: &Weights, config: &BertConfig) -> Bert {
        let root = if weights.has_prefix("bert.") { weights.pp("bert") } else { weights.clone() };
        let (w, hidden) = (root.pp("embeddings"), config.hidden_size);
        let table = |name, count, std| w.pp(name).get(&[count, hidden], "weight", Init::Normal(std));
        let head_dim = hidden / config.num_attention_heads;
        Bert {
            word_embeddings: Table::load(&w.pp("word_embeddings"), config.vocab_size, hidden, Init::Normal(0.6)),
            position_embeddings: table("position_embeddings", config.max_position_embeddings, 0.1),
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size, 0.02),
            norm: LayerNorm::load(&w.pp("LayerNorm"), hidden, config.layer_norm_eps),
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&root.pp("encoder").pp("layer").pp(i), config))
                .collect(),
            heads: Heads {
                query: config.num_attention_heads,
                key_value: config.num_attention_heads,
                scale: (head_dim as f32).powf(-0.5),
            },
            products: w.dense().products(),
        }
    }

    pub(super) fn forward(&self, ids: &[u32], texts: &[Range<usize>], observer: &mut Observer) -> Result<Tensor> {
        let places: Vec<u32> = texts.iter().flat_map(|text| 0..text.len() as u32).collect();
        let words = self.word_embeddings.gather(ids)?;
        let types = rows::gather(&self.token_type_embeddings, &vec![0; ids.len()])?;
        let x = ((words + rows::gather(&self.position_embeddings, &places)?)? + types)?;
        let mut x = self.norm.forward(&x)?; // [tokens, hidden]
        observer("embeddings", &x);
        let plan = Arc::new(Plan::full(texts));
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, (self.heads, self.products), &plan)?;
            observer(&format!("layer{i}"), &x);
        }
        Ok(x)
    }

    pub(super) fn facts(&self) -> Vec<LayerFacts> {
        self.layers.iter().flat_map(Layer::facts).chain([self.word_embeddings.facts()]).collect()
    }
}

impl Layer {
    fn load(w: &Weights, config: &BertConfig) -> Layer {
        let (hidden, wide, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (own, output) = (w.pp("attention").pp("self"), w.pp("attention").pp("output"));
        let qkv = ["query", "key", "value"].map(|name| (own.pp(name), hidden));
        Layer {
            qkv: Linear::stack(qkv, hidden, true, Precision::Dense),
            attended: Linear::load(&output.pp("dense"), hidden, hidden, true, Precision::Dense),
            attended_norm: LayerNorm::load(&output.pp("LayerNorm"), hidden, eps),
            intermediate: Linear::load(&w.pp("intermediate").pp("dense"), hidden, wide, true, Precision::Dense),
            output: Linear::load(&w.pp("output").pp("dense"), wide, hidden, true, Precision::Dense),
            output_norm: LayerNorm::load(&w.pp("output").pp("LayerNorm"), hidden, eps),
            activation: Activation::from_name(&config.hidden_act).unwrap_or(Activation::GeluErf),
        }
    }

    fn forward(&self, x: &Tensor, (heads, products): (Heads, Products), plan: &Arc<Plan>) -> Result<Tensor> {
        let [q, k, v] = self.qkv.products(Source::Rows(x))?;
        let mixed = attention_in(products, [&q, &k, &v], heads, plan)?;
        let attended = self.attended.onto(x, Source::Rows(&mixed))?;
        let x = self.attended_norm.forward(&attended)?;
        let wide = self.intermediate.forward(&x)?; // [tokens, intermediate]
        self.output_norm.forward(&self.output.onto(&x, Source::Activated(self.activation, &wide))?)
    }

    fn facts(&self) -> [LayerFacts; 4] {
        [self.qkv.facts(), self.attended.facts(), self.intermediate.facts(), self.output.facts()]
    }
}
