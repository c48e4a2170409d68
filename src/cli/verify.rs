//! `vljepa verify DIR [GOLDEN]`: does a checkpoint, computed here, give what was recorded for it elsewhere?
//!
//! With `--precision` the other side of the comparison is the same checkpoint in f32.
//!
//! Exit status 0: everything that was compared agrees; 1: a stage is out, or nothing was compared; 2: a file cannot be read.

use std::fmt::Write;
use std::path::PathBuf;

use crate::model::precision::Precisions;
use crate::model::verify::{Drift, Report, Stage, drift, verify};

/// Compares a checkpoint's stages with recorded tensors.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// One part in Hugging Face layout, a whole bundle, or a folder that holds recorded tensors only
    dir: PathBuf,
    /// Recorded inputs and stages: a safetensors file, or a folder with io.safetensors [default: DIR]
    golden: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Compare with the same checkpoint in f32 instead, token by token: what is lost where parts (vision, predictor, text,
    /// decoder) hold their dense weights as f32, bf16, int8 or auto; parts that are not named stay f32.
    #[arg(long, value_name = "PART=WORD,..")]
    precision: Option<Precisions>,
}

impl Verify {
    /// Prints the report and returns the exit status.
    pub(super) fn run(self) -> anyhow::Result<i32> {
        if let Some(asked) = self.precision {
            return self.drift(asked);
        }
        let report = match verify(&self.dir, self.golden.as_deref()) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("error: {error}");
                return Ok(2);
            }
        };
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&json(&report))?),
            false => print!("{}", table(&report)),
        }
        Ok(if report.ok() { 0 } else { 1 })
    }

    /// Prints what the asked precisions change; 0 if all of it could be compared.
    fn drift(&self, asked: Precisions) -> anyhow::Result<i32> {
        let drifts = match drift(&self.dir, self.golden.as_deref(), asked) {
            Ok(drifts) => drifts,
            Err(error) => {
                eprintln!("error: {error}");
                return Ok(2);
            }
        };
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&drifts)?),
            false => print!("{}", drift_table(&drifts)),
        }
        let compared = !drifts.is_empty() && drifts.iter().all(|drift| drift.least.is_finite());
        Ok(if compared { 0 } else { 1 })
    }
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "ok": report.ok(),
        "checked": report.stages.len(),
        "out": report.stages.iter().filter(|stage| !stage.ok).count(),
        "stages": report.stages,
        "not_checked": report.not_checked,
    })
}

/// A row a stage, then what was not checked, then the sum.
fn table(report: &Report) -> String {
    let names = report.stages.iter().map(|stage| stage.name.len());
    let width = names.max().unwrap_or(0).max("stage".len());
    let mut text = String::new();
    let mut line = |cells: [&str; 6]| {
        let [name, shape, diff, cosine, tolerance, verdict] = cells;
        let row = format!("{name:width$}  {shape:>14}  {diff:>12}  {cosine:>12}  {tolerance:<28}  {verdict}");
        writeln!(text, "{}", row.trim_end()).expect("a string takes every line");
    };
    if !report.stages.is_empty() {
        line(["stage", "shape", "max|diff|/rms", "cosine", "tolerance", "ok"]);
    }
    for stage in &report.stages {
        let shape = stage.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let (diff, cosine) = (format!("{:.1e}", stage.max_over_rms), format!("{:.9}", stage.cosine));
        line([&stage.name, &shape, &diff, &cosine, &stage.tolerance.to_string(), &verdict(stage)]);
    }
    for name in &report.not_checked {
        line([name, "", "", "", "", "not checked"]);
    }
    let out = report.stages.iter().filter(|stage| !stage.ok).count();
    let sum = (report.stages.len(), out, report.not_checked.len());
    text + &format!("{} stages checked, {} out of tolerance, {} names not checked\n", sum.0, sum.1, sum.2)
}

/// A row a stage that leaves a part; those in between are in the JSON.
fn drift_table(drifts: &[Drift]) -> String {
    let between = |stage: &str| {
        stage.rsplit('.').next().is_some_and(|last| {
            let last = last.trim_end_matches("_all").trim_end_matches("_query");
            last.ends_with(|end: char| end.is_ascii_digit())
        })
    };
    let shown: Vec<&Drift> = drifts.iter().filter(|drift| !between(&drift.stage)).collect();
    let width = shown.iter().map(|drift| drift.stage.len()).max().unwrap_or(0).max("stage".len());
    let head = format!(
        "{:<10} {:<9} {:width$} {:>7} {:>11} {:>11}\n",
        "part", "precision", "stage", "tokens", "least cos", "mean cos"
    );
    shown.iter().fold(head, |text, Drift { part, precision, stage, tokens, least, mean }| {
        text + &format!("{part:<10} {precision:<9} {stage:width$} {tokens:>7} {least:>11.7} {mean:>11.7}\n")
    })
}

fn verdict(stage: &Stage) -> String {
    match (&stage.note, stage.ok) {
        (_, true) => "ok".into(),
        (Some(note), false) => format!("OUT: {note}"),
        (None, false) => "OUT".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn stream() -> Report {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/vljepa_tiny/stream.safetensors");
        verify(&golden, None).expect("the recording opens")
    }

    #[test]
    fn the_table_has_a_row_a_stage_and_a_sum() {
        let mut report = stream();
        let rows = report.stages.len();
        report.not_checked.push("a.new.stage".into());
        let text = table(&report);
        assert_eq!(text.lines().count(), rows + 3, "a head, the rows, one that is not checked, the sum");
        assert!(text.contains("a.new.stage") && text.contains("not checked"));
        assert!(text.ends_with(&format!("{rows} stages checked, 0 out of tolerance, 1 names not checked\n")));
    }

    #[test]
    fn a_stage_that_is_out_says_why_in_both_forms() {
        let mut report = stream();
        report.stages[0].ok = false;
        report.stages[0].note = Some("3 of 7 values are out".into());
        assert!(table(&report).contains("OUT: 3 of 7 values are out"));
        let json = json(&report);
        assert_eq!((&json["ok"], &json["out"]), (&false.into(), &1.into()));
        assert_eq!(json["stages"][0]["note"], "3 of 7 values are out");
    }
}
