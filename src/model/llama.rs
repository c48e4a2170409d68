//! The stack that predictor and decoder share: Llama blocks (RMSNorm, grouped-query attention with half-split
//! rotation, gated MLP), with BitNet b1.58's sub-norms, squared ReLU and ternary linears where the config says so.
//! Names are Hugging Face's (`model.layers.N.*`, `model.norm`, `model.embed_tokens`, `lm_head`). Which rows see which,
//! and at what positions, is the caller's matter: a [`Sequence`].

use super::Observer;
use super::config::LlamaConfig;
use crate::nn::activation::Activation;
use crate::nn::attention::{Heads, Plan, Products, attention_in};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::norm::RmsNorm;
use crate::nn::rope::Rotary;
use crate::nn::rows;
use crate::nn::source::Source;
use crate::nn::table::Table;
use crate::nn::weights::{Init, Weights};
use candle_core::{Result, Tensor, bail};
use std::ops::Range;
use std::sync::Arc;

/// A stack of blocks with its token embedding and output head.
pub struct Llama {
    /// Sizes and settings.
    pub config: LlamaConfig,
    embed_tokens: Table,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// Scores over the vocabulary, the embedding's weights where they are tied; a stack that speaks no words has none.
    lm_head: Option<Head>,
    inverse_frequencies: Vec<f32>,
}

struct Head {
    linear: Linear,
    tied: bool,
}

/// Where the rows stand and which rows each of them sees.
pub struct Sequence {
    rotary: Rotary,
    plan: Arc<Plan>,
}

/// Keys and values of earlier rows, layer by layer; new rows are put behind them.
#[derive(Default)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
}

struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

struct Attention {
    /// `q_proj`, `k_proj`, `v_proj`
    qkv: Linear<3>,
    o_proj: Linear,
    attn_sub_norm: Option<RmsNorm>,
    heads: Heads,
    products: Products,
}

struct Mlp {
    /// `gate_proj`, `up_proj`
    gate_up: Linear<2>,
    down_proj: Linear,
    ffn_sub_norm: Option<RmsNorm>,
    activation: Activation,
}

impl Llama {
    /// Reads the stack with its output head. Faults are noted in `weights`.
    pub fn load(weights: &Weights, config: &LlamaConfig) -> Llama {
        // asked for where the config says that there is one, so that its absence is a fault
        let tied = config.tie_word_embeddings != Some(false) && !weights.has("lm_head.weight");
        let place = if tied { weights.pp("model").pp("embed_tokens") } else { weights.pp("lm_head") };
        let silent = Llama::load_silent(weights, config);
        let linear = Linear::load(&place, config.hidden_size, config.vocab_size, false, Precision::Dense);
        Llama { lm_head: Some(Head { linear, tied }), ..silent }
    }

    /// Reads the stack alone, which speaks no words. Faults are noted in `weights`.
    pub fn load_silent(weights: &Weights, config: &LlamaConfig) -> Llama {
        let w = weights.pp("model");
        let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
        Llama {
            embed_tokens: Table::load(&w.pp("embed_tokens"), vocabulary, hidden, Init::Normal(0.6)),
            layers: (0..config.num_hidden_layers).map(|i| Layer::load(&w.pp("layers").pp(i), config)).collect(),
            norm: RmsNorm::load(&w.pp("norm"), hidden, config.rms_norm_eps, false),
            lm_head: None,
            inverse_frequencies: config.inverse_frequencies(),
            config: config.clone(),
        }
    }

    /// Rows of the token embedding, `[ids, hidden]`.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.embed_tokens.gather(ids)
    }

    /// Rows at `positions` that see each other as `plan` says.
    pub fn sequence(&self, positions: &[f32], plan: Plan) -> Sequence {
        Sequence { rotary: Rotary::half_split(positions, &self.inverse_frequencies), plan: Arc::new(plan) }
    }

    /// Runs some of the blocks over rows `[n, hidden]`, showing `layer0`, `layer1` ... counted from the first one run.
    pub fn run(&self, x: Tensor, layers: Range<usize>, sequence: &Sequence, observer: &mut Observer) -> Result<Tensor> {
        let mut x = x;
        for (i, layer) in self.layers[layers].iter().enumerate() {
            x = layer.forward(x, sequence, None)?;
            observer(&format!("layer{i}"), &x);
        }
        Ok(x)
    }

    /// Runs all blocks over new rows; keys are the cache's rows and then the new ones.
    pub fn extend(&self, x: Tensor, sequence: &Sequence, cache: &mut Cache) -> Result<Tensor> {
        let mut x = x;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, sequence, Some((cache, i)))?;
        }
        Ok(x)
    }

    /// The final norm.
    pub fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x)
    }

    /// Scores over the vocabulary of normalised rows, `[n, vocabulary]`.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        match &self.lm_head {
            Some(head) => head.linear.forward(x),
            None => bail!("the stack has no output head"),
        }
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Frequencies of the rotation, radians a token.
    pub fn inverse_frequencies(&self) -> &[f32] {
        &self.inverse_frequencies
    }

    /// What the embedding, the blocks' linears and the head hold.
    pub fn facts(&self) -> Vec<LayerFacts> {
        let head = self.lm_head.iter().map(|Head { linear, tied }| {
            let facts = linear.facts();
            // tied parameters are the embedding's, held a second time in a form to multiply with
            LayerFacts { parameters: if *tied { 0 } else { facts.parameters }, ..facts }
        });
        let of = |Layer { self_attn, mlp, .. }: &Layer| {
            [self_attn.qkv.facts(), self_attn.o_proj.facts(), mlp.gate_up.facts(), mlp.down_proj.facts()]
        };
        self.layers.iter().flat_map(of).chain(head).chain([self.embed_tokens.facts()]).collect()
    }
}

