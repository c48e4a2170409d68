//! `vljepa evaluate stream` as a person runs it, with the bundled model on a few seconds of stream.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn evaluate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    command.args(["evaluate", "stream", "--streams", "1", "--longest", "30", "--seed", "3"]);
    command.args(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn a_study_is_told_in_numbers_and_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("curve.png");
    let output = evaluate(&["--json", "--chart", picture.to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let study: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(study["windows"].as_u64() > Some(20) && study["seconds"].as_f64() <= Some(30.0), "{study}");
    let voices = study["voices"].as_array().expect("voices");
    assert_eq!(voices.iter().map(|voice| &voice["voice"]).collect::<Vec<_>>(), ["decoder", "nearest"]);
    let nearest = &voices[1];
    assert!(nearest["all"]["cider"].as_f64() > Some(2.0), "the model sees something: {}", nearest["all"]);
    let ways: Vec<_> = nearest["curves"].as_array().expect("curves").iter().map(|curve| &curve["way"]).collect();
    assert_eq!(ways, ["uniform", "ward_middle", "ward_mean", "gate"]);
    let (own, control) = (&study["separation"], &study["untrained"]);
    assert!(own["event_auc"].as_f64() > Some(0.5) && own != control, "{own} {control}");
    for figure in ["reference", "threshold", "calm", "gap_min_ms", "said"] {
        assert!(study["rule"].get(figure).is_some(), "{figure} is told: {}", study["rule"]);
    }
    let png = std::fs::read(&picture).expect("a picture");
    assert_eq!(png.get(1..4), Some(&b"PNG"[..]));
}

#[test]
fn a_chart_that_cannot_be_written_is_told_before_the_work() {
    let output = evaluate(&["--chart", "/nowhere/at/all.png"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: --chart /nowhere/at/all.png: "), "{}", text(&output.stderr));
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("curve.png");
    let output = evaluate(&["--bundle", "/nowhere", "--chart", picture.to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!Path::new(&picture).exists(), "nothing is left of what failed");
}

#[test]
fn the_exam_of_clips_keeps_its_own_flags() {
    let mixed = Command::new(env!("CARGO_BIN_EXE_vljepa"))
        .args(["evaluate", "--clips", "5", "stream"])
        .output()
        .expect("the binary runs");
    assert_eq!(mixed.status.code(), Some(2), "{mixed:?}");
}
