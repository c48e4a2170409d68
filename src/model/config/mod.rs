//! What the parts of a model look like, in the spelling of the files that Hugging Face publishes, plus our own
//! settings beside it. A config is read from JSON, checked against its bounds (every fault is named, not only the
//! first), and can be written back: bundles are written by the trainer. Unknown keys are ignored.

mod llama;
mod text;
mod vision;

pub use llama::{DecoderConfig, LinearKind, LlamaConfig, Pool, PredictorConfig, RopeParameters, TokenIds};
pub use llama::{QuantizationConfig, VisualAttention, VisualPosition};
pub use text::{BertConfig, GemmaConfig, LayerKind, Prompts, TextConfig};
pub use vision::{Convolution, PositionKind, Stem, VisionConfig};

use super::bundle::Part;
use super::precision::Precisions;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The JSON does not have the shape of a config; `part` is the sub-config at fault.
    #[error("{part}: {source}")]
    Json {
        /// `config.json` itself or the part of it that cannot be read.
        part: String,
        /// What serde found.
        source: serde_json::Error,
    },
    /// Values out of their bounds, each as `field is value; bound`.
    #[error("{}", .0.join("; "))]
    Values(Vec<String>),
}

/// A whole model: `config.json` of a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VlJepaConfig {
    /// `vl_jepa` (`vljepa` is read too).
    pub model_type: String,
    /// The model's name as users see it.
    #[serde(default)]
    pub name: String,
    /// The vision encoder.
    #[serde(alias = "x_encoder")]
    pub vision: VisionConfig,
    /// The predictor.
    pub predictor: PredictorConfig,
    /// The text encoder.
    #[serde(alias = "y_encoder")]
    pub text: TextConfig,
    /// The text decoder, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderConfig>,
    /// Dimensions of the shared space.
    pub shared_dim: usize,
    /// Width between the two Dense layers of the text encoder; absent: no Dense layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_dim: Option<usize>,
    /// Natural logarithm of the factor on cosines before a softmax.
    #[serde(default = "default_logit_scale")]
    pub logit_scale: f32,
    /// Flat spelling of `predictor.linear`.
    #[serde(default, skip_serializing)]
    predictor_linear: Option<LinearKind>,
    /// Flat spelling of `predictor.pool`.
    #[serde(default, skip_serializing)]
    predictor_pool: Option<Pool>,
}

/// ln(1 / 0.07).
fn default_logit_scale() -> f32 {
    2.659_26
}

impl VlJepaConfig {
    /// A model of these parts, without a decoder.
    pub fn new(vision: VisionConfig, predictor: PredictorConfig, text: TextConfig, shared_dim: usize) -> Self {
        VlJepaConfig {
            model_type: "vl_jepa".into(),
            name: String::new(),
            vision,
            predictor,
            text,
            decoder: None,
            shared_dim,
            dense_dim: None,
            logit_scale: default_logit_scale(),
            predictor_linear: None,
            predictor_pool: None,
        }
    }

    /// Reads and checks `config.json`.
    pub fn parse(json: &str) -> Result<Self, ConfigError> {
        let mut config: VlJepaConfig =
            serde_json::from_str(json).map_err(|source| ConfigError::Json { part: part_at_fault(json), source })?;
        if let Some(kind) = config.predictor_linear.take() {
            config.predictor.llama.linear = Some(kind);
        }
        if let Some(pool) = config.predictor_pool.take() {
            config.predictor.pool = pool;
        }
        config.check()?;
        Ok(config)
    }

    /// What the parts' configs ask of their dense weights.
    pub fn precisions(&self) -> Precisions {
        let asked = |part| match part {
            Part::Vision => self.vision.dense,
            Part::Predictor => self.predictor.llama.dense,
            Part::Text => self.text.dense(),
            Part::Decoder => self.decoder.as_ref().and_then(|decoder| decoder.llama.dense),
        };
        Precisions::by_part(asked)
    }

    /// Asks this of the parts' dense weights instead.
    pub fn set_precisions(&mut self, asked: Precisions) {
        self.vision.dense = asked.of(Part::Vision);
        self.predictor.llama.dense = asked.of(Part::Predictor);
        self.text.set_dense(asked.of(Part::Text));
        if let Some(decoder) = &mut self.decoder {
            decoder.llama.dense = asked.of(Part::Decoder);
        }
    }

