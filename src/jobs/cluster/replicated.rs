//! The store of a cluster: jobs, plans and records as values of one bucket, every change by compare-and-set.
//!
//! A record is created once, so that one attempt counts whoever asks; it is settled once. How far a job is stands
//! nowhere: every process adds up the records, which it sees all, so that nothing is counted twice and nobody waits for
//! anybody's counter. Whoever sees the last record ends the job.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bucket::Bucket;
use super::connection::Connection;
use super::queue::Queue;
use super::shared::{SHARDS_A_CHUNK, Shared, chunk_key, encoded, job_key, record_key, request_key, unlike_any_other};
use super::view::{Kept, Known, View};
use crate::jobs::job::now_ms;
use crate::jobs::{Event, Job, JobId, Plan, Record, Shard, Staged, State, Store, StoreError};
use crate::settings::{ClusterSettings, Settings};

/// What the bucket holds, and how. One more with every change that this program does not understand.
const FORMAT: u64 = 1;
/// Requests on their way at once.
const AT_ONCE: usize = 32;

/// A store that many machines share; cheap to clone.
#[derive(Clone)]
pub struct Replicated {
    shared: Arc<Shared>,
    /// Ends with the last clone.
    _watching: Arc<Watching>,
}

struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Replicated {
    /// Connects, makes what is not there yet, and returns when it knows all jobs.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let cluster = settings.cluster.clone();
        let connection = Connection::open(&cluster).await?;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if cluster.name.is_empty() || !cluster.name.chars().all(plain) {
            let problem = format!("cluster.name is {:?}, must be letters, digits and dashes", cluster.name);
            return Err(connection.broken(problem));
        }
        let bucket = Bucket::open(&connection, &format!("{}-jobs", cluster.name), cluster.replicas, None).await?;
        check_format(&connection, &bucket).await?;
        let queue = Queue::open(&connection, &cluster).await?;
        let shared = Arc::new(Shared {
            jobs_max: settings.jobs.items_max,
            settings: cluster,
            connection,
            bucket,
            queue,
            view: Mutex::default(),
            changes: watch::Sender::new(0),
            concluding: Mutex::default(),
            last_chunk: Mutex::default(),
        });
        let (current, mut is_current) = watch::channel(false);
        let watching = tokio::spawn(shared.clone().watch(current));
        let watching = Arc::new(Watching(watching));
        let seen =
            tokio::time::timeout(Duration::from_millis(shared.settings.patience_ms), is_current.wait_for(|seen| *seen));
        if !matches!(seen.await, Ok(Ok(_))) {
            let problem = format!("its jobs were not read within {} ms", shared.settings.patience_ms);
            return Err(shared.connection.broken(problem));
        }
        Ok(Self { shared, _watching: watching })
    }

    pub(super) fn settings(&self) -> &ClusterSettings {
        &self.shared.settings
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.shared.connection
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.shared.bucket
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.shared.view()
    }

    /// A job as the bucket has it now.
    pub(super) async fn kept(&self, id: &JobId) -> Result<Known, StoreError> {
        self.shared.kept(id).await
    }

    /// Changes what is kept of a job until nobody comes between; `step` says whether it changed anything.
    pub(super) async fn alter(
        &self,
        id: &JobId,
        step: impl FnMut(&mut Kept) -> Result<bool, StoreError> + Send,
    ) -> Result<Kept, StoreError> {
        self.shared.alter(id, step).await
    }

    /// One shard's record, if it has one.
    pub(super) async fn record(&self, id: &JobId, shard: u32) -> Result<Option<Record>, StoreError> {
        Ok(self.shared.record(id, shard).await?.map(|(record, _)| record))
    }

    /// The shards of a plan by their numbers.
    pub(super) async fn planned(&self, kept: &Kept, numbers: &[u32]) -> Result<Vec<Shard>, StoreError> {
        let mut shards = Vec::with_capacity(numbers.len());
        for number in numbers {
            let chunk = self.shared.chunk(kept, number / SHARDS_A_CHUNK).await?;
            shards.extend(chunk.iter().find(|shard| shard.index == *number).cloned());
        }
        Ok(shards)
    }

    /// Forgets everything below a job's name.
    pub(super) async fn clear(&self, id: &JobId) -> Result<(), StoreError> {
        for kind in ["plan", "record", "trouble", "dead"] {
            self.shared.bucket.forget(&format!("{kind}.{id}.>")).await?;
        }
        self.shared.queue.forget(id, None).await?;
        self.view().forget(id);
        Ok(())
    }
}

async fn check_format(connection: &Connection, bucket: &Bucket) -> Result<(), StoreError> {
    const KEY: &str = "meta.format";
    bucket.create(KEY, &encoded(&FORMAT)).await?;
    let format = bucket.get(KEY).await?.and_then(|entry| serde_json::from_slice::<u64>(&entry.value).ok());
    if format == Some(FORMAT) {
        return Ok(());
    }
    let format = format.map_or("unknown".into(), |format| format.to_string());
    Err(connection.broken(format!("its jobs are of format {format}, this program knows format {FORMAT}")))
}

