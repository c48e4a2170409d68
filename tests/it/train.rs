//! The trainer as a whole, on a model of a few thousand parameters: every variable learns, a tiny set is learnt by
//! heart, a resumed run equals the whole one bit for bit, what is exported is what was trained, and a wrong data file
//! is told by its line.

use std::collections::HashMap;
use std::path::Path;

use vljepa::input::MediaLimits;
use vljepa::model::bundle::Bundle;
use vljepa::model::vl_jepa::VlJepa;
use vljepa::train::checkpoint::Checkpoint;
use vljepa::train::evaluate::{ExamSettings, examine};
use vljepa::train::recipe::Recipe;
use vljepa::train::session::{Material, Origin, prepare};
use vljepa::train::subjects::{Bundled, InTraining};
use vljepa::train::trainer::{End, RunOptions, Trainer};
use vljepa::train::world::{Config, Pairs, Phrasings, World};

const LIMITS: MediaLimits =
    MediaLimits { bytes_max: 1 << 20, pixels_max: 1 << 20, frames_max: 64, decode_bytes_max: 1 << 26 };

/// The tiny recipe with everything in it that a recipe can have: windows over streams and decoys too.
fn recipe(changes: &[&str]) -> Box<Recipe> {
    let all = ["world.streams=0.5", "stages.1.decoys=2"];
    let changes: Vec<String> = all.iter().chain(changes).map(|change| (*change).to_owned()).collect();
    Box::new(Recipe::named("world-tiny", &changes).expect("a compiled-in recipe"))
}

fn options(directory: &Path) -> RunOptions {
    RunOptions {
        directory: directory.to_owned(),
        threads: 2,
        save_steps: 1000,
        validate_steps: 1000,
        exam: None,
        time_limit: None,
    }
}

fn trainer(recipe: Box<Recipe>, directory: &Path) -> Trainer {
    let setup = prepare(&Origin::Fresh(recipe), &Material::World, 7).expect("a run can start");
    Trainer::new(setup, options(directory))
}

/// Every variable's values.
fn values(trainer: &Trainer) -> HashMap<String, Vec<f32>> {
    let flat = |tensor: &candle_core::Tensor| tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32 values");
    trainer.parts().tensors().iter().map(|(name, tensor)| (name.clone(), flat(tensor))).collect()
}

fn run(trainer: &mut Trainer) -> End {
    trainer.run(&|| false, &mut |_| {}).expect("a run")
}

#[test]
fn every_variable_learns_in_the_stages_that_train_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let run_of = |stage: usize, steps: [u64; 3]| {
        let changes: Vec<String> = steps.iter().enumerate().map(|(i, n)| format!("stages.{i}.steps={n}")).collect();
        let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
        let mut trainer = trainer(recipe(&changes), &directory.path().join(stage.to_string()));
        let before = values(&trainer);
        run(&mut trainer);
        let after = values(&trainer);
        let moved = |name: &String| before[name].iter().zip(&after[name]).any(|(a, b)| a != b);
        let mut names: Vec<(String, bool)> = before.keys().map(|name| (name.clone(), moved(name))).collect();
        names.sort();
        names
    };
    let trained: [&[&str]; 3] =
        [&["vision.", "heads."], &["vision.", "heads.", "predictor.", "text.", "log_scale"], &["decoder."]];
    for (stage, prefixes) in trained.iter().enumerate() {
        let mut steps = [0; 3];
        steps[stage] = 2;
        for (name, moved) in run_of(stage, steps) {
            let expected = prefixes.iter().any(|prefix| name.starts_with(prefix));
            assert_eq!(moved, expected, "stage {stage}: {name}");
        }
    }
}

#[test]
fn a_resumed_run_is_the_whole_run() {
    let (whole, halves) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let mut at_once = trainer(recipe(&[]), whole.path());
    assert_eq!(run(&mut at_once), End::Done);
    // Stops of all kinds: inside each stage, and at the border of two.
    for (attempt, stop_after) in [3u64, 3, 4, 5, 99].into_iter().enumerate() {
        let origin = match attempt {
            0 => Origin::Fresh(recipe(&[])),
            _ => Origin::Checkpoint(Box::new(Checkpoint::load(halves.path()).expect("a checkpoint"))),
        };
        let setup = prepare(&origin, &Material::World, 7).expect("a run can start");
        let mut part = Trainer::new(setup, options(halves.path()));
        if let Origin::Checkpoint(checkpoint) = &origin {
            part.resume(checkpoint).expect("it fits");
        }
        let steps = std::cell::Cell::new(0);
        let stop = || steps.replace(steps.get() + 1) == stop_after;
        let end = part.run(&stop, &mut |_| {}).expect("a run");
        assert_eq!(end, if attempt < 4 { End::Stopped } else { End::Done }, "attempt {attempt}");
        if end == End::Done {
            let (expected, found) = (values(&at_once), values(&part));
            for (name, expected) in &expected {
                let bits = |values: &Vec<f32>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(expected), bits(&found[name]), "{name}");
            }
        }
    }
}

