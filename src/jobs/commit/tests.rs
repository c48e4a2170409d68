//! A process may be killed before and after every step of a commit: whoever comes next ends where an undisturbed one
//! does.

use std::collections::HashSet;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::engine::EngineError;
use crate::jobs::fake::{Fake, ROWS, part, spec};
use crate::jobs::parts::ErrorsToken;
use crate::jobs::store::Embedded;
use crate::jobs::{Event, Failed, JobId, Meter, Plan, Rank, Shard};

/// A store and files that one process uses until it is killed at its `at`th call, before the call or after it.
struct Process<'a> {
    store: &'a Embedded,
    work: &'a Fake,
    at: usize,
    after: bool,
    calls: AtomicUsize,
}

impl Process<'_> {
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let last = self.calls.fetch_add(1, Ordering::Relaxed) + 1 >= self.at;
        if last && !self.after {
            pending::<()>().await;
        }
        let done = call.await;
        if last {
            pending::<()>().await;
        }
        done
    }
}

#[async_trait]
impl Store for Process<'static> {
    async fn create(&self, job: Job) -> Result<Job, StoreError> {
        self.call(self.store.create(job)).await
    }
    async fn job(&self, id: &JobId) -> Result<Job, StoreError> {
        self.call(self.store.job(id)).await
    }
    async fn jobs(&self, after: Option<&JobId>, max: usize) -> Result<Vec<Job>, StoreError> {
        self.call(self.store.jobs(after, max)).await
    }
    async fn change(&self, id: &JobId, event: Event) -> Result<Job, StoreError> {
        self.call(self.store.change(id, event)).await
    }
    async fn plan(&self, id: &JobId, shards: Vec<Shard>, plan: Plan) -> Result<Job, StoreError> {
        self.call(self.store.plan(id, shards, plan)).await
    }
    async fn shards(&self, id: &JobId, from: u32, max: usize) -> Result<Vec<(Shard, Option<Record>)>, StoreError> {
        self.call(self.store.shards(id, from, max)).await
    }
    async fn decide(&self, id: &JobId, shard: u32, staged: Staged) -> Result<Record, StoreError> {
        self.call(self.store.decide(id, shard, staged)).await
    }
    async fn settle(&self, id: &JobId, shard: u32) -> Result<Job, StoreError> {
        self.call(self.store.settle(id, shard)).await
    }
    async fn delete(&self, id: &JobId) -> Result<(), StoreError> {
        self.call(self.store.delete(id)).await
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }
}

#[async_trait]
impl Work for Process<'static> {
    fn model(&self, name: &str) -> Result<String, EngineError> {
        self.work.model(name)
    }
    async fn plan(&self, job: &Job) -> Result<(Vec<Shard>, Plan), Fault> {
        self.call(self.work.plan(job)).await
    }
    async fn attempt(&self, job: &Job, shard: &Shard, meter: &Meter) -> Result<Staged, Fault> {
        self.call(self.work.attempt(job, shard, meter)).await
    }
    async fn publish(&self, job: &Job, staged: &Staged) -> Result<(), Fault> {
        self.call(self.work.publish(job, staged)).await
    }
    async fn lost(&self, job: &Job, staged: &Staged) -> Result<Option<String>, Fault> {
        self.call(self.work.lost(job, staged)).await
    }
    async fn discard(&self, job: &Job, attempt: &str) -> Result<(), Fault> {
        self.call(self.work.discard(job, attempt)).await
    }
    async fn sweep(&self, job: &Job, keep: &HashSet<String>) -> Result<(), Fault> {
        self.call(self.work.sweep(job, keep)).await
    }
    async fn clear(&self, job: &Job) -> Result<(), EngineError> {
        self.call(self.work.clear(job)).await
    }
    async fn errors(
        &self,
        job: &Job,
        from: ErrorsToken,
        max: usize,
    ) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError> {
        self.call(self.work.errors(job, from, max)).await
    }
}

