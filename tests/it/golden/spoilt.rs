//! Copies of golden folders in which something is changed: what must be found out, and what makes no difference.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;
use vljepa::model::verify::{Report, verify};

use super::folder;

/// Name, type, shape and bytes of a tensor.
type Recorded = (String, Dtype, Vec<usize>, Vec<u8>);

/// A copy of a golden folder that a test may spoil.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Copy {
        fn copy(from: &Path, to: &Path) {
            std::fs::create_dir_all(to).expect("a folder");
            for entry in from.read_dir().expect("a folder") {
                let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).expect("an entry");
                match from.is_dir() {
                    true => copy(&from, &to),
                    // written anew: a copy would keep that the original must not be written
                    false => std::fs::write(&to, std::fs::read(&from).expect("a file")).expect("a copy"),
                }
            }
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&super::folder(name), folder.path());
        Copy(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn verify(&self) -> Result<Report, String> {
        verify(self.0.path(), None).map_err(|e| e.to_string())
    }

    /// Rewrites a safetensors file with the bytes of one tensor changed.
    fn spoil(&self, file: &str, tensor: &str, change: impl Fn(&mut Vec<u8>)) {
        self.rewrite(file, |tensors| {
            let spoilt = tensors.iter_mut().find(|(name, ..)| name == tensor).expect("the tensor");
            change(&mut spoilt.3);
        });
    }

    /// Rewrites a safetensors file with other tensors.
    fn rewrite(&self, file: &str, change: impl FnOnce(&mut Vec<Recorded>)) {
        let file = self.path(file);
        let bytes = std::fs::read(&file).expect("the file");
        let mut tensors: Vec<Recorded> = SafeTensors::deserialize(&bytes)
            .expect("safetensors")
            .iter()
            .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a view")));
        safetensors::serialize_to_file(views, None, &file).expect("written");
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(file)).expect("the file");
        assert!(text.contains(from), "{file} holds {from}");
        std::fs::write(self.path(file), text.replace(from, to)).expect("written");
    }

    #[track_caller]
    fn assert_out(&self, stages: &[&str]) {
        let report = self.verify().expect("it can be read");
        assert!(!report.ok());
        for name in stages {
            let row = report.stages.iter().find(|stage| stage.name == *name);
            assert!(row.is_some_and(|stage| !stage.ok), "{name} should be out: {row:?}");
        }
    }

    #[track_caller]
    fn assert_error(&self, words: &[&str]) {
        let error = self.verify().expect_err("it cannot be used");
        assert!(words.iter().all(|word| error.contains(word)), "{error:?} should hold {words:?}");
    }
}

/// Flips the sign of the first bf16 or f32.
fn negate(bytes: &mut [u8], width: usize) {
    bytes[width - 1] ^= 0x80;
}

#[test]
fn published_spellings_of_a_config_read_the_same() {
    for (name, rows) in [("llama_tiny", 13), ("embeddinggemma_tiny", 16)] {
        let copy = Copy::of(name);
        std::fs::rename(copy.path("config.hub_style.json"), copy.path("config.json")).expect("renamed");
        let report = copy.verify().expect("verified");
        assert!(report.ok(), "{name}");
        assert_eq!(report.stages.len(), rows, "{name}");
    }
}

#[test]
fn packed_weights_alone_give_the_same_model() {
    let copy = Copy::of("bitnet_tiny");
    std::fs::rename(copy.path("model_packed.safetensors"), copy.path("model.safetensors")).expect("renamed");
    let report = copy.verify().expect("verified");
    assert!(report.ok());
    assert_eq!(report.stages.len(), 9 + 7 * 4, "three paths of three stages, and one set of linears");

    let copy = Copy::of("vljepa_tiny/predictor");
    let whole = Copy::of("vljepa_tiny");
    std::fs::rename(copy.path("model_packed.safetensors"), whole.path("predictor/model.safetensors")).expect("moved");
    std::fs::remove_file(whole.path("predictor/model_packed.safetensors")).expect("removed");
    let report = whole.verify().expect("verified");
    assert!(report.ok() && report.stages.iter().any(|stage| stage.name == "pred.embedding_all"));
    assert!(report.not_checked.iter().all(|name| name.starts_with("fp.")), "no float weights, no fp stages");
    assert_eq!(report.not_checked.len(), 5);
}

