//! A run: stages one after the other, steps, checkpoints, validations.
//!
//! The run's directory holds checkpoint.safetensors, metrics.csv and accuracy.csv. Everything random comes from
//! (seed, stage, step), so a resumed run does what the whole one would have done.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, CheckpointError, Place};
use super::data::{DataError, Edges, Scene, Source, Ticket};
use super::evaluate::{EvaluateError, Exam, ExamSettings, examine};
use super::loss::unique;
use super::metrics::Metrics;
use super::optimizer::{AdamW, clip_norm};
use super::parts::Parts;
use super::recipe::{Objective, Recipe, Stage};
use super::schedule::blend;
use super::step::{Outcome, Step, Terms, each};
use super::subjects::InTraining;
use crate::model::bundle::BundleError;
use crate::nn::cause;

/// What a run is made of.
pub struct Setup {
    /// Stages and batches.
    pub recipe: Recipe,
    /// What learns.
    pub parts: Parts,
    /// What it learns from.
    pub source: Box<dyn Source>,
    /// How validations make clips and tokens.
    pub edges: Edges,
    /// The tokenizer.json behind `edges`; it is kept in checkpoints.
    pub tokenizer: String,
    /// Decides every draw.
    pub seed: u64,
}

/// Where a run writes, and how often.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where checkpoints and metrics go.
    pub directory: PathBuf,
    /// Worker threads, a shard of the batch each.
    pub threads: usize,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// Steps between validations in joint stages.
    pub validate_steps: u64,
    /// What a validation asks; `None` without the generator.
    pub exam: Option<ExamSettings>,
    /// Stop with a checkpoint when this has passed.
    pub time_limit: Option<Duration>,
}

/// Where a run is, for whoever shows it.
pub struct Report<'a> {
    /// The stage that runs.
    pub stage: &'a Stage,
    /// Steps done.
    pub place: Place,
    /// Numbers, mean since the last report.
    pub terms: &'a Terms,
    /// What a validation found, if there was one.
    pub exam: Option<&'a Exam>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All stages are done.
    Done,
    /// It was told to stop, or its time was over; it can be resumed.
    Stopped,
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The data cannot be had.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A validation failed.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// A tensor operation failed.
    #[error("stage {}, step {}: {}", place.stage, place.step, cause(source))]
    Tensor {
        /// Where.
        place: Place,
        /// What failed.
        source: candle_core::Error,
    },
    /// The gradient is not a number.
    #[error("stage {}, step {}: the gradient's norm is {norm}; lower the rate", place.stage, place.step)]
    Diverged {
        /// Where.
        place: Place,
        /// The norm.
        norm: f32,
    },
    /// A metrics file cannot be written.
    #[error("metrics in {directory}: {source}")]
    Metrics {
        /// The run's directory.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checkpoint and the model do not fit.
    #[error("the checkpoint does not fit the recipe's model: {0}")]
    Restore(String),
}

/// Steps between lines of metrics.csv.
const REPORT_STEPS: u64 = 20;

/// A run in progress.
pub struct Trainer {
    setup: Setup,
    options: RunOptions,
    place: Place,
    optimizer: AdamW,
}

impl Trainer {
    /// A run from its beginning.
    pub fn new(setup: Setup, options: RunOptions) -> Trainer {
        let optimizer = optimizer(&setup.parts, &setup.recipe.stages[0]);
        let place = Place { stage: 0, step: 0, seed: setup.seed };
        Trainer { setup, options, place, optimizer }
    }

