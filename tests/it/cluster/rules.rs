//! Reconciler and workers by their rules, with work that computes nothing: what is handed out, given up, tried again
//! and buried.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vljepa::engine::EngineError;
use vljepa::jobs::cluster::{Reconciler, Replicated, Worker};
use vljepa::jobs::parts::ErrorsToken;
use vljepa::jobs::{Event, Failed, Fault, Job, JobId, Meter, Plan, Shard, Staged, State, Store, Work};
use vljepa::settings::Settings;

use super::servers::Servers;
use super::settings;
use crate::jobs::samples::{job, plan, shards, staged};

const SHARDS: u32 = 12;

/// What an attempt at a shard comes to.
#[derive(Clone, Copy)]
enum Way {
    Made,
    Broken,
    /// Never ends.
    Hangs,
}

/// Work that computes nothing and writes down what it is asked.
struct Script {
    way: Box<dyn Fn(u32) -> Way + Send + Sync>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    attempts: HashMap<u32, u32>,
    published: HashMap<u32, Vec<String>>,
    swept: Vec<JobId>,
}

impl Script {
    fn new(way: impl Fn(u32) -> Way + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { way: Box::new(way), told: Mutex::default() })
    }

    fn attempts(&self, shard: u32) -> u32 {
        self.told.lock().expect("no panic").attempts.get(&shard).copied().unwrap_or_default()
    }
}

#[async_trait]
impl Work for Script {
    fn model(&self, name: &str) -> Result<String, EngineError> {
        Ok(name.into())
    }

    async fn plan(&self, job: &Job) -> Result<(Vec<Shard>, Plan), Fault> {
        match &*job.title {
            "no input" => Err(Fault::Broken("texts.jsonl: is not there".into())),
            _ => Ok((shards(SHARDS), plan(SHARDS))),
        }
    }

    async fn attempt(&self, _: &Job, shard: &Shard, _: &Meter) -> Result<Staged, Fault> {
        let number = {
            let mut told = self.told.lock().expect("no panic");
            let attempts = told.attempts.entry(shard.index).or_default();
            *attempts += 1;
            *attempts
        };
        match (self.way)(shard.index) {
            Way::Made => Ok(staged(shard.index, &format!("try-{number}"))),
            Way::Broken => Err(Fault::Broken(format!("no luck with shard {}", shard.index))),
            Way::Hangs => std::future::pending().await,
        }
    }

    async fn publish(&self, _: &Job, staged: &Staged) -> Result<(), Fault> {
        let name = &staged.files[0].name;
        let shard = name.trim_start_matches("part-").trim_end_matches(".jsonl").parse().expect("a number");
        let mut told = self.told.lock().expect("no panic");
        told.published.entry(shard).or_default().push(staged.attempt.clone());
        Ok(())
    }

    async fn lost(&self, _: &Job, _: &Staged) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    async fn discard(&self, _: &Job, _: &str) -> Result<(), Fault> {
        Ok(())
    }

    async fn sweep(&self, job: &Job, _: &HashSet<String>) -> Result<(), Fault> {
        self.told.lock().expect("no panic").swept.push(job.id.clone());
        Ok(())
    }

    async fn clear(&self, _: &Job) -> Result<(), EngineError> {
        Ok(())
    }

    async fn errors(
        &self,
        _: &Job,
        _: ErrorsToken,
        _: usize,
    ) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError> {
        Ok((vec![], None))
    }
}

/// Something that runs until it is told to end.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        let _ = self.stop.send(());
        self.task.await.expect("no panic");
    }
}

async fn store(settings: &Settings) -> Replicated {
    Replicated::open(settings).await.expect("servers answer")
}

async fn reconciler(settings: &Settings, work: &Arc<Script>) -> Running {
    let reconciler = Reconciler::open(store(settings).await, work.clone()).await.expect("servers answer");
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(reconciler.run(async { drop(stopped.await) }));
    Running { stop, task }
}

async fn worker(settings: &Settings, work: &Arc<Script>) -> Running {
    worker_of(&plan(1).space, settings, work).await
}

async fn worker_of(space: &str, settings: &Settings, work: &Arc<Script>) -> Running {
    let worker = Worker::new(store(settings).await, work.clone(), vec![space.into()], 2);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async { worker.run(async { drop(stopped.await) }).await.expect("servers answer") });
    Running { stop, task }
}

