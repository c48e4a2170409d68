//! The same laws for every kind of place, and what only a disk can have: torn files, and names that lead elsewhere.

use tempfile::TempDir;

use super::*;
use crate::jobs::Tally;
use crate::settings::Effective;

fn open(location: &str) -> Files {
    Files::open(location, &objects()).expect("a place")
}

/// With the feature `s3` what the environment says: `.ci/s3` runs these laws against a store of its own.
fn objects() -> ObjectSettings {
    match cfg!(feature = "s3") {
        true => Effective::load(None, &[]).expect("settings").settings.objects,
        false => ObjectSettings::default(),
    }
}

/// A place of each kind, empty; the directory is only there to be kept.
fn places(name: &str) -> Vec<(Files, Arc<TempDir>)> {
    let directory = Arc::new(tempfile::tempdir().expect("a folder"));
    let mut locations = vec![directory.path().join("a/out").display().to_string(), format!("memory://{name}/out")];
    if objects().endpoint.is_some() {
        locations.push(format!("s3://vljepa/{name}-{:x}", rand::random::<u64>()));
    }
    locations.iter().map(|location| (open(location), directory.clone())).collect()
}

fn job(name: &str) -> JobId {
    JobId(name.into())
}

async fn staged(files: &Files, attempt: &str, content: &[(&str, &[u8])]) -> Staged {
    let mut staged = Staged { attempt: attempt.into(), files: vec![], tally: Tally::default() };
    for (name, bytes) in content {
        staged.files.push(files.stage(attempt, name, bytes.to_vec()).await.expect("there is room"));
    }
    staged
}

async fn content(files: &Files, name: &str) -> Vec<u8> {
    let size = files.size(name).await.expect("readable").expect("there");
    files.read(name, 0..size).await.expect("readable")
}

async fn temporary(files: &Files) -> Vec<String> {
    files.blocking(|files| Ok(files.place.list(STAGED).expect("readable"))).await.expect("listed")
}

#[tokio::test]
async fn a_staged_file_counts_once_it_is_published_and_may_be_published_again() {
    for (files, _kept) in places("published") {
        assert_eq!(files.list().await, Ok(vec![]));
        let staged = staged(&files, "one", &[("part-00000.jsonl", b"row\n"), ("_errors-00000.jsonl", b"x")]).await;
        assert_eq!(files.list().await, Ok(vec![]), "{}", files.location());
        assert_eq!(files.lost(&staged).await, Ok(Some("part-00000.jsonl".into())));
        for _ in 0..2 {
            files.publish(&staged).await.expect("nothing is wrong");
            assert_eq!(files.list().await, Ok(vec!["_errors-00000.jsonl".into(), "part-00000.jsonl".into()]));
            assert_eq!(content(&files, "part-00000.jsonl").await, b"row\n");
            assert_eq!(files.lost(&staged).await, Ok(None));
        }
        assert_eq!(files.read("part-00000.jsonl", 1..3).await, Ok(b"ow".to_vec()));
        assert!(files.read("part-00000.jsonl", 1..9).await.is_err(), "it has 4 bytes");
        assert_eq!(open(files.location()).list().await, files.list().await, "whoever opens it finds the same");
    }
}

#[tokio::test]
async fn half_a_publishing_is_finished_by_the_next() {
    for (files, _kept) in places("half") {
        let staged = staged(&files, "one", &[("part-00000.jsonl", b"row\n"), ("_errors-00000.jsonl", b"x")]).await;
        let first = Staged { files: staged.files[..1].to_vec(), ..staged.clone() };
        files.publish(&first).await.expect("one of two");
        files.publish(&staged).await.expect("the other");
        assert_eq!(files.lost(&staged).await, Ok(None));
    }
}

#[tokio::test]
async fn what_is_given_up_goes_and_what_is_kept_stays() {
    for (files, _kept) in places("swept") {
        let name = "part-00000.jsonl";
        for attempt in ["one", "two", "three"] {
            staged(&files, attempt, &[(name, attempt.as_bytes())]).await;
        }
        files.put("_input.jsonl", b"{}\n".to_vec()).await.expect("there is room");
        files.discard("one").await.expect("it goes");
        files.discard("one").await.expect("nothing is left to go");
        files.sweep(&HashSet::from(["three".to_owned()])).await.expect("they go");
        assert_eq!(temporary(&files).await, ["_staged/three.part-00000.jsonl"]);
        assert_eq!(content(&files, "_input.jsonl").await, b"{}\n");
        files.sweep(&HashSet::new()).await.expect("they go");
        assert_eq!(temporary(&files).await, [""; 0]);
    }
}

