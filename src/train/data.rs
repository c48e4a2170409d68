//! Where clips, questions and answers come from: the generator, or a file of lines.
//!
//! A source is asked for the scene of a ticket and gives the same scene for the same ticket, on any thread and in
//! any order. So a resumed run sees what the whole run would have seen, and no generator's state is saved.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::recipe::{Stage, WorldSettings};
use super::world::{Config, DenseLabels, Family, Pairs, Phrasings, Question, Scenario, Window, World};
use crate::input::{Clip, Frame, InputError, Preprocessor, Sampling, Tokenizer};
use crate::model::bundle::{Bundle, BundleError, Part};
use crate::model::config::VlJepaConfig;

/// A clip and what is asked about it.
pub struct Scene {
    /// The preprocessed clip.
    pub clip: Arc<Clip>,
    /// What is asked about it.
    pub asked: Vec<Asked>,
    /// Token ids of answers that are nearly right and wrong, where the source knows some.
    pub decoys: Vec<Vec<u32>>,
    /// What lies on every token, where the source knows it.
    pub labels: Option<DenseLabels>,
}

/// A question and its answer, as token ids. Answers of equal ids are the same answer.
#[derive(Clone)]
pub struct Asked {
    /// The question.
    pub question: Vec<u32>,
    /// The answer.
    pub answer: Vec<u32>,
}

/// Names one draw of a run. Different tickets give independent draws.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The run's seed.
    pub seed: u64,
    /// Index of the stage.
    pub stage: usize,
    /// How many draws the stage made before this one.
    pub position: u64,
}

impl Ticket {
    /// A seed of its own for every ticket. The top bit is clear: seeds with it belong to evaluation.
    pub fn hash(self) -> u64 {
        let stage = mix(self.seed ^ mix(self.stage as u64 + 1));
        mix(stage ^ mix(self.position)) & !EVALUATION
    }
}

/// The bit that evaluation's seeds have and training's have not: no clip is in both, but for the chance that two random
/// streams of 64 bits meet.
pub const EVALUATION: u64 = 1 << 63;

/// The finaliser of SplitMix64: a bijection that scatters neighbours.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Something that training data is drawn from.
pub trait Source: Sync {
    /// The scene of a ticket, with at most `stage.questions` questions.
    fn scene(&self, ticket: Ticket, stage: &Stage) -> Result<Scene, DataError>;

    /// Token ids of `count` answers without their clips.
    fn answers(&self, ticket: Ticket, stage: &Stage, count: usize) -> Result<Vec<Vec<u32>>, DataError>;
}

/// Why training data cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    File {
        /// Which file.
        file: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of a data file cannot be used.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// Which file.
        file: std::path::PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Field, value and bound.
        reason: String,
    },
    /// The data file has no lines.
    #[error("{0}: has no lines")]
    Empty(std::path::PathBuf),
    /// The recipe weighs a question family that the world does not have.
    #[error("recipe families: {name:?} is not a family; known are {known}")]
    Family {
        /// The unknown name.
        name: String,
        /// The known ones.
        known: String,
    },
    /// A clip or a text was refused.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// The generator as a source.
pub struct WorldSource {
    world: World,
    settings: WorldSettings,
    grid: usize,
    edges: Edges,
}

/// What turns frames and words into what the model takes.
#[derive(Clone)]
pub struct Edges {
    /// From frames to a clip.
    pub preprocessor: Arc<Preprocessor>,
    /// From words to ids.
    pub tokenizer: Arc<Tokenizer>,
    /// Longest question, tokens.
    pub question_tokens: usize,
    /// Longest answer, tokens.
    pub answer_tokens: usize,
    /// What the text encoder wants before an answer.
    pub answer_prompt: String,
}

impl Edges {
    /// The edges of a model with this config.
    pub fn new(config: &VlJepaConfig, preprocessor: Preprocessor, tokenizer: Tokenizer) -> Edges {
        Edges {
            preprocessor: Arc::new(preprocessor),
            tokenizer: Arc::new(tokenizer),
            question_tokens: config.predictor.max_question_tokens,
            answer_tokens: config.text.max_tokens(),
            answer_prompt: config.text.prompts().document.clone(),
        }
    }

    /// The edges of a bundle. Questions and answers are read by the text encoder's tokenizer.
    pub fn of(bundle: &Bundle) -> Result<Edges, BundleError> {
        Ok(Edges::new(&bundle.config, bundle.preprocessor()?, bundle.tokenizer(Part::Text)?))
    }

