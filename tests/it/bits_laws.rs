//! An embedding is the same to the last bit whatever else is computed with it: alone or in a batch of any size and order,
//! on one thread or on several, with products looked up or multiplied, fresh or remembered. A part of a job must have the
//! same bytes whoever computes it and however often, so a tolerance is not enough here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vljepa::embedding::Embedding;
use vljepa::engine::{Call, Class, Engine, Full, Media, MediaFrame, PixelOrder, Question};
use vljepa::input::{Clip, Frame, Sampling, Tokens};
use vljepa::kernel::lookup::{self, Lookup};
use vljepa::kernel::threads::{self, Pool};
use vljepa::model::bundle::Bundle;
use vljepa::model::precision::{DenseKind, Precisions};
use vljepa::model::vl_jepa::{Scene, VlJepa};
use vljepa::settings::Settings;

use crate::tiny::{BERT, GEMMA, bundle};

const TEXTS: usize = 40;
const SCENES: usize = 8;

/// Every model that the tests have, with its dense weights held in every way.
fn models() -> impl Iterator<Item = (String, VlJepa)> {
    let tiny = |text| {
        let folder = tempfile::tempdir().expect("a folder");
        (bundle(folder.path(), text), folder)
    };
    let kinds = [DenseKind::F32, DenseKind::Bf16, DenseKind::Int8];
    let named = [("tiny, bert", Some(BERT)), ("tiny, gemma", Some(GEMMA)), ("world-small", None)];
    named.into_iter().flat_map(move |(name, text)| {
        kinds.map(|kind| {
            let (bundle, _folder) = match text.map(tiny) {
                Some((bundle, folder)) => (bundle, Some(folder)),
                None => (Bundle::bundled().expect("a bundle"), None),
            };
            let model = VlJepa::load(&bundle.with_precisions(Precisions::all(kind))).expect("a model");
            (format!("{name}, {}", kind.name()), model)
        })
    })
}

/// Words that both vocabularies know some of, 1 to 21 of them.
fn words(at: usize) -> String {
    let word = |place: usize| match (at * 7 + place * 3) % 5 {
        0 => "red".to_string(),
        1 => "circle".to_string(),
        number => format!("word{}", (at * number + place) % 36),
    };
    (0..1 + at * 5 % 21).map(word).collect::<Vec<_>>().join(" ")
}

/// A clip of 1 to 8 frames.
fn clip(model: &VlJepa, at: usize) -> Arc<Clip> {
    let frame = |pts: usize| {
        let rgb = (0..40 * 30 * 3).map(|place| ((place * (at + 3) + pts * 41) % 251) as u8).collect();
        Frame { width: 40, height: 30, rgb, pts_ms: 40 * pts as u64 }
    };
    let frames: Vec<Frame> = (0..1 + at % 8).map(frame).collect();
    let sampling = Sampling { frames: Some(1 + at % 4), ..Sampling::default() };
    Arc::new(model.preprocessor.clip(&frames, &sampling).expect("a clip"))
}

fn assert_equal(alone: &[Embedding], other: &[Embedding], what: &str) {
    assert_eq!(alone.len(), other.len(), "{what}");
    for (at, (alone, other)) in alone.iter().zip(other).enumerate() {
        let bits = |embedding: &Embedding| embedding.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let differ = bits(alone).iter().zip(bits(other)).filter(|(alone, other)| **alone != *other).count();
        assert_eq!(differ, 0, "{what}: item {at} differs in {differ} of {} values", alone.values.len());
    }
    assert!(alone.iter().any(|embedding| embedding.values != alone[0].values), "{what}: all are equal");
}

/// Computes items alone, all together, backwards and in chunks, on one thread and on three.
fn hold<T: Sync + Clone>(name: &str, items: &[T], compute: impl Fn(&[T]) -> Vec<Embedding> + Sync) {
    let alone: Vec<Embedding> = threads::serial(|| items.chunks(1).flat_map(&compute).collect());
    let pools = [1, 3].map(|threads| (threads, Pool::new(threads).expect("threads")));
    for (threads, pool) in &pools {
        for chunk in [5, items.len()] {
            let chunked: Vec<Embedding> = pool.run(|| items.chunks(chunk).flat_map(&compute).collect());
            assert_equal(&alone, &chunked, &format!("{name}: {chunk} at once on {threads} threads"));
        }
        let mut backwards = pool.run(|| compute(&items.iter().rev().cloned().collect::<Vec<_>>()));
        backwards.reverse();
        assert_equal(&alone, &backwards, &format!("{name}: backwards on {threads} threads"));
    }
}

