//! One attempt at a shard, with a tiny random model: what fails alone, what stays in order, what is left behind, and that
//! the same bytes come out whatever else happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use tempfile::TempDir;
use vljepa::engine::{Call, Class, Engine, Full, ModelThread};
use vljepa::jobs::files::Files;
use vljepa::jobs::{
    Fault, Format, Input, InputKind, Job, JobId, Meter, Output, Plan, Segments, Shard, Spec, Staged, Tally, attempt,
    inputs,
};
use vljepa::model::vl_jepa::VlJepa;
use vljepa::settings::Settings;

use crate::tiny::{BERT, bundle};

const STAR: &[u8] = include_bytes!("../../fixtures/demo/star.gif");
const SQUARES: &[u8] = include_bytes!("../../fixtures/demo/squares.jpg");

fn engine(settings: &Settings) -> (Engine, ModelThread) {
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    Engine::start(model, settings.clone()).expect("a thread")
}

/// A folder with an input and an output.
struct Place {
    folder: TempDir,
    spec: Spec,
    settings: Settings,
}

impl Place {
    fn new(lines: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("in.jsonl"), lines.join("\n")).expect("written");
        std::fs::write(folder.path().join("star.gif"), STAR).expect("written");
        std::fs::write(folder.path().join("squares.jpg"), SQUARES).expect("written");
        let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_string();
        let output = Output { format: Format::Jsonl, rows_a_part: 1 << 20, ..Output::new(at("out")) };
        let spec = Spec {
            question: Some("word1 word2".into()),
            item_ms_max: 300_000,
            ..Spec::new(Input::new(at("in.jsonl"), InputKind::Jsonl), output)
        };
        Self { folder, spec, settings: Settings::default() }
    }

    fn files(&self) -> Files {
        Files::open(&self.spec.output.location, &self.settings.objects).expect("a directory")
    }

    /// The job, and its only shard.
    fn job(&self, engine: &Engine) -> (Job, Shard) {
        let (mut shards, rows) = inputs::plan(&self.spec, &self.files(), &self.settings, &|| false).expect("a plan");
        let mut job = Job::new(JobId("job".into()), self.spec.clone(), 0);
        job.plan = Some(Plan { shards: shards.len() as u32, rows, space: engine.space().to_string() });
        assert_eq!(shards.len(), 1);
        (job, shards.remove(0))
    }

    async fn attempt(&self, engine: &Engine) -> Result<(Staged, u64), Fault> {
        let ((job, shard), meter) = (self.job(engine), Meter::default());
        let staged = attempt(engine, &job, &shard, &self.files(), &meter).await?;
        Ok((staged, meter.rows()))
    }

    /// The JSON objects of a staged file by the beginning of its name.
    fn lines(&self, staged: &Staged, name: &str) -> Vec<serde_json::Value> {
        let Some(file) = staged.files.iter().find(|file| file.name.starts_with(name)) else { return vec![] };
        let path = Path::new(&self.spec.output.location).join(&file.temporary);
        let lines = std::fs::read_to_string(path).expect("staged");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn temporaries(&self) -> usize {
        let staged = std::fs::read_dir(Path::new(&self.spec.output.location).join("_staged"));
        staged.map_or(0, |files| files.count())
    }
}

fn ids(lines: &[serde_json::Value]) -> Vec<&str> {
    lines.iter().map(|line| line["id"].as_str().expect("an id")).collect()
}

/// What is the same of equal parts.
fn sums(staged: &Staged) -> (Tally, BTreeMap<&str, &str>) {
    (staged.tally, staged.files.iter().map(|file| (&*file.name, &*file.sha256)).collect())
}

