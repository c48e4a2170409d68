//! Answers about the segments of a clip: each is the one that its own question would get, however they come about.

use std::time::{Duration, Instant};

use vljepa::engine::{Call, Class, Engine, EngineError, Full, Manner, Media, ModelThread, Question, Segment};
use vljepa::input::{Sampling, Windows};
use vljepa::model::vl_jepa::VlJepa;
use vljepa::settings::Settings;

use crate::model_laws::{BERT, bundle};

const VIDEO: &[u8] = include_bytes!("../../fixtures/demo/star.mp4");
const CLIP: &[u8] = include_bytes!("../../fixtures/demo/star.gif");
const PICTURE: &[u8] = include_bytes!("../../fixtures/demo/squares.jpg");

fn start(set: impl FnOnce(&mut Settings)) -> (Engine, ModelThread) {
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    let mut settings = Settings::default();
    set(&mut settings);
    Engine::start(model, settings).expect("a thread")
}

fn question(file: &[u8], sampling: Sampling) -> Question {
    Question { media: Media::File(file.to_vec()), sampling, text: "word1".into() }
}

fn job() -> Call {
    Call { class: Class::Job, full: Full::Wait, ..Call::interactive(Instant::now() + Duration::from_secs(60)) }
}

fn choose() -> Option<Manner> {
    Some(Manner::Choose(["word1", "word2", "word3"].map(String::from).to_vec()))
}

async fn segments(engine: &Engine, file: &[u8], windows: [u64; 2]) -> Vec<Segment> {
    let [window_ms, stride_ms] = windows;
    let asked = question(file, Sampling::default());
    engine.segments(asked, Windows { window_ms, stride_ms }, choose(), job()).await.expect("segments")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_answered_as_a_question_of_its_own() {
    let (engine, _thread) = start(|_| {});
    // 8 frames, 130 ms each: overlapping, apart, and one of all.
    for (windows, ranges) in [
        ([400, 200], &[[0, 400], [200, 600], [400, 800], [600, 1000], [800, 1040]][..]),
        ([260, 520], &[[0, 260], [520, 780]]),
        ([5000, 5000], &[[0, 1040]]),
    ] {
        for file in [VIDEO, CLIP] {
            let found = segments(&engine, file, windows).await;
            assert_eq!(found.iter().map(|segment| segment.range_ms).collect::<Vec<_>>(), ranges);
            for Segment { range_ms: [start, end], answer } in found {
                let sampling = Sampling { start_ms: Some(start), end_ms: Some(end), ..Sampling::default() };
                let alone = engine.answer(question(file, sampling), choose().expect("a manner"), job()).await;
                let alone = alone.expect("an answer");
                assert_eq!((&answer.text, &answer.choices), (&alone.text, &alone.choices));
                assert_eq!(answer.embedded.embedding.values, alone.embedded.embedding.values);
                assert_eq!(answer.embedded.usage.clip, alone.embedded.usage.clip, "the whole clip's");
            }
        }
    }
    let found = segments(&engine, PICTURE, [400, 200]).await;
    assert_eq!(found.iter().map(|segment| segment.range_ms).collect::<Vec<_>>(), [[0, 0]], "a picture is one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_many_are_under_way_changes_nothing_and_nothing_is_left_behind() {
    let bits = |found: Vec<Segment>| -> Vec<Vec<f32>> {
        found.iter().map(|segment| segment.answer.embedded.embedding.values.to_vec()).collect()
    };
    let (one, _thread) = start(|settings| (settings.media.segments_at_once, settings.cpu.decode_threads) = (1, 1));
    let (many, _thread) = start(|settings| settings.media.segments_at_once = 100);
    let expected = bits(segments(&one, VIDEO, [300, 100]).await);
    assert!(expected.len() > 8, "{}", expected.len());
    // Several films, and questions between them, on one decoding thread.
    let between = one.answer(question(CLIP, Sampling::default()), choose().expect("a manner"), job());
    let films = tokio::join!(segments(&one, VIDEO, [300, 100]), segments(&one, VIDEO, [300, 100]), between);
    assert_eq!((bits(films.0), bits(films.1)), (expected.clone(), expected.clone()));
    films.2.expect("an answer between two films");
    assert_eq!(bits(segments(&many, VIDEO, [300, 100]).await), expected);
    assert_eq!((one.load().media_bytes, many.load().media_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_cut_or_answered_is_told() {
    let (engine, _thread) = start(|_| {});
    let refused = |file: &'static [u8], window_ms, call: Call| {
        let windows = Windows { window_ms, stride_ms: 100 };
        engine.segments(question(file, Sampling::default()), windows, None, call)
    };
    let zero = refused(VIDEO, 0, job()).await.expect_err("no length");
    assert_eq!(zero.to_string(), "segments: window_ms is 0, must be at least 1");
    let cut = refused(&VIDEO[..VIDEO.len() / 2], 100, job()).await.expect_err("half a file");
    assert!(matches!(&cut, EngineError::Invalid { field, .. } if field == "media"), "{cut}");
    let late = Call { deadline: Instant::now(), ..job() };
    let late = refused(VIDEO, 300, late).await.expect_err("no time");
    assert_eq!(late, EngineError::DeadlineExceeded);
}
