//! `vljepa serve`: the gRPC server as a process, with its socket, its signals and its log.

use std::io::IsTerminal;
use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::bundle::BundlesArgs;
use super::{runtime, start_models};
use crate::service;
use crate::settings::{Flag, LogSettings, Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Address to listen on, 127.0.0.1:50051 if nobody sets it; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<SocketAddr>,
    #[command(flatten)]
    bundles: BundlesArgs,
}

impl Serve {
    pub(super) fn flags(&self) -> Vec<Flag> {
        Flag::named("--addr", "server.addr", self.addr).into_iter().collect()
    }

    pub(super) fn run(self, settings: Settings) -> anyhow::Result<i32> {
        log_to_stderr(&settings.log)?;
        let asked = settings.server.addr;
        let models = start_models(self.bundles.open(&settings)?, settings)?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let listener = TcpListener::bind(asked).await.with_context(|| format!("server.addr {asked}"))?;
            let addr = listener.local_addr()?;
            if !addr.ip().is_loopback() {
                tracing::warn!(%addr, "anyone who reaches this address is served: there is no TLS and no key");
            }
            let names: Vec<String> = models.all().into_iter().map(|(name, _)| name).collect();
            println!("serving {} on {addr}", names.join(", "));
            service::serve(listener, models, ended_by_signal()?).await?;
            anyhow::Ok(())
        });
        // Connections that hang must not hold the exit.
        runtime.shutdown_background();
        served.map(|()| 0)
    }
}

fn log_to_stderr(log: &LogSettings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter is {:?}", log.filter))?;
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    if log.format == "json" {
        lines.json().init()
    } else {
        lines.init()
    }
    Ok(())
}

/// Resolves at the first SIGINT or SIGTERM; the second one ends the process.
fn ended_by_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut next = async move || {
        tokio::select! { _ = interrupt.recv() => 130, _ = terminate.recv() => 143 }
    };
    Ok(async move {
        next().await;
        tokio::spawn(async move { std::process::exit(next().await) });
    })
}
