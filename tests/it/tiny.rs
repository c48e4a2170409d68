//! The tiny random model that tests and fuzz targets share, as a bundle: every kind of part, small enough to be loaded
//! in a millisecond.

use std::path::Path;

use vljepa::model::bundle::{Bundle, Part};
use vljepa::model::config::VlJepaConfig;
use vljepa::model::decoder::Decoder;
use vljepa::model::export::{BundleContent, write_bundle};
use vljepa::model::predictor::Predictor;
use vljepa::model::text::{TextEncoder, TextHead};
use vljepa::model::vision::VisionEncoder;
use vljepa::nn::weights::{Mode, Weights};

/// A text encoder as EmbeddingGemma has it.
pub const GEMMA: &str = r#"{"model_type": "gemma3_text", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32,
    "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "query_pre_attn_scalar": 8, "sliding_window": 4, "_sliding_window_pattern": 2,
    "use_bidirectional_attention": true}"#;
/// A text encoder as BERT has it.
pub const BERT: &str = r#"{"model_type": "bert", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}"#;

/// A tiny model: convolutional stem, learned positions, ternary predictor, BitNet decoder.
pub fn config(text: &str) -> VlJepaConfig {
    let json = format!(
        r#"{{"model_type": "vl_jepa", "name": "tiny", "shared_dim": 16, "dense_dim": 20,
        "vision": {{"model_type": "vjepa2", "crop_size": 16, "patch_size": 8, "frames_per_clip": 4, "tubelet_size": 2,
            "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 2.0,
            "position": "rope+learned", "rope_theta": 100.0,
            "stem": {{"kind": "conv", "first": {{"kernel": 4, "stride": 2, "channels": 6}},
                "second": {{"kernel": 3, "stride": 2, "channels": 8}}}}}},
        "predictor": {{"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1000.0,
            "linear": "w1.58a8", "ffn_sub_norm": true, "vision_norm": true, "pool": "query",
            "visual_attention": "prefix", "visual_position": {{"kind": "sine", "std": 0.6}}}},
        "text": {text},
        "decoder": {{"model_type": "bitnet", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1000.0,
            "eos_token_id": 3, "prefix_tokens": 2, "max_tokens": 12}}}}"#
    );
    VlJepaConfig::parse(&json).expect("the tiny config is sound")
}

/// Writes the tiny model as a bundle and opens it.
pub fn bundle(root: &Path, text: &str) -> Bundle {
    let config = config(text);
    let weights = Weights::fresh(6, Mode::Train);
    VisionEncoder::load(&weights.pp("vision"), &config.vision);
    Predictor::load(&weights.pp("predictor"), &config.predictor, &config.vision, config.shared_dim);
    let head = TextHead { dense_dim: config.dense_dim, shared_dim: Some(config.shared_dim) };
    TextEncoder::load(&weights.pp("text"), &config.text, head);
    Decoder::load(&weights.pp("decoder"), config.decoder.as_ref().expect("a decoder"), config.shared_dim);
    let of = |part: Part| {
        let prefix = format!("{}.", part.name());
        let named = weights.variables().into_iter().filter_map(|(name, variable)| {
            Some((name.strip_prefix(&prefix)?.to_string(), variable.as_tensor().clone()))
        });
        (part, named.collect())
    };
    let words: Vec<String> = (0..36).map(|i| format!("word{i}")).collect();
    let preprocessor = vljepa::input::Preprocessor::square(16, 4).to_json();
    let content = BundleContent {
        config: &config,
        parts: Part::ALL.map(of).into(),
        tokenizer: &vljepa::input::word_level(&words).expect("a tokenizer"),
        preprocessor: preprocessor.as_bytes(),
        readme: "# tiny\n",
    };
    write_bundle(root, &content).expect("a bundle is written");
    Bundle::open(root).expect("a bundle is opened")
}
