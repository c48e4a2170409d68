//! From bytes to a clip: decoding, sampling, scaling, under bounds of memory and time.
//!
//! Between two frames a maker asks whether somebody still waits, whether it has taken too long, and whether the
//! memory of all requests together allows the next one.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::EngineError;
use super::memory::{Held, Memory};
use super::prepare::Wanted;
use super::request::{ClipFacts, Media, MediaFrame, PixelOrder, Question};
use super::seen;
use super::work::Seen;
use crate::input::{Clip, Facts, Footage, Frame, InputError, MediaLimits, Preprocessor, Sampling, Windows};
use crate::settings::MediaSettings;

/// Where clips are made.
#[derive(Debug)]
pub struct Studio {
    limits: MediaLimits,
    time_max: Duration,
    memory: Memory,
    retry_after: Duration,
}

/// A segment of a longer clip.
#[derive(Debug)]
pub struct Shot {
    /// From when to when it goes, milliseconds.
    pub range_ms: [u64; 2],
    /// What the model gets of it.
    pub clip: Clip,
    /// Of the whole.
    facts: ClipFacts,
    memory: Held,
}

/// A segment as the model gets it.
pub fn seen_of(shot: Shot, tokens: usize) -> Seen {
    let Shot { clip, facts, memory, .. } = shot;
    Seen { digest: digest(&clip), clip: Arc::new(clip), tokens, facts, _memory: memory }
}

/// The making of one clip.
pub(super) struct Maker<'a> {
    studio: &'a Studio,
    wanted: &'a Wanted,
    started: Instant,
    /// The memory it holds.
    pub(super) held: Held,
    /// Why it was given up, if it was.
    refusal: Option<EngineError>,
}

impl Studio {
    /// With the bounds of `media`; who finds no memory is told to come again after `retry_after`.
    pub fn new(media: &MediaSettings, retry_after: Duration) -> Self {
        let limits = MediaLimits {
            bytes_max: media.bytes_max,
            pixels_max: media.pixels_max,
            frames_max: media.frames_max,
            decode_bytes_max: media.decode_bytes_max,
        };
        let time_max = Duration::from_millis(media.decode_ms_max);
        Self { limits, time_max, memory: Memory::new(media.memory_bytes_max), retry_after }
    }

    /// Of everything decoded.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Who makes one clip, or one frame, as long as it is `wanted`.
    pub(super) fn maker<'a>(&'a self, wanted: &'a Wanted) -> Maker<'a> {
        Maker { studio: self, wanted, started: Instant::now(), held: self.memory.hold(), refusal: None }
    }

    /// Decodes what a question is about and makes it a clip, of which `tokens_of` says how many tokens it becomes.
    pub fn seen(
        &self,
        question: &Question,
        preprocessor: &Preprocessor,
        tokens_of: impl FnOnce(&Clip) -> usize,
        wanted: &Wanted,
    ) -> Result<Seen, EngineError> {
        let mut maker = self.maker(wanted);
        let (clip, facts) = maker.opened(&question.media, |maker, footage, beside| {
            let clip = preprocessor.clip_of(footage, &question.sampling, &mut |bytes| maker.goes_on(beside + bytes));
            Ok((clip.map_err(|error| maker.told("media", &error))?, facts(footage)))
        })?;
        maker.check(size_of_val(clip.pixels.as_slice().unwrap_or_default()) as u64)?;
        let (digest, tokens) = (digest(&clip), tokens_of(&clip));
        Ok(Seen { clip: Arc::new(clip), digest, tokens, facts, _memory: maker.held })
    }

    /// Makes a clip of every segment of what a question is about, in order, and gives each away before it makes the next.
    pub fn shots(
        &self,
        question: &Question,
        windows: Windows,
        preprocessor: &Preprocessor,
        wanted: &Wanted,
        each: &mut dyn FnMut(Shot) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut maker = self.maker(wanted);
        maker.opened(&question.media, |maker, footage, beside| {
            let windows = windows.of(footage.times()).map_err(|error| maker.told("segments", &error))?;
            let facts = facts(footage);
            let samplings: Vec<Sampling> = windows.iter().map(|&range| question.sampling.within(range)).collect();
            let maker = RefCell::new(maker);
            let mut go_on = |bytes| maker.borrow_mut().goes_on(beside + bytes);
            let mut made = |at: usize, clip: Clip| {
                let mut maker = maker.borrow_mut();
                let memory = maker.part(size_of_val(clip.pixels.as_slice().unwrap_or_default()) as u64);
                let given = memory.and_then(|memory| each(Shot { range_ms: windows[at], clip, facts, memory }));
                // The time that a clip has is this one's no more.
                maker.started = Instant::now();
                maker.refusal = given.err();
                if maker.refusal.is_none() { Ok(()) } else { Err(InputError::GivenUp) }
            };
            let done = preprocessor.clips_of(footage, &samplings, &mut go_on, &mut made);
            done.map(|_| ()).map_err(|error| maker.borrow_mut().told("media", &error))
        })
    }
}

