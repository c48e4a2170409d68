//! Media: whatever comes in, what comes out keeps the limits, or it is an error of a length that a client can take.

use vljepa::input::{Footage, MediaLimits, decode_media};

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
        Err(error) => decent(&error.to_string()),
    }
}

/// Opens `bytes` as footage and decodes every third frame of it, as somebody does who looks at few of many.
pub fn video(bytes: &[u8]) {
    let footage = match Footage::open(bytes, &LIMITS, &mut |_| true) {
        Ok(footage) => footage,
        Err(error) => return decent(&error.to_string()),
    };
    let facts = footage.facts();
    assert!(footage.times().is_sorted(), "times fall");
    assert!(u64::from(facts.width) * u64::from(facts.height) <= LIMITS.pixels_max, "{facts:?}");
    let wanted: Vec<usize> = (0..facts.frames).step_by(3).take(LIMITS.frames_max).collect();
    let mut seen = Vec::new();
    let decoded = footage.decode(&wanted, &mut |held| held <= 4 * LIMITS.decode_bytes_max, &mut |at, frame| {
        assert_eq!(frame.rgb.len() as u64, 3 * u64::from(frame.width) * u64::from(frame.height));
        seen.push(at);
        Ok(())
    });
    seen.sort_unstable();
    match decoded {
        Ok(_) => assert_eq!(seen, wanted, "every frame that was wanted, once"),
        Err(error) => decent(&error.to_string()),
    }
}

fn decent(told: &str) {
    // The guard makes an error of a decoder's panic; here it is a finding.
    assert!(!told.contains("panicked"), "{told}");
    assert!(told.len() < 1000, "{} bytes of message", told.len());
}
