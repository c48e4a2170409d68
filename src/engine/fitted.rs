//! Frames of a stream, made fit for the model one at a time, and the clips that are put together from them.
//!
//! A stream's windows overlap: each frame is decoded and scaled once, kept as the bytes that the model looks at, and
//! becomes samples only within a clip. Both count towards the memory of all decoded media.

use std::sync::Arc;

use super::error::EngineError;
use super::media::{Studio, digest};
use super::memory::Held;
use super::prepare::Wanted;
use super::request::{ClipFacts, MediaFrame};
use super::work::Seen;
use crate::input::{Clip, Picture, Preprocessor};

/// A frame as the model sees it.
#[derive(Debug)]
pub struct Fitted {
    picture: Picture,
    /// Pixels in a row and rows as it came.
    size: [u32; 2],
    pts_ms: u64,
    /// The memory it takes, given back with it.
    _memory: Held,
}

impl Fitted {
    /// Its levels as the model sees them, RGB8, row by row.
    pub fn levels(&self) -> &[u8] {
        &self.picture.rgb
    }

    /// When it is shown, milliseconds.
    pub fn pts_ms(&self) -> u64 {
        self.pts_ms
    }
}

impl Studio {
    /// Decodes one frame, of an animation the first picture, and makes it fit.
    pub fn fitted(
        &self,
        frame: &MediaFrame,
        preprocessor: &Preprocessor,
        wanted: &Wanted,
    ) -> Result<Fitted, EngineError> {
        let mut maker = self.maker(wanted);
        let whole = maker.still(frame, 0).map_err(|error| maker.told("frame", &error))?;
        let picture = preprocessor.picture(&whole).map_err(|error| maker.told("frame", &error))?;
        let (size, pts_ms) = ([whole.width, whole.height], whole.pts_ms);
        drop(whole);
        maker.check(picture.rgb.len() as u64)?;
        Ok(Fitted { picture, size, pts_ms, _memory: maker.held })
    }

    /// The clip of these frames, in their order, one at least.
    pub fn assembled(
        &self,
        frames: &[Arc<Fitted>],
        preprocessor: &Preprocessor,
        tokens_of: impl FnOnce(&Clip) -> usize,
        wanted: &Wanted,
    ) -> Result<Seen, EngineError> {
        let mut maker = self.maker(wanted);
        let samples: u64 = frames.iter().map(|frame| frame.picture.rgb.len() as u64).sum();
        maker.check(samples * size_of::<f32>() as u64)?;
        let pictures: Vec<&Picture> = frames.iter().map(|frame| &frame.picture).collect();
        let clip = preprocessor.assembled(&pictures).map_err(|error| maker.told("frames", &error))?;
        let (first, last) = (frames.first(), frames.last());
        let [width, height] = first.map_or([0; 2], |first| first.size);
        let duration_ms = first.zip(last).map_or(0, |(first, last)| last.pts_ms.saturating_sub(first.pts_ms));
        let facts = ClipFacts { width, height, frames: frames.len() as u64, duration_ms };
        let (digest, tokens) = (digest(&clip), tokens_of(&clip));
        Ok(Seen { clip: Arc::new(clip), digest, tokens, facts, _memory: maker.held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::PixelOrder;
    use crate::settings::MediaSettings;
    use std::time::{Duration, Instant};

    fn frame(level: u8, pts_ms: u64) -> MediaFrame {
        MediaFrame::Raw { width: 100, height: 50, order: PixelOrder::Gray, pixels: vec![level; 5000], pts_ms }
    }

    #[test]
    fn frames_and_their_clips_hold_their_own_memory_and_no_more() {
        let (studio, wanted) = (
            Studio::new(&MediaSettings::default(), Duration::ZERO),
            Wanted::until(Instant::now() + Duration::from_secs(60)),
        );
        let preprocessor = Preprocessor::square(16, 8);
        let fitted = |level, pts_ms| studio.fitted(&frame(level, pts_ms), &preprocessor, &wanted).map(Arc::new);
        let frames = [fitted(7, 100).expect("fit"), fitted(9, 140).expect("fit")];
        assert_eq!((frames[0].levels().len(), frames[0].levels()[0], frames[1].pts_ms()), (768, 7, 140));
        assert_eq!(studio.memory().held_bytes(), 2 * 768);
        let seen = studio.assembled(&frames, &preprocessor, |clip| clip.frames_used, &wanted).expect("a clip");
        assert_eq!((seen.tokens, studio.memory().held_bytes()), (2, 2 * 768 * 5));
        assert_eq!(seen.facts, ClipFacts { width: 100, height: 50, frames: 2, duration_ms: 40 });
        drop((seen, frames));
        assert_eq!(studio.memory().held_bytes(), 0);
        let none = studio.assembled(&[], &preprocessor, |_| 1, &wanted).expect_err("no frame");
        assert_eq!(none.to_string(), "frames: clip leaves no frame of 0");
    }

    #[test]
    fn a_frame_that_cannot_be_used_is_told() {
        let wanted = Wanted::until(Instant::now() + Duration::from_secs(60));
        let told = |set: fn(&mut MediaSettings), frame: MediaFrame| {
            let mut media = MediaSettings::default();
            set(&mut media);
            let studio = Studio::new(&media, Duration::ZERO);
            let error = studio.fitted(&frame, &Preprocessor::square(16, 8), &wanted).expect_err("of no use");
            assert_eq!(studio.memory().held_bytes(), 0);
            error.to_string()
        };
        let torn = MediaFrame::Raw { width: 3, height: 3, order: PixelOrder::Rgb, pixels: vec![0; 5], pts_ms: 0 };
        let bytes = told(|_| {}, torn);
        assert_eq!(bytes, "frame: frame.rgb bytes is 5, must be 3 bytes for each of 3 x 3 pixels, at least one");
        let text = told(|_| {}, MediaFrame::Encoded { bytes: b"text".to_vec(), pts_ms: 0 });
        assert!(text.starts_with("frame: media begins with 74 65 78 74"), "{text}");
        let large = told(|media| media.memory_bytes_max = 10_000, frame(1, 0));
        assert_eq!(large, "media: takes 15000 bytes once decoded, at most 10000 are there");
    }
}
