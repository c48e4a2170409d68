//! Laws of the model, on tiny random ones: a batch gives what its items give alone, sharing a visual pass changes
//! nothing, the order of candidates is the order of scores, training and serving compute the same, and what is written
//! to a bundle is what is read from it.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use ndarray::Array4;
use vljepa::embedding::{Embedding, cosine};
use vljepa::input::{Clip, Tokens};
use vljepa::model::bundle::Bundle;
use vljepa::model::config::{LinearKind, VisualAttention, VlJepaConfig};
use vljepa::model::decoder::{DecodeOptions, Decoder, TokenSampling};
use vljepa::model::predictor::Predictor;
use vljepa::model::text::{TextEncoder, TextHead};
use vljepa::model::vision::{VisionEncoder, Visual};
use vljepa::model::vl_jepa::{Scene, VlJepa};
use vljepa::nn::weights::{Mode, Weights};

pub(crate) use crate::tiny::{BERT, bundle};
use crate::tiny::{GEMMA, config};

fn clip(frames: usize, side: usize, seed: usize) -> Clip {
    let value = |(f, c, y, x): (usize, usize, usize, usize)| {
        ((f * 7919 + c * 104_729 + y * 31 + x * 17 + seed * 1009) % 101) as f32 / 50.0 - 1.0
    };
    Clip { pixels: Array4::from_shape_fn((frames, 3, side, side), value), frames_decoded: frames, frames_used: frames }
}

fn rows(x: &Tensor) -> Vec<Vec<f32>> {
    x.to_vec2().expect("a matrix of f32")
}

/// The largest difference, which must be a number.
fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs())
    });
    differences.fold(0.0, |most, d| if d.is_nan() { f32::NAN } else { most.max(d) })
}

fn assert_close(a: &[Vec<f32>], b: &[Vec<f32>], bound: f32) {
    let apart = apart(a, b);
    assert!(apart <= bound, "apart by {apart}, at most {bound} allowed");
    let loudest = a.iter().flatten().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(loudest > 1e-3, "all values vanish: the comparison says nothing");
}

fn vision(config: &VlJepaConfig, mode: Mode) -> VisionEncoder {
    VisionEncoder::load(&Weights::fresh(1, mode), &config.vision)
}

fn predictor(config: &VlJepaConfig, mode: Mode) -> Predictor {
    Predictor::load(&Weights::fresh(2, mode), &config.predictor, &config.vision, config.shared_dim)
}

const QUESTIONS: [(usize, &[u32]); 5] =
    [(0, &[4, 5, 6]), (1, &[7]), (0, &[8, 9, 10, 11, 12]), (2, &[4, 5, 6]), (1, &[39, 4])];

fn one_clip(visual: &Visual, clip: usize) -> Visual {
    let segment = visual.segments[clip].clone();
    let tokens = visual.tokens.narrow(0, segment.start, segment.len()).expect("rows of the clip");
    Visual { tokens, segments: std::iter::once(0..segment.len()).collect() }
}

#[test]
fn a_batch_of_clips_gives_what_each_clip_gives_alone() {
    let published = r#"{"crop_size": 16, "patch_size": 8, "frames_per_clip": 4, "hidden_size": 24,
        "num_attention_heads": 2, "num_hidden_layers": 2}"#;
    for vision_config in [config(BERT).vision, serde_json::from_str(published).expect("a vision config")] {
        let encoder = VisionEncoder::load(&Weights::fresh(1, Mode::Infer), &vision_config);
        let clips = [clip(4, 16, 1), clip(1, 16, 2), clip(3, 16, 3), clip(2, 16, 4)];
        let batch = encoder.forward(&clips.iter().collect::<Vec<_>>()).expect("a forward pass");
        assert_eq!(batch.segments, [0..8, 8..12, 12..16, 16..20], "odd frames are dropped, one frame is repeated");
        for (i, clip) in clips.iter().enumerate() {
            let alone = encoder.forward(&[clip]).expect("a forward pass");
            assert_close(&rows(&alone.tokens), &rows(&one_clip(&batch, i).tokens), 1e-5);
        }
    }
}

