//! MP4 files (and their kin MOV and M4V) of H.264 become frames.
//!
//! `boxes`, `samples` and `track` read the container, `sps` and `h264` the stream, `colour` makes pixels of it. The
//! times of all frames are known before one is decoded, so whoever wants some of them pays for those and for what they
//! are predicted from: decoding begins at the last frame before them that needs no other, pictures that no other needs
//! are stepped over, and one frame at a time is in memory.

mod boxes;
mod colour;
mod h264;
mod samples;
mod sps;
mod track;

use std::collections::BTreeMap;

use self::boxes::broken;
use self::colour::{Conversion, Window};
use self::h264::Stream;
use self::samples::Sample;
use self::sps::Sps;
use self::track::{Shown, Track};
use super::{Frame, InputError, MediaLimits};

/// A video whose frames are not decoded yet.
#[derive(Debug)]
pub struct Video<'a> {
    bytes: &'a [u8],
    track: Track<'a>,
    shown: Vec<Shown>,
    sps: Sps,
    /// The first sample that needs no other.
    first: usize,
    conversion: Conversion,
}

/// Whether a file says that it is one.
pub fn is_mp4(bytes: &[u8]) -> bool {
    let first = bytes.get(4..8).unwrap_or_default();
    [b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"free", b"skip", b"styp"].iter().any(|name| first == *name)
}

impl<'a> Video<'a> {
    /// Reads the container, and of the stream what tells its size; nothing is decoded.
    pub fn open(bytes: &'a [u8], limits: &MediaLimits) -> Result<Self, InputError> {
        // A frame has a length, a header and some content; by this the table stays in proportion to its file.
        const FRAME_BYTES_MIN: u64 = 4;
        let fits = limits.decode_bytes_max / (size_of::<Sample>() + size_of::<Shown>()) as u64;
        let track = Track::read(bytes, fits.min(bytes.len() as u64 / FRAME_BYTES_MIN))?;
        for (at, sample) in track.samples.iter().enumerate() {
            let end = sample.start.saturating_add(sample.bytes.into());
            if end > bytes.len() as u64 {
                let all = bytes.len();
                return Err(broken(format!("frame {at} ends at byte {end}, the file at {all}; is it truncated?")));
            }
            if sample.description as usize >= track.descriptions.len() {
                let (named, all) = (sample.description + 1, track.descriptions.len());
                return Err(broken(format!("frame {at} goes by description {named} of {all}")));
            }
        }
        let Some(first) = track.samples.iter().position(|sample| role(bytes, &track, sample).begins) else {
            return Err(match track.samples.is_empty() {
                true => InputError::NoFrames { field: "media", frames: 0 },
                false => broken("it has no frame with which decoding can begin"),
            });
        };
        let sps = h264::announced(&track.descriptions, sample_bytes(bytes, &track.samples[first]))?;
        let mut shown = track.shown(first as u32)?;
        shown.retain(|shown| track.samples[shown.sample as usize].bytes > 0);
        if shown.is_empty() {
            return Err(InputError::NoFrames { field: "edit list of the video", frames: track.samples.len() });
        }
        let said = track.descriptions.first().and_then(|description| description.colour);
        let conversion = Conversion::new(sps.colour.or(said).unwrap_or_default(), sps.grey);
        let video = Self { bytes, track, shown, sps, first, conversion };
        video.admit(limits)?;
        Ok(video)
    }

    fn admit(&self, limits: &MediaLimits) -> Result<(), InputError> {
        let Window { width, height, .. } = self.sps.window;
        let (pixels, bytes) = (width as u64 * height as u64, self.held_bytes());
        if pixels > limits.pixels_max {
            let value = format!("{width} x {height} pixels");
            return Err(InputError::TooLarge { field: "video", value, max: limits.pixels_max });
        }
        if bytes > limits.decode_bytes_max {
            let (field, value) = ("memory to decode the video, bytes,", bytes.to_string());
            return Err(InputError::TooLarge { field, value, max: limits.decode_bytes_max });
        }
        Ok(())
    }

