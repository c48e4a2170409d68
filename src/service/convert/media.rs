//! What a question is about: files, frames, and which of them are looked at.

use std::ops::RangeInclusive;

use super::{Checked, Desk, count, invalid};
use crate::engine::{Media, MediaFrame, PixelOrder};
use crate::input::Sampling;
use crate::service::proto::{self, media::Source};
use crate::settings::Settings;

const FPS: RangeInclusive<f32> = 0.001..=1000.0;

pub(super) fn media_of(media: Option<proto::Media>, desk: &Desk) -> Checked<Media> {
    let settings = desk.settings;
    match media.and_then(|media| media.source) {
        None => Err(invalid("media", "is missing")),
        Some(Source::Inline(bytes)) => {
            count_bytes("media.inline", bytes.len(), settings)?;
            Ok(Media::File(bytes))
        }
        Some(Source::Upload(name)) => Ok(Media::Stored(desk.uploads.get(&name, &desk.owner)?)),
        Some(Source::Frames(proto::FrameSequence { frames })) => {
            count("media.frames", frames.len(), 1, settings.media.frames_max)?;
            count_bytes("media.frames", frames.iter().map(|frame| frame.data.len()).sum(), settings)?;
            if let Some(at) = frames.windows(2).position(|pair| pair[1].pts_ms < pair[0].pts_ms) {
                let (before, after) = (frames[at].pts_ms, frames[at + 1].pts_ms);
                let problem = format!("is {after}, must not be below the frame before, {before}");
                return Err(invalid(format!("media.frames[{}].pts_ms", at + 1), problem));
            }
            let frame = |(at, one)| frame(one, settings).map_err(|error| error.within(&format!("media.frames[{at}]")));
            Ok(Media::Frames((0..).zip(frames).map(frame).collect::<Checked<_>>()?))
        }
    }
}

pub(super) fn frame(frame: proto::Frame, settings: &Settings) -> Checked<MediaFrame> {
    let proto::Frame { data, width, height, pts_ms, .. } = frame;
    let format = proto::FrameFormat::try_from(frame.format)
        .map_err(|_| invalid("format", format!("is {}, no such format", frame.format)))?;
    let order = match format {
        proto::FrameFormat::Unspecified | proto::FrameFormat::Encoded => {
            return Ok(MediaFrame::Encoded { bytes: data, pts_ms });
        }
        proto::FrameFormat::Rgb8 => PixelOrder::Rgb,
        proto::FrameFormat::Bgr8 => PixelOrder::Bgr,
        proto::FrameFormat::Gray8 => PixelOrder::Gray,
    };
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > settings.media.pixels_max {
        let problem = format!("is {width} x {height}, must be 1 to {} pixels", settings.media.pixels_max);
        return Err(invalid("width", problem));
    }
    let bytes = pixels * order.channels();
    if data.len() as u64 != bytes {
        return Err(invalid("data", format!("is {} bytes, {width} x {height} pixels need {bytes}", data.len())));
    }
    Ok(MediaFrame::Raw { width, height, order, pixels: data, pts_ms })
}

pub(super) fn sampling_of(sampling: proto::Sampling, settings: &Settings) -> Checked<Sampling> {
    let proto::Sampling { frames, fps, start_ms, end_ms } = sampling;
    let frames = frames.map(|frames| frames as usize);
    if let Some(frames) = frames {
        count("sampling.frames", frames, 1, settings.media.frames_max)?;
    }
    if let Some(fps) = fps.filter(|fps| !FPS.contains(fps)) {
        let problem = format!("is {fps}, must be from {} to {}", FPS.start(), FPS.end());
        return Err(invalid("sampling.fps", problem));
    }
    let start = start_ms.unwrap_or(0);
    if let Some(end) = end_ms.filter(|&end| end <= start) {
        return Err(invalid("sampling.end_ms", format!("is {end}, must be above start_ms, {start}")));
    }
    Ok(Sampling { frames, fps, start_ms, end_ms })
}

fn count_bytes(field: &str, bytes: usize, settings: &Settings) -> Checked<()> {
    match bytes {
        0 => Err(invalid(field, "is empty")),
        bytes if bytes > settings.media.bytes_max => {
            Err(invalid(field, format!("is {bytes} bytes, at most {}", settings.media.bytes_max)))
        }
        _ => Ok(()),
    }
}
