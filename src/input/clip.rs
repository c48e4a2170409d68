//! Frames become one clip: resized, cropped, normalised, as a model's
//! preprocessor_config.json says.
//!
//! The file is Hugging Face's (`VJEPA2VideoProcessor` and its image cousins), read as written: sizes and means
//! have no defaults here, because the defaults of that class differ from the published files. Our own keys
//! `num_frames` and `max_num_frames` say how many frames a model looks at.

use ndarray::Array4;
use serde::{Deserialize, Serialize};

use super::easel::Easel;
use super::resize::{Filter, resize, taps};
use super::{Footage, InputError, Sampling};

/// One decoded picture of a clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Columns, pixels.
    pub width: u32,
    /// Rows, pixels.
    pub height: u32,
    /// RGB8, row by row: `3 * width * height` bytes.
    pub rgb: Vec<u8>,
    /// When it is shown, milliseconds since the clip's start.
    pub pts_ms: u64,
}

/// What a vision encoder takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Normalised samples, [frames, 3, height, width].
    pub pixels: Array4<f32>,
    /// Frames that were decoded for it.
    pub frames_decoded: usize,
    /// Frames in `pixels`.
    pub frames_used: usize,
}

/// A size as such files spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// The shorter edge; the other one keeps the aspect ratio, rounded down.
    Shortest {
        /// Pixels.
        shortest_edge: u32,
    },
    /// Both edges.
    Edges {
        /// Pixels.
        height: u32,
        /// Pixels.
        width: u32,
    },
    /// Older files: the shorter edge of a resize, both edges of a crop.
    Edge(u32),
}

impl Size {
    /// (width, height) after the resize of a picture.
    fn of(self, width: u32, height: u32) -> (u64, u64) {
        match self {
            Self::Edges { width, height } => (width.into(), height.into()),
            Self::Shortest { shortest_edge: edge } | Self::Edge(edge) => {
                let scale = |side: u32| u64::from(edge) * u64::from(side) / u64::from(width.min(height));
                (scale(width), scale(height))
            }
        }
    }
}

/// What a preprocessor_config.json says, in its own words. Made by [`Preprocessor::parse`] or
/// [`Preprocessor::square`], which check it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocessor {
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<Size>,
    #[serde(default = "bilinear")]
    resample: u8,
    #[serde(default = "yes")]
    do_center_crop: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crop_size: Option<Size>,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "per_level")]
    rescale_factor: f64,
    #[serde(default = "yes")]
    do_normalize: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_mean: Option<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_std: Option<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_frames: Option<usize>,
    #[serde(default = "frames_max")]
    max_num_frames: usize,
}

fn yes() -> bool {
    true
}

fn bilinear() -> u8 {
    2
}

fn per_level() -> f64 {
    1.0 / 255.0
}

fn frames_max() -> usize {
    64 // the longest clips V-JEPA 2 was trained on
}

const FILE: &str = "preprocessor_config.json";
const EDGE_MAX: u32 = 4096;

/// ImageNet's mean and deviation, which V-JEPA 2 was trained with.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

impl Preprocessor {
    /// Reads a preprocessor_config.json. Keys it does not know are ignored.
    pub fn parse(json: &[u8]) -> Result<Self, InputError> {
        let wrong = |reason: String| InputError::File { file: FILE.into(), reason };
        let this: Self = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        this.fault().map_or(Ok(this), |reason| Err(wrong(reason)))
    }

    /// Pictures of `edge` x `edge` after resizing the shorter side to that, ImageNet's mean and deviation,
    /// `num_frames` frames of a clip.
    pub fn square(edge: u32, num_frames: usize) -> Self {
        Self {
            do_resize: true,
            size: Some(Size::Shortest { shortest_edge: edge }),
            resample: bilinear(),
            do_center_crop: true,
            crop_size: Some(Size::Edges { height: edge, width: edge }),
            do_rescale: true,
            rescale_factor: per_level(),
            do_normalize: true,
            image_mean: Some(MEAN),
            image_std: Some(STD),
            num_frames: Some(num_frames),
            max_num_frames: frames_max().max(num_frames),
        }
    }