/// Waits until a job is as it should be.
async fn until(store: &Replicated, id: &JobId, what: &str, fits: impl Fn(&Job) -> bool) -> Job {
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let job = store.job(id).await.expect("it is there");
        if fits(&job) {
            return job;
        }
        assert!(tokio::time::Instant::now() < until, "{what}: {job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn id(name: &str) -> JobId {
    JobId(name.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shard_is_done_once_and_what_is_left_is_cleared() {
    let Some(servers) = Servers::start(3) else { return };
    let settings = settings(&servers, "once");
    let store = store(&settings).await;
    let hands = Script::new(|_| Way::Made);
    // Two reconcilers: one acts.
    let (first, second) = (reconciler(&settings, &hands).await, reconciler(&settings, &hands).await);
    let (one, two) = (worker(&settings, &hands).await, worker(&settings, &hands).await);
    for name in ["a", "b"] {
        store.create(job(name)).await.expect("there is room");
    }
    for name in ["a", "b"] {
        let job = until(&store, &id(name), "it succeeds", |job| job.state.ended()).await;
        assert_eq!((job.state, job.progress.shards), (State::Succeeded, SHARDS), "{}", job.reason);
        assert_eq!(job.progress.tally.rows(), u64::from(SHARDS) * 10);
    }
    assert!((0..SHARDS).all(|shard| hands.attempts(shard) == 2), "once for each job");
    let broken = store.create(Job { title: "no input".into(), ..job("c") }).await.expect("there is room");
    let failed = until(&store, &broken.id, "it fails", |job| job.state.ended()).await;
    assert_eq!((failed.state, &*failed.reason), (State::Failed, "texts.jsonl: is not there"));
    for _ in 0..600 {
        if hands.told.lock().expect("no panic").swept.len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut swept = hands.told.lock().expect("no panic").swept.clone();
    swept.sort();
    assert_eq!(swept, [id("a"), id("b"), id("c")], "each that has ended, by one reconciler");
    for running in [one, two, first, second] {
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_nobody_can_do_is_buried_and_its_job_fails() {
    let Some(servers) = Servers::start(3) else { return };
    let mut settings = settings(&servers, "dead");
    settings.cluster.deliveries_max = 2;
    let store = store(&settings).await;
    let luckless = Script::new(|shard| if shard == 3 { Way::Broken } else { Way::Made });
    let reconciling = reconciler(&settings, &luckless).await;
    let working = worker(&settings, &luckless).await;
    store.create(job("a")).await.expect("there is room");
    let job = until(&store, &id("a"), "it fails", |job| job.state.ended()).await;
    assert_eq!(job.state, State::Failed);
    assert_eq!(job.reason, "shard 3 was handed out 2 times and never done; the last time: no luck with shard 3");
    assert_eq!(luckless.attempts(3), 2);
    working.end().await;
    reconciling.end().await;

    // Somebody has seen to it: it goes on, with the shards that are left.
    let lucky = Script::new(|_| Way::Made);
    let reconciling = reconciler(&settings, &lucky).await;
    let working = worker(&settings, &lucky).await;
    store.change(&id("a"), Event::Resume).await.expect("allowed");
    until(&store, &id("a"), "it succeeds", |job| job.state == State::Succeeded).await;
    assert_eq!(lucky.attempts(3), 1);
    assert!((0..SHARDS).all(|shard| luckless.attempts(shard) + lucky.attempts(shard) >= 1));
    working.end().await;
    reconciling.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_and_cancel_reach_workers_and_a_worker_that_ends_counts_as_no_try() {
    let Some(servers) = Servers::start(3) else { return };
    let mut settings = settings(&servers, "pause");
    settings.cluster.deliveries_max = 1;
    // Were a lease waited for, the test would not end in time.
    settings.cluster.lease_ms = 600_000;
    let store = store(&settings).await;
    let stuck = Script::new(|_| Way::Hangs);
    let reconciling = reconciler(&settings, &stuck).await;
    let working = worker(&settings, &stuck).await;
    store.create(job("a")).await.expect("there is room");
    let begun = async |attempts: u32| {
        for _ in 0..3000 {
            if (0..SHARDS).map(|shard| stuck.attempts(shard)).sum::<u32>() >= attempts {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("fewer than {attempts} attempts are begun");
    };
    begun(2).await;
    store.change(&id("a"), Event::Pause).await.expect("allowed");
    // Its worker is free again: another job's shards are begun by it.
    store.create(job("b")).await.expect("there is room");
    until(&store, &id("b"), "it runs", |job| job.state == State::Running).await;
    begun(4).await;
    store.change(&id("b"), Event::Cancel).await.expect("allowed");
    until(&store, &id("b"), "it is cancelled", |job| job.state == State::Cancelled).await;

    store.change(&id("a"), Event::Resume).await.expect("allowed");
    begun(6).await;
    // It is told to end and hands its shards back, although each may be handed out only once.
    working.end().await;
    let able = Script::new(|_| Way::Made);
    let working = worker(&settings, &able).await;
    let job = until(&store, &id("a"), "it succeeds", |job| job.state.ended()).await;
    assert_eq!((job.state, &*job.reason), (State::Succeeded, ""));
    working.end().await;
    reconciling.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_another_model_takes_nothing_and_what_is_decided_is_finished() {
    let Some(servers) = Servers::start(3) else { return };
    let settings = settings(&servers, "other");
    let store = store(&settings).await;
    let able = Script::new(|_| Way::Made);
    let stranger = Script::new(|_| Way::Made);
    let reconciling = reconciler(&settings, &able).await;
    let strange = worker_of(&"7".repeat(16), &settings, &stranger).await;
    store.create(job("a")).await.expect("there is room");
    until(&store, &id("a"), "it is planned", |job| job.plan.is_some()).await;
    // As a worker leaves it that dies between the decision and the names: the reconciler finishes it, by itself.
    store.decide(&id("a"), 5, staged(5, "dead")).await.expect("it is there");
    until(&store, &id("a"), "the decided shard is settled", |job| job.progress.shards == 1).await;
    assert_eq!(able.told.lock().expect("no panic").published[&5], ["dead"]);
    let working = worker(&settings, &able).await;
    let job = until(&store, &id("a"), "it succeeds", |job| job.state.ended()).await;
    assert_eq!(job.state, State::Succeeded);
    assert!((0..SHARDS).all(|shard| stranger.attempts(shard) == 0));
    assert_eq!((able.attempts(5), able.attempts(6)), (0, 1));
    for running in [working, strange, reconciling] {
        running.end().await;
    }
}