    /// Token ids of a question.
    pub fn question(&self, text: &str) -> Result<Vec<u32>, InputError> {
        Ok(self.tokenizer.encode(text, self.question_tokens)?.ids)
    }

    /// Token ids of an answer.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>, InputError> {
        Ok(self.tokenizer.encode(&format!("{}{text}", self.answer_prompt), self.answer_tokens)?.ids)
    }

    /// A question with its answer.
    pub fn asked(&self, question: &str, answer: &str) -> Result<Asked, InputError> {
        Ok(Asked { question: self.question(question)?, answer: self.answer(answer)? })
    }

    /// The first `count` frames of a scenario, drawn at `size` pixels and preprocessed as a file's would be.
    pub fn clip(&self, scenario: &Scenario, size: usize, count: usize) -> Result<Arc<Clip>, InputError> {
        self.film(scenario.render(size).into_iter().take(count), size)
    }

    /// Drawn frames of `size` pixels as a clip.
    pub fn film(&self, drawn: impl IntoIterator<Item = Vec<u8>>, size: usize) -> Result<Arc<Clip>, InputError> {
        let side = size as u32;
        let frame = |(index, rgb)| Frame { width: side, height: side, rgb, pts_ms: index as u64 * FRAME_MS };
        let frames: Vec<Frame> = drawn.into_iter().enumerate().map(frame).collect();
        Ok(Arc::new(self.preprocessor.clip(&frames, &Sampling::default())?))
    }
}

/// The generator's clips are filmed at eight frames a second; the model is told the frames, not their times.
const FRAME_MS: u64 = 125;

impl WorldSource {
    /// A source of clips whose dense labels lie on a grid of `grid * grid` tokens.
    pub fn new(settings: &WorldSettings, grid: usize, edges: Edges) -> WorldSource {
        let [least, most] = settings.objects;
        let config =
            Config { frames: settings.frames, objects: least..=most, pairs: Pairs::Train, ..Config::default() };
        WorldSource { world: World::new(config), settings: settings.clone(), grid, edges }
    }

    /// What is seen, with questions about it. A share of the clips is drawn for one family, so that rare ones are not.
    fn draw(&self, ticket: Ticket, stage: &Stage) -> Result<(Drawn, Vec<Question>, ChaCha8Rng), DataError> {
        let weights = family_weights(stage)?;
        let seed = ticket.hash();
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed));
        if self.settings.streams > 0.0 && rng.random::<f32>() < self.settings.streams {
            let window = self.world.window(seed);
            let questions = window.questions(stage.questions, &weights, Phrasings::Train, &mut rng);
            return Ok((Drawn::Window(Box::new(window)), questions, rng));
        }
        let (scenario, first) = if rng.random::<f32>() < self.settings.for_family {
            let family = weighted(&weights, &mut rng);
            let (scenario, question) = self.world.clip_for(family, Phrasings::Train, seed);
            (scenario, Some(question))
        } else {
            (self.world.clip(seed), None)
        };
        let rest = stage.questions - first.iter().len();
        let mut questions: Vec<Question> = first.into_iter().collect();
        questions.extend(scenario.questions(rest, &weights, Phrasings::Train, &mut rng));
        Ok((Drawn::Clip(Box::new(scenario)), questions, rng))
    }

    /// Pixels and labels. A still clip is an image file every other time: the vision encoder makes one step of it.
    fn film(&self, drawn: &Drawn, rng: &mut ChaCha8Rng) -> Result<(Arc<Clip>, DenseLabels), DataError> {
        let as_image = matches!(drawn, Drawn::Clip(scenario) if scenario.still) && rng.random();
        let size = self.settings.sizes[rng.random_range(0..self.settings.sizes.len())];
        let (clip, mut labels) = match drawn {
            Drawn::Window(window) => (self.edges.film(window.render(size), size)?, window.labels(self.grid)),
            Drawn::Clip(scenario) => {
                let frames = if as_image { 1 } else { self.settings.frames };
                (self.edges.clip(scenario, size, frames)?, scenario.labels(self.grid))
            }
        };
        if as_image {
            labels.truncate(self.grid * self.grid);
        }
        Ok((clip, labels))
    }
}

/// What the generator drew.
enum Drawn {
    /// A clip.
    Clip(Box<Scenario>),
    /// A window over a stream.
    Window(Box<Window>),
}

