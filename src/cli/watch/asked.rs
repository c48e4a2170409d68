//! What is asked of a stream, from the command line: questions, windows, and when an embedding becomes words.

use anyhow::ensure;

use super::ward::Cut;
use crate::cli::job::milliseconds;
use crate::engine::Manner;
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::segment::Policy;
use crate::settings::Settings;
use crate::watch::{Decode, Drops, Query, Spec, View};

/// Largest mean difference of two pictures, levels.
const LEVELS: f32 = 255.0;
/// Time between two decodes at a uniform rate unless another is asked for.
const EVERY_MS: u64 = 1000;
/// Most segments that a recording is cut into, and most a minute.
const SEGMENTS_MAX: usize = 100_000;
const RATE_MAX: f64 = 6000.0;

#[derive(Debug, clap::Args)]
pub(super) struct Asked {
    /// A question; may be repeated, all share one look at the frames.
    #[arg(long = "ask", value_name = "QUESTION", required = true)]
    ask: Vec<String>,
    /// Answers to choose from, separated by commas: given once they are for every question, else once a question in turn
    /// (an empty one lets the decoder speak). Without them the decoder answers in its own words.
    #[arg(long, value_name = "A,B,C")]
    choices: Vec<String>,
    /// When an embedding becomes words.
    #[arg(long, value_enum, default_value_t = Mode::Drift)]
    decode: Mode,
    /// drift: cosine distance to the running segment, 0 to 2, above which the meaning has changed.
    #[arg(long, value_name = "X")]
    threshold: Option<f64>,
    /// drift: distance of two consecutive embeddings, 0 to 2, below which the stream is calm and words are made; 0 does
    /// not wait for calm.
    #[arg(long, value_name = "X")]
    calm: Option<f64>,
    /// drift: time after which words are made of a change although the stream is not calm.
    #[arg(long, value_name = "TIME", value_parser = time_or_zero)]
    unsettled_max: Option<u64>,
    /// drift: weight of the past in what is compared, 0 to 0.99.
    #[arg(long, value_name = "X")]
    smoothing: Option<f64>,
    /// drift: time that passes at least between two decodes of a question; 0 is none.
    #[arg(long, value_name = "TIME", value_parser = time_or_zero)]
    gap_min: Option<u64>,
    /// drift: time after which a question is put into words although nothing has changed; 0 is never.
    #[arg(long, value_name = "TIME", value_parser = time_or_zero)]
    silence_max: Option<u64>,
    /// drift: the most decodes of a question in any minute of the stream; 0 is no bound.
    #[arg(long, value_name = "N")]
    per_minute_max: Option<u32>,
    /// uniform: time between two decodes [default: 1s].
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    every: Option<u64>,
    /// ward: how many segments each question's stream is cut into.
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    segments: Option<usize>,
    /// ward: how many segments a minute [default: 6].
    #[arg(long, value_name = "PER_MINUTE")]
    rate: Option<f64>,
    /// Length of a window.
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "2s")]
    window: u64,
    /// Time from the beginning of one window to that of the next [default: a quarter of the window].
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    stride: Option<u64>,
    /// How many frames of a window the model looks at; as many as it was made for if not given.
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Mean difference of two pictures, 0 to 255 levels, up to which they are the same and nothing is computed.
    #[arg(long, value_name = "LEVELS", default_value_t = View::default().still)]
    still: f32,
}

/// When an embedding becomes words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// When the meaning has changed, at once.
    Drift,
    /// When all has been seen: the stream is cut into segments, and each is put into words.
    Ward,
    /// Again and again, after the same time.
    Uniform,
    /// Never; only drift is shown.
    Never,
}

/// What becomes of it.
pub(super) struct Plan {
    pub spec: Spec,
    /// The cut at the end, if that is asked for.
    pub cut: Option<Cut>,
}

impl Asked {
    /// Fails where what is asked for cannot be meant, with flag, value and bound.
    pub fn plan(&self, drops: Drops, settings: &Settings) -> anyhow::Result<Plan> {
        self.check_modes()?;
        let view = self.view(settings)?;
        let (decode, cut) = match self.decode {
            Mode::Drift => (Decode::Drift(self.policy()?), None),
            Mode::Uniform => (Decode::Uniform { every_ms: self.every.unwrap_or(EVERY_MS) }, None),
            Mode::Never => (Decode::Never, None),
            Mode::Ward => (Decode::Never, Some(self.cut()?)),
        };
        Ok(Plan { spec: Spec { queries: self.queries(settings)?, view, decode, drops }, cut })
    }

