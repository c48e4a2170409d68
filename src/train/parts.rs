//! The model while it learns: its parts over trainable variables, each under its name in the checkpoint.
//!
//! The parts are the model's own; only their weights are held otherwise. Variables are named as in the bundle, with
//! the part before them (`vision.encoder.layer.0...`); the dense heads and the scale belong to the trainer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::data::mix;
use super::dense::DenseHeads;
use super::optimizer::{Group, Parameter};
use super::recipe::{Objective, Recipe, Stage};
use crate::input::Clip;
use crate::model::bundle::{Bundle, BundleError, Part};
use crate::model::config::VlJepaConfig;
use crate::model::decoder::Decoder;
use crate::model::export::{BundleContent, write_bundle};
use crate::model::predictor::Predictor;
use crate::model::text::{TextEncoder, TextHead};
use crate::model::vision::VisionEncoder;
use crate::nn::weights::{Mode, Weights, WeightsError};

/// All parts, trainable.
pub struct Parts {
    /// What they are built by.
    pub config: VlJepaConfig,
    /// Pixels to visual tokens.
    pub vision: VisionEncoder,
    /// Visual tokens and questions to predicted embeddings.
    pub predictor: Predictor,
    /// Answer texts to embeddings.
    pub text: TextEncoder,
    /// Embeddings to words.
    pub decoder: Option<Decoder>,
    /// Readers of dense labels.
    pub heads: DenseHeads,
    scale: Var,
    variables: Vec<(String, Var)>,
}

/// The trainer's own variable: the logarithm of the factor on cosines.
pub const LOG_SCALE: &str = "log_scale";
/// The scale at the start, 1 / 0.07.
const SCALE_START: f32 = 14.3;
/// The scale may not grow past this.
const SCALE_MAX: f32 = 100.0;

impl Parts {
    /// Parts with weights drawn from `seed`.
    pub fn fresh(config: &VlJepaConfig, seed: u64) -> std::result::Result<Parts, WeightsError> {
        let sources = [0, 1, 2, 3].map(|part| Weights::fresh(mix(seed ^ part), Mode::Train));
        Parts::build(config, sources, seed, SCALE_START.ln())
    }

    /// Parts with a bundle's weights; heads are drawn from `seed`.
    pub fn from_bundle(bundle: &Bundle, seed: u64) -> std::result::Result<Parts, BundleError> {
        let weights = |part: Part| match (part, &bundle.config.decoder) {
            (Part::Decoder, None) => Ok(Weights::fresh(seed, Mode::Train)),
            _ => bundle.weights(part, Mode::Train),
        };
        let [vision, predictor, text, decoder] = Part::ALL;
        let sources = [weights(vision)?, weights(predictor)?, weights(text)?, weights(decoder)?];
        Ok(Parts::build(&bundle.config, sources, seed, bundle.config.logit_scale)?)
    }

    fn build(
        config: &VlJepaConfig,
        sources: [Weights; 4],
        seed: u64,
        log_scale: f32,
    ) -> std::result::Result<Parts, WeightsError> {
        let [vision, predictor, text, decoder] = &sources;
        let dense = Weights::fresh(mix(seed ^ 4), Mode::Train);
        let head = TextHead { dense_dim: config.dense_dim, shared_dim: Some(config.shared_dim) };
        let mut parts = Parts {
            config: config.clone(),
            vision: VisionEncoder::load(vision, &config.vision),
            predictor: Predictor::load(predictor, &config.predictor, &config.vision, config.shared_dim),
            text: TextEncoder::load(text, &config.text, head),
            decoder: config.decoder.as_ref().map(|part| Decoder::load(decoder, part, config.shared_dim)),
            heads: DenseHeads::load(&dense, config.vision.hidden_size),
            scale: Var::from_vec(vec![log_scale], 1, &Device::Cpu).expect("a scalar on the CPU"),
            variables: Vec::new(),
        };
        for (name, weights) in Part::ALL.iter().map(|part| part.name()).zip(&sources).chain([("heads", &dense)]) {
            weights.finish()?;
            let named = |(leaf, var): (String, Var)| (format!("{name}.{leaf}"), var);
            parts.variables.extend(weights.variables().into_iter().map(named));
        }
        parts.variables.push((LOG_SCALE.to_owned(), parts.scale.clone()));
        Ok(parts)
    }