#[async_trait]
impl Store for Replicated {
    async fn create(&self, mut job: Job) -> Result<Job, StoreError> {
        let Shared { bucket, jobs_max, .. } = &*self.shared;
        let named = !job.request_id.is_empty();
        if named {
            let key = request_key(&job);
            if bucket.create(&key, job.id.0.as_bytes()).await?.is_none()
                && let Some(entry) = bucket.get(&key).await?
            {
                // Of two that ask at once, and of one that asks again, only one can make the job of that name.
                job.id = JobId(String::from_utf8_lossy(&entry.value).into_owned());
            }
        }
        let present = self.view().known(&job.id).is_some();
        if !present && self.view().count() >= *jobs_max {
            return Err(StoreError::Full { max: *jobs_max });
        }
        let maker = unlike_any_other();
        let kept = Kept { job, generation: 0, planner: String::new(), maker, swept: false };
        match bucket.create(&job_key(&kept.job.id), &encoded(&kept)).await? {
            Some(revision) => self.view().see_job(kept.clone(), revision),
            None => {
                let there = self.kept(&kept.job.id).await?.kept;
                // An answer that got lost is no second job.
                if !named && there.maker != kept.maker {
                    return Err(StoreError::Present(kept.job.id));
                }
                return self.job(&kept.job.id).await;
            }
        }
        self.shared.changed();
        Ok(kept.job)
    }

    async fn job(&self, id: &JobId) -> Result<Job, StoreError> {
        let job = self.kept(id).await?.kept.job;
        Ok(self.view().with_progress(&job))
    }

    async fn jobs(&self, after: Option<&JobId>, max: usize) -> Result<Vec<Job>, StoreError> {
        Ok(self.view().jobs(after, max))
    }

    async fn change(&self, id: &JobId, event: Event) -> Result<Job, StoreError> {
        let step = |kept: &mut Kept| {
            let before = kept.job.state;
            let changed = kept.job.apply(event.clone(), now_ms())?;
            let again = matches!(before, State::Paused | State::Failed);
            if again && matches!(kept.job.state, State::Running | State::Pending) {
                kept.generation += 1;
                kept.swept = false;
            }
            Ok(changed)
        };
        Ok(self.alter(id, step).await?.job)
    }

    async fn plan(&self, id: &JobId, shards: Vec<Shard>, plan: Plan) -> Result<Job, StoreError> {
        let Known { kept, .. } = self.kept(id).await?;
        if kept.job.plan.is_some() {
            return self.job(id).await;
        }
        // Under a name of its own: two that plan at once never mix.
        let planner = unlike_any_other();
        let chunks = shards.chunks(SHARDS_A_CHUNK as usize).map(|chunk| encoded(&chunk)).enumerate();
        let keys: Vec<(String, Vec<u8>)> =
            chunks.map(|(number, value)| (chunk_key(id, &planner, number as u32), value)).collect();
        let writing = keys.into_iter().map(|(key, value)| {
            let bucket = self.bucket().clone();
            async move { bucket.create(&key, &value).await }
        });
        stream::iter(writing).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let step = |kept: &mut Kept| {
            let applied = kept.job.plan.is_none() && kept.job.apply(Event::Planned(plan.clone()), now_ms())?;
            if applied {
                kept.planner.clone_from(&planner);
            }
            Ok(applied)
        };
        let kept = self.alter(id, step).await;
        if !kept.as_ref().is_ok_and(|kept| kept.planner == planner) {
            self.bucket().forget(&format!("plan.{id}.{planner}.>")).await?;
        }
        Ok(kept?.job)
    }

    async fn shards(&self, id: &JobId, from: u32, max: usize) -> Result<Vec<(Shard, Option<Record>)>, StoreError> {
        let Known { kept, .. } = self.kept(id).await?;
        let count = kept.job.plan.as_ref().map_or(0, |plan| plan.shards);
        let mut shards: Vec<Shard> = Vec::new();
        let mut chunk = from / SHARDS_A_CHUNK;
        while shards.len() < max && chunk * SHARDS_A_CHUNK < count {
            let all = self.shared.chunk(&kept, chunk).await?;
            shards.extend(all.iter().filter(|shard| shard.index >= from).cloned());
            chunk += 1;
        }
        shards.truncate(max);
        let reading = shards.into_iter().map(|shard| {
            let (shared, id) = (self.shared.clone(), id.clone());
            async move {
                let record = shared.record(&id, shard.index).await?;
                Ok((shard, record.map(|(record, _)| record)))
            }
        });
        stream::iter(reading).buffered(AT_ONCE).try_collect().await
    }

    async fn decide(&self, id: &JobId, shard: u32, staged: Staged) -> Result<Record, StoreError> {
        let Known { kept, .. } = self.kept(id).await?;
        if kept.job.plan.is_none_or(|plan| shard >= plan.shards) {
            return Err(self.connection().broken(format!("shard {shard} of job {id} is not there")));
        }
        let record = Record { staged, settled: false };
        if self.bucket().create(&record_key(id, shard), &encoded(&record)).await?.is_some() {
            self.view().see_record(id, shard, record.clone());
            self.shared.changed();
            return Ok(record);
        }
        let standing = self.record(id, shard).await?;
        standing.ok_or_else(|| StoreError::Unknown(id.clone()))
    }

    async fn settle(&self, id: &JobId, shard: u32) -> Result<Job, StoreError> {
        self.kept(id).await?;
        loop {
            let Some((mut record, revision)) = self.shared.record(id, shard).await? else {
                return Err(self.connection().broken(format!("shard {shard} of job {id} is not decided")));
            };
            if record.settled {
                break;
            }
            record.settled = true;
            if self.bucket().update(&record_key(id, shard), &encoded(&record), revision).await?.is_some() {
                self.view().see_record(id, shard, record);
                self.shared.changed();
                break;
            }
        }
        self.shared.conclude(id).await
    }

    async fn delete(&self, id: &JobId) -> Result<(), StoreError> {
        loop {
            let Known { kept, revision } = self.kept(id).await?;
            kept.job.deletable()?;
            if !kept.job.request_id.is_empty() {
                self.bucket().forget(&request_key(&kept.job)).await?;
            }
            if self.bucket().delete(&job_key(id), revision).await? {
                self.view().see_gone(id, u64::MAX);
                self.shared.changed();
                // Whatever is left of it, a reconciler finds.
                return self.clear(id).await;
            }
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}
