//! A whole VL-JEPA against recordings: pixels, questions and target texts in; visual tokens, every stage of the predictor,
//! the text encoder's, the scores between them and the loss out.
//!
//! Two layouts of one thing: a bundle's folders (vision, predictor, text, decoder) and the recorded one's (x_encoder, predictor,
//! y_encoder). The predictor is run with each kind of weights that its folder holds.

use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::VerifyError;
use super::bitlinear;
use super::compare::Tolerance;
use super::decoder::{Source, Sources};
use super::files;
use super::text;
use super::trial::{Ragged, Trial, numbers, tensor};
use super::vision::{self, STAGE};
use crate::model::bundle::Part;
use crate::model::config::{LinearKind, LlamaConfig, Pool, PredictorConfig, VisualAttention, VlJepaConfig};
use crate::model::decoder::{DecodeOptions, Decoder, TokenSampling};
use crate::model::predictor::{Predictor, Question};
use crate::model::text::{TextEncoder, TextHead};
use crate::model::vision::{VisionEncoder, Visual};
use crate::nn::linear::Precision;

// A ternary stack is not continuous: an activation near a rounding boundary flips, and moves what is behind it by a step.
// Worst of 24 random models of three layers, f32 against f64: rows 2.8e-2 and 1.8e-3 in the mean, averages over all rows
// 5.0e-3, over a question of one token 1.7e-2 (1-cos 7e-6), scores 1.4e-2 (1-cos 1.8e-5), loss 3.5e-3. A trained model of
// four layers (world-small): rows of a layer 3.1e-2, of the last norm 8.4e-2 and 2.4e-3 in the mean, averages over all rows
// 1.2e-2 (1-cos 2e-6). A step left out of a model is worth 0.1 and more, and 2e-2 in the mean; a rotation's base that is
// 1 % off is found by the mean alone. So only what deep stacks were seen to need is wider for them.
const TERNARY_ROWS: Tolerance = Tolerance::rms(0.05).with_mean(3e-3);
const DEEP_TERNARY_NORM: Tolerance = Tolerance::rms(0.15).with_mean(5e-3);
const TERNARY_AVERAGE: Tolerance = Tolerance::rms(0.01).with_cosine(1.0 - 2e-5);
const TERNARY_POOLED: Tolerance = Tolerance::rms(0.05).with_cosine(1.0 - 1e-4);
const TERNARY_EMBEDDING: Tolerance = Tolerance::rms(0.03).with_cosine(1.0 - 2e-5);
const TERNARY_SCORES: Tolerance = Tolerance::rms(0.03).with_cosine(1.0 - 1e-4);
const TERNARY_LOSS: Tolerance = Tolerance::absolute(1e-2);
/// Ternary stacks of more layers than this are deep.
const SHALLOW_LAYERS: usize = 3;
/// The loss of a model that rounds nothing.
const LOSS: Tolerance = Tolerance::relative(1.2e-4);

/// What the predictor is asked, and what it is compared with.
struct Batch {
    config: VlJepaConfig,
    visual: Visual,
    questions: Ragged,
    ids: Vec<u32>,
    /// The clip of each question: `query_clip`, or one question a clip.
    asked: Vec<usize>,
    /// Target embeddings, a unit row a text.
    targets: Vec<Vec<f64>>,
}

