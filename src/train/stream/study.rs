//! The whole experiment: streams are looked at, what they say is scored for every way and rate, and the figures of interest
//! are read from the curves.

use std::ops::Range;

use super::choose::{Chosen, Ground, KEPT, choose};
use super::curve::{Curve, Point, Way};
use super::recording::{Recording, View};
use super::score::{Score, Scorer};
use super::separation::Separation;
use super::ways::{Said, uniform, ward};
use super::words::{Voice, Words};
use crate::train::data::{EVALUATION, Edges, mix};
use crate::train::evaluate::{EvaluateError, Subject, spans};
use crate::train::step::each;
use crate::train::world::{Config, Event, Family, Pairs, Phrasings, StreamConfig, World};

/// What is measured.
#[derive(Debug, Clone)]
pub struct StudySettings {
    /// Streams that are scored.
    pub streams: usize,
    /// Other streams, on which the causal rule's figures are chosen.
    pub validation: usize,
    /// Which streams; any number.
    pub seed: u64,
    /// What they look like.
    pub config: StreamConfig,
    /// Which phrasings of "describe the clip" are used, one a stream.
    pub phrasings: Phrasings,
    /// Which colour-shape pairs occur.
    pub pairs: Pairs,
    /// How they are looked at.
    pub view: View,
    /// Threads.
    pub threads: usize,
}

/// Two ways at equal quality.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Ratio {
    /// CIDEr.
    pub quality: f64,
    /// That as a share of the quality of decoding every embedding.
    pub share: f64,
    /// Least rate of uniform decoding that has it, decodes a second.
    pub uniform_hz: Option<f64>,
    /// Least rate of Ward's segments, the better of middle and mean.
    pub ward_hz: Option<f64>,
    /// Least rate of the causal rule.
    pub gate_hz: Option<f64>,
}

/// What a voice comes to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct VoiceReport {
    /// Who speaks.
    pub voice: Voice,
    /// Every embedding decoded.
    pub all: Point,
    /// Share of events whose caption is said by any window within.
    pub ceiling: f64,
    /// Quality against rate.
    pub curves: Vec<Curve>,
    /// At equal quality: shares of the quality of decoding everything, and last the quality of uniform decoding at 1 Hz.
    pub ratios: Vec<Ratio>,
    /// Least rates that keep [`KEPT`] of the quality of decoding everything.
    pub kept: Ratio,
    /// The causal rule that was chosen, on the streams that are scored.
    pub chosen: Point,
}

/// The outcome.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Study {
    /// Streams that were scored.
    pub streams: usize,
    /// Their length, seconds.
    pub seconds: f64,
    /// Windows of them.
    pub windows: usize,
    /// Stretches of them.
    pub stretches: usize,
    /// Events among these.
    pub events: usize,
    /// Captions that the nearest was chosen from.
    pub candidates: usize,
    /// The causal rule, as it was chosen on other streams.
    #[serde(serialize_with = "as_rule")]
    pub rule: Chosen,
    /// By who speaks; the decoder first if there is one.
    pub voices: Vec<VoiceReport>,
    /// How well distances tell cuts and events.
    pub separation: Separation,
    /// The same with a predictor that has learnt nothing.
    pub untrained: Option<Separation>,
}

/// Steps of uniform decoding, windows.
const STEPS: [usize; 20] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100, 140, 200];
/// Where a uniform clock may begin; what it comes to is the mean.
const PHASES: usize = 8;
/// Qualities at which ways are compared, as shares of decoding everything.
const SHARES: [f64; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];
/// Seeds of the streams that are scored, and of those that the rule is chosen on.
const SETS: [u64; 2] = [0x5c0_7ed, 0xc40_5e9];