impl Maker<'_> {
    /// So much of what is held, as a part of its own.
    fn part(&mut self, bytes: u64) -> Result<Held, EngineError> {
        self.held.resize(self.held.bytes().saturating_sub(bytes));
        let mut part = self.studio.memory.hold();
        if part.resize(bytes) { Ok(part) } else { Err(self.no_memory()) }
    }

    fn no_memory(&self) -> EngineError {
        seen::refused("memory");
        EngineError::Overloaded { what: "the memory for decoded media", retry_after: self.studio.retry_after }
    }

    /// Opens media for `work`, which is also told the bytes that are held beside the footage.
    fn opened<Made>(
        &mut self,
        media: &Media,
        work: impl FnOnce(&mut Self, &Footage, u64) -> Result<Made, EngineError>,
    ) -> Result<Made, EngineError> {
        let limits = self.studio.limits;
        match media {
            Media::File(bytes) => {
                let footage = Footage::open(bytes, &limits, &mut |bytes| self.goes_on(bytes));
                let footage = footage.map_err(|error| self.told("media", &error))?;
                work(self, &footage, 0)
            }
            Media::Stored(stored) => {
                let beside = stored.bytes();
                self.check(beside)?;
                let file = stored.read()?;
                // An upload has a bound of its own, which it has kept.
                let limits = MediaLimits { bytes_max: file.len(), ..limits };
                let footage = Footage::open(&file, &limits, &mut |bytes| self.goes_on(beside + bytes));
                let footage = footage.map_err(|error| self.told("media", &error))?;
                work(self, &footage, beside)
            }
            Media::Frames(given) => {
                let (mut frames, mut decoded_bytes) = (Vec::with_capacity(given.len()), 0);
                for (at, frame) in given.iter().enumerate() {
                    let field = format!("media.frames[{at}]");
                    let frame = self.still(frame, decoded_bytes).map_err(|error| self.told(&field, &error))?;
                    decoded_bytes += frame.rgb.len() as u64;
                    if decoded_bytes > limits.decode_bytes_max {
                        let problem = format!("clip takes more than {} bytes once decoded", limits.decode_bytes_max);
                        return Err(EngineError::Invalid { field, problem });
                    }
                    frames.push(frame);
                }
                self.check(decoded_bytes)?;
                work(self, &Footage::of(&frames), 0)
            }
        }
    }

    /// One frame, beside others that take `decoded_bytes`; of an animation the first picture.
    pub(super) fn still(&mut self, frame: &MediaFrame, decoded_bytes: u64) -> Result<Frame, InputError> {
        match frame {
            MediaFrame::Raw { width, height, order, pixels, pts_ms } => {
                let bytes = pixels.len() as u64 * 3 / order.channels();
                if !self.goes_on(decoded_bytes + bytes) {
                    return Err(InputError::GivenUp);
                }
                let rgb = match order {
                    PixelOrder::Rgb => pixels.clone(),
                    PixelOrder::Bgr => {
                        pixels.as_chunks().0.iter().flat_map(|&[blue, green, red]| [red, green, blue]).collect()
                    }
                    PixelOrder::Gray => pixels.iter().flat_map(|&luminance| [luminance; 3]).collect(),
                };
                Ok(Frame { width: *width, height: *height, rgb, pts_ms: *pts_ms })
            }
            MediaFrame::Encoded { bytes, pts_ms } => {
                let limits = self.studio.limits;
                let mut go_on = |bytes| self.goes_on(decoded_bytes + bytes);
                let footage = Footage::open(bytes, &limits, &mut go_on)?;
                let mut first = None;
                footage.decode(&[0], &mut go_on, &mut |_, frame| {
                    first = Some(Frame { pts_ms: *pts_ms, ..frame.clone() });
                    Ok(())
                })?;
                first.ok_or(InputError::NoFrames { field: "frame", frames: 0 })
            }
        }
    }

    fn goes_on(&mut self, bytes: u64) -> bool {
        self.refusal = self.check(bytes).err();
        self.refusal.is_none()
    }

    /// Whether it may go on and hold `bytes`.
    pub(super) fn check(&mut self, bytes: u64) -> Result<(), EngineError> {
        let Studio { time_max, memory, .. } = self.studio;
        let invalid = |problem| EngineError::Invalid { field: "media".into(), problem };
        self.wanted.check()?;
        if self.started.elapsed() > *time_max {
            return Err(invalid(format!("takes longer than {} ms to decode", time_max.as_millis())));
        }
        match self.held.resize(bytes) {
            true => Ok(()),
            false if bytes > memory.bytes_max() => {
                Err(invalid(format!("takes {bytes} bytes once decoded, at most {} are there", memory.bytes_max())))
            }
            false => Err(self.no_memory()),
        }
    }

    /// The error of a field that came from outside, or why it was given up.
    pub(super) fn told(&mut self, field: &str, error: &InputError) -> EngineError {
        let invalid = || EngineError::Invalid { field: field.into(), problem: error.to_string() };
        self.refusal.take().filter(|_| *error == InputError::GivenUp).unwrap_or_else(invalid)
    }
}

