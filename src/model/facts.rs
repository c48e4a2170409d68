//! What can be said about a loaded model: for `vljepa inspect`, and for clients that ask the server what it serves.

use super::bundle::{Bundle, BundleError, Part};
use super::config::{LlamaConfig, TextConfig, VlJepaConfig};
use crate::embedding::Space;
use crate::kernel::isa;
use crate::nn::linear::{LayerFacts, Precision};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Serialize;

/// A model in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct ModelFacts {
    /// The bundle's name.
    pub name: String,
    /// Its parts, in the order of a forward pass.
    pub parts: Vec<PartFacts>,
    /// The space of its embeddings.
    pub space: Space,
    /// Dimensions of an embedding.
    pub dimensions: usize,
    /// Factor on cosines before a softmax.
    pub logit_scale: f32,
    /// Longest question, tokens.
    pub question_tokens_max: usize,
    /// Longest text to embed, tokens.
    pub text_tokens_max: usize,
    /// Longest text that the decoder writes, tokens; 0 without a decoder.
    pub answer_tokens_max: usize,
    /// Frames of a clip as trained.
    pub frames: usize,
    /// Side of a frame, pixels.
    pub frame_side: usize,
    /// Visual tokens of a clip as trained.
    pub visual_tokens: usize,
    /// The instruction set of the ternary kernels.
    pub instruction_set: &'static str,
}

/// A part in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct PartFacts {
    /// `vision`, `predictor`, `text` or `decoder`.
    pub part: &'static str,
    /// Its architecture, layers and width.
    pub architecture: String,
    /// Parameters, counted from the stored tensors.
    pub parameters: u64,
    /// Those of them that are ternary.
    pub ternary_parameters: u64,
    /// `f32`, `bf16` or `int8`; `w1.58a8` where the blocks' linears are ternary.
    pub precision: &'static str,
    /// Bytes of its weight files.
    pub bytes_on_disk: u64,
    /// Bytes of its parameters in memory.
    pub bytes_in_memory: u64,
}

impl ModelFacts {
    /// Gathers the facts; `linears` gives each part's loaded linears.
    pub(super) fn gather(
        bundle: &Bundle,
        linears: impl Fn(Part) -> Vec<LayerFacts>,
        space: Space,
    ) -> Result<ModelFacts, BundleError> {
        let config = &bundle.config;
        let parts = bundle.parts().map(|part| PartFacts::gather(bundle, part, &linears(part)));
        Ok(ModelFacts {
            name: bundle.name.clone(),
            parts: parts.collect::<Result<_, _>>()?,
            space,
            dimensions: config.shared_dim,
            logit_scale: config.logit_scale.exp(),
            question_tokens_max: config.predictor.max_question_tokens,
            text_tokens_max: config.text.max_tokens(),
            answer_tokens_max: config.decoder.as_ref().map_or(0, |decoder| decoder.max_tokens),
            frames: config.vision.frames_per_clip,
            frame_side: config.vision.crop_size,
            visual_tokens: config.vision.steps() * config.vision.tokens_per_step(),
            instruction_set: isa::current().name(),
        })
    }
}

impl PartFacts {
    fn gather(bundle: &Bundle, part: Part, linears: &[LayerFacts]) -> Result<PartFacts, BundleError> {
        let (mut parameters, mut bytes_on_disk) = (0, 0);
        for name in bundle.weight_files(part)? {
            let fault = |source| BundleError::File { file: bundle.files().describe(&name), source };
            bytes_on_disk += bundle.files().size(&name).map_err(fault)?;
            parameters += stored_parameters(bundle, part, &name).map_err(fault)?;
        }
        let in_linears: u64 = linears.iter().map(|linear| linear.parameters as u64).sum();
        let linear_bytes: u64 = linears.iter().map(|linear| linear.bytes as u64).sum();
        let ternary = linears.iter().filter(|linear| linear.is_ternary);
        let ternary_parameters = ternary.map(|linear| linear.parameters as u64).sum();
        Ok(PartFacts {
            part: part.name(),
            architecture: architecture(&bundle.config, part),
            parameters,
            ternary_parameters,
            precision: if ternary_parameters > 0 { "w1.58a8" } else { bundle.dense(part).name() },
            bytes_on_disk,
            bytes_in_memory: linear_bytes + parameters.saturating_sub(in_linears) * size_of::<f32>() as u64,
        })
    }
}

/// Parameters in a file, from its header: a packed byte holds four, a scale is none, and V-JEPA's own masked predictor
/// is never read.
fn stored_parameters(bundle: &Bundle, part: Part, name: &str) -> std::io::Result<u64> {
    let mut length = [0; 8];
    bundle.files().read_at(name, 0, &mut length)?;
    let size = bundle.files().size(name)?;
    let mut head = vec![0; u64::from_le_bytes(length).saturating_add(8).min(size) as usize];
    bundle.files().read_at(name, 0, &mut head)?;
    let header: Metadata = serde_json::from_slice(&head[head.len().min(8)..])?;
    let read =
        |name: &str| !name.ends_with("weight_scale") && (part != Part::Vision || !name.starts_with("predictor."));
    let tensors = header.tensors();
    let counted = tensors.iter().filter(|(name, _)| read(name)).map(|(_, info)| {
        let elements: usize = info.shape.iter().product();
        elements as u64 * if info.dtype == Dtype::U8 { 4 } else { 1 }
    });
    Ok(counted.sum())
}

fn architecture(config: &VlJepaConfig, part: Part) -> String {
    let stack = |llama: &LlamaConfig| {
        let linears = if llama.precision() == Precision::Dense { "dense" } else { "ternary" };
        format!("{}, {} {linears} layers of {}", llama.model_type, llama.num_hidden_layers, llama.hidden_size)
    };
    match part {
        Part::Vision => {
            format!("vjepa2, {} layers of {}", config.vision.num_hidden_layers, config.vision.hidden_size)
        }
        Part::Predictor => format!("{}, bidirectional", stack(&config.predictor.llama)),
        Part::Text => match &config.text {
            TextConfig::Gemma(text) => {
                format!("gemma3_text, {} layers of {}", text.num_hidden_layers, text.hidden_size)
            }
            TextConfig::Bert(text) => format!("bert, {} layers of {}", text.num_hidden_layers, text.hidden_size),
        },
        Part::Decoder => config.decoder.as_ref().map_or(String::new(), |decoder| stack(&decoder.llama)),
    }
}
