//! Whole jobs with a tiny model: from lines and pictures to parts, beside queries, over restarts, and what is in an
//! output that another job wants.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tempfile::TempDir;
use tokio::sync::oneshot;
use vljepa::engine::{Call, EngineError, ModelThread, Models};
use vljepa::jobs::store::Embedded;
use vljepa::jobs::{InputKind, JobId, JobView, Jobs, NewJob, Only, Spec, State};
use vljepa::model::vl_jepa::VlJepa;
use vljepa::settings::Settings;

use super::samples;
use crate::tiny::{BERT, bundle};

/// A process with a model and a store, and its input.
struct House {
    folder: TempDir,
    models: Models,
    jobs: Jobs,
}

fn models() -> Models {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings::default();
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    let (engine, thread) = vljepa::engine::Engine::start(model, settings.clone()).expect("a thread");
    let models = Models::new(settings);
    models.add("tiny", engine, thread).expect("it is the first");
    models
}

fn jobs(folder: &Path, models: &Models) -> Jobs {
    let store = Embedded::open(&folder.join("store"), 100).expect("nobody has it");
    Jobs::open(models.clone(), Arc::new(store))
}

impl House {
    /// One whose input has so many texts, and after each tenth a line that is none.
    fn new(texts: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let line = |number: usize| match number % 10 {
            9 => format!("{{\"id\": \"row-{number}\", \"text\": {number}}}\n"),
            _ => format!("{{\"id\": \"row-{number}\", \"text\": \"word{} word{}\"}}\n", number % 7, number % 11),
        };
        fs::write(folder.path().join("in.jsonl"), (0..texts).map(line).collect::<String>()).expect("written");
        let models = models();
        Self { jobs: jobs(folder.path(), &models), models, folder }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").into()
    }

    fn spec(&self, out: &str) -> Spec {
        let mut spec = samples::spec();
        spec.input.location = self.at("in.jsonl");
        spec.output.location = self.at(out);
        spec.item_ms_max = 300_000;
        spec
    }

    async fn make(&self, spec: Spec) -> JobId {
        let new = NewJob { spec, title: String::new(), owner: None, request_id: String::new() };
        self.jobs.create(new).await.expect("there is room").job.id
    }

    async fn finished(&self, spec: Spec) -> JobView {
        let id = self.make(spec).await;
        self.jobs.finish(&id, None, pending()).await.expect("the store is well")
    }

    async fn close(self) -> TempDir {
        let Self { folder, models, jobs } = self;
        drop(jobs);
        ended(models.close()).await;
        folder
    }
}

async fn ended(threads: Vec<ModelThread>) {
    for mut thread in threads {
        thread.ended().await;
    }
}

/// The files of an output and what is in them.
fn output(place: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(place).expect("it is there").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    entries.map(|path| (name(&path), fs::read(&path).unwrap_or_else(|_| b"a folder".into()))).collect()
}

fn parts(place: &str) -> BTreeMap<String, Vec<u8>> {
    output(place).into_iter().filter(|(name, _)| name != "_job.json").collect()
}

#[tokio::test]
async fn texts_become_parts_and_errors() {
    let house = House::new(45);
    let view = house.finished(house.spec("out")).await;
    assert_eq!((view.job.state, &*view.job.reason), (State::Succeeded, ""));
    let tally = view.job.progress.tally;
    assert_eq!((tally.succeeded, tally.failed, tally.skipped, tally.written), (41, 4, 0, 41));
    assert_eq!((view.in_work, view.rows_per_second, view.left_ms), (0, 0.0, None));
    let output = output(&house.at("out"));
    let expected = ["_errors-00000", "_errors-00001", "_errors-00002", "_errors-00003", "_job"];
    let expected = expected.into_iter().chain(["part-00000", "part-00001", "part-00002", "part-00003", "part-00004"]);
    assert_eq!(
        output.keys().map(|name| name.split('.').next().expect("a name")).collect::<Vec<_>>(),
        expected.collect::<Vec<_>>()
    );
    let page = house.jobs.errors(&view.job.id, None, (String::new(), 3)).await.expect("readable");
    assert_eq!(page.errors.iter().map(|failed| &*failed.id).collect::<Vec<_>>(), ["row-9", "row-19", "row-29"]);
    let page = house.jobs.errors(&view.job.id, None, (page.next.expect("one more"), 3)).await.expect("readable");
    assert_eq!((page.errors.len(), page.errors[0].row, page.next), (1, 39, None));
    house.close().await;
}

