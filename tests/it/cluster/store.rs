//! The replicated store: the laws of all stores, what several processes see of each other, and the death of a server.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use vljepa::jobs::cluster::Replicated;
use vljepa::jobs::{Event, Job, JobId, State, Store, StoreError};

use super::servers::Servers;
use super::settings;
use crate::jobs::samples::{job, plan, shards, staged};
use crate::jobs::store_laws;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_laws_of_stores() {
    let Some(servers) = Servers::start(3) else { return };
    let mut number = 0;
    store_laws::all(|| {
        number += 1;
        let settings = settings(&servers, &format!("laws{number}"));
        async move { Arc::new(Replicated::open(&settings).await.expect("servers answer")) as Arc<dyn Store> }
    })
    .await;
}

/// Waits until a store sees what another one did.
async fn seen(store: &Replicated, id: &JobId, what: impl Fn(&Job) -> bool) -> Job {
    let mut changes = store.changes();
    let seen = async {
        loop {
            let job = store.job(id).await.expect("it is there");
            if what(&job) {
                return job;
            }
            changes.changed().await.expect("the store lives");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it is seen")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_stores_tell_one_truth() {
    const SHARDS: u32 = 40;
    let Some(servers) = Servers::start(3) else { return };
    let settings = settings(&servers, "truth");
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(Replicated::open(&settings).await.expect("servers answer"));
    }
    let id = JobId("a".into());
    stores[0].create(job("a")).await.expect("there is room");

    // Each plans by itself, with another cut: one plan stands, whole.
    let mut planning = JoinSet::new();
    for (at, store) in stores.iter().cloned().enumerate() {
        let id = id.clone();
        let count = SHARDS + at as u32;
        planning.spawn(async move { store.plan(&id, shards(count), plan(count)).await.expect("it is there") });
    }
    let plans: Vec<_> = planning.join_all().await.into_iter().map(|job| job.plan.expect("it is planned")).collect();
    let count = plans[0].shards;
    assert!(plans.iter().all(|plan| plan.shards == count), "{plans:?}");
    let kept = stores[3].shards(&id, 0, 100).await.expect("readable");
    assert_eq!(kept.len() as u32, count);
    assert!(kept.iter().enumerate().all(|(at, (shard, record))| shard.index as usize == at && record.is_none()));

    // All of them do all shards; each shard counts once, and whoever sees the last one ends the job.
    let mut doing = JoinSet::new();
    for (at, store) in stores.iter().cloned().enumerate() {
        let id = id.clone();
        doing.spawn(async move {
            for step in 0..count {
                let shard = (step + at as u32 * 7) % count;
                store.decide(&id, shard, staged(shard, &format!("of-{at}"))).await.expect("it is there");
                store.settle(&id, shard).await.expect("it is decided");
            }
        });
    }
    doing.join_all().await;
    for store in &stores {
        let job = seen(store, &id, |job| job.state == State::Succeeded).await;
        assert_eq!((job.progress.shards, job.progress.tally.rows()), (count, u64::from(count) * 10));
    }
    let late = Replicated::open(&settings).await.expect("servers answer");
    assert_eq!(late.job(&id).await.expect("it is there").progress.tally.failed, u64::from(count));
    assert_eq!(late.jobs(None, 10).await.expect("readable").len(), 1);
    late.delete(&id).await.expect("it has ended");
    assert_eq!(stores[0].job(&id).await, Err(StoreError::Unknown(id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_leader_loses_nothing() {
    let Some(mut servers) = Servers::start(3) else { return };
    let store = Replicated::open(&settings(&servers, "leader")).await.expect("servers answer");
    let other = Replicated::open(&settings(&servers, "leader")).await.expect("servers answer");
    let id = JobId("a".into());
    store.create(job("a")).await.expect("there is room");
    store.plan(&id, shards(3), plan(3)).await.expect("it is there");
    store.decide(&id, 0, staged(0, "a")).await.expect("it is there");
    store.settle(&id, 0).await.expect("it is decided");
    servers.kill_leader("KV_leader-jobs");
    store.decide(&id, 1, staged(1, "a")).await.expect("two of three are enough");
    store.settle(&id, 1).await.expect("it is decided");
    seen(&other, &id, |job| job.progress.shards == 2).await;
    assert_eq!(other.change(&id, Event::Pause).await.expect("allowed").state, State::Paused);
    seen(&store, &id, |job| job.state == State::Paused).await;
}

#[tokio::test]
async fn servers_that_are_not_there_are_told_by_their_names() {
    let mut settings = vljepa::settings::Settings::default();
    settings.cluster.url = Some("nats://me:secret@127.0.0.1:1".into());
    let error = Replicated::open(&settings).await.err().expect("nobody listens").to_string();
    assert!(error.starts_with("nats://127.0.0.1:1: ") && !error.contains("secret"), "{error}");
}
