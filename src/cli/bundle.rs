//! Which bundle a command computes with, and in which precision: the options that such commands share.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;

use crate::model::bundle::Bundle;
use crate::model::precision::Precisions;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(super) struct BundleArgs {
    /// Bundle directory; the built-in model if not given.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    precision: PrecisionArgs,
}

impl BundleArgs {
    /// Opens the bundle, the built-in one if none is named.
    pub(super) fn open(&self, settings: &Settings) -> anyhow::Result<Bundle> {
        let bundle = match &self.bundle {
            Some(directory) => Bundle::open(directory)?,
            None => Bundle::bundled()?,
        };
        Ok(bundle.with_precisions(self.precision.asked(settings)?))
    }
}

/// The bundles of a server.
#[derive(Debug, clap::Args)]
pub(super) struct BundlesArgs {
    /// Bundle directory, served under its own name or the one given; may be repeated. The first answers requests that
    /// name no model. The built-in model if none is given.
    #[arg(long = "bundle", value_name = "[NAME=]DIR")]
    bundles: Vec<NamedBundle>,
    #[command(flatten)]
    precision: PrecisionArgs,
}

/// `DIR` or `NAME=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedBundle {
    name: Option<String>,
    directory: PathBuf,
}

impl FromStr for NamedBundle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            // A path may have an equals sign as well.
            Some((name, directory)) if !name.contains('/') => match (name, directory) {
                ("", _) => Err("has no name before the =".into()),
                (_, "") => Err("has no directory after the =".into()),
                _ => Ok(Self { name: Some(name.into()), directory: directory.into() }),
            },
            _ => Ok(Self { name: None, directory: text.into() }),
        }
    }
}

impl BundlesArgs {
    /// Opens all of them, each with the name to serve it under.
    pub(super) fn open(&self, settings: &Settings) -> anyhow::Result<Vec<(String, Bundle)>> {
        let precision = self.precision.asked(settings)?;
        let opened = |NamedBundle { name, directory }: &NamedBundle| {
            let bundle = Bundle::open(directory).with_context(|| format!("--bundle {}", directory.display()))?;
            Ok((name.clone().unwrap_or_else(|| bundle.name.clone()), bundle.with_precisions(precision)))
        };
        if self.bundles.is_empty() {
            let bundle = Bundle::bundled()?.with_precisions(precision);
            return Ok(vec![(bundle.name.clone(), bundle)]);
        }
        let bundles = self.bundles.iter().map(opened).collect::<anyhow::Result<Vec<_>>>()?;
        for (at, (name, _)) in bundles.iter().enumerate() {
            let taken = bundles[..at].iter().any(|(before, _)| before == name);
            anyhow::ensure!(
                !taken,
                "two bundles are called {name:?}: --bundle NAME={}",
                self.bundles[at].directory.display()
            );
        }
        Ok(bundles)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct PrecisionArgs {
    /// How parts (vision, predictor, text, decoder) hold their dense weights: f32, bf16, int8 or auto, which is int8
    /// where the chip is good at it, else f32; a WORD alone is for all parts. Ternary layers stay ternary.
    #[arg(long, value_name = "PART=WORD,..")]
    precision: Option<Precisions>,
}

impl PrecisionArgs {
    /// What is asked for: the flag before the setting.
    pub(super) fn asked(&self, settings: &Settings) -> anyhow::Result<Precisions> {
        let set = settings.model.precision.as_deref().unwrap_or_default().parse().context("model.precision")?;
        Ok(self.precision.unwrap_or_default().or(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_may_have_a_name_and_its_path_an_equals_sign() {
        let read = |text: &str| text.parse::<NamedBundle>().map(|NamedBundle { name, directory }| (name, directory));
        assert_eq!(read("a/b"), Ok((None, "a/b".into())));
        assert_eq!(read("one=a/b=c"), Ok((Some("one".into()), "a/b=c".into())));
        assert_eq!(read("./a=b"), Ok((None, "./a=b".into())));
        assert!(read("=a").is_err() && read("a=").is_err());
    }
}
