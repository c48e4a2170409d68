//! Where the truth about jobs and shards stands. One meaning, two keepers: an embedded database on one machine, a
//! replicated bucket for many. Everything that asks twice gets the same answer twice, so that whoever was interrupted
//! simply does it again.

mod embedded;

use async_trait::async_trait;

pub use embedded::Embedded;

use super::job::{Event, Job, JobId, Plan, Refused};
use super::shard::{Record, Shard, Staged};

/// Why a store does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such job.
    #[error("job {0} is not there: it never was, or it was deleted")]
    Unknown(JobId),
    /// There is one of that name.
    #[error("job {0} is there already")]
    Present(JobId),
    /// The job's state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It keeps as many jobs as it may.
    #[error("{max} jobs are kept, at most {max} may be: delete some that have ended")]
    Full {
        /// How many may be.
        max: usize,
    },
    /// Another process has it.
    #[error("{place}: another process works with this store; one server or run at a time may")]
    Busy {
        /// The store.
        place: String,
    },
    /// It cannot be read or written: damage, a full disk, a queue that does not answer.
    #[error("{place}: {problem}")]
    Broken {
        /// The store.
        place: String,
        /// What happened.
        problem: String,
    },
}

/// The truth about jobs. Every change is durable when its call returns.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keeps a new job and returns it. Where a job of the same owner and request id is kept, that one is returned and
    /// the new one forgotten; a job without request id is always new.
    async fn create(&self, job: Job) -> Result<Job, StoreError>;

    /// One job, with its progress.
    async fn job(&self, id: &JobId) -> Result<Job, StoreError>;

    /// At most `max` jobs that come after `after`, the eldest first.
    async fn jobs(&self, after: Option<&JobId>, max: usize) -> Result<Vec<Job>, StoreError>;

    /// Moves a job by an event and returns it as it is then.
    async fn change(&self, id: &JobId, event: Event) -> Result<Job, StoreError>;

    /// Keeps how a job's input was cut, and moves the job: all of it or nothing. A job that has a plan keeps the plan it
    /// has.
    async fn plan(&self, id: &JobId, shards: Vec<Shard>, plan: Plan) -> Result<Job, StoreError>;

    /// At most `max` of a job's shards from number `from` on, in order, each with its record if it has one.
    async fn shards(&self, id: &JobId, from: u32, max: usize) -> Result<Vec<(Shard, Option<Record>)>, StoreError>;

    /// Decides which attempt at a shard counts: the first that asks. Returns the record that stands, which may be of
    /// another attempt: then the caller's files are of no use.
    async fn decide(&self, id: &JobId, shard: u32, staged: Staged) -> Result<Record, StoreError>;

    /// Keeps that the files of the attempt that counts have their names; the job's progress grows with it, once.
    async fn settle(&self, id: &JobId, shard: u32) -> Result<Job, StoreError>;

    /// Forgets a job that has ended.
    async fn delete(&self, id: &JobId) -> Result<(), StoreError>;

    /// Sees a new value whenever anything about any job may have changed.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
}