    /// Every bound and every relation between the parts.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut faults = Faults::default();
        let known = matches!(self.model_type.as_str(), "vl_jepa" | "vljepa");
        faults.that(known, "model_type", &self.model_type, "must be vl_jepa");
        faults.within("shared_dim", self.shared_dim, 1..=WIDTH_MAX);
        if let Some(dense_dim) = self.dense_dim {
            faults.within("dense_dim", dense_dim, 1..=WIDTH_MAX);
        }
        let scale_ok = self.logit_scale.is_finite() && self.logit_scale.abs() <= 10.0;
        faults.that(scale_ok, "logit_scale", self.logit_scale, "must be from -10 to 10");
        faults.part("vision", |f| self.vision.check(f));
        faults.part("predictor", |f| self.predictor.check(f));
        faults.part("text", |f| self.text.check(f));
        if let Some(decoder) = &self.decoder {
            faults.part("decoder", |f| decoder.check(f));
        }
        faults.finish()
    }
}

/// Reads and checks one part's `config.json`.
pub fn parse_part<T: serde::de::DeserializeOwned>(
    json: &str,
    check: impl FnOnce(&T, &mut Faults),
) -> Result<T, ConfigError> {
    let config: T =
        serde_json::from_str(json).map_err(|source| ConfigError::Json { part: "config.json".into(), source })?;
    let mut faults = Faults::default();
    check(&config, &mut faults);
    faults.finish()?;
    Ok(config)
}

/// The first part of `config.json` that does not parse alone: serde's message does not name it.
fn part_at_fault(json: &str) -> String {
    fn fails<T: serde::de::DeserializeOwned>(
        whole: &serde_json::Value,
        names: &[&'static str],
    ) -> Option<&'static str> {
        let bad = |name: &&&str| whole.get(**name).is_some_and(|value| T::deserialize(value).is_err());
        names.iter().find(bad).copied()
    }
    let Ok(whole) = serde_json::from_str::<serde_json::Value>(json) else { return "config.json".into() };
    let part = fails::<VisionConfig>(&whole, &["vision", "x_encoder"])
        .or_else(|| fails::<PredictorConfig>(&whole, &["predictor"]))
        .or_else(|| fails::<TextConfig>(&whole, &["text", "y_encoder"]))
        .or_else(|| fails::<Option<DecoderConfig>>(&whole, &["decoder"]));
    part.map_or("config.json".into(), |name| format!("config.json, {name}"))
}

/// Widest layer that a config may ask for.
pub(crate) const WIDTH_MAX: usize = 1 << 17;
/// Deepest stack of layers.
pub(crate) const LAYERS_MAX: usize = 1 << 10;
/// Largest vocabulary.
pub(crate) const VOCABULARY_MAX: usize = 1 << 24;
/// Longest sequence.
pub(crate) const POSITIONS_MAX: usize = 1 << 24;

/// Collects what is wrong with a config, so that one error can name all of it.
#[derive(Debug, Default)]
pub struct Faults {
    at: String,
    found: Vec<String>,
}

impl Faults {
    /// Notes `field is value; bound` unless `ok`.
    pub fn that(&mut self, ok: bool, field: &str, value: impl Display, bound: impl Display) {
        if !ok {
            self.found.push(format!("{}{field} is {value}; it {bound}", self.at));
        }
    }

    /// Notes a number outside its bounds.
    pub fn within(&mut self, field: &str, value: usize, bounds: RangeInclusive<usize>) {
        let (low, high) = (bounds.start(), bounds.end());
        self.that(bounds.contains(&value), field, value, format_args!("must be from {low} to {high}"));
    }

    /// Notes a width that does not split evenly.
    pub fn divides(&mut self, field: &str, value: usize, by: usize) {
        let ok = by > 0 && value.is_multiple_of(by);
        self.that(ok, field, value, format_args!("must be a multiple of {by}"));
    }

    /// Notes an epsilon that is no small positive number.
    pub fn epsilon(&mut self, field: &str, value: f64) {
        self.that(value > 0.0 && value < 1.0, field, value, "must lie between 0 and 1");
    }

    /// Notes a RoPE base that is no number above 1.
    pub fn base(&mut self, field: &str, value: f64) {
        self.that(value > 1.0 && value.is_finite(), field, value, "must be a finite number above 1");
    }

    fn part(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        self.at = format!("{name}.");
        check(self);
        self.at.clear();
    }

    fn finish(self) -> Result<(), ConfigError> {
        if self.found.is_empty() { Ok(()) } else { Err(ConfigError::Values(self.found)) }
    }
}
