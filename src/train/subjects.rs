//! The two things that an exam can be given to: the parts in training, and a loaded bundle.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::data::Edges;
use super::evaluate::{Rows, Subject};
use super::parts::Parts;
use crate::embedding::Embedding;
use crate::input::{Clip, Tokens};
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::model::vl_jepa::{Scene, VlJepa};

/// The parts as they are now.
pub struct InTraining<'a> {
    /// What learns.
    pub parts: &'a Parts,
    /// For the words of the decoder.
    pub edges: &'a Edges,
}

impl Subject for InTraining<'_> {
    fn predict(&self, clips: &[Arc<Clip>], questions: &[&[u32]]) -> Result<Rows, String> {
        let questions: Vec<(usize, &[u32])> = questions.iter().copied().enumerate().collect();
        rows(self.parts.predict(clips, &questions))
    }

    fn embed(&self, texts: &[&[u32]]) -> Result<Rows, String> {
        rows(self.parts.text.forward(texts))
    }

    fn decode(&self, rows: &Rows) -> Result<Option<Vec<String>>, String> {
        let Some(decoder) = &self.parts.decoder else { return Ok(None) };
        let options = DecodeOptions { max_tokens: decoder.config.max_tokens, sampling: TokenSampling::Greedy };
        let width = self.parts.config.shared_dim;
        let table = Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu);
        let texts = table.and_then(|table| decoder.generate(&table, &options)).map_err(|e| e.to_string())?;
        Ok(Some(texts.iter().map(|ids| self.edges.tokenizer.decode(ids)).collect()))
    }
}

/// A loaded bundle, asked the way the service asks it.
pub struct Bundled<'a> {
    /// The model.
    pub model: &'a VlJepa,
}

impl Subject for Bundled<'_> {
    fn predict(&self, clips: &[Arc<Clip>], questions: &[&[u32]]) -> Result<Rows, String> {
        let visual = self.model.see(clips).map_err(|e| e.to_string())?;
        let scene = |(visual, ids)| Scene { visual, question: tokens(ids) };
        let scenes: Vec<Scene> = visual.into_iter().zip(questions.iter().copied()).map(scene).collect();
        self.model.predict(&scenes).map(values).map_err(|e| e.to_string())
    }

    fn embed(&self, texts: &[&[u32]]) -> Result<Rows, String> {
        let texts: Vec<Tokens> = texts.iter().copied().map(tokens).collect();
        self.model.embed_text(&texts).map(values).map_err(|e| e.to_string())
    }

    fn decode(&self, rows: &Rows) -> Result<Option<Vec<String>>, String> {
        let Some(decoder) = &self.model.decoder else { return Ok(None) };
        let options = DecodeOptions { max_tokens: decoder.config.max_tokens, sampling: TokenSampling::Greedy };
        let space = self.model.space();
        let embeddings: Vec<Embedding> =
            rows.iter().map(|values| Embedding { values: values.clone(), space }).collect();
        self.model.decode(&embeddings, &options).map(Some).map_err(|e| e.to_string())
    }
}

fn tokens(ids: &[u32]) -> Tokens {
    Tokens { ids: ids.to_vec(), truncated: false }
}

fn values(embeddings: Vec<Embedding>) -> Rows {
    embeddings.into_iter().map(|embedding| embedding.values).collect()
}

fn rows(tensor: candle_core::Result<Tensor>) -> Result<Rows, String> {
    tensor.and_then(|tensor| tensor.to_vec2()).map_err(|e| e.to_string())
}
