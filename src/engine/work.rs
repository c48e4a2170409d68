//! What the model is asked to do, what it found, and how both travel between whoever waits and the model thread.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::admission::Permit;
use super::cost::{Cost, Part};
use super::error::EngineError;
use super::memory::Held;
use super::request::{ClipFacts, Timing};
use crate::embedding::{Embedding, Ranked};
use crate::input::{Clip, Tokens};
use crate::model::decoder::{DecodeOptions, TokenSampling};

/// What the model is asked to do.
#[derive(Debug)]
pub enum Work {
    /// Embed texts.
    Texts(Vec<Text>),
    /// Predict the embedding of an answer.
    Scene(Scene),
    /// Predict the embeddings of the answers to several questions about one clip.
    Look(Look),
    /// Put an embedding into words.
    Words(Words),
}

/// A question about a clip.
#[derive(Debug)]
pub struct Scene {
    /// What is seen.
    pub seen: Seen,
    /// What is asked.
    pub question: Tokens,
    /// What happens to the embedding.
    pub then: Then,
}

/// Several questions about a clip, which is seen once for all of them.
#[derive(Debug)]
pub struct Look {
    /// What is seen.
    pub seen: Seen,
    /// What is asked; one at least.
    pub questions: Vec<Tokens>,
}

/// An embedding that is there already, and what is to happen to it.
#[derive(Debug)]
pub struct Words {
    /// Of the model's space.
    pub embedding: Embedding,
    /// What happens to it.
    pub then: Then,
}

/// A clip that is ready for the model.
#[derive(Debug)]
pub struct Seen {
    /// Its pixels.
    pub clip: Arc<Clip>,
    /// Equal for equal pixels; unequal ones are told apart by it nearly always.
    pub digest: u64,
    /// Tokens that the vision encoder makes of it.
    pub tokens: usize,
    /// What it was before it was made fit.
    pub facts: ClipFacts,
    /// The memory it takes, given back with it.
    pub _memory: Held,
}

/// A text, with its embedding if that was known when it was prepared: then it costs nothing, whatever is forgotten
/// meanwhile.
#[derive(Debug, Clone)]
pub struct Text {
    /// Its tokens.
    pub tokens: Tokens,
    /// Its embedding.
    pub known: Option<Arc<Embedding>>,
}

/// What happens to a predicted embedding.
#[derive(Debug)]
pub enum Then {
    /// It is the answer.
    Return,
    /// It is compared with these texts.
    Rank(Vec<Text>),
    /// It is put into words.
    Decode(DecodeOptions),
}

impl Work {
    /// What it asks of the model.
    pub fn cost(&self) -> Cost {
        match self {
            Self::Texts(texts) => Cost { text: unknown(texts), ..Cost::default() },
            Self::Scene(scene) => scene.cost(),
            Self::Look(look) => look.cost(),
            Self::Words(words) => words.cost(),
        }
    }

    /// The clip it wants seen and what is asked about it.
    pub fn asked(&self) -> Option<(&Seen, &[Tokens])> {
        match self {
            Self::Scene(scene) => Some((&scene.seen, std::slice::from_ref(&scene.question))),
            Self::Look(look) => Some((&look.seen, &look.questions)),
            Self::Texts(_) | Self::Words(_) => None,
        }
    }

    /// What happens to its first embedding.
    pub fn then(&self) -> &Then {
        match self {
            Self::Scene(Scene { then, .. }) | Self::Words(Words { then, .. }) => then,
            Self::Texts(_) | Self::Look(_) => &Then::Return,
        }
    }

    /// The texts it wants embedded.
    pub fn texts(&self) -> &[Text] {
        match self {
            Self::Texts(texts) => texts,
            other => match other.then() {
                Then::Rank(texts) => texts,
                Then::Return | Then::Decode(_) => &[],
            },
        }
    }
}

impl Scene {
    /// What it asks of the model.
    pub fn cost(&self) -> Cost {
        let seen = seen_cost(&self.seen, std::slice::from_ref(&self.question));
        let (text, decoder) = self.then.cost(seen.question.same);
        Cost { text, decoder, ..seen }
    }
}

impl Look {
    /// What it asks of the model.
    pub fn cost(&self) -> Cost {
        seen_cost(&self.seen, &self.questions)
    }
}

impl Words {
    /// What it asks of the model.
    pub fn cost(&self) -> Cost {
        let bits: Vec<u32> = self.embedding.values.iter().map(|value| value.to_bits()).collect();
        let (text, decoder) = self.then.cost(digest(&bits));
        Cost { text, decoder, ..Cost::default() }
    }
}

/// What it costs to ask these questions about a clip.
fn seen_cost(seen: &Seen, questions: &[Tokens]) -> Cost {
    let ids: Vec<&[u32]> = questions.iter().map(|question| &question.ids[..]).collect();
    Cost {
        vision: Part { tokens: seen.tokens, same: seen.digest },
        question: Part { tokens: ids.iter().map(|ids| ids.len()).sum(), same: digest(&(seen.digest, &ids)) },
        // The clip is read with every question.
        read: seen.tokens * questions.len(),
        ..Cost::default()
    }
}

impl Then {
    /// Tokens of texts and what the decoder may write, where it happens to the embedding whose digest is `of`.
    fn cost(&self, of: u64) -> (usize, Part) {
        match self {
            Self::Return => (0, Part::default()),
            Self::Rank(candidates) => (unknown(candidates), Part::default()),
            Self::Decode(options) => (0, Part { tokens: options.max_tokens, same: words(of, options) }),
        }
    }
}

/// Equal where the decoder says the same about an embedding.
fn words(of: u64, options: &DecodeOptions) -> u64 {
    match options.sampling {
        TokenSampling::Greedy => digest(&(of, options.max_tokens)),
        TokenSampling::TopP { temperature, top_p, seed } => {
            digest(&(of, options.max_tokens, temperature.to_bits(), top_p.to_bits(), seed))
        }
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Tokens of the texts whose embeddings are not known.
pub fn unknown(texts: &[Text]) -> usize {
    texts.iter().filter(|text| text.known.is_none()).map(|text| text.tokens.ids.len()).sum()
}

/// What the model found.
#[derive(Debug, Default)]
pub struct Found {
    /// The predicted or given embedding, or one a question or text.
    pub embeddings: Vec<Embedding>,
    /// Candidates, in the order given.
    pub ranked: Vec<Ranked>,
    /// What the decoder said.
    pub spoken: Option<String>,
    /// Tokens that the vision encoder made.
    pub visual_tokens: usize,
    /// Queue and model stages.
    pub timing: Timing,
}

/// Work and the one who waits for it.
#[derive(Debug)]
pub struct Job {
    /// The work.
    pub work: Work,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<Found, EngineError>>,
    /// Held until the job is gone; pieces of one request share it.
    pub permit: Arc<Permit>,
}

impl Job {
    /// Whether somebody still waits.
    pub fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Tells whoever waits.
    pub fn answer(self, outcome: Result<Found, EngineError>) {
        let Self { reply, permit, work } = self;
        // Before the reply: who has an answer must find the places free that it took.
        drop((permit, work));
        // The client may have gone meanwhile.
        let _ = reply.send(outcome);
    }
}
