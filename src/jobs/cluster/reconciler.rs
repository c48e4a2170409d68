//! Keeps the queue as the truth says it should be: plans jobs, queues shards, takes out those of jobs that do not run,
//! ends what is to end, finishes what somebody began and clears up. Every server has one; one of them acts. It looks
//! at what is, never at what it did before, so that another one goes on where it was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::claim::{Claim, Claims};
use super::queue::Ticket;
use super::replicated::Replicated;
use super::view::{Kept, Known};
use crate::jobs::commit::{Halt, forward};
use crate::jobs::{Event, Fault, Job, JobId, State, Store, StoreError, Work};

/// What changes together is looked at once.
const TOGETHER: Duration = Duration::from_millis(50);
/// Time after which the work of a reconciler that is not heard of goes to another one.
const CLAIM_MAX: Duration = Duration::from_secs(12);

/// The reconciler of one server.
pub struct Reconciler {
    store: Replicated,
    work: Arc<dyn Work>,
    claims: Claims,
    acting: Option<Claim>,
    planning: Option<Planning>,
    seen: HashMap<JobId, Seen>,
}

struct Planning {
    job: JobId,
    task: JoinHandle<()>,
}

impl Drop for Planning {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a job was when it was last looked at.
struct Seen {
    revision: u64,
    shards: u32,
    at: Instant,
    /// Its shards that were decided and not settled then.
    unsettled: Vec<u32>,
}

impl Reconciler {
    /// A reconciler of this store, for what this machine can do.
    pub async fn open(store: Replicated, work: Arc<dyn Work>) -> Result<Self, StoreError> {
        let settings = store.settings();
        let claims = Claims::open(store.connection(), &settings.name, settings.replicas, CLAIM_MAX).await?;
        Ok(Self { store, work, claims, acting: None, planning: None, seen: HashMap::new() })
    }

