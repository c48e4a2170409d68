//! `vljepa bench load`: what a server does under load, asked by an open-loop client over real sockets.
//!
//! `arrivals` says when and what, `drive` sends it, `ledger` counts what came of it, `knee` searches; `report` and `soak`
//! are measurements made of many runs. The server is a process of its own, so that neither hides in the other.

mod arrivals;
mod asks;
mod connections;
mod drive;
pub(super) mod echo;
mod knee;
mod ledger;
mod process;
mod report;
mod run;
mod slow;
mod soak;

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use self::arrivals::{Class, Conduct, Kinds, Mix, Pace, Rpc};
use self::asks::{Ask, AskArgs};
use self::connections::Connections;
use self::process::{Process, Server};
use self::run::{Stand, Target};
use crate::cli::{runtime, waiting};
use crate::settings::{ClientSettings, Settings};

const RATE_MAX: f64 = 100_000.0;
const RATE_MIN: f64 = 0.1;
const REQUESTS_MAX: f64 = 1e7;
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
const CONNECTIONS_MAX: usize = 256;
const IN_FLIGHT_MAX: usize = 100_000;

/// Measures a server under load.
#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// Ask the server at this address instead of an own one on loopback
    #[arg(long, value_name = "ADDR", conflicts_with = "serve")]
    server: Option<String>,
    /// The server may be another machine: you may load it
    #[arg(long, requires = "server")]
    remote: bool,
    /// The process of --server, for its memory and processor time
    #[arg(long, value_name = "PID", requires = "server")]
    server_pid: Option<u32>,
    /// Requests a second
    #[arg(long, value_name = "R", conflicts_with_all = ["sweep", "report"])]
    rate: Option<f64>,
    /// Find the highest rate at which the server keeps its word, and go to twice as much
    #[arg(long, group = "what")]
    sweep: bool,
    /// Make the whole record: the knee, overload, fairness, memory, and the transport alone
    #[arg(long, group = "what", conflicts_with = "server")]
    report: bool,
    /// Load for so long with hostile requests among the others, and fail if memory grows
    #[arg(long, value_name = "TIME", group = "what", value_parser = duration)]
    soak: Option<Duration>,
    /// How requests follow each other
    #[arg(long, value_enum, default_value_t = Pace::Poisson)]
    arrivals: Pace,
    /// How long each rate is measured, such as 500ms, 10s or 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long each rate lasts before it is measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// What is called: answer, predict, encode, stream, with weights
    #[arg(long, value_name = "RPC=W,..", default_value_t = Mix::only(Rpc::Answer))]
    mix: Mix<Rpc>,
    /// Whose work it is: interactive, watch, job, with weights
    #[arg(long, value_name = "CLASS=W,..", default_value_t = Mix::only(Class::Interactive))]
    classes: Mix<Class>,
    /// How the client behaves: plain, spoilt, leaving, hurried, with weights
    #[arg(long, value_name = "CONDUCT=W,..", default_value_t = Mix::only(Conduct::Plain))]
    conducts: Mix<Conduct>,
    #[command(flatten)]
    asks: AskArgs,
    /// Connections that take turns
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// The deadline of each request
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    deadline_ms: u64,
    /// The 99th percentile that counts as kept word [default: ten times the median without load]
    #[arg(long, value_name = "MS")]
    slo_ms: Option<f64>,
    /// The most requests in flight; what is due beyond is not sent, and told
    #[arg(long, value_name = "N", default_value_t = 4096)]
    in_flight_max: usize,
    /// The schedule and the clips
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write all figures to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Words to stand before the own server's command, such as "nice -n 5"
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true, conflicts_with = "server")]
    run_with: String,
    /// Options of the own server, as of `vljepa serve`
    #[arg(last = true, value_name = "OPTIONS")]
    serve: Vec<String>,
}

