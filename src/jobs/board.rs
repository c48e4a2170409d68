//! What callers may do with jobs: [`Jobs`], which the service and the commands hold. It knows whose a job is, and adds
//! to what the store keeps of it how it moves just now.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::job::{Event, Job, JobId, State, now_ms};
use super::pace::Live;
use super::spec::Spec;
use super::store::{Store, StoreError};
use crate::engine::{EngineError, Models, shortened};

/// The least time between two tellings of one job.
const TELLING: Duration = Duration::from_millis(250);
/// The most, while it runs: its pace fades although nothing happens.
const FADING: Duration = Duration::from_secs(2);
/// Jobs that are read from the store at once.
const PAGE: usize = 256;

/// The jobs of one process; cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    models: Models,
    store: Arc<dyn Store>,
    live: Live,
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
    /// The jobs in `store`, worked on by `models`.
    pub fn open(models: Models, store: Arc<dyn Store>) -> Self {
        Self(Arc::new(Inner { models, store, live: Live::default() }))
    }

    /// Keeps a new job. A second request of the same owner and request id gets the job of the first.
    pub async fn create(&self, new: NewJob) -> Result<JobView, EngineError> {
        let NewJob { mut spec, title, owner, request_id } = new;
        spec.model = self.0.models.entry(&spec.model)?.0;
        let chance = OsRng.try_next_u64();
        let chance = chance.map_err(|error| EngineError::Internal(format!("no random numbers: {error}")))?;
        let now_ms = now_ms();
        let job = Job { title, owner, request_id, ..Job::new(JobId::new(now_ms, chance), spec, now_ms) };
        Ok(self.view(self.0.store.create(job).await.map_err(|error| self.told(error))?))
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
        let watching = Watching {
            id: id.clone(),
            owner: owner.map(String::from),
            stored: self.0.store.changes(),
            moved: self.0.live.changes(),
            jobs: self.clone(),
            told: None,
            looked: None,
            over: false,
        };
        Ok(stream::unfold(watching, async |mut watching| Some((watching.next().await?, watching))))
    }

    /// Lets a job wait.
    pub async fn pause(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        self.change(id, owner, Event::Pause).await
    }

    /// Lets a job go on that is paused or has failed.
    pub async fn resume(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        self.change(id, owner, Event::Resume).await
    }

    /// Ends a job.
    pub async fn cancel(&self, id: &JobId, owner: Option<&str>) -> Result<JobView, EngineError> {
        self.change(id, owner, Event::Cancel).await
    }

    async fn change(&self, id: &JobId, owner: Option<&str>, event: Event) -> Result<JobView, EngineError> {
        self.get(id, owner).await?;
        Ok(self.view(self.0.store.change(id, event).await.map_err(|error| self.told(error))?))
    }

    fn view(&self, job: Job) -> JobView {
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
            StoreError::Full { max } => EngineError::Exhausted {
                limit: "jobs.items_max",
                max: max as u64,
                retry_after: Duration::from_millis(self.0.models.settings().service.retry_after_max_ms),
            },
            StoreError::Busy { ref place } => EngineError::Unfit { subject: place.clone(), problem: error.to_string() },
            StoreError::Broken { place, problem } => EngineError::Unfit { subject: place, problem },
        }
    }
}

fn gone(id: &JobId) -> EngineError {
    EngineError::Gone { what: "job", name: shortened(&id.0) }
}

/// Somebody who is told of a job.
struct Watching {
    id: JobId,
    owner: Option<String>,
    jobs: Jobs,
    stored: watch::Receiver<u64>,
    moved: watch::Receiver<u64>,
    told: Option<JobView>,
    looked: Option<Instant>,
    over: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<JobView, EngineError>> {
        if self.over {
            return None;
        }
        loop {
            if let Some(looked) = self.looked {
                sleep_until(looked + TELLING).await;
            }
            self.looked = Some(Instant::now());
            // First: what changes while it is read is read again.
            self.stored.mark_unchanged();
            self.moved.mark_unchanged();
            let view = match self.jobs.get(&self.id, self.owner.as_deref()).await {
                Ok(view) => view,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            };
            if self.told.as_ref() != Some(&view) {
                self.over = view.job.state.ended();
                self.told = Some(view.clone());
                return Some(Ok(view));
            }
            tokio::select! {
                // The jobs here hold both senders.
                _ = self.stored.changed() => {}
                _ = self.moved.changed() => {}
                () = sleep(FADING), if view.rows_per_second > 0.0 => {}
            }
        }
    }
}