    /// When each frame is shown, milliseconds, in that order.
    pub fn times(&self) -> impl Iterator<Item = u64> {
        self.shown.iter().map(|shown| shown.pts_ms)
    }

    /// (width, height) of every frame, upright.
    pub fn size(&self) -> (usize, usize) {
        self.track.turn.size(self.sps.window.width, self.sps.window.height)
    }

    /// What is held while decoding: the table, the pictures that others are predicted from, one frame.
    pub fn held_bytes(&self) -> u64 {
        let Sps { coded_width, coded_height, references, .. } = self.sps;
        // Of the decoder's own two more, and one that is being turned upright.
        let pictures = references.min(16) + 2 + 2 + 2;
        let table = self.track.samples.len() * size_of::<Sample>() + self.shown.len() * size_of::<Shown>();
        (coded_width * coded_height) as u64 * 3 / 2 * pictures + table as u64
    }

    /// Decodes the frames whose numbers are in `wanted`, ascending, and gives each to `each` as soon as it is there,
    /// which is in the order of decoding, not in that of their times. Returns how many were decoded.
    pub fn decode(
        &self,
        wanted: &[usize],
        go_on: &mut dyn FnMut(u64) -> bool,
        each: &mut dyn FnMut(usize, &Frame) -> Result<(), InputError>,
    ) -> Result<usize, InputError> {
        let mut targets = BTreeMap::<usize, Vec<usize>>::new();
        for &at in wanted {
            targets.entry(self.shown[at].sample as usize).or_default().push(at);
        }
        let (mut stream, mut next, mut decoded) = (Stream::new(self.sps)?, self.first, 0);
        let mut described = None;
        for (target, places) in targets {
            let begins = |&at: &usize| self.track.samples[at].sync && self.role(at).begins;
            if let Some(begin) = (next + 1..=target).rev().find(begins) {
                (next, described) = (begin, None);
            }
            for at in next..=target {
                let sample = self.track.samples[at];
                if sample.bytes == 0 || (at < target && described.is_some() && !self.role(at).referred) {
                    continue;
                }
                if !go_on(self.held_bytes()) {
                    return Err(InputError::GivenUp);
                }
                let description = &self.track.descriptions[sample.description as usize];
                let sets = described.replace(sample.description) != Some(sample.description);
                let bytes = sample_bytes(self.bytes, &sample);
                let pixels = stream.picture(bytes, description, sets, |picture| {
                    (at == target).then(|| self.conversion.rgb(picture, self.sps.window))
                });
                decoded += 1;
                let Some(rgb) = pixels.map_err(|error| in_frame(at, error))? else { continue };
                let rgb = rgb.ok_or_else(|| broken(format!("frame {at}: its planes are too short")))?;
                let mut frame = self.track.turn.frame(rgb, self.sps.window, 0);
                for &place in &places {
                    frame.pts_ms = self.shown[place].pts_ms;
                    each(place, &frame)?;
                }
            }
            next = target + 1;
        }
        Ok(decoded)
    }

    fn role(&self, at: usize) -> h264::Role {
        role(self.bytes, &self.track, &self.track.samples[at])
    }
}

fn sample_bytes<'a>(bytes: &'a [u8], sample: &Sample) -> &'a [u8] {
    // All samples lie within the file; that was looked at first.
    &bytes[sample.start as usize..][..sample.bytes as usize]
}

fn role(bytes: &[u8], track: &Track, sample: &Sample) -> h264::Role {
    h264::role(sample_bytes(bytes, sample), track.descriptions[sample.description as usize].length_bytes)
}

fn in_frame(at: usize, error: InputError) -> InputError {
    match error {
        InputError::Undecodable { format, reason } => {
            InputError::Undecodable { format, reason: format!("frame {at}: {reason}") }
        }
        error => error,
    }
}
