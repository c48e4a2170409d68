//! Which bundle a command computes with, and in which precision: the options that such commands share.

use std::path::PathBuf;

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
