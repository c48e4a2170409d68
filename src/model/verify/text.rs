//! Text encoders against recordings: EmbeddingGemma's and BERT's stages, padded on either side, and the tokenizer.

use std::path::Path;

use super::VerifyError;
use super::compare::{Tolerance, Values};
use super::files;
use super::trial::{Ragged, Trial};
use crate::input::Tokenizer;
use crate::model::config::TextConfig;
use crate::model::text::{TextEncoder, TextHead};
use crate::nn::linear::{Linear, Precision};

/// Three times what f32 against f64 was measured to be worth, times ten.
const STAGE: Tolerance = Tolerance::rms(9e-5);

/// Checks the batch of the file, padded on the right, and again as padded on the left where that is recorded.
pub fn check(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    let config = files::part_config(dir, TextConfig::check)?;
    let weights = files::weights(dir, files::MODEL)?;
    let encoder = TextEncoder::load(&weights, &config, TextHead::default());
    weights.finish()?;
    let encoder = encoder.with_dense(dense(dir)?);
    if trial.golden.has("input_ids") {
        check_batch(trial, &encoder, "input_ids", "attention_mask", &["", "right."])?;
        check_tokenizer(trial, dir, &config)?;
    }
    if trial.golden.has("left_input_ids") {
        check_batch(trial, &encoder, "left_input_ids", "left_attention_mask", &["left."])?;
    }
    Ok(())
}

/// The Dense layers of a sentence-transformers folder, in their order; none without `modules.json`.
pub fn dense(dir: &Path) -> Result<Vec<Linear>, VerifyError> {
    #[derive(serde::Deserialize)]
    struct Module {
        path: String,
        r#type: String,
    }
    #[derive(serde::Deserialize)]
    struct Dense {
        in_features: usize,
        out_features: usize,
        bias: bool,
        activation_function: String,
    }
    let list = dir.join("modules.json");
    if !list.is_file() {
        return Ok(Vec::new());
    }
    let modules: Vec<Module> = serde_json::from_str(&files::read(&list)?).map_err(|e| VerifyError::new(&list, e))?;
    let mut layers = Vec::new();
    for module in modules.iter().filter(|module| module.r#type.ends_with(".Dense")) {
        let folder = dir.join(&module.path);
        let Dense { in_features, out_features, bias, activation_function } = files::part_config(&folder, |_, _| ())?;
        if !activation_function.ends_with("Identity") {
            let what = format!("activation_function is {activation_function}; it must be Identity");
            return Err(VerifyError::new(&folder.join("config.json"), what));
        }
        let weights = files::weights(&folder, files::MODEL)?;
        layers.push(Linear::load(&weights.pp("linear"), in_features, out_features, bias, Precision::Dense));
        weights.finish()?;
    }
    Ok(layers)
}

/// Runs a padded batch and compares each stage under each of the `prefixes`.
fn check_batch(
    trial: &mut Trial,
    encoder: &TextEncoder,
    ids: &str,
    mask: &str,
    prefixes: &[&str],
) -> Result<(), VerifyError> {
    let rows = Ragged::from_mask(&trial.golden, mask)?;
    let ids = trial.golden.ids(ids)?;
    for (stage, value) in stages(encoder, &rows.strip(&ids))? {
        let by_text = matches!(stage.as_str(), "pooled" | "dense" | "embedding");
        for name in prefixes.iter().map(|prefix| format!("{prefix}{stage}")) {
            match by_text {
                true => trial.expect_tensor(&name, &value, STAGE)?,
                false => trial.expect(&name, &rows.pad(&value)?, STAGE)?,
            }
        }
    }
    Ok(())
}

/// Every stage of the encoder over some texts.
pub fn stages(encoder: &TextEncoder, texts: &[&[u32]]) -> Result<Vec<(String, candle_core::Tensor)>, VerifyError> {
    let mut stages = Vec::new();
    encoder.observe(texts, &mut |stage, value| stages.push((stage.to_owned(), value.clone())))?;
    Ok(stages)
}

/// Tokenises `texts.json` beside a `tokenizer.json` and compares with the recorded ids.
fn check_tokenizer(trial: &mut Trial, dir: &Path, config: &TextConfig) -> Result<(), VerifyError> {
    let (tokenizer, texts) = (dir.join("tokenizer.json"), dir.join("texts.json"));
    if !(tokenizer.is_file() && texts.is_file()) {
        return Ok(());
    }
    let lines: Vec<String> = serde_json::from_str(&files::read(&texts)?).map_err(|e| VerifyError::new(&texts, e))?;
    let json = files::read(&tokenizer)?;
    let tokenizer = Tokenizer::parse(json.as_bytes()).map_err(|e| VerifyError::new(&tokenizer, e))?;
    let recorded = trial.golden.ids("input_ids")?;
    let rows = Ragged::from_mask(&trial.golden, "attention_mask")?;
    let recorded: Vec<f64> = rows.strip(&recorded).concat().into_iter().map(f64::from).collect();
    let mut ids = Vec::new();
    for line in &lines {
        let tokens = tokenizer.encode(line, config.max_tokens()).map_err(|e| VerifyError::new(&texts, e))?;
        ids.extend(tokens.ids.into_iter().map(f64::from));
    }
    let list = |numbers: Vec<f64>| Values { shape: vec![numbers.len()], numbers };
    trial.expect_beside("texts.json as input_ids", &list(ids), &list(recorded));
    Ok(())
}