#[test]
fn a_text_has_the_same_bits_in_any_company() {
    for (name, model) in models() {
        let texts: Vec<Tokens> = (0..TEXTS).map(|at| model.tokenize_text(&words(at)).expect("tokens")).collect();
        hold(&name, &texts, |texts| model.embed_text(texts).expect("embeddings"));
    }
}

#[test]
fn a_scene_has_the_same_bits_in_any_company() {
    for (name, model) in models() {
        let question = |at: usize| model.tokenize_question(&words(at)).expect("tokens");
        let scenes: Vec<(Arc<Clip>, Tokens)> = (0..SCENES).map(|at| (clip(&model, at % 7), question(at))).collect();
        hold(&name, &scenes, |scenes| {
            let clips: Vec<Arc<Clip>> = scenes.iter().map(|(clip, _)| clip.clone()).collect();
            let seen = model.see(&clips).expect("visual tokens");
            let scenes = seen.into_iter().zip(scenes);
            let scenes: Vec<Scene> =
                scenes.map(|(visual, (_, question))| Scene { visual, question: question.clone() }).collect();
            model.predict(&scenes).expect("embeddings")
        });
    }
}

#[test]
fn scenes_of_one_clip_have_the_bits_of_scenes_apart() {
    for (name, model) in models() {
        let clips = [clip(&model, 3), clip(&model, 6)];
        let seen = model.see(&clips).expect("visual tokens");
        let scene = |at: usize| {
            let question = model.tokenize_question(&words(at)).expect("tokens");
            Scene { visual: seen[at % 2].clone(), question }
        };
        let scenes: Vec<Scene> = (0..SCENES).map(scene).collect();
        hold(&name, &scenes, |scenes| model.predict(scenes).expect("embeddings"));
    }
}

#[test]
fn products_that_are_looked_up_have_the_bits_of_those_multiplied() {
    for (name, model) in models() {
        let texts: Vec<Tokens> = (0..TEXTS).map(|at| model.tokenize_text(&words(at)).expect("tokens")).collect();
        let seen = model.see(&[clip(&model, 5)]).expect("visual tokens");
        let question = |text: &Tokens| Tokens { ids: text.ids.iter().copied().take(30).collect(), truncated: false };
        let scene = |text| Scene { visual: seen[0].clone(), question: question(text) };
        let scenes: Vec<Scene> = texts.iter().map(scene).collect();
        let compute = |lookup: Lookup| {
            // Chips without what it needs refuse it, and have one way only.
            let _ = lookup::force(lookup);
            let both = [model.embed_text(&texts), model.predict(&scenes)].map(|found| found.expect("embeddings"));
            let _ = lookup::force(Lookup::Auto);
            both.concat()
        };
        assert_equal(&compute(Lookup::Never), &compute(Lookup::Always), &name);
    }
}

fn engine(set: impl FnOnce(&mut Settings)) -> Engine {
    let mut settings = Settings::default();
    set(&mut settings);
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    Engine::start(model, settings).expect("a thread").0
}

fn job() -> Call {
    let call = Call::interactive(Instant::now() + Duration::from_secs(300));
    Call { class: Class::Job, full: Full::Wait, ..call }
}

async fn texts(engine: &Engine, at: std::ops::Range<usize>) -> Vec<Embedding> {
    let embedded = engine.embed_texts(at.map(|at| Ok(words(at))).collect(), job()).await.expect("an answer");
    embedded.into_iter().map(|embedded| embedded.expect("an embedding").embedding).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_and_what_is_batched_has_the_bits_of_what_is_alone() {
    let cold = engine(|settings| settings.queue.text_cache_items = 0);
    let warm = engine(|_| {});
    let mut alone = Vec::new();
    for at in 0..TEXTS {
        alone.extend(texts(&cold, at..at + 1).await);
    }
    for round in ["cold", "warm"] {
        assert_equal(&alone, &texts(&warm, 0..TEXTS).await, round);
    }
    let question = |at: usize| {
        let pixels = (0..64 * 48).map(|place| ((place * (at % 9 + 3)) % 251) as u8).collect();
        let frame = MediaFrame::Raw { width: 64, height: 48, order: PixelOrder::Gray, pixels, pts_ms: 0 };
        Question { media: Media::Frames(vec![frame]), sampling: Sampling::default(), text: words(at) }
    };
    let mut alone = Vec::new();
    for at in 0..SCENES {
        alone.extend(cold.predict(vec![Ok(question(at))], job()).await);
    }
    let together = warm.predict((0..SCENES).map(|at| Ok(question(at))).collect(), job()).await;
    let [alone, together] = [alone, together].map(|embedded| {
        embedded.into_iter().map(|embedded| embedded.expect("an embedding").embedding).collect::<Vec<_>>()
    });
    assert_equal(&alone, &together, "scenes");
}
