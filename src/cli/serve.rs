//! `vljepa serve`: the gRPC server as a process, with its socket, its signals and its log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::bundle::BundlesArgs;
use super::log::Log;
#[cfg(feature = "nats")]
use super::queue::Shared;
use super::{runtime, start_models};
use crate::jobs::Jobs;
use crate::jobs::store::{Embedded, Store};
use crate::service::{self, Listeners, Served};
use crate::settings::{Effective, Flag, JobSettings, Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Address to listen on, 127.0.0.1:50051 if nobody sets it; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<SocketAddr>,
    /// Address for metrics and probes over HTTP, /metrics, /livez and /readyz; not served if nobody sets it.
    #[arg(long, value_name = "IP:PORT")]
    admin_addr: Option<SocketAddr>,
    /// Speak TLS with this certificate (PEM, then those it is signed by).
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Serve only clients that show a certificate of these authorities (PEM).
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Serve only bearers of the keys in this file; `vljepa key new` makes them.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Take batch jobs for workers on other machines, through the queue of these servers, such as
    /// nats://one:4222,nats://two:4222.
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "URL,..")]
    queue: Option<String>,
    /// Work on batch jobs, and keep them in this directory; one server at a time may use it.
    #[arg(long, value_name = "DIR")]
    jobs: Option<PathBuf>,
    /// Let clients make jobs whose inputs and outputs lie below this directory.
    #[arg(long, value_name = "DIR")]
    jobs_root: Option<PathBuf>,
    #[command(flatten)]
    bundles: BundlesArgs,
}

impl Serve {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let files = [
            ("--tls-certificate", "tls.certificate", &self.tls_certificate),
            ("--tls-key", "tls.key", &self.tls_key),
            ("--tls-client-ca", "tls.client_ca", &self.tls_client_ca),
            ("--keys", "keys.file", &self.keys),
            ("--jobs", "jobs.directory", &self.jobs),
            ("--jobs-root", "jobs.root", &self.jobs_root),
        ];
        let files = files.into_iter().filter_map(|(flag, key, file)| Flag::file(flag, key, file.as_deref()));
        let addresses = [
            Flag::named("--addr", "server.addr", self.addr),
            Flag::named("--admin-addr", "server.admin_addr", self.admin_addr),
        ];
        let flags = addresses.into_iter().flatten().chain(files);
        #[cfg(feature = "nats")]
        let flags = flags.chain(Flag::named("--queue", "cluster.url", self.queue.as_deref()));
        flags.collect()
    }

    pub(super) fn run(self, settings: Settings) -> anyhow::Result<i32> {
        let _log = Log::to_stderr(&settings.log)?;
        for (name, like) in Effective::misspelt() {
            tracing::warn!("{name} is no setting, did you mean {like}?");
        }
        service::check_files(&settings)?;
        let (asked, admin_asked) = (settings.server.addr, settings.server.admin_addr);
        let (secured, insecure) = (secured(&settings), insecure(&settings));
        // Before a model is loaded: another server may have the store.
        let store = store(&settings)?;
        let runtime = runtime()?;
        // Before a model is loaded: the queue may not be there.
        #[cfg(feature = "nats")]
        let shared = runtime.block_on(Shared::open(&settings))?;
        let models = start_models(self.bundles.open(&settings)?, settings)?;
        let jobs = store.map(|store| Jobs::open(models.clone(), store));
        #[cfg(feature = "nats")]
        let jobs = jobs.or_else(|| shared.as_ref().map(|shared| shared.jobs(&models)));
        let served = runtime.block_on(async {
            let listener = TcpListener::bind(asked).await.with_context(|| format!("server.addr {asked}"))?;
            let addr = listener.local_addr()?;
            for problem in insecure.iter().filter(|_| !addr.ip().is_loopback()) {
                tracing::warn!(%addr, "{problem}");
            }
            let admin = match admin_asked {
                Some(asked) => Some(listen_for_admin(asked).await?),
                None => None,
            };
            let names: Vec<String> = models.all().into_iter().map(|(name, _)| name).collect();
            #[cfg(debug_assertions)]
            super::fault::panic_by_signal(models.clone())?;
            #[cfg(feature = "nats")]
            let _reconciling = match shared {
                Some(shared) => Some(shared.reconcile(&models).await?),
                None => None,
            };
            println!("serving {} on {addr}{secured}", names.join(", "));
            let served = Served { models, jobs };
            service::serve(Listeners { calls: listener, admin }, served, ended_by_signal()?).await?;
            anyhow::Ok(())
        });
        // Connections that hang must not hold the exit.
        runtime.shutdown_background();
        served.map(|()| 0)
    }
}

