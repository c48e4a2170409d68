//! Frames made fit one at a time, and clips put together from them: for streams, where a frame comes before it is known
//! which clips look at it. The numbers are those that a clip made in one go has.

use ndarray::Array4;

use super::easel::paint;
use super::{Clip, Frame, InputError, Preprocessor};

/// A frame resized and cropped to what a model looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Rows.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// RGB8, row by row: `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Preprocessor {
    /// One frame as the model sees it. Fails when the frame's size and bytes disagree, or when it comes out too large.
    pub fn picture(&self, frame: &Frame) -> Result<Picture, InputError> {
        let (height, width) = self.target(frame)?;
        Ok(Picture { height, width, rgb: self.fit(frame, (height, width))? })
    }

    /// The clip of these pictures, in their order. Fails where there is none, or where they differ in size.
    pub fn assembled(&self, pictures: &[&Picture]) -> Result<Clip, InputError> {
        let first = pictures.first().ok_or(InputError::NoFrames { field: "clip", frames: 0 })?;
        let (height, width) = (first.height, first.width);
        if let Some(other) = pictures.iter().find(|other| (other.height, other.width) != (height, width)) {
            let bound = format!("{width} x {height} as the clip's first frame");
            let value = format!("{} x {}", other.width, other.height);
            return Err(InputError::Field { field: "frame size", value, bound });
        }
        let (levels, size) = (self.levels(), 3 * height * width);
        let mut samples = vec![0.0; pictures.len() * size];
        for (picture, samples) in pictures.iter().zip(samples.chunks_exact_mut(size.max(1))) {
            paint(&picture.rgb, &levels, samples);
        }
        let frames = pictures.len();
        let pixels = Array4::from_shape_vec((frames, 3, height, width), samples).expect("made as large as its frames");
        Ok(Clip { pixels, frames_decoded: frames, frames_used: frames })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Sampling;

    fn frame(seed: u32, width: u32, height: u32) -> Frame {
        let rgb = (0..3 * width * height).map(|at| (at.wrapping_mul(2_654_435_761) ^ (seed * 97)) as u8).collect();
        Frame { width, height, rgb, pts_ms: u64::from(seed) * 40 }
    }

    #[test]
    fn a_clip_of_pictures_has_the_numbers_of_a_clip_of_frames() {
        let square = Preprocessor::square(16, 4);
        let bare =
            br#"{"do_resize": false, "do_center_crop": false, "image_mean": [0.5, 0, 1], "image_std": [1, 2, 3]}"#;
        let bare = Preprocessor::parse(bare).expect("a preprocessor");
        for preprocessor in [square, bare] {
            let frames: Vec<Frame> = (0..4).map(|seed| frame(seed, 23, 17)).collect();
            let whole = preprocessor.clip(&frames, &Sampling::default()).expect("a clip");
            let pictures: Vec<Picture> =
                frames.iter().map(|frame| preprocessor.picture(frame).expect("a picture")).collect();
            let assembled = preprocessor.assembled(&pictures.iter().collect::<Vec<_>>()).expect("a clip");
            assert_eq!(assembled, whole);
            assert!(whole.pixels.iter().any(|&sample| sample != whole.pixels[[0, 0, 0, 0]]));
        }
    }

    #[test]
    fn pictures_that_make_no_clip_are_told() {
        let bare = br#"{"do_resize": false, "do_center_crop": false, "do_normalize": false}"#;
        let preprocessor = Preprocessor::parse(bare).expect("a preprocessor");
        assert!(matches!(preprocessor.assembled(&[]), Err(InputError::NoFrames { .. })));
        let [one, other] = [frame(1, 4, 4), frame(2, 4, 5)].map(|frame| preprocessor.picture(&frame).expect("fit"));
        let error = preprocessor.assembled(&[&one, &other]).expect_err("two sizes").to_string();
        assert_eq!(error, "frame size is 4 x 5, must be 4 x 4 as the clip's first frame");
        let torn = Frame { rgb: vec![0; 5], ..frame(1, 4, 4) };
        assert!(preprocessor.picture(&torn).is_err() && preprocessor.picture(&frame(1, 9999, 1)).is_err());
    }
}
