//! Bytes of a picture or a short animation become frames, under limits.
//!
//! The format is told by the bytes, never by a name. Sizes are checked in the header, before a pixel is decoded;
//! while decoding, an own budget of bytes and frames holds, because the decoders' own limits are not strict.
//! Rotations by EXIF are carried out. Transparent pixels are laid over white, the paper most such pictures were
//! made for. 16 bits a sample become 8; CMYK and grey become RGB. A truncated file is an error, never half a
//! picture.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits, Rgb, RgbImage};

use super::footage::guarded;
use super::{Frame, InputError, MediaLimits};

/// Decodes JPEG, PNG, WebP, GIF or BMP. A still picture is one frame at 0 ms; animated GIF, WebP and PNG give
/// every frame, composed, at the sum of the delays before it. Fails, and never panics, on everything else. Before each
/// frame `go_on` is told the bytes that decoding takes with it, and [`InputError::GivenUp`] is the answer when it says
/// no.
pub fn decode_while(
    bytes: &[u8],
    limits: &MediaLimits,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<Frame>, InputError> {
    let (format, name) = match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Jpeg) => (format, "JPEG"),
        Ok(format @ ImageFormat::Png) => (format, "PNG"),
        Ok(format @ ImageFormat::WebP) => (format, "WebP"),
        Ok(format @ ImageFormat::Gif) => (format, "GIF"),
        Ok(format @ ImageFormat::Bmp) => (format, "BMP"),
        _ => return Err(unknown(bytes)),
    };
    let reading = Reading { name, limits: *limits };
    guarded(name, || reading.decode(bytes, format, go_on))
}

fn unknown(bytes: &[u8]) -> InputError {
    let first = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let known: [(&[u8], &str); 5] = [
        (b"\x1A\x45\xDF\xA3", "Matroska or WebM"),
        (b"RIFF", "AVI or another RIFF file"),
        (b"OggS", "Ogg"),
        (b"FLV\x01", "Flash video"),
        (b"\x00\x00\x01\xBA", "MPEG"),
    ];
    let name = known.iter().find(|(begin, _)| bytes.starts_with(begin)).map(|(_, name)| format!(" ({name})"));
    let begins = if bytes.is_empty() { "nothing (0 bytes)".into() } else { first + &name.unwrap_or_default() };
    InputError::UnknownFormat { begins }
}

/// One file being read.
struct Reading {
    name: &'static str,
    limits: MediaLimits,
}

impl Reading {
    fn decode(
        &self,
        bytes: &[u8],
        format: ImageFormat,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Frame>, InputError> {
        let source = Cursor::new(bytes);
        match format {
            ImageFormat::Jpeg if jpeg_is_cut(bytes) => Err(self.broken("it is truncated: no end-of-image marker")),
            ImageFormat::Jpeg => self.still(JpegDecoder::new(source), go_on),
            ImageFormat::Png => {
                let decoder = PngDecoder::with_limits(source, self.allocation()).map_err(|e| self.told(e))?;
                let eight_bit = decoder.color_type().bytes_per_pixel() == decoder.color_type().channel_count();
                // The decoder composes no animation of 16 bits a sample; such a file is its first picture.
                match decoder.is_apng().map_err(|error| self.told(error))? && eight_bit {
                    false => self.still(Ok(decoder), go_on),
                    true => {
                        self.admit(decoder.dimensions())?;
                        self.animation(decoder.apng().map_err(|error| self.told(error))?, go_on)
                    }
                }
            }
            ImageFormat::WebP => {
                let decoder = WebPDecoder::new(source).map_err(|error| self.told(error))?;
                match decoder.has_animation() {
                    false => self.still(Ok(decoder), go_on),
                    true => {
                        self.admit(decoder.dimensions())?;
                        self.animation(decoder, go_on)
                    }
                }
            }
            ImageFormat::Gif => {
                let mut decoder = GifDecoder::new(source).map_err(|error| self.told(error))?;
                self.admit(decoder.dimensions())?;
                decoder.set_limits(self.allocation()).map_err(|error| self.told(error))?;
                self.animation(decoder, go_on)
            }
            _ => self.still(BmpDecoder::new(source), go_on),
        }
    }

    fn still(
        &self,
        decoder: Result<impl ImageDecoder, ImageError>,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Frame>, InputError> {
        let mut decoder = decoder.map_err(|error| self.told(error))?;
        self.admit(decoder.dimensions())?;
        self.afford(decoder.total_bytes())?;
        // For a moment there are both the decoder's pixels and ours.
        patient(go_on(decoder.total_bytes().saturating_add(rgb_bytes(decoder.dimensions()))))?;
        decoder.set_limits(self.allocation()).map_err(|error| self.told(error))?;
        // A picture is worth seeing even when its EXIF is not worth reading.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| self.told(error))?;
        picture.apply_orientation(orientation);
        Ok(vec![frame(picture, 0)])
    }

    fn animation<'a>(
        &self,
        decoder: impl AnimationDecoder<'a>,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Frame>, InputError> {
        let mut frames: Vec<Frame> = Vec::new();
        let (mut bytes, mut pts_ms) = (0, 0);
        let mut pictures = decoder.into_frames();
        loop {
            // All frames of a file have the size of the first.
            patient(go_on(bytes + frames.first().map_or(0, |first| first.rgb.len() as u64)))?;
            let Some(shown) = pictures.next() else { break };
            let shown = shown.map_err(|error| self.told(error))?;
            if frames.len() == self.limits.frames_max {
                let max = self.limits.frames_max as u64;
                return Err(InputError::TooLarge { field: "frames of the media", value: format!("over {max}"), max });
            }
            let delay_ms = shown.delay().numer_denom_ms();
            let picture = shown.into_buffer();
            bytes += rgb_bytes(picture.dimensions());
            self.afford(bytes)?;
            frames.push(frame(picture.into(), pts_ms));
            pts_ms += shown_ms(delay_ms);
        }
        match frames.is_empty() {
            true => Err(InputError::NoFrames { field: "media", frames: 0 }),
            false => Ok(frames),
        }
    }

    /// The header's promise, before anything is decoded.
    fn admit(&self, (width, height): (u32, u32)) -> Result<(), InputError> {
        let pixels = u64::from(width) * u64::from(height);
        let value = || format!("{width} x {height} pixels");
        match pixels {
            0 => Err(InputError::Field { field: "image", value: value(), bound: "at least 1 x 1".into() }),
            _ if pixels > self.limits.pixels_max => {
                Err(InputError::TooLarge { field: "image", value: value(), max: self.limits.pixels_max })
            }
            _ => self.afford(3 * pixels),
        }
    }

    fn afford(&self, bytes: u64) -> Result<(), InputError> {
        let max = self.limits.decode_bytes_max;
        match bytes > max {
            true => Err(InputError::TooLarge { field: "decoded media bytes", value: bytes.to_string(), max }),
            false => Ok(()),
        }
    }

    fn allocation(&self) -> Limits {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.limits.decode_bytes_max);
        limits
    }