#[test]
fn one_frame_is_the_same_frame_twice() {
    let encoder = vision(&config(BERT), Mode::Infer);
    let one = clip(1, 16, 5);
    let mut twice = clip(2, 16, 0);
    twice.pixels.outer_iter_mut().for_each(|mut frame| frame.assign(&one.pixels.index_axis(ndarray::Axis(0), 0)));
    let [one, twice] = [&one, &twice].map(|clip| encoder.forward(&[clip]).expect("a forward pass"));
    assert_close(&rows(&one.tokens), &rows(&twice.tokens), 0.0);
}

#[test]
fn clips_of_another_size_are_refused_with_the_sizes() {
    let encoder = vision(&config(BERT), Mode::Infer);
    let error = encoder.forward(&[&clip(2, 8, 1)]).err().expect("8 is not 16").to_string();
    assert!(error.contains("[2, 3, 8, 8]") && error.contains("16"), "{error}");
    let error = encoder.forward(&[&clip(6, 16, 1)]).err().expect("4 frames have positions").to_string();
    assert!(error.contains("12 tokens") && error.contains('8'), "{error}");
}

#[test]
fn packed_questions_give_what_each_question_gives_alone() {
    for attention in [VisualAttention::Joint, VisualAttention::Prefix] {
        for pool in ["all", "query"] {
            let mut config = config(BERT);
            config.predictor.visual_attention = attention;
            config.predictor.pool = serde_json::from_str(&format!("\"{pool}\"")).expect("a pool");
            config.predictor.llama.linear = Some(LinearKind::Dense);
            let predictor = predictor(&config, Mode::Infer);
            let clips = [clip(4, 16, 1), clip(1, 16, 2), clip(2, 16, 3)];
            let visual = vision(&config, Mode::Infer).forward(&clips.iter().collect::<Vec<_>>()).expect("a pass");
            let batch = rows(&predictor.forward(&visual, &QUESTIONS).expect("a forward pass"));
            for ((clip, ids), row) in QUESTIONS.iter().zip(batch) {
                let alone = predictor.forward(&one_clip(&visual, *clip), &[(0, ids)]).expect("a forward pass");
                assert_close(&rows(&alone), &[row], 1e-5);
            }
        }
    }
}

#[test]
fn the_two_forms_of_attention_differ() {
    let mut config = config(BERT);
    let visual = vision(&config, Mode::Infer).forward(&[&clip(2, 16, 1)]).expect("a forward pass");
    let mut answer = |attention| {
        config.predictor.visual_attention = attention;
        rows(&predictor(&config, Mode::Infer).forward(&visual, &[(0, &[4, 5])]).expect("a forward pass"))
    };
    let (joint, prefix) = (answer(VisualAttention::Joint), answer(VisualAttention::Prefix));
    assert!(apart(&joint, &prefix) > 1e-3, "visual tokens do not see the question in prefix mode");
}

#[test]
fn the_question_and_the_clip_both_matter() {
    let config = config(BERT);
    let clips = [clip(4, 16, 1), clip(4, 16, 2)];
    let visual = vision(&config, Mode::Infer).forward(&[&clips[0], &clips[1]]).expect("a forward pass");
    let answers = predictor(&config, Mode::Infer).forward(&visual, &[(0, &[4, 5]), (1, &[4, 5]), (0, &[5, 4])]);
    let answers = rows(&answers.expect("a forward pass"));
    assert!(apart(&answers[..1], &answers[1..2]) > 1e-3, "another clip");
    assert!(apart(&answers[..1], &answers[2..]) > 1e-3, "another order of the words");
}

