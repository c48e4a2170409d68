//! One part under measurement: loading it, running it, and its figures as text and as JSON.

use std::fmt::Write;
use std::time::Instant;

use serde_json::{Value, json};

use super::GIGA;
use super::memory::Resident;
use super::samples::Samples;
use crate::kernel::clock::Moment;
use crate::kernel::peak::Peaks;
use crate::kernel::tally::{self, Kind, Share, Tally};
use crate::kernel::threads::Pool;
use crate::model::bundle::Part;
use crate::model::config::VlJepaConfig;
use crate::model::rehearsal::{Rehearsal, Size};
use crate::nn::linear::Dense;

/// A part with its weights.
pub(super) struct Loaded {
    part: Part,
    rehearsal: Rehearsal,
    load_seconds: f64,
    /// Resident bytes that loading added.
    resident: Option<i64>,
}

/// One forward pass.
struct Pass {
    seconds: f64,
    tally: Tally,
    /// Stages in the order of their first end, of layers the sum: `attn0`, `attn1` ... are `attn`.
    stages: Vec<(String, f64)>,
}

/// What was measured of a part.
pub(super) struct Figures<'a> {
    loaded: &'a Loaded,
    best: Pass,
    times: Samples,
    /// How many times faster than one thread, where there are more.
    speedup: Option<f64>,
}

impl Loaded {
    /// Makes the part's weights and inputs.
    pub(super) fn new(config: &VlJepaConfig, part: (Part, Dense), size: Size) -> anyhow::Result<Loaded> {
        let (start, before) = (Instant::now(), Resident::read());
        let rehearsal = Rehearsal::new(config, part, size)?;
        let grown = |before: Resident| Some(Resident::read()?.now as i64 - before.now as i64);
        Ok(Loaded {
            part: part.0,
            rehearsal,
            load_seconds: start.elapsed().as_secs_f64(),
            resident: before.and_then(grown),
        })
    }

    /// `repeats` passes after one to warm up, in turn with as many on one thread where the pool has more.
    pub(super) fn measure(&self, repeats: usize, pool: &Pool, threads: usize) -> anyhow::Result<Figures<'_>> {
        let single = if threads > 1 { Some(Pool::new(1)?) } else { None };
        let mut best = pool.run(|| self.pass(threads))?;
        let (mut times, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let pass = pool.run(|| self.pass(threads))?;
            times.push(pass.seconds);
            if pass.seconds < best.seconds || times.len() == 1 {
                best = pass;
            }
            if let Some(single) = &single {
                alone.push(single.run(|| self.pass(threads))?.seconds);
            }
        }
        let times = Samples::new(times);
        let speedup = single.map(|_| times.times_faster_than(&Samples::new(alone)));
        Ok(Figures { loaded: self, best, times, speedup })
    }

    fn pass(&self, threads: usize) -> anyhow::Result<Pass> {
        let (start, mut before) = (Moment::now(threads), 0.0);
        let mut stages: Vec<(String, f64)> = Vec::new();
        let mut mark = |name: &str| {
            let now = start.elapsed().as_secs_f64();
            let name = name.trim_end_matches(|last: char| last.is_ascii_digit());
            match stages.iter_mut().find(|(known, _)| known == name) {
                Some((_, seconds)) => *seconds += now - before,
                None => stages.push((name.into(), now - before)),
            }
            before = now;
        };
        let (result, tally) = tally::kept(|| self.rehearsal.run(&mut mark));
        // Its causes are in the message, without the trace that the last one carries.
        result.map_err(|error| anyhow::Error::msg(error.to_string()))?;
        Ok(Pass { seconds: start.elapsed().as_secs_f64(), tally, stages })
    }
}

/// The limit of a kind of product, operations a second.
fn limit(kind: Kind, peaks: &Peaks) -> Option<f64> {
    match kind {
        Kind::Ternary | Kind::Int8 => peaks.int8,
        Kind::Bf16 | Kind::AttentionBf16 => peaks.bf16,
        Kind::F32 | Kind::AttentionF32 => peaks.f32,
        Kind::Rounding | Kind::Elementwise => None,
    }
}

impl Pass {
    fn shares(&self) -> impl Iterator<Item = (Kind, Share)> {
        Kind::ALL.into_iter().zip(self.tally).filter(|(_, share)| share.calls > 0)
    }

    fn operations(&self) -> f64 {
        self.shares().map(|(_, share)| share.operations).sum()
    }