#[tokio::test]
async fn an_output_is_of_one_job() {
    for (files, kept) in places("claimed") {
        assert_eq!(files.owner().await, Ok(None));
        files.claim(&job("a")).await.expect("nobody has it");
        files.claim(&job("a")).await.expect("it is its own");
        assert_eq!(files.owner().await, Ok(Some(job("a"))));
        let refused = files.claim(&job("b")).await.expect_err("it is another's").to_string();
        assert_eq!(refused, format!("output.location: {} holds the output of job a", files.location()));
        files.put("_input.jsonl", b"{}\n".to_vec()).await.expect("there is room");
        files.release().await.expect("nothing counts");
        assert_eq!((files.owner().await, files.list().await), (Ok(None), Ok(vec![])));
        files.claim(&job("a")).await.expect("nobody has it");
        files.publish(&staged(&files, "one", &[("part-00000.jsonl", b"row\n")]).await).await.expect("nothing is wrong");
        files.release().await.expect("it stays");
        assert_eq!(files.owner().await, Ok(Some(job("a"))), "a part counts");
        files.clear().await.expect("it all goes");
        assert_eq!(files.list().await, Ok(vec![]));
        let directory = files.location().contains("://") || !kept.path().join("a/out").exists();
        assert!(directory, "an empty directory is of no use");
        files.claim(&job("b")).await.expect("nobody has it any more");
        files.clear().await.expect("it all goes");
        files.put("part-00007.parquet", vec![1]).await.expect("there is room");
        let refused = files.claim(&job("b")).await.expect_err("it is of nobody knows whom").to_string();
        assert!(refused.ends_with("holds part-00007.parquet of some other job"), "{refused}");
    }
}

#[tokio::test]
async fn a_foreign_file_stays_when_an_output_goes() {
    for (files, _kept) in places("foreign") {
        files.claim(&job("a")).await.expect("nobody has it");
        files.put("notes.txt", b"mine".to_vec()).await.expect("there is room");
        files.clear().await.expect("ours goes");
        assert_eq!(files.list().await, Ok(vec!["notes.txt".into()]));
    }
}

#[tokio::test]
async fn of_two_claims_at_once_one_wins() {
    for (files, _kept) in places("raced") {
        let names: Vec<JobId> = (0..8).map(|at| job(&at.to_string())).collect();
        let claims = names.iter().map(|name| files.claim(name));
        let won = futures::future::join_all(claims).await.iter().filter(|claim| claim.is_ok()).count();
        assert_eq!(won, 1, "{}", files.location());
    }
}

#[tokio::test]
async fn what_is_torn_or_gone_is_found_out() {
    let directory = tempfile::tempdir().expect("a folder");
    let files = open(directory.path().to_str().expect("UTF-8"));
    let at = |name: &str| directory.path().join(name);
    let fault = async |staged: &Staged| files.publish(staged).await.expect_err("it is damaged").to_string();
    let torn = staged(&files, "one", &[("part-00000.jsonl", b"row\n")]).await;
    let temporary = &torn.files[0].temporary;
    for damaged in [&b"row"[..], b"rox\n"] {
        std::fs::write(at(temporary), damaged).expect("damage is done");
        let fault = fault(&torn).await;
        assert!(fault.contains(temporary) && fault.contains("it is not as it was written, 4 bytes"), "{fault}");
    }
    std::fs::remove_file(at(temporary)).expect("it was there");
    assert!(fault(&torn).await.contains("part-00000.jsonl: it is gone, and so is its temporary"));
    std::fs::write(at("part-00000.jsonl"), b"rox\n").expect("damage is done");
    assert!(fault(&torn).await.contains("part-00000.jsonl: it is not as it was written"));
    std::fs::write(at("part-00000.jsonl"), b"row\n").expect("it is mended");
    files.publish(&torn).await.expect("it is there, and right");
}

#[tokio::test]
async fn names_lead_to_nowhere_else() {
    for (files, _kept) in places("within") {
        for name in ["../x", "/x", "a/../x", "", "a//b", "./x"] {
            let fault = files.put(name, vec![]).await.expect_err("it leads out").to_string();
            assert!(fault.contains("is no name of a file below it"), "{name}: {fault}");
        }
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_is_refused_with_what_can() {
    for (location, problem) in [
        (" ", "must be a directory or an object store's URL"),
        ("ftp://a/b", "must be a directory or a URL of file://, memory:// or s3://"),
        ("file://host/b", "a file URL must name a directory of this machine, such as file:///data/out"),
        #[cfg(not(feature = "s3"))]
        ("s3://bucket/a", "this program was built without the feature s3"),
    ] {
        let Err(error) = Files::open(location, &ObjectSettings::default()) else { panic!("{location}") };
        assert_eq!(error.to_string(), format!("output.location: is {location:?}, {problem}"));
    }
    let directory = tempfile::tempdir().expect("a folder");
    let url = format!("file://{}/a%20b", directory.path().display());
    open(&url).put("x", vec![1, 2]).await.expect("there is room");
    assert_eq!(std::fs::read(directory.path().join("a b/x")).expect("it is there"), [1, 2]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().expect("a folder");
    std::fs::write(directory.path().join("file"), b"").expect("there is room");
    let files = open(directory.path().join("file").to_str().expect("UTF-8"));
    let fault = files.stage("one", "part-00000.jsonl", vec![1]).await.expect_err("a file is no directory").to_string();
    assert!(fault.starts_with("cannot write ") && fault.contains("/file/_staged/one.part-00000.jsonl: "), "{fault}");
}