    /// A flag of another mode would silently do nothing.
    fn check_modes(&self) -> anyhow::Result<()> {
        let flags = [
            ("--threshold", Mode::Drift, self.threshold.is_some()),
            ("--calm", Mode::Drift, self.calm.is_some()),
            ("--unsettled-max", Mode::Drift, self.unsettled_max.is_some()),
            ("--smoothing", Mode::Drift, self.smoothing.is_some()),
            ("--gap-min", Mode::Drift, self.gap_min.is_some()),
            ("--silence-max", Mode::Drift, self.silence_max.is_some()),
            ("--per-minute-max", Mode::Drift, self.per_minute_max.is_some()),
            ("--every", Mode::Uniform, self.every.is_some()),
            ("--segments", Mode::Ward, self.segments.is_some()),
            ("--rate", Mode::Ward, self.rate.is_some()),
        ];
        for (flag, mode, given) in flags {
            let name = |mode: Mode| format!("{mode:?}").to_lowercase();
            let (needed, is) = (name(mode), name(self.decode));
            ensure!(!given || mode == self.decode, "{flag} needs --decode {needed}, which is {is}");
        }
        Ok(())
    }

    fn queries(&self, settings: &Settings) -> anyhow::Result<Vec<Query>> {
        let (asked, max) = (self.ask.len(), settings.watch.queries_max);
        ensure!(asked <= max, "--ask is given {asked} times, at most {max} are allowed (watch.queries_max)");
        let given = self.choices.len();
        let matches = matches!(given, 0 | 1) || given == asked;
        ensure!(matches, "--choices is given {given} times, must be once, or once for each of {asked} --ask");
        let of = |at: usize| self.choices.get(if given == 1 { 0 } else { at }).map_or("", |choices| choices);
        let query = |(at, question): (usize, &String)| {
            let (bytes, max) = (question.len(), settings.text.bytes_max);
            ensure!(!question.trim().is_empty(), "--ask is empty");
            ensure!(bytes <= max, "--ask has {bytes} bytes, at most {max} are allowed");
            // Drift alone takes no words.
            let manner = if self.decode == Mode::Never { None } else { Some(manner(of(at), settings)?) };
            Ok(Query { question: question.clone(), manner, held: None })
        };
        self.ask.iter().enumerate().map(query).collect()
    }

    fn view(&self, settings: &Settings) -> anyhow::Result<View> {
        let (window, max) = (self.window, settings.watch.window_ms_max);
        ensure!(window <= max, "--window is {window} ms, at most {max} ms are allowed (watch.window_ms_max)");
        let stride = self.stride.unwrap_or((window / 4).max(1));
        ensure!(stride <= window, "--stride is {stride} ms, at most --window, {window} ms, is allowed");
        let max = settings.media.frames_max.min(settings.watch.window_frames_max);
        if let Some(frames) = self.frames {
            ensure!((1..=max).contains(&frames), "--frames is {frames}, must be 1 to {max}");
        }
        let still = self.still;
        ensure!((0.0..=LEVELS).contains(&still), "--still is {still}, must be 0 to {LEVELS} levels");
        Ok(View { window_ms: window, stride_ms: stride, frames: self.frames, still })
    }

    fn policy(&self) -> anyhow::Result<Policy> {
        let usual = Policy::default();
        let policy = Policy {
            threshold: self.threshold.unwrap_or(usual.threshold),
            calm: self.calm.map_or(usual.calm, |calm| Some(calm).filter(|&calm| calm != 0.0)),
            unsettled_max_ms: self.unsettled_max.unwrap_or(usual.unsettled_max_ms),
            smoothing: self.smoothing.unwrap_or(usual.smoothing),
            gap_min_ms: self.gap_min.unwrap_or(usual.gap_min_ms),
            silence_max_ms: self.silence_max.map_or(usual.silence_max_ms, |time| Some(time).filter(|&time| time > 0)),
            per_minute_max: self
                .per_minute_max
                .map_or(usual.per_minute_max, |most| Some(most).filter(|&most| most > 0)),
            ..usual
        };
        // Its fields are called as the flags are, but for the unit.
        let flag = |field: &str| format!("--{}", field.trim_end_matches("_ms").replace('_', "-"));
        let told = |error: crate::segment::PolicyError| {
            anyhow::anyhow!("{} is {}, must be {}", flag(error.field), error.value, error.bound)
        };
        policy.check().map(|()| policy).map_err(told)
    }

