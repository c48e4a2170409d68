//! Large frames become smaller ones before they travel or wait.

use std::borrow::Cow;

use super::Frame;
use super::resize::{Filter, resize, taps};

/// The frame, its longer side at most `side_max` pixels, its proportions kept; as it is where it is no larger.
pub fn shrunk(frame: &Frame, side_max: u32) -> Cow<'_, Frame> {
    let longer = frame.width.max(frame.height);
    let whole = frame.rgb.len() as u64 == 3 * u64::from(frame.width) * u64::from(frame.height);
    if longer <= side_max || !whole {
        return Cow::Borrowed(frame);
    }
    let scaled = |side: u32| {
        let exact = u64::from(side) * u64::from(side_max) + u64::from(longer / 2);
        (exact / u64::from(longer)).clamp(1, u64::from(side_max)) as u32
    };
    let (width, height) = (scaled(frame.width), scaled(frame.height));
    let line = |from: u32, to: u32| taps(Filter::Bilinear, from as usize, u64::from(to), 0, to as usize);
    let columns = line(frame.width, width);
    let rgb = resize(&frame.rgb, frame.width as usize, &columns, &line(frame.height, height));
    Cow::Owned(Frame { width, height, rgb, pts_ms: frame.pts_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(width: u32, height: u32) -> Frame {
        Frame { width, height, rgb: vec![9; 3 * width as usize * height as usize], pts_ms: 5 }
    }

    #[test]
    fn proportions_stay_and_small_frames_too() {
        for (from, side_max, to) in [
            ((1920, 1080), 640, (640, 360)),
            ((1080, 1920), 640, (360, 640)),
            ((641, 3), 640, (640, 3)),
            ((5000, 1), 640, (640, 1)),
            ((640, 640), 640, (640, 640)),
            ((3, 2), 1, (1, 1)),
        ] {
            let frame = frame(from.0, from.1);
            let small = shrunk(&frame, side_max);
            assert_eq!((small.width, small.height, small.pts_ms), (to.0, to.1, 5), "{from:?}");
            assert_eq!(small.rgb, vec![9; 3 * to.0 as usize * to.1 as usize]);
        }
    }

    #[test]
    fn a_frame_without_its_pixels_is_left_to_whoever_looks_at_it() {
        let torn = Frame { rgb: vec![0; 5], ..frame(100, 100) };
        assert_eq!(*shrunk(&torn, 10), torn);
    }
}