#[test]
fn a_tiny_set_is_learnt_by_heart() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("four.jsonl");
    let mut lines = String::new();
    for (media, colour) in [("colour.png", "red"), ("animated.gif", "blue")] {
        std::fs::copy(Path::new("fixtures/media").join(media), directory.path().join(media)).expect("a fixture");
        lines +=
            &format!("{{\"media\": \"{media}\", \"question\": \"what colour is it?\", \"answer\": \"{colour}\"}}\n");
        lines += &format!("{{\"media\": \"{media}\", \"question\": \"which file?\", \"answer\": \"{media} it is\"}}\n");
    }
    std::fs::write(&file, lines).expect("a file");
    let recipe = recipe(&[
        "stages=[{\"objective\": \"joint\", \"steps\": 80, \"clips\": 2, \"rate\": 0.003, \"warmup_steps\": 4}]",
    ]);
    let setup = prepare(&Origin::Fresh(recipe), &Material::Lines(&file, LIMITS), 7).expect("a run can start");
    let mut trainer = Trainer::new(setup, options(&directory.path().join("run")));
    let (mut losses, mut accuracy) = (Vec::new(), 0.0);
    let mut note = |report: &vljepa::train::trainer::Report| {
        losses.push(report.terms["info_nce"]);
        accuracy = report.terms["batch_accuracy"];
    };
    trainer.run(&|| false, &mut note).expect("a run");
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.25 * first && accuracy > 0.99, "loss {first} to {last}, accuracy {accuracy}");
}

#[test]
fn the_bundle_answers_as_the_parts_did() {
    let directory = tempfile::tempdir().expect("a directory");
    let recipe = recipe(&["stages.0.steps=2", "stages.1.steps=3", "stages.2.steps=3"]);
    let setup = prepare(&Origin::Fresh(recipe), &Material::World, 7).expect("a run can start");
    let edges = setup.edges.clone();
    let mut trainer = Trainer::new(setup, options(directory.path()));
    run(&mut trainer);
    let root = directory.path().join("bundle");
    trainer.export(&root).expect("a bundle");
    let model = VlJepa::load(&Bundle::open(&root).expect("a bundle")).expect("a model");
    let settings = ExamSettings {
        clips: 6,
        windows: 6,
        seed: 3,
        frames: 4,
        size: 32,
        phrasings: Phrasings::HeldOut,
        pairs: Pairs::Any,
        thorough: true,
        threads: 2,
    };
    let trained = examine(&InTraining { parts: trainer.parts(), edges: &edges }, &edges, &settings).expect("an exam");
    let served = examine(&Bundled { model: &model }, &edges, &settings).expect("an exam");
    // Weights are stored as f16 and activations rounded to i8: cosines agree to about 1e-2, so few answers may differ.
    for (a, b) in trained.families.iter().zip(&served.families) {
        assert_eq!((a.questions, a.majority), (b.questions, b.majority));
        assert!((a.closest - b.closest).abs() < 0.02, "{}: {} and {}", a.family, a.closest, b.closest);
    }
    assert!((trained.mean - served.mean).abs() < 0.1, "{} and {}", trained.mean, served.mean);
    assert!(trained.to_string().contains("mean of families"));
    assert!(trained.windows.iter().all(|line| line.questions == 6), "{:?}", trained.windows);
    assert_eq!(
        trained.windows.iter().map(|line| line.family.as_str()).collect::<Vec<_>>(),
        ["of windows: event", "of windows: describe"]
    );
}

#[test]
fn a_bundle_that_is_trained_further_begins_as_what_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = trainer(recipe(&["stages.0.steps=2", "stages.1.steps=4", "stages.2.steps=2"]), directory.path());
    run(&mut first);
    let root = directory.path().join("bundle");
    first.export(&root).expect("a bundle");
    let bundle = Bundle::open(&root).expect("a bundle");
    let again = prepare(&Origin::Bundle(recipe(&[]), Box::new(bundle)), &Material::World, 9).expect("a run can start");
    let world = World::new(Config { frames: 4, ..Config::default() });
    for seed in 0..8 {
        let clip = again.edges.film(world.window(seed).render(32), 32).expect("a clip");
        let question = again.edges.question("what happens?").expect("a question");
        let row = |parts: &vljepa::train::parts::Parts| {
            let row = parts.predict(std::slice::from_ref(&clip), &[(0, &question)]).expect("a prediction");
            row.flatten_all().and_then(|row| row.to_vec1::<f32>()).expect("f32 values")
        };
        let (before, after) = (row(first.parts()), row(&again.parts));
        // Vision and norms are stored as f16; ternary weights must be the very same.
        let cosine: f32 = before.iter().zip(&after).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "cosine {cosine}");
    }
}

#[test]
fn a_wrong_data_file_is_told_by_line_and_field() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("data.jsonl");
    let good = r#"{"media": "a.png", "question": "what?", "answer": "this"}"#;
    std::fs::write(directory.path().join("a.png"), b"not a picture").expect("a file");
    let cases = [
        (format!("{good}\n{{\"media\": \"a.png\"}}"), "line 2: missing field `question`"),
        (format!("{good}\n{good}\nnonsense"), "line 3: expected"),
        (good.replace("a.png", "none.png"), "line 1: media none.png"),
        (good.replace("this", " "), "line 1: answer has no words"),
        (good.replace("\"answer\"", "\"reply\""), "line 1: unknown field `reply`"),
        (String::new(), "has no lines"),
    ];
    for (text, expected) in cases {
        std::fs::write(&file, &text).expect("a file");
        let error = prepare(&Origin::Fresh(recipe(&[])), &Material::Lines(&file, LIMITS), 1).err();
        let error = error.unwrap_or_else(|| panic!("taken: {text}")).to_string();
        assert!(error.contains(expected) && error.contains("data.jsonl"), "{error}, expected {expected}");
    }
    std::fs::write(&file, good).expect("a file");
    let setup = prepare(&Origin::Fresh(recipe(&["stages.0.objective=joint"])), &Material::Lines(&file, LIMITS), 1);
    let mut trainer = Trainer::new(setup.expect("the lines are sound"), options(&directory.path().join("run")));
    let error = trainer.run(&|| false, &mut |_| {}).expect_err("no picture").to_string();
    assert!(error.contains("line 1: media") && error.contains("a.png"), "{error}");
}
