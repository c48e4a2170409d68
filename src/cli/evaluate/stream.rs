//! `vljepa evaluate stream`: how much of long streams is said at which decode rate, by the ways of choosing what is put into
//! words.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Pairing, Wording};
use crate::cli::bundle::BundleArgs;
use crate::cli::chart::{Axis, Chart, Line, Scale};
use crate::cli::{side, threads_or_cores, waiting};
use crate::input::Windows;
use crate::model::bundle::Bundle;
use crate::model::vl_jepa::VlJepa;
use crate::settings::Settings;
use crate::train::data::Edges;
use crate::train::parts::Parts;
use crate::train::stream::{Curve, Study, StudySettings, View, Voice, study};
use crate::train::subjects::{Bundled, InTraining};
use crate::train::world::StreamConfig;

/// The embeddings of all streams are held at once.
const STREAMS_MAX: usize = 500;
/// Pixels.
const CHART: (u32, u32) = (900, 500);

/// Measures selective decoding: what is said of long streams at which decode rate, by uniform decoding, by Ward's segments
/// and by the causal rule of `vljepa watch`, whose figures are chosen on streams of their own.
#[derive(Debug, clap::Args)]
pub(super) struct StreamExam {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Streams of three to six minutes that are scored; as many others are for choosing.
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Which streams.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Which wordings of "describe the clip".
    #[arg(long, value_enum, default_value_t = Wording::HeldOut)]
    phrasings: Wording,
    /// Which colour-shape pairs.
    #[arg(long, value_enum, default_value_t = Pairing::Train)]
    pairs: Pairing,
    /// Longest stream, seconds; the shortest is half as long.
    #[arg(long, default_value_t = 360, value_name = "SECONDS")]
    longest: u64,
    /// Threads; absent: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Draw quality against decode rate, as PNG.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

impl StreamExam {
    /// Runs the command.
    pub(super) fn run(&self, settings: &Settings) -> anyhow::Result<()> {
        let Self { streams, longest, .. } = *self;
        anyhow::ensure!((1..=STREAMS_MAX).contains(&streams), "--streams is {streams}, must be 1 to {STREAMS_MAX}");
        anyhow::ensure!((30..=3600).contains(&longest), "--longest is {longest}, must be 30 to 3600 seconds");
        let threads = threads_or_cores(self.threads)?;
        if let Some(file) = &self.chart {
            // before minutes of work, not after
            writable(file)?;
        }
        let bundle = self.bundle.open(settings)?;
        let model = VlJepa::load(&bundle)?;
        let edges = Edges::of(&bundle)?;
        let watched = crate::watch::View::default();
        let stand_in = untrained(&bundle, self.seed)?;
        let asked = StudySettings {
            streams,
            validation: streams,
            seed: self.seed,
            config: StreamConfig { duration_ms: [500 * longest, 1000 * longest], ..StreamConfig::default() },
            phrasings: self.phrasings.into(),
            pairs: self.pairs.into(),
            view: View {
                windows: Windows { window_ms: watched.window_ms, stride_ms: watched.stride_ms },
                side: side("vision.crop_size", bundle.config.vision.crop_size)?,
            },
            threads,
        };
        let spinner = waiting("looking at streams");
        let control = InTraining { parts: &stand_in, edges: &edges };
        let study = study(&Bundled { model: &model }, Some(&control), &edges, &asked);
        spinner.finish_and_clear();
        let study = study?;
        if let Some(file) = &self.chart {
            let png = chart(&study).png(CHART.0, CHART.1)?;
            std::fs::write(file, png).with_context(|| format!("--chart {}", file.display()))?;
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&study)?);
        } else {
            println!("{}: wordings {:?}, pairs {:?}, seed {}\n", bundle.name, self.phrasings, self.pairs, self.seed);
            print!("{study}");
        }
        Ok(())
    }
}

/// The bundle's parts, but with a predictor that has learnt nothing.
fn untrained(bundle: &Bundle, seed: u64) -> anyhow::Result<Parts> {
    let parts = Parts::from_bundle(bundle, seed)?;
    let mut fresh = Parts::fresh(&bundle.config, seed)?.tensors();
    fresh.retain(|name, _| name.starts_with("predictor."));
    parts.restore(&fresh)?;
    Ok(parts)
}

/// Fails where a file cannot be written; changes nothing.
fn writable(file: &Path) -> anyhow::Result<()> {
    let told = || format!("--chart {}", file.display());
    let there = file.exists();
    std::fs::OpenOptions::new().append(true).create(true).open(file).with_context(told)?;
    if there { Ok(()) } else { std::fs::remove_file(file).with_context(told) }
}

/// CIDEr against the decode rate, for the voice that counts.
fn chart(study: &Study) -> Chart {
    let Some(report) = study.voices.first() else { return Chart::default() };
    let line = |curve: &Curve| Line {
        label: curve.way.name().to_owned(),
        points: curve.points.iter().map(|point| (point.rate_hz, point.score.cider)).collect(),
        dots: true,
    };
    let speaker = match report.voice {
        Voice::Decoder => "the decoder",
        Voice::Nearest => "the nearest caption",
    };
    Chart {
        title: format!("what is said of {} streams by {speaker}", study.streams),
        x: Axis { label: "decodes a second".into(), scale: Scale::Log },
        y: Axis { label: "CIDEr-D".into(), scale: Scale::Linear },
        lines: report.curves.iter().map(line).collect(),
        marks: vec![report.chosen.rate_hz],
        mark_label: "the rule as chosen".into(),
    }
}
