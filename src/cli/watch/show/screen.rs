//! What a person sees while a stream goes on: a line for every decode on standard output, and on a terminal a line on
//! standard error that changes all the time.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::figures::{per_minute, saved, told};
use super::words::{beginning, one_line, sparkline};
use crate::cli::cue::clock;
use crate::watch::{Event, Finished, FrameFailed, Seen, Spoken, Trigger};

/// Drifts in the row of bars.
const BARS: usize = 16;
/// The drift of a full bar while nothing is larger.
const FULL: f64 = 0.2;
/// Characters of a question beside its answer, and of an answer in the line that changes.
const QUESTION: usize = 32;
const ANSWER: usize = 40;
/// Frames that could not be used and are told one by one.
const FAULTS_MAX: u64 = 5;

/// What a person sees.
pub(super) struct Screen {
    questions: Vec<String>,
    /// Whether decodes are printed.
    prints: bool,
    bar: Option<ProgressBar>,
    state: State,
}

/// What the line that changes tells.
#[derive(Debug, Default)]
struct State {
    now_ms: u64,
    /// The largest drift of each window's questions; the newest last.
    drifts: VecDeque<f64>,
    answers: Vec<String>,
    decodes: u64,
    dropped: u64,
    unsent: u64,
    failed: u64,
}

impl Screen {
    /// `prints` where standard output is for people.
    pub fn new(questions: &[String], prints: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("a sound template"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let state = State { answers: vec![String::new(); questions.len()], ..State::default() };
        let questions = questions.iter().map(|question| one_line(question)).collect();
        Self { questions, prints, bar, state }
    }

    /// Something happened.
    pub fn tell(&mut self, event: &Event, unsent: u64) {
        self.state.unsent = unsent;
        match event {
            Event::Seen(seen) => self.state.seen(seen),
            Event::Spoken(spoken) => {
                self.state.spoken(spoken);
                if self.prints {
                    let line = line(&self.questions, spoken);
                    self.above(|| println!("{line}"));
                }
            }
            Event::Dropped(dropped) => self.state.dropped += dropped.frames,
            Event::Failed(failed) => self.failed(failed),
            Event::Finished(_) => {}
        }
        if let Some(bar) = &self.bar {
            bar.set_message(self.state.line());
        }
    }

    /// Nothing follows.
    pub fn end(&mut self, finished: Option<&Finished>, unsent: u64) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        // Of nothing there are no figures.
        if let Some(finished) = finished.filter(|finished| finished.stats.frames > 0) {
            eprintln!("{}", told(&finished.stats, unsent));
        }
    }

    fn failed(&mut self, FrameFailed { seq, error }: &FrameFailed) {
        self.state.failed += 1;
        match self.state.failed {
            ..=FAULTS_MAX => self.above(|| eprintln!("frame {seq}: {}", one_line(&error.to_string()))),
            count if count == FAULTS_MAX + 1 => self.above(|| eprintln!("more frames cannot be used")),
            _ => {}
        }
    }

    /// Prints where the line that changes is not.
    fn above(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// A decode, such as `00:01:23.500  a red circle moves left   (drift 0.41)`; with the question where there are several.
fn line(questions: &[String], spoken: &Spoken) -> String {
    let asked = match questions {
        [] | [_] => String::new(),
        questions => {
            let question = questions.get(spoken.query).map_or("", |question| question);
            format!("{}  ", beginning(question, QUESTION))
        }
    };
    let drift = match spoken.trigger {
        // Nothing drifted: somebody brought the embedding.
        Trigger::Speak => String::new(),
        _ => format!("   (drift {:.2})", spoken.drift),
    };
    format!("{}  {asked}{}{drift}", clock(spoken.segment.ms[0]), one_line(&spoken.text))
}

impl State {
    fn seen(&mut self, seen: &Seen) {
        let same_window = seen.span.ms[1] == self.now_ms;
        self.now_ms = self.now_ms.max(seen.span.ms[1]);
        match self.drifts.back_mut().filter(|_| same_window) {
            Some(last) => *last = last.max(seen.drift),
            None => self.drifts.push_back(seen.drift),
        }
        if self.drifts.len() > BARS {
            self.drifts.pop_front();
        }
    }

    fn spoken(&mut self, spoken: &Spoken) {
        self.decodes += 1;
        if let Some(answer) = self.answers.get_mut(spoken.query) {
            *answer = beginning(&one_line(&spoken.text), ANSWER);
        }
    }

    fn line(&self) -> String {
        let bars = sparkline(self.drifts.iter().copied(), FULL);
        let drift = self.drifts.back().copied().unwrap_or(0.0);
        let uniform = self.now_ms / 1000 * self.answers.len() as u64;
        let saved = saved(self.decodes, uniform).map_or_else(String::new, |saved| format!(", {saved:.0} % saved"));
        let rate = per_minute(self.decodes, self.now_ms);
        let mut line = format!("{}  {bars:>BARS$} {drift:.2}  {rate:.1}/min{saved}", clock(self.now_ms));
        for (count, what) in [(self.dropped + self.unsent, "dropped"), (self.failed, "failed")] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        for answer in self.answers.iter().filter(|answer| !answer.is_empty()) {
            line += &format!(" | {answer}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::{Embedding, Space};
    use crate::engine::Timing;
    use crate::watch::Span;

    fn seen(query: usize, end_ms: u64, drift: f64) -> Seen {
        let embedding = Embedding { values: vec![], space: Space::from_bytes([0; 8]) };
        let span = Span { seq: [1, 2], ms: [end_ms - 2000, end_ms] };
        Seen { query, span, drift, repeated: false, embedding, timing: Timing::default() }
    }

    fn spoken(query: usize, text: &str) -> Spoken {
        Spoken {
            query,
            text: text.into(),
            choices: vec![],
            trigger: Trigger::Uniform,
            segment: Span { seq: [1, 2], ms: [83_500, 85_500] },
            drift: 0.414,
            timing: Timing::default(),
        }
    }

    #[test]
    fn a_decode_is_one_plain_line() {
        let one = ["what?".to_owned()];
        assert_eq!(line(&one, &spoken(0, "a\nred \u{1b}[1mcircle")), "00:01:23.500  a red [1mcircle   (drift 0.41)");
        let two = ["what?".to_owned(), "x".repeat(50)];
        let told = line(&two, &spoken(1, "a"));
        assert_eq!(told, format!("00:01:23.500  {}…  a   (drift 0.41)", "x".repeat(QUESTION)));
        let cut = Spoken { trigger: Trigger::Speak, ..spoken(0, "a") };
        assert_eq!(line(&one, &cut), "00:01:23.500  a");
    }

    #[test]
    fn the_line_tells_how_it_stands() {
        let mut state = State { answers: vec![String::new(); 2], unsent: 2, ..State::default() };
        for window in 0..117 {
            state.seen(&seen(0, 2000 + 500 * window, 0.1));
            state.seen(&seen(1, 2000 + 500 * window, 0.2));
        }
        (0..3).for_each(|_| state.spoken(&spoken(1, "blue")));
        state.dropped = 5;
        assert_eq!(state.drifts.len(), BARS);
        let bars = "█".repeat(BARS);
        let told = format!("00:01:00.000  {bars} 0.20  3.0/min, 98 % saved, 7 dropped | blue");
        assert_eq!(state.line(), told);
    }
}
