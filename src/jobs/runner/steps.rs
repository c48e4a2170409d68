//! What is done for a job apart from the runner's own loop, each a task: cutting its input, finishing what an earlier
//! process left, computing a shard, resting, clearing up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::jobs::commit::{Halt, commit, forward};
use crate::jobs::job::Job;
use crate::jobs::pace::Live;
use crate::jobs::row::Fault;
use crate::jobs::seen;
use crate::jobs::shard::{Record, Shard};
use crate::jobs::store::Store;
use crate::jobs::work::Work;

/// Shards that are read from the store at once.
pub(super) const PAGE: usize = 256;
/// How long a job rests whose model has stopped.
const REST: Duration = Duration::from_secs(1);

/// A part of all shards: for processes that share a job without knowing of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Only {
    /// The rest of a shard's number.
    pub index: u32,
    /// What it is divided by, at least 1.
    pub count: u32,
}

impl Only {
    /// Whether it has this shard.
    pub fn has(self, shard: u32) -> bool {
        shard % self.count == self.index
    }
}

/// One of the things done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Plan,
    Recover,
    Shard(u32),
    Rest,
    Tidy,
}

/// The job as it is after a step; none where the step was given up, or leaves the job as it was.
pub(in crate::jobs) type Outcome = Result<Option<Job>, Halt>;

/// What steps need; cheap to clone.
#[derive(Clone)]
pub(in crate::jobs) struct Tools {
    pub store: Arc<dyn Store>,
    pub work: Arc<dyn Work>,
    pub live: Live,
    /// All shards if there is none.
    pub only: Option<Only>,
}

impl Tools {
    /// Cuts the input.
    pub async fn plan(self, job: Job, stop: CancellationToken) -> Outcome {
        let (shards, plan) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            planned = self.work.plan(&job) => planned?,
        };
        Ok(Some(self.store.plan(&job.id, shards, plan).await?))
    }

    /// Computes a shard and makes it count. Only the computing is given up: what is computed is worth its few
    /// milliseconds.
    pub async fn shard(self, job: Job, shard: Shard, stop: CancellationToken) -> Outcome {
        let began = Instant::now();
        let meter = self.live.begin(&job.id, shard.index);
        let staged = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            staged = self.work.attempt(&job, &shard, &meter) => staged?,
        };
        let job = commit(&*self.store, &*self.work, &job, shard.index, staged).await?;
        seen::shard(began.elapsed());
        Ok(Some(job))
    }

    /// Finishes what an earlier process has decided, and sees whether what it has written is still there.
    pub async fn recover(self, job: Job, stop: CancellationToken) -> Outcome {
        let mut moved = None;
        let mut from = 0;
        loop {
            let page = self.store.shards(&job.id, from, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = last.index + 1;
            let own = page.into_iter().filter(|(shard, _)| self.only.is_none_or(|only| only.has(shard.index)));
            for (shard, record) in own {
                if stop.is_cancelled() {
                    return Ok(moved);
                }
                match record {
                    Some(record) if record.settled => {
                        if let Some(name) = self.work.lost(&job, &record.staged).await? {
                            let problem = format!("{name} is not there any more as it was written");
                            self.mend(&job, &shard, &record, &problem, &stop).await?;
                        }
                    }
                    Some(record) => moved = self.forward(&job, &shard, &record, &stop).await?.or(moved),
                    None => {}
                }
            }
        }
        self.sweep(&job, &HashSet::new()).await?;
        Ok(moved)
    }

    /// Makes a decided shard count; where its files are damaged, by those of another attempt.
    async fn forward(&self, job: &Job, shard: &Shard, record: &Record, stop: &CancellationToken) -> Outcome {
        match forward(&*self.store, &*self.work, job, shard.index, record).await {
            Err(Halt::Fault(Fault::Broken(problem))) => {
                if !self.mend(job, shard, record, &problem, stop).await? {
                    return Ok(None);
                }
                forward(&*self.store, &*self.work, job, shard.index, record).await.map(Some)
            }
            forwarded => forwarded.map(Some),
        }
    }

    /// Makes files anew that are not as they were: the same rows give the same bytes, and only those are taken. Tells
    /// whether it was not stopped before.
    async fn mend(
        &self,
        job: &Job,
        shard: &Shard,
        record: &Record,
        problem: &str,
        stop: &CancellationToken,
    ) -> Result<bool, Fault> {
        tracing::warn!(job = %job.id, shard = shard.index, "{problem}: it is computed anew");
        let meter = self.live.begin(&job.id, shard.index);
        let staged = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            staged = self.work.attempt(job, shard, &meter) => Some(staged),
        };
        self.live.end(&job.id, shard.index);
        let Some(staged) = staged.transpose()? else { return Ok(false) };
        if !staged.same_bytes(&record.staged) {
            self.work.discard(job, &staged.attempt).await?;
            return Err(Fault::Broken(format!("{problem}, and shard {} comes out otherwise now", shard.index)));
        }
        self.work.publish(job, &staged).await?;
        Ok(true)
    }

    /// Waits a little.
    pub async fn rest(self, stop: CancellationToken) -> Outcome {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(REST) => {}
        }
        Ok(None)
    }

    /// Removes what attempts have left that came to nothing.
    pub async fn tidy(self, job: Job) -> Outcome {
        let (mut keep, mut from) = (HashSet::new(), 0);
        loop {
            let page = self.store.shards(&job.id, from, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = last.index + 1;
            // A failed job that is resumed goes on from these.
            let open = page.into_iter().filter_map(|(_, record)| record.filter(|record| !record.settled));
            keep.extend(open.map(|record| record.staged.attempt));
        }
        self.sweep(&job, &keep).await?;
        Ok(None)
    }

    async fn sweep(&self, job: &Job, keep: &HashSet<String>) -> Result<(), Fault> {
        // Others may be at work in the same output.
        if self.only.is_none() { self.work.sweep(job, keep).await } else { Ok(()) }
    }
}
