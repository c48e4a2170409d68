//! One training step, cut into a shard a thread.
//!
//! InfoNCE wants the whole batch, so a joint step has three phases: every shard goes forward; the loss of all
//! predictions and answers is taken on one thread, with its gradients; every shard takes its rows of these gradients
//! backward. Gradients are summed in the order of the shards, so a run repeats bit for bit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::data::{Scene, mix};
use super::dense::surrogate;
use super::loss::{Pairing, info_nce, next_token, spread};
use super::optimizer::{Gradients, Parameter};
use super::parts::{LOG_SCALE, Parts};
use super::recipe::Stage;
use super::world::DenseLabels;
use crate::kernel::threads::serial;
use crate::model::vision::Visual;

/// What a step gives: gradients of the stage's parameters, and numbers to look at.
pub struct Outcome {
    /// In the order of the parameters.
    pub gradients: Gradients,
    /// Loss terms and shares by name.
    pub terms: Terms,
}

/// Numbers of a step by name, as the metrics file has them.
pub type Terms = BTreeMap<&'static str, f32>;

/// A step's surroundings.
pub struct Step<'a> {
    /// The parts that learn.
    pub parts: &'a Parts,
    /// What the stage trains.
    pub parameters: &'a [Parameter],
    /// The stage.
    pub stage: &'a Stage,
    /// Weight of the dense labels now.
    pub dense_weight: f32,
}

/// Runs `work` on every task, a thread each, and gives the results in the order of the tasks.
pub fn each<T: Send, R: Send, E: Send>(
    tasks: Vec<T>,
    work: impl Fn(usize, T) -> std::result::Result<R, E> + Sync,
) -> std::result::Result<Vec<R>, E> {
    const STACK_BYTES: usize = 64 << 20; // a graph's backward pass walks it by recursion
    let run = |index, task| serial(|| work(index, task));
    thread::scope(|scope| {
        let start = |(index, task)| {
            let builder = thread::Builder::new().stack_size(STACK_BYTES);
            builder.spawn_scoped(scope, move || run(index, task)).expect("the system gives a thread")
        };
        let running: Vec<_> = tasks.into_iter().enumerate().map(start).collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        running.into_iter().map(join).collect()
    })
}

/// What a shard's forward pass keeps for its way back.
struct Forward {
    dense: Option<Tensor>,
    predictions: Option<Tensor>,
    answers: Option<Tensor>,
    terms: Terms,
}

