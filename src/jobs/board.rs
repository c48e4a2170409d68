//! What callers may do with jobs: [`Jobs`], which the service and the commands hold. It knows whose a job is, and adds
//! to what the store keeps of it how it moves just now.

mod watching;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, Stream};
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::time::{Instant, sleep};

use super::job::{Event, Job, JobId, State, now_ms};
use super::local::Local;
use super::pace::Live;
use super::runner::{Only, Runner, Tools, Touched};
use super::shard::Record;
use super::spec::Spec;
use super::store::{Store, StoreError};
use super::work::Work;
use crate::engine::{EngineError, Models, shortened};
use crate::settings::Settings;
use watching::Watching;

/// Jobs that are read from the store at once.
const PAGE: usize = 256;
/// Time between two tries of a store that fails, at first and at last.
const STORE_PAUSE: Duration = Duration::from_secs(1);
const STORE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The jobs of one process; cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    work: Arc<dyn Work>,
    store: Arc<dyn Store>,
    /// Whether this process works jobs off.
    here: bool,
    live: Live,
    touched: Touched,
    shards_at_once: usize,
    /// What a refused caller is told to wait.
    retry_after: Duration,
    /// Jobs whose outputs are being removed: these are not resumed meanwhile.
    removing: Mutex<HashSet<JobId>>,
}

/// What somebody wants done.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// What is to be done. A model without name means the first that is served.
    pub spec: Spec,
    /// What the caller calls it; may be empty.
    pub title: String,
    /// Name of the caller's key; none where keys are not asked for.
    pub owner: Option<String>,
    /// The caller's own name for this request; may be empty.
    pub request_id: String,
}

/// A job as it stands just now.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// What is kept of it.
    pub job: Job,
    /// Rows that are through, in parts that are not written yet.
    pub in_work: u64,
    /// Rows a second, lately; 0 while nothing is worked on.
    pub rows_per_second: f64,
    /// Time left at that rate, milliseconds; none while nothing can be said.
    pub left_ms: Option<u64>,
}

/// Some of a caller's jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPage {
    /// The eldest first.
    pub jobs: Vec<JobView>,
    /// The last of them if more follow.
    pub next: Option<JobId>,
}

impl Jobs {
    /// The jobs in `store`, worked off by `models` on this machine's disks.
    pub fn open(models: Models, store: Arc<dyn Store>) -> Self {
        let settings = models.settings().clone();
        Self::of(Arc::new(Local::new(models)), store, &settings)
    }

    /// The jobs in `store`, worked off by other processes, which share it: [`Jobs::run`] does nothing here. `models` are
    /// those that may be asked for.
    pub fn elsewhere(models: Models, store: Arc<dyn Store>) -> Self {
        let settings = models.settings().clone();
        Self::new(Arc::new(Local::new(models)), store, &settings, false)
    }

    /// The jobs in `store`, whose work is done by `work`.
    pub fn of(work: Arc<dyn Work>, store: Arc<dyn Store>, settings: &Settings) -> Self {
        Self::new(work, store, settings, true)
    }

    fn new(work: Arc<dyn Work>, store: Arc<dyn Store>, settings: &Settings, here: bool) -> Self {
        Self(Arc::new(Inner {
            work,
            store,
            here,
            live: Live::default(),
            touched: Touched::default(),
            shards_at_once: settings.jobs.shards_at_once,
            retry_after: Duration::from_millis(settings.service.retry_after_max_ms),
            removing: Mutex::default(),
        }))
    }

    /// Keeps a new job. A second request of the same owner and request id gets the job of the first.
    pub async fn create(&self, new: NewJob) -> Result<JobView, EngineError> {
        let chance = OsRng.try_next_u64();
        let chance = chance.map_err(|error| EngineError::Internal(format!("no random numbers: {error}")))?;
        let job = self.new_job(new, |_, now_ms| JobId::new(now_ms, chance))?;
        self.keep(job).await
    }

    /// Keeps a job whose name follows from what it is asked to do, unless it is kept: asking twice is asking once, here
    /// and in other processes with stores of their own.
    pub async fn adopt(&self, new: NewJob) -> Result<JobView, EngineError> {
        let job = self.new_job(new, |spec, _| JobId::of(spec))?;
        match self.0.store.job(&job.id).await {
            Ok(kept) => Ok(self.view(kept)),
            Err(StoreError::Unknown(_)) => self.keep(job).await,
            Err(error) => Err(self.told(error)),
        }
    }

