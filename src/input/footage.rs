//! The door for media: bytes of any kind become footage, whose frames' times are known and whose frames are given to
//! whoever wants them.
//!
//! Pictures and animations are decoded when they are opened, because their formats tell neither times nor number
//! before; a video is decoded when frames are asked for, and only those.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::video::{Video, is_mp4};
use super::{Frame, InputError, image};

/// What media may cost. All of it is checked by [`Footage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaLimits {
    /// Encoded size, bytes.
    pub bytes_max: usize,
    /// Pixels of one frame.
    pub pixels_max: u64,
    /// Frames that are in memory at once: all of an animation; of a video as many as whoever decodes it keeps.
    pub frames_max: usize,
    /// All frames in memory (3 bytes a pixel), and the decoder's own memory, bytes each.
    pub decode_bytes_max: u64,
}

/// What is told of media without looking at a pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Pixels in a row of the first frame, upright.
    pub width: u32,
    /// Rows of the first frame.
    pub height: u32,
    /// Frames that are shown.
    pub frames: usize,
    /// When the last one is shown, milliseconds.
    pub duration_ms: u64,
}

/// Media that has been opened.
#[derive(Debug)]
pub struct Footage<'a> {
    times: Vec<u64>,
    source: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    Frames(Cow<'a, [Frame]>),
    Video(Box<Video<'a>>),
}

impl<'a> Footage<'a> {
    /// Tells the format by the bytes: JPEG, PNG, WebP, GIF, BMP, or MP4 with H.264. A still picture is one frame at
    /// 0 ms; animated GIF, WebP and PNG give every frame, composed, at the sum of the delays before it. Before each
    /// frame that is decoded `go_on` is told the bytes that are held with it, and [`InputError::GivenUp`] is the answer
    /// when it says no. Fails, and never panics, on everything else.
    pub fn open(bytes: &'a [u8], limits: &MediaLimits, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Self, InputError> {
        let max = limits.bytes_max as u64;
        if bytes.len() as u64 > max {
            return Err(InputError::TooLarge { field: "media bytes", value: bytes.len().to_string(), max });
        }
        if is_mp4(bytes) {
            let video = guarded("MP4", || Video::open(bytes, limits))?;
            return Ok(Self { times: video.times().collect(), source: Source::Video(Box::new(video)) });
        }
        Ok(Self::kept(Cow::Owned(image::decode_while(bytes, limits, go_on)?)))
    }

    /// Of frames that are there already.
    pub fn of(frames: &'a [Frame]) -> Self {
        Self::kept(Cow::Borrowed(frames))
    }

    fn kept(frames: Cow<'a, [Frame]>) -> Self {
        Self { times: frames.iter().map(|frame| frame.pts_ms).collect(), source: Source::Frames(frames) }
    }

    /// When each frame is shown, milliseconds, ascending unless given frames were not.
    pub fn times(&self) -> &[u64] {
        &self.times
    }

    /// What can be told of it.
    pub fn facts(&self) -> Facts {
        let (width, height) = match &self.source {
            Source::Frames(frames) => frames.first().map_or((0, 0), |first| (first.width, first.height)),
            Source::Video(video) => (video.size().0 as u32, video.size().1 as u32),
        };
        let duration_ms = self.times.last().copied().unwrap_or(0);
        Facts { width, height, frames: self.times.len(), duration_ms }
    }

    /// What it holds between two frames, bytes.
    pub fn held_bytes(&self) -> u64 {
        match &self.source {
            Source::Frames(frames) => frames.iter().map(|frame| frame.rgb.len() as u64).sum(),
            Source::Video(video) => video.held_bytes(),
        }
    }

    /// Gives the frames whose numbers are in `wanted`, ascending, to `each`, as they are decoded: not always in the
    /// order of their times. Before each `go_on` is told the bytes held. Returns how many frames were decoded for it.
    pub fn decode(
        &self,
        wanted: &[usize],
        go_on: &mut dyn FnMut(u64) -> bool,
        each: &mut dyn FnMut(usize, &Frame) -> Result<(), InputError>,
    ) -> Result<usize, InputError> {
        match &self.source {
            Source::Video(video) => guarded("MP4", || video.decode(wanted, go_on, each)),
            Source::Frames(frames) => {
                let bytes = self.held_bytes();
                for &at in wanted {
                    if !go_on(bytes) {
                        return Err(InputError::GivenUp);
                    }
                    each(at, &frames[at])?;
                }
                Ok(frames.len())
            }
        }
    }

    /// All frames, in the order of their times. More than the limits allow at once are refused before one is decoded.
    pub fn into_frames(
        self,
        limits: &MediaLimits,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Frame>, InputError> {
        let Facts { width, height, frames, .. } = self.facts();
        if let Source::Frames(frames) = self.source {
            return Ok(frames.into_owned());
        }
        let max = limits.frames_max as u64;
        if frames as u64 > max {
            return Err(InputError::TooLarge { field: "frames of the media", value: frames.to_string(), max });
        }
        let (bytes, max) = (3 * u64::from(width) * u64::from(height), limits.decode_bytes_max);
        let all = bytes.saturating_mul(frames as u64);
        if all > max {
            return Err(InputError::TooLarge { field: "decoded media bytes", value: all.to_string(), max });
        }
        let mut places: Vec<Option<Frame>> = vec![None; frames];
        let kept = std::cell::Cell::new(0);
        let wanted: Vec<usize> = (0..frames).collect();
        self.decode(&wanted, &mut |held| go_on(held + kept.get()), &mut |at, frame| {
            kept.set(kept.get() + bytes);
            places[at] = Some(frame.clone());
            Ok(())
        })?;
        Ok(places.into_iter().flatten().collect())
    }
}

/// All frames of media, as [`Footage`] gives them.
pub fn decode_media(bytes: &[u8], limits: &MediaLimits) -> Result<Vec<Frame>, InputError> {
    decode_media_while(bytes, limits, &mut |_| true)
}

/// The same for who may lose patience.
pub fn decode_media_while(
    bytes: &[u8],
    limits: &MediaLimits,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<Frame>, InputError> {
    Footage::open(bytes, limits, go_on)?.into_frames(limits, go_on)
}

/// The decoders are other people's code, fed by strangers: their panic is an error of the file.
pub(super) fn guarded<Answer>(
    format: &'static str,
    work: impl FnOnce() -> Result<Answer, InputError>,
) -> Result<Answer, InputError> {
    let broken = || InputError::Undecodable { format, reason: "its decoder panicked".into() };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken()))
}