impl Step<'_> {
    /// Dense labels alone.
    pub fn dense(&self, shards: &[Vec<Scene>]) -> Result<Outcome> {
        let total: usize = shards.iter().map(Vec::len).sum();
        let done = each(shards.iter().collect(), |_, scenes: &Vec<Scene>| {
            let share = scenes.len() as f32 / total as f32;
            let clips: Vec<_> = scenes.iter().map(|scene| scene.clip.as_ref()).collect();
            let mut visual = self.parts.vision.forward(&clips)?;
            if self.is_frozen("vision.") {
                visual.tokens = visual.tokens.detach();
            }
            let (slope, terms) = self.dense_terms(&visual, scenes, share)?;
            let Some(slope) = slope else { candle_core::bail!("this source has no dense labels") };
            Ok((self.backward(&slope)?, terms))
        })?;
        Ok(self.merge(done))
    }

    /// Predictions against answers. `texts` are the batch's different answers and decoys, `targets` a row of them a
    /// question.
    pub fn joint(&self, shards: &[Vec<Scene>], texts: &[Vec<u32>], targets: &[usize]) -> Result<Outcome> {
        let total: usize = shards.iter().map(Vec::len).sum();
        let cuts = cut(texts.len(), shards.len());
        let mut forwards = each(shards.iter().collect(), |index, scenes: &Vec<Scene>| {
            self.forward(scenes, &texts[cuts[index].clone()], scenes.len() as f32 / total as f32)
        })?;
        let predictions = values(forwards.iter().map(|f| f.predictions.as_ref()))?;
        let answers = values(forwards.iter().map(|f| f.answers.as_ref()))?;
        let dim = self.parts.config.shared_dim;
        let scale = self.parts.scale()?;
        let pairing = Pairing { predictions: &predictions, answers: &answers, targets, dim };
        let mut loss = info_nce(&pairing, scale);
        let (apart, push) = spread(&answers, dim, self.stage.spread_margin, self.stage.spread_weight);
        loss.answers.iter_mut().zip(&push).for_each(|(slope, push)| *slope += push);
        let (mut from_predictions, mut from_answers) = (loss.predictions.as_slice(), loss.answers.as_slice());
        let mut tasks = Vec::new();
        for forward in &mut forwards {
            let slopes = (take(&mut from_predictions, &forward.predictions), take(&mut from_answers, &forward.answers));
            tasks.push((forward.predictions.take(), forward.answers.take(), forward.dense.take(), slopes));
        }
        let gradients = each(tasks, |_, (predictions, answers, dense, (on_predictions, on_answers))| {
            let carried = [(predictions, on_predictions), (answers, on_answers)];
            let mut whole = dense;
            for (tensor, slope) in carried {
                let Some(tensor) = tensor else { continue };
                let carried = surrogate(&tensor, slope)?;
                whole = Some(whole.map_or(Ok(carried.clone()), |sum| sum + &carried)?);
            }
            whole.map_or(Ok(vec![None; self.parameters.len()]), |whole| self.backward(&whole))
        })?;
        let terms = forwards.into_iter().map(|forward| forward.terms);
        let mut outcome = self.merge(gradients.into_iter().zip(terms).collect());
        if let Some(index) = self.parameters.iter().position(|p| p.name == LOG_SCALE) {
            outcome.gradients[index] = Some(vec![loss.log_scale]);
        }
        let dense = outcome.terms.get("dense").map_or(0.0, |value| value * self.dense_weight);
        let all = loss.value + apart + dense;
        let own = [("loss", all), ("info_nce", loss.value), ("spread", apart), ("batch_accuracy", loss.accuracy)];
        outcome.terms.extend(own.into_iter().chain([("scale", scale)]));
        Ok(outcome)
    }

    /// Whether no parameter of a part learns, so that nothing needs to go back through it.
    fn is_frozen(&self, part: &str) -> bool {
        self.parameters.iter().all(|parameter| parameter.group.rate == 0.0 || !parameter.name.starts_with(part))
    }

    fn forward(&self, scenes: &[Scene], texts: &[Vec<u32>], share: f32) -> Result<Forward> {
        let clips: Vec<_> = scenes.iter().map(|scene| scene.clip.as_ref()).collect();
        let mut visual = self.parts.vision.forward(&clips)?;
        if self.is_frozen("vision.") {
            visual.tokens = visual.tokens.detach();
        }
        let (dense, terms) =
            if self.dense_weight > 0.0 { self.dense_terms(&visual, scenes, share)? } else { (None, Terms::new()) };
        let questions = questions(scenes);
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let predictions =
            if questions.is_empty() { None } else { Some(self.parts.predictor.forward(&visual, &questions)?) };
        let mut answers = if texts.is_empty() { None } else { Some(self.parts.text.forward(&texts)?) };
        if self.is_frozen("text.") {
            answers = answers.map(|answers| answers.detach());
        }
        Ok(Forward { dense, predictions, answers, terms })
    }

    /// The surrogate of the dense loss times its weight and the shard's share, and its terms times the share.
    fn dense_terms(&self, visual: &Visual, scenes: &[Scene], share: f32) -> Result<(Option<Tensor>, Terms)> {
        let labels: Option<Vec<&DenseLabels>> = scenes.iter().map(|scene| scene.labels.as_ref()).collect();
        let Some(labels) = labels else { return Ok((None, Terms::new())) };
        let dense = self.parts.heads.loss(visual, &labels, self.dense_weight * share)?;
        let [colour, shape, motion, size] = dense.accuracy;
        let accuracies =
            [("token_colour", colour), ("token_shape", shape), ("token_motion", motion), ("token_size", size)];
        let terms = accuracies.into_iter().chain([("dense", dense.value)]);
        Ok((Some(dense.surrogate), terms.map(|(name, value)| (name, value * share)).collect()))
    }

    /// The decoder alone: predicted embeddings and the texts' own (moved by noise) to words.
    pub fn decoder(&self, shards: &[Vec<Scene>], texts: &[Vec<u32>], seed: u64) -> Result<Outcome> {
        let cuts = cut(texts.len(), shards.len());
        let rows = |index: usize| shards[index].iter().map(|s| s.asked.len()).sum::<usize>() + cuts[index].len();
        let total: usize = (0..shards.len()).map(rows).sum();
        let done = each(shards.iter().collect(), |index, scenes: &Vec<Scene>| {
            let share = rows(index) as f32 / total.max(1) as f32;
            let mut rng = ChaCha8Rng::seed_from_u64(mix(seed ^ index as u64));
            self.words(scenes, &texts[cuts[index].clone()], share, &mut rng)
        })?;
        Ok(self.merge(done))
    }

    fn words(
        &self,
        scenes: &[Scene],
        texts: &[Vec<u32>],
        share: f32,
        rng: &mut impl Rng,
    ) -> Result<(Gradients, Terms)> {
        let Some(decoder) = &self.parts.decoder else { candle_core::bail!("the recipe's model has no decoder") };
        let mut prefixes = Vec::new();
        let asked = questions(scenes);
        if !asked.is_empty() {
            let clips: Vec<_> = scenes.iter().map(|scene| Arc::clone(&scene.clip)).collect();
            prefixes.push(self.parts.predict(&clips, &asked)?.detach());
        }
        let mut said: Vec<&[u32]> =
            scenes.iter().flat_map(|s| s.asked.iter().map(|asked| asked.answer.as_slice())).collect();
        if !texts.is_empty() {
            let own: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            prefixes.push(noisy(&self.parts.text.forward(&own)?.detach(), self.stage.noise, rng)?);
            said.extend(own);
        }
        if said.is_empty() {
            return Ok((vec![None; self.parameters.len()], Terms::new()));
        }
        let logits = decoder.logits(&Tensor::cat(&prefixes, 0)?, &said)?; // [sum of (text + end), vocabulary]
        let end = decoder.config.llama.ends().first().copied();
        let targets: Vec<u32> = said.iter().flat_map(|text| text.iter().copied().chain(end)).collect();
        let width = logits.dim(1)?;
        let (value, mut slope) = next_token(&logits.flatten_all()?.to_vec1::<f32>()?, width, &targets);
        slope.iter_mut().for_each(|s| *s *= share);
        let gradients = self.backward(&surrogate(&logits, slope)?)?;
        Ok((gradients, Terms::from([("words", value * share)])))
    }

    fn backward(&self, scalar: &Tensor) -> Result<Gradients> {
        let store = scalar.backward()?;
        let gradient = |p: &Parameter| store.get(p.var.as_tensor()).map(|g| g.flatten_all()?.to_vec1()).transpose();
        self.parameters.iter().map(gradient).collect()
    }

    /// Sums gradients and terms in the order of the shards.
    fn merge(&self, shards: Vec<(Gradients, Terms)>) -> Outcome {
        let mut outcome = Outcome { gradients: vec![None; self.parameters.len()], terms: Terms::new() };
        for (gradients, terms) in shards {
            for (sum, gradient) in outcome.gradients.iter_mut().zip(gradients) {
                match (sum.as_mut(), gradient) {
                    (Some(sum), Some(gradient)) => sum.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g),
                    (None, Some(gradient)) => *sum = Some(gradient),
                    (_, None) => {}
                }
            }
            for (name, value) in terms {
                *outcome.terms.entry(name).or_default() += value;
            }
        }
        outcome
    }
}

