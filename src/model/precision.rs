//! How each part holds its dense weights in serving, in the words of bundles, flags and the environment.
//!
//! A part's config may name a kind; the environment overrides the bundle, a flag overrides both; what nobody names is
//! `auto`. Ternary layers stay ternary whatever is asked for. It is no part of what a model is: the space of a bundle's
//! embeddings does not depend on it.

use super::bundle::Part;
use crate::kernel::isa;
use crate::nn::linear::Dense;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How dense weights are to be held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DenseKind {
    /// `int8` where this chip multiplies bytes faster than floats, else `f32`.
    #[default]
    Auto,
    /// As trained.
    F32,
    /// Rounded to bf16, activations too; sums in f32.
    Bf16,
    /// W8A8: weights with a scale a row, activations with a scale a token.
    Int8,
}

/// A word that names no part or no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrecisionError {
    /// No such kind.
    #[error("{field} is \"{value}\", must be one of auto, f32, bf16, int8")]
    Kind {
        /// The part, or `precision` where all parts are meant.
        field: String,
        /// What it was to be.
        value: String,
    },
    /// No such part.
    #[error("part \"{0}\" is unknown, must be one of vision, predictor, text, decoder")]
    Part(String),
}

impl DenseKind {
    /// Every kind.
    pub const ALL: [DenseKind; 4] = [DenseKind::Auto, DenseKind::F32, DenseKind::Bf16, DenseKind::Int8];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            DenseKind::Auto => "auto",
            DenseKind::F32 => "f32",
            DenseKind::Bf16 => "bf16",
            DenseKind::Int8 => "int8",
        }
    }

    /// What it comes to on this machine, with the instruction set in use.
    pub fn here(self) -> Dense {
        match self {
            DenseKind::Auto if isa::current().multiplies_bytes() => Dense::Int8,
            DenseKind::Auto | DenseKind::F32 => Dense::F32,
            DenseKind::Bf16 => Dense::Bf16,
            DenseKind::Int8 => Dense::Int8,
        }
    }

    fn parse(field: &str, word: &str) -> Result<DenseKind, PrecisionError> {
        let known = DenseKind::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(word.trim()));
        known.ok_or_else(|| PrecisionError::Kind { field: field.into(), value: word.trim().into() })
    }
}

impl TryFrom<String> for DenseKind {
    type Error = PrecisionError;

    fn try_from(word: String) -> Result<DenseKind, PrecisionError> {
        DenseKind::parse("precision", &word)
    }
}

impl From<DenseKind> for String {
    fn from(kind: DenseKind) -> String {
        kind.name().into()
    }
}

/// What is asked for, part by part; nothing is said of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Precisions([Option<DenseKind>; Part::ALL.len()]);

impl Precisions {
    /// The same for every part.
    pub fn all(kind: DenseKind) -> Precisions {
        Precisions([Some(kind); Part::ALL.len()])
    }

    /// What `asked` says of each part.
    pub fn by_part(asked: impl Fn(Part) -> Option<DenseKind>) -> Precisions {
        Precisions(Part::ALL.map(asked))
    }

    /// What is asked of a part.
    pub fn of(&self, part: Part) -> Option<DenseKind> {
        self.0[part as usize]
    }

    /// These, and of what they do not speak, `others`.
    pub fn or(self, others: Precisions) -> Precisions {
        Precisions(std::array::from_fn(|part| self.0[part].or(others.0[part])))
    }
}

/// `PART=WORD,..`; a WORD alone is meant for every part, and what comes later wins.
impl FromStr for Precisions {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Precisions, PrecisionError> {
        let mut asked = Precisions::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            asked = match item.split_once('=') {
                None => Precisions::all(DenseKind::parse("precision", item)?),
                Some((name, word)) => {
                    let part = Part::ALL.into_iter().find(|part| part.name() == name.trim());
                    let part = part.ok_or_else(|| PrecisionError::Part(name.trim().into()))?;
                    asked.0[part as usize] = Some(DenseKind::parse(part.name(), word)?);
                    asked
                }
            };
        }
        Ok(asked)
    }
}

/// As it is read.
impl fmt::Display for Precisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = Part::ALL.into_iter().filter_map(|part| Some((part.name(), self.of(part)?.name())));
        let said: Vec<String> = said.map(|(part, word)| format!("{part}={word}")).collect();
        f.write_str(&said.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        text.parse::<Precisions>().map(|asked| asked.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_asked_for_is_read_part_by_part() {
        assert_eq!(read(""), Ok("".into()));
        assert_eq!(read(" vision=INT8, text = bf16 "), Ok("vision=int8,text=bf16".into()));
        assert_eq!(read("f32,decoder=auto"), Ok("vision=f32,predictor=f32,text=f32,decoder=auto".into()));
        let kind =
            |field: &str, value: &str| Err(format!("{field} is \"{value}\", must be one of auto, f32, bf16, int8"));
        assert_eq!(read("vision=int4"), kind("vision", "int4"));
        assert_eq!(read("half"), kind("precision", "half"));
        assert_eq!(
            read("eyes=f32"),
            Err("part \"eyes\" is unknown, must be one of vision, predictor, text, decoder".into())
        );
    }

    #[test]
    fn what_is_said_first_comes_before_what_is_said_of_the_rest() {
        let (flag, environment): (Precisions, Precisions) =
            ("vision=f32".parse().expect("read"), "vision=int8,text=bf16".parse().expect("read"));
        assert_eq!(flag.or(environment).to_string(), "vision=f32,text=bf16");
    }

    #[test]
    fn words_come_to_what_they_say_and_auto_to_what_the_chip_is_good_at() {
        let here = |kind: DenseKind| kind.here().name();
        assert_eq!([DenseKind::F32, DenseKind::Bf16, DenseKind::Int8].map(here), ["f32", "bf16", "int8"]);
        let fast = if isa::current().multiplies_bytes() { "int8" } else { "f32" };
        assert_eq!(here(DenseKind::Auto), fast);
    }

    #[test]
    fn a_config_names_a_kind_or_the_known_ones() {
        assert_eq!(serde_json::from_str::<DenseKind>("\"bf16\"").expect("known"), DenseKind::Bf16);
        let error = serde_json::from_str::<DenseKind>("\"fp8\"").expect_err("unknown").to_string();
        assert!(error.starts_with("precision is \"fp8\", must be one of auto, f32, bf16, int8"), "{error}");
        assert_eq!(serde_json::to_string(&DenseKind::Int8).expect("a word"), "\"int8\"");
    }
}
