//! Media and texts as they come from outside: real files, hostile files, recorded token ids.

use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;
use vljepa::input::{Facts, Footage, Frame, InputError, MediaLimits, Tokenizer, decode_media};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

const LIMITS: MediaLimits =
    MediaLimits { bytes_max: 1 << 20, pixels_max: 1 << 20, frames_max: 100, decode_bytes_max: 8 << 20 };

/// (name, width, height, times of the frames, ms), all showing the same card: left half red, right half blue,
/// where the file knows colours, and a clip's white mark moving right.
const GOOD: &[(&str, u32, u32, &[u64])] = &[
    ("alpha.png", 48, 32, &[0]),
    ("animated.gif", 48, 32, &[0, 100, 200, 500]),
    ("animated.png", 48, 32, &[0, 40, 80]),
    ("animated.webp", 48, 32, &[0, 40, 120]),
    ("cmyk.jpg", 48, 32, &[0]),
    ("colour.bmp", 48, 32, &[0]),
    ("colour.gif", 48, 32, &[0]),
    ("colour.jpg", 48, 32, &[0]),
    ("colour.png", 48, 32, &[0]),
    ("colour.webp", 48, 32, &[0]),
    ("cropped.mp4", 46, 30, &[0, 100, 200]),
    ("deep.png", 48, 32, &[0]),
    ("fragmented.mp4", 48, 32, &[0, 40, 80]),
    ("grey.jpg", 48, 32, &[0]),
    ("one.png", 1, 1, &[0]),
    ("palette.png", 48, 32, &[0]),
    ("plain.mp4", 48, 32, &[0, 100, 200, 500]),
    ("progressive.jpg", 48, 32, &[0]),
    ("reordered.mp4", 48, 32, &[0, 40, 80]),
    ("rotated.jpg", 48, 32, &[0]),
    ("rotated.mp4", 48, 32, &[0, 100, 200, 500]),
    ("wide.png", 65535, 1, &[0]),
];

fn files() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(FIXTURES).join("media");
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        (name, std::fs::read(&path).expect("readable"))
    };
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("fixture").map(entry).collect();
    files.sort();
    files
}

fn pixel(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
    let at = 3 * (y * frame.width + x) as usize;
    [frame.rgb[at], frame.rgb[at + 1], frame.rgb[at + 2]]
}

fn near(a: [u8; 3], b: [u8; 3]) -> bool {
    a.iter().zip(b).all(|(&a, b)| a.abs_diff(b) <= 40)
}

#[test]
fn every_good_file_is_what_it_shows() {
    let good: Vec<_> = files().into_iter().filter(|(name, _)| !name.starts_with('x')).collect();
    assert_eq!(good.len(), GOOD.len(), "every file is listed");
    for ((file, bytes), &(name, width, height, times)) in good.iter().zip(GOOD) {
        assert_eq!(file, name);
        let frames = decode_media(bytes, &LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(frames.iter().map(|frame| frame.pts_ms).collect::<Vec<_>>(), times, "{name}");
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!((frame.width, frame.height, frame.rgb.len()), (width, height, (3 * width * height) as usize));
            if (width, height) != (48, 32) {
                continue;
            }
            let (left, right) = (pixel(frame, 4, 28), pixel(frame, 44, 28));
            match name {
                "grey.jpg" => assert!(near(left, [90; 3]) && near(right, [200; 3]), "{name}: {left:?} {right:?}"),
                _ => assert!(near(left, [220, 30, 30]) && near(right, [30, 30, 220]), "{name}: {left:?} {right:?}"),
            }
            if times.len() > 1 {
                let mark = pixel(frame, 4 + 10 * i as u32, 6);
                assert!(near(mark, [255; 3]), "{name}, frame {i}: {mark:?}");
            }
        }
    }
    let alpha = decode_media(&good[0].1, &LIMITS).expect("decoded above");
    assert_eq!(pixel(&alpha[0], 24, 2), [255; 3], "transparent is white");
}