/// The questions of some scenes, each with the index of its clip.
fn questions(scenes: &[Scene]) -> Vec<(usize, &[u32])> {
    let clips = scenes.iter().enumerate();
    clips.flat_map(|(clip, scene)| scene.asked.iter().map(move |asked| (clip, asked.question.as_slice()))).collect()
}

/// `count` things cut into `parts` runs of nearly equal length.
fn cut(count: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|part| count * part / parts..count * (part + 1) / parts).collect()
}

/// All rows of some tensors, one after the other.
fn values<'a>(tensors: impl Iterator<Item = Option<&'a Tensor>>) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for tensor in tensors.flatten() {
        all.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

/// As many values from the front of `rest` as the tensor has.
fn take(rest: &mut &[f32], tensor: &Option<Tensor>) -> Vec<f32> {
    let (own, left) = rest.split_at(tensor.as_ref().map_or(0, Tensor::elem_count));
    *rest = left;
    own.to_vec()
}

/// Unit rows moved by noise of a standard deviation a dimension, and made unit rows again.
fn noisy(rows: &Tensor, deviation: f32, rng: &mut impl Rng) -> Result<Tensor> {
    let width = rows.dim(1)?;
    let mut moved = rows.flatten_all()?.to_vec1::<f32>()?;
    for row in moved.chunks_exact_mut(width) {
        row.iter_mut().for_each(|x| *x += deviation * normal(rng));
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter_mut().for_each(|x| *x /= length);
    }
    Tensor::from_vec(moved, rows.shape(), rows.device())
}

/// A standard normal number (Box and Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (radius, angle) = (1.0 - rng.random::<f32>(), std::f32::consts::TAU * rng.random::<f32>());
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_tasks() {
        let squares = each(vec![3u32, 1, 2], |index, task| Ok::<_, ()>((index, task * task)));
        assert_eq!(squares, Ok(vec![(0, 9), (1, 1), (2, 4)]));
        assert_eq!(each(vec![0, 1], |_, task| if task == 1 { Err("one") } else { Ok(()) }), Err("one"));
    }

    #[test]
    fn a_cut_covers_everything_once() {
        for (count, parts) in [(0, 2), (1, 2), (7, 3), (8, 2)] {
            let cuts = cut(count, parts);
            assert_eq!(cuts.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn noise_keeps_rows_of_unit_length() {
        let rows = Tensor::new(&[[1.0f32, 0.0], [0.6, 0.8]], &candle_core::Device::Cpu).expect("rows");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let moved = noisy(&rows, 0.3, &mut rng).expect("rows").to_vec2::<f32>().expect("rows");
        assert!(moved.iter().all(|r| (r[0].hypot(r[1]) - 1.0).abs() < 1e-5));
        assert!(moved[0][1] != 0.0, "nothing moved");
    }

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let numbers: Vec<f32> = (0..20_000).map(|_| normal(&mut rng)).collect();
        let mean = numbers.iter().sum::<f32>() / 20_000.0;
        let square = numbers.iter().map(|x| x * x).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "mean {mean}, mean square {square}");
    }
}
