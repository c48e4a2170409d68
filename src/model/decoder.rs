//! The text decoder: turns an embedding of the shared space into words. A linear map makes the embedding into the
//! first row or rows of a causal Llama- or BitNet-style model, which then goes on token by token over cached keys and
//! values. Teacher-forced logits serve training.

use super::config::DecoderConfig;
use super::llama::{Cache, Llama, Sequence};
use super::unobserved;
use crate::nn::attention::{Block, Mask, Plan};
use crate::nn::linear::{LayerFacts, Linear, Precision};
use crate::nn::rows;
use crate::nn::weights::Weights;
use candle_core::{Result, Tensor, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// Embedding to text.
pub struct Decoder {
    /// Sizes and settings.
    pub config: DecoderConfig,
    /// The blocks, the token embedding and the head.
    pub llama: Llama,
    prefix: Linear,
}

/// How words are chosen and where a text must end.
#[derive(Debug, Clone, Copy)]
pub struct DecodeOptions {
    /// Longest text, tokens; bounded by the decoder's own `max_tokens`.
    pub max_tokens: usize,
    /// How the next token is chosen.
    pub sampling: TokenSampling,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TokenSampling {
    /// The likeliest; the lower id wins a tie.
    Greedy,
    /// Drawn from the likeliest tokens that together reach `top_p`; every text draws from its own stream of `seed`.
    TopP {
        /// Divides the logits; must be above 0.
        temperature: f32,
        /// Above 0, at most 1.
        top_p: f32,
        /// Of the stream.
        seed: u64,
    },
}

/// A text being written.
struct Draft {
    tokens: Vec<u32>,
    /// Its rows in the cache.
    rows: Vec<Range<usize>>,
    stream: Option<ChaCha8Rng>,
    done: bool,
}

impl Decoder {
    /// Reads the decoder. Faults are noted in `weights`.
    pub fn load(weights: &Weights, config: &DecoderConfig, shared_dim: usize) -> Decoder {
        let outputs = config.llama.hidden_size * config.prefix_tokens;
        Decoder {
            llama: Llama::load(weights, &config.llama),
            prefix: Linear::load(&weights.pp("prefix"), shared_dim, outputs, true, Precision::Full),
            config: config.clone(),
        }
    }

    /// The rows that stand for embeddings `[n, shared]`: `[n * prefix_tokens, hidden]`.
    pub fn prefix_rows(&self, embeddings: &Tensor) -> Result<Tensor> {
        self.prefix.forward(embeddings)?.reshape(((), self.config.llama.hidden_size))
    }

    /// What the linears hold.
    pub fn facts(&self) -> Vec<LayerFacts> {
        self.llama.facts().into_iter().chain([self.prefix.facts()]).collect()
    }

    /// Teacher-forced logits: text i gives `len_i + 1` rows, of which row j scores its token j and the last scores
    /// what follows the text (its end); `[sum(len_i + 1), vocabulary]`.
    pub fn logits(&self, embeddings: &Tensor, texts: &[&[u32]]) -> Result<Tensor> {
        let prefix = self.prefix_rows(embeddings)?;
        let (count, width) = (texts.len(), self.config.prefix_tokens);
        let ids: Vec<u32> = texts.concat();
        let inputs = if ids.is_empty() { prefix } else { rows::concat(&[&prefix, &self.llama.embed(&ids)?])? };
        let (mut order, mut wanted, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = count * width;
        for (i, text) in texts.iter().enumerate() {
            let start = order.len();
            order.extend((i * width..(i + 1) * width).chain(next..next + text.len()).map(|row| row as u32));
            next += text.len();
            wanted.extend((start + width - 1..order.len()).map(|row| row as u32));
            segments.push(start..order.len());
        }
        let positions: Vec<f32> = segments.iter().flat_map(|s| (0..s.len()).map(|at| at as f32)).collect();
        let sequence = self.llama.sequence(&positions, Plan::causal(&segments));
        let x = rows::gather(&inputs, &order)?;
        let x = self.llama.run(x, 0..self.llama.depth(), &sequence, &mut unobserved)?;
        self.llama.logits(&self.llama.normalize(&rows::gather(&x, &wanted)?)?)
    }

    /// Texts of embeddings `[n, shared]`, without their end tokens.
    pub fn generate(&self, embeddings: &Tensor, options: &DecodeOptions) -> Result<Vec<Vec<u32>>> {
        let prefix = self.prefix_rows(embeddings)?;
        let max_tokens = options.max_tokens.min(self.config.max_tokens);
        let options = DecodeOptions { max_tokens, ..*options };
        generate(&self.llama, &prefix, self.config.prefix_tokens, &options)
    }
}

/// Texts that follow prefixes of `width` rows each, `[n * width, hidden]`, until one of the model's end tokens.
pub fn generate(llama: &Llama, prefix: &Tensor, width: usize, options: &DecodeOptions) -> Result<Vec<Vec<u32>>> {
    let count = prefix.dim(0)? / width.max(1);
    if let TokenSampling::TopP { temperature, top_p, .. } = options.sampling
        && !(temperature > 0.0 && top_p > 0.0 && top_p <= 1.0)
    {
        bail!("temperature is {temperature}, top_p {top_p}; they must be above 0, top_p at most 1");
    }
    let mut drafts: Vec<Draft> = (0..count).map(|i| Draft::new(i * width..(i + 1) * width, options)).collect();
    if count == 0 || options.max_tokens == 0 {
        return Ok(drafts.into_iter().map(|draft| draft.tokens).collect());
    }
    let mut cache = Cache::default();
    let positions: Vec<f32> = (0..count).flat_map(|_| (0..width).map(|at| at as f32)).collect();
    let segments: Vec<_> = drafts.iter().map(|draft| draft.rows[0].clone()).collect();
    let x = llama.extend(prefix.clone(), &llama.sequence(&positions, Plan::causal(&segments)), &mut cache)?;
    let last: Vec<u32> = (1..=count).map(|i| (i * width - 1) as u32).collect();
    let mut x = rows::gather(&x, &last)?; // [texts not done, hidden]
    let mut cached = count * width;
    loop {
        let logits = llama.logits(&llama.normalize(&x)?)?.to_vec2::<f32>()?;
        if logits.iter().flatten().any(|logit| logit.is_nan()) {
            bail!("a logit is NaN, expected a number: a weight of the decoder is not finite");
        }
        for (draft, logits) in drafts.iter_mut().filter(|draft| !draft.done).zip(&logits) {
            draft.push(logits, llama.config.ends(), options);
        }
        let mut going: Vec<&mut Draft> = drafts.iter_mut().filter(|draft| !draft.done).collect();
        if going.is_empty() {
            return Ok(drafts.into_iter().map(|draft| draft.tokens).collect());
        }
        let sequence = next_rows(llama, &mut going, width, cached);
        cached += going.len();
        let ids: Vec<u32> = going.iter().filter_map(|draft| draft.tokens.last().copied()).collect();
        x = llama.extend(llama.embed(&ids)?, &sequence, &mut cache)?;
    }
}

/// One new row for every text that goes on, behind the `cached` rows; it sees its own text's rows and itself.
fn next_rows(llama: &Llama, going: &mut [&mut Draft], width: usize, cached: usize) -> Sequence {
    let (mut blocks, mut positions) = (Vec::new(), Vec::new());
    for (i, draft) in going.iter_mut().enumerate() {
        draft.rows.push(cached + i..cached + i + 1);
        blocks.push(Block { queries: i..i + 1, keys: draft.rows.clone(), mask: Mask::Full });
        positions.push((width + draft.tokens.len() - 1) as f32);
    }
    llama.sequence(&positions, Plan { blocks })
}

impl Draft {
    fn new(prefix: Range<usize>, options: &DecodeOptions) -> Draft {
        let stream = match options.sampling {
            TokenSampling::Greedy => None,
            TokenSampling::TopP { seed, .. } => Some(ChaCha8Rng::seed_from_u64(seed)),
        };
        Draft { tokens: Vec::new(), rows: vec![prefix], stream, done: false }
    }

    /// Chooses the next token; an end token or the longest length ends the text.
    fn push(&mut self, logits: &[f32], ends: &[u32], options: &DecodeOptions) {
        let token = match (options.sampling, &mut self.stream) {
            (TokenSampling::TopP { temperature, top_p, .. }, Some(stream)) => {
                sample(logits, temperature, top_p, stream.random())
            }
            _ => likeliest(logits),
        };
        self.done = ends.contains(&token);
        if !self.done {
            self.tokens.push(token);
            self.done = self.tokens.len() >= options.max_tokens;
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The token at `draw` (0 to 1) of the likeliest tokens whose probabilities together reach `top_p`.
fn sample(logits: &[f32], temperature: f32, top_p: f32, draw: f32) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let top = order.first().map_or(0.0, |&id| logits[id as usize]);
    let weights: Vec<f32> = order.iter().map(|&id| ((logits[id as usize] - top) / temperature).exp()).collect();
    let enough = weights.iter().sum::<f32>() * top_p;
    let mut kept = 0.0;
    let nucleus = weights.iter().take_while(|&&weight| {
        let wanted = kept < enough;
        kept += weight;
        wanted
    });
    let nucleus: Vec<f32> = nucleus.copied().collect();
    let mut left = draw * nucleus.iter().sum::<f32>();
    for (id, weight) in order.iter().zip(&nucleus) {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    order[nucleus.len().saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_keeps_to_the_nucleus_and_to_the_order_of_likelihood() {
        let logits = [0.0, 3.0, 1.0, -9.0]; // probabilities .042, .844, .114, .000
        assert_eq!(sample(&logits, 1.0, 0.5, 0.999), 1, "one token reaches one half");
        assert_eq!(sample(&logits, 1.0, 0.9, 0.999), 2, "two reach nine tenths");
        assert_eq!(sample(&logits, 1.0, 0.9, 0.0), 1);
        assert_eq!(sample(&logits, 0.01, 1.0, 0.999), 1, "cold is greedy");
        assert_eq!(sample(&logits, 1e6, 1.0, 0.999), 3, "hot is even");
    }

    #[test]
    fn the_lower_id_wins_a_tie() {
        assert_eq!(likeliest(&[1.0, 2.0, 2.0]), 1);
    }
}
