//! The store of one machine: a transactional database in one file, which one process has open at a time.
//!
//! One transaction a change, on the disk when its call returns. Jobs, shards and records are JSON, so that a later
//! program reads what an earlier one wrote; the file says of which format it is, and one of a newer format is refused.
//! After a failed write (a full disk) the file is opened anew by the next call: what was committed is there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{Store, StoreError};
use crate::jobs::job::{Event, Job, JobId, Plan, Progress, now_ms};
use crate::jobs::shard::{Record, Shard, Staged};

/// What the file holds, and how. One more with every change that this program's readers do not understand.
const FORMAT: u64 = 1;
const FILE: &str = "jobs.redb";
/// Pages that are remembered, bytes.
const CACHE_BYTES: usize = 16 << 20;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const JOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("jobs");
const SHARDS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("shards");
const RECORDS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("records");
/// By owner (empty for none) and request id, the job.
const REQUESTS: TableDefinition<(&str, &str), &str> = TableDefinition::new("requests");

/// A store in a directory; cheap to clone.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    file: PathBuf,
    jobs_max: usize,
    /// None after a failure, until the next call.
    database: Mutex<Option<Arc<Database>>>,
    changes: watch::Sender<u64>,
}

/// Why a transaction came to nothing.
enum Trouble {
    /// The caller is told so; the database is well.
    Told(StoreError),
    /// The database is not.
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

impl Embedded {
    /// Opens the store in `directory`, which is made if it is not there; blocks. It keeps at most `jobs_max` jobs.
    pub fn open(directory: &Path, jobs_max: usize) -> Result<Self, StoreError> {
        let inner =
            Inner { file: directory.join(FILE), jobs_max, database: Mutex::new(None), changes: watch::Sender::new(0) };
        let made = fs::create_dir_all(directory);
        made.map_err(|error| inner.broken(format!("the directory cannot be made: {error}")))?;
        inner.database()?;
        // The file is of no use while its name may get lost.
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| inner.broken(format!("the directory cannot be synced: {error}")))?;
        Ok(Self(Arc::new(inner)))
    }

    /// Does `step` in a transaction of its own. All of it is on the disk afterwards, or nothing of it where it fails.
    async fn write<T: Send + 'static>(
        &self,
        step: impl FnOnce(&redb::WriteTransaction, &Inner) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.apart(|inner| {
            let transaction = inner.database().map_err(Trouble::Told)?.begin_write()?;
            let done = step(&transaction, inner)?;
            transaction.commit()?;
            Ok(done)
        });
        let done = done.await?;
        self.0.changes.send_modify(|changes| *changes += 1);
        Ok(done)
    }

    /// Reads what was committed last.
    async fn read<T: Send + 'static>(
        &self,
        step: impl FnOnce(&redb::ReadTransaction, &Inner) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.apart(|inner| step(&inner.database().map_err(Trouble::Told)?.begin_read()?, inner)).await
    }

    /// Runs `step` where it may block.
    async fn apart<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Inner) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || step(&inner).map_err(|trouble| inner.told(trouble)));
        // redb panics over some kinds of damage.
        done.await.unwrap_or_else(|panic| Err(self.0.broken(format!("it cannot be read: {panic}"))))
    }
}