/// Measures a model, and beside it one whose predictor has learnt nothing. At least one stream of each kind is made.
pub fn study(
    subject: &dyn Subject,
    untrained: Option<&dyn Subject>,
    edges: &Edges,
    settings: &StudySettings,
) -> Result<Study, EvaluateError> {
    let [scored, others] = SETS;
    let rule = {
        let recordings = record(subject, edges, settings, others, settings.validation.max(1))?;
        let mut ground = Ground::new(subject, edges, &recordings, settings.threads)?;
        let voice = ground.words.voices()[0];
        let all = ground.uniform(1, voice)?;
        choose(&mut ground, voice, all.score.cider)?
    };
    let recordings = record(subject, edges, settings, scored, settings.streams.max(1))?;
    let mut ground = Ground::new(subject, edges, &recordings, settings.threads)?;
    let mut voices = Vec::new();
    for &voice in ground.words.voices() {
        voices.push(ground.report(voice, &rule)?);
    }
    let stretches = || recordings.iter().flat_map(|recording| &recording.annotations);
    let untrained = untrained.map(|subject| record(subject, edges, settings, scored, recordings.len())).transpose()?;
    Ok(Study {
        streams: recordings.len(),
        seconds: ground.seconds(),
        windows: recordings.iter().map(|recording| recording.rows.len()).sum(),
        stretches: stretches().count(),
        events: stretches().filter(|stretch| stretch.event != Event::Nothing).count(),
        candidates: ground.words.candidates(),
        rule,
        voices,
        separation: Separation::of(&recordings),
        untrained: untrained.map(|recordings| Separation::of(&recordings)),
    })
}

/// Looks at the streams of a set, over threads.
fn record(
    subject: &dyn Subject,
    edges: &Edges,
    settings: &StudySettings,
    set: u64,
    count: usize,
) -> Result<Vec<Recording>, EvaluateError> {
    let world = World::new(Config { pairs: settings.pairs, ..Config::default() });
    let set = mix(settings.seed ^ mix(set));
    let one = |number: u64| {
        let seed = mix(set ^ number) | EVALUATION;
        let stream = world.stream(seed, &settings.config);
        let question = world.clip_for(Family::Describe, settings.phrasings, seed).1.question;
        Recording::make(subject, &edges.preprocessor, &stream, &edges.question(&question)?, &settings.view)
    };
    let shards = spans(count, settings.threads);
    let made = each(shards, |_, span: Range<usize>| span.map(|i| one(i as u64)).collect::<Result<Vec<_>, _>>())?;
    Ok(made.into_iter().flatten().collect())
}

