//! The whole model as the engine sees it: clips and questions in, embeddings and words out, no tensor in sight except
//! as opaque visual tokens. Everything here takes lists, and a list gives what its items would give alone.

use super::bundle::{Bundle, BundleError, Part};
use super::config::VlJepaConfig;
use super::decoder::{DecodeOptions, Decoder};
use super::error::ModelError;
use super::facts::ModelFacts;
use super::predictor::Predictor;
use super::text::{TextEncoder, TextHead};
use super::vision::{VisionEncoder, Visual};
use crate::embedding::{Embedding, Space};
use crate::input::{Clip, Preprocessor};
use crate::input::{Tokenizer, Tokens};
use crate::nn::linear::{Linear, Precision};
use crate::nn::rows;
use crate::nn::weights::{Mode, Weights, WeightsError};
use candle_core::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// VL-JEPA, ready to answer. It is never written to: share it behind an `Arc`.
pub struct VlJepa {
    /// Sizes and settings.
    pub config: VlJepaConfig,
    /// The vision encoder.
    pub vision: VisionEncoder,
    /// The predictor.
    pub predictor: Predictor,
    /// The text encoder.
    pub text: TextEncoder,
    /// The decoder, where the bundle has one.
    pub decoder: Option<Decoder>,
    /// How pixels are prepared for it.
    pub preprocessor: Preprocessor,
    question_tokenizer: Tokenizer,
    text_tokenizer: Tokenizer,
    decoder_tokenizer: Option<Tokenizer>,
    facts: ModelFacts,
}

/// What the vision encoder saw in one clip; cheap to clone.
#[derive(Debug, Clone)]
pub struct VisualTokens {
    tokens: Tensor,
}

/// A question about a clip.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The clip. Scenes with clones of the same tokens share the visual pass of a predictor in prefix mode.
    pub visual: VisualTokens,
    /// The question.
    pub question: Tokens,
}

