//! The arithmetic of an axis: which stretch it shows, where a value stands on it, and which round values are named.

use super::Scale;

/// Values beyond this are not shown: sums and differences of those within stay finite.
const LARGEST: f64 = 1e300;
/// Values on a log axis below this are not shown.
const LEAST: f64 = 1e-300;

/// The stretch that an axis shows; for a log axis in powers of ten.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Span {
    /// Around all values that the scale can show, with some room; begins at 0 where that is near.
    pub fn around(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let shown = values.filter_map(|value| shown(scale, value));
        let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), value| (l.min(value), h.max(value)));
        let (low, high) = match (scale, low <= high) {
            (_, false) => (0.0, 1.0),
            // Differences near the accuracy of numbers are none.
            (Scale::Linear, true) if high - low <= 1e-9 * low.abs().max(high.abs()) => {
                let room = if high == 0.0 { 1.0 } else { high.abs() / 2.0 };
                (low - room, high + room)
            }
            (Scale::Log, true) if high - low < 1e-6 => (low - 0.5, high + 0.5),
            (Scale::Log, true) => (low - 0.03 * (high - low), high + 0.03 * (high - low)),
            (Scale::Linear, true) => {
                let room = 0.04 * (high - low);
                let near_zero = low >= 0.0 && low < 0.5 * high;
                (if near_zero { 0.0 } else { low - room }, if high == 0.0 { 0.0 } else { high + room })
            }
        };
        Self { scale, low, high }
    }

    /// Where a value stands, 0 at the beginning and 1 at the end; none if it cannot be shown.
    pub fn share(&self, value: f64) -> Option<f64> {
        let share = (shown(self.scale, value)? - self.low) / (self.high - self.low);
        (-1e-9..=1.0 + 1e-9).contains(&share).then_some(share)
    }

    /// Round values, ascending, with their names: about `most` of them. Each as its share.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let most = most.max(2);
        match self.scale {
            Scale::Linear => self.even(most).into_iter().map(|(value, name)| (self.at(value), name)).collect(),
            Scale::Log => self.powers(most),
        }
    }

    fn at(&self, shown: f64) -> f64 {
        ((shown - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn even(&self, most: usize) -> Vec<(f64, String)> {
        let step = round_step((self.high - self.low) / most as f64);
        let (first, last) = ((self.low / step).ceil(), (self.high / step + 1e-9).floor());
        // Counted by index: adding a small step to a large value would not move it.
        let count = ((last - first).max(0.0) as usize).min(2 * most);
        (0..=count)
            .map(|index| {
                // Not -0.
                let value = (first + index as f64) * step + 0.0;
                (value, name(value, step))
            })
            .collect()
    }

    /// Powers of ten, every few of them where there are many, with 2 and 5 times them where there are few.
    fn powers(&self, most: usize) -> Vec<(f64, String)> {
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let decades = (self.high - self.low).max(1e-9);
        let every = (decades / most as f64).ceil().max(1.0) as i32;
        let factors: &[f64] = match decades {
            _ if every > 1 => &[1.0],
            d if d * 9.0 <= most as f64 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            d if d * 3.0 <= most as f64 + 1.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let exponents = (first..=last).filter(|exponent| exponent.rem_euclid(every) == 0);
        let values = exponents.flat_map(|exponent| factors.iter().map(move |factor| (exponent, *factor)));
        values
            .map(|(exponent, factor)| (f64::from(exponent) + factor.log10(), power_name(exponent, factor)))
            .filter(|(at, _)| (self.low - 1e-9..=self.high + 1e-9).contains(at))
            .map(|(at, name)| (self.at(at), name))
            .collect()
    }
}

/// The value as its scale counts.
fn shown(scale: Scale, value: f64) -> Option<f64> {
    match scale {
        Scale::Linear => (value.abs() <= LARGEST).then_some(value),
        Scale::Log => (LEAST..=LARGEST).contains(&value).then(|| value.log10()),
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not, or hardly, below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    // A stretch at the very edge of what floats can say has no smaller power.
    let power = if power > 0.0 && power.is_finite() { power } else { f64::MIN_POSITIVE };
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|step| *step >= 0.9 * least).unwrap_or(10.0 * power)
}

/// A value with as many digits as its step needs.
fn name(value: f64, step: f64) -> String {
    let largest = value.abs().max(step);
    if value == 0.0 {
        return "0".into();
    }
    if largest >= 1e6 || step < 1e-4 {
        let digits = (value.abs().log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
        return format!("{value:.digits$e}");
    }
    let digits = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

fn power_name(exponent: i32, factor: f64) -> String {
    match exponent {
        -3..=-1 => {
            let digits = exponent.unsigned_abs() as usize + usize::from(factor.fract() > 0.0);
            format!("{:.digits$}", factor * 10f64.powi(exponent))
        }
        0..=5 => format!("{}", factor * 10f64.powi(exponent)),
        _ if factor == 1.0 => format!("1e{exponent}"),
        _ => format!("{factor}e{exponent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scale: Scale, values: &[f64], most: usize) -> String {
        let ticks = Span::around(scale, values.iter().copied()).ticks(most);
        assert!(ticks.is_sorted_by(|a, b| a.0 < b.0), "{ticks:?}");
        assert!(ticks.iter().all(|(at, _)| (0.0..=1.0).contains(at)), "{ticks:?}");
        ticks.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round() {
        let linear = |values: &[f64], most| names(Scale::Linear, values, most);
        assert_eq!(linear(&[0.0, 10.0], 6), "0 2 4 6 8 10");
        assert_eq!(linear(&[0.1, 0.97], 5), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(linear(&[-1.0, 1.0], 5), "-1.0 -0.5 0 0.5 1.0");
        assert_eq!(linear(&[1000.0, 1000.5], 4), "1000.0 1000.2 1000.4");
        assert_eq!(linear(&[3e9, 4e9], 3), "3.0e9 3.5e9 4.0e9");
        assert_eq!(linear(&[5.0], 4), "4 6");
        assert_eq!(linear(&[], 4), "0 0.5 1.0");
        assert_eq!(linear(&[0.0], 4), "-1.0 -0.5 0 0.5 1.0");
    }

    #[test]
    fn ticks_of_a_log_axis_are_powers_and_what_lies_between() {
        let log = |values: &[f64], most| names(Scale::Log, values, most);
        assert_eq!(log(&[0.01, 2.0], 8), "0.01 0.02 0.05 0.1 0.2 0.5 1 2");
        assert_eq!(log(&[0.01, 1e4], 8), "0.01 0.1 1 10 100 1000 10000");
        assert_eq!(log(&[1e-12, 1e12], 8), "1e-12 1e-8 1e-4 1 10000 1e8 1e12");
        assert_eq!(log(&[3.0], 9), "1 1.5 2 3 4 5 6 7 8 9");
        assert_eq!(log(&[0.0, -1.0, f64::NAN], 4), "1 2 5 10");
    }

    #[test]
    fn a_span_covers_its_values_and_no_others() {
        for scale in [Scale::Linear, Scale::Log] {
            let span = Span::around(scale, [1.0, f64::NAN, 100.0, f64::INFINITY].into_iter());
            let [low, high] = [1.0, 100.0].map(|value| span.share(value).expect("within"));
            assert!(low < 0.1 && high > 0.9 && high <= 1.0, "{scale:?} {low} {high}");
            assert_eq!([1e6, f64::NAN, f64::INFINITY].map(|value| span.share(value)), [None; 3]);
        }
        assert_eq!(Span::around(Scale::Log, [1.0, 10.0].into_iter()).share(0.0), None);
    }
}
