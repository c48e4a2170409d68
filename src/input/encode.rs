//! Frames become files: a still picture as PNG, a clip as an animated GIF.

use std::io::Cursor;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, ImageError, ImageFormat, RgbImage};

use super::{Frame, InputError};

/// A PNG of one frame. Errors when the frame's bytes do not fit its size.
pub fn png(frame: &Frame) -> Result<Vec<u8>, InputError> {
    let mut bytes = Cursor::new(Vec::new());
    picture(frame)?.write_to(&mut bytes, ImageFormat::Png).map_err(|error| failed("PNG", &error))?;
    Ok(bytes.into_inner())
}

/// An endlessly repeated GIF of all frames, each shown for `delay_ms`. Errors as [`png`].
pub fn gif(frames: &[Frame], delay_ms: u32) -> Result<Vec<u8>, InputError> {
    /// 1 is the best palette and the slowest, 30 the fastest; a fast one loses the colours of small objects.
    const SPEED: i32 = 1;
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, SPEED);
        let fault = |error: ImageError| failed("GIF", &error);
        encoder.set_repeat(Repeat::Infinite).map_err(fault)?;
        for frame in frames {
            let picture = image::DynamicImage::ImageRgb8(picture(frame)?).into_rgba8();
            let delay = Delay::from_numer_denom_ms(delay_ms, 1);
            encoder.encode_frame(image::Frame::from_parts(picture, 0, 0, delay)).map_err(fault)?;
        }
    }
    Ok(bytes)
}

fn picture(frame: &Frame) -> Result<RgbImage, InputError> {
    RgbImage::from_raw(frame.width, frame.height, frame.rgb.clone()).ok_or_else(|| InputError::Field {
        field: "frame bytes",
        value: frame.rgb.len().to_string(),
        bound: format!("3 x {} x {}", frame.width, frame.height),
    })
}

fn failed(format: &'static str, error: &ImageError) -> InputError {
    InputError::Undecodable { format, reason: format!("encoding failed: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{MediaLimits, decode_media};

    const LIMITS: MediaLimits =
        MediaLimits { bytes_max: 1 << 20, pixels_max: 1 << 20, frames_max: 10, decode_bytes_max: 1 << 24 };

    fn frame(shade: u8) -> Frame {
        Frame { width: 9, height: 5, rgb: vec![shade; 9 * 5 * 3], pts_ms: 0 }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let read = decode_media(&png(&frame(77)).expect("a PNG"), &LIMITS).expect("a picture");
        assert_eq!(read, [frame(77)]);
        let read = decode_media(&gif(&[frame(0), frame(255)], 120).expect("a GIF"), &LIMITS).expect("a clip");
        assert_eq!(read.iter().map(|f| (f.rgb[0], f.pts_ms)).collect::<Vec<_>>(), [(0, 0), (255, 120)]);
    }

    #[test]
    fn bytes_that_do_not_fill_the_frame_are_refused() {
        let torn = Frame { rgb: vec![0; 10], ..frame(0) };
        assert!(png(&torn).expect_err("ten bytes").to_string().contains("frame bytes is 10, must be 3 x 9 x 5"));
        assert!(gif(&[torn], 10).is_err());
    }
}