fn mixed() -> Vec<String> {
    let mut lines: Vec<String> = (0..60)
        .map(|at| match at % 6 {
            0 => format!(r#"{{"id": "m{at}", "media": "star.gif"}}"#),
            1 => format!(r#"{{"id": "m{at}", "media": "squares.jpg", "question": "word{at}"}}"#),
            _ => format!(r#"{{"id": "t{at}", "text": "word{} word{}"}}"#, at % 30, at * 7 % 36),
        })
        .collect();
    lines.insert(10, String::new());
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_fails_alone_and_everything_keeps_its_order() {
    let mut lines = mixed();
    for (at, line) in [
        (3, "no JSON"),
        (14, r#"{"id": "gone", "media": "gone.gif"}"#),
        (20, r#"{"id": "folder", "media": "."}"#),
        (31, r#"{"id": "noise", "media": "in.jsonl"}"#),
        (40, r#"{"id": "wordless", "text": ""}"#),
        (41, r#"{"id": "unasked", "media": "star.gif", "question": ""}"#),
    ] {
        lines.insert(at, line.into());
    }
    let place = Place::new(&lines);
    let (engine, _thread) = engine(&place.settings);
    let (staged, through) = place.attempt(&engine).await.expect("staged");
    assert_eq!(staged.tally, Tally { succeeded: 60, failed: 6, skipped: 1, written: 60 });
    assert_eq!(through, 66);
    let part = place.lines(&staged, "part-00000");
    let expected: Vec<String> = (0..60).map(|at| format!("{}{at}", if at % 6 < 2 { "m" } else { "t" })).collect();
    assert_eq!(ids(&part), expected);
    assert!(part.windows(2).all(|two| two[0]["row"].as_u64() < two[1]["row"].as_u64()), "rows keep their numbers");
    let star = part.iter().find(|line| line["id"] == "m0").expect("there");
    assert_eq!((&star["media_bytes"], &star["media_frames"]), (&STAR.len().into(), &8.into()), "{star}");

    let errors = place.lines(&staged, "_errors-00000");
    assert_eq!(ids(&errors), ["3", "gone", "folder", "noise", "wordless", "unasked"]);
    let told: Vec<String> = errors.iter().map(|line| format!("{} {}", line["code"], line["message"])).collect();
    for (told, expected) in told.iter().zip([
        "\"INVALID_ARGUMENT\" \"line: is no JSON: ",
        "\"NOT_FOUND\" \"media: gone.gif is not there\"",
        "\"INVALID_ARGUMENT\" \"media: . is no file\"",
        "\"INVALID_ARGUMENT\" \"media: ",
        "\"INVALID_ARGUMENT\" \"text: has no word that is read\"",
        "\"INVALID_ARGUMENT\" \"question: has no word that is read\"",
    ]) {
        assert!(told.starts_with(expected), "{told} is not {expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_come_out_whatever_happens_beside_it() {
    let mut lines = mixed();
    lines.push(r#"{"id": "gone", "media": "gone.gif"}"#.into());
    let mut place = Place::new(&lines);
    place.spec.candidates = vec!["word3".into(), "word4 word5".into()];
    let (first, _thread) = engine(&place.settings);
    let (staged, _) = place.attempt(&first).await.expect("staged");
    let (again, _) = place.attempt(&first).await.expect("staged, from a warm cache");
    assert_ne!(staged.attempt, again.attempt);
    assert_eq!(sums(&staged), sums(&again));

    let jobs = &mut place.settings.jobs;
    (jobs.media_at_once, jobs.texts_at_once, jobs.ahead_bytes_max) = (1, 3, 1 << 16);
    (place.settings.queue.text_cache_items, place.settings.cpu.decode_threads) = (0, 1);
    // Two clips at once do not fit: they wait, and do not fail.
    place.settings.media.memory_bytes_max = 8 << 20;
    let (narrow, _thread) = engine(&place.settings);
    let others = tokio::spawn({
        let narrow = narrow.clone();
        async move {
            for at in 0.. {
                let call = Call::interactive(Instant::now() + Duration::from_secs(60));
                let _ = narrow.embed_texts(vec![Ok(format!("word{}", at % 30))], call).await;
            }
        }
    });
    let (one, two) = tokio::join!(place.attempt(&narrow), place.attempt(&narrow));
    others.abort();
    for beside in [one, two] {
        assert_eq!(sums(&staged), sums(&beside.expect("staged").0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn media_within_a_table_are_the_media_beside_it() {
    let ids: Vec<String> = (0..30).map(|at| at.to_string()).collect();
    let name = |at: usize| if at.is_multiple_of(2) { "star.gif" } else { "squares.jpg" };
    let lines = ids.iter().zip(0..).map(|(id, at)| format!(r#"{{"id": "{id}", "media": "{}"}}"#, name(at)));
    let mut place = Place::new(&lines.collect::<Vec<_>>());
    // Room for less than what is read ahead.
    place.settings.jobs.ahead_bytes_max = 1 << 16;
    let (engine, _thread) = engine(&place.settings);
    let beside = place.attempt(&engine).await.expect("staged").0;

    let media = (0..30).map(|at| Some(if at % 2 == 0 { STAR } else { SQUARES })).collect::<BinaryArray>();
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(StringArray::from_iter_values(&ids))), ("bytes", Arc::new(media))];
    let rows = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let path = place.folder.path().join("in.parquet");
    let file = std::fs::File::create(&path).expect("made");
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
    writer.write(&rows).expect("written");
    writer.close().expect("closed");
    place.spec.input.location = path.to_str().expect("UTF-8").into();
    place.spec.input.kind = InputKind::Parquet;
    let within = place.attempt(&engine).await.expect("staged").0;
    assert_eq!(within.tally.succeeded, 30);
    assert_eq!(sums(&within), sums(&beside));
}

#[tokio::test(flavor = "multi_thread")]
async fn clips_are_cut_into_segments() {
    let line = |media: &str| format!(r#"{{"media": "{media}"}}"#);
    let mut place = Place::new(&[line("star.gif"), line("gone.gif"), line("squares.jpg")]);
    let (engine, _thread) = engine(&place.settings);
    let whole = place.attempt(&engine).await.expect("staged").0;
    let duration = place.lines(&whole, "part-00000")[0]["media_duration_ms"].as_u64().expect("a clip");
    assert!(duration > 100, "{duration}");
    let window_ms = duration / 3;
    place.spec.segments = Some(Segments { window_ms, stride_ms: window_ms });
    let staged = place.attempt(&engine).await.expect("staged").0;
    let part = place.lines(&staged, "part-00000");
    let Tally { succeeded, failed, written, .. } = staged.tally;
    assert_eq!((succeeded, failed, written), (2, 1, part.len() as u64));
    let clip: Vec<_> = part.iter().filter(|line| line["row"] == 0).collect();
    assert!(clip.len() >= 3, "{}", clip.len());
    for (at, segment) in (0..).zip(&clip) {
        assert_eq!(segment["segment_start_ms"], at * window_ms);
    }
    assert!(clip.windows(2).any(|two| two[0]["embedding"] != two[1]["embedding"]), "each has frames of its own");
    assert_eq!(part.iter().filter(|line| line["row"] == 2).count(), 1, "a picture is one segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_dropped_leaves_nothing_behind() {
    let place = Place::new(&mixed());
    let (engine, _thread) = engine(&place.settings);
    let started = Instant::now();
    let staged = place.attempt(&engine).await.expect("staged").0;
    let whole_ms = started.elapsed().as_millis() as u64;
    place.files().discard(&staged.attempt).await.expect("discarded");
    for part in 0..12 {
        let patience = Duration::from_micros(1000 * whole_ms * part / 10);
        if let Ok(outcome) = tokio::time::timeout(patience, place.attempt(&engine)).await {
            let staged = outcome.expect("staged").0;
            place.files().discard(&staged.attempt).await.expect("discarded");
        }
    }
    let started = Instant::now();
    loop {
        let load = engine.load();
        let admitted: usize = load.admitted.iter().map(|(_, load)| load.items).sum();
        if place.temporaries() + admitted + load.preparing_items == 0 && load.media_bytes == 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{} files, {load:?}", place.temporaries());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_rows_fault_is_a_fault() {
    let mut place = Place::new(&mixed());
    let (ending, mut thread) = engine(&place.settings);
    let (mut job, shard) = place.job(&ending);
    let attempt_it = async |engine: &Engine, job: &Job, shard: &Shard| {
        attempt(engine, job, shard, &place.files(), &Meter::default()).await.expect_err("a fault")
    };
    let space = std::mem::replace(&mut job.plan.as_mut().expect("planned").space, "0123456789abcdef".into());
    let told = attempt_it(&ending, &job, &shard).await.to_string();
    assert!(told.contains(&space) && told.contains("the job's is 0123456789abcdef"), "{told}");
    job.plan.as_mut().expect("planned").space = space;

    let input = place.folder.path().join("in.jsonl");
    let lines = std::fs::read_to_string(&input).expect("readable");
    std::fs::write(&input, lines.replace("word7", "word8")).expect("written");
    let told = attempt_it(&ending, &job, &shard).await.to_string();
    assert!(
        told.starts_with("shard 0: input ") && told.contains("in.jsonl: has changed since it was planned"),
        "{told}"
    );
    assert_eq!(place.temporaries(), 0);
    std::fs::write(&input, lines).expect("written");

    ending.panic_model_thread();
    thread.ended().await;
    assert_eq!(attempt_it(&ending, &job, &shard).await, Fault::Stopped);

    place.settings.jobs.part_bytes_max = 1 << 10;
    let (small, _thread) = engine(&place.settings);
    let told = place.attempt(&small).await.expect_err("too large a part").to_string();
    assert!(told.contains("part"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_takes_too_long_fails_with_its_deadline() {
    let mut place = Place::new(&mixed());
    place.spec.item_ms_max = 0;
    let (engine, _thread) = engine(&place.settings);
    let (staged, _) = place.attempt(&engine).await.expect("staged");
    assert_eq!((staged.tally.failed, staged.tally.succeeded), (60, 0));
    let errors = place.lines(&staged, "_errors-00000");
    assert!(errors.iter().all(|line| line["code"] == "DEADLINE_EXCEEDED"), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_hardly_waits_for_a_job() {
    const TEXTS: usize = 2000;
    let text = |at: usize| format!("word{} word{} word{} word{}", at % 36, at / 36 % 36, at / 1296 % 36, at % 7);
    let lines: Vec<String> = (0..TEXTS).map(|at| format!(r#"{{"text": "{}"}}"#, text(at))).collect();
    let mut place = Place::new(&lines);
    place.settings.queue.text_cache_items = 0;
    let (engine, _thread) = engine(&place.settings);
    let direct = async || {
        let started = Instant::now();
        for lot in (0..TEXTS).collect::<Vec<_>>().chunks(1000) {
            let call = Call::interactive(Instant::now() + Duration::from_secs(300));
            let call = Call { class: Class::Job, full: Full::Wait, ..call };
            engine.embed_texts(lot.iter().map(|&at| Ok(text(at))).collect(), call).await.expect("embedded");
        }
        started.elapsed()
    };
    let job = async || {
        let started = Instant::now();
        let staged = place.attempt(&engine).await.expect("staged").0;
        assert_eq!(staged.tally.succeeded, TEXTS as u64);
        started.elapsed()
    };
    let (mut alone, mut by_job) = (Duration::MAX, Duration::MAX);
    for _ in 0..2 {
        alone = alone.min(direct().await);
        by_job = by_job.min(job().await);
    }
    let rate = |took: Duration| TEXTS as f64 / took.as_secs_f64();
    println!("{:.0} texts a second directly, {:.0} by a job", rate(alone), rate(by_job));
    // Reading, writing and hashing are a job's own; on a busy machine they are not quite free.
    assert!(by_job < 2 * alone + Duration::from_millis(200), "{by_job:?} by a job, {alone:?} directly");
}