    /// Runs until `shutdown` resolves. What it is doing then, another one does.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = shutdown => {}
            () = self.look_for_ever() => {}
        }
    }

    async fn look_for_ever(&mut self) {
        let mut changes = self.store.changes();
        let pause = Duration::from_millis(self.store.settings().reconcile_ms);
        loop {
            changes.mark_unchanged();
            if let Err(error) = self.look().await {
                tracing::warn!("the queue is not looked after: {error}");
                tokio::time::sleep(TOGETHER * 10).await;
            }
            let changed = async {
                // The store holds the sender.
                let _ = changes.changed().await;
                tokio::time::sleep(TOGETHER).await;
            };
            // It is no harm if nothing has changed.
            let _ = tokio::time::timeout(pause, changed).await;
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let jobs: Vec<Known> = self.store.view().all().cloned().collect();
        self.plan(&jobs).await?;
        if !self.acting.as_ref().is_some_and(Claim::holds) {
            self.acting = self.claims.take("reconciler").await?;
        }
        if self.acting.is_none() {
            return Ok(());
        }
        self.seen.retain(|id, _| jobs.iter().any(|known| known.kept.job.id == *id));
        for known in &jobs {
            if self.is_due(known) {
                // One job that cannot be looked after keeps nobody else from it.
                if let Err(error) = self.look_at(&known.kept).await {
                    tracing::warn!(job = %known.kept.job.id, "is not looked after: {error}");
                }
            }
        }
        let orphans = self.store.view().orphans();
        for id in orphans {
            // Only a job that the bucket does not have is gone; one whose records were seen first is not.
            if let Err(StoreError::Unknown(_)) = self.store.kept(&id).await {
                self.store.clear(&id).await?;
            }
        }
        Ok(())
    }

    /// Whether anything has changed, or it is time to make sure.
    fn is_due(&self, known: &Known) -> bool {
        let Kept { job, swept, .. } = &known.kept;
        let Some(seen) = self.seen.get(&job.id) else { return true };
        let shards = self.store.view().with_progress(job).progress.shards;
        let pause = Duration::from_millis(self.store.settings().reconcile_ms);
        let quiet = job.state.ended() && *swept && seen.unsettled.is_empty();
        seen.revision != known.revision || seen.shards != shards || (!quiet && seen.at.elapsed() >= pause)
    }

    async fn look_at(&mut self, kept: &Kept) -> Result<(), StoreError> {
        let (id, state) = (&kept.job.id, kept.job.state);
        let revision = self.store.view().known(id).map_or(0, |known| known.revision);
        let shards = self.store.view().with_progress(&kept.job).progress.shards;
        let unsettled = self.roll_forward(kept).await;
        match state {
            State::Pending => {}
            State::Running => self.fill(kept).await?,
            // Nothing of its output is there: another job may have the place.
            State::Failed if kept.job.plan.is_none() && !kept.swept => self.sweep(kept).await?,
            State::Paused | State::Failed => self.store.queue().forget(id, Some(kept.generation)).await?,
            State::Cancelling => {
                self.store.queue().forget(id, None).await?;
                self.store.change(id, Event::Idle).await?;
            }
            State::Cancelled | State::Succeeded if !kept.swept => {
                self.store.queue().forget(id, None).await?;
                self.sweep(kept).await?;
            }
            State::Cancelled | State::Succeeded => {}
        }
        self.seen.insert(id.clone(), Seen { revision, shards, at: Instant::now(), unsettled });
        Ok(())
    }

    /// Plans the eldest job whose model is here and whom nobody plans; one at a time.
    async fn plan(&mut self, jobs: &[Known]) -> Result<(), StoreError> {
        if let Some(planning) = self.planning.take_if(|planning| planning.task.is_finished()) {
            tracing::debug!(job = %planning.job, "planned");
        }
        if let Some(planning) = &self.planning {
            let wanted = |known: &&Known| known.kept.job.state == State::Pending;
            if jobs.iter().filter(wanted).any(|known| known.kept.job.id == planning.job) {
                return Ok(());
            }
            // It was paused, cancelled or planned elsewhere.
            self.planning = None;
        }
        for known in jobs {
            let job = &known.kept.job;
            if job.state != State::Pending || job.plan.is_some() || self.work.model(&job.spec.model).is_err() {
                continue;
            }
            if let Some(claim) = self.claims.take(&format!("plan.{}", job.id)).await? {
                let planned = planned(self.store.clone(), self.work.clone(), job.clone(), claim);
                self.planning = Some(Planning { job: job.id.clone(), task: tokio::spawn(planned) });
                return Ok(());
            }
        }
        Ok(())
    }

    /// Queues the next shards that nobody has finished and that are in no message.
    async fn fill(&self, kept: &Kept) -> Result<(), StoreError> {
        let Kept { job, generation, .. } = kept;
        let Some(plan) = &job.plan else { return Ok(()) };
        // First what is queued, then what is open: what is done between is queued in vain, which its worker sees.
        let queued = self.store.queue().queued(&job.id, *generation).await?;
        let room = self.store.settings().shards_ahead.saturating_sub(queued.len());
        let open = self.store.view().open_shards(&job.id, plan.shards, &queued, room);
        if open.is_empty() {
            return Ok(());
        }
        let shards = self.store.planned(kept, &open).await?;
        let ticket = |shard| Ticket { job: job.id.clone(), generation: *generation, shard };
        let all: Vec<Ticket> = shards.into_iter().map(ticket).collect();
        self.store.queue().publish(job.spec.rank, &plan.space, &all).await
    }

    /// Finishes what a worker decided and did not settle in the time between two looks; returns what is left.
    async fn roll_forward(&self, kept: &Kept) -> Vec<u32> {
        let job = &kept.job;
        let mut unsettled = self.store.view().unsettled(&job.id);
        let pause = Duration::from_millis(self.store.settings().reconcile_ms);
        let Some(seen) = self.seen.get(&job.id).filter(|seen| seen.at.elapsed() >= pause) else { return unsettled };
        let old = unsettled.iter().copied().filter(|shard| seen.unsettled.contains(shard));
        for shard in old.collect::<Vec<_>>() {
            match self.finish(job, shard).await {
                Ok(()) => unsettled.retain(|left| *left != shard),
                Err(halt) => tracing::warn!(job = %job.id, shard, "is decided and cannot be settled: {halt}"),
            }
        }
        unsettled
    }

    /// Gives a decided shard's files their names, and settles it. Files that are not as they were written end the job:
    /// nobody may compute the shard anew, for it is decided.
    async fn finish(&self, job: &Job, shard: u32) -> Result<(), Halt> {
        let Some(record) = self.store.record(&job.id, shard).await? else { return Ok(()) };
        let finished = forward(&self.store, &*self.work, job, shard, &record).await;
        if let Err(Halt::Fault(Fault::Broken(reason))) = &finished {
            self.store.change(&job.id, Event::Fail(format!("shard {shard}: {reason}"))).await?;
        }
        finished.map(drop)
    }

    async fn sweep(&self, kept: &Kept) -> Result<(), StoreError> {
        let job = &kept.job;
        let mut keep = HashSet::new();
        let unsettled = self.store.view().unsettled(&job.id);
        for shard in unsettled {
            keep.extend(self.store.record(&job.id, shard).await?.map(|record| record.staged.attempt));
        }
        if let Err(fault) = self.work.sweep(job, &keep).await {
            tracing::warn!(job = %job.id, "what its attempts left behind stays: {fault}");
        }
        let swept = |kept: &mut Kept| Ok(!std::mem::replace(&mut kept.swept, true));
        self.store.alter(&job.id, swept).await.map(drop)
    }
}

/// Plans one job.
async fn planned(store: Replicated, work: Arc<dyn Work>, job: Job, claim: Claim) {
    let kept = match work.plan(&job).await {
        Ok((shards, plan)) => store.plan(&job.id, shards, plan).await,
        Err(Fault::Broken(reason)) => store.change(&job.id, Event::Fail(reason)).await,
        // Another server plans it.
        Err(Fault::Stopped) => return,
    };
    drop(claim);
    match kept {
        Ok(job) => tracing::info!(job = %job.id, state = job.state.name(), "planned"),
        Err(error) => tracing::warn!(job = %job.id, "the plan could not be kept: {error}"),
    }
}