impl VisualTokens {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.tokens.dims()[0]
    }

    /// Never true: a clip has at least one frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl VlJepa {
    /// Loads every part of a bundle; all names, shapes and relations that do not hold are in one error.
    pub fn load(bundle: &Bundle) -> Result<VlJepa, BundleError> {
        let config = bundle.config.clone();
        let weights = |part| bundle.weights(part, Mode::Infer);
        let (seen, predicting, reading) = (weights(Part::Vision)?, weights(Part::Predictor)?, weights(Part::Text)?);
        let writing = config.decoder.as_ref().map(|_| weights(Part::Decoder)).transpose()?;
        let head = TextHead { dense_dim: config.dense_dim, shared_dim: Some(config.shared_dim) };
        let vision = VisionEncoder::load(&seen, &config.vision);
        let predictor = Predictor::load(&predicting, &config.predictor, &config.vision, config.shared_dim);
        let (text, dense) = load_text(bundle, &reading, head)?;
        let decoder = writing.as_ref().zip(config.decoder.as_ref());
        let decoder = decoder.map(|(weights, config_)| Decoder::load(weights, config_, config.shared_dim));
        let mut faults = Vec::new();
        let loaded = [("vision", Some(&seen)), ("predictor", Some(&predicting)), ("text", Some(&reading))];
        let dense = dense.iter().map(|weights| ("text", Some(weights)));
        for (part, weights) in loaded.into_iter().chain([("decoder", writing.as_ref())]).chain(dense) {
            faults.extend(weights.into_iter().flat_map(|weights| part_faults(part, weights)));
        }
        let tokenizers = Tokenizers::load(bundle, &mut faults)?;
        let preprocessor = bundle.preprocessor()?;
        check_preprocessor(&preprocessor, &config, &mut faults);
        if !faults.is_empty() {
            return Err(BundleError::Faults(faults));
        }
        let linears = |part| match part {
            Part::Vision => vision.facts(),
            Part::Predictor => predictor.facts(),
            Part::Text => text.facts(),
            Part::Decoder => decoder.as_ref().map(Decoder::facts).unwrap_or_default(),
        };
        let facts = ModelFacts::gather(bundle, linears, bundle.space()?)?;
        let Tokenizers { question: question_tokenizer, text: text_tokenizer, decoder: decoder_tokenizer } = tokenizers;
        Ok(VlJepa {
            config,
            vision,
            predictor,
            text,
            decoder,
            preprocessor,
            question_tokenizer,
            text_tokenizer,
            decoder_tokenizer,
            facts,
        })
    }

    /// The space of this model's embeddings.
    pub fn space(&self) -> Space {
        self.facts.space
    }

    /// What can be said about the model.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Tokens of a question, cut at the predictor's longest.
    pub fn tokenize_question(&self, question: &str) -> Result<Tokens, ModelError> {
        Ok(self.question_tokenizer.encode(question, self.config.predictor.max_question_tokens)?)
    }

    /// Tokens of an answer, caption or document for the text encoder, with its prompt, cut at its longest.
    pub fn tokenize_text(&self, text: &str) -> Result<Tokens, ModelError> {
        self.tokenize_prompted(&self.config.text.prompts().document, text)
    }

    /// Tokens of search words for the text encoder, with their prompt, cut at its longest.
    pub fn tokenize_query(&self, text: &str) -> Result<Tokens, ModelError> {
        self.tokenize_prompted(&self.config.text.prompts().query, text)
    }

    /// One vision pass a clip, in their order.
    pub fn see(&self, clips: &[Arc<Clip>]) -> Result<Vec<VisualTokens>, ModelError> {
        if clips.is_empty() {
            return Ok(Vec::new());
        }
        let clips: Vec<&Clip> = clips.iter().map(Arc::as_ref).collect();
        let visual = self.vision.forward(&clips)?;
        let one = |segment: &Range<usize>| {
            let tokens = visual.tokens.narrow(0, segment.start, segment.len())?;
            // A copy of its own, so that a cached clip does not keep its whole batch alive.
            Ok(VisualTokens { tokens: tokens.force_contiguous()? })
        };
        visual.segments.iter().map(one).collect()
    }

    /// One answer embedding a scene, in their order.
    pub fn predict(&self, scenes: &[Scene]) -> Result<Vec<Embedding>, ModelError> {
        if scenes.is_empty() {
            return Ok(Vec::new());
        }
        let tokens_max = self.config.predictor.max_question_tokens;
        let mut clips: Vec<&Tensor> = Vec::new();
        let mut questions = Vec::with_capacity(scenes.len());
        for Scene { visual, question } in scenes {
            let ids = question.ids.as_slice();
            if ids.len() > tokens_max {
                return Err(ModelError::TooLong { what: "question", tokens: ids.len(), tokens_max });
            }
            let known = clips.iter().position(|clip| clip.id() == visual.tokens.id());
            questions.push((known.unwrap_or(clips.len()), ids));
            if known.is_none() {
                clips.push(&visual.tokens);
            }
        }
        let visual = Visual { tokens: rows::concat(&clips)?, segments: segments(&clips) };
        self.embeddings(&self.predictor.forward(&visual, &questions)?)
    }

    /// One embedding a text, in their order.
    pub fn embed_text(&self, texts: &[Tokens]) -> Result<Vec<Embedding>, ModelError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(index) = texts.iter().position(|text| text.ids.is_empty()) {
            return Err(ModelError::EmptyText { index });
        }
        let tokens_max = self.config.text.max_tokens();
        if let Some(long) = texts.iter().find(|text| text.ids.len() > tokens_max) {
            return Err(ModelError::TooLong { what: "text", tokens: long.ids.len(), tokens_max });
        }
        let texts: Vec<&[u32]> = texts.iter().map(|text| text.ids.as_slice()).collect();
        self.embeddings(&self.text.forward(&texts)?)
    }

    /// The decoder's words for embeddings of this model's space.
    pub fn decode(&self, embeddings: &[Embedding], options: &DecodeOptions) -> Result<Vec<String>, ModelError> {
        let (Some(decoder), Some(tokenizer)) = (&self.decoder, &self.decoder_tokenizer) else {
            return Err(ModelError::NoDecoder);
        };
        if embeddings.is_empty() {
            return Ok(Vec::new());
        }
        let (own, own_dimensions) = (self.space(), self.config.shared_dim);
        let foreign = |e: &&Embedding| e.space != own || e.values.len() != own_dimensions;
        if let Some(Embedding { space, values }) = embeddings.iter().find(foreign) {
            let (space, dimensions) = (*space, values.len());
            return Err(ModelError::ForeignEmbedding { space, dimensions, own, own_dimensions });
        }
        let values: Vec<f32> = embeddings.iter().flat_map(|embedding| embedding.values.iter().copied()).collect();
        let prefix = Tensor::from_vec(values, (embeddings.len(), own_dimensions), &Device::Cpu)?;
        let texts = decoder.generate(&prefix, options)?;
        Ok(texts.iter().map(|ids| tokenizer.decode(ids)).collect())
    }

    fn tokenize_prompted(&self, prompt: &str, text: &str) -> Result<Tokens, ModelError> {
        Ok(self.text_tokenizer.encode(&format!("{prompt}{text}"), self.config.text.max_tokens())?)
    }

    fn embeddings(&self, rows: &Tensor) -> Result<Vec<Embedding>, ModelError> {
        let (rows, space) = (rows.to_vec2::<f32>()?, self.space());
        for (index, values) in rows.iter().enumerate() {
            if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                return Err(ModelError::NotFinite { index, value });
            }
        }
        Ok(rows.into_iter().map(|values| Embedding { values, space }).collect())
    }
}

