//! `vljepa evaluate`: what a bundle knows about the generator's clips, family by family, beside what guessing scores; and
//! `vljepa evaluate stream`, what it says of long streams.

mod stream;

use clap::ValueEnum;
use indicatif::ProgressBar;

use super::bundle::BundleArgs;
use super::{side, threads_or_cores};
use crate::model::vl_jepa::VlJepa;
use crate::settings::Settings;
use crate::train::data::Edges;
use crate::train::evaluate::{ExamSettings, examine};
use crate::train::subjects::Bundled;
use crate::train::world::{Pairs, Phrasings};

/// All clips of an exam are held at once.
const CLIPS_MAX: usize = 10_000;

/// Examines a bundle on clips that were never trained on.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Evaluate {
    #[command(subcommand)]
    exam: Option<Exam>,
    #[command(flatten)]
    bundle: BundleArgs,
    /// Clips a family, one question each.
    #[arg(long, default_value_t = 100)]
    clips: usize,
    /// Windows over streams, of which it is asked what happens and for a description.
    #[arg(long, default_value_t = 0)]
    windows: usize,
    /// Which clips.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Which wordings of the questions.
    #[arg(long, value_enum, default_value_t = Wording::HeldOut)]
    phrasings: Wording,
    /// Which colour-shape pairs.
    #[arg(long, value_enum, default_value_t = Pairing::Train)]
    pairs: Pairing,
    /// Pixels of a drawn frame's side; absent: what the bundle takes.
    #[arg(long)]
    size: Option<usize>,
    /// Threads; absent: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Exam {
    /// Measures how much of long streams is said at which decode rate.
    Stream(stream::StreamExam),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wording {
    /// Wordings that were trained on.
    Train,
    /// Wordings that were never trained on.
    HeldOut,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pairing {
    /// Pairs that were trained on.
    Train,
    /// Pairs that were never trained on.
    HeldOut,
    /// All pairs.
    Any,
}

impl Evaluate {
    /// Runs the command; the exit status.
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        match &self.exam {
            Some(Exam::Stream(exam)) => exam.run(settings)?,
            None => run(&self, settings)?,
        }
        Ok(0)
    }
}

impl From<Wording> for Phrasings {
    fn from(wording: Wording) -> Self {
        match wording {
            Wording::Train => Self::Train,
            Wording::HeldOut => Self::HeldOut,
        }
    }
}

impl From<Pairing> for Pairs {
    fn from(pairing: Pairing) -> Self {
        match pairing {
            Pairing::Train => Self::Train,
            Pairing::HeldOut => Self::HeldOut,
            Pairing::Any => Self::Any,
        }
    }
}

fn run(args: &Evaluate, settings: &Settings) -> anyhow::Result<()> {
    let clips = args.clips;
    anyhow::ensure!((1..=CLIPS_MAX).contains(&clips), "--clips is {clips}, must be 1 to {CLIPS_MAX}");
    anyhow::ensure!(args.windows <= CLIPS_MAX, "--windows is {}, must be 0 to {CLIPS_MAX}", args.windows);
    let bundle = args.bundle.open(settings)?;
    let frames = bundle.config.vision.frames_per_clip;
    anyhow::ensure!(args.windows == 0 || frames > 1, "--windows: {} looks at one frame, 2 are needed", bundle.name);
    let model = VlJepa::load(&bundle)?;
    let edges = Edges::of(&bundle)?;
    let settings = ExamSettings {
        clips: args.clips,
        windows: args.windows,
        seed: args.seed,
        frames,
        size: args.size.map_or(Ok(bundle.config.vision.crop_size), |pixels| side("--size", pixels))?,
        phrasings: args.phrasings.into(),
        pairs: args.pairs.into(),
        thorough: true,
        threads: threads_or_cores(args.threads)?,
    };
    let spinner = ProgressBar::new_spinner().with_message("asking questions");
    spinner.enable_steady_tick(std::time::Duration::from_millis(200));
    let exam = examine(&Bundled { model: &model }, &edges, &settings);
    spinner.finish_and_clear();
    let exam = exam?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&exam)?);
    } else {
        println!("{}: wordings {:?}, pairs {:?}, seed {}\n", bundle.name, args.phrasings, args.pairs, args.seed);
        print!("{exam}");
    }
    Ok(())
}