#[test]
fn a_batch_of_texts_gives_what_each_text_gives_alone() {
    let texts: [&[u32]; 4] = [&[4, 5, 6, 7, 8, 9, 10, 11, 12, 13], &[4], &[9, 8], &[20, 21, 22, 23, 24, 25]];
    for text in [GEMMA, BERT] {
        let config = config(text);
        let head = TextHead { dense_dim: config.dense_dim, shared_dim: Some(config.shared_dim) };
        let encoder = TextEncoder::load(&Weights::fresh(3, Mode::Infer), &config.text, head);
        let batch = rows(&encoder.forward(&texts).expect("a forward pass"));
        for (text, row) in texts.iter().zip(batch) {
            let length: f32 = row.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5);
            assert_close(&rows(&encoder.forward(&[text]).expect("a forward pass")), &[row], 1e-5);
        }
        assert!(encoder.forward(&[&[4], &[]]).is_err(), "a text without tokens");
        assert!(encoder.forward(&[&[40]]).is_err(), "a token outside the vocabulary");
    }
}

#[test]
fn ternary_linears_compute_the_same_in_training_and_serving() {
    let config = config(BERT);
    let visual = vision(&config, Mode::Infer).forward(&[&clip(4, 16, 1), &clip(2, 16, 2)]).expect("a forward pass");
    let questions = &QUESTIONS[..3];
    let mut stages = [Vec::new(), Vec::new()];
    for (mode, stages) in [Mode::Infer, Mode::Train].into_iter().zip(&mut stages) {
        let mut keep = |_: &str, value: &Tensor| stages.push(rows(value));
        predictor(&config, mode).observe(&visual, questions, config.predictor.pool, &mut keep).expect("a forward pass");
    }
    for (serving, training) in stages[0].iter().zip(&stages[1]) {
        assert_close(serving, training, 0.05);
    }
    let [serving, training] = stages.map(|mut stages| stages.pop().expect("the embedding"));
    for (serving, training) in serving.iter().zip(&training) {
        let cosine: f32 = serving.iter().zip(training).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "{cosine}");
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    for text in [GEMMA, BERT] {
        let config = config(text);
        let weights = Weights::fresh(4, Mode::Train);
        let vision = VisionEncoder::load(&weights.pp("vision"), &config.vision);
        let predictor = Predictor::load(&weights.pp("predictor"), &config.predictor, &config.vision, config.shared_dim);
        let head = TextHead { dense_dim: config.dense_dim, shared_dim: Some(config.shared_dim) };
        let encoder = TextEncoder::load(&weights.pp("text"), &config.text, head);
        let decoder_config = config.decoder.as_ref().expect("a decoder");
        let decoder = Decoder::load(&weights.pp("decoder"), decoder_config, config.shared_dim);
        let texts: [&[u32]; 3] = [&[4, 5, 6, 7], &[8, 9], &[10]];
        let step = || {
            let visual = vision.forward(&[&clip(4, 16, 1), &clip(4, 16, 2)])?;
            let answers = predictor.forward(&visual, &[(0, &[4, 5]), (1, &[6]), (1, &[7, 8, 9])])?;
            let targets = encoder.forward(&texts)?;
            let aim = Tensor::arange(0f32, 48.0, &Device::Cpu)?.reshape((3, 16))?.cos()?;
            let scores = ((&answers - &targets)?.sqr()?.sum_all()? + ((&answers + &targets)? * &aim)?.sum_all()?)?;
            (scores + decoder.logits(&answers, &texts)?.sqr()?.mean_all()?)?.backward()
        };
        let gradients = step().expect("forward and backward");
        let weak = |name: &str| name.contains("token_type") || name.contains("key.bias");
        for (name, variable) in weights.variables() {
            let gradient = gradients.get(variable.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient"));
            let square: f32 = gradient.sqr().and_then(|g| g.sum_all()?.to_scalar()).expect("a number");
            assert!(square.is_finite(), "{name}: {square}");
            assert!(square > 0.0 || weak(&name), "{name}: the gradient vanishes");
        }
    }
}

#[test]
fn teacher_forcing_scores_what_generation_chooses() {
    let config = config(BERT);
    let mut decoder_config = config.decoder.expect("a decoder");
    decoder_config.llama.linear = Some(LinearKind::Dense);
    decoder_config.llama.eos_token_id = None;
    let decoder = Decoder::load(&Weights::fresh(5, Mode::Infer), &decoder_config, 16);
    let embeddings = Tensor::arange(0f32, 48.0, &Device::Cpu).and_then(|x| x.reshape((3, 16))?.sin()).expect("rows");
    let greedy = DecodeOptions { max_tokens: 9, sampling: TokenSampling::Greedy };
    let texts = decoder.generate(&embeddings, &greedy).expect("texts");
    let slices: Vec<&[u32]> = texts.iter().map(|text| &text[..8]).collect();
    let logits = rows(&decoder.logits(&embeddings, &slices).expect("logits"));
    assert_eq!(logits.len(), 3 * 9);
    let chosen = |row: &Vec<f32>| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as u32);
    let forced: Vec<u32> = logits.iter().filter_map(chosen).collect();
    assert_eq!(forced, texts.concat(), "each token is the likeliest after those before it");
    for (i, text) in texts.iter().enumerate() {
        let alone = decoder.generate(&embeddings.narrow(0, i, 1).expect("a row"), &greedy).expect("a text");
        assert_eq!(&alone[0], text, "a batch gives what each text gives alone");
    }
    let drawn = |seed| {
        let sampling = TokenSampling::TopP { temperature: 5.0, top_p: 0.95, seed };
        decoder.generate(&embeddings, &DecodeOptions { max_tokens: 9, sampling }).expect("texts")
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

fn unit(values: &[f32], space: vljepa::embedding::Space) -> Embedding {
    Embedding::normalized(values.to_vec(), space)
}

#[test]
fn a_written_bundle_answers() {
    for text in [GEMMA, BERT] {
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = bundle(folder.path(), text);
        let model = VlJepa::load(&bundle).expect("a model");
        assert_eq!(model.space(), bundle.space().expect("a fingerprint"));
        let seen = model.see(&[Arc::new(clip(4, 16, 1)), Arc::new(clip(1, 16, 2))]).expect("visual tokens");
        assert_eq!([seen[0].len(), seen[1].len()], [8, 4]);
        let question = model.tokenize_question("word1 word2 word3").expect("tokens");
        let scenes = [0, 1, 0].map(|i| Scene { visual: seen[i].clone(), question: question.clone() });
        let answers = model.predict(&scenes).expect("answers");
        assert_eq!(answers[0], answers[2]);
        let alone = model.predict(&scenes[1..2]).expect("an answer");
        assert!(cosine(&alone[0], &answers[1]).expect("one space") > 0.9999);
        let tokens: Vec<Tokens> =
            ["word4", "word5 word6"].iter().map(|text| model.tokenize_text(text).expect("tokens")).collect();
        let candidates = model.embed_text(&tokens).expect("embeddings");
        let swapped = model.embed_text(&[tokens[1].clone(), tokens[0].clone()]).expect("embeddings");
        let score = |candidate| cosine(&answers[0], candidate).expect("one space");
        let scores: Vec<f32> = candidates.iter().map(score).collect();
        let permuted: Vec<f32> = swapped.iter().rev().map(score).collect();
        assert_close(&[scores], &[permuted], 1e-5);
        let options = DecodeOptions { max_tokens: 5, sampling: TokenSampling::Greedy };
        assert_eq!(model.decode(&answers, &options).expect("words").len(), 3);
        let foreign = unit(&[1.0; 16], vljepa::embedding::Space::from_bytes([0; 8]));
        assert!(model.decode(&[foreign], &options).is_err(), "an embedding of another space");
        let facts = model.facts();
        assert_eq!(facts.parts.len(), 4);
        assert!(facts.parts[1].ternary_parameters > 0 && facts.parts[0].ternary_parameters == 0);
        assert!(facts.parts.iter().all(|part| part.bytes_in_memory > 0 && part.bytes_on_disk > part.parameters / 4));
    }
}

#[test]
fn a_bundle_lists_all_its_faults_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let written = bundle(root, BERT);
    let before = written.space().expect("a fingerprint");

    let config = std::fs::read_to_string(root.join("config.json")).expect("the config");
    let wider = config.replace("\"intermediate_size\": 48", "\"intermediate_size\": 44");
    assert_ne!(wider, config);
    std::fs::write(root.join("config.json"), wider.replace("\"vocab_size\": 40", "\"vocab_size\": 30")).expect("write");
    let changed = Bundle::open(root).expect("the small files are sound");
    assert_ne!(changed.space().expect("a fingerprint"), before);
    let error = VlJepa::load(&changed).err().expect("shapes do not fit").to_string();
    for fault in [
        "predictor: model.layers.0.mlp.down_proj.weight",
        "predictor: model.layers.1.mlp.gate_proj.weight",
        "predictor: model.embed_tokens.weight: the shape is [40, 32], expected [30, 32]",
        "text: embeddings.word_embeddings.weight",
        "decoder: model.embed_tokens.weight",
        "predictor.vocab_size is 30",
    ] {
        assert!(error.contains(fault), "{fault} is not among: {error}");
    }

    std::fs::remove_file(root.join("tokenizer.json")).expect("remove");
    std::fs::remove_file(root.join("vision/model.safetensors")).expect("remove");
    let error = Bundle::open(root).expect_err("files are missing").to_string();
    assert!(error.contains("tokenizer.json") && error.contains("vision/model.safetensors"), "{error}");
}

#[test]
fn a_config_beyond_its_file_costs_nothing_but_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("the config");
    let vast = config
        .replace("\"hidden_size\": 32", "\"hidden_size\": 16384")
        .replace("\"vocab_size\": 40", "\"vocab_size\": 16777216");
    std::fs::write(&path, vast).expect("write");
    let changed = Bundle::open(folder.path()).expect("the small files are sound");
    let error = VlJepa::load(&changed).err().expect("terabytes are not in the file").to_string();
    assert!(error.contains("expected [16777216, 16384]"), "{error}");
}

