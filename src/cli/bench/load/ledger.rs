//! What came of the requests: counts that add up, latencies as histograms of three digits, by class and status.
//!
//! A latency is counted from the instant at which the request was to be sent, so a server (or a client) that falls
//! behind cannot hide it; refusals are also counted from the actual sending. Plain structs that are given the times.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tonic::Code;

use super::arrivals::{Class, name};

/// Longer than any deadline of ours.
const LATENCY_MAX_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// What is counted: the requests that were to be sent within it, and the answers that came within it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// An answer is good that comes so soon after the intended start.
    pub(super) deadline: Duration,
}

impl Window {
    fn contains(&self, at: Duration) -> bool {
        (self.from..self.to).contains(&at)
    }

    fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

/// One request that was sent; all instants from the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) class: Class,
    pub(super) code: Code,
    pub(super) intended: Duration,
    pub(super) sent: Duration,
    pub(super) done: Duration,
}

/// The counts of one run.
#[derive(Debug)]
pub(super) struct Ledger {
    window: Window,
    scheduled: u64,
    unsent: u64,
    lag: Latencies,
    /// Good answers within the window.
    good: BTreeMap<Class, u64>,
    tallies: BTreeMap<(Class, i32), Tally>,
}

#[derive(Debug)]
struct Tally {
    from_intended: Latencies,
    from_send: Latencies,
}

impl Ledger {
    pub(super) fn new(window: Window) -> Self {
        Self { window, scheduled: 0, unsent: 0, lag: Latencies::new(), good: BTreeMap::new(), tallies: BTreeMap::new() }
    }

    /// A request that the client could not send at all, for too many of its own are in flight.
    pub(super) fn unsent(&mut self, intended: Duration) {
        if self.window.contains(intended) {
            self.scheduled += 1;
            self.unsent += 1;
        }
    }

    /// A request that came back, in whatever way.
    pub(super) fn record(&mut self, outcome: Outcome) {
        let Outcome { class, code, intended, sent, done } = outcome;
        let latency = done.saturating_sub(intended);
        if code == Code::Ok && latency <= self.window.deadline && self.window.contains(done) {
            *self.good.entry(class).or_default() += 1;
        }
        if self.window.contains(intended) {
            self.scheduled += 1;
            self.lag.record(sent.saturating_sub(intended));
            let new = || Tally { from_intended: Latencies::new(), from_send: Latencies::new() };
            let tally = self.tallies.entry((class, code as i32)).or_insert_with(new);
            tally.from_intended.record(latency);
            tally.from_send.record(done.saturating_sub(sent));
        }
    }

    /// What is told of the run.
    pub(super) fn figures(&self) -> Figures {
        let per_s = |count: u64| count as f64 / self.window.seconds();
        let by_status = self.tallies.iter().map(|(&(class, code), tally)| StatusFigures {
            class: name(&class),
            status: status_name(Code::from(code)),
            count: tally.from_intended.0.len(),
            latency: tally.from_intended.quantiles(),
            latency_from_send: tally.from_send.quantiles(),
        });
        let good = self.good.iter().map(|(class, &count)| (name(class), per_s(count)));
        Figures {
            seconds: self.window.seconds(),
            offered_per_s: per_s(self.scheduled),
            sent_per_s: per_s(self.scheduled - self.unsent),
            goodput_per_s: per_s(self.good.values().sum()),
            scheduled: self.scheduled,
            sent: self.scheduled - self.unsent,
            unsent: self.unsent,
            ok: self.merged(|_, code| code == Code::Ok).0,
            refused: self.merged(|_, code| code == Code::ResourceExhausted).0,
            refused_from_send: self.merged(|_, code| code == Code::ResourceExhausted).1,
            lag: self.lag.quantiles(),
            goodput_by_class_per_s: good.collect(),
            by_status: by_status.collect(),
        }
    }

    /// Of all statuses and classes that are `wanted`: from the intended start, and from the sending.
    fn merged(&self, wanted: impl Fn(Class, Code) -> bool) -> (Quantiles, Quantiles) {
        let (mut from_intended, mut from_send) = (Latencies::new(), Latencies::new());
        for (&(class, code), tally) in &self.tallies {
            if wanted(class, Code::from(code)) {
                from_intended.add(&tally.from_intended);
                from_send.add(&tally.from_send);
            }
        }
        (from_intended.quantiles(), from_send.quantiles())
    }
}

/// A run in figures.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) seconds: f64,
    pub(super) offered_per_s: f64,
    pub(super) sent_per_s: f64,
    /// OK answers that came within the window and within the deadline.
    pub(super) goodput_per_s: f64,
    pub(super) scheduled: u64,
    pub(super) sent: u64,
    pub(super) unsent: u64,
    /// All classes, from the intended start.
    pub(super) ok: Quantiles,
    pub(super) refused: Quantiles,
    pub(super) refused_from_send: Quantiles,
    /// How late the client itself was.
    pub(super) lag: Quantiles,
    pub(super) goodput_by_class_per_s: BTreeMap<String, f64>,
    pub(super) by_status: Vec<StatusFigures>,
}

impl Figures {
    /// The share of what was scheduled that was answered with OK, 0 to 1.
    pub(super) fn ok_share(&self) -> f64 {
        self.ok.count as f64 / (self.scheduled.max(1)) as f64
    }

