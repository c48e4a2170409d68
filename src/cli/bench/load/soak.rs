//! The soak: load for a long time with hostile clients among the others, and the server's memory each second.
//!
//! It fails if memory grows beyond the bound, or if a status was seen that no input may cause.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::arrivals::{Arrival, Class, Conduct, Kinds, Mix, Rpc};
use super::connections::Connections;
use super::drive::Service;
use super::ledger::status_name;
use super::process::Process;
use super::run::{Run, Stand};
use super::slow::relay;

const RATE: f64 = 25.0;
const GROWTH_MAX: f64 = 0.10;
/// Memory is compared between spans of this length, or of a sixth of a short soak.
const SPAN_MAX_S: usize = 60;
const SAMPLE: Duration = Duration::from_secs(1);
/// What no input may cause.
const FAULTS: [Code; 5] = [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss, Code::Unimplemented];

/// Who takes part.
fn kinds() -> Kinds {
    let conducts = [(Conduct::Plain, 7.0), (Conduct::Spoilt, 1.0), (Conduct::Leaving, 1.0), (Conduct::Hurried, 1.0)];
    Kinds {
        rpcs: Mix::of(&[(Rpc::Answer, 5.0), (Rpc::Predict, 2.0), (Rpc::Encode, 2.0), (Rpc::Stream, 1.0)]),
        classes: Mix::of(&[(Class::Interactive, 3.0), (Class::Job, 1.0)]),
        conducts: Mix::of(&conducts),
    }
}

/// Loads the server for `time`, prints, and tells whether it passed.
pub(super) async fn soak(stand: &Stand<'_>, address: &str, time: Duration) -> anyhow::Result<(Value, i32)> {
    let process = stand.target.process.context("--soak measures the server's memory: give --server-pid")?;
    let relay = relay(address.into()).await.context("no relay for slow readers")?;
    let slow = stand.target.connections.to(&relay.to_string(), 1).await?;
    let stop = CancellationToken::new();
    let sampling = tokio::spawn(sample(process, stop.clone()));
    let reading = tokio::spawn(read_slowly(slow, stop.clone()));
    let warmup = stand.load.warmup.min(time / 2);
    let rate = stand.load.rate.unwrap_or(RATE);
    let run = stand.run_for(&stand.target, rate, kinds(), (warmup, time - warmup)).await?;
    stop.cancel();
    let (samples, slow_answers) = (sampling.await?, reading.await?);
    let drift = Drift::of(&samples).context("too short a soak to tell anything of memory")?;
    let faults: u64 = FAULTS.iter().map(|&code| run.figures.count(code)).sum();
    let passed = drift.growth <= GROWTH_MAX && faults == 0 && slow_answers > 0 && run.figures.ok.count > 0;
    print(&run, &drift, (slow_answers, faults, passed));
    let told = json!({
        "run": run, "memory": drift, "resident_bytes_each_second": samples, "slow_reader_answers": slow_answers,
        "faults": faults, "passed": passed,
    });
    Ok((told, i32::from(!passed)))
}

fn print(run: &Run, drift: &Drift, (slow_answers, faults, passed): (u64, u64, bool)) {
    println!("| class | status | requests | p50 ms | p99 ms | max ms |\n|---|---|---:|---:|---:|---:|");
    for one in &run.figures.by_status {
        let latency = &one.latency;
        let (p50, p99, max) = (latency.p50_ms, latency.p99_ms, latency.max_ms);
        println!("| {} | {} | {} | {p50:.1} | {p99:.1} | {max:.1} |", one.class, one.status, one.count);
    }
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "\nmemory    {:.1} MiB in the first {span} s, {:.1} in the last: {:+.1} % (at most {:+.0} %), {:+.3} MiB a minute",
        mebibytes(drift.first_bytes),
        mebibytes(drift.last_bytes),
        100.0 * drift.growth,
        100.0 * GROWTH_MAX,
        mebibytes(drift.bytes_per_minute),
        span = drift.span_s,
    );
    let most = run.resident_most_bytes.map_or("-".into(), |bytes| (bytes >> 20).to_string());
    println!("          {most} MiB at most; a slow reader got {slow_answers} answers meanwhile");
    let faulty = FAULTS.map(status_name).join(", ");
    println!("faults    {faults} ({faulty})");
    for remark in run.remarks().iter().filter(|remark| remark.contains("keep up")) {
        println!("remark    {remark}");
    }
    println!("{}", if passed { "passed" } else { "FAILED" });
}