    /// The part of its time that the products alone would take at the chip's limits.
    fn of_limits(&self, peaks: &Peaks) -> Option<f64> {
        let least = |(kind, share): (Kind, Share)| match share.operations {
            0.0 => Some(0.0),
            operations => Some(operations / limit(kind, peaks)?),
        };
        Some(self.shares().map(least).sum::<Option<f64>>()? / self.seconds)
    }

    /// What no kernel accounts for.
    fn rest(&self) -> f64 {
        self.seconds - self.shares().map(|(_, share)| share.time.as_secs_f64()).sum::<f64>()
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or(String::new(), |share| format!("{:.0} %", 100.0 * share))
}

impl Figures<'_> {
    /// The columns of [`Figures::text`].
    pub(super) const HEAD: &'static str = "part              tokens    best ms  median ms   tokens/s     GOPS  of limits  weights MiB   ternary MiB  x one thread";

    /// A line for the part, one for each kind of work, one for its stages.
    pub(super) fn text(&self, peaks: &Peaks) -> String {
        let Loaded { part, rehearsal, .. } = self.loaded;
        let [weights, ternary] = rehearsal.weight_bytes().map(|bytes| bytes as f64 / (1 << 20) as f64);
        let (best, tokens) = (self.times.best(), rehearsal.tokens());
        let speedup = self.speedup.map_or(String::new(), |speedup| format!("{speedup:.2}"));
        let mut text = format!(
            "{:<16} {tokens:>7} {:>10.1} {:>10.1} {:>10.1} {:>8.1} {:>10} {weights:>12.1} {ternary:>13.1} {speedup:>13}",
            part.name(),
            best * 1e3,
            self.times.median() * 1e3,
            tokens as f64 / best,
            self.best.operations() / best / GIGA,
            percent(self.best.of_limits(peaks)),
        );
        let mut line = |name: &str, seconds: f64, rate: Option<f64>, of_limit: Option<f64>| {
            let rate = rate.map_or(String::new(), |rate| format!("{:.1}", rate / GIGA));
            let share = percent(Some(seconds / best));
            let (ms, of_limit) = (seconds * 1e3, percent(of_limit));
            write!(text, "\n  {name:<22} {ms:>10.1} {share:>10} {:>10} {rate:>8} {of_limit:>10}", "")
                .expect("a string takes every line");
        };
        for (kind, share) in self.best.shares() {
            let rate = Some(share.operations / share.time.as_secs_f64()).filter(|_| share.operations > 0.0);
            let of_limit = rate.zip(limit(kind, peaks)).map(|(rate, limit)| rate / limit);
            line(kind.name(), share.time.as_secs_f64(), rate, of_limit);
        }
        line("rest", self.best.rest(), None, None);
        let stages = self.best.stages.iter().map(|(name, seconds)| format!("{name} {:.1}", seconds * 1e3));
        let stages = stages.collect::<Vec<_>>().join(", ");
        text + &if stages.is_empty() { "\n".into() } else { format!("\n  stages: {stages} ms\n") }
    }

    /// The same as an object.
    pub(super) fn json(&self, peaks: &Peaks) -> Value {
        let Loaded { part, rehearsal, load_seconds, resident } = self.loaded;
        let (best, tokens) = (self.times.best(), rehearsal.tokens());
        let [weights, ternary] = rehearsal.weight_bytes();
        let kind = |(kind, share): (Kind, Share)| {
            let seconds = share.time.as_secs_f64();
            json!({
                "kind": kind.name(), "ms": seconds * 1e3, "calls": share.calls,
                "gops": share.operations / seconds / GIGA,
                "of_limit": limit(kind, peaks).map(|limit| share.operations / seconds / limit),
            })
        };
        let stage = |(name, seconds): &(String, f64)| (name.clone(), json!(seconds * 1e3));
        json!({
            "part": part.name(), "tokens": tokens, "best_ms": best * 1e3, "median_ms": self.times.median() * 1e3,
            "tokens_per_s": tokens as f64 / best, "gop": self.best.operations() / GIGA,
            "gops": self.best.operations() / best / GIGA, "of_limits": self.best.of_limits(peaks),
            "weight_bytes": weights, "ternary_bytes": ternary, "resident_bytes": resident, "load_s": load_seconds,
            "speedup": self.speedup, "kinds": self.best.shares().map(kind).collect::<Vec<_>>(),
            "rest_ms": self.best.rest() * 1e3,
            "stages_ms": self.best.stages.iter().map(stage).collect::<serde_json::Map<_, _>>(),
        })
    }
}
