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