#[test]
fn dense_layers_may_lie_in_folders_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = VlJepa::load(&bundle(folder.path(), GEMMA)).expect("a model");
    let file = folder.path().join("text/model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).expect("the text encoder's weights");
    let (dense, rest): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| name.contains("_Dense."));
    assert_eq!(dense.len(), 2);
    candle_core::safetensors::save(&rest.into_iter().collect(), &file).expect("write");
    for (name, weight) in dense {
        let (own, name) = name.split_once('.').expect("2_Dense.linear.weight");
        let own = folder.path().join("text").join(own);
        std::fs::create_dir(&own).expect("a folder");
        let only = std::collections::HashMap::from([(name, weight)]);
        candle_core::safetensors::save(&only, own.join("model.safetensors")).expect("write");
    }
    let split = VlJepa::load(&Bundle::open(folder.path()).expect("a bundle")).expect("a model");
    let text = whole.tokenize_text("word1 word2").expect("tokens");
    let [whole, split] = [&whole, &split].map(|model| model.embed_text(std::slice::from_ref(&text)).expect("a row"));
    assert_eq!(whole[0].values, split[0].values);
}

#[test]
fn configs_are_judged_field_by_field() {
    let sound = serde_json::to_string(&config(GEMMA)).expect("json");
    assert_eq!(serde_json::to_string(&VlJepaConfig::parse(&sound).expect("round trip")).expect("json"), sound);
    let bad = sound
        .replace("\"num_attention_heads\":4", "\"num_attention_heads\":3")
        .replace("\"head_dim\":8", "\"head_dim\":7");
    let error = VlJepaConfig::parse(&bad).expect_err("3 heads over 2").to_string();
    assert!(error.contains("predictor.num_attention_heads is 3; it must be a multiple of 2"), "{error}");
    assert!(error.contains("text.head_dim is 7; it must be a multiple of 2"), "{error}");
    let error = VlJepaConfig::parse(&sound.replace("\"crop_size\":16", "\"crop_size\":\"x\"")).expect_err("a word");
    assert!(error.to_string().contains("vision"), "{error}");
}