    fn told(&self, error: ImageError) -> InputError {
        match error {
            ImageError::Limits(_) => InputError::TooLarge {
                field: "memory to decode the media, bytes,",
                value: "more than allowed".into(),
                max: self.limits.decode_bytes_max,
            },
            error => self.broken(&error.to_string()),
        }
    }

    fn broken(&self, reason: &str) -> InputError {
        InputError::Undecodable { format: self.name, reason: reason.into() }
    }
}

fn patient(goes_on: bool) -> Result<(), InputError> {
    if goes_on { Ok(()) } else { Err(InputError::GivenUp) }
}

fn rgb_bytes((width, height): (u32, u32)) -> u64 {
    3 * u64::from(width) * u64::from(height)
}

fn frame(picture: DynamicImage, pts_ms: u64) -> Frame {
    let rgb = if picture.color().has_alpha() { over_white(picture) } else { picture.into_rgb8() };
    Frame { width: rgb.width(), height: rgb.height(), rgb: rgb.into_raw(), pts_ms }
}

fn over_white(picture: DynamicImage) -> RgbImage {
    let rgba = picture.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|sample| ((sample * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// How long a frame is shown, milliseconds. Up to 10 ms means 100 ms, as in every browser: files that say so
/// were made when "as fast as possible" was slow.
fn shown_ms((numerator, denominator): (u32, u32)) -> u64 {
    match u64::from(numerator) / u64::from(denominator.max(1)) {
        0..=10 => 100,
        delay_ms => delay_ms,
    }
}

/// Whether a JPEG's data stop before its end-of-image marker; the decoder would paint the rest grey and say
/// nothing. Segments are stepped over up to the first scan, since thumbnails in them have markers of their own;
/// in a scan's data FF D9 can only be the marker. What does not look like segments is left to the decoder.
fn jpeg_is_cut(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        rest = match rest {
            [0xFF, START_OF_SCAN, scan @ ..] => return !scan.windows(2).any(|pair| pair == [0xFF, 0xD9]),
            [0xFF, 0xFF, ..] => &rest[1..],
            [0xFF, _, high, low, ..] => match rest.get(2 + usize::from(u16::from_be_bytes([*high, *low]))..) {
                Some(rest) => rest,
                None => return true,
            },
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_is_cut_when_its_scan_has_no_end() {
        let scan = [0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 0xFF, 0xD9, 0xFF, 0xFF, 0xDA, 0, 2, 7, 0xFF, 0];
        assert!(jpeg_is_cut(&scan), "the marker in the segment does not count");
        assert!(!jpeg_is_cut(&[&scan[..], &[0xFF, 0xD9, 1, 2]].concat()), "what follows the end does not matter");
        assert!(jpeg_is_cut(&scan[..7]), "within a segment");
        assert!(!jpeg_is_cut(&[0xFF, 0xD8, 5]), "no segments: the decoder's to judge");
        assert!(!jpeg_is_cut(&[]));
    }

    #[test]
    fn transparent_pixels_show_white_paper() {
        let pixels = vec![10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128];
        let picture = image::RgbaImage::from_raw(3, 1, pixels).expect("3 pixels");
        assert_eq!(frame(picture.into(), 5).rgb, [10, 20, 30, 255, 255, 255, 127, 127, 127]);
    }

    #[test]
    fn hurried_frames_are_shown_as_browsers_do() {
        assert_eq!([(0, 1), (10, 1), (20, 1), (100, 3), (5, 0)].map(shown_ms), [100, 100, 20, 33, 100]);
    }
}
