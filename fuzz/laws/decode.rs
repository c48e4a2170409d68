//! Media: whatever comes in, what comes out keeps the limits, or it is an error of a length that a client can take.

use vljepa::input::{MediaLimits, decode_media};

const LIMITS: MediaLimits =
    MediaLimits { bytes_max: 1 << 20, pixels_max: 1 << 18, frames_max: 50, decode_bytes_max: 4 << 20 };

/// Decodes `bytes` as a picture or a clip.
pub fn decode(bytes: &[u8]) {
    match decode_media(bytes, &LIMITS) {
        Ok(frames) => {
            assert!((1..=LIMITS.frames_max).contains(&frames.len()), "{} frames", frames.len());
            let decoded: usize = frames.iter().map(|frame| frame.rgb.len()).sum();
            assert!(decoded as u64 <= LIMITS.decode_bytes_max, "{decoded} bytes decoded");
            assert!(frames.is_sorted_by_key(|frame| frame.pts_ms), "times fall");
            for frame in frames {
                let pixels = u64::from(frame.width) * u64::from(frame.height);
                assert!((1..=LIMITS.pixels_max).contains(&pixels), "{} x {}", frame.width, frame.height);
                assert_eq!(frame.rgb.len() as u64, 3 * pixels);
            }
        }
        Err(error) => {
            let told = error.to_string();
            // The guard makes an error of a decoder's panic; here it is a finding.
            assert!(!told.contains("panicked"), "{told}");
            assert!(told.len() < 1000, "{} bytes of message", told.len());
        }
    }
}