/// The store of jobs, if there are to be any.
fn store(settings: &Settings) -> anyhow::Result<Option<Arc<dyn Store>>> {
    let JobSettings { directory, root, items_max, .. } = &settings.jobs;
    if let Some(root) = root {
        anyhow::ensure!(root.is_dir(), "jobs.root {}: is no directory", root.display());
    }
    let Some(directory) = directory else { return Ok(None) };
    let store = Embedded::open(directory, *items_max).context("jobs.directory")?;
    Ok(Some(Arc::new(store)))
}

/// The listener for metrics and probes, which no key protects.
pub(super) async fn listen_for_admin(asked: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(asked).await.with_context(|| format!("server.admin_addr {asked}"))?;
    let addr = listener.local_addr()?;
    if !addr.ip().is_loopback() {
        tracing::warn!(%addr, "anyone who reaches this address sees metrics and probes");
    }
    println!("metrics and probes on http://{addr}");
    Ok(listener)
}

/// What protects the server, for the line that tells where it listens.
fn secured(settings: &Settings) -> String {
    let Settings { tls, keys, .. } = settings;
    let protections = [
        tls.certificate.as_ref().map(|_| "TLS"),
        tls.client_ca.as_ref().map(|_| "client certificates"),
        keys.file.as_ref().map(|_| "keys"),
    ];
    let protections: Vec<&str> = protections.into_iter().flatten().collect();
    if protections.is_empty() { String::new() } else { format!(", with {}", protections.join(" and ")) }
}

/// What is wrong with serving others than this machine like this.
fn insecure(settings: &Settings) -> Vec<&'static str> {
    let Settings { tls, keys, .. } = settings;
    let (encrypted, known) = (tls.certificate.is_some(), tls.client_ca.is_some() || keys.file.is_some());
    match (encrypted, known) {
        (true, true) => vec![],
        (true, false) => vec!["anyone who reaches this address is served: set keys.file or tls.client_ca"],
        (false, true) => vec!["keys and all that is asked and answered go in clear text: set tls.certificate"],
        (false, false) => vec![
            "anyone who reaches this address is served: set keys.file or tls.client_ca",
            "all that is asked and answered goes in clear text: set tls.certificate",
        ],
    }
}

/// Resolves at the first SIGINT or SIGTERM; the second one ends the process.
pub(super) fn ended_by_signal() -> anyhow::Result<impl Future<Output = ()>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_protects_a_server_is_told_and_what_does_not_is_warned_of() {
        let file = || Some(PathBuf::from("x.pem"));
        for (certificate, client_ca, keys, told, warnings) in [
            (None, None, None, "", &["anyone", "all that"][..]),
            (None, None, file(), ", with keys", &["keys and all"]),
            (file(), None, None, ", with TLS", &["anyone"]),
            (file(), file(), None, ", with TLS and client certificates", &[]),
            (file(), file(), file(), ", with TLS and client certificates and keys", &[]),
        ] {
            let mut settings = Settings::default();
            (settings.tls.certificate, settings.tls.client_ca, settings.keys.file) = (certificate, client_ca, keys);
            assert_eq!(secured(&settings), told);
            let warned = insecure(&settings);
            assert_eq!(warned.len(), warnings.len(), "{warned:?}");
            assert!(warned.iter().zip(warnings).all(|(all, begin)| all.starts_with(begin)), "{warned:?}");
        }
    }
}