#[tokio::test]
async fn an_output_is_of_one_job_until_that_is_deleted_with_it() {
    let house = House::new(20);
    let first = house.finished(house.spec("out")).await.job;
    let before = output(&house.at("out"));
    let second = house.finished(house.spec("out")).await.job;
    let told = format!("output.location: {} holds the output of job {}", house.at("out"), first.id);
    assert_eq!((second.state, second.reason), (State::Failed, told));
    house.jobs.delete(&second.id, None, true).await.expect("it has failed");
    assert_eq!(output(&house.at("out")), before, "it is not the second one's to delete");
    fs::write(house.at("out/notes.txt"), "mine").expect("written");
    house.jobs.delete(&first.id, None, true).await.expect("it has ended");
    assert_eq!(output(&house.at("out")).keys().collect::<Vec<_>>(), ["notes.txt"]);
    assert_eq!(house.finished(house.spec("out")).await.job.state, State::Succeeded);

    // What could not be cut keeps nobody out.
    let mut missing = house.spec("other");
    missing.input.location = house.at("missing.jsonl");
    let failed = house.finished(missing).await.job;
    assert_eq!(failed.state, State::Failed);
    assert!(failed.reason.contains("missing.jsonl"), "{}", failed.reason);
    assert!(!Path::new(&house.at("other")).exists());
    assert_eq!(house.finished(house.spec("other")).await.job.state, State::Succeeded);
    house.jobs.delete(&failed.id, None, true).await.expect("it has failed");
    assert_eq!(
        parts(&house.at("other")),
        parts(&house.at("out")).into_iter().filter(|(name, _)| name != "notes.txt").collect()
    );
    house.close().await;
}

#[tokio::test]
async fn a_job_that_is_dropped_anywhere_ends_as_an_undisturbed_one() {
    let mut house = House::new(200);
    let undisturbed = house.finished(house.spec("undisturbed")).await;
    assert_eq!(undisturbed.job.state, State::Succeeded);
    let id = house.make(house.spec("out")).await;
    for disturbed in 0..12 {
        let jobs = house.jobs.clone();
        let task = tokio::spawn(async move { jobs.run(pending()).await });
        let wait = Duration::from_micros(300 * disturbed * disturbed);
        tokio::time::sleep(wait).await;
        task.abort();
        drop(task.await);
        let House { folder, models, jobs: old } = house;
        drop(old);
        house = House { jobs: jobs_again(folder.path(), &models).await, models, folder };
    }
    let view = house.jobs.finish(&id, None, pending()).await.expect("the store is well");
    assert_eq!((view.job.state, view.job.progress), (State::Succeeded, undisturbed.job.progress));
    assert_eq!(parts(&house.at("out")), parts(&house.at("undisturbed")));
    house.close().await;
}

#[tokio::test]
async fn shares_of_one_output_make_what_one_process_makes() {
    let house = House::new(130);
    assert_eq!(house.finished(house.spec("whole")).await.job.state, State::Succeeded);
    let mut stores = Vec::new();
    for index in 0..3 {
        let store = tempfile::tempdir().expect("a folder");
        stores.push((jobs(store.path(), &house.models), Only { index, count: 3 }, store));
    }
    let shares = stores.iter().map(async |(jobs, only, _)| {
        let new = NewJob { spec: house.spec("out"), title: String::new(), owner: None, request_id: String::new() };
        let id = jobs.adopt(new).await.expect("there is room").job.id;
        jobs.finish(&id, Some(*only), pending()).await.expect("the store is well").job
    });
    let ended = futures::future::join_all(shares).await;
    assert!(ended.iter().all(|job| job.state == State::Running && job.id == ended[0].id), "{ended:?}");
    assert_eq!(ended.iter().map(|job| job.progress.shards).collect::<Vec<_>>(), [5, 4, 4]);
    let made: BTreeMap<_, _> = parts(&house.at("out")).into_iter().filter(|(name, _)| name != "_staged").collect();
    assert_eq!(made, parts(&house.at("whole")));
    drop(stores);
    house.close().await;
}

