//! A long clip cut into segments of equal length: a rule about times alone.
//!
//! A segment begins every `stride_ms`, from 0 on. One that the clip's end cuts short counts if at least half of it is
//! there, or if it is the only one; one in which no frame begins does not count.

use super::InputError;

/// Segments of one clip; a day of them, ten a second.
pub const SEGMENTS_MAX: u64 = 1 << 20;

/// How a clip is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Length of a segment, milliseconds.
    pub window_ms: u64,
    /// From the beginning of one to the beginning of the next, milliseconds.
    pub stride_ms: u64,
}

impl Windows {
    /// From when to when each segment of a clip with frames at these times goes, in order. The last frame is taken to be
    /// shown as long as the one before it. More than [`SEGMENTS_MAX`] are refused.
    pub fn of(&self, times_ms: &[u64]) -> Result<Vec<[u64; 2]>, InputError> {
        let Self { window_ms, stride_ms } = *self;
        for (field, value) in [("window_ms", window_ms), ("stride_ms", stride_ms)] {
            if value == 0 {
                return Err(InputError::Field { field, value: "0".into(), bound: "at least 1".into() });
            }
        }
        let last = times_ms.last().copied().unwrap_or(0);
        let before = times_ms.len().checked_sub(2).map_or(last, |at| times_ms[at]);
        let end = end_ms(before, last);
        if end.div_ceil(stride_ms) > SEGMENTS_MAX {
            let bound = format!("so long that a clip of {end} ms has at most {SEGMENTS_MAX} segments");
            return Err(InputError::Field { field: "stride_ms", value: stride_ms.to_string(), bound });
        }
        let mut windows = Vec::new();
        let (mut start, first_at) = (0, |time: u64| times_ms.partition_point(|&frame| frame < time));
        while start < end.max(1) {
            let stop = start.saturating_add(window_ms);
            if self.counts(start, end, windows.is_empty()) && first_at(start) < first_at(stop) {
                windows.push([start, stop.min(end)]);
            }
            start = start.saturating_add(stride_ms);
        }
        Ok(windows)
    }

    /// Whether a segment that begins at `start` counts in a clip that ends at `end`, milliseconds; `only` where none counts
    /// before it.
    pub fn counts(&self, start: u64, end: u64, only: bool) -> bool {
        let stop = start.saturating_add(self.window_ms);
        let there = stop.min(end) - start.min(end);
        stop <= end || there >= self.window_ms.div_ceil(2) || only
    }
}

/// When a clip ends whose last frame is shown at `last`, the one before it at `before`, milliseconds: the last one is taken to
/// be shown as long as the one before it.
pub fn end_ms(before: u64, last: u64) -> u64 {
    last.saturating_add(last.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(window_ms: u64, stride_ms: u64, times_ms: &[u64]) -> Vec<[u64; 2]> {
        Windows { window_ms, stride_ms }.of(times_ms).expect("windows")
    }

    #[test]
    fn segments_are_whole_or_half_or_the_only_one() {
        let ten: Vec<u64> = (0..10).map(|at| 100 * at).collect();
        assert_eq!(cut(500, 500, &ten), [[0, 500], [500, 1000]]);
        assert_eq!(cut(400, 400, &ten), [[0, 400], [400, 800], [800, 1000]], "half of the last is there");
        assert_eq!(cut(700, 700, &ten), [[0, 700]], "300 of 700 ms are less than half");
        assert_eq!(cut(600, 200, &ten), [[0, 600], [200, 800], [400, 1000], [600, 1000]], "overlapping");
        assert_eq!(cut(100, 400, &ten), [[0, 100], [400, 500], [800, 900]], "with gaps");
        assert_eq!(cut(5000, 5000, &ten), [[0, 1000]], "the only one");
        assert_eq!(cut(200, 200, &[500, 600, 1500]), [[400, 600], [600, 800], [1400, 1600]], "where frames begin");
        assert_eq!(cut(200, 200, &[0]), [[0, 0]], "a picture");
        assert_eq!(cut(200, 200, &[]), [[0; 2]; 0]);
    }

    #[test]
    fn segments_that_cannot_be_are_told() {
        let told = |window_ms, stride_ms, times: &[u64]| {
            Windows { window_ms, stride_ms }.of(times).expect_err("cannot be").to_string()
        };
        assert_eq!(told(0, 1, &[0]), "window_ms is 0, must be at least 1");
        assert_eq!(told(1, 0, &[0]), "stride_ms is 0, must be at least 1");
        let many = told(1, 1, &[0, u64::MAX]);
        assert!(
            many.starts_with("stride_ms is 1, must be so long that a clip of ")
                && many.ends_with(" at most 1048576 segments"),
            "{many}"
        );
    }
}