    /// The file again.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a struct of numbers has a JSON form")
    }

    /// Frames of a clip the model looks at when nobody asks for another number; all of them when absent.
    pub fn num_frames(&self) -> Option<usize> {
        self.num_frames
    }

    /// Most frames that may be asked for.
    pub fn max_num_frames(&self) -> usize {
        self.max_num_frames
    }

    /// (height, width) of every clip; absent when that depends on the picture.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        let size = if self.do_center_crop { self.crop_size } else { self.size.filter(|_| self.do_resize) };
        match size? {
            Size::Edges { height, width } => Some((height as usize, width as usize)),
            Size::Edge(edge) if self.do_center_crop => Some((edge as usize, edge as usize)),
            Size::Edge(_) | Size::Shortest { .. } => None,
        }
    }

    /// The first thing that cannot be, with field, value and bound.
    fn fault(&self) -> Option<String> {
        let edges = |size: Option<Size>, field: &str, wanted: bool| match size {
            None if wanted => Some(format!("{field} is missing")),
            Some(Size::Shortest { .. }) if wanted && field == "crop_size" => {
                Some("crop_size has shortest_edge, must have height and width".into())
            }
            Some(Size::Shortest { shortest_edge: a } | Size::Edge(a)) if !(1..=EDGE_MAX).contains(&a) => {
                Some(format!("{field} is {a}, must be from 1 to {EDGE_MAX} pixels"))
            }
            Some(Size::Edges { height, width }) if height.min(width) < 1 || height.max(width) > EDGE_MAX => {
                Some(format!("{field} is {height} x {width}, must be from 1 to {EDGE_MAX} pixels"))
            }
            _ => None,
        };
        let numbers = || {
            if self.do_normalize && (self.image_mean.is_none() || self.image_std.is_none()) {
                return Some("image_mean or image_std is missing".into());
            }
            let positive = |value: f64| value > 0.0 && value.is_finite();
            match (self.image_std.unwrap_or(STD), self.image_mean.unwrap_or(MEAN)) {
                (std, _) if !std.into_iter().all(positive) => Some(format!("image_std is {std:?}, must be positive")),
                (_, mean) if !mean.into_iter().all(f64::is_finite) => Some(format!("image_mean is {mean:?}")),
                _ if !positive(self.rescale_factor) => {
                    Some(format!("rescale_factor is {}, must be positive", self.rescale_factor))
                }
                _ if !matches!(self.resample, 2 | 3) => {
                    Some(format!("resample is {}, must be 2 (bilinear) or 3 (bicubic)", self.resample))
                }
                _ if !(1..=1 << 16).contains(&self.max_num_frames) => {
                    Some(format!("max_num_frames is {}, must be from 1 to 65536", self.max_num_frames))
                }
                _ => self
                    .num_frames
                    .filter(|n| !(1..=self.max_num_frames).contains(n))
                    .map(|n| format!("num_frames is {n}, must be from 1 to max_num_frames, {}", self.max_num_frames)),
            }
        };
        edges(self.size, "size", self.do_resize)
            .or_else(|| edges(self.crop_size, "crop_size", self.do_center_crop))
            .or_else(numbers)
    }

    /// Frames -> what the vision encoder takes. A picture smaller than the crop is padded with black, as in the
    /// published processors. Fails when a frame's size and bytes disagree, when no frame is left, or when frames
    /// of one clip come out in different sizes.
    pub fn clip(&self, frames: &[Frame], sampling: &Sampling) -> Result<Clip, InputError> {
        self.clip_of(&Footage::of(frames), sampling, &mut |_| true)
    }

    /// The clip of footage, of which only the frames that are looked at are decoded. `go_on` is told the bytes held, and
    /// [`InputError::GivenUp`] is the answer when it says no.
    pub fn clip_of(
        &self,
        footage: &Footage,
        sampling: &Sampling,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Clip, InputError> {
        let mut clip = None;
        let decoded = self.clips_of(footage, std::slice::from_ref(sampling), go_on, &mut |_, made| {
            clip = Some(made);
            Ok(())
        })?;
        let clip = clip.ok_or(InputError::NoFrames { field: "media", frames: decoded })?;
        Ok(Clip { frames_decoded: decoded, ..clip })
    }

    /// A clip for each sampling, in that order, each as soon as the last of its frames is decoded: footage is gone
    /// through once, and what is looked at twice is decoded once. Returns how many frames were decoded.
    pub fn clips_of(
        &self,
        footage: &Footage,
        samplings: &[Sampling],
        go_on: &mut dyn FnMut(u64) -> bool,
        each: &mut dyn FnMut(usize, Clip) -> Result<(), InputError>,
    ) -> Result<usize, InputError> {
        let indices = |sampling: &Sampling| sampling.indices(footage.times(), self.num_frames, self.max_num_frames);
        let plans = samplings.iter().map(indices).collect::<Result<Vec<_>, _>>()?;
        let mut easel = Easel::new(self, plans);
        let held_bytes = easel.held_bytes.clone();
        let mut go_on = |bytes: u64| go_on(bytes.saturating_add(held_bytes.get()));
        footage.decode(&easel.wanted(), &mut go_on, &mut |at, frame| {
            easel.lay(at, frame)?;
            while let Some((window, clip)) = easel.finished() {
                each(window, clip)?;
            }
            Ok(())
        })
    }

    /// (width, height) of a frame after the resize; fails when the frame is not what it says.
    fn resized(&self, frame: &Frame) -> Result<(u64, u64), InputError> {
        let Frame { width, height, rgb, .. } = frame;
        let bytes = 3 * u64::from(*width) * u64::from(*height);
        if bytes == 0 || bytes != rgb.len() as u64 {
            let bound = format!("3 bytes for each of {width} x {height} pixels, at least one");
            return Err(InputError::Field { field: "frame.rgb bytes", value: rgb.len().to_string(), bound });
        }
        let size = self.size.filter(|_| self.do_resize);
        Ok(size.map_or((u64::from(*width), u64::from(*height)), |size| size.of(*width, *height)))
    }

    /// (height, width) that a frame leads to.
    pub(super) fn target(&self, frame: &Frame) -> Result<(usize, usize), InputError> {
        let (width, height) = self.resized(frame)?;
        if let Some(size) = self.output_size() {
            return Ok(size);
        }
        let max = u64::from(EDGE_MAX);
        if width > max || height > max {
            let value = format!("{width} x {height} pixels");
            return Err(InputError::TooLarge { field: "edge of the resized frame", value, max });
        }
        Ok((height as usize, width as usize))
    }

    /// One frame resized and cropped: RGB8 [height, width, 3].
    pub(super) fn fit(&self, frame: &Frame, target: (usize, usize)) -> Result<Vec<u8>, InputError> {
        let (width, height) = self.resized(frame)?;
        if !self.do_center_crop && (height, width) != (target.0 as u64, target.1 as u64) {
            let bound = format!("{} x {} as the clip's first frame", target.1, target.0);
            return Err(InputError::Field { field: "frame size", value: format!("{width} x {height}"), bound });
        }
        let filter = if self.resample == 3 { Filter::Bicubic } else { Filter::Bilinear };
        let axis = |source: u32, resized: u64, target: usize| {
            taps(filter, source as usize, resized, margin(resized, target), target)
        };
        let columns = axis(frame.width, width, target.1);
        let rows = axis(frame.height, height, target.0);
        Ok(resize(&frame.rgb, frame.width as usize, &columns, &rows))
    }

    /// For each channel, what every level of a sample becomes.
    pub(super) fn levels(&self) -> [[f32; 256]; 3] {
        let factor = if self.do_rescale { self.rescale_factor } else { 1.0 };
        let (mean, std) = match (self.do_normalize, self.image_mean, self.image_std) {
            (true, Some(mean), Some(std)) => (mean, std),
            _ => ([0.0; 3], [1.0; 3]),
        };
        std::array::from_fn(|c| std::array::from_fn(|level| ((level as f64 * factor - mean[c]) / std[c]) as f32))
    }
}

