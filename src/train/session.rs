//! From what a person asks for to a run that can start: recipe, tokenizer, parts and data, fitted to each other.

use std::path::Path;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::data::{DataError, Edges, Source, WorldSource};
use super::lines::{self, LinesSource};
use super::parts::Parts;
use super::recipe::Recipe;
use super::trainer::Setup;
use super::world::vocabulary;
use crate::input::{InputError, MediaLimits, Preprocessor, Tokenizer, word_level};
use crate::model::bundle::{Bundle, BundleError};
use crate::nn::weights::WeightsError;

/// Where the weights and the tokenizer come from.
pub enum Origin {
    /// Nowhere: random weights, and a vocabulary of the words that the data have.
    Fresh(Box<Recipe>),
    /// A bundle; the recipe's model and preprocessor give way to the bundle's.
    Bundle(Box<Recipe>, Box<Bundle>),
    /// A run that stopped.
    Checkpoint(Box<Checkpoint>),
}

/// What is trained on.
pub enum Material<'a> {
    /// The generator.
    World,
    /// A file of JSON lines, its media under limits.
    Lines(&'a Path, MediaLimits),
}

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The data file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The bundle to start from.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The recipe's preprocessor or the tokenizer.
    #[error("recipe: {0}")]
    Input(#[from] InputError),
    /// The recipe's model.
    #[error("recipe model: {0}")]
    Weights(#[from] WeightsError),
    /// The checkpoint to go on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Makes everything that a run needs.
pub fn prepare(origin: &Origin, material: &Material, seed: u64) -> Result<Setup, SessionError> {
    let tokenizer = match (origin, material) {
        (Origin::Checkpoint(checkpoint), _) => checkpoint.tokenizer.clone(),
        (Origin::Bundle(_, bundle), _) => String::from_utf8_lossy(&bundle.read("tokenizer.json")?).into_owned(),
        (Origin::Fresh(_), Material::World) => words(&[])?,
        (Origin::Fresh(_), Material::Lines(file, _)) => words(&lines::texts(file)?)?,
    };
    let (mut recipe, seed) = match origin {
        Origin::Checkpoint(checkpoint) => (checkpoint.recipe.clone(), checkpoint.place.seed),
        Origin::Bundle(recipe, _) | Origin::Fresh(recipe) => (Recipe::clone(recipe), seed),
    };
    let parsed = Tokenizer::parse(tokenizer.as_bytes())?;
    let parts = if let Origin::Bundle(_, bundle) = origin {
        recipe.model = bundle.config.clone();
        recipe.preprocessor = serde_json::from_str(&bundle.preprocessor()?.to_json()).expect("as written here");
        Parts::from_bundle(bundle, seed)?
    } else {
        fit(&mut recipe, parsed.rows());
        Parts::fresh(&recipe.model, seed)?
    };
    let preprocessor = Preprocessor::parse(recipe.preprocessor.to_string().as_bytes())?;
    let edges = Edges::new(&recipe.model, preprocessor, parsed);
    let source: Box<dyn Source> = match material {
        Material::World => Box::new(WorldSource::new(&recipe.world, recipe.model.vision.grid(), edges.clone())),
        Material::Lines(file, limits) => Box::new(LinesSource::open(file, edges.clone(), *limits)?),
    };
    Ok(Setup { recipe, parts, source, edges, tokenizer, seed })
}

/// A word-level tokenizer.json of the generator's words and those of some texts.
fn words(texts: &[String]) -> Result<String, InputError> {
    let mut words: Vec<String> = vocabulary();
    let split = |text: &String| {
        let separate = |c: char| if c.is_alphanumeric() { c.to_string() } else { format!(" {c} ") };
        text.to_lowercase().chars().map(separate).collect::<String>()
    };
    for text in texts {
        words.extend(split(text).split_whitespace().map(str::to_owned));
    }
    words.sort();
    words.dedup();
    Ok(String::from_utf8(word_level(&words)?).expect("JSON is UTF-8"))
}

/// Gives every part the tokenizer's vocabulary.
fn fit(recipe: &mut Recipe, words: usize) {
    use crate::model::config::TextConfig;
    recipe.model.predictor.llama.vocab_size = words;
    match &mut recipe.model.text {
        TextConfig::Bert(text) => text.vocab_size = words,
        TextConfig::Gemma(text) => text.vocab_size = words,
    }
    if let Some(decoder) = &mut recipe.model.decoder {
        decoder.llama.vocab_size = words;
    }
}
