//! Writing a bundle: what the trainer leaves behind. Linears that the config calls ternary are stored packed, two
//! bits a weight with `weight_scale` = 1 / mean|W| (Hugging Face's "bitlinear": it divides); all else as f16.

use super::bundle::{BundleError, Part};
use super::config::{LlamaConfig, VlJepaConfig};
use crate::kernel::ternary::TernaryMatrix;
use crate::nn::linear::Precision;
use candle_core::Tensor;
use half::f16;
use safetensors::{Dtype, tensor::TensorView};
use std::fs;
use std::path::Path;

/// Names and values of a part's parameters, f32.
pub type Parameters = Vec<(String, Tensor)>;

/// Everything that a bundle holds.
pub struct BundleContent<'a> {
    /// `config.json`.
    pub config: &'a VlJepaConfig,
    /// Each part's parameters under its published names (`model.layers.0.mlp.up_proj.weight` ...).
    pub parts: Vec<(Part, Parameters)>,
    /// `tokenizer.json`, used by all parts.
    pub tokenizer: &'a [u8],
    /// `preprocessor_config.json`.
    pub preprocessor: &'a [u8],
    /// `README.md`: the model card.
    pub readme: &'a str,
}

/// A tensor as it is stored.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes a bundle into `root`, which is made where it is missing. Each file is replaced whole, weights before the
/// config that describes them.
pub fn write_bundle(root: &Path, content: &BundleContent) -> Result<(), BundleError> {
    for (part, parameters) in &content.parts {
        let stack = stack(content.config, *part);
        let mut tensors = Vec::new();
        for (name, value) in parameters {
            tensors.extend(store(name, value, stack.is_some_and(|stack| is_ternary(stack, name)))?);
        }
        let views = tensors.iter().map(|(name, stored)| {
            let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes);
            (name.as_str(), view.expect("bytes were made for this shape"))
        });
        let file = safetensors::serialize(views, None)
            .map_err(|error| BundleError::Tensor { tensor: part.name().into(), what: error.to_string() })?;
        write(&root.join(part.name()).join("model.safetensors"), &file)?;
    }
    write(&root.join("tokenizer.json"), content.tokenizer)?;
    write(&root.join("preprocessor_config.json"), content.preprocessor)?;
    write(&root.join("README.md"), content.readme.as_bytes())?;
    let config = serde_json::to_vec_pretty(content.config).expect("a config is plain numbers and strings");
    write(&root.join("config.json"), &config)
}

fn stack(config: &VlJepaConfig, part: Part) -> Option<&LlamaConfig> {
    match part {
        Part::Predictor => Some(&config.predictor.llama),
        Part::Decoder => config.decoder.as_ref().map(|decoder| &decoder.llama),
        Part::Vision | Part::Text => None,
    }
}

fn is_ternary(stack: &LlamaConfig, name: &str) -> bool {
    let in_block = name.starts_with("model.layers.") && name.ends_with("_proj.weight");
    in_block && stack.precision() != Precision::Dense
}

fn store(name: &str, value: &Tensor, ternary: bool) -> Result<Vec<(String, Stored)>, BundleError> {
    let fault = |what: String| BundleError::Tensor { tensor: name.to_string(), what };
    let values: Vec<f32> =
        value.flatten_all().and_then(|flat| flat.to_vec1()).map_err(|error| fault(error.to_string()))?;
    if let Some(bad) = values.iter().find(|value| !f16::from_f32(**value).is_finite()) {
        return Err(fault(format!("holds {bad}; finite numbers of at most {} can be stored", f16::MAX)));
    }
    if !ternary {
        let bytes = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        return Ok(vec![(name.to_string(), Stored { dtype: Dtype::F16, shape: value.dims().to_vec(), bytes })]);
    }
    let (outputs, inputs) = value.dims2().map_err(|error| fault(error.to_string()))?;
    let matrix = TernaryMatrix::from_f32(outputs, inputs, &values);
    let codes = Stored { dtype: Dtype::U8, shape: vec![outputs.div_ceil(4), inputs], bytes: matrix.packed().to_vec() };
    let scale = Stored { dtype: Dtype::F32, shape: vec![1], bytes: (1.0 / matrix.scale).to_le_bytes().to_vec() };
    Ok(vec![(name.to_string(), codes), (format!("{name}_scale"), scale)])
}

/// Writes beside the target and renames, so that no one ever reads half a file.
fn write(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let partial = path.with_extension("partial");
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&partial, bytes))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| BundleError::File { file: path.display().to_string(), source })
}