/// Where a centred crop begins; negative where padding does (the odd pixel is padded behind).
fn margin(resized: u64, target: usize) -> i64 {
    let spare = resized as i64 - target as i64;
    if spare < 0 { -(-spare / 2) } else { spare / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crop_is_centred_as_published() {
        assert_eq!([margin(73, 64), margin(102, 64), margin(64, 64)], [4, 19, 0]);
        assert_eq!([margin(3, 8), margin(4, 8)], [-2, -2]);
    }

    #[test]
    fn a_file_that_cannot_be_is_told() {
        let good = Preprocessor::square(64, 8);
        assert_eq!(Preprocessor::parse(good.to_json().as_bytes()), Ok(good.clone()));
        let edits: [(&str, serde_json::Value, &str); 8] = [
            ("size", serde_json::json!(null), "size is missing"),
            ("size", serde_json::json!({"shortest_edge": 0}), "size is 0, must be from 1 to 4096"),
            ("crop_size", serde_json::json!({"shortest_edge": 64}), "crop_size has shortest_edge"),
            ("crop_size", serde_json::json!({"height": 9999, "width": 4}), "crop_size is 9999 x 4"),
            ("image_std", serde_json::json!([1, 0, 1]), "image_std is [1.0, 0.0, 1.0], must be positive"),
            ("image_mean", serde_json::json!(null), "image_mean or image_std is missing"),
            ("resample", serde_json::json!(0), "resample is 0, must be 2 (bilinear) or 3 (bicubic)"),
            ("num_frames", serde_json::json!(65), "num_frames is 65, must be from 1 to max_num_frames, 64"),
        ];
        for (key, value, expected) in edits {
            let mut file: serde_json::Value = serde_json::from_str(&good.to_json()).expect("as written");
            file[key] = value;
            let error = Preprocessor::parse(file.to_string().as_bytes()).expect_err(key).to_string();
            assert!(error.starts_with("preprocessor_config.json: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn any_shape_of_picture_gives_the_models_size() {
        let preprocessor = Preprocessor::square(16, 8);
        for (width, height) in [(1, 1), (1, 7), (60_000, 1), (1, 60_000), (3, 2000), (17, 16)] {
            let frame = Frame { width, height, rgb: vec![255; 3 * (width * height) as usize], pts_ms: 0 };
            let clip = preprocessor.clip(&[frame], &Sampling::default()).expect("every size fits");
            assert_eq!(clip.pixels.dim(), (1, 3, 16, 16));
            let white = ((1.0 - MEAN[1]) / STD[1]) as f32;
            assert!(clip.pixels.slice(ndarray::s![0, 1, .., ..]).iter().all(|&sample| sample == white));
        }
        let lying = Frame { width: 2, height: 2, rgb: vec![0; 11], pts_ms: 0 };
        let error = preprocessor.clip(&[lying], &Sampling::default()).expect_err("11 of 12 bytes");
        let told = "frame.rgb bytes is 11, must be 3 bytes for each of 2 x 2 pixels, at least one";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn without_a_crop_all_frames_must_agree() {
        let json = r#"{"do_resize": false, "do_center_crop": false, "do_normalize": false, "do_rescale": false}"#;
        let preprocessor = Preprocessor::parse(json.as_bytes()).expect("nothing is wanted");
        let frame = |width: u32, pts_ms| Frame { width, height: 1, rgb: vec![7; 3 * width as usize], pts_ms };
        let clip = preprocessor.clip(&[frame(5, 0), frame(5, 9)], &Sampling::default()).expect("one size");
        assert_eq!(clip.pixels.dim(), (2, 3, 1, 5));
        assert!(clip.pixels.iter().all(|&sample| sample == 7.0));
        assert!(preprocessor.clip(&[frame(5, 0), frame(6, 9)], &Sampling::default()).is_err());
        assert!(preprocessor.clip(&[frame(5000, 0)], &Sampling::default()).is_err(), "edge bound");
    }
}
