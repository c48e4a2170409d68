//! The engine with a tiny random model: what shares a batch, what comes late and what goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use vljepa::embedding::Embedding;
use vljepa::engine::{
    Answer, Call, Class, Engine, EngineError, Manner, Media, MediaFrame, ModelThread, PixelOrder, Question, Stage,
    ThreadState, Trail,
};
use vljepa::input::{Clip, Sampling};
use vljepa::model::decoder::{DecodeOptions, TokenSampling};
use vljepa::model::vl_jepa::{Scene, VlJepa};
use vljepa::settings::Settings;

use crate::model_laws::{BERT, bundle};

const CLIPS: [&[u8]; 3] = [
    include_bytes!("../../fixtures/demo/star.gif"),
    include_bytes!("../../fixtures/demo/squares.jpg"),
    include_bytes!("../../fixtures/demo/hearts.webp"),
];

fn start() -> (Engine, ModelThread) {
    start_with(|_| {})
}

fn start_with(set: impl FnOnce(&mut Settings)) -> (Engine, ModelThread) {
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    let mut settings = Settings::default();
    set(&mut settings);
    Engine::start(model, settings).expect("a thread")
}

fn question(clip: usize, text: &str) -> Question {
    Question { media: Media::File(CLIPS[clip].to_vec()), sampling: Sampling::default(), text: text.into() }
}

/// A question that is prepared in no time.
fn glance(level: u8, text: &str) -> Question {
    let pixels = vec![level; 256];
    let frame = MediaFrame::Raw { width: 16, height: 16, order: PixelOrder::Gray, pixels, pts_ms: 0 };
    Question { media: Media::Frames(vec![frame]), ..question(0, text) }
}

fn choose(candidates: &[&str]) -> Manner {
    Manner::Choose(candidates.iter().map(|text| text.to_string()).collect())
}

fn soon() -> Call {
    Call::interactive(Instant::now() + Duration::from_secs(60))
}

fn sampled(seed: u64) -> Manner {
    Manner::Speak(DecodeOptions { max_tokens: 8, sampling: TokenSampling::TopP { temperature: 2.0, top_p: 1.0, seed } })
}