#[test]
fn a_golden_file_may_lie_elsewhere() {
    let io = folder("bert_tiny").join("io.safetensors");
    let copy = Copy::of("bert_tiny");
    std::fs::remove_file(copy.path("io.safetensors")).expect("removed");
    copy.assert_error(&["io.safetensors"]);
    let report = verify(copy.0.path(), Some(&io)).expect("verified");
    assert!(report.ok() && report.stages.len() == 7);
}

#[test]
fn a_spoilt_weight_is_out_from_its_stage_on() {
    let copy = Copy::of("bert_tiny");
    copy.spoil("model.safetensors", "encoder.layer.1.attention.self.value.bias", |bytes| bytes[1] ^= 0xc0);
    copy.assert_out(&["layer1", "layer2", "embedding"]);
    let report = copy.verify().expect("verified");
    assert!(report.stages.iter().find(|stage| stage.name == "layer0").is_some_and(|stage| stage.ok));

    let copy = Copy::of("bitnet_tiny");
    copy.spoil("model_packed.safetensors", "model.layers.0.self_attn.q_proj.weight", |bytes| bytes[0] ^= 1);
    copy.assert_out(&["packed: l0.self_attn.q_proj.acc_i32"]);
}

#[test]
fn a_product_that_was_dequantised_first_may_be_off_by_what_its_sum_rounds() {
    let rms = |name: &str| {
        let report = verify(&folder("bitlinear"), None).expect("it can be read");
        report.stages.iter().find(|stage| stage.name == name).expect("the stage").rms as f32
    };
    for form in ["0.y_online", "0.y_offline"] {
        for (off, ok) in [(1.5e-6, true), (1e-4, false)] {
            let copy = Copy::of("bitlinear");
            let step = off * rms(form);
            copy.spoil("io.safetensors", form, |bytes| {
                let value = bytes.first_chunk_mut::<4>().expect("an f32");
                *value = (f32::from_le_bytes(*value) + step).to_le_bytes();
            });
            assert_eq!(copy.verify().expect("it can be read").ok(), ok, "{form} off by {off} rms");
        }
    }
}

#[test]
fn a_case_is_compared_in_what_it_has() {
    let copy = Copy::of("bitlinear");
    let dropped = ["0.act_int8", "1.acc_i32", "2.w"];
    copy.rewrite("io.safetensors", |tensors| tensors.retain(|(name, ..)| !dropped.contains(&name.as_str())));
    let report = copy.verify().expect("it can be read");
    assert!(report.ok() && report.not_checked.iter().all(|name| name.starts_with("2.")), "{:?}", report.not_checked);
    for name in ["0.acc_i32", "0.y_packed", "1.y_packed", "2.acc_i32", "2.y_exact_f64"] {
        assert!(report.stages.iter().any(|stage| stage.name == name), "{name}");
    }
}

