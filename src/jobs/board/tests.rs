//! What callers may do and are told: whose a job is, lists in pages, watching, deleting, a store that fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use super::watching::TELLING;
use super::*;
use crate::jobs::fake::{Fake, Fate, part, spec};
use crate::jobs::store::Embedded;
use crate::jobs::{Fault, Plan, Rank, Record, Shard, Staged};

fn house(fake: Fake) -> (TempDir, Arc<Fake>, Jobs) {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let store = Embedded::open(directory.path(), 5).expect("it is new");
    let fake = Arc::new(fake);
    (directory, fake.clone(), Jobs::of(fake, Arc::new(store), &Settings::default()))
}

fn new(title: &str, owner: Option<&str>, request_id: &str) -> NewJob {
    let (owner, request_id) = (owner.map(String::from), request_id.into());
    NewJob { spec: spec(Rank::Normal), title: title.into(), owner, request_id }
}

async fn made(jobs: &Jobs, title: &str, owner: Option<&str>) -> JobId {
    // Names of one millisecond are in no order.
    std::thread::sleep(Duration::from_millis(2));
    jobs.create(new(title, owner, "")).await.expect("there is room").job.id
}

#[tokio::test]
async fn a_job_is_as_it_was_asked_for() {
    let (_directory, _, jobs) = house(Fake::free(1));
    let view = jobs.create(new("a", Some("key"), "r1")).await.expect("there is room");
    let Job { title, owner, request_id, spec, state, .. } = &view.job;
    assert_eq!((&**title, owner.as_deref(), &**request_id), ("a", Some("key"), "r1"));
    assert_eq!((&*spec.model, *state), ("fake", State::Pending), "the first model was meant");
    let again = jobs.create(new("other", Some("key"), "r1")).await.expect("it is there");
    assert_eq!(again, view);
    let mut unknown = new("b", None, "");
    unknown.spec.model = "nobody".into();
    let refused = jobs.create(unknown).await.expect_err("it is not served");
    assert_eq!(refused.to_string(), "model \"nobody\" is not served, must be one of: fake");
}

#[tokio::test]
async fn a_job_of_another_key_is_not_there() {
    let (_directory, _, jobs) = house(Fake::free(1));
    let (ours, theirs) = (made(&jobs, "ours", Some("us")).await, made(&jobs, "theirs", Some("them")).await);
    let page = jobs.list(Some("us"), None, 10).await.expect("it is readable");
    assert_eq!(page.jobs.iter().map(|view| &view.job.id).collect::<Vec<_>>(), [&ours]);
    let gone = Err(EngineError::Gone { what: "job", name: theirs.0.clone() });
    let us = Some("us");
    assert_eq!(jobs.get(&theirs, us).await, gone);
    assert_eq!(jobs.pause(&theirs, us).await, gone);
    assert_eq!(jobs.resume(&theirs, us).await, gone);
    assert_eq!(jobs.cancel(&theirs, us).await, gone);
    assert_eq!(jobs.watch(&theirs, us).await.map(drop), gone.clone().map(drop));
    assert_eq!(jobs.errors(&theirs, us, (String::new(), 9)).await.map(drop), gone.clone().map(drop));
    assert_eq!(jobs.delete(&theirs, us, true).await, gone.map(drop));
    assert_eq!(jobs.get(&theirs, None).await.expect("without keys all is everybody's").job.title, "theirs");
    assert_eq!(jobs.list(None, None, 10).await.expect("it is readable").jobs.len(), 2);
}

