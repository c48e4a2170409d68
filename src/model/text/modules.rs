//! What a sentence-transformers folder puts behind a body, as its `modules.json` lists it. One form is computed: the
//! mean over all tokens, linear Dense layers, a unit row. Whatever else a folder asks for is refused by name, since to
//! leave it out would give other embeddings without a word.

use crate::model::files::Files;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A Dense layer that lies in a folder of its own.
#[derive(Debug)]
pub struct Dense {
    /// The folder, below that of `modules.json`.
    pub folder: String,
    /// Width of the rows that it takes.
    pub inputs: usize,
    /// Width of the rows that it gives.
    pub outputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// A file that asks for something that is not computed here, or that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct ModulesError {
    /// The file.
    pub file: String,
    /// What is wrong, with the field's name.
    pub what: String,
}

/// The Dense layers that `folder` lists, in their order, from rows of `hidden` to rows of `after` (where that is
/// known); none without `modules.json`.
pub fn dense(files: &Files, folder: &str, hidden: usize, after: Option<usize>) -> Result<Vec<Dense>, ModulesError> {
    #[derive(Deserialize)]
    struct Module {
        path: String,
        r#type: String,
    }
    let list = join(folder, "modules.json");
    if !files.has(&list) {
        return Ok(Vec::new());
    }
    let modules: Vec<Module> = read(files, &list)?;
    let kinds: Vec<&str> = modules.iter().map(|m| m.r#type.rsplit('.').next().unwrap_or_default()).collect();
    let known = match kinds.as_slice() {
        ["Transformer", "Pooling", dense @ .., "Normalize"] => dense.iter().all(|kind| *kind == "Dense"),
        _ => false,
    };
    if !known {
        let what = format!("lists {}; it must list Transformer, Pooling, any Dense, and Normalize", kinds.join(", "));
        return Err(fault(files, &list, what));
    }
    check_pooling(files, &join(&join(folder, &modules[1].path), "config.json"))?;
    let (mut width, mut layers) = (hidden, Vec::new());
    for module in &modules[2..modules.len() - 1] {
        let layer = read_dense(files, folder, &module.path, width)?;
        width = layer.outputs;
        layers.push(layer);
    }
    match after.filter(|after| *after != width) {
        Some(after) => Err(fault(files, &list, format!("ends in rows of {width}; what follows takes {after}"))),
        None => Ok(layers),
    }
}

fn read_dense(files: &Files, folder: &str, path: &str, width: usize) -> Result<Dense, ModulesError> {
    #[derive(Deserialize)]
    struct Config {
        in_features: usize,
        out_features: usize,
        bias: bool,
        activation_function: String,
    }
    let file = join(&join(folder, path), "config.json");
    let config: Config = read(files, &file)?;
    if !config.activation_function.ends_with("Identity") {
        let what = format!("activation_function is {}; it must be Identity", config.activation_function);
        return Err(fault(files, &file, what));
    }
    if config.in_features != width {
        let what = format!("in_features is {}; it must be {width}, the width before it", config.in_features);
        return Err(fault(files, &file, what));
    }
    Ok(Dense { folder: path.into(), inputs: width, outputs: config.out_features, bias: config.bias })
}

/// Both spellings: a switch for each mode, of which the mean's alone is on, or the name of the mode.
fn check_pooling(files: &Files, file: &str) -> Result<(), ModulesError> {
    let config: Map<String, Value> = read(files, file)?;
    for (field, value) in &config {
        let wanted = match field.as_str() {
            "pooling_mode" => Value::from("mean"),
            "include_prompt" => Value::from(true),
            mode if mode.starts_with("pooling_mode_") => Value::from(mode == "pooling_mode_mean_tokens"),
            _ => continue,
        };
        if *value != wanted {
            return Err(fault(files, file, format!("{field} is {value}; it must be {wanted}")));
        }
    }
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}") }
}

fn read<T: DeserializeOwned>(files: &Files, name: &str) -> Result<T, ModulesError> {
    let bytes = files.read(name).map_err(|e| fault(files, name, e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| fault(files, name, e.to_string()))
}

fn fault(files: &Files, name: &str, what: String) -> ModulesError {
    ModulesError { file: files.describe(name), what }
}
