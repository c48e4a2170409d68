//! Configs of the text encoders: `gemma3_text` as EmbeddingGemma uses it, and `bert`. Both spellings of Gemma's two
//! rotations load: nested `rope_parameters`, and `rope_theta` + `rope_local_base_freq` of published files.

use super::{Faults, LAYERS_MAX, POSITIONS_MAX, RopeParameters, VOCABULARY_MAX, WIDTH_MAX};
use crate::model::precision::DenseKind;
use crate::nn::activation::Activation;
use serde::{Deserialize, Serialize};

/// The text encoder, by `model_type`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "model_type")]
pub enum TextConfig {
    /// EmbeddingGemma.
    #[serde(rename = "gemma3_text")]
    Gemma(Box<GemmaConfig>),
    /// MiniLM and its family.
    #[serde(rename = "bert")]
    Bert(BertConfig),
}

/// What is put before a text, by its use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// Before a question or search words.
    #[serde(default)]
    pub query: String,
    /// Before an answer, a caption or a document.
    #[serde(default)]
    pub document: String,
}

/// `gemma3_text`, bidirectional.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GemmaConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Activation of the gate.
    #[serde(default = "gelu_tanh")]
    pub hidden_activation: String,
    /// Epsilon of every RMSNorm.
    #[serde(default = "gemma_eps")]
    pub rms_norm_eps: f64,
    /// Scores are divided by the root of this.
    pub query_pre_attn_scalar: f64,
    /// W: a sliding layer sees |i - j| < W / 2 + 1.
    pub sliding_window: usize,
    /// Kind of each layer; absent: every n-th is full, n from `sliding_window_pattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_types: Option<Vec<LayerKind>>,
    /// Every n-th layer is full (6 where nothing is said).
    #[serde(default, rename = "_sliding_window_pattern", skip_serializing_if = "Option::is_none")]
    pub sliding_window_pattern: Option<usize>,
    /// Must be true: a causal Gemma is no text encoder.
    pub use_bidirectional_attention: bool,
    /// The two rotations, new spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<GemmaRope>,
    /// Base on full layers, old spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Base on sliding layers, old spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_local_base_freq: Option<f64>,
    /// Scaling of both rotations, old spelling: none is supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Gemma 2's bound on scores before the softmax: must be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_logit_softcapping: Option<f64>,
    /// Bias on q, k, v, o.
    #[serde(default)]
    pub attention_bias: bool,
    /// Longest text, tokens.
    #[serde(default = "gemma_tokens")]
    pub max_position_embeddings: usize,
    /// What is put before a text.
    #[serde(default)]
    pub prompts: Prompts,
    /// How dense weights are held in serving; absent: whatever this chip is best at.
    #[serde(default, rename = "precision", skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseKind>,
}

/// Rotation by kind of layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GemmaRope {
    /// On full layers.
    pub full_attention: RopeParameters,
    /// On sliding layers.
    pub sliding_attention: RopeParameters,
}

/// What a layer's tokens see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerKind {
    /// Everything.
    #[serde(rename = "full_attention")]
    Full,
    /// Neighbours.
    #[serde(rename = "sliding_attention")]
    Sliding,
}

/// `bert`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BertConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Activation of the MLP.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Rows of the position table: the longest text, tokens.
    pub max_position_embeddings: usize,
    /// `absolute` or absent: the table above is all that tells places apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_embedding_type: Option<String>,
    /// Rows of the token-type table; row 0 is used.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Epsilon of every LayerNorm.
    #[serde(default = "bert_eps")]
    pub layer_norm_eps: f64,
    /// What is put before a text.
    #[serde(default)]
    pub prompts: Prompts,
    /// How dense weights are held in serving; absent: whatever this chip is best at.
    #[serde(default, rename = "precision", skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseKind>,
}

fn gelu_tanh() -> String {
    "gelu_pytorch_tanh".into()
}
fn gelu() -> String {
    "gelu".into()
}
fn gemma_eps() -> f64 {
    1e-6
}
fn bert_eps() -> f64 {
    1e-12
}
fn gemma_tokens() -> usize {
    2048
}
fn two() -> usize {
    2
}

impl TextConfig {
    /// Width of the pooled row.
    pub fn hidden_size(&self) -> usize {
        match self {
            TextConfig::Gemma(config) => config.hidden_size,
            TextConfig::Bert(config) => config.hidden_size,
        }
    }

    /// Rows of the token embedding.
    pub fn vocab_size(&self) -> usize {
        match self {
            TextConfig::Gemma(config) => config.vocab_size,
            TextConfig::Bert(config) => config.vocab_size,
        }
    }

    /// How dense weights are held in serving.
    pub fn dense(&self) -> Option<DenseKind> {
        match self {
            TextConfig::Gemma(config) => config.dense,
            TextConfig::Bert(config) => config.dense,
        }
    }

    /// Asks for a kind of dense weights, or for none in particular.
    pub fn set_dense(&mut self, dense: Option<DenseKind>) {
        match self {
            TextConfig::Gemma(config) => config.dense = dense,
            TextConfig::Bert(config) => config.dense = dense,
        }
    }

    /// Longest text, tokens.
    pub fn max_tokens(&self) -> usize {
        match self {
            TextConfig::Gemma(config) => config.max_position_embeddings,
            TextConfig::Bert(config) => config.max_position_embeddings,
        }
    }

