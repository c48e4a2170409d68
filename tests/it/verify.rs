//! `vljepa verify` and `vljepa inspect` as a person or a script meets them: exit status, table, JSON, complaints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name)
}

fn vljepa(words: &[&str], folders: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vljepa")).args(words).args(folders).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn agreement_is_status_0_and_a_table() {
    let done = vljepa(&["verify"], &[&golden("llama_tiny")]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let table = text(&done.stdout);
    assert!(table.lines().any(|line| line.starts_with("causal.logits") && line.ends_with("ok")), "{table}");
    assert!(table.ends_with("13 stages checked, 0 out of tolerance, 0 names not checked\n"), "{table}");
}

#[test]
fn a_stage_that_is_out_is_status_1_in_both_forms() {
    // recorded with the weights of one model, computed with another's of the same shapes
    let (dir, other) = (golden("vjepa2_tiny"), tempfile::tempdir().expect("a temporary folder"));
    for name in ["config.json", "io.safetensors"] {
        std::fs::write(other.path().join(name), std::fs::read(dir.join(name)).expect("a file")).expect("written");
    }
    let mut weights = std::fs::read(dir.join("model.safetensors")).expect("the weights");
    let last = weights.len() - 1;
    weights[last] ^= 0x80;
    std::fs::write(other.path().join("model.safetensors"), weights).expect("written");
    let table = vljepa(&["verify"], &[other.path()]);
    assert_eq!(table.status.code(), Some(1), "{}", text(&table.stderr));
    assert!(text(&table.stdout).contains("OUT: "));
    let json = vljepa(&["verify", "--json"], &[other.path()]);
    assert_eq!(json.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    let stages = report["stages"].as_array().expect("stages");
    let out = stages.iter().filter(|stage| stage["ok"] == false).count();
    assert_eq!((report["checked"].as_u64(), report["out"].as_u64()), (Some(15), Some(out as u64)));
    assert!(out > 0);
    for key in ["name", "shape", "max_diff", "rms", "max_over_rms", "cosine", "tolerance", "ok"] {
        assert!(!stages[0][key].is_null(), "{key}");
    }
}

#[test]
fn nothing_checked_is_status_1_and_unreadable_is_status_2() {
    let nothing = vljepa(&["verify"], &[&golden("vjepa2_preprocess"), &golden("bert_tiny")]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stdout).contains("not checked"));
    let unreadable = vljepa(&["verify"], &[Path::new("/nowhere")]);
    assert_eq!(unreadable.status.code(), Some(2));
    assert!(text(&unreadable.stderr).contains("/nowhere"));
    let unreadable = vljepa(&["inspect"], &[&golden("bert_tiny")]);
    assert_eq!(unreadable.status.code(), Some(2));
    assert!(text(&unreadable.stderr).contains("bert_tiny"), "{}", text(&unreadable.stderr));
}

/// The recorded whole model as a bundle: the folders' other names, and the small files that the recording lacks.
fn bundle() -> tempfile::TempDir {
    let (from, to) = (golden("vljepa_tiny"), tempfile::tempdir().expect("a temporary folder"));
    let write = |name: &str, bytes: &[u8]| {
        let file = to.path().join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(file, bytes).expect("written");
    };
    let read = |file: PathBuf| std::fs::read(file).expect("a file");
    for (theirs, ours) in [("x_encoder", "vision"), ("y_encoder", "text")] {
        write(&format!("{ours}/model.safetensors"), &read(from.join(theirs).join("model.safetensors")));
    }
    // only the packed predictor, as bundles store it
    write("predictor/model.safetensors", &read(from.join("predictor/model_packed.safetensors")));
    write("io.safetensors", &read(from.join("io.safetensors")));
    let config = text(&read(from.join("config.json"))).replace("\"vljepa\"", "\"vl_jepa\"");
    let config = config.replace("x_encoder", "vision").replace("y_encoder", "text");
    write("config.json", config.as_bytes());
    let words = ["what", "is", "this"].map(String::from);
    write("tokenizer.json", &vljepa::input::word_level(&words).expect("a tokenizer"));
    write("preprocessor_config.json", vljepa::input::Preprocessor::square(32, 8).to_json().as_bytes());
    write("README.md", b"# tiny");
    to
}

#[test]
fn a_bundle_is_verified_as_a_whole() {
    let bundle = bundle();
    let done = vljepa(&["verify", "--json"], &[bundle.path()]);
    assert_eq!(done.status.code(), Some(0), "{}{}", text(&done.stdout), text(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let left: Vec<_> = report["not_checked"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(left.len() == 5 && left.iter().all(|name| name.starts_with("fp.")), "{left:?}: no float weights, no fp");
}

#[test]
fn a_bundle_whose_text_folder_asks_for_other_modules_is_refused() {
    let bundle = bundle();
    let recorded = golden("embeddinggemma_tiny");
    for folder in ["1_Pooling", "2_Dense", "3_Dense"] {
        std::fs::create_dir(bundle.path().join("text").join(folder)).expect("made");
    }
    for name in ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "3_Dense/config.json"] {
        let bytes = std::fs::read(recorded.join(name)).expect("a file");
        std::fs::write(bundle.path().join("text").join(name), bytes).expect("written");
    }
    let same = vljepa(&["inspect"], &[bundle.path()]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stderr));
    let refused = |name: &str, from: &str, to: &str, words: [&str; 2]| {
        let file = bundle.path().join("text").join(name);
        let before = std::fs::read_to_string(&file).expect("a file");
        std::fs::write(&file, before.replace(from, to)).expect("written");
        let done = vljepa(&["inspect"], &[bundle.path()]);
        let error = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        std::fs::write(&file, before).expect("written");
    };
    refused(
        "1_Pooling/config.json",
        "cls_token\": false",
        "cls_token\": true",
        ["text/1_Pooling/config.json", "pooling_mode_cls_token is true"],
    );
    refused("modules.json", "\"2_Dense\"", "\"3_Dense\"", ["text/3_Dense/config.json", "in_features is 128"]);
    refused("3_Dense/config.json", "\"bias\": false", "\"bias\": true", ["text/modules.json", "without biases"]);
}

#[test]
fn inspect_shows_what_a_bundle_is_made_of() {
    let bundle = bundle();
    let table = vljepa(&["inspect"], &[bundle.path()]);
    assert_eq!(table.status.code(), Some(0), "{}", text(&table.stderr));
    let table = text(&table.stdout);
    let json = vljepa(&["inspect", "--json"], &[bundle.path()]);
    let facts: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let parts = facts["parts"].as_array().expect("parts");
    let names: Vec<_> = parts.iter().filter_map(|part| part["part"].as_str()).collect();
    assert_eq!(names, ["vision", "predictor", "text"]);
    let predictor = &parts[1];
    // two layers of q, o 64 x 64, k, v 32 x 64, gate, up, down 160 x 64
    let ternary = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64);
    assert_eq!((&predictor["precision"], predictor["ternary_parameters"].as_u64()), (&"w1.58a8".into(), Some(ternary)));
    let on_disk = std::fs::metadata(bundle.path().join("predictor/model.safetensors")).expect("a file").len();
    assert_eq!(predictor["bytes_on_disk"].as_u64(), Some(on_disk));
    for fact in [&facts["space"], &facts["instruction_set"], &predictor["precision"]] {
        let fact = fact.as_str().expect("a word");
        assert!(table.contains(fact), "{fact} in\n{table}");
    }
}

/// Standard output of a call that succeeds, as JSON.
fn json(words: &[&str], folders: &[&Path]) -> Value {
    let done = vljepa(words, folders);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("JSON")
}

#[test]
fn narrow_weights_keep_every_token_of_the_goldens() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bundles/world-small");
    let cases = [
        (vec![golden("vjepa2_tiny")], "int8", ".last_hidden_state"),
        (vec![golden("embeddinggemma_tiny")], "int8", "embedding"),
        // this model's vision asks for bf16: docs/PRECISION.md
        (vec![bundle, golden("world_small")], "bf16", "vision.last_hidden_state"),
    ];
    for (folders, precision, stage) in cases {
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        let drifts = json(&["verify", "--json", "--precision", precision], &folders);
        let drifts = drifts.as_array().expect("a list").iter();
        let ends: Vec<&Value> = drifts.filter(|d| d["stage"].as_str().is_some_and(|s| s.ends_with(stage))).collect();
        assert!(!ends.is_empty(), "{folders:?}");
        for drift in ends {
            let least = drift["least"].as_f64().expect("a number");
            // not 1 either: something was rounded
            assert!((0.999..1.0 - 1e-6).contains(&least) && drift["precision"] == precision, "{drift}");
        }
    }
    let same = json(&["verify", "--json", "--precision", "f32"], &[&golden("bert_tiny")]);
    assert!(same.as_array().expect("a list").iter().all(|drift| drift["least"].as_f64() > Some(1.0 - 1e-12)), "{same}");
}

#[test]
fn precisions_are_asked_for_by_flag_before_environment_and_wrong_words_are_told() {
    let inspect = |environment: &str, words: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vljepa"));
        program.args(["inspect", "--json"]).args(words).env("VLJEPA_PRECISION", environment);
        program.output().expect("the program runs")
    };
    let done = inspect("text=bf16,vision=bf16", &["--precision", "vision=f32"]);
    let facts: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let precision = |part: usize| facts["parts"][part]["precision"].as_str().expect("a word").to_owned();
    assert_eq!([precision(0), precision(1), precision(2)], ["f32", "w1.58a8", "bf16"]);
    let space = |done: &Output| serde_json::from_slice::<Value>(&done.stdout).expect("JSON")["space"].clone();
    assert_eq!(space(&done), space(&inspect("int8", &[])), "precision is no part of what a space is");
    let known = "must be one of auto, f32, bf16, int8";
    let wrong = inspect("text=fp8", &[]);
    assert!(text(&wrong.stderr).contains(&format!("VLJEPA_PRECISION: text is \"fp8\", {known}")), "{wrong:?}");
    let wrong = inspect("", &["--precision", "vision=int4"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains(&format!("vision is \"int4\", {known}")), "{wrong:?}");
}
