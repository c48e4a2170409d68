//! Llama and BitNet stacks against recordings: the last layers without causal mask, the whole model with it, greedy
//! decoding from a prefix, the rotation's frequencies, and the exact integers of single linears.
//!
//! BitNet's three recorded paths (`online`, `packed`, `offline`) are three ways to store one model, so each is computed from
//! the file nearest to it that the folder holds.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::VerifyError;
use super::bitlinear;
use super::compare::Tolerance;
use super::files;
use super::trial::{Ragged, Trial, tensor};
use crate::model::bundle::Part;
use crate::model::config::{LlamaConfig, QuantizationConfig};
use crate::model::decoder::{DecodeOptions, TokenSampling, generate};
use crate::model::llama::Llama;
use crate::model::unobserved;
use crate::nn::attention::Plan;
use crate::nn::linear::{Dense, Precision, WeightScale};
use crate::nn::rows;
use crate::nn::weights::{Mode, Weights};

/// Three times what f32 against f64 was measured to be worth, times ten.
const STAGE: Tolerance = Tolerance::rms(9e-5);
/// A ternary stack is not continuous: one activation that rounds the other way moves everything behind it by a step. Of 16
/// random models of three layers, 15 agreed with f64 to 2e-6 and one was 4.7e-2 off in the largest logit (1-cos 1e-5).
const TERNARY_STAGE: Tolerance = Tolerance::rms(0.1).with_cosine(0.9999);
/// Frequencies are powers of the base, computed in f32.
const FREQUENCY: Tolerance = Tolerance::relative(1e-6);

/// Weights, and the config that says how to read them.
pub struct Source {
    /// The parameters.
    pub weights: Weights,
    files: Vec<PathBuf>,
    /// The stack's config; its `quantization_config` fits these weights.
    pub config: LlamaConfig,
}

/// The weights of a folder, one for each way of storing them that it holds; at least one.
pub struct Sources {
    /// From float weights.
    pub float: Option<Source>,
    /// From packed ones, which may also be the only ones.
    pub packed: Option<Source>,
}

impl Sources {
    /// Opens `model.safetensors`, and `model_packed.safetensors` beside it, in which `weight_scale` divides; dense
    /// layers are held as `dense`.
    pub fn open(dir: &Path, config: &LlamaConfig, dense: Dense) -> Result<Sources, VerifyError> {
        let beside = Source::open(dir, files::PACKED, meaning(config, WeightScale::Divides), dense)?;
        let main = Source::open(dir, files::MODEL, config.clone(), dense)?;
        match (main, beside) {
            (Some(main), _) if main.is_packed() => Ok(Sources { float: None, packed: Some(main) }),
            (None, None) => Err(VerifyError::new(dir, "holds no model.safetensors")),
            (float, packed) => Ok(Sources { float, packed }),
        }
    }

    /// What the folder's config speaks of: the float weights if there are any.
    pub fn main(&self) -> &Source {
        self.float.as_ref().or(self.packed.as_ref()).expect("a folder without weights does not open")
    }
}

impl Source {
    fn open(dir: &Path, stem: &str, config: LlamaConfig, dense: Dense) -> Result<Option<Source>, VerifyError> {
        let files = files::files(dir, stem)?;
        if files.is_empty() {
            return Ok(None);
        }
        Ok(Some(Source { weights: files::open(&files)?.holding(dense), files, config }))
    }

    /// The same weights under another config of their stack.
    pub fn under(&self, config: LlamaConfig) -> Source {
        Source { weights: self.weights.clone(), files: self.files.clone(), config }
    }

    fn is_packed(&self) -> bool {
        self.weights.pp("model.layers.0.self_attn.q_proj").is_packed("weight")
    }

    fn scale(&self) -> Option<WeightScale> {
        match self.config.precision() {
            Precision::Ternary(scale) => Some(scale),
            Precision::Dense | Precision::Full => None,
        }
    }

    /// The same packed weights, stored so that `weight_scale` has the other meaning.
    fn with_meaning(&self, scale: WeightScale) -> Result<Source, VerifyError> {
        if self.scale() == Some(scale) || !self.is_packed() {
            return Ok(self.under(self.config.clone()));
        }
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for file in &self.files {
            for (name, stored) in candle_core::safetensors::load(file, &Device::Cpu)? {
                let inverts = name.ends_with(".weight_scale");
                tensors.insert(name, if inverts { stored.to_dtype(DType::F32)?.recip()? } else { stored });
            }
        }
        let weights = Weights::from_tensors(tensors, Mode::Infer).holding(self.weights.dense());
        Ok(Source { weights, ..self.under(meaning(&self.config, scale)) })
    }