/// Checks every stage of the model in `dir`.
pub fn check(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    let file = dir.join("config.json");
    let config = VlJepaConfig::parse(&files::read(&file)?).map_err(|e| VerifyError::new(&file, e))?;
    let targets = check_text(trial, dir, &config)?;
    let Some(visual) = check_vision(trial, dir, &config)? else { return Ok(()) };
    let folder = part(dir, &["predictor"])?;
    let sources = Sources::open(&folder, &config.predictor.llama, trial.dense(Part::Predictor))?;
    check_taps(trial, &sources)?;
    if !trial.golden.has("query_ids") {
        return Ok(());
    }
    let questions = Ragged::from_mask(&trial.golden, "query_mask")?;
    let ids = trial.golden.tokens("query_ids", config.predictor.llama.vocab_size)?;
    let asked = match trial.golden.has("query_clip") {
        true => trial.golden.ids("query_clip")?.into_iter().map(|clip| clip as usize).collect(),
        false => (0..visual.segments.len()).collect(),
    };
    let batch = Batch { config, visual, questions, ids, asked, targets };
    if let Some(source) = &sources.float {
        check_predictor(trial, &batch, source, "")?;
        let unrounded = LlamaConfig { linear: Some(LinearKind::Dense), ..source.config.clone() };
        check_predictor(trial, &batch, &source.under(unrounded), "fp.")?;
    }
    if let Some(source) = &sources.packed {
        trial.variant(if sources.float.is_some() { "packed" } else { "" });
        check_predictor(trial, &batch, source, "")?;
        trial.variant("");
    }
    check_decoder(trial, dir, &batch.config)
}

/// The folder of a part, by the first of its names that exists.
fn part(dir: &Path, names: &[&str]) -> Result<PathBuf, VerifyError> {
    let found = names.iter().map(|name| dir.join(name)).find(|folder| folder.is_dir());
    found.ok_or_else(|| VerifyError::new(dir, format!("holds no folder {}", names.join(" or "))))
}

fn check_vision(trial: &mut Trial, dir: &Path, config: &VlJepaConfig) -> Result<Option<Visual>, VerifyError> {
    let weights = trial.weights(&part(dir, &["x_encoder", "vision"])?, Part::Vision)?;
    let encoder = VisionEncoder::load(&weights, &config.vision);
    weights.finish()?;
    // one batch, or clips of different lengths under names of their own
    let mut pixels = Vec::new();
    for clips in trial.golden.before("pixel_values_videos") {
        pixels.extend(vision::clips(trial, &format!("{clips}pixel_values_videos"), &config.vision)?);
    }
    if pixels.is_empty() {
        return Ok(None);
    }
    let views: Vec<_> = pixels.iter().map(|pixels| pixels.view()).collect();
    let mut stages = Vec::new();
    let visual = encoder.observe(&views, &mut |stage, value| stages.push((stage.to_owned(), value.clone())))?;
    for (stage, value) in stages {
        trial.keep(Part::Vision, &format!("vision.{stage}"), &value)?;
        trial.expect_tensor(&format!("vision.{stage}"), &value, STAGE)?;
    }
    trial.expect_tensor("visual_tokens", &visual.tokens, STAGE)?;
    Ok(Some(visual))
}

/// `y.*`; returns the embeddings of the target texts, none if no targets are recorded.
fn check_text(trial: &mut Trial, dir: &Path, config: &VlJepaConfig) -> Result<Vec<Vec<f64>>, VerifyError> {
    let folder = part(dir, &["y_encoder", "text"])?;
    let weights = trial.weights(&folder, Part::Text)?;
    // the Dense layers stand among the other weights, or in folders of their own
    let dense = text::dense(trial, &folder, config.text.hidden_size(), Some(config.text.hidden_size()))?;
    let dense_dim = config.dense_dim.filter(|_| dense.is_empty());
    let head = TextHead { dense_dim, shared_dim: Some(config.shared_dim) };
    let encoder = TextEncoder::load(&weights, &config.text, head);
    weights.finish()?;
    let encoder = if dense.is_empty() { encoder } else { encoder.with_dense(dense) };
    text::check_token_types(trial)?;
    if !trial.golden.has("target_ids") {
        return Ok(Vec::new());
    }
    let rows = Ragged::from_mask(&trial.golden, "target_mask")?;
    let ids = trial.golden.tokens("target_ids", config.text.vocab_size())?;
    let mut targets = Vec::new();
    for (stage, value) in text::stages(&encoder, &rows.strip(&ids))? {
        trial.keep(Part::Text, &format!("y.{stage}"), &value)?;
        match stage.as_str() {
            "last_hidden_state" => trial.expect("y.hidden", &rows.pad(&value)?, STAGE)?,
            "pooled" | "dense" => trial.expect_tensor(&format!("y.{stage}"), &value, STAGE)?,
            "embedding" => {
                trial.expect_tensor("y.embedding", &value, STAGE)?;
                targets = unit_rows(&value)?;
            }
            _ => trial.expect(&format!("y.{stage}"), &rows.pad(&value)?, STAGE)?,
        }
    }
    Ok(targets)
}

