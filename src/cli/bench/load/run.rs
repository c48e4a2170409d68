//! One run at one rate: the figures of the client, and what the processes took meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tonic::Code;

use super::arrivals::{Kinds, Schedule};
use super::connections::Connections;
use super::drive::{Plan, drive};
use super::ledger::{Figures, Window, status_name};
use super::process::Process;
use super::{Load, RATE_MAX, RATE_MIN, REQUESTS_MAX};

/// What is asked, and its process if it is known.
pub(super) struct Target {
    pub(super) connections: Arc<Connections>,
    pub(super) process: Option<Process>,
}

/// The options and the server they are for.
pub(super) struct Stand<'a> {
    pub(super) load: &'a Load,
    pub(super) target: Target,
}

/// A rate and what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) rate: f64,
    pub(super) figures: Figures,
    /// Processor time over time: 1.0 is one core.
    pub(super) server_cores: Option<f64>,
    pub(super) client_cores: Option<f64>,
    /// Of the server when the last request was answered.
    pub(super) resident_bytes: Option<u64>,
    /// The most that the server ever had until then.
    pub(super) resident_most_bytes: Option<u64>,
}

impl Stand<'_> {
    /// Asks `target` at `rate` for the options' warm-up and duration.
    pub(super) async fn run(&self, target: &Target, rate: f64, kinds: Kinds) -> anyhow::Result<Run> {
        let Load { warmup, duration, .. } = self.load;
        self.run_for(target, rate, kinds, (*warmup, *duration)).await
    }

    pub(super) async fn run_for(
        &self,
        target: &Target,
        rate: f64,
        kinds: Kinds,
        (warmup, duration): (Duration, Duration),
    ) -> anyhow::Result<Run> {
        let Load { arrivals, seed, in_flight_max, deadline_ms, .. } = *self.load;
        let rate = rate.clamp(RATE_MIN, RATE_MAX);
        let requests = rate * (warmup + duration).as_secs_f64();
        anyhow::ensure!(requests <= REQUESTS_MAX, "{requests:.0} requests, at most {REQUESTS_MAX} in a run");
        let deadline = Duration::from_millis(deadline_ms);
        let window = Window { from: warmup, to: warmup + duration, deadline };
        let plan = Plan { schedule: Schedule::new(arrivals, rate, kinds, seed), window, in_flight_max };
        let started = Instant::now();
        let before = (target.process.and_then(Process::cpu_seconds), Process::own().cpu_seconds());
        let figures = drive(&target.connections, plan).await.figures();
        let after = (target.process.and_then(Process::cpu_seconds), Process::own().cpu_seconds());
        let cores =
            |before: Option<f64>, after: Option<f64>| Some((after? - before?) / started.elapsed().as_secs_f64());
        let resident = target.process.and_then(Process::resident);
        Ok(Run {
            rate,
            figures,
            server_cores: cores(before.0, after.0),
            client_cores: cores(before.1, after.1),
            resident_bytes: resident.map(|resident| resident.now),
            resident_most_bytes: resident.map(|resident| resident.most),
        })
    }
}

impl Run {
    pub(super) const HEAD: &str = "\
| asked /s | OK | good /s | p50 ms | p90 | p99 | p99.9 | max | refused | p50 ms | p99 | p99 from sending | server cores | client | client late p99 ms | server MiB |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|";

    /// One line of the table.
    pub(super) fn row(&self) -> String {
        let Figures { ok, refused, refused_from_send, lag, goodput_per_s, offered_per_s, .. } = &self.figures;
        let cores = |cores: Option<f64>| cores.map_or("-".into(), |cores| format!("{cores:.2}"));
        let refusals = match refused.count {
            0 => "0 | - | - | -".into(),
            count => {
                format!("{count} | {:.2} | {:.2} | {:.2}", refused.p50_ms, refused.p99_ms, refused_from_send.p99_ms)
            }
        };
        format!(
            "| {offered_per_s:.1} | {:.1} % | {goodput_per_s:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {refusals} | {} | {} | {:.1} | {} |",
            100.0 * self.figures.ok_share(),
            ok.p50_ms,
            ok.p90_ms,
            ok.p99_ms,
            ok.p99_9_ms,
            ok.max_ms,
            cores(self.server_cores),
            cores(self.client_cores),
            lag.p99_ms,
            self.resident_bytes.map_or("-".into(), |bytes| (bytes >> 20).to_string()),
        )
    }

    /// What the line does not tell: other statuses, and a client that could not keep up.
    pub(super) fn remarks(&self) -> Vec<String> {
        let known = [status_name(Code::Ok), status_name(Code::ResourceExhausted)];
        let others = self.figures.by_status.iter().filter(|one| !known.contains(&one.status)).map(|one| {
            let latency = &one.latency;
            format!(
                "{} {}: {} (p50 {:.1} ms, p99 {:.1} ms)",
                one.class, one.status, one.count, latency.p50_ms, latency.p99_ms
            )
        });
        let behind = (!self.figures.client_kept_up()).then(|| {
            let Figures { unsent, lag, .. } = &self.figures;
            format!("the client could not keep up: {unsent} not sent, p99 {:.1} ms late", lag.p99_ms)
        });
        others.chain(behind).collect()
    }

    /// Prints line and remarks.
    pub(super) fn print(&self) {
        println!("{}", self.row());
        for remark in self.remarks() {
            eprintln!("  at {:.1}/s: {remark}", self.rate);
        }
    }
}
