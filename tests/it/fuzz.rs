//! The fuzz targets' laws, replayed without a fuzzer: on the corpus that was kept (`fuzz/corpus`, one folder a law), on
//! sound inputs, and on a bounded number of mutations of both that are the same in every run.

use std::path::Path;

use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vljepa::service::proto;

use crate::service::{CLIP, STILL, ask, file, frames, item};

#[path = "../../fuzz/laws/mod.rs"]
mod laws;

/// What was kept of a law's fuzzing.
fn kept(law: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(law);
    let files = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    assert!(!files.is_empty(), "nothing was kept of {law}");
    files.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Holds a law to the kept and the sound inputs, and to `mutations` of them.
fn hold(name: &str, law: fn(&[u8]), sound: Vec<Vec<u8>>, mutations: usize) {
    let inputs: Vec<Vec<u8>> = kept(name).into_iter().chain(sound).collect();
    inputs.iter().for_each(|input| law(input));
    let mut random = ChaCha8Rng::seed_from_u64(6);
    for _ in 0..mutations {
        law(&mutated(&inputs[random.random_range(0..inputs.len())], &mut random));
    }
}

/// A few bytes changed, swapped for telling ones, taken out or repeated.
fn mutated(input: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.random_range(1..8) {
        if bytes.is_empty() {
            return vec![random.random()];
        }
        let at = random.random_range(0..bytes.len());
        let end = (at + random.random_range(1..16)).min(bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.random_range(0..5)],
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, input[at.min(input.len())..end.min(input.len())].to_vec())),
        }
    }
    bytes
}

#[test]
fn decoding_keeps_its_limits() {
    hold("decode", laws::decode, vec![STILL.to_vec(), CLIP.to_vec()], 300);
}

#[test]
fn any_bytes_as_a_video_are_frames_or_an_error() {
    let cut = include_bytes!("../../fixtures/media/xcut_plain.mp4").to_vec();
    hold("video", laws::video, vec![cut, include_bytes!("../../fixtures/media/rotated.mp4").to_vec()], 1500);
}

#[test]
fn requests_are_taken_or_refused_with_a_field() {
    hold("convert", laws::convert, requests(), 2000);
}

#[test]
fn no_message_unfolds_to_more_than_was_counted() {
    hold("elements", laws::elements, requests(), 2000);
}

/// Sound requests of every kind.
fn requests() -> Vec<Vec<u8>> {
    let raw = proto::Frame { data: vec![1; 12], format: 2, width: 2, height: 2, pts_ms: 3 };
    let items = vec![item(file(STILL), "word1"), item(frames(vec![raw.clone(), raw]), "word2")];
    let sampling = Some(proto::Sampling { frames: Some(2), fps: Some(2.0), start_ms: Some(1), end_ms: Some(9) });
    let generation = Some(proto::Generation { max_tokens: 3, temperature: 0.5, top_p: 0.5, seed: 1 });
    let spoken = proto::AnswerRequest { sampling, generation, priority: 2, ..ask(file(b"x"), &[]) };
    vec![
        proto::PredictRequest { items, ..Default::default() }.encode_to_vec(),
        proto::EncodeTextRequest { texts: vec!["word1".into(); 3], ..Default::default() }.encode_to_vec(),
        ask(file(b"x"), &["word1", "word2"]).encode_to_vec(),
        spoken.encode_to_vec(),
        proto::UploadMediaHeader { bytes: Some(5), sha256: vec![7; 32] }.encode_to_vec(),
    ]
}

#[test]
fn a_bundle_with_any_file_in_it_is_refused_or_answers() {
    hold("bundle", laws::bundle, vec![vec![]], 300);
}

#[test]
fn a_line_of_a_job_is_a_row_or_fails_as_one() {
    let lines =
        [&b"{\"text\": \"word1\"}"[..], b"{\"id\": 7, \"media\": \"a.gif\", \"question\": \"word1\"}", b"", b"\r"];
    hold("line", laws::line, lines.map(<[u8]>::to_vec).into(), 3000);
}

#[test]
fn packed_ternary_weights_are_what_their_bytes_say() {
    hold("ternary", laws::ternary, vec![vec![0, 0, 0], vec![4, 2, 0, 0x55, 0xAA]], 1000);
}
