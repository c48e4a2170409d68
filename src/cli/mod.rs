//! The commands, one file each; here is what they share: the command line, the settings, loading a model,
//! showing that something takes time.
//!
//! Exit status: 0 done, 1 failed, 2 wrongly called; of verify and inspect also 2 when a file cannot be read.

mod ask;
mod bench;
mod bundle;
mod chart;
mod client;
mod cue;
mod demo;
mod embed;
mod evaluate;
#[cfg(debug_assertions)]
mod fault;
mod inspect;
mod job;
mod key;
mod log;
#[cfg(feature = "nats")]
mod queue;
mod serve;
mod settings;
mod train;
mod verify;
mod watch;
#[cfg(feature = "nats")]
mod worker;
mod world;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use indicatif::ProgressBar;

use self::bundle::BundleArgs;
use crate::engine::{Engine, ModelThread, Models};
use crate::kernel::isa::{self, Isa};
use crate::kernel::lookup::{self, Lookup};
use crate::kernel::threads;
use crate::model::bundle::Bundle;
use crate::model::precision::Precisions;
use crate::model::vl_jepa::VlJepa;
use crate::settings::{Effective, Flag, Settings};
use crate::train::world::SIDES;

const FAILED: i32 = 1;
const THREADS_MAX: usize = 4096;
/// What a shell shows for a process that SIGPIPE ended.
const READER_GONE: i32 = 141;

/// VL-JEPA on ordinary CPUs: asks images and clips, and answers with an embedding, a choice or words.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct CommandLine {
    /// Settings file (TOML), also named by VLJEPA_CONFIG; `vljepa settings --example` prints one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting, such as queue.items_max=512; may be repeated. Goes before the environment and the file.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the model over gRPC.
    Serve(serve::Serve),
    /// Works on batch jobs from a queue that many machines share.
    #[cfg(feature = "nats")]
    Worker(worker::Worker),
    /// Asks a question about images or clips.
    Ask(ask::Ask),
    /// Asks questions about a video, a folder of pictures or a camera, and answers where the meaning changes.
    Watch(Box<watch::Watch>),
    /// Shows the embeddings of answers or of texts.
    Embed(embed::Embed),
    /// Starts a server, asks it questions about files that come with the program, and shows what comes back.
    Demo(demo::Demo),
    /// Trains a model and writes it as a bundle.
    Train(train::Train),
    /// Examines a bundle on clips that were never trained on.
    Evaluate(evaluate::Evaluate),
    /// Shows a bundle's parts, parameters, precision, sizes, kernel and space.
    Inspect(inspect::Inspect),
    /// Compares a checkpoint's stages with recorded tensors.
    Verify(verify::Verify),
    /// Writes clips of the generator, and questions about them, as files.
    World(world::World),
    /// Batch jobs: embeds many files or texts, on a server or in this process, and goes on after any interruption.
    #[command(subcommand)]
    Job(job::Job),
    /// Makes keys for callers of a server.
    #[command(subcommand)]
    Key(key::Key),
    /// Shows every setting, its bounds, and where its value comes from.
    Settings(settings::Show),
    /// Measures kernels, the parts of a model of a published size, or a server under load.
    Bench(bench::Bench),
}

/// Runs the command line of this process and returns its exit status.
pub fn run() -> i32 {
    end_with_the_reader();
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(usage) => {
            // Help goes to standard output, a complaint to standard error; neither may fail the process.
            let _ = usage.print();
            return usage.exit_code();
        }
    };
    command_line.run().unwrap_or_else(|error| {
        eprintln!("error: {}", told(&error));
        FAILED
    })
}

/// An error with its causes on one line; what an error says of its cause is not said twice.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match &*text {
        "" => cause,
        _ if text.ends_with(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

impl CommandLine {
    /// Runs the command with its settings and returns the exit status.
    fn run(self) -> anyhow::Result<i32> {
        let mut flags = self.set.iter().map(|pair| Flag::set(pair)).collect::<Result<Vec<_>, _>>()?;
        flags.extend(self.command.flags());
        let effective = Effective::load(self.config.as_deref(), &flags)?;
        apply(&effective)?;
        self.command.run(effective)
    }
}

impl Command {
    /// The settings that flags of the command's own set.
    fn flags(&self) -> Vec<Flag> {
        match self {
            Self::Serve(serve) => serve.flags(),
            #[cfg(feature = "nats")]
            Self::Worker(worker) => worker.flags(),
            Self::Ask(ask) => ask.source.flags(),
            Self::Watch(watch) => watch.place.flags(),
            Self::Embed(embed) => embed.source.flags(),
            Self::Job(job) => job.flags(),
            _ => vec![],
        }
    }

    fn run(self, effective: Effective) -> anyhow::Result<i32> {
        let settings = effective.settings.clone();
        match self {
            Self::Key(key) => key.run(),
            Self::Settings(show) => show.run(&effective),
            Self::Serve(serve) => serve.run(settings),
            #[cfg(feature = "nats")]
            Self::Worker(worker) => worker.run(settings),
            Self::Ask(ask) => ask.run(&settings),
            Self::Watch(watch) => watch.run(&settings),
            Self::Embed(embed) => embed.run(&settings),
            Self::Demo(demo) => demo.run(settings),
            Self::Job(job) => job.run(settings),
            Self::Train(train) => train.run(&settings),
            Self::Evaluate(evaluate) => evaluate.run(&settings),
            Self::Inspect(inspect) => inspect.run(&settings),
            Self::Verify(verify) => verify.run(),
            Self::World(world) => world.run(),
            Self::Bench(bench) => bench.run(&settings),
        }
    }
}

/// Ends the process quietly when the reader of its output has gone, as `head` does; other panics are told as usual.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let told = panic.payload_as_str().unwrap_or_default();
        if told.starts_with("failed printing to stdout") && told.contains("Broken pipe") {
            std::process::exit(READER_GONE);
        }
        usual(panic);
    }));
}

