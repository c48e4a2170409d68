//! A part of a model of known sizes, with random weights and random inputs: it does all the work of a real one, and what
//! comes out means nothing. For measuring; nothing is read and nothing is written.

use super::bundle::Part;
use super::config::VlJepaConfig;
use super::decoder::{DecodeOptions, Decoder, TokenSampling};
use super::error::ModelError;
use super::predictor::Predictor;
use super::text::{TextEncoder, TextHead};
use super::vision::{VisionEncoder, Visual};
use crate::nn::linear::{Dense, LayerFacts};
use crate::nn::weights::{Init, Weights, WeightsError};
use candle_core::{DType, Device, Result, Tensor};
use ndarray::Array4;
use std::sync::Arc;

/// Every parameter and input is drawn from this.
const SEED: u64 = 1;

/// How large the inputs are; clips and texts are cut at what the part takes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Frames of a clip.
    pub frames: usize,
    /// Tokens of the question.
    pub question_tokens: usize,
    /// Tokens of a text to embed.
    pub text_tokens: usize,
    /// Tokens that the decoder writes.
    pub answer_tokens: usize,
}

/// One part, ready to run.
pub struct Rehearsal {
    pass: Box<Pass>,
    tokens: usize,
    facts: Box<Facts>,
}

type Facts = dyn Fn() -> Vec<LayerFacts> + Send + Sync;
type Pass = dyn Fn(&mut Mark<'_>) -> Result<()> + Send + Sync;

/// Is told the name of each stage that has ended.
pub type Mark<'a> = dyn FnMut(&str) + 'a;

/// Why a part cannot be rehearsed.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The model has no such part.
    #[error("this model has no {}", .0.name())]
    Absent(Part),
    /// Weights that do not fit together.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Inputs that do not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Rehearsal {
    /// Makes the part, its weights, held as `dense` where they are not ternary, and its inputs.
    pub fn new(
        config: &VlJepaConfig,
        (part, dense): (Part, Dense),
        size: Size,
    ) -> std::result::Result<Rehearsal, RehearsalError> {
        let weights = Weights::noise(SEED).holding(dense);
        let size = Size { frames: size.frames.min(config.vision.frames_per_clip), ..size };
        let made = match part {
            Part::Vision => vision(&weights, config, size),
            Part::Predictor => predictor(&weights, config, size),
            Part::Text => text(&weights, config, size),
            Part::Decoder => {
                let made = decoder(&weights, config, size).map_err(ModelError::from)?;
                made.ok_or(RehearsalError::Absent(part))?
            }
        };
        weights.finish()?;
        Ok(made)
    }

    /// One forward pass; `mark` hears of the end of each stage (`patch_embed`, `layer0` ...) where the part has any.
    pub fn run(&self, mark: &mut Mark<'_>) -> std::result::Result<(), ModelError> {
        Ok((self.pass)(mark)?)
    }

    /// Rows that the part works on.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What the layers hold now, all together and of them the ternary ones, bytes.
    pub fn weight_bytes(&self) -> [usize; 2] {
        let facts = (self.facts)();
        let bytes =
            |ternary: bool| facts.iter().filter(move |facts| facts.is_ternary || !ternary).map(|facts| facts.bytes);
        [bytes(false).sum(), bytes(true).sum()]
    }
}

/// Tokens spread over a vocabulary.
fn ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|at| (at * 7919 % vocabulary) as u32).collect()
}

fn visual_tokens(config: &VlJepaConfig, size: Size) -> usize {
    config.vision.steps_of(size.frames) * config.vision.tokens_per_step()
}

fn vision(weights: &Weights, config: &VlJepaConfig, size: Size) -> Rehearsal {
    let encoder = Arc::new(VisionEncoder::load(weights, &config.vision));
    let side = config.vision.crop_size;
    let pixels = Array4::from_shape_fn((size.frames, config.vision.in_chans, side, side), |(t, c, y, x)| {
        ((t * 31 + c * 17 + y * 7 + x * 3) % 64) as f32 / 32.0 - 1.0
    });
    Rehearsal {
        tokens: visual_tokens(config, size),
        facts: Box::new({
            let part = encoder.clone();
            move || part.facts()
        }),
        pass: Box::new(move |mark| encoder.observe(&[pixels.view()], &mut |name, _| mark(name)).map(drop)),
    }
}

