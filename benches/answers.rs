//! What a person waits for: preparing pixels, and the answers of the model inside this program.

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use vljepa::input::{Clip, Frame, MediaLimits, Sampling, decode_media};
use vljepa::model::bundle::Bundle;
use vljepa::model::vl_jepa::{Scene, VlJepa};

fn main() {
    divan::main();
}

fn model() -> VlJepa {
    VlJepa::load(&Bundle::bundled().expect("it is part of the program")).expect("it was tested")
}

fn frames() -> Vec<Frame> {
    let limits = MediaLimits { bytes_max: 1 << 20, pixels_max: 1 << 20, frames_max: 64, decode_bytes_max: 1 << 26 };
    decode_media(include_bytes!("../fixtures/demo/star.gif"), &limits).expect("a clip")
}

fn clip(model: &VlJepa) -> Clip {
    model.preprocessor.clip(&frames(), &Sampling::default()).expect("a clip of whole frames")
}

/// Bytes of a file to frames.
#[divan::bench]
fn decoding() -> Vec<Frame> {
    frames()
}

/// Frames to the pixels that the vision encoder takes.
#[divan::bench]
fn preparing(bencher: Bencher) {
    let (model, frames) = (model(), frames());
    bencher.bench_local(|| model.preprocessor.clip(black_box(&frames), &Sampling::default()));
}

/// Visual tokens of a clip.
#[divan::bench]
fn seeing(bencher: Bencher) {
    let model = model();
    let clips = [Arc::new(clip(&model))];
    bencher.bench_local(|| model.see(black_box(&clips)));
}

/// The answer embedding of a question about a clip that was seen before.
#[divan::bench]
fn answering(bencher: Bencher) {
    let model = model();
    let visual = model.see(&[Arc::new(clip(&model))]).expect("visual tokens").remove(0);
    let question = model.tokenize_question("which colour does the star have?").expect("tokens");
    let scenes = [Scene { visual, question }];
    bencher.bench_local(|| model.predict(black_box(&scenes)));
}

/// The embedding of a candidate answer.
#[divan::bench]
fn reading(bencher: Bencher) {
    let model = model();
    let texts = [model.tokenize_text("an object enters from the bottom").expect("tokens")];
    bencher.bench_local(|| model.embed_text(black_box(&texts)));
}
