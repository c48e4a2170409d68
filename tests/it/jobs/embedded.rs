//! The store of one machine: what a second process, a damaged file, a newer program and a full store get to hear.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use vljepa::jobs::store::Embedded;
use vljepa::jobs::{Event, JobId, State, Store, StoreError};

use super::samples::{job, plan, shards, staged};
use super::store_laws;

fn open(directory: &TempDir) -> Result<Embedded, StoreError> {
    Embedded::open(directory.path(), 100)
}

#[tokio::test]
async fn it_keeps_the_laws_of_stores() {
    let mut directories = Vec::new();
    store_laws::all(|| {
        let directory = tempfile::tempdir().expect("the disk takes files");
        let store = open(&directory).expect("it is new");
        directories.push(directory);
        async move { Arc::new(store) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test]
async fn what_is_committed_is_there_when_it_is_opened_again() {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let id = JobId("a".into());
    let store = open(&directory).expect("it is new");
    store.create(job("a")).await.expect("there is room");
    store.plan(&id, shards(3), plan(3)).await.expect("it is there");
    store.decide(&id, 2, staged(2, "one")).await.expect("it is there");
    store.settle(&id, 2).await.expect("it is decided");
    let before = (store.job(&id).await, store.shards(&id, 0, 10).await);
    drop(store);
    let store = open(&directory).expect("nobody has it");
    assert_eq!((store.job(&id).await, store.shards(&id, 0, 10).await), before);
    assert_eq!(store.change(&id, Event::Pause).await.expect("allowed").state, State::Paused);
}

#[tokio::test]
async fn a_second_one_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let first = open(&directory).expect("it is new");
    let refused = open(&directory).err().expect("the first one has it");
    assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
    let file = directory.path().join("jobs.redb");
    let told = format!("{}: another process works with this store", file.display());
    assert!(refused.to_string().starts_with(&told), "{refused}");
    first.create(job("a")).await.expect("the first one is well");
    drop(first);
    open(&directory).expect("nobody has it any more");
}

#[tokio::test]
async fn no_more_jobs_than_may_be() {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let store = Embedded::open(directory.path(), 2).expect("it is new");
    store.create(job("a")).await.expect("there is room");
    store.create(job("b")).await.expect("there is room");
    assert_eq!(store.create(job("c")).await, Err(StoreError::Full { max: 2 }));
    store.change(&JobId("a".into()), Event::Fail("why".into())).await.expect("allowed");
    store.delete(&JobId("a".into())).await.expect("it has ended");
    store.create(job("c")).await.expect("there is room again");
}

#[tokio::test]
async fn a_damaged_file_is_told() {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let file = directory.path().join("jobs.redb");
    let store = open(&directory).expect("it is new");
    for number in 0..50 {
        store.create(job(&format!("{number:02}"))).await.expect("there is room");
    }
    drop(store);
    let whole = fs::read(&file).expect("readable");
    let told = |what: &str, bytes: &[u8]| {
        fs::write(&file, bytes).expect("writable");
        let error = open(&directory).err().unwrap_or_else(|| panic!("{what}: it cannot be opened"));
        assert!(matches!(error, StoreError::Broken { .. }), "{what}: {error}");
        assert!(error.to_string().contains("jobs.redb: "), "{what}: {error}");
    };
    told("something else", b"not a database at all, but a letter to a friend");
    told("half of it", &whole[..whole.len() / 2]);
    // Every page that holds a job is zeroed.
    let needle = b"texts.jsonl";
    let mut zeroed = whole.clone();
    let holding = |page: &[u8]| page.windows(needle.len()).any(|window| window == needle);
    let pages = zeroed.chunks_mut(4096).filter(|page| holding(page)).map(|page| page.fill(0)).count();
    assert!(pages > 2, "{pages} pages hold jobs");
    told("pages of zeros", &zeroed);
    fs::write(&file, &whole).expect("writable");
    assert_eq!(open(&directory).expect("it is whole again").jobs(None, 99).await.expect("readable").len(), 50);
}

#[test]
fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().expect("the disk takes files");
    let file = directory.path().join("jobs.redb");
    let database = redb::Database::create(&file).expect("it is new");
    let transaction = database.begin_write().expect("nobody else writes");
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).expect("it is new").insert("format", 7).expect("there is room");
    transaction.commit().expect("there is room");
    drop(database);
    let refused = open(&directory).err().expect("it is newer").to_string();
    assert!(refused.ends_with("jobs.redb: it is of format 7, this program knows format 1"), "{refused}");
}
