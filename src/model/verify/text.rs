//! Text encoders against recordings: EmbeddingGemma's and BERT's stages, padded on either side, and the tokenizer.

use std::path::Path;

use super::VerifyError;
use super::compare::{Tolerance, Values};
use super::files;
use super::trial::{Ragged, Trial};
use crate::input::Tokenizer;
use crate::model::bundle::Part;
use crate::model::config::TextConfig;
use crate::model::files::Files;
use crate::model::text::{TextEncoder, TextHead, modules};
use crate::nn::linear::{Linear, Precision};

/// Three times what f32 against f64 was measured to be worth, times ten.
const STAGE: Tolerance = Tolerance::rms(9e-5);

/// Checks the batch of the file, padded on the right, and again as padded on the left where that is recorded.
pub fn check(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    let config = files::part_config(dir, TextConfig::check)?;
    let weights = trial.weights(dir, Part::Text)?;
    let encoder = TextEncoder::load(&weights, &config, TextHead::default());
    weights.finish()?;
    let encoder = encoder.with_dense(dense(trial, dir, config.hidden_size(), None)?);
    check_token_types(trial)?;
    if trial.golden.has("input_ids") {
        check_batch(trial, &encoder, "input_ids", "attention_mask", &["", "right."])?;
        check_tokenizer(trial, dir, &config)?;
    }
    if trial.golden.has("left_input_ids") {
        check_batch(trial, &encoder, "left_input_ids", "left_attention_mask", &["left."])?;
    }
    Ok(())
}

/// The Dense layers of a sentence-transformers folder, in their order, from rows of `hidden` to rows of `after` (where
/// that is known); none without `modules.json`.
pub fn dense(trial: &Trial, dir: &Path, hidden: usize, after: Option<usize>) -> Result<Vec<Linear>, VerifyError> {
    let listed = modules::dense(&Files::Directory(dir.to_path_buf()), "", hidden, after);
    let load = |module: modules::Dense| {
        let weights = trial.weights(&dir.join(&module.folder), Part::Text)?;
        let (inputs, outputs) = (module.inputs, module.outputs);
        let layer = Linear::load(&weights.pp("linear"), inputs, outputs, module.bias, Precision::Dense);
        weights.finish()?;
        Ok(layer)
    };
    listed.map_err(|e| VerifyError::new(Path::new(&e.file), e.what))?.into_iter().map(load).collect()
}

/// Refuses recorded token types other than 0, the only one that is computed.
pub fn check_token_types(trial: &Trial) -> Result<(), VerifyError> {
    let recorded: Vec<&str> = trial.golden.names().filter(|name| name.ends_with("token_type_ids")).collect();
    for name in recorded {
        if let Some(kind) = trial.golden.ids(name)?.iter().find(|&&kind| kind != 0) {
            return Err(trial.golden.fault(name, &format!("holds type {kind}; it must be 0 everywhere")));
        }
    }
    Ok(())
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
    let ids = trial.golden.tokens(ids, encoder.config.vocab_size())?;
    let (texts, bound) = (rows.strip(&ids), encoder.config.max_tokens());
    if let Some(at) = texts.iter().position(|text| !(1..=bound).contains(&text.len())) {
        let what = format!("leaves {} tokens to text {at}; it must have from 1 to {bound}", texts[at].len());
        return Err(trial.golden.fault(mask, &what));
    }
    for (stage, value) in stages(encoder, &texts)? {
        trial.keep(Part::Text, &format!("{}{stage}", prefixes[0]), &value)?;
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