fn facts(footage: &Footage) -> ClipFacts {
    let Facts { width, height, frames, duration_ms } = footage.facts();
    ClipFacts { width, height, frames: frames as u64, duration_ms }
}

/// A fingerprint of the pixels. Whoever finds two equal still compares the clips: this only makes the comparison rare.
pub(super) fn digest(clip: &Clip) -> u64 {
    let mut hasher = DefaultHasher::new();
    clip.pixels.shape().hash(&mut hasher);
    let mut bytes = [0; 4096];
    for samples in clip.pixels.as_slice().unwrap_or_default().chunks(bytes.len() / 4) {
        let (places, _) = bytes.as_chunks_mut();
        for (place, sample) in places.iter_mut().zip(samples) {
            *place = sample.to_le_bytes();
        }
        hasher.write(&bytes[..4 * samples.len()]);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(patience: Duration) -> Wanted {
        Wanted::until(Instant::now() + patience)
    }

    /// Eight frames of 100 x 100 pixels.
    fn question() -> Question {
        let frame = |at: u64| {
            let pixels = vec![at as u8; 30_000];
            MediaFrame::Raw { width: 100, height: 100, order: PixelOrder::Rgb, pixels, pts_ms: 40 * at }
        };
        let media = Media::Frames((0..8).map(frame).collect());
        Question { media, sampling: Sampling::default(), text: "what?".into() }
    }

    fn made(set: impl FnOnce(&mut MediaSettings), wanted: &Wanted) -> (Studio, Result<Seen, EngineError>) {
        let mut media = MediaSettings::default();
        set(&mut media);
        let studio = Studio::new(&media, Duration::from_millis(7));
        let seen = studio.seen(&question(), &Preprocessor::square(16, 8), |clip| clip.frames_used, wanted);
        (studio, seen)
    }

    #[test]
    fn a_clip_holds_its_own_memory_and_no_more_until_it_is_forgotten() {
        let wanted = wanted(Duration::from_secs(60));
        let (studio, seen) = made(|_| {}, &wanted);
        let seen = seen.expect("a clip");
        assert_eq!((seen.tokens, studio.memory().held_bytes()), (8, 8 * 3 * 16 * 16 * 4));
        assert_eq!(seen.facts, ClipFacts { width: 100, height: 100, frames: 8, duration_ms: 280 });
        drop(seen);
        assert_eq!(studio.memory().held_bytes(), 0);
    }

    #[test]
    fn memory_of_all_and_memory_of_one_are_different_errors() {
        let wanted = wanted(Duration::from_secs(60));
        let (studio, seen) = made(|media| media.memory_bytes_max = 200_000, &wanted);
        let error = seen.expect_err("240,000 bytes").to_string();
        assert_eq!(error, "media: takes 210000 bytes once decoded, at most 200000 are there");
        assert_eq!(studio.memory().held_bytes(), 0);

        let studio = Studio::new(&MediaSettings { memory_bytes_max: 300_000, ..Default::default() }, Duration::ZERO);
        let mut others = studio.memory().hold();
        assert!(others.resize(100_000));
        let seen = studio.seen(&question(), &Preprocessor::square(16, 8), |_| 1, &wanted);
        assert!(matches!(seen, Err(EngineError::Overloaded { .. })), "{seen:?}");
        assert_eq!(studio.memory().held_bytes(), 100_000);
    }

    #[test]
    fn who_left_or_came_too_late_is_not_worked_for() {
        let late = wanted(Duration::ZERO);
        assert!(matches!(made(|_| {}, &late).1, Err(EngineError::DeadlineExceeded)));
        let left = wanted(Duration::from_secs(60));
        drop(left.leaving());
        assert!(matches!(made(|_| {}, &left).1, Err(EngineError::DeadlineExceeded)));
    }

    #[test]
    fn decoding_that_takes_too_long_is_the_medias_fault() {
        let wanted = wanted(Duration::from_secs(60));
        let studio = Studio { time_max: Duration::ZERO, ..Studio::new(&MediaSettings::default(), Duration::ZERO) };
        let seen = studio.seen(&question(), &Preprocessor::square(16, 8), |_| 1, &wanted);
        assert_eq!(seen.expect_err("no time").to_string(), "media: takes longer than 0 ms to decode");
    }

    #[test]
    fn equal_pixels_have_equal_digests_and_others_not() {
        let clip = |frames: usize, value: f32| {
            let mut pixels = ndarray::Array4::from_elem((frames, 3, 20, 20), 1.0);
            pixels[[frames - 1, 2, 19, 19]] = value;
            digest(&Clip { pixels, frames_decoded: frames, frames_used: frames })
        };
        assert_eq!(clip(2, 1.0), clip(2, 1.0));
        assert_ne!(clip(2, 1.0), clip(2, 1.5));
        assert_ne!(clip(2, 1.0), clip(1, 1.0));
    }
}
