//! Gemma 3 text without causal mask, as EmbeddingGemma uses it: embeddings times the root of the width, RMSNorm that
//! multiplies by 1 + w (also on each head's query and key), four norms a block, tanh-GELU gate, sliding windows with
//! every n-th layer full and a rotation of its own for each kind. Hugging Face's names, with or without `model.`.

use crate::model::Observer;
use crate::model::config::{GemmaConfig, LayerKind};
use crate::nn::activation::Activation;
use crate::nn::attention::{Heads, Plan, Products, attention_in};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::norm::RmsNorm;
use crate::nn::rope::{Rotary, inverse_frequencies};
use crate::nn::source::Source;
use crate::nn::table::Table;
use crate::nn::weights::{Init, Weights};
use candle_core::{Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

pub(super) struct Gemma {
    embed_tokens: Table,
    layers: Vec<Layer>,
    norm: RmsNorm,
    full: Vec<f32>,
    sliding: Vec<f32>,
    window: usize,
}

struct Layer {
    kind: LayerKind,
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    /// `gate_proj`, `up_proj`
    gate_up: Linear<2>,
    down_proj: Linear,
    activation: Activation,
    post_feedforward_layernorm: RmsNorm,
}

struct Attention {
    /// `q_proj`, `k_proj`, `v_proj`
    qkv: Linear<3>,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    head_dim: usize,
    heads: Heads,
    products: Products,
}

/// What the layers of one kind see and how they count positions.
struct View {
    rotary: Rotary,
    plan: Arc<Plan>,
}

impl Gemma {
    pub(super) fn load(weights: &Weights, config: &GemmaConfig) -> Gemma {
        let w = if weights.has_prefix("model.") { weights.pp("model") } else { weights.clone() };
        let frequencies = |kind| inverse_frequencies(config.head_dim, config.theta(kind));
        let layer = |i| Layer::load(&w.pp("layers").pp(i), config, config.layer_kind(i));
        Gemma {
            embed_tokens: Table::load(&w.pp("embed_tokens"), config.vocab_size, config.hidden_size, Init::Normal(0.02)),
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            norm: RmsNorm::load(&w.pp("norm"), config.hidden_size, config.rms_norm_eps, true),
            full: frequencies(LayerKind::Full),
            sliding: frequencies(LayerKind::Sliding),
            window: config.window(),
        }
    }

    pub(super) fn forward(&self, ids: &[u32], texts: &[Range<usize>], observer: &mut Observer) -> Result<Tensor> {
        let positions: Vec<f32> = texts.iter().flat_map(|text| (0..text.len()).map(|at| at as f32)).collect();
        let view = |frequencies: &[f32], plan| View {
            rotary: Rotary::half_split(&positions, frequencies),
            plan: Arc::new(plan),
        };
        let full = view(&self.full, Plan::full(texts));
        let sliding = view(&self.sliding, Plan::window(texts, self.window));
        let embedded = self.embed_tokens.gather(ids)?; // [tokens, hidden]
        let scale = (embedded.dim(1)? as f64).sqrt();
        let mut x = (embedded * scale)?;
        observer("embed", &x);
        for (i, layer) in self.layers.iter().enumerate() {
            let view = if layer.kind == LayerKind::Full { &full } else { &sliding };
            x = layer.forward(&x, view)?;
            observer(&format!("layer{i}"), &x);
        }
        self.norm.forward(&x)
    }

    pub(super) fn facts(&self) -> Vec<LayerFacts> {
        self.layers.iter().flat_map(Layer::facts).chain([self.embed_tokens.facts()]).collect()
    }
}

impl Layer {
    fn load(w: &Weights, config: &GemmaConfig, kind: LayerKind) -> Layer {
        let (hidden, wide, mlp) = (config.hidden_size, config.intermediate_size, w.pp("mlp"));
        let norm = |name| RmsNorm::load(&w.pp(name), hidden, config.rms_norm_eps, true);
        let gate_up = ["gate_proj", "up_proj"].map(|name| (mlp.pp(name), wide));
        Layer {
            kind,
            input_layernorm: norm("input_layernorm"),
            self_attn: Attention::load(&w.pp("self_attn"), config),
            post_attention_layernorm: norm("post_attention_layernorm"),
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm"),
            gate_up: Linear::stack(gate_up, hidden, false, Precision::Dense),
            down_proj: Linear::load(&mlp.pp("down_proj"), wide, hidden, false, Precision::Dense),
            activation: Activation::from_name(&config.hidden_activation).unwrap_or(Activation::GeluTanh),
            post_feedforward_layernorm: norm("post_feedforward_layernorm"),
        }
    }

    fn forward(&self, x: &Tensor, view: &View) -> Result<Tensor> {
        let attended = self.self_attn.forward(x, &self.input_layernorm, view)?;
        let x = (x + self.post_attention_layernorm.forward(&attended)?)?;
        let [gate, up] = self.gate_up.products(Source::RmsNormed(&self.pre_feedforward_layernorm, &x))?;
        let wide = self.down_proj.of(Source::Gated(self.activation, [&gate, &up], None))?;
        &x + self.post_feedforward_layernorm.forward(&wide)?
    }

    fn facts(&self) -> [LayerFacts; 4] {
        let Attention { qkv, o_proj, .. } = &self.self_attn;
        [qkv.facts(), o_proj.facts(), self.gate_up.facts(), self.down_proj.facts()]
    }
}

impl Attention {
    fn load(w: &Weights, config: &GemmaConfig) -> Attention {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (wide, narrow) = (config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim);
        let qkv =
            [("q_proj", wide), ("k_proj", narrow), ("v_proj", narrow)].map(|(name, outputs)| (w.pp(name), outputs));
        let norm = |name| RmsNorm::load(&w.pp(name), head_dim, config.rms_norm_eps, true);
        Attention {
            qkv: Linear::stack(qkv, hidden, config.attention_bias, Precision::Dense),
            o_proj: Linear::load(&w.pp("o_proj"), wide, hidden, config.attention_bias, Precision::Dense),
            q_norm: norm("q_norm"),
            k_norm: norm("k_norm"),
            head_dim,
            heads: Heads {
                query: config.num_attention_heads,
                key_value: config.num_key_value_heads,
                scale: config.query_pre_attn_scalar.powf(-0.5) as f32,
            },
            products: w.dense().products(),
        }
    }

    fn forward(&self, x: &Tensor, norm: &RmsNorm, view: &View) -> Result<Tensor> {
        let [q, k, v] = self.qkv.products(Source::RmsNormed(norm, x))?;
        let q = self.rotated(&q, &self.q_norm, self.heads.query, view)?;
        let k = self.rotated(&k, &self.k_norm, self.heads.key_value, view)?;
        let mixed = attention_in(self.products, [&q, &k, &v], self.heads, &view.plan)?;
        self.o_proj.forward(&mixed)
    }

    /// Normalises each head alone and rotates it; `[tokens, heads * head_dim]` in and out.
    fn rotated(&self, x: &Tensor, norm: &RmsNorm, heads: usize, view: &View) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let by_head = norm.forward(&x.reshape((tokens * heads, self.head_dim))?)?;
        view.rotary.apply(&by_head.reshape((tokens, heads * self.head_dim))?, heads)
    }
}
