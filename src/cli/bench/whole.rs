//! `vljepa bench --preset`: the parts of a model of known sizes, with random weights, nothing downloaded and nothing
//! written. Each part is loaded, then runs alone; its time is shown by kind of work, beside this chip's limits.

use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::memory::Resident;
use super::part::{Figures, Loaded};
use super::{check_repeats, peaks_json, peaks_text};
use crate::cli::{print_line, threads_or_cores};
use crate::kernel::isa;
use crate::kernel::peak::Peaks;
use crate::kernel::threads::Pool;
use crate::model::bundle::Part;
use crate::model::precision::Precisions;
use crate::model::preset;
use crate::model::rehearsal::Size;

/// The most frames and tokens that can be asked for.
const SIZE_MAX: usize = 4096;

/// Measures the parts of a model.
#[derive(Debug, clap::Args)]
pub(super) struct Whole {
    /// The model's sizes
    #[arg(long, value_parser = PossibleValuesParser::new(preset::NAMES))]
    preset: Option<String>,
    /// Which parts
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Parts::All])]
    part: Vec<Parts>,
    /// How parts hold the weights that are not ternary: f32, bf16, int8 or auto
    #[arg(long, value_name = "[PART=]WORD,..", default_value = "auto")]
    precision: Precisions,
    /// Frames of the clip
    #[arg(long, default_value_t = 16)]
    frames: usize,
    /// Tokens of the question
    #[arg(long, default_value_t = 64)]
    question_tokens: usize,
    /// Tokens of the text to embed
    #[arg(long, default_value_t = 256)]
    text_tokens: usize,
    /// Tokens that the decoder writes
    #[arg(long, default_value_t = 32)]
    answer_tokens: usize,
    /// Threads; one is measured in its processor time, several on the wall and beside one [default: one a core]
    #[arg(long)]
    threads: Option<usize>,
    /// Forward passes of each part, after one to warm up
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Parts {
    Vision,
    Predictor,
    Text,
    Decoder,
    All,
}

impl Whole {
    /// Measures, prints and returns the exit status.
    pub(super) fn run(&self) -> anyhow::Result<i32> {
        let count = threads_or_cores(self.threads)?;
        check_repeats(self.repeats)?;
        let name = self.preset.as_deref().unwrap_or(preset::NAMES[0]);
        let config = preset::config(name).expect("the parser knows the names")?;
        let (size, pool) = (self.size()?, Pool::new(count)?);
        let peaks = pool.run(|| Peaks::measure(isa::current()));
        let before = Resident::read();
        let dense = |part| self.precision.of(part).unwrap_or_default().here();
        let load = |part| pool.run(|| Loaded::new(&config, (part, dense(part)), size));
        let loaded = self.parts().into_iter().map(load).collect::<anyhow::Result<Vec<Loaded>>>()?;
        let full = Resident::read();
        if !self.json {
            print!("{}", peaks_text(&peaks));
            let (repeats, precision, isa) = (self.repeats, self.precision, isa::current());
            println!("model     {name}, {count} thread(s), {repeats} passes, {precision}, integer kernels {isa}");
            println!("\n{}", Figures::HEAD);
        }
        let mut parts = Vec::new();
        for part in &loaded {
            let figures = part.measure(self.repeats, &pool, count)?;
            if !self.json {
                print!("{}", figures.text(&peaks));
            }
            parts.push(figures.json(&peaks));
        }
        let after = Resident::read();
        if self.json {
            let bytes = |resident: Option<Resident>| resident.map(|resident| resident.now);
            let most = after.map(|resident| resident.most);
            let resident = json!({"before": bytes(before), "loaded": bytes(full), "after": bytes(after), "most": most});
            print_line(&json!({
                "preset": name, "isa": isa::current().name(), "threads": count,
                "precision": self.precision.to_string(), "limits": peaks_json(&peaks), "frames": size.frames,
                "resident_bytes": resident, "parts": parts,
            }));
        } else if let (Some(before), Some(full), Some(after)) = (before, full, after) {
            let mebibytes = [before.now, full.now, after.now, after.most].map(|bytes| bytes >> 20);
            let [before, full, after, most] = mebibytes;
            println!("\nresident  {before} MiB before, {full} loaded, {after} after, {most} at most");
        }
        Ok(0)
    }

    fn size(&self) -> anyhow::Result<Size> {
        let within = |flag: &str, value: usize| {
            anyhow::ensure!((1..=SIZE_MAX).contains(&value), "{flag} is {value}, must be 1 to {SIZE_MAX}");
            Ok(value)
        };
        Ok(Size {
            frames: within("--frames", self.frames)?,
            question_tokens: within("--question-tokens", self.question_tokens)?,
            text_tokens: within("--text-tokens", self.text_tokens)?,
            answer_tokens: within("--answer-tokens", self.answer_tokens)?,
        })
    }

    fn parts(&self) -> Vec<Part> {
        let wanted = |part: &Part| {
            let own = match part {
                Part::Vision => Parts::Vision,
                Part::Predictor => Parts::Predictor,
                Part::Text => Parts::Text,
                Part::Decoder => Parts::Decoder,
            };
            self.part.contains(&own) || self.part.contains(&Parts::All)
        };
        Part::ALL.into_iter().filter(wanted).collect()
    }
}
