//! What is asked: clips that the generator draws, all different, for a server computes equal ones only once; or a
//! person's own files.

use std::path::PathBuf;

use anyhow::Context;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cli::world::file;
use crate::cli::{read_media, side};
use crate::settings::Settings;
use crate::train::world::{Config, Family, Phrasings, World};

const CLIPS_MAX: usize = 4096;

/// Which media, questions and answers.
#[derive(Debug, clap::Args)]
pub(super) struct AskArgs {
    /// Ask about these files, each with --question and --choices, instead of drawn clips
    #[arg(long, value_name = "FILE", num_args = 1.., requires_all = ["question", "choices"])]
    media: Vec<PathBuf>,
    /// The question about the files
    #[arg(long, requires = "media")]
    question: Option<String>,
    /// The answers to choose from, separated by commas
    #[arg(long, value_delimiter = ',', requires = "media")]
    choices: Vec<String>,
    /// Different clips to draw
    #[arg(long, default_value_t = 256)]
    clips: usize,
    /// Width and height of drawn clips, pixels
    #[arg(long, default_value_t = 128)]
    size: usize,
}

/// One thing to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) media: Vec<u8>,
    pub(super) question: String,
    pub(super) candidates: Vec<String>,
}

impl AskArgs {
    /// Reads or draws them.
    pub(super) fn asks(&self, seed: u64, settings: &Settings) -> anyhow::Result<Vec<Ask>> {
        if self.media.is_empty() {
            anyhow::ensure!(
                (1..=CLIPS_MAX).contains(&self.clips),
                "--clips is {}, must be 1 to {CLIPS_MAX}",
                self.clips
            );
            return drawn(self.clips, side("--size", self.size)?, seed);
        }
        let ask = |path: &PathBuf| {
            Ok(Ask {
                media: read_media(path, settings.media.bytes_max as u64).with_context(|| path.display().to_string())?,
                question: self.question.clone().unwrap_or_default(),
                candidates: self.choices.iter().map(|choice| choice.trim().to_string()).collect(),
            })
        };
        self.media.iter().map(ask).collect()
    }
}

/// Clips of the generator, each with one question of a closed family.
fn drawn(count: usize, size: usize, seed: u64) -> anyhow::Result<Vec<Ask>> {
    let world = World::new(Config::default());
    let closed: Vec<(Family, f32)> = Family::ALL
        .iter()
        .filter(|family| (2..=32).contains(&family.candidates().len()))
        .map(|&family| (family, 1.0))
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut asks = Vec::with_capacity(count);
    while asks.len() < count {
        let scenario = world.clip(random.next_u64());
        // Not every clip has a question of every family; a few have none.
        let Some(asked) = scenario.questions(1, &closed, Phrasings::Train, &mut random).pop() else { continue };
        let (media, _) = file(&scenario, size)?;
        asks.push(Ask { media, question: asked.question, candidates: asked.family.candidates() });
    }
    Ok(asks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_clips_differ_and_have_their_answers() {
        let asks = drawn(12, 32, 3).expect("drawn");
        assert_eq!(asks, drawn(12, 32, 3).expect("drawn"));
        for (at, ask) in asks.iter().enumerate() {
            assert!(!ask.question.is_empty() && ask.candidates.len() >= 2, "{ask:?}");
            assert!(asks[..at].iter().all(|other| other.media != ask.media), "clip {at} came before");
        }
    }
}