/// The words of settings that other floors judge are judged here; those of the processor take effect, before anything
/// computes.
fn apply(effective: &Effective) -> anyhow::Result<()> {
    let Settings { cpu, model, .. } = &effective.settings;
    let place = |key: &str| effective.place(key);
    if !cpu.isa.eq_ignore_ascii_case("auto") {
        Isa::parse(&cpu.isa).and_then(isa::force).with_context(|| place("cpu.isa"))?;
    }
    if cpu.lookup != "auto" {
        Lookup::parse(&cpu.lookup).and_then(lookup::force).with_context(|| place("cpu.lookup"))?;
    }
    if let Some(words) = &model.precision {
        words.parse::<Precisions>().with_context(|| place("model.precision"))?;
    }
    if cpu.threads > 0 {
        threads::limit(cpu.threads);
    }
    Ok(())
}

/// Loads a bundle and starts its engine.
fn start_engine(bundle: &BundleArgs, settings: Settings) -> anyhow::Result<(Engine, ModelThread)> {
    let waiting = waiting("loading the model");
    let started = Engine::start(VlJepa::load(&bundle.open(&settings)?)?, settings)?;
    waiting.finish_and_clear();
    Ok(started)
}

/// Loads bundles and serves each under its name.
fn start_models(bundles: Vec<(String, Bundle)>, settings: Settings) -> anyhow::Result<Models> {
    let models = Models::new(settings.clone());
    for (name, bundle) in bundles {
        let waiting = waiting(format!("loading {name}"));
        let (engine, thread) = Engine::start(VlJepa::load(&bundle)?, settings.clone())?;
        models.add(&name, engine, thread)?;
        waiting.finish_and_clear();
    }
    Ok(models)
}

/// A runtime for the calls; the model computes elsewhere.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")
}

/// Shows on a terminal that something takes time; elsewhere nothing.
fn waiting(what: impl Into<String>) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what.into());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A file's bytes, at most `max`; the caller knows its name.
fn read_media(file: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Not by the size that the system tells: a device or a pipe tells none.
    std::fs::File::open(file)?.take(max + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() as u64 <= max, "media has over {max} bytes, at most {max} are allowed");
    Ok(bytes)
}

/// Fails unless a drawn frame may be `pixels` wide.
fn side(flag: &str, pixels: usize) -> anyhow::Result<usize> {
    let (least, most) = SIDES.into_inner();
    anyhow::ensure!(SIDES.contains(&pixels), "{flag} is {pixels}, must be {least} to {most} pixels");
    Ok(pixels)
}

/// The threads asked for with `--threads`; one a core if none are.
fn threads_or_cores(asked: Option<usize>) -> anyhow::Result<usize> {
    let threads = asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    anyhow::ensure!((1..=THREADS_MAX).contains(&threads), "--threads is {threads}, must be 1 to {THREADS_MAX}");
    Ok(threads)
}

/// A JSON object on a line of its own.
fn print_line(object: &serde_json::Value) {
    println!("{object}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn an_error_tells_every_cause_once() {
        let cause = std::io::Error::other("no room");
        let file = crate::model::bundle::BundleError::File { file: "a.json".into(), source: cause };
        assert_eq!(told(&anyhow::Error::from(file).context("--bundle a")), "--bundle a: a.json: no room");
    }

    #[test]
    fn reading_media_ends_at_the_bound_whatever_size_the_system_tells() {
        let error = read_media(Path::new("/dev/zero"), 1000).expect_err("it never ends");
        assert_eq!(told(&error), "media has over 1000 bytes, at most 1000 are allowed");
    }

    #[test]
    fn a_wrong_call_is_a_usage_error() {
        for wrong in [&["vljepa", "ask", "file.png"][..], &["vljepa", "nonsense"], &["vljepa", "serve", "--addr", "x"]]
        {
            let error = CommandLine::try_parse_from(wrong).expect_err("wrong");
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
    }
}