    fn load(&self) -> Result<Llama, VerifyError> {
        let llama = Llama::load(&self.weights, &self.config);
        self.weights.finish()?;
        Ok(llama)
    }
}

/// `config` for packed weights whose `weight_scale` means this.
fn meaning(config: &LlamaConfig, scale: WeightScale) -> LlamaConfig {
    let class = match scale {
        WeightScale::Divides => "bitlinear",
        WeightScale::Multiplies => "autobitlinear",
    };
    let quantization = QuantizationConfig {
        quant_method: "bitnet".into(),
        linear_class: Some(class.into()),
        quantization_mode: Some("offline".into()),
    };
    LlamaConfig { quantization_config: Some(quantization), ..config.clone() }
}

/// Checks everything that the file records about the stack in `dir`.
pub fn check(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    // recorded texts do not stop at an end token
    let config = LlamaConfig { eos_token_id: None, ..files::part_config(dir, LlamaConfig::check)? };
    let sources = Sources::open(dir, &config, trial.dense(Part::Decoder))?;
    check_frequencies(trial, &config)?;
    let main = sources.main();
    let llama = main.load()?;
    let tolerance = if main.scale().is_some() { TERNARY_STAGE } else { STAGE };
    check_bidirectional(trial, &llama, tolerance)?;
    check_causal(trial, &llama, ("causal.input_ids", "causal."), tolerance)?;
    check_decoding(trial, &llama, tolerance)?;
    check_causal(trial, &llama, ("input_ids", ""), tolerance)?;
    check_storage(trial, &sources)?;
    check_linears(trial, &sources)
}

/// The three paths of a BitNet.
fn check_storage(trial: &mut Trial, sources: &Sources) -> Result<(), VerifyError> {
    for path in ["online", "packed", "offline"] {
        let prefix = format!("{path}.");
        if !trial.golden.names().any(|name| name.starts_with(&prefix)) {
            continue;
        }
        let stored = |scale| sources.packed.as_ref().unwrap_or(sources.main()).with_meaning(scale);
        let llama = match path {
            "online" => sources.main().load()?,
            "packed" => stored(WeightScale::Divides)?.load()?,
            _ => stored(WeightScale::Multiplies)?.load()?,
        };
        check_causal(trial, &llama, ("input_ids", &prefix), TERNARY_STAGE)?;
    }
    Ok(())
}

/// Taps `l{layer}.{linear}.*`, from each kind of weights.
fn check_linears(trial: &mut Trial, sources: &Sources) -> Result<(), VerifyError> {
    let both = sources.float.is_some() && sources.packed.is_some();
    let layer = |tap: &String| tap.split_once('.')?.0.strip_prefix('l')?.parse::<usize>().ok();
    let layers: BTreeSet<usize> = trial.golden.before(".x").iter().filter_map(layer).collect();
    for (variant, source) in [("float", &sources.float), ("packed", &sources.packed)] {
        let Some(source) = source else { continue };
        trial.variant(if both { variant } else { "" });
        for layer in &layers {
            let weights = source.weights.pp("model.layers").pp(layer);
            bitlinear::check_taps(trial, &format!("l{layer}."), &weights, source.config.precision())?;
        }
    }
    trial.variant("");
    Ok(())
}

/// `inv_freq` of this config, and `inv_freq_*` of the same scaling at another width of heads.
fn check_frequencies(trial: &mut Trial, config: &LlamaConfig) -> Result<(), VerifyError> {
    let names: Vec<String> = trial.golden.names().filter(|name| name.starts_with("inv_freq")).map(Into::into).collect();
    for name in names {
        let [half] = trial.golden.axes(&name)?;
        let wide = LlamaConfig { head_dim: Some(2 * half), ..config.clone() };
        let computed = if name == "inv_freq" { config.inverse_frequencies() } else { wide.inverse_frequencies() };
        trial.expect_numbers(&name, computed.into_iter().map(f64::from).collect(), FREQUENCY)?;
    }
    Ok(())
}

