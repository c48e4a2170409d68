//! Text encoders: tokens of texts in, one unit row of the shared space a text out. The body (EmbeddingGemma or BERT)
//! is averaged over its tokens; then come the Dense layers of sentence-transformers and the head into the shared
//! space, where there are any.

mod bert;
mod gemma;
pub mod modules;

use super::config::TextConfig;
use super::{Observer, unobserved};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::norm::l2_normalize;
use crate::nn::rows;
use crate::nn::weights::Weights;
use bert::Bert;
use candle_core::{Result, Tensor, bail};
use gemma::Gemma;
use std::ops::Range;

/// A text encoder.
pub struct TextEncoder {
    /// Sizes and settings.
    pub config: TextConfig,
    body: Body,
    dense: Vec<Linear>,
    head: Option<Linear>,
}

enum Body {
    Gemma(Gemma),
    Bert(Bert),
}

/// What follows the average: the width between the two Dense layers, and the dimensions of the shared space.
#[derive(Debug, Clone, Copy, Default)]
pub struct TextHead {
    /// `2_Dense.linear` to this width and `3_Dense.linear` back.
    pub dense_dim: Option<usize>,
    /// `y_head` to this many dimensions.
    pub shared_dim: Option<usize>,
}

impl TextEncoder {
    /// Reads the encoder. Faults are noted in `weights`.
    pub fn load(weights: &Weights, config: &TextConfig, head: TextHead) -> TextEncoder {
        let hidden = config.hidden_size();
        let linear = |name: &str, inputs, outputs, bias| {
            let at = name.split('.').fold(weights.clone(), |w, segment| w.pp(segment));
            Linear::load(&at, inputs, outputs, bias, Precision::Dense)
        };
        let dense =
            |wide| vec![linear("2_Dense.linear", hidden, wide, false), linear("3_Dense.linear", wide, hidden, false)];
        TextEncoder {
            body: match config {
                TextConfig::Gemma(config) => Body::Gemma(Gemma::load(weights, config)),
                TextConfig::Bert(config) => Body::Bert(Bert::load(weights, config)),
            },
            dense: head.dense_dim.map(dense).unwrap_or_default(),
            head: head.shared_dim.map(|shared| linear("y_head", hidden, shared, true)),
            config: config.clone(),
        }
    }

    /// Takes Dense layers that live in files of their own (sentence-transformers' `2_Dense`, `3_Dense`).
    pub fn with_dense(self, dense: Vec<Linear>) -> TextEncoder {
        TextEncoder { dense, ..self }
    }

    /// One unit row `[texts, shared]` a text. A text without tokens is an error.
    pub fn forward(&self, texts: &[&[u32]]) -> Result<Tensor> {
        self.observe(texts, &mut unobserved)
    }

    /// [`forward`](Self::forward), showing `embed` (`embeddings` in a BERT), `layer0` ..., `last_hidden_state`,
    /// `pooled`, `dense`, `embedding`. Rows stand text after text.
    pub fn observe(&self, texts: &[&[u32]], observer: &mut Observer) -> Result<Tensor> {
        let bound = self.config.max_tokens();
        if let Some(text) = texts.iter().find(|text| text.len() > bound) {
            bail!("text has {} tokens; the text encoder takes at most {bound}", text.len());
        }
        let (ids, segments) = ragged(texts);
        if let Some(index) = texts.iter().position(|text| text.is_empty()) {
            bail!("text {index} of {} has no tokens", texts.len());
        }
        let x = match &self.body {
            Body::Gemma(gemma) => gemma.forward(&ids, &segments, observer)?,
            Body::Bert(bert) => bert.forward(&ids, &segments, observer)?,
        };
        observer("last_hidden_state", &x);
        let groups: Vec<_> = segments.into_iter().map(|segment| vec![segment]).collect();
        let mut x = rows::mean(&x, &groups)?; // [texts, hidden]
        observer("pooled", &x);
        for dense in &self.dense {
            x = dense.forward(&x)?;
        }
        observer("dense", &x);
        x = self.head.as_ref().map_or(Ok(x.clone()), |head| head.forward(&x))?;
        let embedding = l2_normalize(&x)?; // [texts, shared]
        observer("embedding", &embedding);
        Ok(embedding)
    }

    /// What the linears hold.
    pub fn facts(&self) -> Vec<LayerFacts> {
        let mut all = match &self.body {
            Body::Gemma(gemma) => gemma.facts(),
            Body::Bert(bert) => bert.facts(),
        };
        all.extend(self.dense.iter().chain(&self.head).map(Linear::facts));
        all
    }
}

/// All texts' tokens one after the other, and where each text lies.
fn ragged(texts: &[&[u32]]) -> (Vec<u32>, Vec<Range<usize>>) {
    let mut end = 0;
    let mut segment = |text: &&[u32]| {
        let start = end;
        end += text.len();
        start..end
    };
    (texts.concat(), texts.iter().map(&mut segment).collect())
}