    /// Requests of this status, all classes.
    pub(super) fn count(&self, status: Code) -> u64 {
        let wanted = status_name(status);
        self.by_status.iter().filter(|one| one.status == wanted).map(|one| one.count).sum()
    }

    /// OK answers of one class.
    pub(super) fn ok_of(&self, class: Class) -> Option<&StatusFigures> {
        self.by_status.iter().find(|one| one.class == name(&class) && one.status == status_name(Code::Ok))
    }

    /// Whether the client kept its schedule: what it could not send, or sent late, measures the client.
    pub(super) fn client_kept_up(&self) -> bool {
        self.unsent == 0 && self.lag.p99_ms < LAG_MAX_MS
    }
}

/// A client later than this, at the 99th percentile, tells so.
const LAG_MAX_MS: f64 = 10.0;

/// What ended with one status.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StatusFigures {
    pub(super) class: String,
    pub(super) status: String,
    pub(super) count: u64,
    pub(super) latency: Quantiles,
    pub(super) latency_from_send: Quantiles,
}

/// gRPC's own spelling, such as `RESOURCE_EXHAUSTED`.
pub(super) fn status_name(code: Code) -> String {
    let words = format!("{code:?}");
    let mut name = String::new();
    for letter in words.chars() {
        if letter.is_uppercase() && !name.is_empty() && code != Code::Ok {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[derive(Debug)]
struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_MAX_US, DIGITS).expect("the bounds are constants"))
    }

    fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are alike");
    }

    fn quantiles(&self) -> Quantiles {
        let ms = |micros: u64| micros as f64 / 1e3;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        Quantiles {
            count: self.0.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            max_ms: ms(self.0.max()),
        }
    }
}

/// Where latencies lie, milliseconds; all 0 where nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) count: u64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p99_9_ms: f64,
    pub(super) max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn window(from_ms: u32, to_ms: u32, deadline_ms: u32) -> Window {
        Window { from: MS * from_ms, to: MS * to_ms, deadline: MS * deadline_ms }
    }

    fn outcome(code: Code, intended_ms: u32, sent_ms: u32, done_ms: u32) -> Outcome {
        let class = Class::Interactive;
        Outcome { class, code, intended: MS * intended_ms, sent: MS * sent_ms, done: MS * done_ms }
    }

    #[test]
    fn a_made_up_run_is_told_as_it_was() {
        let mut ledger = Ledger::new(window(1000, 3000, 500));
        // A thousand answers, of 1 to 1000 ms, sent 2 ms late; one refused in 3 ms from its sending.
        for at in 1..=1000 {
            ledger.record(outcome(Code::Ok, 1000 + at, 1002 + at, 1000 + 2 * at));
        }
        ledger.record(outcome(Code::ResourceExhausted, 1500, 1510, 1513));
        ledger.unsent(MS * 1600);
        let figures = ledger.figures();
        assert_eq!((figures.scheduled, figures.sent, figures.unsent), (1002, 1001, 1));
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 2e-3, "{found}, {expected}");
        near(figures.ok.p50_ms, 500.0);
        near(figures.ok.p90_ms, 900.0);
        near(figures.ok.p99_ms, 990.0);
        near(figures.ok.max_ms, 1000.0);
        near(figures.refused.p99_ms, 13.0);
        near(figures.refused_from_send.p99_ms, 3.0);
        near(figures.lag.p50_ms, 2.0);
        near(figures.offered_per_s, 501.0);
        // Only the answers of at most 500 ms are good; all came within the window.
        near(figures.goodput_per_s, 250.0);
        near(figures.ok_share(), 1000.0 / 1002.0);
        assert_eq!(figures.count(Code::ResourceExhausted), 1);
    }

    #[test]
    fn what_lies_outside_the_window_is_not_counted() {
        let mut ledger = Ledger::new(window(1000, 2000, 500));
        ledger.record(outcome(Code::Ok, 999, 999, 1100)); // warm-up, but its answer is the work of this window
        ledger.record(outcome(Code::Ok, 1999, 1999, 2100)); // asked within, answered after
        ledger.record(outcome(Code::Ok, 2000, 2000, 2001));
        ledger.unsent(MS * 10);
        let figures = ledger.figures();
        assert_eq!((figures.scheduled, figures.ok.count, figures.goodput_per_s), (1, 1, 1.0));
    }

    #[test]
    fn statuses_are_spelt_as_grpc_spells_them() {
        for (code, name) in [
            (Code::Ok, "OK"),
            (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            (Code::Internal, "INTERNAL"),
        ] {
            assert_eq!(status_name(code), name);
        }
    }

    proptest! {
        #[test]
        fn everything_scheduled_has_one_fate(fates in proptest::collection::vec((0..17i32, 0..5000u32, 0..100u32, 0..5000u32), 0..200)) {
            let mut ledger = Ledger::new(window(1000, 4000, 300));
            let within = fates.iter().filter(|(_, intended, ..)| (1000..4000).contains(intended)).count() as u64;
            for &(code, intended, late, took) in &fates {
                match code {
                    0 => ledger.unsent(MS * intended),
                    code => ledger.record(outcome(Code::from(code), intended, intended + late, intended + late + took)),
                }
            }
            let figures = ledger.figures();
            prop_assert_eq!(figures.scheduled, within);
            prop_assert_eq!(figures.sent, figures.by_status.iter().map(|one| one.count).sum::<u64>());
            prop_assert_eq!(figures.sent + figures.unsent, within);
        }
    }
}
