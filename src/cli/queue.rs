//! What `vljepa serve --queue` does beside serving: its jobs are those of a cluster, which it plans and queues for workers.

use std::future::pending;
use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio::task::JoinHandle;

use crate::engine::Models;
use crate::jobs::cluster::{Reconciler, Replicated};
use crate::jobs::{Jobs, Local};
use crate::settings::Settings;

/// The store that a server shares with others.
pub(super) struct Shared(Replicated);

/// Looks after the queue until it is dropped.
pub(super) struct Reconciling(JoinHandle<()>);

impl Shared {
    /// Opens it if there is to be one.
    pub(super) async fn open(settings: &Settings) -> anyhow::Result<Option<Self>> {
        if settings.cluster.url.is_none() {
            return Ok(None);
        }
        let both = "jobs.directory and cluster.url are both set: jobs are kept here or in the queue";
        ensure!(settings.jobs.directory.is_none(), both);
        let store = Replicated::open(settings).await.context("cluster.url")?;
        Ok(Some(Self(store)))
    }

    /// The jobs in it, which workers do.
    pub(super) fn jobs(&self, models: &Models) -> Jobs {
        Jobs::elsewhere(models.clone(), Arc::new(self.0.clone()))
    }

    /// Begins to look after the queue.
    pub(super) async fn reconcile(self, models: &Models) -> anyhow::Result<Reconciling> {
        let reconciler = Reconciler::open(self.0, Arc::new(Local::new(models.clone()))).await.context("cluster.url")?;
        Ok(Reconciling(tokio::spawn(reconciler.run(pending()))))
    }
}

impl Drop for Reconciling {
    fn drop(&mut self) {
        // Whatever it is doing, another one does.
        self.0.abort();
    }
}