    /// What is put before a text.
    pub fn prompts(&self) -> &Prompts {
        match self {
            TextConfig::Gemma(config) => &config.prompts,
            TextConfig::Bert(config) => &config.prompts,
        }
    }

    /// Bounds and relations.
    pub fn check(&self, faults: &mut Faults) {
        match self {
            TextConfig::Gemma(config) => config.check(faults),
            TextConfig::Bert(config) => config.check(faults),
        }
    }
}

impl GemmaConfig {
    /// Kind of layer `index`.
    pub fn layer_kind(&self, index: usize) -> LayerKind {
        let pattern = self.sliding_window_pattern.unwrap_or(6).max(1);
        let by_pattern = if (index + 1).is_multiple_of(pattern) { LayerKind::Full } else { LayerKind::Sliding };
        self.layer_types.as_ref().and_then(|kinds| kinds.get(index).copied()).unwrap_or(by_pattern)
    }

    /// Tokens at this distance or further are not seen by a sliding layer.
    pub fn window(&self) -> usize {
        self.sliding_window / 2 + 1
    }

    /// Base of the rotation on layers of a kind.
    pub fn theta(&self, kind: LayerKind) -> f64 {
        let nested = self.rope_parameters.as_ref().map(|rope| match kind {
            LayerKind::Full => rope.full_attention.rope_theta,
            LayerKind::Sliding => rope.sliding_attention.rope_theta,
        });
        let (flat, default) = match kind {
            LayerKind::Full => (self.rope_theta, 1_000_000.0),
            LayerKind::Sliding => (self.rope_local_base_freq, 10_000.0),
        };
        nested.flatten().or(flat).unwrap_or(default)
    }

    fn check(&self, faults: &mut Faults) {
        faults.within("vocab_size", self.vocab_size, 1..=VOCABULARY_MAX);
        faults.within("hidden_size", self.hidden_size, 1..=WIDTH_MAX);
        faults.within("intermediate_size", self.intermediate_size, 1..=WIDTH_MAX);
        faults.within("num_hidden_layers", self.num_hidden_layers, 1..=LAYERS_MAX);
        faults.within("num_attention_heads", self.num_attention_heads, 1..=1024);
        faults.within("num_key_value_heads", self.num_key_value_heads, 1..=1024);
        faults.divides("num_attention_heads", self.num_attention_heads, self.num_key_value_heads);
        faults.within("head_dim", self.head_dim, 2..=4096);
        faults.divides("head_dim", self.head_dim, 2);
        // 0 is how Hugging Face writes a window of one token
        faults.within("sliding_window", self.sliding_window, 0..=POSITIONS_MAX);
        faults.within("max_position_embeddings", self.max_position_embeddings, 1..=POSITIONS_MAX);
        faults.epsilon("rms_norm_eps", self.rms_norm_eps);
        let scalar = self.query_pre_attn_scalar;
        faults.that(scalar > 0.0 && scalar.is_finite(), "query_pre_attn_scalar", scalar, "must be above 0");
        let both_ways = self.use_bidirectional_attention;
        faults.that(both_ways, "use_bidirectional_attention", both_ways, "must be true");
        let name = &self.hidden_activation;
        faults.that(Activation::from_name(name).is_some(), "hidden_activation", name, "must be a known activation");
        if let Some(kinds) = &self.layer_types {
            let wanted = format_args!("must have num_hidden_layers = {} entries", self.num_hidden_layers);
            faults.that(kinds.len() == self.num_hidden_layers, "layer_types", kinds.len(), wanted);
        }
        faults.base("rope_theta", self.theta(LayerKind::Full));
        faults.base("rope_local_base_freq", self.theta(LayerKind::Sliding));
        for rope in self.rope_parameters.iter().flat_map(|r| [&r.full_attention, &r.sliding_attention]) {
            let kind = rope.kind();
            faults.that(kind == "default", "rope_parameters.rope_type", kind, "must be default");
        }
        if let Some(kind) = self.rope_scaling.as_ref().map(RopeParameters::kind) {
            faults.that(kind == "default", "rope_scaling.rope_type", kind, "must be default, or rope_scaling null");
        }
        if let Some(cap) = self.attn_logit_softcapping {
            faults.that(false, "attn_logit_softcapping", cap, "must be null");
        }
    }
}

impl BertConfig {
    fn check(&self, faults: &mut Faults) {
        faults.within("vocab_size", self.vocab_size, 1..=VOCABULARY_MAX);
        faults.within("hidden_size", self.hidden_size, 1..=WIDTH_MAX);
        faults.within("num_hidden_layers", self.num_hidden_layers, 1..=LAYERS_MAX);
        faults.within("num_attention_heads", self.num_attention_heads, 1..=1024);
        faults.divides("hidden_size", self.hidden_size, self.num_attention_heads);
        faults.within("intermediate_size", self.intermediate_size, 1..=WIDTH_MAX);
        faults.within("max_position_embeddings", self.max_position_embeddings, 1..=POSITIONS_MAX);
        faults.within("type_vocab_size", self.type_vocab_size, 1..=1024);
        faults.epsilon("layer_norm_eps", self.layer_norm_eps);
        if let Some(kind) = &self.position_embedding_type {
            faults.that(kind == "absolute", "position_embedding_type", kind, "must be absolute");
        }
        let name = &self.hidden_act;
        faults.that(Activation::from_name(name).is_some(), "hidden_act", name, "must be a known activation");
    }
}