    /// Takes over where `checkpoint` stopped.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let restore = |source: candle_core::Error| TrainError::Restore(cause(&source).to_string());
        let missing = self.setup.parts.restore(&checkpoint.variables).map_err(restore)?;
        if let Some(name) = missing.first() {
            return Err(TrainError::Restore(format!("it lacks {name}")));
        }
        self.place = checkpoint.place;
        if let Some(stage) = self.setup.recipe.stages.get(self.place.stage) {
            self.optimizer = optimizer(&self.setup.parts, stage);
            self.optimizer.restore(&checkpoint.optimizer).map_err(restore)?;
        }
        Ok(())
    }

    /// What learns, as it is now.
    pub fn parts(&self) -> &Parts {
        &self.setup.parts
    }

    /// Writes the model as it is now.
    pub fn export(&self, directory: &Path) -> Result<(), BundleError> {
        self.setup.parts.export(directory, &self.setup.recipe, &self.setup.tokenizer)
    }

    /// How far the run is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Steps left in all stages.
    pub fn steps_left(&self) -> u64 {
        let stages = self.setup.recipe.stages.iter().skip(self.place.stage);
        stages.map(|stage| stage.steps).sum::<u64>().saturating_sub(self.place.step)
    }

    /// Trains until all stages are done, `stop` says so, or the time is over. Always leaves a checkpoint.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, show: &mut dyn FnMut(&Report)) -> Result<End, TrainError> {
        let metrics = Metrics::open(&self.options.directory, self.place).map_err(|e| self.unwritten(e))?;
        let (began, limit) = (Instant::now(), self.options.time_limit);
        let over = || stop() || limit.is_some_and(|limit| began.elapsed() >= limit);
        while let Some(stage) = self.setup.recipe.stages.get(self.place.stage).cloned() {
            if self.stage(&stage, &over, (&metrics, show))? == End::Stopped {
                self.save()?;
                return Ok(End::Stopped);
            }
            self.place = Place { stage: self.place.stage + 1, step: 0, ..self.place };
            if let Some(next) = self.setup.recipe.stages.get(self.place.stage) {
                self.optimizer = optimizer(&self.setup.parts, next);
            }
            self.save()?;
        }
        Ok(End::Done)
    }

    fn stage(
        &mut self,
        stage: &Stage,
        over: &dyn Fn() -> bool,
        (metrics, show): (&Metrics, &mut dyn FnMut(&Report)),
    ) -> Result<End, TrainError> {
        let mut window = Window::default();
        while self.place.step < stage.steps {
            if over() {
                return Ok(End::Stopped);
            }
            window.add(&self.step(stage)?);
            self.place.step += 1;
            let (step, last) = (self.place.step, self.place.step == stage.steps);
            if last || step.is_multiple_of(REPORT_STEPS) {
                let terms = std::mem::take(&mut window).mean();
                metrics.step(self.place, &terms).map_err(|e| self.unwritten(e))?;
                show(&Report { stage, place: self.place, terms: &terms, exam: None });
            }
            if stage.objective == Objective::Joint && (last || step.is_multiple_of(self.options.validate_steps.max(1)))
            {
                self.validate(stage, metrics, show)?;
                window = Window::default(); // its clock ran through the validation
            }
            if step.is_multiple_of(self.options.save_steps.max(1)) && !last {
                self.save()?;
            }
        }
        Ok(End::Done)
    }

    /// One optimiser step; returns its numbers.
    fn step(&mut self, stage: &Stage) -> Result<Terms, TrainError> {
        let place = self.place;
        let schedule = stage.schedule();
        let [from, to] = stage.dense_weight;
        let dense_weight = blend(from, to, schedule.progress(place.step));
        let shards = self.draw(stage)?;
        let extra = match stage.objective {
            Objective::Decoder => self.setup.source.answers(self.ticket(u64::MAX - place.step), stage, stage.texts)?,
            _ => Vec::new(),
        };
        let Setup { parts, .. } = &self.setup;
        let step = Step { parts, parameters: self.optimizer.parameters(), stage, dense_weight };
        let tensor = |source| TrainError::Tensor { place, source };
        let outcome = match stage.objective {
            Objective::Dense => step.dense(&shards),
            Objective::Joint => {
                let answers: Vec<Vec<u32>> =
                    shards.iter().flatten().flat_map(|s| s.asked.iter().map(|asked| asked.answer.clone())).collect();
                let decoys = shards.iter().flatten().flat_map(|scene| scene.decoys.iter().cloned());
                let (texts, mut targets) = unique(&answers.iter().cloned().chain(decoys).collect::<Vec<_>>());
                targets.truncate(answers.len());
                step.joint(&shards, &texts, &targets)
            }
            Objective::Decoder => step.decoder(&shards, &extra, self.ticket(place.step).hash()),
        };
        let Outcome { mut gradients, mut terms } = outcome.map_err(tensor)?;
        let norm = clip_norm(&mut gradients, stage.clip_norm);
        if !norm.is_finite() {
            return Err(TrainError::Diverged { place, norm });
        }
        let rate = schedule.rate(place.step);
        self.optimizer.step(&gradients, rate).map_err(tensor)?;
        let questions: usize = shards.iter().flatten().map(|scene| scene.asked.len()).sum();
        terms.extend([("rate", rate), ("gradient_norm", norm), ("questions_per_second", questions as f32)]);
        Ok(terms)
    }

    /// The step's scenes, a shard a thread.
    fn draw(&self, stage: &Stage) -> Result<Vec<Vec<Scene>>, DataError> {
        let threads = self.options.threads.clamp(1, stage.clips.max(1));
        let first = self.place.step * stage.clips as u64;
        let cut = |shard: usize| stage.clips * shard / threads..stage.clips * (shard + 1) / threads;
        each((0..threads).map(cut).collect(), |_, clips| {
            let scene = |clip: usize| self.setup.source.scene(self.ticket(first + clip as u64), stage);
            clips.map(scene).collect()
        })
    }

    fn ticket(&self, position: u64) -> Ticket {
        Ticket { seed: self.place.seed, stage: self.place.stage, position }
    }

    fn validate(&self, stage: &Stage, metrics: &Metrics, show: &mut dyn FnMut(&Report)) -> Result<(), TrainError> {
        let Some(settings) = &self.options.exam else { return Ok(()) };
        let subject = InTraining { parts: &self.setup.parts, edges: &self.setup.edges };
        let exam = examine(&subject, &self.setup.edges, settings)?;
        for line in exam.families.iter().chain(&exam.windows) {
            let fields = format!(
                "{},{},{:.4},{:.4},{:.4}",
                line.family, line.questions, line.accuracy, line.majority, line.closest
            );
            metrics.family(self.place, &fields).map_err(|e| self.unwritten(e))?;
        }
        show(&Report { stage, place: self.place, terms: &Terms::new(), exam: Some(&exam) });
        Ok(())
    }

    fn save(&self) -> Result<(), TrainError> {
        let place = self.place;
        let Setup { recipe, parts, tokenizer, .. } = &self.setup;
        let checkpoint = Checkpoint {
            place,
            recipe: recipe.clone(),
            tokenizer: tokenizer.clone(),
            variables: parts.tensors(),
            optimizer: self.optimizer.state().map_err(|source| TrainError::Tensor { place, source })?,
        };
        Ok(checkpoint.save(&self.options.directory)?)
    }

    fn unwritten(&self, source: std::io::Error) -> TrainError {
        TrainError::Metrics { directory: self.options.directory.clone(), source }
    }
}

fn optimizer(parts: &Parts, stage: &Stage) -> AdamW {
    AdamW::new(parts.parameters(stage), stage.betas)
}

/// The numbers of the steps since the last report.
struct Window {
    sums: Terms,
    steps: f32,
    began: Instant,
}

impl Default for Window {
    fn default() -> Window {
        Window { sums: Terms::new(), steps: 0.0, began: Instant::now() }
    }
}

impl Window {
    fn add(&mut self, terms: &Terms) {
        terms.iter().for_each(|(name, value)| *self.sums.entry(name).or_default() += value);
        self.steps += 1.0;
    }

    /// Means over the steps; what is counted a second, over the time.
    fn mean(mut self) -> Terms {
        let seconds = self.began.elapsed().as_secs_f32().max(1e-6);
        let per_second = |name: &str| name.ends_with("_per_second");
        for (name, sum) in &mut self.sums {
            *sum /= if per_second(name) { seconds } else { self.steps };
        }
        self.sums.insert("steps_per_second", self.steps / seconds);
        self.sums
    }
}
