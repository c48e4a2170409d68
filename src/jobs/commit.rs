//! How a shard comes to count, the same on one machine and on many: its files are staged, the store decides which
//! attempt counts, the files of that one get their names, the store settles it. Whoever is interrupted anywhere, or
//! comes second, does it again from the record and ends where an undisturbed one does.

use super::job::Job;
use super::row::Fault;
use super::seen;
use super::shard::{Record, Staged};
use super::store::{Store, StoreError};
use super::work::Work;

/// Why a shard does not count yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Its files cannot be what they should be.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a shard count by an attempt that has staged its files, or by the one that was first. Returns the job as it is
/// then.
pub async fn commit(store: &dyn Store, work: &dyn Work, job: &Job, shard: u32, staged: Staged) -> Result<Job, Halt> {
    let attempt = staged.attempt.clone();
    let record = store.decide(&job.id, shard, staged).await;
    let counts = record.as_ref().is_ok_and(|record| record.staged.attempt == attempt);
    // Where the store cannot be asked, the attempt may count nonetheless.
    let useless = if record.is_ok() { !counts } else { matches!(record, Err(StoreError::Unknown(_))) };
    if useless && let Err(fault) = work.discard(job, &attempt).await {
        // Nothing depends on it, and the next sweep does it again.
        tracing::warn!(job = %job.id, shard, "cannot discard a second attempt: {fault}");
    }
    forward(store, work, job, shard, &record?).await
}

/// Makes a shard count by its record, as far as that is not done yet.
pub async fn forward(store: &dyn Store, work: &dyn Work, job: &Job, shard: u32, record: &Record) -> Result<Job, Halt> {
    if record.settled {
        return Ok(store.job(&job.id).await?);
    }
    work.publish(job, &record.staged).await?;
    let job = store.settle(&job.id, shard).await?;
    seen::settled(&record.staged.tally);
    Ok(job)
}

#[cfg(test)]
mod tests;