impl Source for WorldSource {
    fn scene(&self, ticket: Ticket, stage: &Stage) -> Result<Scene, DataError> {
        let (drawn, questions, mut rng) = self.draw(ticket, stage)?;
        let mut asked = Vec::with_capacity(questions.len());
        for question in questions {
            let words = drop_fillers(&question.question, self.settings.drop_words, &mut rng);
            asked.push(self.edges.asked(&words, &question.answer)?);
        }
        let (clip, labels) = self.film(&drawn, &mut rng)?;
        let near = match &drawn {
            Drawn::Clip(scenario) => scenario.nearly_captions(stage.decoys, &mut rng),
            Drawn::Window(window) => window.scenario().nearly_captions(stage.decoys, &mut rng),
        };
        let decoys = near.iter().map(|text| self.edges.answer(text)).collect::<Result<_, _>>()?;
        Ok(Scene { clip, asked, decoys, labels: Some(labels) })
    }

    fn answers(&self, ticket: Ticket, stage: &Stage, count: usize) -> Result<Vec<Vec<u32>>, DataError> {
        let mut answers = Vec::with_capacity(count);
        for draw in 0.. {
            if answers.len() >= count {
                break;
            }
            let ticket = Ticket { seed: mix(ticket.hash() ^ draw), ..ticket };
            for question in self.draw(ticket, stage)?.1 {
                answers.push(self.edges.answer(&question.answer)?);
            }
        }
        answers.truncate(count);
        Ok(answers)
    }
}

/// The weight of every family: 1 where the stage says nothing.
fn family_weights(stage: &Stage) -> Result<Vec<(Family, f32)>, DataError> {
    let known = || Family::ALL.iter().map(|f| f.name()).collect::<Vec<_>>();
    if let Some(name) = stage.families.keys().find(|name| !known().contains(&name.as_str())) {
        return Err(DataError::Family { name: name.clone(), known: known().join(", ") });
    }
    let weight = |family: &Family| stage.families.get(family.name()).copied().unwrap_or(1.0);
    Ok(Family::ALL.iter().map(|f| (*f, weight(f))).collect())
}

fn weighted(weights: &[(Family, f32)], rng: &mut impl Rng) -> Family {
    let total: f32 = weights.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.random::<f32>() * total;
    for (family, weight) in weights {
        left -= weight;
        if left < 0.0 {
            return *family;
        }
    }
    weights[weights.len() - 1].0
}

/// Words that a question means the same without.
const FILLERS: [&str; 14] =
    ["the", "is", "are", "a", "an", "does", "do", "of", "there", "please", "it", "that", "?", "you"];

/// The question with each filler word left out at the given chance, but never without any word.
fn drop_fillers(question: &str, chance: f32, rng: &mut impl Rng) -> String {
    let spaced = question.replace('?', " ?");
    let mut kept = Vec::new();
    for word in spaced.split_whitespace() {
        if !(FILLERS.contains(&word) && rng.random::<f32>() < chance) {
            kept.push(word);
        }
    }
    if kept.is_empty() { question.to_owned() } else { kept.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_independent_and_never_evaluation() {
        let mut seen = std::collections::HashSet::new();
        for (seed, stage) in [(0, 0), (0, 1), (1, 0)] {
            for position in 0..1000 {
                let hash = Ticket { seed, stage, position }.hash();
                assert_eq!(hash & EVALUATION, 0);
                assert!(seen.insert(hash), "two tickets with one seed");
            }
        }
    }

    #[test]
    fn only_fillers_are_dropped() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(drop_fillers("what colour is the circle?", 1.0, &mut rng), "what colour circle");
        assert_eq!(drop_fillers("what colour is the circle?", 0.0, &mut rng), "what colour is the circle ?");
        assert_eq!(drop_fillers("is there?", 1.0, &mut rng), "is there?", "something is left");
    }

    #[test]
    fn weights_steer_the_family() {
        let stage = Stage { families: [(Family::ALL[0].name().to_owned(), 0.0)].into(), ..Stage::default() };
        let weights = family_weights(&stage).expect("a known family");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!((0..500).all(|_| weighted(&weights, &mut rng) != Family::ALL[0]));
        let wrong = Stage { families: [("nonsense".to_owned(), 1.0)].into(), ..Stage::default() };
        let error = family_weights(&wrong).expect_err("an unknown family");
        assert!(error.to_string().contains("nonsense"), "{error}");
    }
}