/// The text encoder, and the weights of Dense layers that lie in folders of their own.
fn load_text(bundle: &Bundle, own: &Weights, head: TextHead) -> Result<(TextEncoder, Vec<Weights>), BundleError> {
    let (config, files) = (&bundle.config.text, bundle.dense_files());
    let Some(wide) = head.dense_dim.filter(|_| !files.is_empty()) else {
        return Ok((TextEncoder::load(own, config, head), Vec::new()));
    };
    let text = TextEncoder::load(own, config, TextHead { dense_dim: None, ..head });
    let mut weights = Vec::new();
    let mut dense = Vec::new();
    for (file, (inputs, outputs)) in files.into_iter().zip([(config.hidden_size(), wide), (wide, config.hidden_size())])
    {
        let source = bundle.files().weights(&[file], Mode::Infer)?.holding(own.dense());
        dense.push(Linear::load(&source.pp("linear"), inputs, outputs, false, Precision::Dense));
        weights.push(source);
    }
    Ok((text.with_dense(dense), weights))
}

fn segments(parts: &[&Tensor]) -> Vec<Range<usize>> {
    let mut end = 0;
    let mut segment = |part: &&Tensor| {
        let start = end;
        end += part.dims()[0];
        start..end
    };
    parts.iter().map(&mut segment).collect()
}

/// The faults of a part's weights, each with the part's name.
fn part_faults(part: &str, weights: &Weights) -> Vec<String> {
    match weights.finish() {
        Ok(()) => Vec::new(),
        Err(WeightsError::Faults { faults, .. }) => {
            faults.into_iter().map(|fault| format!("{part}: {fault}")).collect()
        }
        Err(other) => vec![format!("{part}: {other}")],
    }
}

fn check_preprocessor(preprocessor: &Preprocessor, config: &VlJepaConfig, faults: &mut Vec<String>) {
    let (made, taken) = (preprocessor.output_size(), config.vision.crop_size);
    if made != Some((taken, taken)) {
        faults.push(format!("preprocessor_config.json: makes frames of {made:?}; vision.crop_size is {taken}"));
    }
}

struct Tokenizers {
    question: Tokenizer,
    text: Tokenizer,
    decoder: Option<Tokenizer>,
}

impl Tokenizers {
    fn load(bundle: &Bundle, faults: &mut Vec<String>) -> Result<Tokenizers, BundleError> {
        let config = &bundle.config;
        let mut load = |part: Part, vocabulary: usize| {
            let tokenizer = bundle.tokenizer(part)?;
            let tokens = tokenizer.rows();
            if tokens > vocabulary {
                let part = part.name();
                faults.push(format!("{part}: its tokenizer has {tokens} tokens; {part}.vocab_size is {vocabulary}"));
            }
            Ok::<_, BundleError>(tokenizer)
        };
        Ok(Tokenizers {
            question: load(Part::Predictor, config.predictor.llama.vocab_size)?,
            text: load(Part::Text, config.text.vocab_size())?,
            decoder: config.decoder.as_ref().map(|d| load(Part::Decoder, d.llama.vocab_size)).transpose()?,
        })
    }
}