/// Taps `tap.{layer}.{linear}.*` from each kind of weights.
fn check_taps(trial: &mut Trial, sources: &Sources) -> Result<(), VerifyError> {
    let layers: Vec<usize> = (0..sources.main().config.num_hidden_layers).collect();
    let both = sources.float.is_some() && sources.packed.is_some();
    for (variant, source) in [("", &sources.float), (if both { "packed" } else { "" }, &sources.packed)] {
        let Some(source) = source else { continue };
        trial.variant(variant);
        for layer in &layers {
            let weights = source.weights.pp("model.layers").pp(layer);
            bitlinear::check_taps(trial, &format!("tap.{layer}."), &weights, source.config.precision())?;
        }
    }
    trial.variant("");
    Ok(())
}

/// Runs the predictor on `source` and compares `{prefix}pred.*`, `{prefix}logits` and `{prefix}loss`.
fn check_predictor(trial: &mut Trial, batch: &Batch, source: &Source, prefix: &str) -> Result<(), VerifyError> {
    let recorded = [format!("{prefix}pred."), format!("{prefix}logits"), format!("{prefix}loss")];
    if !trial.golden.names().any(|name| recorded.iter().any(|stage| name.starts_with(stage.as_str()))) {
        return Ok(());
    }
    let config = PredictorConfig { llama: source.config.clone(), ..batch.config.predictor.clone() };
    let predictor = Predictor::load(&source.weights, &config, &batch.config.vision, batch.config.shared_dim);
    source.weights.finish()?;
    let ternary = config.llama.precision() != Precision::Dense;
    let within = |tolerance| if ternary { tolerance } else { STAGE };
    let deep = config.llama.num_hidden_layers > SHALLOW_LAYERS;
    let of_rows = |stage: &str| within(if deep && stage == "norm" { DEEP_TERNARY_NORM } else { TERNARY_ROWS });
    let of_embeddings = |pool| within(if deep || pool == Pool::Query { TERNARY_EMBEDDING } else { TERNARY_AVERAGE });
    let questions: Vec<Question> = batch.asked.iter().copied().zip(batch.questions.strip(&batch.ids)).collect();
    let visual = batch.visual.segments.first().map_or(0, |segment| segment.len());
    let rows = batch.questions.behind(visual);
    for (pool, suffix) in [(Pool::All, "all"), (Pool::Query, "query")] {
        let mut stages = Vec::new();
        predictor.observe(&batch.visual, &questions, pool, &mut |stage, value| {
            stages.push((stage.to_owned(), value.clone()));
        })?;
        for (stage, value) in stages {
            let name = format!("{prefix}pred.{stage}");
            trial.keep(Part::Predictor, &format!("{name}_{suffix}"), &value)?;
            match stage.as_str() {
                "pooled" => trial.expect_tensor(&format!("{name}_{suffix}"), &value, within(TERNARY_POOLED))?,
                "embedding" => {
                    trial.expect_tensor(&format!("{name}_{suffix}"), &value, of_embeddings(pool))?;
                    if pool == config.pool {
                        check_scores(trial, batch, &unit_rows(&value)?, (prefix, ternary))?;
                    }
                }
                // all other stages are rows of the stack, and the same for every pool
                _ if suffix != "all" => {}
                _ if config.visual_attention == VisualAttention::Prefix => {
                    let tolerance = if stage == "inputs_embeds" { STAGE } else { of_rows(&stage) };
                    trial.expect_tensor(&name, &value, tolerance)?;
                }
                "inputs_embeds" => {
                    let padding = padding(&predictor, batch, visual)?;
                    trial.expect(&name, &rows.pad_over(&value, padding)?, STAGE)?;
                }
                _ => trial.expect(&name, &rows.pad(&value)?, of_rows(&stage))?,
            }
        }
    }
    Ok(())
}

