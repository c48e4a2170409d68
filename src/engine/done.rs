//! What comes of work that has been through the model: the words that were asked for, what it took and how long.

use std::time::Duration;

use super::request::{Answer, Choice, Embedded, Manner, Timing, Usage};
use super::work::Found;
use crate::embedding::Ranked;

/// A scene that has been through the model.
pub struct Done {
    /// What the model found.
    pub found: Found,
    /// What it took.
    pub usage: Usage,
    /// How long it was prepared.
    pub prepare: Duration,
    /// How long it all took.
    pub total: Duration,
}

impl Done {
    /// The answer in the manner in which it was asked for.
    pub fn answer(mut self, manner: Option<&Manner>) -> Answer {
        let (text, choices) = self.found.words(manner);
        Answer { text, choices, embedded: embedded(self) }
    }
}

impl Found {
    /// What was found in the manner in which it was asked for: the words, and the candidates in the order given.
    pub fn words(&mut self, manner: Option<&Manner>) -> (String, Vec<Choice>) {
        let candidates = match manner {
            Some(Manner::Choose(candidates)) => &candidates[..],
            _ => &[],
        };
        let ranked = std::mem::take(&mut self.ranked);
        // Of equals the first given.
        let best = ranked.iter().rev().max_by(|a, b| a.cosine.total_cmp(&b.cosine));
        let text = match best {
            Some(best) => candidates[best.index].clone(),
            None => self.spoken.take().unwrap_or_default(),
        };
        let choice = |(ranked, text): (&Ranked, &String)| Choice {
            text: text.clone(),
            score: ranked.score,
            cosine: ranked.cosine,
        };
        (text, ranked.iter().zip(candidates).map(choice).collect())
    }
}

/// Its embedding, what it took and how long it took.
pub fn embedded(Done { found, usage, prepare, total }: Done) -> Embedded {
    let timing = Timing { prepare, total, ..found.timing };
    let embedding = found.embeddings.into_iter().next().expect("a scene has an embedding");
    Embedded { embedding, usage, timing }
}
