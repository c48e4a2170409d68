//! Configs of the Llama family: `llama` and `bitnet` decoders, and the predictor, which is such a stack without the
//! causal mask. Old files spell the rotation `rope_theta` + `rope_scaling`, new ones `rope_parameters`; both load.

use super::{Faults, LAYERS_MAX, POSITIONS_MAX, VOCABULARY_MAX, WIDTH_MAX};
use crate::model::precision::DenseKind;
use crate::nn::activation::Activation;
use crate::nn::linear::{Precision, WeightScale};
use crate::nn::rope::{Llama3Scaling, inverse_frequencies, llama3_scaled};
use serde::{Deserialize, Serialize};

/// `llama` or `bitnet`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// `llama` or `bitnet`.
    pub model_type: String,
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
    /// Key and value heads; absent: as many as query heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Dimensions of a head; absent: `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Epsilon of every RMSNorm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// Activation of the gate; absent: `silu`, in a `bitnet` `relu2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_act: Option<String>,
    /// Bias on q, k, v, o.
    #[serde(default)]
    pub attention_bias: bool,
    /// Bias on gate, up, down.
    #[serde(default)]
    pub mlp_bias: bool,
    /// RMSNorm before o_proj; absent: in a `bitnet` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_sub_norm: Option<bool>,
    /// RMSNorm before down_proj; absent: in a `bitnet` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ffn_sub_norm: Option<bool>,
    /// Base of the rotation, old spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Scaling of the rotation, old spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// The rotation, new spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// First token of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<TokenIds>,
    /// Tokens that end a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<TokenIds>,
    /// Whether the token embedding is the output head too; absent: where the weights hold no `lm_head`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_word_embeddings: Option<bool>,
    /// Quantisation of a published BitNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_config: Option<QuantizationConfig>,
    /// Precision of the blocks' linears; absent: by `quantization_config`, ternary in a `bitnet`, else dense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear: Option<LinearKind>,
    /// How the weights of dense linears are held in serving; absent: whatever this chip is best at.
    #[serde(default, rename = "precision", skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseKind>,
}

/// One token or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// A number.
    One(u32),
    /// A list.
    Several(Vec<u32>),
}

impl TokenIds {
    /// All of them.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            TokenIds::One(id) => std::slice::from_ref(id),
            TokenIds::Several(ids) => ids,
        }
    }
}

/// Hugging Face's `rope_parameters` or `rope_scaling`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RopeParameters {
    /// `default` or `llama3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// Older name of `rope_type`; some files carry both.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub old_type: Option<String>,
    /// Base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// Stretch of the slow frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Below this many turns in the original length a frequency is stretched in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// Above this many turns a frequency is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// Length of the training before stretching, tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
}

/// Hugging Face's `quantization_config` of a BitNet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct QuantizationConfig {
    /// `bitnet`.
    #[serde(default)]
    pub quant_method: String,
    /// `bitlinear` (a packed file's `weight_scale` divides) or `autobitlinear` (it multiplies).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear_class: Option<String>,
    /// `online`: the file holds float weights; `offline`: it holds packed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_mode: Option<String>,
}

/// Precision of a stack's linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinearKind {
    /// Float.
    #[serde(rename = "dense")]
    Dense,
    /// BitNet b1.58: ternary weights, 8-bit activations.
    #[serde(rename = "w1.58a8")]
    Ternary,
}

fn default_eps() -> f64 {
    1e-5
}

impl RopeParameters {
    /// `default`, `llama3`, or a kind that we do not know.
    pub fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default")
    }
}

impl LlamaConfig {
    /// Whether this is a BitNet block (sub-norms, squared ReLU, ternary unless said otherwise).
    pub fn is_bitnet(&self) -> bool {
        self.model_type == "bitnet"
    }

    /// Dimensions of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Key and value heads.
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Name of the gate's activation.
    pub fn activation_name(&self) -> &str {
        let default = if self.is_bitnet() { "relu2" } else { "silu" };
        self.hidden_act.as_deref().unwrap_or(default)
    }