impl Layer {
    fn load(w: &Weights, config: &LlamaConfig) -> Layer {
        let norm = |name| RmsNorm::load(&w.pp(name), config.hidden_size, config.rms_norm_eps, false);
        Layer {
            input_layernorm: norm("input_layernorm"),
            self_attn: Attention::load(&w.pp("self_attn"), config),
            post_attention_layernorm: norm("post_attention_layernorm"),
            mlp: Mlp::load(&w.pp("mlp"), config),
        }
    }

    fn forward(&self, x: Tensor, sequence: &Sequence, cache: Option<(&mut Cache, usize)>) -> Result<Tensor> {
        let x = self.self_attn.onto(&x, &self.input_layernorm, sequence, cache)?;
        self.mlp.onto(&x, &self.post_attention_layernorm)
    }
}

impl Attention {
    fn load(w: &Weights, config: &LlamaConfig) -> Attention {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim());
        let wide = config.num_attention_heads * head_dim;
        let narrow = config.key_value_heads() * head_dim;
        let (bias, precision) = (config.attention_bias, config.precision());
        let sub_norm = || RmsNorm::load(&w.pp("attn_sub_norm"), wide, config.rms_norm_eps, false);
        Attention {
            qkv: Linear::stack(
                [(w.pp("q_proj"), wide), (w.pp("k_proj"), narrow), (w.pp("v_proj"), narrow)],
                hidden,
                bias,
                precision,
            ),
            o_proj: Linear::load(&w.pp("o_proj"), wide, hidden, bias, precision),
            attn_sub_norm: config.attn_sub_norm.unwrap_or(config.is_bitnet()).then(sub_norm),
            heads: Heads {
                query: config.num_attention_heads,
                key_value: config.key_value_heads(),
                scale: (head_dim as f32).powf(-0.5),
            },
            products: w.dense().products(),
        }
    }

    /// `x + attention(norm(x))`
    fn onto(
        &self,
        x: &Tensor,
        norm: &RmsNorm,
        sequence: &Sequence,
        cache: Option<(&mut Cache, usize)>,
    ) -> Result<Tensor> {
        let Heads { query, key_value, .. } = self.heads;
        let [q, k, mut v] = self.qkv.products(Source::RmsNormed(norm, x))?;
        let q = sequence.rotary.apply(&q, query)?; // [n, query heads * head_dim]
        let mut k = sequence.rotary.apply(&k, key_value)?; // [n, kv heads * head_dim]
        if let Some((cache, layer)) = cache {
            (k, v) = cache.append(layer, k, v)?; // [earlier + n, kv heads * head_dim]
        }
        let mixed = attention_in(self.products, [&q, &k, &v], self.heads, &sequence.plan)?;
        let mixed = self.attn_sub_norm.as_ref().map_or(Source::Rows(&mixed), |norm| Source::RmsNormed(norm, &mixed));
        self.o_proj.onto(x, mixed)
    }
}

impl Cache {
    fn append(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let joined = match self.layers.get(layer) {
            Some((before_k, before_v)) => (rows::concat(&[before_k, &k])?, rows::concat(&[before_v, &v])?),
            None => (k, v),
        };
        match self.layers.get_mut(layer) {
            Some(slot) => *slot = joined.clone(),
            None => self.layers.push(joined.clone()),
        }
        Ok(joined)
    }
}

impl Mlp {
    fn load(w: &Weights, config: &LlamaConfig) -> Mlp {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (bias, precision) = (config.mlp_bias, config.precision());
        let sub_norm = || RmsNorm::load(&w.pp("ffn_sub_norm"), wide, config.rms_norm_eps, false);
        Mlp {
            gate_up: Linear::stack([(w.pp("gate_proj"), wide), (w.pp("up_proj"), wide)], hidden, bias, precision),
            down_proj: Linear::load(&w.pp("down_proj"), wide, hidden, bias, precision),
            ffn_sub_norm: config.ffn_sub_norm.unwrap_or(config.is_bitnet()).then(sub_norm),
            activation: Activation::from_name(config.activation_name()).unwrap_or(Activation::Silu),
        }
    }

    /// `x + mlp(norm(x))`
    fn onto(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let [gate, up] = self.gate_up.products(Source::RmsNormed(norm, x))?; // [n, intermediate] each
        self.down_proj.onto(x, Source::Gated(self.activation, [&gate, &up], self.ffn_sub_norm.as_ref()))
    }
}
