//! What all clones of a store share: the connection, the bucket's values as they are read and changed, and the watch that
//! tells this process of everything that any other one does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation};
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::bucket::{Bucket, Entry};
use super::connection::Connection;
use super::queue::Queue;
use super::view::{Kept, Known, View};
use crate::jobs::job::now_ms;
use crate::jobs::{Event, Job, JobId, Record, Shard, StoreError};
use crate::settings::ClusterSettings;

/// Shards of one value: far below the largest message that servers take.
pub(super) const SHARDS_A_CHUNK: u32 = 1024;
const WATCH_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What the watch and all clones share.
pub(super) struct Shared {
    pub(super) settings: ClusterSettings,
    pub(super) jobs_max: usize,
    pub(super) connection: Connection,
    pub(super) bucket: Bucket,
    pub(super) queue: Queue,
    pub(super) view: Mutex<View>,
    pub(super) changes: watch::Sender<u64>,
    /// Jobs that this process is about to end.
    pub(super) concluding: Mutex<HashSet<JobId>>,
    /// By its key.
    pub(super) last_chunk: Mutex<Option<(String, Arc<Vec<Shard>>)>>,
}

impl Shared {
    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) async fn kept(&self, id: &JobId) -> Result<Known, StoreError> {
        let entry = self.bucket.get(&job_key(id)).await?.ok_or_else(|| StoreError::Unknown(id.clone()))?;
        let kept: Kept = self.decoded(&job_key(id), &entry.value)?;
        self.view().see_job(kept.clone(), entry.revision);
        Ok(Known { kept, revision: entry.revision })
    }

    pub(super) async fn alter(
        &self,
        id: &JobId,
        mut step: impl FnMut(&mut Kept) -> Result<bool, StoreError> + Send,
    ) -> Result<Kept, StoreError> {
        loop {
            let Known { mut kept, revision } = self.kept(id).await?;
            kept.job = self.view().with_progress(&kept.job);
            if !step(&mut kept)? {
                return Ok(kept);
            }
            if let Some(revision) = self.bucket.update(&job_key(id), &encoded(&kept), revision).await? {
                self.view().see_job(kept.clone(), revision);
                self.changed();
                return Ok(kept);
            }
        }
    }

    pub(super) async fn record(&self, id: &JobId, shard: u32) -> Result<Option<(Record, u64)>, StoreError> {
        let key = record_key(id, shard);
        let Some(Entry { value, revision }) = self.bucket.get(&key).await? else { return Ok(None) };
        let record: Record = self.decoded(&key, &value)?;
        self.view().see_record(id, shard, record.clone());
        Ok(Some((record, revision)))
    }

    /// Some of a plan's shards. The last ones read are kept: they are asked for again and again, and never change.
    pub(super) async fn chunk(&self, kept: &Kept, number: u32) -> Result<Arc<Vec<Shard>>, StoreError> {
        let key = chunk_key(&kept.job.id, &kept.planner, number);
        let last = || self.last_chunk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, shards)) = last().as_ref().filter(|(last, _)| *last == key) {
            return Ok(shards.clone());
        }
        let entry = self.bucket.get(&key).await?;
        let entry = entry.ok_or_else(|| self.connection.broken(format!("{key} is not there")))?;
        let shards: Arc<Vec<Shard>> = Arc::new(self.decoded(&key, &entry.value)?);
        *last() = Some((key, shards.clone()));
        Ok(shards)
    }

    /// Ends the job if its records say that it has ended, and returns it with its progress.
    pub(super) async fn conclude(&self, id: &JobId) -> Result<Job, StoreError> {
        if self.view().concludes(id) {
            let step = |kept: &mut Kept| Ok(kept.job.apply(Event::Progressed(kept.job.progress), now_ms())?);
            return Ok(self.alter(id, step).await?.job);
        }
        let known = self.view().known(id).map(|known| known.kept.job.clone());
        let job = match known {
            Some(job) => job,
            None => self.kept(id).await?.kept.job,
        };
        Ok(self.view().with_progress(&job))
    }

    /// Learns of everything that changes, for ever. A watch that breaks begins again, with all there is: whatever is
    /// seen twice counts once.
    pub(super) async fn watch(self: Arc<Self>, current: watch::Sender<bool>) {
        loop {
            match self.bucket.watch(&["job.>", "record.>", "meta.>"]).await {
                Ok(mut entries) => {
                    while let Some(entry) = entries.next().await {
                        let entry = match entry {
                            Ok(entry) => entry,
                            Err(error) => {
                                tracing::debug!(%error, "the watch of the queue's jobs begins again");
                                break;
                            }
                        };
                        self.see(&entry);
                        if entry.seen_current {
                            current.send_replace(true);
                        }
                    }
                }
                Err(error) => tracing::warn!("jobs are not seen: {error}"),
            }
            tokio::time::sleep(WATCH_AGAIN_AFTER).await;
        }
    }

    /// Learns one thing.
    fn see(self: &Arc<Self>, entry: &kv::Entry) {
        let seen = match entry.key.split('.').collect::<Vec<_>>()[..] {
            ["job", id] => {
                let id = JobId(id.into());
                match entry.operation {
                    Operation::Put => self.decoded(&entry.key, &entry.value).map(|kept| {
                        self.view().see_job(kept, entry.revision);
                        Some(id)
                    }),
                    _ => {
                        self.view().see_gone(&id, entry.revision);
                        Ok(None)
                    }
                }
            }
            ["record", id, shard] => match (entry.operation, shard.parse()) {
                (Operation::Put, Ok(shard)) => self.decoded(&entry.key, &entry.value).map(|record| {
                    let id = JobId(id.into());
                    self.view().see_record(&id, shard, record);
                    Some(id)
                }),
                _ => Ok(None),
            },
            _ => Ok(None),
        };
        match seen {
            Ok(Some(id)) if self.view().concludes(&id) => self.conclude_apart(id),
            Ok(_) => {}
            Err(error) => tracing::warn!("{error}"),
        }
        self.changed();
    }

    fn conclude_apart(self: &Arc<Self>, id: JobId) {
        let concluding = || self.concluding.lock().unwrap_or_else(PoisonError::into_inner);
        if !concluding().insert(id.clone()) {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move {
            if let Err(error) = shared.conclude(&id).await {
                tracing::warn!(job = %id, "it has ended, which could not be kept: {error}");
            }
            shared.concluding.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    fn decoded<T: DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| self.connection.broken(format!("{key} cannot be read: {error}")))
    }
}

pub(super) fn encoded(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("its keys are strings, its numbers finite")
}

pub(super) fn unlike_any_other() -> String {
    format!("{:016x}", rand::random::<u64>())
}

pub(super) fn job_key(id: &JobId) -> String {
    format!("job.{id}")
}

pub(super) fn record_key(id: &JobId, shard: u32) -> String {
    format!("record.{id}.{shard}")
}

pub(super) fn chunk_key(id: &JobId, planner: &str, chunk: u32) -> String {
    format!("plan.{id}.{planner}.{chunk}")
}

/// Owners and request ids are any text; keys are not.
pub(super) fn request_key(job: &Job) -> String {
    let owner = job.owner.as_deref().unwrap_or_default();
    let hash = Sha256::new().chain_update((owner.len() as u64).to_le_bytes()).chain_update(owner);
    let hash = hash.chain_update(&job.request_id).finalize();
    format!("request.{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
