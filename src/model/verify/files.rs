//! A checkpoint's files on disk: configs, weights in one file or in shards, and packed weights beside them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::VerifyError;
use crate::model::config::{Faults, parse_part};
use crate::nn::weights::{Mode, Weights};

/// Stem of the file that every checkpoint has.
pub const MODEL: &str = "model";
/// Stem of the file with ternary weights that may stand beside it; its `weight_scale` divides.
pub const PACKED: &str = "model_packed";

/// The `model_type` of the config in `dir`, if there is a config.
pub fn model_type(dir: &Path) -> Result<Option<String>, VerifyError> {
    let file = dir.join("config.json");
    if !file.is_file() {
        return Ok(None);
    }
    let config: Value = serde_json::from_str(&read(&file)?).map_err(|e| VerifyError::new(&file, e))?;
    match config.get("model_type").and_then(Value::as_str) {
        Some(kind) => Ok(Some(kind.to_owned())),
        None => Err(VerifyError::new(&file, "model_type is missing")),
    }
}

/// The config of the part in `dir`, read and checked.
pub fn part_config<T: serde::de::DeserializeOwned>(
    dir: &Path,
    check: impl FnOnce(&T, &mut Faults),
) -> Result<T, VerifyError> {
    let file = dir.join("config.json");
    parse_part(&read(&file)?, check).map_err(|e| VerifyError::new(&file, e))
}

/// A text file.
pub fn read(file: &Path) -> Result<String, VerifyError> {
    std::fs::read_to_string(file).map_err(|e| VerifyError::new(file, e))
}

/// The weights `{stem}.safetensors` in `dir`, or the shards that `{stem}.safetensors.index.json` lists.
pub fn weights(dir: &Path, stem: &str) -> Result<Weights, VerifyError> {
    match files(dir, stem)?.as_slice() {
        [] => Err(VerifyError::new(dir, format!("holds no {stem}.safetensors"))),
        files => open(files),
    }
}

/// The weights in `files`, one namespace.
pub fn open(files: &[PathBuf]) -> Result<Weights, VerifyError> {
    Ok(Weights::open(files, Mode::Infer)?)
}

/// The files that hold the weights `stem` of `dir`; none if it has no such weights.
pub fn files(dir: &Path, stem: &str) -> Result<Vec<PathBuf>, VerifyError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, PathBuf>,
    }
    let single = dir.join(format!("{stem}.safetensors"));
    let index = dir.join(format!("{stem}.safetensors.index.json"));
    if single.is_file() || !index.is_file() {
        return Ok(single.is_file().then_some(single).into_iter().collect());
    }
    let Index { weight_map } = serde_json::from_str(&read(&index)?).map_err(|e| VerifyError::new(&index, e))?;
    let shards: BTreeSet<PathBuf> = weight_map.into_values().map(|shard| dir.join(shard)).collect();
    match shards.is_empty() {
        true => Err(VerifyError::new(&index, "weight_map is empty")),
        false => Ok(shards.into_iter().collect()),
    }
}