/// A job of two shards that is cut.
async fn planned() -> (TempDir, &'static Embedded, &'static Fake, Job) {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let store: &_ = Box::leak(Box::new(Embedded::open(directory.path(), 9).expect("it is new")));
    let work: &_ = Box::leak(Box::new(Fake::free(2)));
    let job = store.create(Job::new(JobId("a".into()), spec(Rank::Normal), 5)).await.expect("there is room");
    let (shards, plan) = work.plan(&job).await.expect("nothing is wrong");
    let job = store.plan(&job.id, shards, plan).await.expect("it is there");
    (directory, store, work, job)
}

async fn record(store: &Embedded, job: &Job) -> Option<Record> {
    store.shards(&job.id, 0, 1).await.expect("it is readable").remove(0).1
}

/// What must be so in the end, whoever was killed where.
async fn settled_once(store: &Embedded, work: &Fake, job: &Job, case: &str) {
    let now = store.job(&job.id).await.expect("it is there");
    assert_eq!((now.progress.shards, now.progress.tally.rows()), (1, ROWS), "{case}");
    assert!(record(store, job).await.is_some_and(|record| record.settled), "{case}");
    work.sweep(job, &HashSet::new()).await.expect("it goes");
    assert_eq!((work.files(&job.id), work.staged()), (vec![part(0)], 0), "{case}");
}

/// Kills a first process at every step of a commit, and lets a second one go on as `again` does.
async fn killed_everywhere(again: impl AsyncFn(&Embedded, &Fake, &Job)) -> usize {
    let mut killed = 0;
    for (at, after) in (1..10).flat_map(|at| [(at, false), (at, true)]) {
        let (_directory, store, work, job) = planned().await;
        let first = Process { store, work, at, after, calls: AtomicUsize::new(0) };
        let staged = work.stage(&job.id, 0);
        let done = timeout(Duration::from_secs(1), commit(&first, &first, &job, 0, staged)).await;
        killed += usize::from(done.is_err());
        again(store, work, &job).await;
        settled_once(store, work, &job, &format!("killed at {at}, after: {after}")).await;
    }
    killed
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_ends_where_an_undisturbed_one_does() {
    let killed = killed_everywhere(async |store, work, job| {
        let second = work.stage(&job.id, 0);
        commit(store, work, job, 0, second).await.expect("nothing is wrong");
    });
    // Decide, publish, settle; before and after.
    assert_eq!(killed.await, 6);
}

#[tokio::test(start_paused = true)]
async fn so_does_whoever_finds_the_record() {
    let killed = killed_everywhere(async |store, work, job| match record(store, job).await {
        Some(record) => drop(forward(store, work, job, 0, &record).await.expect("nothing is wrong")),
        None => drop(commit(store, work, job, 0, work.stage(&job.id, 0)).await.expect("nothing is wrong")),
    });
    assert_eq!(killed.await, 6);
}

#[tokio::test]
async fn of_two_writers_one_counts_and_the_other_leaves_nothing() {
    let (_directory, store, work, job) = planned().await;
    let (one, two) = (work.stage(&job.id, 0), work.stage(&job.id, 0));
    let both = tokio::join!(commit(store, work, &job, 0, one), commit(store, work, &job, 0, two));
    assert_eq!((both.0.map(|job| job.progress.shards), both.1.map(|job| job.progress.shards)), (Ok(1), Ok(1)));
    assert_eq!(work.staged(), 0, "before any sweep");
    settled_once(store, work, &job, "two writers").await;
}

#[tokio::test]
async fn a_commit_for_a_deleted_job_leaves_nothing() {
    let (_directory, store, work, job) = planned().await;
    let staged = work.stage(&job.id, 0);
    store.change(&job.id, Event::Fail("why".into())).await.expect("allowed");
    store.delete(&job.id).await.expect("it has ended");
    let halt = commit(store, work, &job, 0, staged).await.expect_err("it is not there");
    assert_eq!((halt, work.staged()), (Halt::Store(StoreError::Unknown(job.id)), 0));
}
