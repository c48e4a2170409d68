//! `vljepa world`: clips of the generator as files, with questions and answers as JSON lines; or a stream of it.
//!
//! For looking at what the bundled model was trained on, and as an example of the data that `vljepa train --data` takes.

mod stream;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::side;
use crate::input::{Frame, encode};
use crate::train::data::EVALUATION;
use crate::train::world::{self, Config, Family, Pairs, Phrasings, Scenario};

/// Writes clips of the generator's world, and questions about them, to a folder; or one long stream as numbered pictures.
#[derive(Debug, clap::Args)]
pub struct World {
    /// The folder; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// One stream instead of clips: numbered pictures, with what is true of every moment in annotations.jsonl and
    /// annotations.srt; the folder must be empty
    #[arg(long, conflicts_with_all = ["clips", "questions"])]
    stream: bool,
    /// Length of the stream, seconds, 2 to 86400; absent: 180 to 360, by the seed
    #[arg(long, requires = "stream", value_name = "SECONDS")]
    duration: Option<f64>,
    /// Frames a second of the stream, 0.1 to 60; absent: 4, which the bundled model is trained on
    #[arg(long, requires = "stream")]
    fps: Option<f32>,
    /// Clips to draw
    #[arg(long, default_value_t = 16)]
    clips: u64,
    /// Width and height of a frame, pixels, 16 to 1024
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Questions a clip, at most
    #[arg(long, default_value_t = 8)]
    questions: usize,
    /// Which clips, or which stream
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draw from the clips and wordings that are kept for evaluation
    #[arg(long)]
    held_out: bool,
}

impl World {
    pub fn run(self) -> anyhow::Result<i32> {
        if self.stream { stream::run(&self) } else { run(&self) }.map(|()| 0)
    }
}

fn run(args: &World) -> anyhow::Result<()> {
    side("--size", args.size)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let lines = args.out.join("questions.jsonl");
    let mut lines =
        std::io::BufWriter::new(std::fs::File::create(&lines).with_context(|| lines.display().to_string())?);
    let world = world::World::new(Config { pairs: Pairs::Train, ..Config::default() });
    let phrasings = if args.held_out { Phrasings::HeldOut } else { Phrasings::Train };
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let weights = Family::ALL.iter().map(|&family| (family, 1.0)).collect::<Vec<_>>();
    for index in 0..args.clips {
        let seed = random.next_u64();
        let scenario = world.clip(if args.held_out { seed | EVALUATION } else { seed & !EVALUATION });
        let (bytes, ending) = file(&scenario, args.size)?;
        let name = format!("clip_{index:05}.{ending}");
        let path = args.out.join(&name);
        std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        for asked in scenario.questions(args.questions, &weights, phrasings, &mut random) {
            let line = serde_json::json!({
                "media": name, "question": asked.question, "answer": asked.answer, "family": asked.family.name(),
            });
            writeln!(lines, "{line}")?;
        }
    }
    lines.flush()?;
    println!("{} clips and their questions are in {}", args.clips, args.out.display());
    Ok(())
}

/// How long a frame of a written clip is shown.
const FRAME_MS: u32 = 150;

/// A clip as a file of frames `size` pixels wide, and the ending of its name: where nothing moves a still image.
pub(super) fn file(scenario: &Scenario, size: usize) -> anyhow::Result<(Vec<u8>, &'static str)> {
    let frames = frames(scenario.render(size), size);
    Ok(match frames.windows(2).all(|pair| pair[0].rgb == pair[1].rgb) {
        true => (encode::png(&frames[0])?, "png"),
        false => (encode::gif(&frames, FRAME_MS)?, "gif"),
    })
}

fn frames(rendered: Vec<Vec<u8>>, size: usize) -> Vec<Frame> {
    let side = u32::try_from(size).expect("at most 1024");
    let frame = |(index, rgb)| Frame { width: side, height: side, rgb, pts_ms: index as u64 * u64::from(FRAME_MS) };
    rendered.into_iter().enumerate().map(frame).collect()
}