    /// Writes the parts as a bundle; the trainer's own variables stay behind.
    pub fn export(&self, root: &Path, recipe: &Recipe, tokenizer: &str) -> std::result::Result<(), BundleError> {
        let of = |part: Part| {
            let prefix = format!("{}.", part.name());
            let own =
                |(name, var): &(String, Var)| Some((name.strip_prefix(&prefix)?.to_owned(), var.as_tensor().clone()));
            (part, self.variables.iter().filter_map(own).collect())
        };
        let mut config = self.config.clone();
        config.logit_scale = self.scale().map_or(config.logit_scale, f32::ln);
        let present = Part::ALL.into_iter().filter(|part| *part != Part::Decoder || self.decoder.is_some());
        let preprocessor = recipe.preprocessor.to_string();
        let content = BundleContent {
            config: &config,
            parts: present.map(of).collect(),
            tokenizer: tokenizer.as_bytes(),
            preprocessor: preprocessor.as_bytes(),
            readme: &recipe.card(),
        };
        write_bundle(root, &content)
    }

    /// The factor on cosines, at most 100.
    pub fn scale(&self) -> Result<f32> {
        Ok(self.scale.to_vec1::<f32>()?[0].exp().min(SCALE_MAX))
    }

    /// Every variable by its name.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// Takes variables over; returns the names that `tensors` lacks. A wrong shape is an error.
    pub fn restore(&self, tensors: &HashMap<String, Tensor>) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for (name, var) in &self.variables {
            match tensors.get(name) {
                Some(tensor) if tensor.dims() == var.dims() => var.set(&tensor.copy()?)?,
                Some(tensor) => candle_core::bail!("{name} has shape {:?}, expected {:?}", tensor.dims(), var.dims()),
                None => missing.push(name.clone()),
            }
        }
        Ok(missing)
    }

    /// What a stage trains, in the order of the names.
    pub fn parameters(&self, stage: &Stage) -> Vec<Parameter> {
        let wanted = |name: &str| match stage.objective {
            Objective::Dense => name.starts_with("vision.") || name.starts_with("heads."),
            Objective::Joint => !name.starts_with("decoder."),
            Objective::Decoder => name.starts_with("decoder."),
        };
        let group = |name: &str, var: &Var| Group {
            rate: stage.multiplier(name),
            decay: if decays(name, var.dims()) { stage.decay } else { 0.0 },
        };
        let parameter =
            |(name, var): &(String, Var)| Parameter { name: name.clone(), var: var.clone(), group: group(name, var) };
        self.variables.iter().filter(|(name, _)| wanted(name)).map(parameter).collect()
    }

    /// Unit rows [questions, shared] for questions (clip index, ids) about clips.
    pub fn predict(&self, clips: &[Arc<Clip>], questions: &[(usize, &[u32])]) -> Result<Tensor> {
        let clips: Vec<&Clip> = clips.iter().map(Arc::as_ref).collect();
        self.predictor.forward(&self.vision.forward(&clips)?, questions)
    }
}

/// Matrices decay; norms, biases, scales, positions and embedding tables do not.
fn decays(name: &str, shape: &[usize]) -> bool {
    let table = ["embed", "position"].iter().any(|word| name.contains(word)) && !name.contains("patch_embed");
    let kernel = name.contains("stem") || !table;
    shape.len() >= 2 && kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_biases_and_tables_do_not_decay() {
        assert!(decays("predictor.model.layers.0.mlp.up_proj.weight", &[8, 4]));
        assert!(decays("vision.encoder.embeddings.patch_embeddings.proj.weight", &[8, 12]));
        assert!(!decays("text.embeddings.word_embeddings.weight", &[100, 4]));
        assert!(!decays("vision.encoder.embeddings.position_embeddings", &[64, 4]));
        assert!(!decays("vision.encoder.layernorm.weight", &[4]));
        assert!(!decays(LOG_SCALE, &[1]));
    }
}