#[tokio::test]
async fn lists_come_in_pages_and_tell_whether_more_follow() {
    let (_directory, _, jobs) = house(Fake::free(1));
    let mut names = Vec::new();
    for (title, owner) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x"), ("e", "y")] {
        names.push((made(&jobs, title, Some(owner)).await, title));
    }
    let page = async |owner, after: Option<&JobId>, max| {
        let page = jobs.list(owner, after, max).await.expect("it is readable");
        let titles: String = page.jobs.iter().map(|view| &*view.job.title).collect();
        (titles, page.next.map(|id| names.iter().find(|(name, _)| *name == id).expect("it is one").1))
    };
    assert_eq!(page(None, None, 2).await, ("ab".into(), Some("b")));
    assert_eq!(page(None, Some(&names[1].0), 2).await, ("cd".into(), Some("d")));
    assert_eq!(page(None, Some(&names[3].0), 2).await, ("e".into(), None));
    assert_eq!(page(None, None, 5).await, ("abcde".into(), None));
    assert_eq!(page(Some("x"), None, 2).await, ("ac".into(), Some("c")));
    assert_eq!(page(Some("x"), Some(&names[2].0), 2).await, ("d".into(), None), "others follow, not of this owner");
    assert_eq!(page(Some("z"), None, 2).await, (String::new(), None));
    let full = jobs.create(new("f", None, "")).await.expect_err("five may be");
    assert!(matches!(full, EngineError::Exhausted { limit: "jobs.items_max", max: 5, .. }), "{full}");
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_is_told_at_once_then_of_changes_then_of_the_end() {
    let (_directory, fake, jobs) = house(Fake::held(2));
    let id = made(&jobs, "a", None).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let jobs = jobs.clone();
        async move { jobs.run(async { drop(stopped.await) }).await }
    });
    let (mut told, mut at) = (Vec::new(), Vec::new());
    let mut views = Box::pin(jobs.watch(&id, None).await.expect("it is there"));
    let began = Instant::now();
    while let Some(view) = views.next().await {
        let view = view.expect("it is there");
        if matches!((view.job.progress.shards, view.in_work), (0, 10) | (1, 1..)) {
            fake.gate.add_permits(1);
        }
        at.push(began.elapsed());
        told.push((view.job.state, view.job.progress.shards));
    }
    assert!(at[0] < TELLING, "{at:?}");
    assert!(at.windows(2).all(|two| two[1] - two[0] >= TELLING), "{at:?}");
    assert_eq!(told.last(), Some(&(State::Succeeded, 2)), "{told:?}");
    assert!(told.contains(&(State::Running, 0)) && told.is_sorted_by_key(|(_, shards)| *shards), "{told:?}");
    let after: Vec<_> = jobs.watch(&id, None).await.expect("it is there").collect().await;
    assert_eq!(after, [jobs.get(&id, None).await], "once, for it has ended");

    let other = made(&jobs, "b", None).await;
    let mut views = Box::pin(jobs.watch(&other, None).await.expect("it is there"));
    views.next().await;
    jobs.cancel(&other, None).await.expect("it may be");
    while jobs.delete(&other, None, false).await.is_err() {
        sleep(Duration::from_millis(1)).await;
    }
    let last = views.collect::<Vec<_>>().await.pop();
    assert!(matches!(last, Some(Err(EngineError::Gone { .. }))), "{last:?}");
    drop(stop);
    running.await.expect("it ends well");
}

#[tokio::test(start_paused = true)]
async fn only_what_has_ended_is_deleted_with_its_output_if_that_is_to_go() {
    let (_directory, fake, jobs) = house(Fake::free(2));
    let forever = std::future::pending;
    let waiting = made(&jobs, "waiting", None).await;
    let refused = jobs.delete(&waiting, None, true).await.expect_err("it waits");
    let told = format!("job {waiting}: pending, cannot be deleted: must be cancelled, succeeded or failed");
    assert_eq!(refused.to_string(), told);
    for delete_output in [false, true] {
        let id = made(&jobs, "a", None).await;
        jobs.finish(&id, None, forever()).await.expect("nothing is wrong");
        assert_eq!(fake.files(&id), [part(0), part(1)]);
        jobs.delete(&id, None, delete_output).await.expect("it has ended");
        assert_eq!(fake.files(&id).is_empty(), delete_output);
        assert!(matches!(jobs.get(&id, None).await, Err(EngineError::Gone { .. })));
    }
    let states = jobs.states().await.expect("it is readable");
    assert_eq!(states.iter().map(|(_, count)| count).sum::<usize>(), 1);
    assert_eq!(states[0], (State::Pending, 1));
}

#[tokio::test(start_paused = true)]
async fn a_job_is_not_resumed_while_it_is_deleted() {
    let (_directory, fake, jobs) = house(Fake::free(2));
    fake.doom(0, Fate::Fails(Fault::Broken("why".into())));
    let id = made(&jobs, "a", None).await;
    jobs.finish(&id, None, std::future::pending()).await.expect("the store is well");
    {
        let _deleting = jobs.alone_with(&id).expect("nobody else does");
        let refused = jobs.resume(&id, None).await.expect_err("it is being deleted");
        assert_eq!(refused.to_string(), format!("job {id}: somebody else is resuming or deleting it"));
        assert!(jobs.delete(&id, None, true).await.is_err());
    }
    jobs.resume(&id, None).await.expect("nobody deletes it any more");
}

