//! `verify`: does this checkpoint, computed here, give what was recorded for it elsewhere?
//!
//! People who convert checkpoints live by the answer, so it is made from the file: every name in the golden file is either an
//! input, a stage that is computed and compared, or listed as not checked. Sizes, counts of layers, clips and cases come from
//! names and shapes. One file a kind of part; `compare.rs` alone decides what agrees.

mod bitlinear;
mod compare;
mod decoder;
mod drift;
mod files;
mod golden;
mod stream;
mod text;
mod trial;
mod vision;
mod whole;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use compare::{Stage, Tolerance, Unit};
pub use drift::{Drift, drift};

use crate::nn::cause;
use crate::nn::weights::WeightsError;
use golden::Golden;
use trial::Trial;

/// Why a verification could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Something is wrong with a file: which one, and what about it.
    #[error("{}: {what}", file.display())]
    File {
        /// The file or folder.
        file: PathBuf,
        /// What is wrong, with the name of the tensor or field.
        what: String,
    },
    /// The weights are not those that the config speaks of.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A stage could not be computed at all.
    #[error("a stage cannot be computed: {}", cause(.0))]
    Compute(#[from] candle_core::Error),
}

impl VerifyError {
    fn new(file: &Path, what: impl fmt::Display) -> VerifyError {
        VerifyError::File { file: file.to_path_buf(), what: what.to_string() }
    }
}

/// What came of a verification.
#[derive(Debug, Serialize)]
pub struct Report {
    /// A row for each comparison.
    pub stages: Vec<Stage>,
    /// Names in the golden file that no check knows or that these weights cannot give.
    pub not_checked: Vec<String>,
}

impl Report {
    /// Whether something was compared and all of it agreed.
    pub fn ok(&self) -> bool {
        !self.stages.is_empty() && self.stages.iter().all(|stage| stage.ok)
    }
}

/// Compares what the checkpoint in `dir` computes with what `golden` (a file or folder; `dir` itself if none is named) holds.
///
/// In f32, whatever serving would do: the bounds are those of f32. [`drift`] tells what another precision changes.
/// `dir` is one part in Hugging Face layout, a whole model, or a folder that holds recorded tensors only.
pub fn verify(dir: &Path, golden: Option<&Path>) -> Result<Report, VerifyError> {
    let mut trial = Trial::new(Golden::open(golden.unwrap_or(dir))?);
    examine(&mut trial, dir)?;
    Ok(trial.report())
}

/// Runs every check that the files in `dir` and the recorded names ask for.
fn examine(trial: &mut Trial, dir: &Path) -> Result<(), VerifyError> {
    let kind = files::model_type(dir)?;
    match kind.as_deref() {
        Some("vjepa2") => vision::check(trial, dir)?,
        Some("gemma3_text" | "bert") => text::check(trial, dir)?,
        Some("llama" | "bitnet") => decoder::check(trial, dir)?,
        Some("vl_jepa" | "vljepa") => whole::check(trial, dir)?,
        Some(other) => {
            let known = "vjepa2, gemma3_text, bert, llama, bitnet, vl_jepa";
            let what = format!("model_type is \"{other}\", must be one of {known}");
            return Err(VerifyError::new(&dir.join("config.json"), what));
        }
        None if !files::files(dir, files::MODEL)?.is_empty() => {
            return Err(VerifyError::new(&dir.join("config.json"), "is missing, and the weights beside it need it"));
        }
        None => {}
    }
    vision::check_preprocessing(trial, dir)?;
    bitlinear::check_cases(trial)?;
    stream::check(trial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Error;
    use std::backtrace::Backtrace;

    #[test]
    fn what_cannot_be_computed_is_told_without_a_stack_trace() {
        let (inner, backtrace) = (Box::new(Error::Msg("rows differ".into())), Box::new(Backtrace::force_capture()));
        let error = VerifyError::from(Error::WithBacktrace { inner, backtrace });
        assert_eq!(error.to_string(), "a stage cannot be computed: rows differ");
    }
}
