//! `vljepa train`: a recipe or a data file in, a bundle out, with checkpoints on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::threads_or_cores;
use crate::input::MediaLimits;
use crate::model::bundle::Bundle;
use crate::settings::Settings;
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::evaluate::ExamSettings;
use crate::train::recipe::Recipe;
use crate::train::session::{Material, Origin, prepare};
use crate::train::trainer::{End, Report, RunOptions, Trainer};
use crate::train::world::{Pairs, Phrasings};

/// Trains a model and writes it as a bundle.
#[derive(Debug, clap::Args)]
pub struct Train {
    /// Recipe: a compiled-in name (world-small, world-streams, world-tiny) or a JSON file.
    #[arg(long, default_value = "world-small")]
    recipe: String,
    /// Train on lines of {"media", "question", "answer"} instead of the generator.
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// Start from the model and the tokenizer of this bundle.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Directory for checkpoint, metrics and the bundle.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the checkpoint in --out, with its recipe and seed.
    #[arg(long, conflicts_with_all = ["bundle", "recipe", "steps", "lr", "changes", "seed"])]
    resume: bool,
    /// Steps of all stages together, shared out as in the recipe.
    #[arg(long)]
    steps: Option<u64>,
    /// Peak learning rate of every stage.
    #[arg(long)]
    lr: Option<f32>,
    /// Any other value of the recipe, such as stages.1.clips=16; may be repeated.
    #[arg(long = "change", value_name = "PATH=VALUE")]
    changes: Vec<String>,
    /// Stop with a checkpoint after this many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Decides every random draw: equal seeds give equal runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worker threads; absent: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 500)]
    save_steps: u64,
    /// Steps between validations.
    #[arg(long, default_value_t = 1000)]
    validate_steps: u64,
    /// Clips a family at a validation; 0 for no validations.
    #[arg(long, default_value_t = 40)]
    validate_clips: usize,
}

impl Train {
    /// Runs the command; the exit status.
    pub fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        run(&self, settings)?;
        Ok(0)
    }
}

fn run(args: &Train, settings: &Settings) -> anyhow::Result<()> {
    if !args.resume && checkpoint::path(&args.out).exists() {
        bail!("{} holds a run already; --resume goes on with it", args.out.display());
    }
    let origin = match &args.bundle {
        _ if args.resume => Origin::Checkpoint(Box::new(Checkpoint::load(&args.out)?)),
        Some(bundle) => Origin::Bundle(Box::new(recipe(args)?), Box::new(Bundle::open(bundle)?)),
        None => Origin::Fresh(Box::new(recipe(args)?)),
    };
    let material = match &args.data {
        Some(file) => Material::Lines(file, media_limits(settings)),
        None => Material::World,
    };
    let setup = prepare(&origin, &material, args.seed)?;
    let threads = threads_or_cores(args.threads)?;
    let exam = ExamSettings {
        clips: args.validate_clips,
        // Fewer than this say little of the many kinds of windows.
        windows: if setup.recipe.world.streams > 0.0 { 4 * args.validate_clips } else { 0 },
        seed: 0,
        frames: setup.recipe.world.frames,
        size: setup.recipe.world.sizes[0],
        phrasings: Phrasings::Train,
        pairs: Pairs::Train,
        thorough: false,
        threads,
    };
    let options = RunOptions {
        directory: args.out.clone(),
        threads,
        save_steps: args.save_steps,
        validate_steps: args.validate_steps,
        exam: Some(exam).filter(|exam| exam.clips > 0 && args.data.is_none()),
        time_limit: args.minutes.map(time_limit).transpose()?,
    };
    let mut trainer = Trainer::new(setup, options);
    if let Origin::Checkpoint(checkpoint) = &origin {
        trainer.resume(checkpoint)?;
    }
    let end = watch(&mut trainer)?;
    finish(&trainer, end, &args.out.join("bundle"))
}

fn time_limit(minutes: f64) -> anyhow::Result<Duration> {
    let limit = Duration::try_from_secs_f64(60.0 * minutes);
    limit.with_context(|| format!("--minutes is {minutes}, must be a number from 0 on"))
}