    fn new_job(&self, new: NewJob, name: impl FnOnce(&Spec, u64) -> JobId) -> Result<Job, EngineError> {
        let NewJob { mut spec, title, owner, request_id } = new;
        spec.model = self.0.work.model(&spec.model)?;
        let now_ms = now_ms();
        Ok(Job { title, owner, request_id, ..Job::new(name(&spec, now_ms), spec, now_ms) })
    }

    async fn keep(&self, job: Job) -> Result<JobView, EngineError> {
        let job = self.0.store.create(job).await.map_err(|error| self.told(error))?;
        self.0.touched.touch(&job.id);
        Ok(self.view(job))
    }

    /// One job of `owner`. Without owner any: where keys are not asked for, everybody may do everything.
    pub async fn get(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        let job = self.0.store.job(id).await.map_err(|error| self.told(error))?;
        if owner.is_some() && job.owner.as_deref() != owner {
            return Err(gone(id));
        }
        Ok(self.view(job))
    }

    /// At most `max` jobs of `owner` that come after `after`.
    pub async fn list(&self, owner: Option<&str>, after: Option<&JobId>, max: usize) -> Result<JobPage, EngineError> {
        let (mut jobs, mut after) = (Vec::new(), after.cloned());
        loop {
            let page = self.0.store.jobs(after.as_ref(), PAGE).await.map_err(|error| self.told(error))?;
            let last = page.len() < PAGE;
            for job in page {
                after = Some(job.id.clone());
                if owner.is_none() || job.owner.as_deref() == owner {
                    jobs.push(self.view(job));
                }
                // One more than is told shows whether more follow.
                if jobs.len() > max {
                    jobs.truncate(max);
                    return Ok(JobPage { next: jobs.last().map(|view| view.job.id.clone()), jobs });
                }
            }
            if last {
                return Ok(JobPage { jobs, next: None });
            }
        }
    }

    /// How a job stands, now and whenever that changes, at most four times a second; ends after telling that it has
    /// ended. An error is the last item.
    pub async fn watch(
        &self,
        id: &JobId,
        owner: Option<&str>,
    ) -> Result<impl Stream<Item = Result<JobView, EngineError>> + Send + use<>, EngineError> {
        self.get(id, owner).await?;
        let (stored, moved) = (self.0.store.changes(), self.0.live.changes());
        let watching = Watching::new(self.clone(), id, owner, stored, moved);
        Ok(stream::unfold(watching, async |mut watching| Some((watching.next().await?, watching))))
    }

    /// Lets a job wait.
    pub async fn pause(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        self.change(id, owner, Event::Pause).await
    }

    /// Lets a job go on that is paused or has failed.
    pub async fn resume(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        self.get(id, owner).await?;
        let _kept = self.alone_with(id)?;
        self.change(id, owner, Event::Resume).await
    }

    /// Ends a job.
    pub async fn cancel(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        self.change(id, owner, Event::Cancel).await
    }

    async fn change(&self, id: &JobId, owner: Option<&str>, event: Event) -> Result<JobView, EngineError> {
        self.get(id, owner).await?;
        let job = self.0.store.change(id, event).await.map_err(|error| self.told(error))?;
        self.0.touched.touch(id);
        Ok(self.view(job))
    }

    /// Forgets a job that has ended, and removes its output first if that is to go, too.
    pub async fn delete(&self, id: &JobId, owner: Option<&str>, delete_output: bool) -> Result<(), EngineError> {
        self.get(id, owner).await?;
        let _kept = self.alone_with(id)?;
        let job = self.get(id, owner).await?.job;
        job.deletable().map_err(|refused| self.told(refused.into()))?;
        // Parts that were computed when it ended are still being written.
        let mut moved = self.0.live.changes();
        while self.0.live.works(id) {
            _ = moved.changed().await;
        }
        if delete_output {
            self.0.work.clear(&job).await?;
        }
        self.0.store.delete(id).await.map_err(|error| self.told(error))?;
        self.0.touched.touch(id);
        Ok(())
    }