impl Load {
    /// Measures, prints and returns the exit status.
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        self.check()?;
        let drawing = waiting("drawing clips");
        let asks: Arc<[Ask]> = self.asks.asks(self.seed, settings)?.into();
        drawing.finish_and_clear();
        let (server, address) = self.server()?;
        let process = server.as_ref().map(|server| server.process).or(self.server_pid.map(Process));
        let measured = runtime()?.block_on(async {
            tokio::select! {
                measured = self.measure(&address, process, asks, &settings.client) => measured,
                stopped = stopped() => stopped.and_then(|()| anyhow::bail!("stopped before the end")),
            }
        });
        drop(server);
        let (figures, status) = measured?;
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&figures)?;
            std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
        }
        Ok(status)
    }

    async fn measure(
        &self,
        address: &str,
        process: Option<Process>,
        asks: Arc<[Ask]>,
        client: &ClientSettings,
    ) -> anyhow::Result<(Value, i32)> {
        let deadline = Duration::from_millis(self.deadline_ms);
        let connections = Connections::open(address, self.connections, asks, deadline, client).await?;
        let target = Target { connections: Arc::new(connections), process };
        let stand = Stand { load: self, target };
        match (self.sweep, self.report, self.soak) {
            (true, ..) => report::sweep(&stand).await,
            (_, true, _) => report::report(&stand).await,
            (.., Some(time)) => soak::soak(&stand, address, time).await,
            _ => report::single(&stand, self.rate.expect("checked")).await,
        }
    }

    fn kinds(&self) -> Kinds {
        Kinds { rpcs: self.mix.clone(), classes: self.classes.clone(), conducts: self.conducts.clone() }
    }

    /// The own server, if none is named, and the address.
    fn server(&self) -> anyhow::Result<(Option<Server>, String)> {
        if let Some(address) = &self.server {
            let mut found = address.to_socket_addrs().with_context(|| format!("--server {address}"))?;
            let near = found.all(|address| address.ip().is_loopback());
            ensure!(near || self.remote, "--server {address} is another machine: say --remote if you may load it");
            return Ok((None, address.clone()));
        }
        let starting = waiting("starting the server");
        let mut arguments = vec!["serve", "--addr", "127.0.0.1:0"];
        arguments.extend(self.serve.iter().map(String::as_str));
        let server = Server::start(&self.run_with, &arguments)?;
        starting.finish_and_clear();
        let address = server.address.clone();
        Ok((Some(server), address))
    }

    fn check(&self) -> anyhow::Result<()> {
        let Self { duration, warmup, connections, deadline_ms, in_flight_max, .. } = self;
        let others = self.sweep || self.report || self.soak.is_some();
        ensure!(others || self.rate.is_some(), "one of --rate, --sweep, --report and --soak must be given");
        if let Some(rate) = self.rate {
            ensure!((RATE_MIN..=RATE_MAX).contains(&rate), "--rate is {rate}, must be {RATE_MIN} to {RATE_MAX}");
            let requests = rate * (self.soak.unwrap_or(*duration) + *warmup).as_secs_f64();
            ensure!(
                requests <= REQUESTS_MAX,
                "--rate and --duration make {requests:.0} requests, at most {REQUESTS_MAX}"
            );
        }
        ensure!(
            (1..=CONNECTIONS_MAX).contains(connections),
            "--connections is {connections}, must be 1 to {CONNECTIONS_MAX}"
        );
        ensure!((1..=3_600_000).contains(deadline_ms), "--deadline-ms is {deadline_ms}, must be 1 to 3600000");
        ensure!(
            (1..=IN_FLIGHT_MAX).contains(in_flight_max),
            "--in-flight-max is {in_flight_max}, must be 1 to {IN_FLIGHT_MAX}"
        );
        let slo_ms = self.slo_ms.unwrap_or(1.0);
        ensure!(slo_ms > 0.0 && slo_ms <= 3_600_000.0, "--slo-ms is {slo_ms}, must be above 0, at most 3600000");
        Ok(())
    }
}

/// `500ms`, `10s`, `2m`, `1h`; above 0, at most a day.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let seconds =
        units.iter().find_map(|(unit, seconds)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * seconds));
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time <= DURATION_MAX)
        .ok_or_else(|| "must be a time such as 500ms, 10s or 2m, above 0, at most 24h".into())
}

/// Resolves at SIGINT or SIGTERM, so that the own server ends with the client.
async fn stopped() -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("1.5m", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "10", "0s", "-1s", "25h", "NaNs", "infs", "1 s", "s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