fn media_limits(settings: &Settings) -> MediaLimits {
    let media = &settings.media;
    MediaLimits {
        bytes_max: media.bytes_max,
        pixels_max: media.pixels_max,
        frames_max: media.frames_max,
        decode_bytes_max: media.decode_bytes_max,
    }
}

fn finish(trainer: &Trainer, end: End, bundle: &Path) -> anyhow::Result<()> {
    trainer.export(bundle).with_context(|| format!("cannot write the bundle {}", bundle.display()))?;
    match end {
        End::Done => println!("done; the model is in {}", bundle.display()),
        End::Stopped => println!("stopped; --resume goes on; the model so far is in {}", bundle.display()),
    }
    Ok(())
}

/// The recipe with the flags' changes.
fn recipe(args: &Train) -> anyhow::Result<Recipe> {
    let read = |changes: &[String]| -> anyhow::Result<Recipe> {
        if !args.recipe.ends_with(".json") {
            return Ok(Recipe::named(&args.recipe, changes)?);
        }
        let text = std::fs::read_to_string(&args.recipe).with_context(|| format!("recipe {}", args.recipe))?;
        Ok(Recipe::parse(&args.recipe, &text, changes)?)
    };
    let mut recipe = read(&args.changes)?;
    if let Some(steps) = args.steps {
        let all: u64 = recipe.stages.iter().map(|stage| stage.steps).sum();
        for stage in &mut recipe.stages {
            stage.steps = (u128::from(stage.steps) * u128::from(steps)).div_ceil(all.max(1).into()) as u64;
            stage.warmup_steps = stage.warmup_steps.min(stage.steps / 4);
        }
    }
    if let Some(rate) = args.lr {
        recipe.stages.iter_mut().for_each(|stage| stage.rate = rate);
    }
    recipe.check()?;
    Ok(recipe)
}

/// Runs the trainer until it ends or Ctrl-C, and shows how far it is: a bar on a terminal, lines elsewhere.
fn watch(trainer: &mut Trainer) -> anyhow::Result<End> {
    let stop = on_interrupt()?;
    let left = trainer.steps_left();
    let bar = ProgressBar::new(left);
    let style = "{bar:30} {pos}/{len} steps, {elapsed} gone, {eta} left  {msg}";
    bar.set_style(ProgressStyle::with_template(style).context("the progress bar's template")?);
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut done = 0;
    let mut seen = trainer.place();
    let mut show = |report: &Report| {
        if let Some(exam) = report.exam {
            bar.suspend(|| println!("{exam}"));
            return;
        }
        let place = report.place;
        done += if place.stage == seen.stage { place.step - seen.step } else { place.step };
        seen = place;
        let message = summary(report);
        bar.set_position(done);
        bar.set_message(message.clone());
        if bar.is_hidden() && told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let gone = began.elapsed().as_secs_f64();
            let eta = gone / done.max(1) as f64 * (left - done.min(left)) as f64;
            println!("{done}/{left} steps, {gone:.0} s gone, {eta:.0} s left  {message}");
        }
    };
    let end = trainer.run(&|| stop.load(Ordering::Relaxed), &mut show)?;
    bar.finish_and_clear();
    Ok(end)
}

/// The step's place and the numbers that matter in its stage.
fn summary(report: &Report) -> String {
    let shown = ["loss", "info_nce", "dense", "words", "batch_accuracy", "token_shape", "token_motion"];
    let mut text = format!("stage {} ({:?}) step {}", report.place.stage, report.stage.objective, report.place.step);
    for name in shown {
        if let Some(value) = report.terms.get(name) {
            text.push_str(&format!(", {name} {value:.3}"));
        }
    }
    if let Some(speed) = report.terms.get("steps_per_second") {
        text.push_str(&format!(", {speed:.2} steps/s"));
    }
    text
}

/// A flag that Ctrl-C sets; the run then stops with a checkpoint. A second Ctrl-C ends the process.
fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                set.store(true, Ordering::Relaxed);
                eprintln!("stopping after this step; Ctrl-C again to end without a checkpoint");
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
    });
    Ok(flag)
}
