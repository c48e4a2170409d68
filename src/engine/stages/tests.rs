//! What is computed once, and what not at all.

use super::*;
use crate::engine::admission::{Admission, Load};
use crate::engine::memory::Memory;
use crate::engine::request::{Call, ClipFacts};
use crate::engine::work::{Look, Scene, Words};
use crate::input::Frame;
use crate::model::bundle::Bundle;
use crate::settings::QueueSettings;
use tokio::sync::oneshot;

/// Work, and where its caller waits.
fn entry(work: Work) -> (Entry<Job>, oneshot::Receiver<Result<Found, crate::engine::EngineError>>) {
    let door = Admission::new(Load { items: 1, cost: 1 }, &QueueSettings::default());
    let call = Call::interactive(Instant::now());
    let permit = Arc::new(door.enter(call.class, Load::one(1)).expect("room"));
    let (reply, waits) = oneshot::channel();
    (Entry { cost: work.cost(), work: Job { work, reply, permit }, arrived: call.deadline, call }, waits)
}

fn seen(model: &VlJepa, level: u8) -> Seen {
    let frame = Frame { width: 8, height: 8, rgb: vec![level; 192], pts_ms: 0 };
    let clip = Arc::new(model.preprocessor.clip(&[frame], &Default::default()).expect("a clip"));
    Seen { clip, digest: level.into(), tokens: 1, facts: ClipFacts::default(), _memory: Memory::new(0).hold() }
}

fn scene(model: &VlJepa, level: u8, question: &str, then: Then) -> Work {
    let question = model.tokenize_question(question).expect("tokens");
    Work::Scene(Scene { seen: seen(model, level), question, then })
}

fn look(model: &VlJepa, level: u8, questions: &[&str]) -> Work {
    let questions = questions.iter().map(|question| model.tokenize_question(question).expect("tokens")).collect();
    Work::Look(Look { seen: seen(model, level), questions })
}

fn speak(sampling: TokenSampling) -> Then {
    Then::Decode(DecodeOptions { max_tokens: 4, sampling })
}

#[test]
fn what_is_equal_is_computed_once_and_what_nobody_waits_for_not_at_all() {
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    let (texts, name) = (TextCache::new(0, 0), Arc::from("one"));
    let stages = Stages { name: &name, model: &model, texts: &texts, texts_cost_max: 5 };
    let run = |works: Vec<Work>| {
        let (entries, waits): (Vec<_>, Vec<_>) = works.into_iter().map(entry).unzip();
        let outcome = stages.run(&entries).expect("an outcome");
        drop(waits);
        outcome
    };
    let text = |text: &str| Text { tokens: model.tokenize_text(text).expect("tokens"), known: None };
    let sampled = || speak(TokenSampling::TopP { temperature: 2.0, top_p: 1.0, seed: 7 });
    let works = || {
        vec![
            scene(&model, 9, "what is red?", speak(TokenSampling::Greedy)),
            scene(&model, 9, "what is red?", Then::Rank(vec![text("a red circle"), text("a blue circle")])),
            Work::Texts(vec![text("a blue circle"), text("a red circle"), text("a blue circle")]),
            scene(&model, 9, "what is red?", sampled()),
        ]
    };
    let (once, twice) = (run(works()), run(works().into_iter().chain(works()).collect()));
    assert_eq!(once.passed, twice.passed);
    assert!(once.passed.stages().iter().all(|&tokens| tokens > 0), "{:?}", once.passed);
    for (at, found) in twice.found.iter().enumerate() {
        let alone = &once.found[at % 4];
        assert_eq!(
            (&found.spoken, &found.ranked, &found.embeddings),
            (&alone.spoken, &alone.ranked, &alone.embeddings)
        );
    }
    let more = |work| run(works().into_iter().chain([work]).collect()).passed;
    let greedy = || speak(TokenSampling::Greedy);
    let Passed { vision, predictor, decoder, .. } = once.passed;
    let other_clip = more(scene(&model, 8, "what is red?", greedy()));
    assert!(other_clip.vision == 2 * vision && other_clip.predictor == 2 * predictor);
    let other_question = more(scene(&model, 9, "what is blue?", greedy()));
    assert!(other_question.vision == vision && other_question.decoder == decoder + 4);

    let entries: Vec<_> = works().into_iter().map(|work| entry(work).0).collect();
    assert_eq!(stages.run(&entries).expect("nothing").passed, Passed::default(), "all callers have left");
}