/// Resident bytes each second until `stop`.
async fn sample(process: Process, stop: CancellationToken) -> Vec<u64> {
    let mut samples = Vec::new();
    let mut ticks = interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        samples.extend(process.resident().map(|resident| resident.now));
    }
    samples
}

/// Asks one question after the other over a slow connection; tells how many were answered.
async fn read_slowly(slow: Connections, stop: CancellationToken) -> u64 {
    let slow = Arc::new(slow);
    let mut answers = 0;
    for choice in 0.. {
        let arrival = Arrival {
            at: Duration::ZERO,
            rpc: Rpc::Predict,
            class: Class::Interactive,
            conduct: Conduct::Plain,
            choice,
        };
        match stop.run_until_cancelled(slow.ask(&arrival)).await {
            Some(code) => answers += u64::from(code == Code::Ok),
            None => break,
        }
        // A refusal is no reason to storm.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answers
}

/// Whether memory stays where it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Drift {
    span_s: usize,
    /// Mean of the first span after the warm-up of a sixth of a span.
    first_bytes: f64,
    last_bytes: f64,
    /// The last over the first, less one.
    growth: f64,
    /// The slope of the line nearest to all samples from the first span on.
    bytes_per_minute: f64,
}

impl Drift {
    /// From one sample a second; None where there are too few.
    fn of(samples: &[u64]) -> Option<Self> {
        let span_s = (samples.len() / 6).min(SPAN_MAX_S);
        if span_s == 0 {
            return None;
        }
        let samples = &samples[span_s / 6..];
        let mean = |samples: &[u64]| samples.iter().map(|&bytes| bytes as f64).sum::<f64>() / samples.len() as f64;
        let (first_bytes, last_bytes) = (mean(&samples[..span_s]), mean(&samples[samples.len() - span_s..]));
        let middle = (samples.len() - 1) as f64 / 2.0;
        let all = mean(samples);
        let (mut together, mut seconds) = (0.0, 0.0);
        for (second, &bytes) in samples.iter().enumerate() {
            let from_middle = second as f64 - middle;
            together += from_middle * (bytes as f64 - all);
            seconds += from_middle * from_middle;
        }
        let growth = last_bytes / first_bytes - 1.0;
        Some(Self { span_s, first_bytes, last_bytes, growth, bytes_per_minute: 60.0 * together / seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_and_slope_are_told() {
        let flat = Drift::of(&[1000; 600]).expect("long enough");
        assert_eq!((flat.span_s, flat.first_bytes, flat.growth, flat.bytes_per_minute), (60, 1000.0, 0.0, 0.0));
        let leak: Vec<u64> = (0..600).map(|second| 1_000_000 + 1000 * second).collect();
        let leak = Drift::of(&leak).expect("long enough");
        assert!((leak.bytes_per_minute - 60_000.0).abs() < 1e-6, "{leak:?}");
        // From the middle of second 10..70 to that of 540..600.
        assert!((leak.growth - 530_000.0 / 1_039_500.0).abs() < 1e-9, "{leak:?}");
        assert_eq!(Drift::of(&[1; 5]), None);
    }

    #[test]
    fn a_start_that_fills_caches_is_no_leak() {
        let samples: Vec<u64> = (0..600).map(|second| if second < 10 { 100 * second } else { 1000 }).collect();
        assert_eq!(Drift::of(&samples).map(|drift| drift.growth), Some(0.0));
    }
}