fn predictor(weights: &Weights, config: &VlJepaConfig, size: Size) -> Rehearsal {
    let predictor = Arc::new(Predictor::load(weights, &config.predictor, &config.vision, config.shared_dim));
    let seen = visual_tokens(config, size);
    let tokens = weights.pp("input").get(&[seen, config.vision.hidden_size], "visual", Init::Normal(1.0));
    let visual = Visual { tokens, segments: std::iter::once(0..seen).collect() };
    let question =
        ids(size.question_tokens.min(config.predictor.max_question_tokens), config.predictor.llama.vocab_size);
    let pool = config.predictor.pool;
    Rehearsal {
        tokens: seen + question.len(),
        facts: Box::new({
            let part = predictor.clone();
            move || part.facts()
        }),
        pass: Box::new(move |mark| {
            predictor.observe(&visual, &[(0, &question)], pool, &mut |name, _| mark(name)).map(drop)
        }),
    }
}

fn text(weights: &Weights, config: &VlJepaConfig, size: Size) -> Rehearsal {
    let head = TextHead { dense_dim: config.dense_dim, shared_dim: Some(config.shared_dim) };
    let encoder = Arc::new(TextEncoder::load(weights, &config.text, head));
    let text = ids(size.text_tokens.min(config.text.max_tokens()), config.text.vocab_size());
    Rehearsal {
        tokens: text.len(),
        facts: Box::new({
            let part = encoder.clone();
            move || part.facts()
        }),
        pass: Box::new(move |mark| encoder.observe(&[&text], &mut |name, _| mark(name)).map(drop)),
    }
}

fn decoder(weights: &Weights, config: &VlJepaConfig, size: Size) -> Result<Option<Rehearsal>> {
    let Some(settings) = &config.decoder else { return Ok(None) };
    let mut settings = settings.clone();
    // Every text goes to its bound: random weights end anywhere.
    settings.llama.eos_token_id = None;
    let decoder = Arc::new(Decoder::load(weights, &settings, config.shared_dim));
    let embedding = Tensor::ones((1, config.shared_dim), DType::F32, &Device::Cpu)?;
    let options = DecodeOptions { max_tokens: size.answer_tokens, sampling: TokenSampling::Greedy };
    Ok(Some(Rehearsal {
        tokens: size.answer_tokens.min(settings.max_tokens),
        facts: Box::new({
            let part = decoder.clone();
            move || part.facts()
        }),
        pass: Box::new(move |_| decoder.generate(&embedding, &options).map(drop)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset;

    #[test]
    fn every_part_runs_and_inputs_are_cut_at_what_it_takes() {
        let config = preset::config("world-small").expect("a preset").expect("a sound config");
        let size = Size { frames: 1000, question_tokens: 1000, text_tokens: 1000, answer_tokens: 1000 };
        let rows: Vec<usize> = Part::ALL
            .into_iter()
            .map(|part| {
                let rehearsal = Rehearsal::new(&config, (part, Dense::F32), size).expect("a part");
                let mut stages = 0;
                rehearsal.run(&mut |_| stages += 1).expect("a pass");
                assert_eq!(stages > 0, part != Part::Decoder, "{part:?} tells its stages");
                let [all, ternary] = rehearsal.weight_bytes();
                assert!(all > ternary && (ternary > 0) == (part == Part::Predictor), "{part:?}: {ternary} of {all}");
                rehearsal.tokens()
            })
            .collect();
        let decoder = config.decoder.as_ref().map_or(0, |decoder| decoder.max_tokens);
        assert_eq!(rows, [64, 64 + config.predictor.max_question_tokens, config.text.max_tokens(), decoder]);
        let mut bare = config;
        bare.decoder = None;
        let refused = Rehearsal::new(&bare, (Part::Decoder, Dense::F32), size).err().expect("no such part");
        assert_eq!(refused.to_string(), "this model has no decoder");
    }
}
