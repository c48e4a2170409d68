//! The commands as a person runs them: the binary itself, its output and its exit status.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::model_laws::{BERT, bundle};

const STILL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/squares.jpg");
const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/star.gif");

fn vljepa(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vljepa")).args(arguments).output().expect("the binary runs")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

#[test]
fn ask_answers_every_file_in_turn_and_a_bad_one_fails_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let directory = folder.path().to_str().expect("a plain path");
    let output = vljepa(&[
        "ask",
        STILL,
        "missing.png",
        CLIP,
        "word1?",
        "--choices",
        "word2, word3",
        "--json",
        "--bundle",
        directory,
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: missing.png: "), "{output:?}");
    let answers = lines(&output);
    assert_eq!(answers.len(), 2);
    for answer in answers {
        let choices = answer["choices"].as_array().expect("choices");
        assert_eq!(choices.iter().map(|choice| &choice["text"]).collect::<Vec<_>>(), ["word2", "word3"]);
        let score = |choice: &Value| choice["score"].as_f64().expect("a score");
        let best = choices.iter().max_by(|a, b| score(a).total_cmp(&score(b))).expect("choices");
        assert_eq!(answer["answer"], best["text"]);
        assert_eq!(answer["embedding"].as_array().map(Vec::len), Some(16));
        assert!(answer["timing_ms"]["total"].as_f64() > Some(0.0), "{answer}");
    }
}

#[test]
fn embed_gives_unit_vectors_of_one_space() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let directory = folder.path().to_str().expect("a plain path");
    let texts = lines(&vljepa(&["embed", "--text", "word1", "--text", "word2", "--json", "--bundle", directory]));
    let media = lines(&vljepa(&["embed", CLIP, "--question", "word3", "--json", "--bundle", directory]));
    assert_eq!((texts.len(), media.len()), (2, 1));
    for line in texts.iter().chain(&media) {
        let values: Vec<f64> = line["embedding"].as_array().expect("values").iter().flat_map(Value::as_f64).collect();
        assert!((values.iter().map(|value| value * value).sum::<f64>() - 1.0).abs() < 1e-5);
        assert_eq!(line["space"], media[0]["space"]);
    }
}

#[test]
fn failures_and_wrong_calls_have_their_own_status() {
    let wrong = vljepa(&["ask", STILL]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let failed = vljepa(&["ask", STILL, "word1", "--bundle", "/nowhere"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("/nowhere"), "{failed:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let directory = folder.path().to_str().expect("a plain path");
    let mut child = Command::new(env!("CARGO_BIN_EXE_vljepa"))
        .args(["ask", STILL, "word1", "--json", "--bundle", directory])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn flags_that_cannot_be_meant_are_told_with_their_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let [model, out] = ["", "out"].map(|name| folder.path().join(name).to_string_lossy().into_owned());
    let evaluate = ["evaluate", "--bundle", &model];
    let stream = ["evaluate", "stream"];
    let train = ["train", "--recipe", "world-tiny", "--out", &out];
    for (command, flag, value) in [
        (&evaluate[..], "--size", "0"),
        (&evaluate, "--size", "100000000"),
        (&evaluate, "--clips", "18446744073709551615"),
        (&evaluate, "--threads", "100000000"),
        (&stream, "--streams", "0"),
        (&stream, "--streams", "100000"),
        (&stream, "--longest", "29"),
        (&stream, "--threads", "0"),
        (&train, "--threads", "0"),
        (&train, "--minutes", "nan"),
        (&train, "--minutes", "1e300"),
    ] {
        let output = vljepa(&[command, &[flag, value]].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{flag} {value}: {told}");
        assert!(told.to_lowercase().starts_with(&format!("error: {flag} is ")), "{flag} {value}: {told}");
        assert!(told.contains(", must be ") && told.lines().count() == 1, "{flag} {value}: {told}");
    }
}
