//! The engine with a tiny random model: what shares a batch, what comes late and what goes away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use vljepa::embedding::Embedding;
use vljepa::engine::{Answer, Call, Engine, EngineError, Manner, Media, ModelThread, Question, ThreadState};
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
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    Engine::start(model, Settings::default()).expect("a thread")
}

fn question(clip: usize, text: &str) -> Question {
    Question { media: Media::File(CLIPS[clip].to_vec()), sampling: Sampling::default(), text: text.into() }
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