/// The last layers without causal mask over `inputs_embeds`: `bidir.*`, and `bidir_pos{n}.*` at positions from n on. How
/// many layers is told by how many are recorded.
fn check_bidirectional(trial: &mut Trial, llama: &Llama, tolerance: Tolerance) -> Result<(), VerifyError> {
    for group in trial.golden.before(".layer0").into_iter().filter(|group| group.starts_with("bidir")) {
        let Ok(start) = group.strip_prefix("bidir_pos").unwrap_or("0").parse::<usize>() else { continue };
        let count = (0..).take_while(|layer| trial.golden.has(&format!("{group}.layer{layer}"))).count();
        let rows = Ragged::from_mask(&trial.golden, "attention_mask")?;
        let inputs = rows.strip_rows(&trial.golden.values("inputs_embeds")?)?;
        if count > llama.depth() {
            let what = format!("is recorded for {count} layers, the config has {}", llama.depth());
            return Err(trial.golden.fault(&format!("{group}.layer0"), &what));
        }
        let segments = rows.segments();
        let positions: Vec<f32> = segments.iter().flat_map(|s| (start..start + s.len()).map(|at| at as f32)).collect();
        let sequence = llama.sequence(&positions, Plan::full(&segments));
        let mut stages = Vec::new();
        let layers = llama.depth() - count..llama.depth();
        let last =
            llama.run(inputs, layers, &sequence, &mut |stage, value| stages.push((stage.to_owned(), value.clone())))?;
        for (stage, value) in stages {
            trial.keep(Part::Decoder, &format!("{group}.{stage}"), &value)?;
            trial.expect(&format!("{group}.{stage}"), &rows.pad(&value)?, tolerance)?;
        }
        let norm = llama.normalize(&last)?;
        trial.keep(Part::Decoder, &format!("{group}.norm"), &norm)?;
        trial.expect(&format!("{group}.norm"), &rows.pad(&norm)?, tolerance)?;
        let texts: Vec<_> = segments.into_iter().map(|segment| vec![segment]).collect();
        trial.expect_tensor(&format!("{group}.pooled"), &rows::mean(&norm, &texts)?, tolerance)?;
    }
    Ok(())
}

/// The whole model, causal, over the ids of the first name; stages stand behind the second.
fn check_causal(
    trial: &mut Trial,
    llama: &Llama,
    (ids, prefix): (&str, &str),
    tolerance: Tolerance,
) -> Result<(), VerifyError> {
    if !trial.golden.has(ids) {
        return Ok(());
    }
    let [texts, tokens] = trial.golden.axes(ids)?;
    let rows = Ragged::full(texts, tokens);
    let inputs = llama.embed(&trial.golden.tokens(ids, llama.config.vocab_size)?)?;
    let positions: Vec<f32> = (0..texts * tokens).map(|at| (at % tokens) as f32).collect();
    let sequence = llama.sequence(&positions, Plan::causal(&rows.segments()));
    let mut stages = Vec::new();
    let last = llama.run(inputs, 0..llama.depth(), &sequence, &mut |stage, value| {
        stages.push((stage.to_owned(), value.clone()));
    })?;
    let normalized = llama.normalize(&last)?;
    stages.push(("logits".into(), llama.logits(&normalized)?));
    stages.push(("last_hidden_state".into(), normalized));
    for (stage, value) in stages {
        trial.keep(Part::Decoder, &format!("{prefix}{stage}"), &value)?;
        trial.expect(&format!("{prefix}{stage}"), &rows.pad(&value)?, tolerance)?;
    }
    Ok(())
}

/// Greedy tokens behind `decode.prefix_embeds` [texts, rows, hidden].
fn check_decoding(trial: &mut Trial, llama: &Llama, tolerance: Tolerance) -> Result<(), VerifyError> {
    if !trial.golden.has("decode.prefix_embeds") {
        return Ok(());
    }
    let [texts, width, hidden] = trial.golden.axes("decode.prefix_embeds")?;
    let prefix = tensor(&trial.golden.values("decode.prefix_embeds")?, &[texts * width, hidden])?;
    if trial.golden.has("decode.first_logits") {
        let positions: Vec<f32> = (0..texts * width).map(|at| (at % width) as f32).collect();
        let segments = Ragged::full(texts, width).segments();
        let sequence = llama.sequence(&positions, Plan::causal(&segments));
        let x = llama.run(prefix.clone(), 0..llama.depth(), &sequence, &mut unobserved)?;
        let last: Vec<u32> = segments.iter().map(|segment| segment.end as u32 - 1).collect();
        let logits = llama.logits(&llama.normalize(&rows::gather(&x, &last)?)?)?;
        trial.expect_tensor("decode.first_logits", &logits, tolerance)?;
    }
    if trial.golden.has("decode.greedy_ids") {
        let [_, max_tokens] = trial.golden.axes("decode.greedy_ids")?;
        let ids = generate(llama, &prefix, width, &DecodeOptions { max_tokens, sampling: TokenSampling::Greedy })?;
        let ids = ids.concat().into_iter().map(f64::from).collect();
        trial.expect_numbers("decode.greedy_ids", ids, Tolerance::EXACT)?;
    }
    Ok(())
}
