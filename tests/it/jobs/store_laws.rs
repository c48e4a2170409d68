//! What every store of jobs must keep to, whatever it is made of: each law is given an empty one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use vljepa::jobs::{Event, Job, JobId, Record, State, Store, StoreError, Tally};

use super::samples::{job, plan, shards, staged};

/// Every law, one after the other, each with a store that `empty` makes.
pub async fn all<S: Future<Output = Arc<dyn Store>>>(mut empty: impl FnMut() -> S) {
    jobs_come_in_the_order_of_their_names(empty().await).await;
    a_request_makes_one_job(empty().await).await;
    the_first_plan_stays(empty().await).await;
    the_first_attempt_counts(empty().await).await;
    a_shard_is_settled_once(empty().await).await;
    events_move_jobs_and_are_refused(empty().await).await;
    only_ended_jobs_are_deleted_and_leave_nothing(empty().await).await;
    changes_are_told(empty().await).await;
    of_many_at_once_one_wins(empty().await).await;
}

async fn planned(store: &dyn Store, id: &str, count: u32) -> Job {
    store.create(job(id)).await.expect("there is room");
    store.plan(&JobId(id.into()), shards(count), plan(count)).await.expect("it is there")
}

fn names(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| &*job.id.0).collect()
}

async fn jobs_come_in_the_order_of_their_names(store: Arc<dyn Store>) {
    assert_eq!(store.jobs(None, 10).await.expect("it is readable"), []);
    for id in ["0c", "0a", "0d", "0b"] {
        assert_eq!(store.create(job(id)).await.expect("there is room"), job(id));
    }
    assert_eq!(names(&store.jobs(None, 10).await.expect("it is readable")), ["0a", "0b", "0c", "0d"]);
    assert_eq!(names(&store.jobs(None, 3).await.expect("it is readable")), ["0a", "0b", "0c"]);
    let after = JobId("0b".into());
    assert_eq!(names(&store.jobs(Some(&after), 10).await.expect("it is readable")), ["0c", "0d"]);
    let absent = JobId("0bb".into());
    assert_eq!(names(&store.jobs(Some(&absent), 1).await.expect("it is readable")), ["0c"]);
    assert_eq!(store.create(job("0a")).await, Err(StoreError::Present(JobId("0a".into()))));
    assert_eq!(store.job(&absent).await, Err(StoreError::Unknown(absent.clone())));
    assert_eq!(store.change(&absent, Event::Pause).await, Err(StoreError::Unknown(absent.clone())));
    assert_eq!(store.shards(&absent, 0, 1).await, Err(StoreError::Unknown(absent.clone())));
    assert_eq!(store.plan(&absent, shards(1), plan(1)).await, Err(StoreError::Unknown(absent.clone())));
    assert_eq!(store.decide(&absent, 0, staged(0, "a")).await, Err(StoreError::Unknown(absent.clone())));
    assert_eq!(store.settle(&absent, 0).await, Err(StoreError::Unknown(absent.clone())));
    assert_eq!(store.delete(&absent).await, Err(StoreError::Unknown(absent)));
}

async fn a_request_makes_one_job(store: Arc<dyn Store>) {
    let asked = |id: &str, owner: Option<&str>| {
        let job = Job { owner: owner.map(String::from), request_id: "again".into(), ..job(id) };
        let store = store.clone();
        async move { store.create(job).await.expect("there is room").id.0 }
    };
    assert_eq!(asked("a", None).await, "a");
    assert_eq!(asked("b", None).await, "a", "the same request");
    assert_eq!(asked("c", Some("key")).await, "c", "of somebody else");
    assert_eq!(asked("d", Some("key")).await, "c");
    assert_eq!(store.jobs(None, 10).await.expect("it is readable").len(), 2);
    let id = JobId("a".into());
    store.change(&id, Event::Cancel).await.expect("allowed");
    store.change(&id, Event::Idle).await.expect("allowed");
    assert_eq!(asked("e", None).await, "a", "the job that was made, though it has ended");
    store.delete(&id).await.expect("it has ended");
    assert_eq!(asked("f", None).await, "f", "the first one is forgotten");
}

async fn the_first_plan_stays(store: Arc<dyn Store>) {
    let id = JobId("a".into());
    let first = planned(&*store, "a", 3).await;
    assert_eq!((first.state, first.plan.as_ref()), (State::Running, Some(&plan(3))));
    let second = store.plan(&id, shards(5), plan(5)).await.expect("it is there");
    assert_eq!(second, first);
    let kept = |from: u32, max: usize| {
        let (store, id) = (store.clone(), id.clone());
        async move { store.shards(&id, from, max).await.expect("it is readable") }
    };
    let fresh: Vec<_> = shards(3).into_iter().map(|shard| (shard, None)).collect();
    assert_eq!(kept(0, 10).await, fresh);
    assert_eq!(kept(1, 1).await, fresh[1..2]);
    assert_eq!(kept(3, 10).await, []);

    // Names that begin alike keep apart.
    planned(&*store, "aa", 1).await;
    assert_eq!(kept(0, 10).await, fresh);

    let empty = planned(&*store, "b", 0).await;
    assert_eq!(empty.state, State::Succeeded, "there is nothing to do");
}

async fn the_first_attempt_counts(store: Arc<dyn Store>) {
    let id = JobId("a".into());
    planned(&*store, "a", 3).await;
    let first = Record { staged: staged(1, "first"), settled: false };
    for attempt in ["first", "second", "first"] {
        assert_eq!(store.decide(&id, 1, staged(1, attempt)).await, Ok(first.clone()), "{attempt}");
    }
    let kept = store.shards(&id, 0, 10).await.expect("it is readable");
    let records: Vec<_> = kept.into_iter().map(|(_, record)| record).collect();
    assert_eq!(records, [None, Some(first), None]);
    assert_eq!(store.job(&id).await.expect("it is there").progress.shards, 0, "nothing is settled");
    assert!(matches!(store.decide(&id, 3, staged(3, "a")).await, Err(StoreError::Broken { .. })), "no such shard");
}

