//! Preprocessing against recorded outputs of V-JEPA 2's published processor.

use ndarray::{Array4, Axis};
use safetensors::SafeTensors;
use vljepa::input::{Frame, Preprocessor, Sampling};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/vjepa2_preprocess");

fn recorded(file: &SafeTensors, case: &str) -> (Vec<Frame>, Array4<f32>) {
    let frames = file.tensor(&format!("{case}.frames")).expect("recorded");
    let [_, height, width, 3] = *frames.shape() else { panic!("{case}: {:?}", frames.shape()) };
    let frame = |(i, rgb): (usize, &[u8])| Frame {
        width: width as u32,
        height: height as u32,
        rgb: rgb.to_vec(),
        pts_ms: 40 * i as u64,
    };
    let frames = frames.data().chunks(3 * width * height).enumerate().map(frame).collect();
    let pixels = file.tensor(&format!("{case}.pixel_values_videos")).expect("recorded");
    let [1, count, 3, height, width] = *pixels.shape() else { panic!("{case}: {:?}", pixels.shape()) };
    let samples = pixels.data().as_chunks().0.iter().map(|&sample| f32::from_le_bytes(sample)).collect();
    (frames, Array4::from_shape_vec((count, 3, height, width), samples).expect("as many as the shape says"))
}

/// One level of a sample after normalising: the tolerance everywhere, since the recorded resize rounds with
/// coefficients of another width; on average hardly any sample may differ.
const MAX: f32 = 1.0 / 255.0 / 0.224 + 1e-6;
const MEAN: f32 = 5e-4;

#[test]
fn clips_are_those_of_the_published_processor() {
    let json = std::fs::read(format!("{FOLDER}/preprocessor_config.json")).expect("fixture");
    let preprocessor = Preprocessor::parse(&json).expect("a published file");
    let bytes = std::fs::read(format!("{FOLDER}/io.safetensors")).expect("fixture");
    let file = SafeTensors::deserialize(&bytes).expect("fixture");
    for case in ["down", "portrait", "up"] {
        let (frames, expected) = recorded(&file, case);
        let clip = preprocessor.clip(&frames, &Sampling::default()).expect(case);
        assert_eq!(clip.pixels.dim(), expected.dim());
        let differences = (&clip.pixels - &expected).mapv(f32::abs);
        let max = differences.iter().copied().fold(0.0, f32::max);
        let mean = differences.mean().expect("not empty");
        println!("{case}: max {max:.5} of {MAX:.5}, mean {mean:.2e} of {MEAN:.0e}");
        assert!(max <= MAX && mean <= MEAN, "{case}: max {max}, mean {mean}");
    }
}

#[test]
fn crop_and_normalise_alone_are_exact() {
    // The recorded output of one picture, taken back to levels, must pass through without a resize unchanged.
    let bytes = std::fs::read(format!("{FOLDER}/io.safetensors")).expect("fixture");
    let (_, expected) = recorded(&SafeTensors::deserialize(&bytes).expect("fixture"), "portrait");
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let mut frame = Frame { width: 66, height: 67, rgb: vec![0; 3 * 66 * 67], pts_ms: 0 };
    for ((y, x, channel), &sample) in expected.index_axis(Axis(0), 0).permuted_axes([1, 2, 0]).indexed_iter() {
        let level = (f64::from(sample) * std[channel] + mean[channel]) * 255.0;
        assert!((level - level.round()).abs() < 1e-3, "{level} is a level");
        frame.rgb[((y + 1) * 66 + x + 1) * 3 + channel] = level.round() as u8;
    }
    let json = std::fs::read_to_string(format!("{FOLDER}/preprocessor_config.json")).expect("fixture");
    let json = json.replace(r#""do_resize": true"#, r#""do_resize": false"#);
    let preprocessor = Preprocessor::parse(json.as_bytes()).expect("no resize");
    let clip = preprocessor.clip(&[frame], &Sampling::default()).expect("a picture");
    for (got, expected) in clip.pixels.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-6, "{got} {expected}");
    }
}
