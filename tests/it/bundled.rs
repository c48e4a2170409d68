//! The model that the binary carries: it answers questions about files that it never saw, in wordings it never saw.

use std::path::Path;
use std::process::Command;

use vljepa::model::bundle::Bundle;
use vljepa::model::vl_jepa::VlJepa;
use vljepa::train::data::Edges;
use vljepa::train::evaluate::{ExamSettings, examine};
use vljepa::train::subjects::Bundled;
use vljepa::train::world::{Pairs, Phrasings};

fn answer(file: &str, question: &str, choices: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo").join(file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    command.arg("ask").arg(file).arg(question).arg("--json");
    if !choices.is_empty() {
        command.args(["--choices", choices]);
    }
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON object");
    answer["answer"].as_str().expect("an answer").to_owned()
}

#[test]
fn files_are_answered_rightly() {
    assert_eq!(answer("squares.jpg", "which colour does the small square have?", "red,green,blue,white"), "blue");
    assert_eq!(answer("shapes.png", "name the shape of the orange object.", "circle,triangle,star,heart"), "triangle");
    assert_eq!(answer("star.gif", "which colour does the star have?", ""), "blue");
}

#[test]
fn unseen_clips_in_unseen_wordings_are_answered_far_above_guessing() {
    let bundle = Bundle::bundled().expect("the bundled model");
    let model = VlJepa::load(&bundle).expect("a model");
    let edges = Edges::of(&bundle).expect("its edges");
    let settings = ExamSettings {
        windows: 0,
        clips: 12,
        seed: 7,
        frames: bundle.config.vision.frames_per_clip,
        size: bundle.config.vision.crop_size,
        phrasings: Phrasings::HeldOut,
        pairs: Pairs::Train,
        thorough: false,
        threads: 2,
    };
    let exam = examine(&Bundled { model: &model }, &edges, &settings).expect("an exam");
    assert!(exam.families.len() >= 8, "{exam}");
    assert!(exam.mean >= 0.8, "{exam}");
    assert!(exam.majority_mean <= 0.45, "{exam}");
}