async fn a_shard_is_settled_once(store: Arc<dyn Store>) {
    let id = JobId("a".into());
    planned(&*store, "a", 2).await;
    assert!(matches!(store.settle(&id, 0).await, Err(StoreError::Broken { .. })), "nothing is decided");
    for shard in [1, 0] {
        store.decide(&id, shard, staged(shard, "a")).await.expect("it is there");
        let job = store.settle(&id, shard).await.expect("it is decided");
        assert_eq!(store.settle(&id, shard).await, Ok(job.clone()), "again");
        assert_eq!(store.job(&id).await, Ok(job));
        let late = Record { staged: staged(shard, "a"), settled: true };
        assert_eq!(store.decide(&id, shard, staged(shard, "late")).await, Ok(late));
    }
    let job = store.job(&id).await.expect("it is there");
    assert_eq!(job.state, State::Succeeded);
    assert_eq!(job.progress.shards, 2);
    assert_eq!(job.progress.tally, Tally { succeeded: 18, failed: 2, skipped: 0, written: 18 });
    assert!(job.ended_ms.is_some());
}

async fn events_move_jobs_and_are_refused(store: Arc<dyn Store>) {
    let id = JobId("a".into());
    let running = planned(&*store, "a", 2).await;
    let paused = store.change(&id, Event::Pause).await.expect("allowed");
    assert_eq!(paused.state, State::Paused);
    assert!(paused.revision > running.revision);
    assert_eq!(store.change(&id, Event::Pause).await, Ok(paused.clone()), "again");
    assert_eq!(store.job(&id).await, Ok(paused));
    store.change(&id, Event::Resume).await.expect("allowed");
    let failed = store.change(&id, Event::Fail("a full disk".into())).await.expect("allowed");
    assert_eq!((failed.state, &*failed.reason), (State::Failed, "a full disk"));
    let refused = store.change(&id, Event::Cancel).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(store.job(&id).await, Ok(failed), "a refusal changes nothing");
}

async fn only_ended_jobs_are_deleted_and_leave_nothing(store: Arc<dyn Store>) {
    let id = JobId("a".into());
    planned(&*store, "a", 2).await;
    planned(&*store, "b", 2).await;
    store.decide(&id, 0, staged(0, "a")).await.expect("it is there");
    let refused = store.delete(&id).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    store.change(&id, Event::Fail("why".into())).await.expect("allowed");
    store.delete(&id).await.expect("it has ended");
    assert_eq!(store.job(&id).await, Err(StoreError::Unknown(id.clone())));
    assert_eq!(names(&store.jobs(None, 10).await.expect("it is readable")), ["b"]);
    // Another one of that name finds no trace of it.
    planned(&*store, "a", 1).await;
    let kept = store.shards(&id, 0, 10).await.expect("it is readable");
    assert_eq!(kept, [(shards(1).remove(0), None)]);
    assert_eq!(store.shards(&JobId("b".into()), 0, 10).await.expect("it is readable").len(), 2);
}

async fn changes_are_told(store: Arc<dyn Store>) {
    let id = JobId("a".into());
    let mut changes = store.changes();
    let mut told = async |what: &str| {
        let told = tokio::time::timeout(Duration::from_secs(30), changes.changed()).await;
        told.unwrap_or_else(|_| panic!("{what} is told")).expect("the store lives");
    };
    store.create(job("a")).await.expect("there is room");
    told("create").await;
    store.plan(&id, shards(2), plan(2)).await.expect("it is there");
    told("plan").await;
    store.decide(&id, 0, staged(0, "a")).await.expect("it is there");
    store.settle(&id, 0).await.expect("it is decided");
    told("settle").await;
    store.change(&id, Event::Fail("why".into())).await.expect("allowed");
    told("change").await;
    store.delete(&id).await.expect("it has ended");
    told("delete").await;
}

async fn of_many_at_once_one_wins(store: Arc<dyn Store>) {
    const SHARDS: u32 = 6;
    let id = JobId("a".into());
    planned(&*store, "a", SHARDS).await;
    let mut tasks = JoinSet::new();
    for number in 0..4 * SHARDS {
        let (store, id, shard) = (store.clone(), id.clone(), number % SHARDS);
        tasks.spawn(async move {
            let own = staged(shard, &format!("attempt-{number}"));
            let record = store.decide(&id, shard, own).await.expect("it is there");
            store.settle(&id, shard).await.expect("it is decided");
            (shard, record.staged.attempt)
        });
    }
    let mut winners = vec![None; SHARDS as usize];
    for (shard, attempt) in tasks.join_all().await {
        let winner = winners[shard as usize].get_or_insert_with(|| attempt.clone());
        assert_eq!(*winner, attempt, "two attempts at shard {shard} count");
    }
    let job = store.job(&id).await.expect("it is there");
    assert_eq!((job.state, job.progress.shards, job.progress.tally.rows()), (State::Succeeded, SHARDS, 60));
    for (at, (shard, record)) in store.shards(&id, 0, 100).await.expect("it is readable").into_iter().enumerate() {
        let record = record.expect("it is decided");
        assert_eq!((shard.index as usize, record.settled), (at, true));
        assert_eq!(Some(record.staged.attempt), winners[at]);
    }
}
