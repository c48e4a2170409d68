//! What the runner does not do itself: cutting inputs, computing shards, and everything about the files of an output.
//! A trait, so that the runner's rules are tested without a model and without a disk.

use std::collections::HashSet;

use async_trait::async_trait;

use super::job::{Job, Plan};
use super::pace::Meter;
use super::parts::ErrorsToken;
use super::row::{Failed, Fault};
use super::shard::{Shard, Staged};
use crate::engine::EngineError;

/// Does the work of jobs. Every future may be dropped at any time; what it has begun is then given up.
#[async_trait]
pub trait Work: Send + Sync + 'static {
    /// The name under which the model called `name` is served; an empty name means the first.
    fn model(&self, name: &str) -> Result<String, EngineError>;

    /// Makes the output the job's own and cuts its input.
    async fn plan(&self, job: &Job) -> Result<(Vec<Shard>, Plan), Fault>;

    /// Computes a shard; its files are durable then, under temporary names.
    async fn attempt(&self, job: &Job, shard: &Shard, meter: &Meter) -> Result<Staged, Fault>;

    /// Gives the files of an attempt their final names. May be done twice.
    async fn publish(&self, job: &Job, staged: &Staged) -> Result<(), Fault>;

    /// The first file of a published attempt that is not there as it should be, if any.
    async fn lost(&self, job: &Job, staged: &Staged) -> Result<Option<String>, Fault>;

    /// Removes what an attempt left under temporary names.
    async fn discard(&self, job: &Job, attempt: &str) -> Result<(), Fault>;

    /// Removes what all attempts but these left under temporary names; of a job that is not cut, everything.
    async fn sweep(&self, job: &Job, keep: &HashSet<String>) -> Result<(), Fault>;

    /// Removes the whole output, if it is this job's.
    async fn clear(&self, job: &Job) -> Result<(), EngineError>;

    /// At most `max` rows of a written part that failed, and where those after them begin, if there are any.
    async fn errors(
        &self,
        job: &Job,
        from: ErrorsToken,
        max: usize,
    ) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError>;
}
