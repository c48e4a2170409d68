//! The runner's rules, with work that waits until it is let through, and jobs that are moved at every moment.

mod recovery;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::jobs::fake::{Fake, Fate, ROWS, part, spec};
use crate::jobs::store::Embedded;
use crate::jobs::{JobView, Jobs, NewJob, Rank};
use crate::settings::Settings;

struct House {
    directory: TempDir,
    fake: Arc<Fake>,
    jobs: Jobs,
    shards_at_once: usize,
}

impl House {
    fn new(fake: Fake) -> Self {
        Self::with(fake, 2)
    }

    fn with(fake: Fake, shards_at_once: usize) -> Self {
        let directory = tempfile::tempdir().expect("the disk takes files");
        let fake = Arc::new(fake);
        let jobs = opened(&directory, &fake, shards_at_once);
        Self { directory, fake, jobs, shards_at_once }
    }

    /// The jobs as a new process finds them. Nobody may hold the old ones any more.
    fn again(self) -> Self {
        let Self { directory, fake, jobs, shards_at_once } = self;
        drop(jobs);
        let jobs = opened(&directory, &fake, shards_at_once);
        Self { directory, fake, jobs, shards_at_once }
    }

    async fn make(&self, title: &str, rank: Rank) -> JobId {
        let new = NewJob { spec: spec(rank), title: title.into(), owner: None, request_id: String::new() };
        self.jobs.create(new).await.expect("there is room").job.id
    }

    fn run(&self) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let jobs = self.jobs.clone();
        let task = tokio::spawn(async move { jobs.run(async { drop(stopped.await) }).await });
        Running { stop, task }
    }

    /// Waits until the job is in this state.
    async fn until(&self, id: &JobId, state: State) -> JobView {
        let mut told = Box::pin(self.jobs.watch(id, None).await.expect("it is there"));
        loop {
            let view = told.next().await.unwrap_or_else(|| panic!("it ended before it was {}", state.name()));
            let view = view.expect("it is there");
            if view.job.state == state {
                return view;
            }
        }
    }

    async fn view(&self, id: &JobId) -> JobView {
        self.jobs.get(id, None).await.expect("it is there")
    }

    /// The log without the lines of planning and sweeping.
    fn shards(&self, what: &str) -> Vec<String> {
        let log = self.fake.log();
        log.iter().filter_map(|line| line.strip_prefix(what)).map(|line| line.trim().to_owned()).collect()
    }
}

fn opened(directory: &TempDir, fake: &Arc<Fake>, shards_at_once: usize) -> Jobs {
    let store = Embedded::open(directory.path(), 100).expect("nobody has it");
    let mut settings = Settings::default();
    settings.jobs.shards_at_once = shards_at_once;
    Jobs::of(fake.clone(), Arc::new(store), &settings)
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        drop(self.stop);
        self.task.await.expect("it ends well");
    }

    /// As a kill does it: nothing has a last word.
    async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

