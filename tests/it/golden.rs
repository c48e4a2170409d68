//! Every recorded tensor in fixtures/golden, through the library call behind `vljepa verify`.
//!
//! The number of rows is written down for each folder: a stage that is silently skipped fails as one that disagrees does.
//! What a README allows for its own tensors is asserted here; `verify` itself leaves room for other sizes and seeds.

mod spoilt;

use std::path::{Path, PathBuf};

use vljepa::model::verify::{Report, verify};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name)
}

/// Everything agrees, in this many rows, and nothing but `not_checked` is left over.
#[track_caller]
fn check(name: &str, rows: usize, not_checked: &[&str]) -> Report {
    let report = verify(&folder(name), None).unwrap_or_else(|e| panic!("{name}: {e}"));
    let out: Vec<_> = report.stages.iter().filter(|stage| !stage.ok).collect();
    assert!(out.is_empty() && report.ok(), "{name}: {out:#?}");
    assert_eq!(report.not_checked, not_checked, "{name}");
    assert_eq!(report.stages.len(), rows, "{name}: {:#?}", report.stages);
    report
}

/// The rows whose names begin with one of these are within `bound * rms`; there are such rows.
#[track_caller]
fn within(report: &Report, names: &[&str], bound: f64) {
    for name in names {
        let rows: Vec<_> = report.stages.iter().filter(|stage| stage.name.starts_with(name)).collect();
        assert!(!rows.is_empty(), "no row begins with {name}");
        for stage in rows {
            assert!(stage.max_over_rms <= bound, "{} is {:e} off, {bound:e} allowed", stage.name, stage.max_over_rms);
        }
    }
}

#[test]
fn vision() {
    within(&check("vjepa2_tiny", 15, &[]), &[""], 4e-5);
    within(&check("vjepa2_tiny_rem", 14, &[]), &[""], 2e-5);
}

#[test]
fn preprocessing() {
    check("vjepa2_preprocess", 3, &[]);
}

#[test]
fn text_encoders() {
    // the last row is texts.json through the folder's tokenizer
    within(&check("embeddinggemma_tiny", 16, &[]), &[""], 3e-5);
    within(&check("bert_tiny", 7, &[]), &[""], 2e-5);
}

#[test]
fn llama() {
    within(&check("llama_tiny", 13, &[]), &[""], 3e-5);
}

#[test]
fn bitnet_by_three_paths_and_its_linears_from_both_files() {
    let report = check("bitnet_tiny", 65, &["online_bf16.logits"]);
    within(&report, &["online.", "packed.", "offline."], 0.05);
    let logits = report.stages.iter().filter(|stage| stage.name.ends_with("logits"));
    assert!(logits.map(|stage| stage.cosine).fold(1.0, f64::min) >= 0.9999);
    let exact = report.stages.iter().filter(|stage| stage.tolerance.to_string() == "exact").count();
    assert_eq!(exact, 2 * 7 * 3, "two files, seven linears, three exact tensors");
}

#[test]
fn bitlinear() {
    check("bitlinear", 56, &[]);
}

#[test]
fn the_whole_model_and_selective_decoding() {
    let report = check("vljepa_tiny", 103, &[]);
    within(&report, &["visual_tokens", "pred.inputs_embeds", "y.", "fp."], 4e-5);
    within(&report, &["pred.embedding", "packed: pred.embedding"], 5e-3);
    within(&report, &["pred.layer", "pred.norm"], 0.05);
    for stage in report.stages.iter().filter(|stage| stage.name.starts_with("pred.")) {
        if stage.name.starts_with("pred.layer") || stage.name == "pred.norm" {
            assert!(stage.mean_over_rms <= 1e-3, "{}: mean {:e}", stage.name, stage.mean_over_rms);
        }
        if stage.name.starts_with("pred.embedding") {
            assert!(stage.cosine >= 1.0 - 1e-6, "{}: cosine {}", stage.name, stage.cosine);
        }
    }
    let loss = report.stages.iter().filter(|stage| stage.name.ends_with("loss")).map(|stage| stage.max_diff);
    assert!(loss.fold(0.0, f64::max) <= 1e-3);
}

/// The bundle that the program carries: prefix attention, a convolutional stem, clips of three lengths, two questions about
/// one of them, and the decoder.
#[test]
fn the_bundled_model() {
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bundles/world-small");
    let report = verify(&bundle, Some(&folder("world_small"))).expect("verified");
    let out: Vec<_> = report.stages.iter().filter(|stage| !stage.ok).collect();
    assert!(out.is_empty() && report.not_checked.is_empty(), "{out:#?} {:?}", report.not_checked);
    assert_eq!(report.stages.len(), 47, "{:#?}", report.stages);
    within(&report, &["vision.", "visual_tokens", "y.", "pred.inputs_embeds", "decode.logits"], 4e-5);
}