#[tokio::test(start_paused = true)]
async fn rows_that_failed_come_in_pages() {
    let (_directory, fake, jobs) = house(Fake::free(5));
    fake.doom(3, Fate::Fails(Fault::Broken("why".into())));
    let id = made(&jobs, "a", None).await;
    jobs.finish(&id, None, std::future::pending()).await.expect("it is done as far as it goes");
    let page = async |token: Option<String>, max| {
        let page = jobs.errors(&id, None, (token.unwrap_or_default(), max)).await.expect("it is readable");
        (page.errors.iter().map(|failed| failed.row).collect::<Vec<_>>(), page.next)
    };
    let (rows, next) = page(None, 2).await;
    assert_eq!((rows, next.as_deref()), (vec![9, 19], Some("2.0")));
    let (rows, next) = page(next, 2).await;
    assert_eq!((rows.first(), next), (Some(&29), None), "of the parts that are written");
    jobs.resume(&id, None).await.expect("it has failed");
    jobs.finish(&id, None, std::future::pending()).await.expect("nothing is wrong");
    assert_eq!(page(None, 9).await, (vec![9, 19, 29, 39, 49], None));
    assert_eq!(page(None, 5).await, (vec![9, 19, 29, 39, 49], None));
    for token in ["x", "1", "1.x", "-1.0"] {
        let refused = jobs.errors(&id, None, (token.into(), 5)).await.expect_err("it is no token");
        assert!(refused.to_string().starts_with("page_token: "), "{refused}");
    }
}

/// A store whose next calls fail.
struct Failing {
    inner: Embedded,
    faults: AtomicUsize,
}

impl Failing {
    fn fault(&self) -> Result<(), StoreError> {
        let less = |faults: usize| faults.checked_sub(1);
        match self.faults.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Err(StoreError::Broken { place: "jobs.redb".into(), problem: "no space left".into() }),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Failing {
    async fn create(&self, job: Job) -> Result<Job, StoreError> {
        self.inner.create(job).await
    }
    async fn job(&self, id: &JobId) -> Result<Job, StoreError> {
        self.inner.job(id).await
    }
    async fn jobs(&self, after: Option<&JobId>, max: usize) -> Result<Vec<Job>, StoreError> {
        self.inner.jobs(after, max).await
    }
    async fn change(&self, id: &JobId, event: Event) -> Result<Job, StoreError> {
        self.inner.change(id, event).await
    }
    async fn plan(&self, id: &JobId, shards: Vec<Shard>, plan: Plan) -> Result<Job, StoreError> {
        self.fault()?;
        self.inner.plan(id, shards, plan).await
    }
    async fn shards(&self, id: &JobId, from: u32, max: usize) -> Result<Vec<(Shard, Option<Record>)>, StoreError> {
        self.inner.shards(id, from, max).await
    }
    async fn decide(&self, id: &JobId, shard: u32, staged: Staged) -> Result<Record, StoreError> {
        self.fault()?;
        self.inner.decide(id, shard, staged).await
    }
    async fn settle(&self, id: &JobId, shard: u32) -> Result<Job, StoreError> {
        self.fault()?;
        self.inner.settle(id, shard).await
    }
    async fn delete(&self, id: &JobId) -> Result<(), StoreError> {
        self.inner.delete(id).await
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_tried_again_and_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let inner = Embedded::open(directory.path(), 5).expect("it is new");
    let store = Arc::new(Failing { inner, faults: AtomicUsize::new(0) });
    let fake = Arc::new(Fake::free(4));
    let jobs = Jobs::of(fake.clone(), store.clone(), &Settings::default());
    for faults in 1..6 {
        let id = made(&jobs, "a", None).await;
        store.faults.store(faults, Ordering::Relaxed);
        let halted = jobs.finish(&id, None, std::future::pending()).await;
        assert_eq!(halted.expect_err("the store fails").to_string(), "jobs.redb: no space left");
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn({
            let jobs = jobs.clone();
            async move { jobs.run(async { drop(stopped.await) }).await }
        });
        let last = jobs.watch(&id, None).await.expect("it is there").collect::<Vec<_>>().await.pop();
        let view = last.expect("it ended").expect("it is there");
        assert_eq!((view.job.state, view.job.progress.tally.rows()), (State::Succeeded, 40));
        assert_eq!(fake.files(&id).len(), 4);
        drop(stop);
        running.await.expect("it ends well");
    }
}
