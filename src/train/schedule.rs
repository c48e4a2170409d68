//! The learning rate over a stage: a linear warm-up, then half a cosine down to a floor.
//!
//! Apart from the optimiser because a schedule is a pure function of the step: resuming needs no state of it.

/// Warm-up and cosine over one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate, reached at the end of the warm-up.
    pub peak: f32,
    /// The last learning rate as a share of `peak`.
    pub floor: f32,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole stage, warm-up included.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0; past the end it stays at the floor.
    pub fn rate(&self, step: u64) -> f32 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f32 / self.warmup_steps as f32;
        }
        self.peak * blend(1.0, self.floor, cosine(self.progress(step)))
    }

    /// The share of the stage after the warm-up that lies behind `step`, 0 to 1.
    pub fn progress(&self, step: u64) -> f32 {
        let left = self.steps.saturating_sub(self.warmup_steps).max(1);
        (step.saturating_sub(self.warmup_steps) as f32 / left as f32).min(1.0)
    }
}

/// From 0 to 1 along half a cosine as `progress` goes from 0 to 1.
fn cosine(progress: f32) -> f32 {
    0.5 - 0.5 * (std::f32::consts::PI * progress).cos()
}

/// The value `share` of the way from `from` to `to`.
pub fn blend(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_falls_to_the_floor() {
        let schedule = Schedule { peak: 2.0, floor: 0.1, warmup_steps: 4, steps: 104 };
        let close = |step, expected: f32| {
            let rate = schedule.rate(step);
            assert!((rate - expected).abs() < 1e-5, "step {step}: {rate}, expected {expected}");
        };
        close(0, 0.5);
        close(3, 2.0);
        close(4, 2.0);
        close(54, 1.1); // half way: the mean of 2.0 and 0.2
        close(104, 0.2);
        close(9_999, 0.2);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        let schedule = Schedule { peak: 1.0, floor: 0.0, warmup_steps: 0, steps: 10 };
        assert_eq!(schedule.rate(0), 1.0);
        assert!(schedule.rate(10).abs() < 1e-6);
    }
}