    /// Tokens that end a text.
    pub fn ends(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::as_slice)
    }

    /// Precision of the blocks' linears.
    pub fn precision(&self) -> Precision {
        let quantization = self.quantization_config.as_ref().filter(|q| q.quant_method == "bitnet");
        let published = self.is_bitnet() || quantization.is_some();
        match self.linear.unwrap_or(if published { LinearKind::Ternary } else { LinearKind::Dense }) {
            LinearKind::Dense => Precision::Dense,
            LinearKind::Ternary => Precision::Ternary(quantization.map_or(WeightScale::Divides, |q| q.weight_scale())),
        }
    }

    /// Frequencies of the rotation, radians a token; `head_dim / 2` of them.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let plain = inverse_frequencies(self.head_dim(), self.theta());
        match self.scaling() {
            Some(scaling) => llama3_scaled(&plain, &scaling),
            None => plain,
        }
    }

    fn theta(&self) -> f64 {
        let new = self.rope_parameters.as_ref().and_then(|r| r.rope_theta);
        new.or(self.rope_theta).unwrap_or(10_000.0)
    }

    fn rope(&self) -> Option<&RopeParameters> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    fn scaling(&self) -> Option<Llama3Scaling> {
        let rope = self.rope().filter(|r| r.kind() == "llama3")?;
        Some(Llama3Scaling {
            factor: rope.factor?,
            low: rope.low_freq_factor?,
            high: rope.high_freq_factor?,
            original_len: rope.original_max_position_embeddings? as f64,
        })
    }

    /// Bounds and relations.
    pub fn check(&self, faults: &mut Faults) {
        let known = matches!(self.model_type.as_str(), "llama" | "bitnet");
        faults.that(known, "model_type", &self.model_type, "must be llama or bitnet");
        faults.within("vocab_size", self.vocab_size, 1..=VOCABULARY_MAX);
        faults.within("hidden_size", self.hidden_size, 1..=WIDTH_MAX);
        faults.within("intermediate_size", self.intermediate_size, 1..=WIDTH_MAX);
        faults.within("num_hidden_layers", self.num_hidden_layers, 1..=LAYERS_MAX);
        faults.within("num_attention_heads", self.num_attention_heads, 1..=1024);
        faults.within("num_key_value_heads", self.key_value_heads(), 1..=1024);
        faults.divides("num_attention_heads", self.num_attention_heads, self.key_value_heads());
        faults.within("head_dim", self.head_dim(), 2..=4096);
        faults.divides("head_dim", self.head_dim(), 2);
        if self.head_dim.is_none() {
            faults.divides("hidden_size", self.hidden_size, self.num_attention_heads);
        }
        faults.epsilon("rms_norm_eps", self.rms_norm_eps);
        faults.base("rope_theta", self.theta());
        let name = self.activation_name();
        faults.that(Activation::from_name(name).is_some(), "hidden_act", name, "must be a known activation");
        if let Some(kind) = self.rope().map(RopeParameters::kind) {
            faults.that(matches!(kind, "default" | "llama3"), "rope_type", kind, "must be default or llama3");
            let complete = kind != "llama3" || self.scaling().is_some_and(|s| s.factor >= 1.0 && s.high > s.low);
            faults.that(
                complete,
                "rope_type",
                kind,
                "needs factor >= 1, high_freq_factor > low_freq_factor and \
                original_max_position_embeddings",
            );
        }
        for &end in self.ends() {
            faults.that((end as usize) < self.vocab_size, "eos_token_id", end, "must lie in the vocabulary");
        }
    }
}

impl QuantizationConfig {
    /// A packed file's `weight_scale` multiplies only where Hugging Face's offline AutoBitLinear wrote it.
    fn weight_scale(&self) -> WeightScale {
        let auto = self.linear_class.as_deref() == Some("autobitlinear");
        if auto && self.quantization_mode.as_deref() != Some("online") {
            WeightScale::Multiplies
        } else {
            WeightScale::Divides
        }
    }
}

/// The predictor: a Llama stack without causal mask over [visual ; question].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PredictorConfig {
    /// The stack.
    #[serde(flatten)]
    pub llama: LlamaConfig,
    /// Which rows the answer is averaged from.
    #[serde(default)]
    pub pool: Pool,
    /// What visual tokens see.
    #[serde(default)]
    pub visual_attention: VisualAttention,
    /// LayerNorm before `vision_proj`.
    #[serde(default)]
    pub vision_norm: bool,
    /// A fixed code of place added to the projected visual tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visual_position: Option<VisualPosition>,
    /// Longest question, tokens.
    #[serde(default = "default_question_tokens")]
    pub max_question_tokens: usize,
}

fn default_question_tokens() -> usize {
    512
}

/// Which rows the answer is averaged from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Visual and question rows (the paper, read literally).
    #[default]
    All,
    /// Question rows only.
    Query,
}

/// What visual tokens see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisualAttention {
    /// Visual tokens and the question (the paper): the stack runs once a question.
    #[default]
    Joint,
    /// Visual tokens only: all questions about a clip share one visual pass.
    Prefix,
}

/// A fixed code of place for visual tokens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VisualPosition {
    /// Sines and cosines of time, row and column, three frequencies each.
    Sine {
        /// Root mean square of the code.
        std: f32,
    },
}

impl PredictorConfig {
    /// The published form over a stack.
    pub fn new(llama: LlamaConfig) -> Self {
        PredictorConfig {
            llama,
            pool: Pool::All,
            visual_attention: VisualAttention::Joint,
            vision_norm: false,
            visual_position: None,
            max_question_tokens: default_question_tokens(),
        }
    }

    /// Bounds and relations.
    pub fn check(&self, faults: &mut Faults) {
        self.llama.check(faults);
        faults.within("max_question_tokens", self.max_question_tokens, 1..=POSITIONS_MAX);
        if let Some(VisualPosition::Sine { std }) = self.visual_position {
            faults.that(std > 0.0 && std <= 100.0, "visual_position.std", std, "must be above 0 and at most 100");
        }
    }
}

/// The text decoder: a causal Llama- or BitNet-style model that takes an embedding as its first tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// The stack.
    #[serde(flatten)]
    pub llama: LlamaConfig,
    /// Rows that one embedding becomes.
    #[serde(default = "one")]
    pub prefix_tokens: usize,
    /// Longest text, tokens.
    #[serde(default = "default_text_tokens")]
    pub max_tokens: usize,
}

fn one() -> usize {
    1
}

fn default_text_tokens() -> usize {
    128
}

impl DecoderConfig {
    /// One prefix token before a stack.
    pub fn new(llama: LlamaConfig) -> Self {
        DecoderConfig { llama, prefix_tokens: one(), max_tokens: default_text_tokens() }
    }

    /// Bounds and relations.
    pub fn check(&self, faults: &mut Faults) {
        self.llama.check(faults);
        faults.within("prefix_tokens", self.prefix_tokens, 1..=1024);
        faults.within("max_tokens", self.max_tokens, 1..=POSITIONS_MAX);
    }
}
