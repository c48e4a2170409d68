//! What the commands about jobs print: tables and facts for people, lines of JSON for programs, progress while it lasts.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::standing::{Standing, utc};
use crate::jobs::State;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
const TITLE_CHARACTERS_MAX: usize = 40;

/// The heading of [`row`]s.
pub(super) const HEADING: &str =
    "job               state       made                     parts          rows        failed  title";

/// A job as a row of a table.
pub(super) fn row(job: &Standing) -> String {
    let progress = &job.progress;
    let of = |done: u64, all: Option<u64>| all.map_or_else(|| "-".into(), |all| format!("{done}/{all}"));
    let made = job.times_ms[0].map(utc).unwrap_or_default();
    let title = if job.title.is_empty() { &job.input } else { &job.title };
    let title: String = title.chars().take(TITLE_CHARACTERS_MAX).collect();
    let parts = of(progress.parts_done.into(), progress.rows.map(|_| progress.parts.into()));
    let rows = of(progress.through(), progress.rows);
    format!(
        "{:16}  {:10}  {made:23}  {parts:>9}  {rows:>14}  {:>8}  {title}",
        job.id,
        job.state.name(),
        progress.failed
    )
}

/// A job's facts, one a line.
pub(super) fn facts(job: &Standing) {
    for (name, fact) in job.facts() {
        println!("{name:12}  {fact}");
    }
}

/// What becomes of a job while it lasts: a bar on a terminal, elsewhere a line now and then; both on standard error.
pub(super) enum Shown {
    Bar(ProgressBar),
    Lines { last: Option<(Instant, State)> },
}

impl Shown {
    /// `quiet` where programs read.
    pub(super) fn new(quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{spinner} {wide_bar} {msg}").expect("a sound template"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self::Bar(bar)
    }

    /// It stands like this now.
    pub(super) fn tell(&mut self, job: &Standing) {
        match self {
            Self::Bar(bar) => {
                if let Some(rows) = job.progress.rows {
                    bar.set_length(rows);
                }
                bar.set_position(job.progress.through());
                bar.set_message(match job.state {
                    State::Running => job.progress.line(),
                    state => format!("{}; {}", state.name(), job.progress.line()),
                });
            }
            Self::Lines { last } => {
                let due = last.is_none_or(|(at, state)| state != job.state || at.elapsed() >= LINE_EVERY);
                // How it ends is said on standard output.
                if due && !job.state.ended() {
                    eprintln!("{}", job.line());
                    *last = Some((Instant::now(), job.state));
                }
            }
        }
    }

    /// Nothing follows.
    pub(super) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