impl Inner {
    /// The database, opened anew after a failure.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*database {
            return Ok(open.clone());
        }
        let opened = std::panic::catch_unwind(|| self.open())
            .unwrap_or_else(|_| Err(Trouble::Told(self.broken("it is damaged".into()))));
        let opened = Arc::new(opened.map_err(|trouble| match trouble {
            Trouble::Told(error) => error,
            Trouble::Database(error) => self.broken(error.to_string()),
        })?);
        *database = Some(opened.clone());
        Ok(opened)
    }

    fn open(&self) -> Result<Database, Trouble> {
        let mut builder = Builder::new();
        // A damaged file is found out here, where it can be told, and not in the middle of a job.
        let opened = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(&self.file);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Trouble::Told(StoreError::Busy { place: self.place() }),
            other => other.into(),
        })?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let format = meta.get("format")?.map(|format| format.value());
            if let Some(format) = format.filter(|&format| format != FORMAT) {
                let problem = format!("it is of format {format}, this program knows format {FORMAT}");
                return Err(Trouble::Told(self.broken(problem)));
            }
            meta.insert("format", FORMAT)?;
            transaction.open_table(JOBS)?;
            transaction.open_table(SHARDS)?;
            transaction.open_table(RECORDS)?;
            transaction.open_table(REQUESTS)?;
        }
        transaction.commit()?;
        Ok(database)
    }

    fn told(&self, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Told(error) => error,
            Trouble::Database(error) => {
                *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.broken(error.to_string())
            }
        }
    }

    fn broken(&self, problem: String) -> StoreError {
        StoreError::Broken { place: self.place(), problem }
    }

    fn place(&self) -> String {
        self.file.display().to_string()
    }

    fn decoded<T: DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, Trouble> {
        let decoded = serde_json::from_slice(bytes);
        decoded.map_err(|error| Trouble::Told(self.broken(format!("{what} cannot be read: {error}"))))
    }

    fn job(&self, jobs: &impl ReadableTable<&'static str, &'static [u8]>, id: &JobId) -> Result<Job, Trouble> {
        match jobs.get(&*id.0)? {
            Some(bytes) => self.decoded(&format!("job {id}"), bytes.value()),
            None => Err(Trouble::Told(StoreError::Unknown(id.clone()))),
        }
    }
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("its keys are strings, its numbers finite")
}

#[async_trait]
impl Store for Embedded {
    async fn create(&self, job: Job) -> Result<Job, StoreError> {
        self.write(move |transaction, inner| {
            let mut jobs = transaction.open_table(JOBS)?;
            let mut requests = transaction.open_table(REQUESTS)?;
            let request = (job.owner.as_deref().unwrap_or_default(), &*job.request_id);
            if !job.request_id.is_empty() {
                let made = requests.get(request)?.map(|id| JobId(id.value().into()));
                if let Some(id) = made {
                    return inner.job(&jobs, &id);
                }
                requests.insert(request, &*job.id.0)?;
            }
            if jobs.get(&*job.id.0)?.is_some() {
                return Err(Trouble::Told(StoreError::Present(job.id)));
            }
            if jobs.len()? >= inner.jobs_max as u64 {
                return Err(Trouble::Told(StoreError::Full { max: inner.jobs_max }));
            }
            jobs.insert(&*job.id.0, &*encoded(&job))?;
            Ok(job)
        })
        .await
    }

    async fn job(&self, id: &JobId) -> Result<Job, StoreError> {
        let id = id.clone();
        self.read(move |transaction, inner| inner.job(&transaction.open_table(JOBS)?, &id)).await
    }

