//! `vljepa worker`: takes shards of batch jobs from a queue that many machines share, until it is told to end.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::bundle::BundlesArgs;
use super::log::Log;
use super::serve::{ended_by_signal, listen_for_admin};
use super::{runtime, start_models};
use crate::engine::Models;
use crate::jobs::Local;
use crate::jobs::cluster::{self, Replicated};
use crate::service;
use crate::settings::{Effective, Flag, Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Worker {
    /// Servers of the queue, such as nats://one:4222,nats://two:4222.
    #[arg(long, value_name = "URL,..")]
    queue: Option<String>,
    /// Address for metrics and probes over HTTP, /metrics, /livez and /readyz; not served if nobody sets it.
    #[arg(long, value_name = "IP:PORT")]
    admin_addr: Option<SocketAddr>,
    #[command(flatten)]
    bundles: BundlesArgs,
}

impl Worker {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let queue = Flag::named("--queue", "cluster.url", self.queue.as_deref());
        let admin = Flag::named("--admin-addr", "server.admin_addr", self.admin_addr);
        queue.into_iter().chain(admin).collect()
    }

    pub(super) fn run(self, settings: Settings) -> anyhow::Result<i32> {
        let _log = Log::to_stderr(&settings.log)?;
        for (name, like) in Effective::misspelt() {
            tracing::warn!("{name} is no setting, did you mean {like}?");
        }
        ensure!(settings.cluster.url.is_some(), "there is no queue: --queue or cluster.url names its servers");
        let bundles = self.bundles.open(&settings)?;
        let runtime = runtime()?;
        // Before a model is loaded: the queue may not be there.
        let store = runtime.block_on(Replicated::open(&settings)).context("cluster.url")?;
        let models = start_models(bundles, settings)?;
        let worked = runtime.block_on(work(store, models));
        runtime.shutdown_background();
        worked.map(|()| 0)
    }
}

async fn work(store: Replicated, models: Models) -> anyhow::Result<()> {
    let settings = models.settings().clone();
    let admin = match settings.server.admin_addr {
        Some(asked) => Some(tokio::spawn(service::serve_admin(listen_for_admin(asked).await?, models.clone()))),
        None => None,
    };
    let all = models.all();
    let names: Vec<&str> = all.iter().map(|(name, _)| &**name).collect();
    println!("working with {}", names.join(", "));
    let spaces = all.iter().map(|(_, engine)| engine.space().to_string()).collect();
    drop(all);
    let worker =
        cluster::Worker::new(store, Arc::new(Local::new(models.clone())), spaces, settings.jobs.shards_at_once);
    let shutdown = ended_by_signal()?;
    let worked = tokio::select! {
        worked = worker.run(shutdown) => worked.map_err(anyhow::Error::from),
        () = models.failed() => Err(anyhow::anyhow!("a model's thread panicked")),
    };
    for mut thread in models.close() {
        thread.ended().await;
    }
    if let Some(admin) = admin {
        admin.abort();
    }
    worked
}