/// What the files whose names begin with x are refused for.
fn expected(name: &str) -> fn(&InputError) -> bool {
    match name {
        "xbomb.png" | "xbomb.gif" | "xbomb.bmp" | "xbomb.jpg" | "xbomb.mp4" | "xframes.gif" | "xtable.mp4" => {
            |error| matches!(error, InputError::TooLarge { .. })
        }
        "xno_frames.mp4" => |error| matches!(error, InputError::NoFrames { .. }),
        "xempty.jpg" | "xone_byte.png" | "xtext.jpg" | "xsvg.png" => {
            |error| matches!(error, InputError::UnknownFormat { .. })
        }
        _ => |error| matches!(error, InputError::Undecodable { .. }),
    }
}

#[test]
fn every_hostile_file_is_refused_for_its_reason() {
    let hostile: Vec<_> = files().into_iter().filter(|(name, _)| name.starts_with('x')).collect();
    assert!(hostile.len() >= 12, "the corpus is there");
    for (name, bytes) in hostile {
        let error = decode_media(&bytes, &LIMITS).expect_err(&name);
        println!("{name}: {error}");
        assert!(expected(&name)(&error), "{name}: {error:?}");
        assert!(!error.to_string().contains("panicked"), "{name}: {error}");
    }
}

#[test]
fn limits_name_value_and_bound() {
    let file = |wanted: &str| files().into_iter().find(|(name, _)| name == wanted).expect(wanted).1;
    let told = |name: &str, limits: MediaLimits| decode_media(&file(name), &limits).expect_err(name).to_string();
    let pixels = told("colour.png", MediaLimits { pixels_max: 1535, ..LIMITS });
    assert_eq!(pixels, "image is 48 x 32 pixels, at most 1535 allowed");
    let frames = told("animated.gif", MediaLimits { frames_max: 3, ..LIMITS });
    assert_eq!(frames, "frames of the media is over 3, at most 3 allowed");
    let decoded = told("animated.webp", MediaLimits { decode_bytes_max: 10_000, ..LIMITS });
    assert_eq!(decoded, "decoded media bytes is 13824, at most 10000 allowed");
    let bytes = told("colour.bmp", MediaLimits { bytes_max: 100, ..LIMITS });
    assert!(bytes.starts_with("media bytes is ") && bytes.ends_with(", at most 100 allowed"), "{bytes}");
    assert!(decode_media(&file("animated.gif"), &MediaLimits { frames_max: 4, ..LIMITS }).is_ok());
    let size = told("plain.mp4", MediaLimits { pixels_max: 1535, ..LIMITS });
    assert_eq!(size, "video is 48 x 32 pixels, at most 1535 allowed");
    let frames = told("plain.mp4", MediaLimits { frames_max: 3, ..LIMITS });
    assert_eq!(frames, "frames of the media is 4, at most 3 allowed");
}

#[test]
fn a_video_that_cannot_be_shown_says_why() {
    let told = |name: &str| {
        let bytes = std::fs::read(format!("{FIXTURES}/media/{name}")).expect("fixture");
        decode_media(&bytes, &LIMITS).expect_err(name).to_string().replace("MP4 cannot be decoded: ", "")
    };
    assert_eq!(told("xhevc.mp4"), "its video is hvc1 (HEVC), must be avc1 (H.264)");
    assert_eq!(told("xencrypted.mp4"), "its video is encv (encrypted), must be avc1 (H.264)");
    assert_eq!(told("xsound.mp4"), "it has no video track");
    assert_eq!(told("xinterlaced.mp4"), "its pictures may be interlaced, which is not supported");
    assert!(told("xcut_plain.mp4").ends_with("is the file truncated?"), "{}", told("xcut_plain.mp4"));
    assert!(told("xbomb.mp4").starts_with("video is 16384 x 16384 pixels, at most "), "{}", told("xbomb.mp4"));
    let webm = decode_media(b"\x1A\x45\xDF\xA3\x9F", &LIMITS).expect_err("no media of ours").to_string();
    assert_eq!(webm, "media begins with 1a 45 df a3 9f (Matroska or WebM), must be JPEG, PNG, WebP, GIF, BMP or MP4");
}