    async fn jobs(&self, after: Option<&JobId>, max: usize) -> Result<Vec<Job>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = after.cloned();
        self.read(move |transaction, inner| {
            let jobs = transaction.open_table(JOBS)?;
            let from = after.as_ref().map_or(Unbounded, |id| Excluded(&*id.0));
            let found = jobs.range::<&str>((from, Unbounded))?.take(max);
            found
                .map(|entry| {
                    entry.map_err(Trouble::from).and_then(|(id, bytes)| inner.decoded(id.value(), bytes.value()))
                })
                .collect()
        })
        .await
    }

    async fn change(&self, id: &JobId, event: Event) -> Result<Job, StoreError> {
        let id = id.clone();
        self.write(move |transaction, inner| {
            let mut jobs = transaction.open_table(JOBS)?;
            let mut job = inner.job(&jobs, &id)?;
            if job.apply(event, now_ms()).map_err(|refused| Trouble::Told(refused.into()))? {
                jobs.insert(&*id.0, &*encoded(&job))?;
            }
            Ok(job)
        })
        .await
    }

    async fn plan(&self, id: &JobId, shards: Vec<Shard>, plan: Plan) -> Result<Job, StoreError> {
        let id = id.clone();
        self.write(move |transaction, inner| {
            let mut jobs = transaction.open_table(JOBS)?;
            let mut job = inner.job(&jobs, &id)?;
            let applied = job.apply(Event::Planned(plan), now_ms());
            if applied.map_err(|refused| Trouble::Told(refused.into()))? {
                let mut table = transaction.open_table(SHARDS)?;
                for shard in &shards {
                    table.insert((&*id.0, shard.index), &*encoded(shard))?;
                }
                jobs.insert(&*id.0, &*encoded(&job))?;
            }
            Ok(job)
        })
        .await
    }

    async fn shards(&self, id: &JobId, from: u32, max: usize) -> Result<Vec<(Shard, Option<Record>)>, StoreError> {
        let id = id.clone();
        self.read(move |transaction, inner| {
            inner.job(&transaction.open_table(JOBS)?, &id)?;
            let (shards, records) = (transaction.open_table(SHARDS)?, transaction.open_table(RECORDS)?);
            let mut found = Vec::new();
            for entry in shards.range((&*id.0, from)..=(&*id.0, u32::MAX))?.take(max) {
                let (key, bytes) = entry?;
                let what = format!("shard {} of job {id}", key.value().1);
                let record = records.get(key.value())?;
                let record = record.map(|bytes| inner.decoded(&what, bytes.value())).transpose()?;
                found.push((inner.decoded(&what, bytes.value())?, record));
            }
            Ok(found)
        })
        .await
    }

    async fn decide(&self, id: &JobId, shard: u32, staged: Staged) -> Result<Record, StoreError> {
        let id = id.clone();
        self.write(move |transaction, inner| {
            inner.job(&transaction.open_table(JOBS)?, &id)?;
            let mut records = transaction.open_table(RECORDS)?;
            let what = format!("shard {shard} of job {id}");
            if let Some(bytes) = records.get((&*id.0, shard))? {
                return inner.decoded(&what, bytes.value());
            }
            if transaction.open_table(SHARDS)?.get((&*id.0, shard))?.is_none() {
                return Err(Trouble::Told(inner.broken(format!("{what} is not there"))));
            }
            let record = Record { staged, settled: false };
            records.insert((&*id.0, shard), &*encoded(&record))?;
            Ok(record)
        })
        .await
    }

    async fn settle(&self, id: &JobId, shard: u32) -> Result<Job, StoreError> {
        let id = id.clone();
        self.write(move |transaction, inner| {
            let mut jobs = transaction.open_table(JOBS)?;
            let mut job = inner.job(&jobs, &id)?;
            let mut records = transaction.open_table(RECORDS)?;
            let what = format!("shard {shard} of job {id}");
            let record = records.get((&*id.0, shard))?.map(|bytes| inner.decoded(&what, bytes.value())).transpose()?;
            let Some(mut record): Option<Record> = record else {
                return Err(Trouble::Told(inner.broken(format!("{what} is not decided"))));
            };
            if record.settled {
                return Ok(job);
            }
            record.settled = true;
            records.insert((&*id.0, shard), &*encoded(&record))?;
            let Progress { shards, mut tally } = job.progress;
            tally += record.staged.tally;
            let progress = Event::Progressed(Progress { shards: shards + 1, tally });
            job.apply(progress, now_ms()).map_err(|refused| Trouble::Told(refused.into()))?;
            jobs.insert(&*id.0, &*encoded(&job))?;
            Ok(job)
        })
        .await
    }

    async fn delete(&self, id: &JobId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |transaction, inner| {
            let mut jobs = transaction.open_table(JOBS)?;
            let job = inner.job(&jobs, &id)?;
            job.deletable().map_err(|refused| Trouble::Told(refused.into()))?;
            jobs.remove(&*id.0)?;
            if !job.request_id.is_empty() {
                let owner = job.owner.as_deref().unwrap_or_default();
                transaction.open_table(REQUESTS)?.remove((owner, &*job.request_id))?;
            }
            for table in [SHARDS, RECORDS] {
                transaction.open_table(table)?.retain_in((&*id.0, 0)..=(&*id.0, u32::MAX), |_, _| false)?;
            }
            Ok(())
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
