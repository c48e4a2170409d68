//! What a run writes for a reader: `metrics.csv`, a line every few steps, and `accuracy.csv`, a line a family at
//! every validation. A resumed run cuts off the lines after its checkpoint and goes on.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::checkpoint::Place;
use super::step::Terms;

/// The columns of `metrics.csv` after stage and step; a stage that has no such number leaves the field empty.
pub const COLUMNS: [&str; 15] = [
    "loss",
    "info_nce",
    "spread",
    "dense",
    "words",
    "batch_accuracy",
    "token_colour",
    "token_shape",
    "token_motion",
    "token_size",
    "scale",
    "rate",
    "gradient_norm",
    "questions_per_second",
    "steps_per_second",
];

/// The two files of a run.
pub struct Metrics {
    steps: PathBuf,
    families: PathBuf,
}

impl Metrics {
    /// The files in `directory`; what they hold from `place` on is dropped.
    pub fn open(directory: &Path, place: Place) -> io::Result<Metrics> {
        fs::create_dir_all(directory)?;
        let metrics = Metrics { steps: directory.join("metrics.csv"), families: directory.join("accuracy.csv") };
        begin(&metrics.steps, &format!("stage,step,{}", COLUMNS.join(",")), place)?;
        begin(&metrics.families, "stage,step,family,questions,accuracy,majority,closest", place)?;
        Ok(metrics)
    }

    /// Adds a line of `metrics.csv`.
    pub fn step(&self, place: Place, terms: &Terms) -> io::Result<()> {
        let field = |name: &&str| terms.get(name).map_or(String::new(), |value| format!("{value:.6}"));
        let fields: Vec<String> = COLUMNS.iter().map(field).collect();
        append(&self.steps, &format!("{},{},{}", place.stage, place.step, fields.join(",")))
    }

    /// Adds a line of `accuracy.csv`; `fields` are those after stage and step.
    pub fn family(&self, place: Place, fields: &str) -> io::Result<()> {
        append(&self.families, &format!("{},{},{fields}", place.stage, place.step))
    }
}

fn begin(file: &Path, header: &str, place: Place) -> io::Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    let before = |line: &&str| {
        let mut numbers = line.split(',').map(str::parse::<u64>);
        let (Some(Ok(stage)), Some(Ok(step))) = (numbers.next(), numbers.next()) else { return false };
        (stage, step) <= (place.stage as u64, place.step)
    };
    let kept = old.lines().filter(before).map(|line| format!("{line}\n")).collect::<String>();
    fs::write(file, format!("{header}\n{kept}"))
}

fn append(file: &Path, line: &str) -> io::Result<()> {
    writeln!(OpenOptions::new().append(true).create(true).open(file)?, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_drops_what_it_does_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |step| Place { stage: 0, step, seed: 0 };
        let metrics = Metrics::open(directory.path(), at(0)).expect("new files");
        for step in 1..=3 {
            metrics.step(at(step), &Terms::from([("loss", step as f32)])).expect("a line");
        }
        Metrics::open(directory.path(), at(2)).expect("the same files");
        let text = fs::read_to_string(directory.path().join("metrics.csv")).expect("a file");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("stage,step,loss") && lines[2].starts_with("0,2,2.000000"), "{text}");
    }
}
