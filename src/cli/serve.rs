//! `vljepa serve`: the gRPC server as a process, with its socket, its signals and its log.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::bundle::BundlesArgs;
use super::log::Log;
use super::{runtime, start_models};
use crate::service::{self, Listeners};
use crate::settings::{Flag, Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Address to listen on, 127.0.0.1:50051 if nobody sets it; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<SocketAddr>,
    /// Address for metrics and probes over HTTP, /metrics, /livez and /readyz; not served if nobody sets it.
    #[arg(long, value_name = "IP:PORT")]
    admin_addr: Option<SocketAddr>,
    #[command(flatten)]
    bundles: BundlesArgs,
}

impl Serve {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let flags = [
            Flag::named("--addr", "server.addr", self.addr),
            Flag::named("--admin-addr", "server.admin_addr", self.admin_addr),
        ];
        flags.into_iter().flatten().collect()
    }

    pub(super) fn run(self, settings: Settings) -> anyhow::Result<i32> {
        let _log = Log::to_stderr(&settings.log)?;
        let (asked, admin_asked) = (settings.server.addr, settings.server.admin_addr);
        let models = start_models(self.bundles.open(&settings)?, settings)?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let listener = TcpListener::bind(asked).await.with_context(|| format!("server.addr {asked}"))?;
            let addr = listener.local_addr()?;
            if !addr.ip().is_loopback() {
                tracing::warn!(%addr, "anyone who reaches this address is served: there is no TLS and no key");
            }
            let admin = match admin_asked {
                Some(asked) => Some(listen_for_admin(asked).await?),
                None => None,
            };
            let names: Vec<String> = models.all().into_iter().map(|(name, _)| name).collect();
            println!("serving {} on {addr}", names.join(", "));
            service::serve(Listeners { calls: listener, admin }, models, ended_by_signal()?).await?;
            anyhow::Ok(())
        });
        // Connections that hang must not hold the exit.
        runtime.shutdown_background();
        served.map(|()| 0)
    }
}

/// The listener for metrics and probes, which no key protects.
async fn listen_for_admin(asked: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(asked).await.with_context(|| format!("server.admin_addr {asked}"))?;
    let addr = listener.local_addr()?;
    if !addr.ip().is_loopback() {
        tracing::warn!(%addr, "anyone who reaches this address sees metrics and probes");
    }
    println!("metrics and probes on http://{addr}");
    Ok(listener)
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