#[test]
fn a_spoilt_recording_is_out() {
    let copy = Copy::of("llama_tiny");
    copy.spoil("io.safetensors", "causal.logits", |bytes| negate(bytes, 4));
    copy.assert_out(&["causal.logits"]);
    copy.spoil("io.safetensors", "decode.greedy_ids", |bytes| bytes[0] ^= 1);
    copy.assert_out(&["decode.greedy_ids"]);
    copy.spoil("io.safetensors", "bidir.pooled", |bytes| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    copy.assert_out(&["bidir.pooled"]);

    let copy = Copy::of("bitlinear");
    copy.spoil("io.safetensors", "2.acc_i32", |bytes| bytes[0] ^= 1);
    copy.spoil("io.safetensors", "0.act_int8", |bytes| bytes[5] ^= 1);
    copy.assert_out(&["2.acc_i32", "0.act_int8"]);

    let copy = Copy::of("vljepa_tiny");
    copy.spoil("stream.safetensors", "ward7.labels", |bytes| bytes[0] ^= 1);
    copy.spoil("stream.safetensors", "gate_mean_0.5_4.decode", |bytes| bytes[4] ^= 1);
    copy.spoil("stream.safetensors", "ward_threshold.labels", |bytes| bytes[0] ^= 1);
    copy.assert_out(&["ward7.labels", "gate_mean_0.5_4.decode", "ward_threshold.labels"]);
}

#[test]
fn another_config_is_another_model() {
    let copy = Copy::of("llama_tiny");
    copy.replace("config.json", "\"rope_theta\": 500000.0", "\"rope_theta\": 10000.0");
    copy.assert_out(&["inv_freq", "bidir.layer0", "causal.logits"]);
    let copy = Copy::of("vljepa_tiny");
    copy.replace("config.json", "\"predictor_pool\": \"all\"", "\"predictor_pool\": \"query\"");
    copy.assert_out(&["logits"]);
}

#[test]
fn every_setting_of_the_bundled_model_counts() {
    let settings = [
        ("\"position\": \"rope+learned\"", "\"position\": \"rope\"", "vision.patch_embed"),
        ("\"rope_theta\": 100.0", "\"rope_theta\": 10000.0", "visual_tokens"),
        ("\"vision_norm\": true", "\"vision_norm\": false", "pred.inputs_embeds"),
        ("\"std\": 0.6", "\"std\": 0.59", "pred.inputs_embeds"),
        ("\"visual_attention\": \"prefix\"", "\"visual_attention\": \"joint\"", "pred.embedding_query"),
        ("\"ffn_sub_norm\": true", "\"ffn_sub_norm\": false", "pred.layer0"),
        ("\"pool\": \"query\"", "\"pool\": \"all\"", "logits"),
        ("\"eos_token_id\": 3", "\"eos_token_id\": 4", "decode.greedy_ids"),
    ];
    for (from, to, stage) in settings {
        let copy = Copy::of("../bundles/world-small");
        std::fs::copy(folder("world_small").join("io.safetensors"), copy.path("io.safetensors")).expect("copied");
        copy.replace("config.json", from, to);
        copy.assert_out(&[stage]);
    }
}

#[test]
fn what_would_change_the_result_and_is_not_computed_is_refused() {
    let field = |name: &str, line: &str, words: &[&str]| {
        let copy = Copy::of(name);
        copy.replace("config.json", "\"model_type\"", &format!("{line}, \"model_type\""));
        copy.assert_error(words);
    };
    let bert = "\"position_embedding_type\": \"relative_key\"";
    field("bert_tiny", bert, &["config.json", "position_embedding_type is relative_key", "must be absolute"]);
    let gemma = "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 8.0}";
    field("embeddinggemma_tiny", gemma, &["config.json", "rope_scaling.rope_type is linear", "must be default"]);
    let copy = Copy::of("embeddinggemma_tiny");
    copy.replace("config.json", "\"attn_logit_softcapping\": null", "\"attn_logit_softcapping\": 50.0");
    copy.assert_error(&["config.json", "attn_logit_softcapping is 50", "must be null"]);

    // the embedding takes the head's place only where the config does not forbid it
    let copy = Copy::of("llama_tiny");
    copy.replace("config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    copy.assert_error(&["lm_head.weight: missing"]);
    // a predictor has no head
    let copy = Copy::of("vljepa_tiny");
    copy.replace("config.json", "\"mlp_bias\": false", "\"mlp_bias\": false, \"tie_word_embeddings\": false");
    assert!(copy.verify().expect("verified").ok());
}

#[test]
fn a_sentence_folder_that_asks_for_something_else_is_refused() {
    let changed = |file: &str, from: &str, to: &str, words: &[&str]| {
        let copy = Copy::of("embeddinggemma_tiny");
        copy.replace(file, from, to);
        copy.assert_error(&[words, &[file]].concat());
    };
    let pooling = "1_Pooling/config.json";
    let (cls, mean) = ("\"pooling_mode_cls_token\": ", "\"pooling_mode_mean_tokens\": ");
    changed(pooling, &format!("{cls}false"), &format!("{cls}true"), &["pooling_mode_cls_token is true", "false"]);
    changed(pooling, &format!("{mean}true"), &format!("{mean}false"), &["pooling_mode_mean_tokens is false", "true"]);
    changed(pooling, "\"include_prompt\"", "\"pooling_mode\": \"max\", \"x\"", &["pooling_mode is \"max\"", "mean"]);
    changed("modules.json", "models.Normalize", "models.LayerNorm", &["Dense, LayerNorm", "Normalize"]);
    changed("2_Dense/config.json", "\"in_features\": 64", "\"in_features\": 65", &["in_features is 65", "64"]);
    changed("3_Dense/config.json", "Identity", "Tanh", &["activation_function", "Identity"]);
}

#[test]
fn recorded_inputs_that_do_not_fit_are_named_before_anything_is_computed() {
    let copy = Copy::of("bert_tiny");
    copy.rewrite("io.safetensors", |tensors| {
        let (_, dtype, shape, bytes) = tensors.iter().find(|(name, ..)| name == "input_ids").expect("ids").clone();
        tensors.push(("token_type_ids".into(), dtype, shape, vec![0; bytes.len()]));
    });
    let report = copy.verify().expect("type 0 is what is computed");
    assert!(report.ok() && report.not_checked.is_empty());
    copy.spoil("io.safetensors", "token_type_ids", |bytes| bytes[0] = 1);
    copy.assert_error(&["io.safetensors", "token_type_ids holds type 1", "must be 0"]);

    for name in ["bert_tiny", "llama_tiny"] {
        let ids = if name == "bert_tiny" { "input_ids" } else { "causal.input_ids" };
        let copy = Copy::of(name);
        copy.spoil("io.safetensors", ids, |bytes| bytes[1] = 0x7f);
        copy.assert_error(&["io.safetensors", ids, "vocabulary"]);
    }
    let copy = Copy::of("bert_tiny");
    copy.spoil("io.safetensors", "attention_mask", |bytes| bytes.fill(0));
    copy.assert_error(&["io.safetensors", "attention_mask leaves 0 tokens to text 0", "from 1 to"]);
    let copy = Copy::of("vjepa2_tiny");
    copy.replace("config.json", "\"crop_size\": 64", "\"crop_size\": 96");
    copy.assert_error(&["io.safetensors", "pixel_values_videos has clips of", "96, 96]"]);
}

#[test]
fn a_window_of_one_token_is_written_as_0() {
    let copy = Copy::of("embeddinggemma_tiny");
    copy.replace("config.json", "\"sliding_window\": ", "\"sliding_window\": 0, \"was\": ");
    copy.assert_out(&["layer0"]);
}

#[test]
fn what_cannot_be_used_is_named() {
    let copy = Copy::of("bert_tiny");
    copy.replace("config.json", "\"hidden_size\": 48", "\"hidden_size\": 50");
    copy.assert_error(&["config.json", "hidden_size is 50"]);
    copy.replace("config.json", "\"hidden_size\": 50", "\"hidden_size\": 52");
    copy.assert_error(&["embeddings.word_embeddings.weight", "[200, 48]", "[200, 52]"]);
    copy.replace("config.json", "\"model_type\": \"bert\"", "\"model_type\": \"roberta\"");
    copy.assert_error(&["config.json", "model_type", "roberta"]);
    std::fs::remove_file(copy.path("config.json")).expect("removed");
    copy.assert_error(&["config.json", "missing"]);

    let copy = Copy::of("vjepa2_tiny");
    std::fs::remove_file(copy.path("model.safetensors")).expect("removed");
    copy.assert_error(&["model.safetensors"]);
    let copy = Copy::of("vjepa2_tiny");
    std::fs::write(copy.path("io.safetensors"), b"short").expect("written");
    copy.assert_error(&["io.safetensors"]);
    let nowhere = verify(Path::new("/nowhere/at/all"), None).expect_err("there is no such folder").to_string();
    assert!(nowhere.contains("/nowhere/at/all"), "{nowhere}");
}

#[test]
fn a_recording_that_is_about_nothing_here_does_not_pass() {
    let golden = folder("bitlinear").join("io.safetensors");
    let report = verify(&folder("vjepa2_preprocess"), Some(&folder("bert_tiny"))).expect("it can be read");
    assert!(report.stages.is_empty() && !report.ok(), "nothing checked is no success");
    let report = verify(&folder("bert_tiny"), Some(&golden)).expect("it can be read");
    assert!(report.ok(), "cases carry their own weights");
}
