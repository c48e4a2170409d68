//! Work as it is done for good: inputs are read from this machine's disks, shards computed by this process's models,
//! outputs written wherever [`Files`] can.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::attempt::attempt;
use super::files::Files;
use super::inputs;
use super::job::{Job, Plan};
use super::pace::Meter;
use super::parts::{ErrorsToken, read_errors};
use super::row::{Failed, Fault};
use super::shard::{Shard, Staged};
use super::work::Work;
use crate::engine::{Engine, EngineError, Models};

/// The work of this machine's models.
pub struct Local {
    models: Models,
}

impl Local {
    /// The work of these models.
    pub fn new(models: Models) -> Self {
        Self { models }
    }

    fn files(&self, job: &Job) -> Result<Files, EngineError> {
        Files::open(&job.spec.output.location, &self.models.settings().objects)
    }

    fn engine(&self, job: &Job) -> Result<Engine, Fault> {
        self.models.named(&job.spec.model).map_err(|error| match self.models.all().is_empty() {
            // The process ends, or has not begun to serve.
            true => Fault::Stopped,
            false => broken(error),
        })
    }

    async fn cut(&self, job: &Job, files: &Files) -> Result<(Vec<Shard>, u64), Fault> {
        let given_up = Arc::new(AtomicBool::new(false));
        let _dropped = SetOnDrop(given_up.clone());
        let (spec, files, settings) = (job.spec.clone(), files.clone(), self.models.settings().clone());
        let cut = move || inputs::plan(&spec, &files, &settings, &|| given_up.load(Ordering::Relaxed));
        match tokio::task::spawn_blocking(cut).await {
            Ok(cut) => cut,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Err(Fault::Stopped),
        }
    }
}

fn broken(error: EngineError) -> Fault {
    Fault::Broken(error.to_string())
}

/// Tells a thread that nobody waits for it any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Work for Local {
    fn model(&self, name: &str) -> Result<String, EngineError> {
        self.models.entry(name).map(|(name, _)| name)
    }

    async fn plan(&self, job: &Job) -> Result<(Vec<Shard>, Plan), Fault> {
        let space = self.engine(job)?.space().to_string();
        let files = self.files(job).map_err(broken)?;
        files.claim(&job.id).await.map_err(broken)?;
        let (shards, rows) = self.cut(job, &files).await?;
        let plan = Plan { shards: shards.len() as u32, rows, space };
        Ok((shards, plan))
    }

    async fn attempt(&self, job: &Job, shard: &Shard, meter: &Meter) -> Result<Staged, Fault> {
        attempt(&self.engine(job)?, job, shard, &self.files(job).map_err(broken)?, meter).await
    }

    async fn publish(&self, job: &Job, staged: &Staged) -> Result<(), Fault> {
        self.files(job).map_err(broken)?.publish(staged).await
    }

    async fn lost(&self, job: &Job, staged: &Staged) -> Result<Option<String>, Fault> {
        self.files(job).map_err(broken)?.lost(staged).await
    }

    async fn discard(&self, job: &Job, attempt: &str) -> Result<(), Fault> {
        self.files(job).map_err(broken)?.discard(attempt).await
    }

    async fn sweep(&self, job: &Job, keep: &HashSet<String>) -> Result<(), Fault> {
        let files = self.files(job).map_err(broken)?;
        // A job that failed because the output is another's has nothing there.
        if files.owner().await?.as_ref() != Some(&job.id) {
            return Ok(());
        }
        match job.plan {
            Some(_) => files.sweep(keep).await,
            // Another job may be told to do better.
            None => files.release().await,
        }
    }

    async fn clear(&self, job: &Job) -> Result<(), EngineError> {
        let files = self.files(job)?;
        let unfit = |problem: String| EngineError::Unfit { subject: "output.location".into(), problem };
        let owner = files.owner().await.map_err(|fault| unfit(fault.to_string()))?;
        match owner {
            Some(owner) if owner == job.id => files.clear().await.map_err(|fault| unfit(fault.to_string())),
            Some(owner) if job.plan.is_some() => {
                Err(unfit(format!("{} holds the output of job {owner}", files.location())))
            }
            // Nothing of this job is there.
            _ => Ok(()),
        }
    }

    async fn errors(
        &self,
        job: &Job,
        from: ErrorsToken,
        max: usize,
    ) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError> {
        read_errors(&self.files(job)?, from, max).await
    }
}
