//! A run's whole state in one file: variables, moments, place and recipe.
//!
//! Written beside the old one and renamed over it, so a killed process leaves either the old state or the new.
//! Randomness needs no state: every draw comes from the seed and the place.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::recipe::Recipe;

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index of the stage.
    pub stage: usize,
    /// Steps done in this stage.
    pub step: u64,
    /// The run's seed.
    pub seed: u64,
}

/// What continues a run exactly.
pub struct Checkpoint {
    /// How far the run is.
    pub place: Place,
    /// The recipe it follows.
    pub recipe: Recipe,
    /// The tokenizer.json it was started with.
    pub tokenizer: String,
    /// Every variable by its full name, f32.
    pub variables: HashMap<String, Tensor>,
    /// The optimiser's state of the running stage.
    pub optimizer: HashMap<String, Tensor>,
}

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("checkpoint {file}: {source}")]
    File {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a checkpoint.
    #[error("checkpoint {file}: {reason}")]
    Content {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

const VARIABLE: &str = "variable.";
const OPTIMIZER: &str = "optimizer.";

/// The checkpoint's path in a run's directory.
pub fn path(directory: &Path) -> PathBuf {
    directory.join("checkpoint.safetensors")
}

impl Checkpoint {
    /// Writes to [`path`] of `directory`, atomically.
    pub fn save(&self, directory: &Path) -> Result<(), CheckpointError> {
        let file = path(directory);
        let fresh = file.with_extension("safetensors.new");
        let content = |reason: String| CheckpointError::Content { file: file.clone(), reason };
        let io = |source| CheckpointError::File { file: file.clone(), source };
        let json = |value: Result<String, serde_json::Error>| value.map_err(|e| content(e.to_string()));
        let metadata = HashMap::from([
            ("place".to_owned(), json(serde_json::to_string(&self.place))?),
            ("recipe".to_owned(), json(serde_json::to_string(&self.recipe))?),
            ("tokenizer".to_owned(), self.tokenizer.clone()),
        ]);
        let named = |prefix: &'static str| move |(name, tensor)| (format!("{prefix}{name}"), tensor);
        let variables = self.variables.iter().map(named(VARIABLE));
        let tensors = variables.chain(self.optimizer.iter().map(named(OPTIMIZER)));
        fs::create_dir_all(directory).map_err(io)?;
        safetensors::serialize_to_file(tensors, Some(metadata), &fresh).map_err(|e| content(e.to_string()))?;
        File::open(&fresh).and_then(|f| f.sync_all()).map_err(io)?;
        fs::rename(&fresh, &file).map_err(io)
    }

    /// Reads what [`Checkpoint::save`] wrote.
    pub fn load(directory: &Path) -> Result<Checkpoint, CheckpointError> {
        let file = path(directory);
        let bytes = fs::read(&file).map_err(|source| CheckpointError::File { file: file.clone(), source })?;
        parse(&bytes).map_err(|reason| CheckpointError::Content { file, reason })
    }
}

fn parse(bytes: &[u8]) -> Result<Checkpoint, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| text(&e))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let field = |name: &str| metadata.get(name).ok_or_else(|| format!("has no {name} in its metadata"));
    let place = serde_json::from_str(field("place")?).map_err(|e| format!("place: {e}"))?;
    let recipe = Recipe::parse("of the checkpoint", field("recipe")?, &[]).map_err(|e| text(&e))?;
    let tokenizer = field("tokenizer")?.clone();
    let (mut variables, mut optimizer) = (HashMap::new(), HashMap::new());
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|e| text(&e))?;
    for (name, tensor) in tensors {
        if let Some(name) = name.strip_prefix(VARIABLE) {
            variables.insert(name.to_owned(), tensor);
        } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
            optimizer.insert(name.to_owned(), tensor);
        }
    }
    Ok(Checkpoint { place, recipe, tokenizer, variables, optimizer })
}