#[tokio::test]
async fn several_jobs_and_queries_share_the_model_and_progress_is_told() {
    let house = House::new(300);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let jobs = house.jobs.clone();
        async move { jobs.run(async { drop(stopped.await) }).await }
    });
    let ids = [house.make(house.spec("a")).await, house.make(house.spec("b")).await];
    let watched = ids.iter().map(async |id| {
        let views = house.jobs.watch(id, None).await.expect("it is there");
        views.map(|view| view.expect("it is there")).collect::<Vec<_>>().await
    });
    let engine = house.models.named("tiny").expect("it is served");
    let queries = async {
        for number in 0..20 {
            let call = Call::interactive(Instant::now() + Duration::from_secs(60));
            engine.embed_texts(vec![Ok(format!("word{number} word3"))], call).await.expect("it is answered");
        }
    };
    let (told, ()) = tokio::join!(futures::future::join_all(watched), queries);
    for views in &told {
        let last = views.last().expect("at least one");
        assert_eq!((last.job.state, last.job.progress.tally.rows()), (State::Succeeded, 300));
        let through = |view: &JobView| view.job.progress.tally.rows() + view.in_work;
        assert!(views.iter().all(|view| through(view) <= 300), "never more than there are");
    }
    assert_eq!(parts(&house.at("a")), parts(&house.at("b")));
    drop((stop, engine));
    running.await.expect("it ends well");
    house.close().await;
}

#[tokio::test]
async fn a_model_that_is_not_served_any_more_fails_its_job_and_an_end_does_not() {
    let house = House::new(30);
    let id = house.make(house.spec("out")).await;
    let other = house.models.settings().clone();
    let closed = Models::new(other);
    let jobs = Jobs::open(closed, Arc::new(Embedded::open(&house.folder.path().join("other"), 9).expect("it is new")));
    let new = NewJob { spec: house.spec("out"), title: String::new(), owner: None, request_id: String::new() };
    let refused = jobs.create(new).await.expect_err("nothing is served");
    assert!(matches!(refused, EngineError::Unknown { .. }), "{refused}");

    // The process ends: the job is as it was.
    ended(house.models.close()).await;
    let stop = tokio::time::sleep(Duration::from_millis(50));
    let view = house.jobs.finish(&id, None, stop).await.expect("the store is well");
    assert_eq!((view.job.state, &*view.job.reason), (State::Pending, ""));

    // Another process serves another model.
    let House { folder, jobs: old, .. } = house;
    drop(old);
    let models = Models::new(Settings::default());
    let bundled = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(bundled.path(), BERT)).expect("a model");
    let (engine, thread) = vljepa::engine::Engine::start(model, Settings::default()).expect("a thread");
    models.add("another", engine, thread).expect("it is the first");
    let jobs = jobs_again(folder.path(), &models).await;
    let view = jobs.finish(&id, None, pending()).await.expect("the store is well");
    assert_eq!(view.job.state, State::Failed);
    assert_eq!(view.job.reason, "model \"tiny\" is not served, must be one of: another");
    drop(jobs);
    ended(models.close()).await;
}

/// Jobs as a new process finds them, once the threads of the old one are through.
async fn jobs_again(folder: &Path, models: &Models) -> Jobs {
    let began = Instant::now();
    while Embedded::open(&folder.join("store"), 100).is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the store stays open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    jobs(folder, models)
}

#[tokio::test]
async fn pictures_of_a_directory() {
    let house = House::new(0);
    let media = house.folder.path().join("media");
    fs::create_dir_all(media.join("below")).expect("a folder");
    for name in ["b.jpg", "a.jpg", "below/c.jpg"] {
        fs::write(media.join(name), include_bytes!("../../../fixtures/demo/squares.jpg")).expect("written");
    }
    fs::write(media.join("broken.png"), b"no picture").expect("written");
    let mut spec = house.spec("out");
    spec.input.location = house.at("media");
    spec.input.kind = InputKind::Files;
    spec.question = Some("word1 word2".into());
    spec.output.rows_a_part = 3;
    let view = house.finished(spec).await;
    assert_eq!((view.job.state, &*view.job.reason), (State::Succeeded, ""));
    assert_eq!((view.job.progress.tally.succeeded, view.job.progress.tally.failed), (3, 1));
    assert!(output(&house.at("out")).contains_key("_input.jsonl"));
    house.jobs.delete(&view.job.id, None, true).await.expect("it has ended");
    assert!(!Path::new(&house.at("out")).exists(), "nothing of it stays");
    house.close().await;
}