fn parts(shards: u32) -> Vec<String> {
    (0..shards).map(part).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_is_worked_off_and_leaves_its_parts_alone() {
    let house = House::new(Fake::free(5));
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    let view = house.until(&id, State::Succeeded).await;
    assert_eq!((view.job.progress.shards, view.job.progress.tally.rows()), (5, 50));
    assert_eq!((view.in_work, view.left_ms), (0, None));
    house.fake.until("sweep a", 1).await;
    assert_eq!((house.fake.files(&id), house.fake.staged()), (parts(5), 0));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn shards_at_once_are_in_work_and_told_and_no_more() {
    let house = House::with(Fake::held(5), 3);
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    house.fake.until("begin", 3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.shards("begin").len(), 3);
    assert_eq!(house.view(&id).await.in_work, 3 * ROWS / 2);
    house.fake.gate.add_permits(1);
    house.fake.until("begin", 4).await;
    house.fake.gate.add_permits(9);
    house.until(&id, State::Succeeded).await;
    assert_eq!(house.shards("begin"), ["a 0", "a 1", "a 2", "a 3", "a 4"]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn ranks_and_turns_are_kept() {
    let house = House::with(Fake::held(2), 1);
    let mut made = Vec::new();
    for (title, rank) in [("low", Rank::Low), ("one", Rank::Normal), ("two", Rank::Normal), ("high", Rank::High)] {
        made.push(house.make(title, rank).await);
        // Names of one millisecond are in no order.
        std::thread::sleep(Duration::from_millis(2));
    }
    // All are cut before the first shard is through.
    let running = house.run();
    house.fake.until("plan", 4).await;
    for id in &made {
        house.until(id, State::Running).await;
    }
    house.fake.gate.add_permits(99);
    for id in &made {
        house.until(id, State::Succeeded).await;
    }
    let begun = house.shards("begin");
    // The very first is of whichever job was cut first.
    let place = |line: &str| begun.iter().position(|begun| begun == line).expect("it was begun");
    assert!(place("high 1") < place("one 1").min(place("two 1")).min(place("low 1")), "{begun:?}");
    assert!(place("one 0").max(place("two 0")) < place("one 1").min(place("two 1")), "{begun:?}");
    assert_eq!(begun.last().map(String::as_str), Some("low 1"), "{begun:?}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_gives_up_what_is_in_work_and_a_resume_does_it_anew() {
    let house = House::new(Fake::held(4));
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    house.fake.gate.add_permits(1);
    house.fake.until("publish", 1).await;
    house.fake.until("begin", 3).await;
    let paused = house.jobs.pause(&id, None).await.expect("it runs");
    assert_eq!(paused.job.state, State::Paused);
    house.fake.until("given up", 2).await;
    while house.view(&id).await.in_work > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house.fake.gate.add_permits(99);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(house.view(&id).await.job.progress.shards, 1, "it waits");
    house.jobs.resume(&id, None).await.expect("it is paused");
    house.until(&id, State::Succeeded).await;
    assert_eq!(house.fake.files(&id), parts(4));
    assert_eq!(house.shards("publish").len(), 4);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn pauses_and_resumes_in_a_row_lose_nothing() {
    let house = House::new(Fake::free(40));
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    for _ in 0..50 {
        if house.jobs.pause(&id, None).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        // The last parts may be written although it is paused; then it has ended.
        if house.jobs.resume(&id, None).await.is_err() {
            break;
        }
    }
    house.until(&id, State::Succeeded).await;
    assert_eq!((house.fake.files(&id), house.shards("publish").len()), (parts(40), 40));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_ends_when_nothing_is_in_work() {
    let house = House::new(Fake::held(4));
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    house.fake.gate.add_permits(1);
    house.fake.until("begin", 3).await;
    house.jobs.cancel(&id, None).await.expect("it runs");
    let view = house.until(&id, State::Cancelled).await;
    assert_eq!((view.job.progress.shards, view.in_work), (1, 0));
    assert_eq!(house.shards("given up").len(), 2);
    house.fake.until("sweep", 1).await;
    assert_eq!((house.fake.files(&id), house.fake.staged()), (vec![part(0)], 0));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_is_cancelled_and_paused_before_and_while_it_is_cut() {
    let house = House::new(Fake::free(3));
    house.fake.planning.forget_permits(1 << 20);
    let before = house.make("before", Rank::Normal).await;
    house.jobs.cancel(&before, None).await.expect("it is pending");
    let running = house.run();
    house.until(&before, State::Cancelled).await;
    let cut = house.make("cut", Rank::Normal).await;
    house.fake.until("plan cut", 1).await;
    house.jobs.cancel(&cut, None).await.expect("it is pending");
    house.until(&cut, State::Cancelled).await;
    let waits = house.make("waits", Rank::Normal).await;
    house.fake.until("plan waits", 1).await;
    house.jobs.pause(&waits, None).await.expect("it is pending");
    tokio::time::sleep(Duration::from_secs(5)).await;
    house.fake.planning.add_permits(9);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(house.view(&waits).await.job.plan.is_none());
    house.jobs.resume(&waits, None).await.expect("it is paused");
    house.until(&waits, State::Succeeded).await;
    assert!(house.shards("begin").iter().all(|line| line.starts_with("waits")));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_shard_fails_its_job_with_the_reason_and_a_resume_does_it_anew() {
    let house = House::new(Fake::free(4));
    house.fake.doom(2, Fate::Fails(Fault::Broken("the disk is full".into())));
    house.fake.doom(3, Fate::Panics);
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    let view = house.until(&id, State::Failed).await;
    assert!(
        ["shard 2: the disk is full", "shard 3: internal error: "].iter().any(|why| view.job.reason.starts_with(why))
    );
    while house.view(&id).await.job.state != State::Succeeded {
        house.until(&id, State::Failed).await;
        let resumed = house.jobs.resume(&id, None).await.expect("it has failed");
        assert_eq!(resumed.job.reason, "");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!((house.fake.files(&id), house.shards("publish").len()), (parts(4), 4));
    // Another job never noticed.
    let other = house.make("b", Rank::Normal).await;
    house.until(&other, State::Succeeded).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_model_stops_rests_and_goes_on() {
    let house = House::new(Fake::free(3));
    for _ in 0..3 {
        house.fake.doom(1, Fate::Fails(Fault::Stopped));
    }
    let began = tokio::time::Instant::now();
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    let view = house.until(&id, State::Succeeded).await;
    assert_eq!((view.job.reason, house.fake.files(&id)), (String::new(), parts(3)));
    assert!(began.elapsed() >= Duration::from_secs(3), "it rests in between");
    assert!(house.shards("begin").len() < 20, "and does not try all the time");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn some_shards_only() {
    let (fake, mut houses) = (Arc::new(Fake::free(7)), Vec::new());
    for index in 0..3 {
        let directory = tempfile::tempdir().expect("the disk takes files");
        let jobs = opened(&directory, &fake, 2);
        let house = House { directory, fake: fake.clone(), jobs, shards_at_once: 2 };
        let new = NewJob { spec: spec(Rank::Normal), title: "a".into(), owner: None, request_id: String::new() };
        let id = house.jobs.adopt(new.clone()).await.expect("there is room").job.id;
        assert_eq!(house.jobs.adopt(new).await.expect("it is there").job.id, id, "again");
        for _ in 0..2 {
            let only = Some(Only { index, count: 3 });
            let view = house.jobs.finish(&id, only, std::future::pending()).await.expect("nothing is wrong");
            assert_eq!((view.job.state, view.job.progress.shards), (State::Running, [3, 2, 2][index as usize]));
        }
        houses.push((house, id));
    }
    assert!(houses.windows(2).all(|two| two[0].1 == two[1].1), "one job, whoever asks");
    let mut begun = houses[0].0.shards("begin");
    begun.sort();
    assert_eq!(begun, ["a 0", "a 1", "a 2", "a 3", "a 4", "a 5", "a 6"]);
    assert_eq!(fake.files(&houses[0].1), parts(7));
}

#[tokio::test(start_paused = true)]
async fn one_job_is_finished_and_others_are_left() {
    let house = House::new(Fake::free(2));
    let (one, other) = (house.make("one", Rank::Low).await, house.make("other", Rank::High).await);
    let view = house.jobs.finish(&one, None, std::future::pending()).await.expect("nothing is wrong");
    assert_eq!(view.job.state, State::Succeeded);
    assert_eq!(house.view(&other).await.job.state, State::Pending);
    house.jobs.pause(&other, None).await.expect("it is pending");
    let view = house.jobs.finish(&other, None, std::future::pending()).await.expect("nothing is wrong");
    assert_eq!(view.job.state, State::Paused, "nothing can be done with it");
    assert!(house.jobs.finish(&JobId("x".into()), None, std::future::pending()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_what_is_in_work() {
    let house = House::new(Fake::held(4));
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    house.fake.until("begin", 2).await;
    running.end().await;
    assert_eq!(house.shards("given up").len(), 2);
    let view = house.view(&id).await;
    assert_eq!((view.job.state, view.in_work), (State::Running, 0), "it goes on with the next process");
}

#[tokio::test(start_paused = true)]
async fn an_input_without_rows() {
    let house = House::new(Fake::free(0));
    let running = house.run();
    let id = house.make("a", Rank::Normal).await;
    let view = house.until(&id, State::Succeeded).await;
    assert_eq!((view.job.progress.shards, house.fake.files(&id)), (0, vec![]));
    running.end().await;
}