/// What the recorded inputs hold where there is no token: the embedding of whatever id stands there.
fn padding(predictor: &Predictor, batch: &Batch, visual: usize) -> Result<Vec<f64>, VerifyError> {
    let embedded = predictor.llama.embed(&batch.ids)?;
    let width = embedded.dim(1)?;
    let questions = batch.ids.len() / batch.asked.len().max(1);
    let rows = numbers(&embedded)?;
    let line = |question: &[f64]| [vec![0.0; visual * width], question.to_vec()].concat();
    Ok(rows.chunks((questions * width).max(1)).flat_map(line).collect())
}

/// What the decoder makes of the recorded answers, so that a ternary predictor's steps do not reach it: the likeliest
/// tokens, and its scores over those when they are all given at once.
fn check_decoder(trial: &mut Trial, dir: &Path, config: &VlJepaConfig) -> Result<(), VerifyError> {
    let answers = match config.predictor.pool {
        Pool::All => "pred.embedding_all",
        Pool::Query => "pred.embedding_query",
    };
    let (Some(decoder), true) = (&config.decoder, trial.golden.has(answers) && trial.golden.has("decode.greedy_ids"))
    else {
        return Ok(());
    };
    let weights = trial.weights(&part(dir, &["decoder"])?, Part::Decoder)?;
    let decoder = Decoder::load(&weights, decoder, config.shared_dim);
    weights.finish()?;
    let (shape, [_, max_tokens]) = (trial.golden.axes::<2>(answers)?, trial.golden.axes("decode.greedy_ids")?);
    let answers = tensor(&trial.golden.values(answers)?, &shape)?;
    let texts = decoder.generate(&answers, &DecodeOptions { max_tokens, sampling: TokenSampling::Greedy })?;
    let line = |text: &Vec<u32>| (0..max_tokens).map(|at| text.get(at).map_or(0.0, |&id| f64::from(id))).collect();
    let lines: Vec<Vec<f64>> = texts.iter().map(line).collect();
    trial.expect_numbers("decode.greedy_ids", lines.concat(), Tolerance::EXACT)?;
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let logits = decoder.logits(&answers, &texts)?;
    trial.keep(Part::Decoder, "decode.logits", &logits)?;
    trial.expect_tensor("decode.logits", &logits, STAGE)
}

/// Scores between answers and targets, and bi-directional InfoNCE over them (row i belongs to column i).
fn check_scores(
    trial: &mut Trial,
    batch: &Batch,
    answers: &[Vec<f64>],
    (prefix, ternary): (&str, bool),
) -> Result<(), VerifyError> {
    if answers.len() != batch.targets.len() {
        return Ok(());
    }
    let scale = f64::from(batch.config.logit_scale).exp();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let score = |answer: &Vec<f64>| batch.targets.iter().map(|target| scale * dot(answer, target)).collect();
    let scores: Vec<Vec<f64>> = answers.iter().map(score).collect();
    let (of_scores, of_loss) = if ternary { (TERNARY_SCORES, TERNARY_LOSS) } else { (STAGE, LOSS) };
    trial.expect_numbers(&format!("{prefix}logits"), scores.concat(), of_scores)?;
    let columns: Vec<Vec<f64>> = (0..scores.len()).map(|j| scores.iter().map(|row| row[j]).collect()).collect();
    let loss = (cross_entropy(&scores) + cross_entropy(&columns)) / 2.0;
    trial.expect_numbers(&format!("{prefix}loss"), vec![loss], of_loss)
}

/// Mean over the rows of `-log softmax(row)[its own index]`.
fn cross_entropy(rows: &[Vec<f64>]) -> f64 {
    let of = |(i, row): (usize, &Vec<f64>)| {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + row.iter().map(|score| (score - top).exp()).sum::<f64>().ln() - row[i]
    };
    rows.iter().enumerate().map(of).sum::<f64>() / rows.len() as f64
}

fn unit_rows(rows: &Tensor) -> Result<Vec<Vec<f64>>, VerifyError> {
    let (_, width) = rows.dims2()?;
    Ok(numbers(rows)?.chunks(width.max(1)).map(<[f64]>::to_vec).collect())
}