fn assert_same(one: &Answer, other: &Answer) {
    assert_eq!((&one.text, one.choices.len()), (&other.text, other.choices.len()));
    for (a, b) in one.choices.iter().zip(&other.choices) {
        assert!(a.text == b.text && (a.score - b.score).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn an_embedding_that_is_no_number_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    let question = model.tokenize_question("word1").expect("tokens");
    let pixels = ndarray::Array4::from_elem((4, 3, 16, 16), f32::NAN);
    let clip = Arc::new(Clip { pixels, frames_decoded: 4, frames_used: 4 });
    let visual = model.see(&[clip]).expect("tokens").remove(0);
    let error = model.predict(&[Scene { visual, question }]).expect_err("no number");
    assert!(error.to_string().starts_with("embedding 0 holds NaN, expected finite numbers"), "{error}");
    let nowhere = Embedding { values: vec![f32::NAN; 16], space: model.space() };
    let error = model.decode(&[nowhere], &DecodeOptions { max_tokens: 8, sampling: TokenSampling::Greedy });
    assert!(error.expect_err("no number").to_string().contains("a logit is NaN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_depend_on_who_else_asks() {
    let (engine, _thread) = start();
    let asked: Vec<(Question, Manner)> = (0..24)
        .map(|i| {
            let manner = if i % 2 == 0 { choose(&["word1", "word2", "word3 word4"]) } else { sampled(i as u64 % 4) };
            (question(i % 3, ["word5", "word6 word7"][i / 3 % 2]), manner)
        })
        .collect();
    let mut alone = Vec::new();
    for (question, manner) in asked.clone() {
        alone.push(engine.answer(question, manner, soon()).await.expect("an answer"));
    }
    let mut together = JoinSet::new();
    for (at, (question, manner)) in asked.into_iter().enumerate() {
        let engine = engine.clone();
        together.spawn(async move { (at, engine.answer(question, manner, soon()).await.expect("an answer")) });
    }
    for (at, answer) in together.join_all().await {
        assert_same(&alone[at], &answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_candidates_is_the_order_of_scores() {
    let (engine, _thread) = start();
    let forth = engine.answer(question(0, "word5"), choose(&["word1", "word2", "word3"]), soon()).await.expect("one");
    let mut back =
        engine.answer(question(0, "word5"), choose(&["word3", "word2", "word1"]), soon()).await.expect("two");
    back.choices.reverse();
    assert_same(&forth, &back);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_are_told_and_the_gone_leave_their_places() {
    let (engine, mut thread) = start();
    let past = Instant::now();
    let late = engine.answer(question(0, "word1"), choose(&["word2"]), Call::interactive(past)).await;
    assert!(matches!(late, Err(EngineError::DeadlineExceeded)), "{late:?}");
    for _ in 0..64 {
        let engine = engine.clone();
        let call = tokio::spawn(async move { engine.answer(question(2, "word1"), choose(&["word2"]), soon()).await });
        tokio::task::yield_now().await;
        call.abort();
    }
    engine.answer(question(0, "word1"), choose(&["word2"]), soon()).await.expect("there is room");
    engine.probe(soon().deadline).await.expect("it lives");
    drop(engine);
    assert_eq!(thread.ended().await, ThreadState::Finished);
}

/// Waits until nothing is left in the engine: nothing waits, runs, is prepared or held in memory.
async fn empty(engine: &Engine) {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let load = engine.load();
        let items = load.waiting.iter().chain(&load.admitted).map(|(_, load)| load.items + load.cost).sum::<usize>();
        if items + load.running.items + load.preparing_items == 0 && load.media_bytes == 0 {
            return;
        }
        assert!(Instant::now() < patience, "something is left: {load:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Texts of the tiny model's words, all different.
fn texts(count: usize) -> Vec<Result<String, EngineError>> {
    (0..count).map(|i| Ok(format!("word{} word{} word{}", i % 36, i / 36 % 36, i / 1296))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancels_at_every_stage_leave_nothing_behind() {
    let (engine, _thread) = start();
    let (mut answered, mut left) = (0, 0);
    for round in 0..20_u64 {
        let mut calls = JoinSet::new();
        let mut leaving = Vec::new();
        for i in 0..50 {
            let engine = engine.clone();
            let manner = if i % 2 == 0 { choose(&["word1", "word2"]) } else { sampled(round * 50 + i) };
            let asked = if i % 10 == 0 { question(i as usize / 10 % 3, "word5") } else { glance(i as u8, "word5") };
            let call = Call { class: Class::ALL[i as usize % 3], ..soon() };
            leaving.push(calls.spawn(async move { engine.answer(asked, manner, call).await }));
        }
        // Some leave before anything is done for them, some while they are prepared, wait or run.
        for call in leaving {
            call.abort();
            if round > 0 {
                tokio::time::sleep(Duration::from_micros(40 * round)).await;
            }
        }
        while let Some(outcome) = calls.join_next().await {
            match outcome {
                Ok(answer) => answered += usize::from(answer.is_ok()),
                Err(gone) => left += usize::from(gone.is_cancelled()),
            }
        }
    }
    assert!(left > 0 && left + answered <= 1000, "{left} left, {answered} were answered");
    empty(&engine).await;
    engine.answer(question(0, "word1"), choose(&["word2"]), soon()).await.expect("it answers");
    empty(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_at_every_stage_are_told_in_time_and_leave_nothing_behind() {
    let (engine, _thread) = start();
    let mut calls = JoinSet::new();
    for i in 0..200_u64 {
        let engine = engine.clone();
        let deadline = Instant::now() + Duration::from_micros(100 * i);
        calls.spawn(async move {
            let outcome =
                engine.answer(question(i as usize % 3, "word5"), sampled(i), Call::interactive(deadline)).await;
            (outcome, Instant::now().saturating_duration_since(deadline))
        });
    }
    for (outcome, late) in calls.join_all().await {
        assert!(matches!(outcome, Ok(_) | Err(EngineError::DeadlineExceeded | EngineError::Overloaded { .. })));
        assert!(late < Duration::from_secs(5), "{late:?} late");
    }
    empty(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_waits_for_one_batch_of_a_job_however_long_the_job_is() {
    let (engine, _thread) = start_with(|settings| {
        settings.queue.batch_job_cost_max = 64;
        settings.queue.text_cache_items = 0;
    });
    // So that every stage has been measured.
    engine.embed_texts(texts(1), soon()).await.expect("embedded");
    // A machine that is busy elsewhere may let a whole job pass between two queries.
    let mut waited = 0;
    for _ in 0..10 {
        let batches_before = batches_before_queries(&engine).await;
        assert!(batches_before.iter().all(|&batches| batches <= 1), "{:?} batches", batches_before.iter().max());
        waited += batches_before.iter().filter(|&&batches| batches == 1).count();
        if waited > 0 {
            return;
        }
    }
    panic!("no query came while a batch of a job ran");
}

/// How many batches of one job end while each query waits that is asked until the job is done.
async fn batches_before_queries(engine: &Engine) -> Vec<usize> {
    let job_call = Call { class: Class::Job, trail: Trail::kept(), ..soon() };
    let trail = job_call.trail.clone();
    let job = tokio::spawn({
        let engine = engine.clone();
        async move { engine.embed_texts(texts(4000), job_call).await }
    });
    let mut queries = Vec::new();
    while !job.is_finished() {
        let call = Call { trail: Trail::kept(), ..soon() };
        engine.embed_texts(texts(2), call.clone()).await.expect("embedded");
        let queue = call.trail.steps().stages.into_iter().find(|stage| stage.name == "queue").expect("it waited");
        queries.push(queue);
    }
    let embedded = job.await.expect("no panic").expect("the job is done");
    assert_eq!(embedded.iter().flatten().count(), 4000);
    let batches: Vec<_> = trail.steps().stages.into_iter().filter(|stage| stage.name == "text").collect();
    assert!(batches.len() > 100, "{} batches", batches.len());
    let within = |query: &Stage| batches.iter().filter(|b| b.ended > query.started && b.started < query.ended).count();
    queries.iter().map(within).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_done_while_queries_never_end() {
    let (engine, _thread) = start();
    let mut queries = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    for i in 0..8 {
        let (engine, stop) = (engine.clone(), stop.clone());
        queries.spawn(async move {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                engine.answer(glance(i as u8, "word5"), sampled(i as u64), soon()).await.expect("an answer");
                answered += 1;
            }
            answered
        });
    }
    let job = Call { class: Class::Job, ..soon() };
    for round in 0..10 {
        let done = engine.answer(glance(99, "word6"), sampled(round), job.clone()).await;
        done.expect("its turn comes");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(queries.join_all().await.into_iter().sum::<usize>() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_costs_nothing_and_answers_the_same() {
    let candidates = ["word1", "word2 word3", "word4"];
    let (engine, _thread) = start();
    let first = engine.answer(question(0, "word5"), choose(&candidates), soon()).await.expect("one");
    let once = engine.load();
    let call = Call { trail: Trail::kept(), ..soon() };
    let second = engine.answer(question(0, "word5"), choose(&candidates), call.clone()).await.expect("two");
    assert_same(&first, &second);
    let twice = engine.load();
    assert_eq!((once.texts.hits, once.texts.misses), (0, 3));
    assert_eq!((twice.texts.hits, twice.texts.misses, twice.texts.items), (3, 3, 3));
    assert_eq!((twice.passed.text, twice.passed.vision), (once.passed.text, 2 * once.passed.vision));
    let usage = second.embedded.usage;
    assert_eq!(call.trail.steps().cost, usage.visual_tokens + usage.text_tokens);

    // Candidates dearer than a batch go ahead of their question, in pieces.
    let (narrow, _thread) = start_with(|settings| settings.queue.batch_cost_max = 2);
    let third = narrow.answer(question(0, "word5"), choose(&candidates), soon()).await.expect("three");
    assert_same(&first, &third);
    empty(&narrow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_tells_everybody_who_waits_and_nobody_is_let_in_after_it() {
    let (engine, mut thread) = start();
    let mut calls = JoinSet::new();
    for i in 0..32 {
        let engine = engine.clone();
        calls.spawn(async move { engine.answer(question(i % 3, "word5"), sampled(i as u64), soon()).await });
    }
    engine.panic_model_thread();
    for outcome in calls.join_all().await {
        assert!(matches!(outcome, Ok(_) | Err(EngineError::Stopped)), "{outcome:?}");
    }
    assert_eq!(thread.ended().await, ThreadState::Panicked);
    assert_eq!(engine.probe(soon().deadline).await, Err(EngineError::Stopped));
    let after = engine.answer(question(0, "word5"), choose(&["word1"]), soon()).await;
    assert!(matches!(after, Err(EngineError::Stopped)), "{after:?}");
    empty(&engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_why_and_when_to_come_again() {
    let (engine, _thread) = start_with(|settings| {
        settings.queue.items_max = 10;
        settings.queue.cost_max = 200;
    });
    let too_large = engine.embed_texts(texts(200), soon()).await.expect_err("600 tokens");
    assert!(matches!(too_large, EngineError::TooLarge { cost_max: 160, .. }), "{too_large:?}");
    let mut calls = JoinSet::new();
    for i in 0..64 {
        let engine = engine.clone();
        calls.spawn(async move { engine.answer(question(0, "word5"), sampled(i), soon()).await });
    }
    let outcomes = calls.join_all().await;
    let (least, most) = (Duration::from_millis(100), Duration::from_millis(30_000));
    for outcome in &outcomes {
        match outcome {
            Ok(_) => {}
            Err(EngineError::Overloaded { retry_after, .. }) => assert!((least..=most).contains(retry_after)),
            Err(other) => panic!("{other}"),
        }
    }
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!((1..64).contains(&answered), "{answered} of 64 were answered");
    empty(&engine).await;
}
