//! What a process leaves that is killed anywhere, and files that are damaged meanwhile: the next one ends where an
//! undisturbed one does.

use std::sync::Arc;
use std::time::Duration;

use super::{House, opened, parts};
use crate::jobs::fake::{Fake, Fate, ROWS, part};
use crate::jobs::store::Embedded;
use crate::jobs::{Jobs, Rank, State, Store};
use crate::settings::Settings;

#[tokio::test(start_paused = true)]
async fn a_killed_process_loses_nothing_and_doubles_nothing() {
    let mut house = House::new(Fake::held(6));
    let id = house.make("a", Rank::Normal).await;
    for killed in 0..8 {
        let running = house.run();
        house.fake.gate.add_permits(1);
        // Somewhere else each time: while it is cut, begun, computed, decided, published.
        for _ in 0..killed * 7 {
            tokio::task::yield_now().await;
        }
        if killed > 4 {
            house.fake.until("publish", killed - 4).await;
        }
        running.kill().await;
        // What a blocking thread has begun, it finishes.
        house = reopened(house).await;
    }
    house.fake.gate.add_permits(99);
    let running = house.run();
    let view = house.until(&id, State::Succeeded).await;
    assert_eq!(view.job.progress.tally.rows(), 6 * ROWS);
    house.fake.until("sweep a", 1).await;
    running.end().await;
    assert_eq!((house.fake.files(&id), house.fake.staged()), (parts(6), 0));
}

/// As [`House::again`], once the old process's threads are through.
async fn reopened(house: House) -> House {
    let House { directory, fake, jobs, shards_at_once } = house;
    drop(jobs);
    for _ in 0..1000 {
        if Embedded::open(directory.path(), 100).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let jobs = opened(&directory, &fake, shards_at_once);
    House { directory, fake, jobs, shards_at_once }
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_before_a_crash_is_rolled_forward() {
    let house = House::new(Fake::free(3));
    let id = house.make("a", Rank::Normal).await;
    let store = Embedded::open(&house.directory.path().join("other"), 9).expect("it is new");
    let job = store.create(house.view(&id).await.job).await.expect("there is room");
    let (shards, plan) = crate::jobs::Work::plan(&*house.fake, &job).await.expect("nothing is wrong");
    store.plan(&id, shards, plan).await.expect("it is there");
    store.decide(&id, 1, house.fake.stage(&id, 1)).await.expect("it is there");
    // Nobody decided on this one.
    house.fake.stage(&id, 0);
    let jobs = Jobs::of(house.fake.clone(), Arc::new(store), &Settings::default());
    let view = jobs.finish(&id, None, std::future::pending()).await.expect("nothing is wrong");
    assert_eq!((view.job.state, view.job.progress.tally.rows()), (State::Succeeded, 3 * ROWS));
    let begun = house.shards("begin");
    assert_eq!(begun, ["a 0", "a 2"], "shard 1 is only rolled forward");
    assert_eq!((house.fake.files(&id), house.fake.staged()), (parts(3), 0));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_gets_lost_is_made_anew_when_the_job_goes_on_if_it_is_the_same_again() {
    for otherwise in [false, true] {
        let house = House::new(Fake::held(3));
        let running = house.run();
        let id = house.make("a", Rank::Normal).await;
        house.fake.gate.add_permits(1);
        house.fake.until("publish", 1).await;
        house.fake.until("begin", 3).await;
        running.end().await;
        house.fake.lose(&id, &part(0));
        if otherwise {
            house.fake.doom(0, Fate::ComesOutOtherwise);
        }
        let house = house.again();
        house.fake.gate.add_permits(3);
        let running = house.run();
        if otherwise {
            let view = house.until(&id, State::Failed).await;
            let reason = "part-00000 is not there any more as it was written, and shard 0 comes out otherwise now";
            assert_eq!((&*view.job.reason, house.fake.staged()), (reason, 0));
        } else {
            let view = house.until(&id, State::Succeeded).await;
            assert_eq!((house.fake.files(&id), view.job.progress.tally.rows()), (parts(3), 3 * ROWS));
        }
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_decided_part_whose_files_are_damaged_is_made_anew() {
    let house = House::new(Fake::free(2));
    let id = house.make("a", Rank::Normal).await;
    let store = Embedded::open(&house.directory.path().join("other"), 9).expect("it is new");
    let job = store.create(house.view(&id).await.job).await.expect("there is room");
    let (shards, plan) = crate::jobs::Work::plan(&*house.fake, &job).await.expect("nothing is wrong");
    store.plan(&id, shards, plan).await.expect("it is there");
    let staged = house.fake.stage(&id, 1);
    crate::jobs::Work::discard(&*house.fake, &job, &staged.attempt).await.expect("it was there");
    store.decide(&id, 1, staged).await.expect("it is there");
    let jobs = Jobs::of(house.fake.clone(), Arc::new(store), &Settings::default());
    let view = jobs.finish(&id, None, std::future::pending()).await.expect("nothing is wrong");
    assert_eq!((view.job.state, view.job.progress.tally.rows()), (State::Succeeded, 2 * ROWS));
    assert_eq!((house.fake.files(&id), house.fake.staged()), (parts(2), 0));
}
