//! Which frames of a clip are looked at: a window of time, a rate, a number of frames spread over the rest.
//!
//! Apart from the pixels, because these are rules about indices and times alone, tested as tables.

use std::ops::RangeInclusive;

use super::InputError;

/// Which frames of a clip to look at; by default the model's own number of them, spread over all.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// How many frames; a clip that has fewer repeats some.
    pub frames: Option<usize>,
    /// Look at what is on screen this many times a second; with `frames`, at that many of these moments.
    pub fps: Option<f32>,
    /// Frames before this time are left out, milliseconds.
    pub start_ms: Option<u64>,
    /// Frames from this time on are left out, milliseconds.
    pub end_ms: Option<u64>,
}

impl Sampling {
    /// The same within a segment of a longer clip, `[start, end)` in milliseconds; its own start and end are not looked at.
    pub fn within(self, [start, end]: [u64; 2]) -> Self {
        // A picture is shown at one instant.
        Self { start_ms: Some(start), end_ms: Some(end.max(start.saturating_add(1))), ..self }
    }

    /// The frames to look at, as indices into their times. One frame stays one frame: it is a picture, and the vision encoder
    /// knows what to do with that. Without a number or a rate of its own it takes `num_frames`, or all of them; fails where
    /// that is more than `max`, and where no frame is left.
    pub fn indices(&self, times_ms: &[u64], num_frames: Option<usize>, max: usize) -> Result<Vec<usize>, InputError> {
        let start_ms = self.start_ms.unwrap_or(0);
        let shown = |pts_ms: u64| pts_ms >= start_ms && self.end_ms.is_none_or(|end_ms| pts_ms < end_ms);
        let inside: Vec<usize> = (0..times_ms.len()).filter(|&index| shown(times_ms[index])).collect();
        let (Some(&first), Some(&last)) = (inside.first(), inside.last()) else {
            let field = if times_ms.is_empty() { "media" } else { "sampling.start_ms to sampling.end_ms" };
            return Err(InputError::NoFrames { field, frames: times_ms.len() });
        };
        let (start, end) = (times_ms[first], times_ms[last]);
        let available = match self.fps {
            Some(fps) => ticks(end.saturating_sub(start), fps)?,
            None => inside.len(),
        };
        // A rate alone asks for as many frames as it gives.
        let count = self.frames.or(num_frames.filter(|_| self.fps.is_none())).unwrap_or(available);
        if !(1..=max).contains(&count) {
            let field = if self.frames.is_some() { "sampling.frames" } else { "sampled frames" };
            return Err(InputError::Field { field, value: count.to_string(), bound: format!("from 1 to {max}") });
        }
        let shown = |tick: usize| match self.fps {
            None => inside[tick],
            Some(fps) => {
                let now = start.saturating_add((tick as f64 * 1000.0 / f64::from(fps)) as u64);
                inside[inside.partition_point(|&index| times_ms[index] <= now).saturating_sub(1)]
            }
        };
        Ok(if available == 1 { vec![shown(0)] } else { spread(available, count).map(shown).collect() })
    }
}

/// Ticks of a clock of `fps` from the first frame to the last, `span_ms` later.
fn ticks(span_ms: u64, fps: f32) -> Result<usize, InputError> {
    const BOUNDS: RangeInclusive<f32> = 0.001..=1000.0;
    if !BOUNDS.contains(&fps) {
        let bound = format!("from {} to {}", BOUNDS.start(), BOUNDS.end());
        return Err(InputError::Field { field: "sampling.fps", value: fps.to_string(), bound });
    }
    Ok(((span_ms as f64 * f64::from(fps) / 1000.0) as usize).saturating_add(1))
}

/// V-JEPA's spread, `int(linspace(0, available, count))` held below `available`: the first and the last frame
/// are always seen, and `count == available` is every frame once.
fn spread(available: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| {
        if i == 0 { 0 } else { ((i as u128 * available as u128 / (count as u128 - 1)) as usize).min(available - 1) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(pts_ms: &[u64], sampling: Sampling) -> Vec<usize> {
        sampling.indices(pts_ms, Some(4), 64).expect("frames are left")
    }

    #[test]
    fn frames_spread_from_the_first_to_the_last() {
        let of = |available, count| spread(available, count).collect::<Vec<_>>();
        assert_eq!(of(4, 4), [0, 1, 2, 3]);
        assert_eq!(of(16, 8), [0, 2, 4, 6, 9, 11, 13, 15]);
        assert_eq!(of(2, 4), [0, 0, 1, 1]);
        assert_eq!(of(9, 1), [0]);
        for count in 1..200 {
            assert_eq!(of(count, count), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sampling_takes_what_it_says() {
        let ten: Vec<u64> = (0..10).map(|i| i * 100).collect();
        let none = Sampling::default();
        assert_eq!(chosen(&ten, none), [0, 3, 6, 9]);
        assert_eq!(chosen(&[0], none), [0], "a picture stays one frame");
        assert_eq!(chosen(&ten, Sampling { frames: Some(2), ..none }), [0, 9]);
        assert_eq!(chosen(&ten, Sampling { start_ms: Some(300), end_ms: Some(500), ..none }), [3, 3, 4, 4]);
        assert_eq!(chosen(&ten, Sampling { fps: Some(5.0), ..none }), [0, 2, 4, 6, 8]);
        assert_eq!(chosen(&ten, Sampling { fps: Some(5.0), frames: Some(2), ..none }), [0, 8]);
        assert_eq!(chosen(&ten, Sampling { fps: Some(20.0), ..none })[..5], [0, 0, 1, 1, 2]);
        assert_eq!(chosen(&ten, Sampling { fps: Some(0.001), ..none }), [0]);
        assert_eq!(chosen(&[0, 900, 1000], Sampling { fps: Some(2.0), ..none }), [0, 0, 2], "the frame on screen");
        assert_eq!(chosen(&[0, 0, 0], Sampling { fps: Some(2.0), ..none }), [2], "frames of one time: the last");
        let longest = [1, u64::MAX];
        assert_eq!(chosen(&longest, Sampling { fps: Some(1000.0), frames: Some(2), ..none }), [0, 1]);
    }

    #[test]
    fn sampling_that_cannot_be_is_told() {
        let told = |sampling: Sampling| sampling.indices(&[0, 50], None, 8).expect_err("impossible").to_string();
        let none = Sampling::default();
        assert_eq!(told(Sampling { frames: Some(0), ..none }), "sampling.frames is 0, must be from 1 to 8");
        assert_eq!(told(Sampling { frames: Some(9), ..none }), "sampling.frames is 9, must be from 1 to 8");
        assert_eq!(told(Sampling { fps: Some(f32::NAN), ..none }), "sampling.fps is NaN, must be from 0.001 to 1000");
        let late = told(Sampling { start_ms: Some(51), ..none });
        assert_eq!(late, "sampling.start_ms to sampling.end_ms leaves no frame of 2");
        assert!(none.indices(&[], None, 8).is_err());
        let longest = Sampling { fps: Some(1000.0), ..none }.indices(&[0, u64::MAX], None, 8);
        let told = format!("sampled frames is {}, must be from 1 to 8", usize::MAX);
        assert_eq!(longest.expect_err("too many").to_string(), told);
        assert!(none.indices(&[0; 9], None, 8).is_err(), "more frames than the model takes");
    }
}
