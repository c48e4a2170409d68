//! Which frames of a source are looked at: some a second, by their times.

/// Fewest and most frames a second.
pub(in crate::cli::watch) const FPS: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

/// A frame may come so much before its tick, milliseconds: its time has been rounded.
const ROUNDED_MS: f64 = 1.0;

/// A clock that ticks some times a second from the first frame on, and takes the first frame of each tick.
#[derive(Debug, Clone)]
pub(super) struct Ticks {
    step_ms: f64,
    limit_ms: Option<u64>,
    first_ms: Option<u64>,
    /// The tick that waits for its frame.
    next: f64,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    Skip,
    /// It and all after it are beyond the limit.
    End,
}

impl Ticks {
    /// `fps` is within [`FPS`]; `limit_ms` counts from the first frame.
    pub fn new(fps: f64, limit_ms: Option<u64>) -> Self {
        Self { step_ms: 1000.0 / fps, limit_ms, first_ms: None, next: 0.0 }
    }

    /// Looks at the next frame by its time; one whose time falls back counts as of the first one's.
    pub fn judge(&mut self, pts_ms: u64) -> Verdict {
        let since = pts_ms.saturating_sub(*self.first_ms.get_or_insert(pts_ms));
        if self.limit_ms.is_some_and(|limit| since >= limit) {
            return Verdict::End;
        }
        let tick = ((since as f64 + ROUNDED_MS) / self.step_ms).floor();
        // Ticks that are as close as frames' times can be take every frame.
        if tick < self.next && self.step_ms > ROUNDED_MS {
            return Verdict::Skip;
        }
        self.next = tick + 1.0;
        Verdict::Take
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(fps: f64, times: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut ticks = Ticks::new(fps, None);
        times.filter(|&time| ticks.judge(time) == Verdict::Take).collect()
    }

    #[test]
    fn frames_are_taken_at_their_rate() {
        let clip = |fps: f64| (0..).map(move |frame| (f64::from(frame) * 1000.0 / fps) as u64).take(60);
        assert_eq!(taken(4.0, clip(30.0)), [0, 266, 500, 766, 1000, 1266, 1500, 1766]);
        assert_eq!(taken(4.0, clip(24.0)), [0, 250, 500, 750, 1000, 1250, 1500, 1750, 2000, 2250]);
        for fps in [3.0, 7.0, 23.976, 24.0, 29.97, 60.0] {
            assert_eq!(taken(fps, clip(fps)).len(), 60, "{fps}: its own rate takes all");
        }
        assert_eq!(taken(1.0, [5000, 5100, 9000, 9900, 10_000].into_iter()), [5000, 9000, 10_000]);
        assert_eq!(taken(1000.0, [7, 7, 7].into_iter()), [7, 7, 7]);
        assert_eq!(taken(4.0, [500, 100, u64::MAX, 0].into_iter()), [500, u64::MAX]);
    }

    #[test]
    fn the_limit_counts_from_the_first_frame() {
        let mut ticks = Ticks::new(10.0, Some(1000));
        assert_eq!([9000, 9999, 10_000].map(|time| ticks.judge(time)), [Verdict::Take, Verdict::Take, Verdict::End]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(fps in 0.5..50f64, steps in proptest::collection::vec(0..300u64, 1..200)) {
            let mut now = 0;
            let times: Vec<u64> = steps.iter().map(|step| { now += step; now }).collect();
            let kept = taken(fps, times.iter().copied());
            let seconds = (now - times[0]) as f64 / 1000.0;
            prop_assert!(kept.len() as f64 <= seconds * fps + 2.0);
            prop_assert_eq!(kept[0], times[0]);
        }
    }
}