/// Whoever wants some frames of a video gets the very same ones, and others are stepped over.
#[test]
fn some_frames_of_a_video_are_those_of_all() {
    let bytes = std::fs::read(format!("{FIXTURES}/demo/star.mp4")).expect("fixture");
    let limits = MediaLimits { bytes_max: 1 << 20, pixels_max: 1 << 20, frames_max: 100, decode_bytes_max: 16 << 20 };
    let all = decode_media(&bytes, &limits).expect("a clip");
    let footage = Footage::open(&bytes, &limits, &mut |_| true).expect("a clip");
    assert_eq!(footage.facts(), Facts { width: 128, height: 128, frames: 8, duration_ms: 910 });
    for wanted in [&[0, 1, 2, 3, 4, 5, 6, 7][..], &[2, 5], &[7], &[0], &[]] {
        let mut got = Vec::new();
        let each = &mut |at: usize, frame: &Frame| {
            got.push((at, frame.clone()));
            Ok(())
        };
        let decoded = footage.decode(wanted, &mut |_| true, each).expect("frames");
        got.sort_by_key(|&(at, _)| at);
        assert_eq!(got, wanted.iter().map(|&at| (at, all[at].clone())).collect::<Vec<_>>());
        assert!((wanted.len()..=8).contains(&decoded), "{decoded} for {wanted:?}");
    }
    let decoded = footage.decode(&[0], &mut |_| true, &mut |_, _| Ok(())).expect("a frame");
    assert_eq!(decoded, 1, "the first needs no other");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a file, the answer is frames that keep the limits, or an error; and a decoder's panic,
    /// which the guard would turn into an error, is a finding here.
    #[test]
    fn a_damaged_file_never_breaks_a_promise(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut files = files();
        let (name, bytes) = &mut files[which.index(GOOD.len())];
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match decode_media(bytes, &LIMITS) {
            Ok(frames) => {
                prop_assert!((1..=LIMITS.frames_max).contains(&frames.len()));
                let decoded: usize = frames.iter().map(|frame| frame.rgb.len()).sum();
                prop_assert!(decoded as u64 <= LIMITS.decode_bytes_max);
                for frame in frames {
                    let pixels = frame.width as usize * frame.height as usize;
                    prop_assert!(pixels as u64 <= LIMITS.pixels_max && frame.rgb.len() == 3 * pixels);
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains("panicked"), "{name}: {error}"),
        }
    }
}

#[test]
fn recorded_texts_give_their_recorded_tokens() {
    let folder = format!("{FIXTURES}/golden/embeddinggemma_tiny");
    let texts: Vec<String> =
        serde_json::from_slice(&std::fs::read(format!("{folder}/texts.json")).expect("fixture")).expect("a list");
    let bytes = std::fs::read(format!("{folder}/io.safetensors")).expect("fixture");
    let file = SafeTensors::deserialize(&bytes).expect("fixture");
    let row = |name: &str, i: usize| -> Vec<u32> {
        let tensor = file.tensor(name).expect("recorded");
        assert_eq!(tensor.dtype(), safetensors::Dtype::I32);
        let length = tensor.shape()[1];
        let values = tensor.data().as_chunks().0.iter().map(|&value| u32::from_le_bytes(value));
        values.skip(i * length).take(length).collect()
    };
    let tokenizer = Tokenizer::open(format!("{folder}/tokenizer.json").as_ref()).expect("fixture");
    for (i, text) in texts.iter().enumerate() {
        let seen = row("input_ids", i).into_iter().zip(row("attention_mask", i)).filter(|&(_, mask)| mask == 1);
        let expected: Vec<u32> = seen.map(|(id, _)| id).collect();
        let tokens = tokenizer.encode(text, 512).expect("fits");
        assert_eq!(tokens.ids, expected, "{text:?}");
        assert!(!tokens.truncated);
        let cut = tokenizer.encode(text, expected.len().max(3) - 1).expect("both ends fit");
        assert_eq!(cut.truncated, expected.len() > 2, "{text:?}");
        assert_eq!((cut.ids.first(), cut.ids.last()), (expected.first(), expected.last()), "the template stays");
    }
    let error = tokenizer.encode("a", 1).expect_err("bos and eos need two").to_string();
    assert_eq!(error, "tokens_max is 1, must be at least 2, the special tokens of tokenizer.json");
}