    fn cut(&self) -> anyhow::Result<Cut> {
        if let Some(segments) = self.segments {
            let fits = (1..=SEGMENTS_MAX).contains(&segments);
            ensure!(fits, "--segments is {segments}, must be 1 to {SEGMENTS_MAX}");
            return Ok(Cut::Segments(segments));
        }
        let rate = self.rate.unwrap_or(6.0);
        ensure!(rate > 0.0 && rate <= RATE_MAX, "--rate is {rate}, must be above 0, at most {RATE_MAX} a minute");
        Ok(Cut::PerMinute(rate))
    }
}

/// By these choices, or by the decoder if there are none.
fn manner(choices: &str, settings: &Settings) -> anyhow::Result<Manner> {
    if choices.trim().is_empty() {
        let max_tokens = settings.text.answer_tokens_max;
        return Ok(Manner::Speak(DecodeOptions { max_tokens, sampling: TokenSampling::Greedy }));
    }
    let choices: Vec<String> = choices.split(',').map(|choice| choice.trim().to_owned()).collect();
    ensure!(choices.iter().all(|choice| !choice.is_empty()), "--choices has an empty choice");
    let (count, max) = (choices.len(), settings.text.candidates_max);
    ensure!(count <= max, "--choices has {count} choices, at most {max}");
    Ok(Manner::Choose(choices))
}

/// A time, or 0 for none.
fn time_or_zero(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { milliseconds(text) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        asked: Asked,
    }

    fn plan(words: &[&str]) -> anyhow::Result<Plan> {
        let line = Line::try_parse_from([&["x"], words].concat())?;
        line.asked.plan(Drops::Wait, &Settings::default())
    }

    #[test]
    fn choices_belong_to_their_questions() {
        let chosen = |words: &[&str]| -> Vec<usize> {
            let queries = plan(words).expect("sound").spec.queries;
            let count = |query: &Query| match &query.manner {
                Some(Manner::Choose(choices)) => choices.len(),
                _ => 0,
            };
            queries.iter().map(count).collect()
        };
        assert_eq!(chosen(&["--ask", "a", "--ask", "b"]), [0, 0]);
        assert_eq!(chosen(&["--ask", "a", "--ask", "b", "--choices", "x, y"]), [2, 2]);
        assert_eq!(chosen(&["--ask", "a", "--ask", "b", "--choices", "", "--choices", "x,y,z"]), [0, 3]);
        let three = ["--ask", "a", "--choices", "x", "--choices", "y"];
        assert!(plan(&three).err().expect("wrong").to_string().contains("--choices is given 2 times"));
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for (words, told) in [
            (&["--window", "1h"][..], "must be a time"),
            (&["--window", "11m"], "--window is 660000 ms, at most 600000 ms"),
            (&["--stride", "3s"], "--stride is 3000 ms, at most --window, 2000 ms"),
            (&["--threshold", "nan"], "--threshold is NaN, must be from 0 to 2"),
            (&["--threshold=-1"], "--threshold is -1"),
            (&["--smoothing", "1"], "--smoothing is 1, must be from 0 to 0.99"),
            (&["--gap-min", "2d"], "must be a time"),
            (&["--silence-max", "1ms", "--gap-min", "2ms"], "--silence-max is 1, must be"),
            (&["--every", "1s"], "--every needs --decode uniform, which is drift"),
            (&["--decode", "ward", "--threshold", "1"], "--threshold needs --decode drift, which is ward"),
            (&["--decode", "ward", "--segments", "0"], "--segments is 0, must be 1 to"),
            (&["--decode", "ward", "--rate", "inf"], "--rate is inf, must be above 0"),
            (&["--still", "nan"], "--still is NaN, must be 0 to 255 levels"),
            (&["--frames", "0"], "--frames is 0, must be 1 to"),
            (&["--ask", " "], "--ask is empty"),
            (&["--choices", "a,,b"], "--choices has an empty choice"),
        ] {
            let error = plan(&[&["--ask", "a"], words].concat()).err().expect("wrong").to_string();
            assert!(error.contains(told), "{words:?}: {error}");
        }
    }

    #[test]
    fn zeros_are_none() {
        let words = ["--ask", "a", "--calm", "0", "--silence-max", "0", "--per-minute-max", "0", "--gap-min", "0"];
        let Decode::Drift(policy) = plan(&words).expect("sound").spec.decode else { panic!("drift") };
        assert_eq!(
            (policy.calm, policy.silence_max_ms, policy.per_minute_max, policy.gap_min_ms),
            (None, None, None, 0)
        );
        let view = plan(&["--ask", "a", "--window", "3ms"]).expect("sound").spec.view;
        assert_eq!((view.window_ms, view.stride_ms), (3, 1));
    }
}
