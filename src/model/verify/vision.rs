//! V-JEPA 2 against recordings: the encoder's stages, the rotation alone, the attentive pooler and classifier, and the
//! preprocessing of frames.

use std::path::Path;

use ndarray::Array4;

use super::VerifyError;
use super::compare::{Tolerance, Values};
use super::files;
use super::trial::{Ragged, Trial, tensor};
use crate::input::{Frame, Preprocessor, Sampling};
use crate::model::bundle::Part;
use crate::model::config::VisionConfig;
use crate::model::vision::VisionEncoder;
use crate::nn::rope::Rotary;

/// Three times what f32 against f64 was measured to be worth, times ten: the order of sums is ours.
pub const STAGE: Tolerance = Tolerance::rms(1.2e-4);
/// One level of u8 on the channel with the least spread, and how rarely that may happen.
const PIXELS: Tolerance = Tolerance::absolute(0.0176).with_mean(5e-4);

/// Checks every `{clip}.pixel_values_videos` of the file, and `rope_probe`.
pub fn check(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    let config = files::part_config(dir, VisionConfig::check)?;
    check_rotation(trial, &config)?;
    let weights = trial.weights(dir, Part::Vision)?;
    let encoder = VisionEncoder::load(&weights, &config);
    weights.finish()?;
    for clip in trial.golden.before(".pixel_values_videos") {
        // a file with recorded frames checks the preprocessing: there, pixels are a stage and no input
        if !trial.golden.has(&format!("{clip}.frames")) {
            check_clip(trial, &encoder, &clip)?;
        }
    }
    Ok(())
}

fn check_clip(trial: &mut Trial, encoder: &VisionEncoder, clip: &str) -> Result<(), VerifyError> {
    let pixels = clips(trial, &format!("{clip}.pixel_values_videos"), &encoder.config)?;
    let views: Vec<_> = pixels.iter().map(|pixels| pixels.view()).collect();
    let mut stages = Vec::new();
    let visual = encoder.observe(&views, &mut |stage, value| stages.push((stage.to_owned(), value.clone())))?;
    let places = visual.segments.first().map_or(0, |segment| segment.len());
    let rows = Ragged::full(pixels.len(), places);
    for (at, (stage, value)) in stages.iter().enumerate() {
        trial.keep(Part::Vision, &format!("{clip}.{stage}"), value)?;
        trial.expect(&format!("{clip}.{stage}"), &rows.pad(value)?, STAGE)?;
        // recorded is what the attention adds to the rows before it
        if let Some(block) = stage.strip_prefix("attended") {
            trial.expect(&format!("{clip}.attn{block}"), &rows.pad(&(value - &stages[at - 1].1)?)?, STAGE)?;
        }
    }
    if let Some((pooled, logits)) = encoder.classify(&visual)? {
        trial.expect_tensor(&format!("{clip}.pooled"), &pooled, STAGE)?;
        trial.expect_tensor(&format!("{clip}.logits"), &logits, STAGE)?;
    }
    Ok(())
}

/// The clips `[batch, frames, channels, height, width]` under `name`, of the size that the encoder takes.
pub fn clips(trial: &Trial, name: &str, config: &VisionConfig) -> Result<Vec<Array4<f32>>, VerifyError> {
    let [_, frames, channels, height, width] = trial.golden.axes(name)?;
    let (taken, side) = (config.in_chans, config.crop_size);
    if frames == 0 || (channels, height, width) != (taken, side, side) {
        let found = format!("has clips of [{frames}, {channels}, {height}, {width}]");
        let what = format!("{found}; in_chans and crop_size take [1.., {taken}, {side}, {side}]");
        return Err(trial.golden.fault(name, &what));
    }
    let pixels = trial.golden.floats(name)?;
    let clip = |pixels: &[f32]| Array4::from_shape_vec((frames, channels, height, width), pixels.to_vec());
    let clips = pixels.chunks((frames * channels * height * width).max(1)).map(clip);
    clips.collect::<Result<_, _>>().map_err(|e| trial.golden.fault(name, &e.to_string()))
}

/// One call of the rotation: `rope_probe.in` [batch, heads, tokens, head_dim], positions over the config's grid.
fn check_rotation(trial: &mut Trial, config: &VisionConfig) -> Result<(), VerifyError> {
    if !(trial.golden.has("rope_probe.in") && trial.golden.has("rope_probe.out")) {
        return Ok(());
    }
    let [batch, heads, tokens, width] = trial.golden.axes("rope_probe.in")?;
    let probe = trial.golden.values("rope_probe.in")?;
    let grid = config.grid().max(1);
    let place = |at: usize| [at / (grid * grid), at / grid % grid, at % grid].map(|axis| axis as f32);
    let positions: Vec<[f32; 3]> = (0..batch * tokens).map(|at| place(at % tokens)).collect();
    let rotary = Rotary::three_axis(&positions, width, config.rope_theta as f32);
    let rows = tensor(&probe, &[batch, heads, tokens, width])?.transpose(1, 2)?.contiguous()?;
    let turned = rotary.apply(&rows.reshape((batch * tokens, heads * width))?, heads)?;
    let turned = turned.reshape((batch, tokens, heads, width))?.transpose(1, 2)?.contiguous()?;
    trial.expect_tensor("rope_probe.out", &turned, STAGE)
}

/// Checks every pair of `{clip}.frames` (u8 [frames, height, width, 3]) and `{clip}.pixel_values_videos`.
pub fn check_preprocessing(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    let clips = trial.golden.before(".frames");
    if clips.is_empty() {
        return Ok(());
    }
    let file = dir.join("preprocessor_config.json");
    let preprocessor = Preprocessor::parse(files::read(&file)?.as_bytes()).map_err(|e| VerifyError::new(&file, e))?;
    for clip in clips {
        let name = format!("{clip}.frames");
        let [count, height, width, _] = trial.golden.axes(&name)?;
        let bytes: Vec<u8> = trial.golden.values(&name)?.numbers.iter().map(|&v| v as u8).collect();
        let frame = |(at, rgb): (usize, &[u8])| Frame {
            width: width as u32,
            height: height as u32,
            rgb: rgb.to_vec(),
            pts_ms: at as u64 * 1000,
        };
        let frames: Vec<Frame> = bytes.chunks((height * width * 3).max(1)).enumerate().map(frame).collect();
        let sampling = Sampling { frames: Some(count), ..Sampling::default() };
        let pixels = preprocessor.clip(&frames, &sampling).map_err(|e| trial.golden.fault(&name, &e.to_string()))?;
        let shape = [&[1], pixels.pixels.shape()].concat();
        let numbers = pixels.pixels.iter().map(|&v| f64::from(v)).collect();
        trial.expect(&format!("{clip}.pixel_values_videos"), &Values { shape, numbers }, PIXELS)?;
    }
    Ok(())
}