    /// Keeps others from resuming and deleting a job.
    fn alone_with(&self, id: &JobId) -> Result<Alone<'_>, EngineError> {
        match self.0.removing().insert(id.clone()) {
            true => Ok(Alone { inner: &self.0, id: id.clone() }),
            false => Err(EngineError::Unfit {
                subject: format!("job {id}"),
                problem: "somebody else is resuming or deleting it".into(),
            }),
        }
    }

    /// How many jobs are in each state.
    pub async fn states(&self) -> Result<[(State, usize); State::ALL.len()], EngineError> {
        let (mut counts, mut after) = (State::ALL.map(|state| (state, 0)), None);
        loop {
            let page = self.0.store.jobs(after.as_ref(), PAGE).await.map_err(|error| self.told(error))?;
            let Some(last) = page.last() else { return Ok(counts) };
            after = Some(last.id.clone());
            for job in &page {
                counts.iter_mut().filter(|(state, _)| *state == job.state).for_each(|(_, count)| *count += 1);
            }
        }
    }

    pub(super) fn work(&self) -> &dyn Work {
        &*self.0.work
    }

    /// At most `max` shards from number `from` on, each with its rows that failed in a part that is written.
    pub(super) async fn written(&self, id: &JobId, from: u32, max: usize) -> Result<Vec<(u32, u64)>, EngineError> {
        let shards = self.0.store.shards(id, from, max).await.map_err(|error| self.told(error))?;
        let failed = |record: Option<Record>| {
            record.filter(|record| record.settled).map_or(0, |record| record.staged.tally.failed)
        };
        Ok(shards.into_iter().map(|(shard, record)| (shard.index, failed(record))).collect())
    }

    /// Works the jobs off until `shutdown`; what is in work then is given up and done anew by whoever goes on. A store
    /// that fails is tried again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        if !self.0.here {
            return shutdown.await;
        }
        tokio::pin!(shutdown);
        let mut pause = STORE_PAUSE;
        loop {
            let began = Instant::now();
            let Err(error) = self.runner(None).run(&mut shutdown).await else { return };
            if began.elapsed() > STORE_PAUSE_MAX {
                pause = STORE_PAUSE;
            }
            tracing::error!("jobs stand still, next try in {} s: {error}", pause.as_secs());
            tokio::select! {
                () = &mut shutdown => return,
                () = sleep(pause) => pause = (pause * 2).min(STORE_PAUSE_MAX),
            }
        }
    }

    /// Works one job off, all shards or `only` some, until nothing more is to be done here or until `shutdown`, and
    /// tells how it stands then.
    pub async fn finish(
        &self,
        id: &JobId,
        only: Option<Only>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<JobView, EngineError> {
        self.runner(only).finish(id, shutdown).await.map_err(|error| self.told(error))?;
        self.get(id, None).await
    }

    fn runner(&self, only: Option<Only>) -> Runner {
        let Inner { store, work, live, .. } = &*self.0;
        let tools = Tools { store: store.clone(), work: work.clone(), live: live.clone(), only };
        Runner::new(tools, self.0.touched.clone(), self.0.shards_at_once)
    }

    fn view(&self, job: Job) -> JobView {
        match job.state {
            _ if self.0.here => {}
            State::Running => self.0.live.elsewhere(&job.id, job.progress.tally.rows()),
            _ => self.0.live.forget(&job.id),
        }
        let (in_work, rows_per_second) = self.0.live.of(&job.id);
        let rows = job.plan.as_ref().map_or(0, |plan| plan.rows);
        // A shard is told as settled a moment before its meter goes.
        let open = rows.saturating_sub(job.progress.tally.rows());
        let in_work = in_work.min(open);
        let moves = job.state == State::Running && rows_per_second > 0.0;
        let left_ms = moves.then(|| ((open - in_work) as f64 / rows_per_second * 1e3) as u64);
        JobView { job, in_work, rows_per_second, left_ms }
    }

    fn told(&self, error: StoreError) -> EngineError {
        match error {
            StoreError::Unknown(id) => gone(&id),
            StoreError::Present(id) => EngineError::Internal(format!("job {id} was made twice")),
            StoreError::Refused(refused) => EngineError::Unfit {
                subject: format!("job {}", refused.id),
                problem: format!("{}, cannot {}: must be {}", refused.state.name(), refused.asked, refused.allowed),
            },
            StoreError::Full { max } => {
                EngineError::Exhausted { limit: "jobs.items_max", max: max as u64, retry_after: self.0.retry_after }
            }
            StoreError::Busy { place } => {
                EngineError::Unfit { subject: place, problem: "another process works with this store".into() }
            }
            StoreError::Broken { place, problem } => EngineError::Unfit { subject: place, problem },
        }
    }
}

impl Inner {
    fn removing(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who resumes or deletes a job, and nobody else does.
struct Alone<'a> {
    inner: &'a Inner,
    id: JobId,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.inner.removing().remove(&self.id);
    }
}

fn gone(id: &JobId) -> EngineError {
    EngineError::Gone { what: "job", name: shortened(&id.0) }
}

#[cfg(test)]
mod tests;