impl<'r> Ground<'r, 'r> {
    /// Of recordings, with all windows put into words.
    pub fn new(
        subject: &'r dyn Subject,
        edges: &Edges,
        recordings: &'r [Recording],
        threads: usize,
    ) -> Result<Self, EvaluateError> {
        let mut words = Words::new(subject, edges, recordings, threads)?;
        words.make(&recordings.iter().map(|recording| uniform(recording, 1, 0)).collect::<Vec<_>>())?;
        Ok(Self { recordings, words, scorer: Scorer::new(recordings) })
    }

    /// Uniform decoding, the mean over where its clock may begin.
    fn uniform(&mut self, step: usize, voice: Voice) -> Result<Point, EvaluateError> {
        let recordings = self.recordings;
        let phases = step.min(PHASES);
        let mut points = Vec::new();
        for phase in 0..phases {
            let first = phase * step / phases;
            let spots: Vec<_> = recordings.iter().map(|recording| uniform(recording, step, first)).collect();
            points.push(self.point(&spots, voice, None)?);
        }
        let scores: Vec<Score> = points.iter().map(|point| point.score).collect();
        let rate_hz = points.iter().map(|point| point.rate_hz).sum::<f64>() / phases as f64;
        Ok(Point { rate_hz, threshold: None, score: Score::mean(&scores) })
    }

    /// Ward's segments, so many a second.
    fn ward(&mut self, rate_hz: f64, said: Said, voice: Voice) -> Result<Point, EvaluateError> {
        let segments = |recording: &Recording| {
            let wanted = rate_hz * recording.duration_ms as f64 / 1000.0;
            (wanted.round() as usize).clamp(1, recording.rows.len().max(1))
        };
        let recordings = self.recordings;
        let spots: Vec<_> = recordings.iter().map(|recording| ward(recording, segments(recording), said)).collect();
        self.point(&spots, voice, None)
    }

    fn report(&mut self, voice: Voice, rule: &Chosen) -> Result<VoiceReport, EvaluateError> {
        let steady = STEPS.map(|step| self.uniform(step, voice)).into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut clustered = [Vec::new(), Vec::new()];
        for (points, said) in clustered.iter_mut().zip([Said::One, Said::Mean]) {
            for point in &steady {
                points.push(self.ward(point.rate_hz, said, voice)?);
            }
        }
        let [middle, mean] = clustered;
        let curves = vec![
            Curve::new(Way::Uniform, voice, steady.clone()),
            Curve::new(Way::WardMiddle, voice, middle),
            Curve::new(Way::WardMean, voice, mean),
            self.gate_curve(rule.policy, rule.said, voice)?,
        ];
        let recordings = self.recordings;
        let spots: Vec<_> =
            recordings.iter().map(|recording| super::ways::gate(recording, rule.policy, rule.said)).collect();
        let chosen = self.point(&spots, voice, Some(rule.policy.threshold))?;
        let all = steady[0];
        let per_second = 1000.0 / self.stride_ms();
        let one_hz = STEPS.iter().position(|&step| step as f64 >= per_second).unwrap_or(0);
        let qualities = SHARES.iter().map(|share| share * all.score.cider).chain([steady[one_hz].score.cider]);
        let ratio = |quality| Ratio::of(&curves, quality, all.score.cider);
        Ok(VoiceReport {
            voice,
            all,
            ceiling: self.scorer.ceiling(&self.words, voice),
            ratios: qualities.map(ratio).collect(),
            kept: ratio(KEPT * all.score.cider),
            curves,
            chosen,
        })
    }

    /// From one window to the next.
    fn stride_ms(&self) -> f64 {
        let pair = self.recordings.iter().find_map(|recording| recording.windows.get(..2));
        pair.map_or(1000.0, |pair| (pair[1][0] - pair[0][0]).max(1) as f64)
    }
}

impl Ratio {
    fn of(curves: &[Curve], quality: f64, all: f64) -> Ratio {
        let least = |ways: &[Way]| {
            let rates = curves.iter().filter(|curve| ways.contains(&curve.way)).filter_map(|c| c.rate_for(quality));
            rates.reduce(f64::min)
        };
        Ratio {
            quality,
            share: if all > 0.0 { quality / all } else { 0.0 },
            uniform_hz: least(&[Way::Uniform]),
            ward_hz: least(&[Way::WardMiddle, Way::WardMean]),
            gate_hz: least(&[Way::Gate]),
        }
    }
}

/// The rule with its figures by name.
fn as_rule<S: serde::Serializer>(chosen: &Chosen, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct;
    let Chosen { policy, said, point } = chosen;
    let mut rule = serializer.serialize_struct("rule", 10)?;
    rule.serialize_field("reference", &format!("{:?}", policy.reference).to_lowercase())?;
    rule.serialize_field("threshold", &policy.threshold)?;
    rule.serialize_field("calm", &policy.calm)?;
    rule.serialize_field("unsettled_max_ms", &policy.unsettled_max_ms)?;
    rule.serialize_field("smoothing", &policy.smoothing)?;
    rule.serialize_field("gap_min_ms", &policy.gap_min_ms)?;
    rule.serialize_field("silence_max_ms", &policy.silence_max_ms)?;
    rule.serialize_field("per_minute_max", &policy.per_minute_max)?;
    rule.serialize_field("said", said)?;
    rule.serialize_field("on_other_streams", point)?;
    rule.end()
}