#[test]
fn a_look_sees_its_clip_once_and_words_are_those_of_an_answer() {
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    let (texts, name) = (TextCache::new(0, 0), Arc::from("one"));
    let stages = Stages { name: &name, model: &model, texts: &texts, texts_cost_max: 100 };
    let run = |works: Vec<Work>| {
        let (entries, waits): (Vec<_>, Vec<_>) = works.into_iter().map(entry).unzip();
        let outcome = stages.run(&entries).expect("an outcome");
        drop(waits);
        outcome
    };
    let text = |text: &str| Text { tokens: model.tokenize_text(text).expect("tokens"), known: None };
    let rank = || Then::Rank(vec![text("a red circle"), text("a blue circle")]);
    let decode = || speak(TokenSampling::Greedy);
    let one = run(vec![scene(&model, 9, "what is red?", decode()), scene(&model, 9, "what is red?", rank())]);
    let both = ["what is blue?", "what is red?"];

    // Alone, twice, and beside a question that is one of its own.
    let looked = run(vec![look(&model, 9, &both)]);
    assert_eq!((looked.passed.vision, looked.passed.decoder), (one.passed.vision, 0));
    let more =
        run(vec![look(&model, 9, &both), look(&model, 9, &both), scene(&model, 9, "what is blue?", Then::Return)]);
    assert_eq!(more.passed, looked.passed);
    let found: Vec<_> = more.found.iter().map(|found| found.embeddings.len()).collect();
    assert_eq!(found, [2, 2, 1]);
    assert_eq!(more.found[0].embeddings, more.found[1].embeddings);
    assert_eq!(more.found[0].embeddings[0], more.found[2].embeddings[0]);
    assert_ne!(more.found[0].embeddings[0], more.found[0].embeddings[1], "two questions");

    // The same words as with the scene, for nothing but the words; equal ones once, also beside other work.
    let embedding = one.found[0].embeddings[0].clone();
    let words = |then| Work::Words(Words { embedding: embedding.clone(), then });
    let other = || {
        let then = decode();
        Work::Words(Words { embedding: looked.found[0].embeddings[0].clone(), then })
    };
    let spoken = run(vec![words(decode()), words(rank()), words(decode())]);
    assert_eq!((spoken.passed.vision, spoken.passed.predictor), (0, 0));
    assert_eq!((spoken.passed.text, spoken.passed.decoder), (one.passed.text, one.passed.decoder));
    for (words, scene) in [(0, 0), (1, 1), (2, 0)] {
        assert_eq!(spoken.found[words].spoken, one.found[scene].spoken);
        assert_eq!(spoken.found[words].ranked, one.found[scene].ranked);
    }
    let mixed = run(vec![other(), scene(&model, 9, "what is red?", decode()), words(decode()), look(&model, 9, &both)]);
    assert_eq!(mixed.found[2].spoken, mixed.found[1].spoken);
    assert_eq!(mixed.found[0].spoken, run(vec![other()]).found[0].spoken);
    assert!(mixed.found[3].spoken.is_none() && mixed.found[3].embeddings.len() == 2);
}

#[test]
fn equal_work_costs_the_same_and_adds_nothing() {
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    let both = ["what is blue?", "what is red?"];
    let (look_both, alone) = (look(&model, 9, &both).cost(), look(&model, 9, &both[..1]).cost());
    assert_eq!(alone, scene(&model, 9, both[0], Then::Return).cost());
    assert_eq!(look_both.beside([&look(&model, 9, &both).cost()]).tokens(), 0);
    let beside = look_both.beside([&alone]);
    assert_eq!((beside.vision.tokens, beside.question.tokens), (0, look_both.question.tokens), "seen once");
    assert!(look_both.read == 2 * alone.read && look_both.question.tokens > alone.question.tokens);
}

#[test]
fn equal_clips_are_seen_once_whatever_their_digests() {
    let seen = |value: f32, digest: u64| {
        let pixels = ndarray::Array4::from_elem((2, 3, 4, 4), value);
        let clip = Arc::new(Clip { pixels, frames_decoded: 2, frames_used: 2 });
        Seen { clip, digest, tokens: 1, facts: ClipFacts::default(), _memory: Memory::new(0).hold() }
    };
    let clips = [seen(1.0, 7), seen(2.0, 8), seen(1.0, 7), seen(2.0, 8), seen(3.0, 7)];
    let (kept, which) = distinct(clips.iter(), |a, b| same_clip(a, b));
    assert_eq!((kept.len(), which), (3, vec![0, 1, 0, 1, 2]), "the last one only has the digest of the first");
}

#[test]
fn pieces_hold_everything_in_order_and_no_more_than_fits() {
    for (items, cost_max, expected) in [
        (vec![3, 3, 3], 6, vec![vec![3, 3], vec![3]]),
        (vec![9, 1, 1], 6, vec![vec![9], vec![1, 1]]),
        (vec![1, 9, 1], 0, vec![vec![1], vec![9], vec![1]]),
        (vec![], 6, vec![]),
    ] {
        assert_eq!(pieces(&items, |&item| item, cost_max), expected);
    }
}
