//! Taking times: contestants run in turn, so that what disturbs one disturbs the others, and each is judged by its best
//! and its median sample.

use crate::kernel::clock::Moment;

/// A sample lasts at least this long, seconds: shorter calls are repeated within it.
const SAMPLE_MIN: f64 = 2e-3;
/// Calls in one sample at most.
const CALLS_MAX: f64 = 1e5;

/// What is measured: a name and the call.
pub(super) type Contestant<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// Seconds of one call, sample by sample.
#[derive(Debug, Clone)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// These, in the order they were taken.
    pub(super) fn new(seconds: Vec<f64>) -> Samples {
        Samples(seconds)
    }

    /// The least.
    pub(super) fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The one in the middle; of an even count, the lower one.
    pub(super) fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// How many times faster this is than `other`: the median over samples taken in one turn.
    pub(super) fn times_faster_than(&self, other: &Samples) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(own, other)| other / own).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// `repeats` samples of each contestant, in turn, after one call to warm up.
pub(super) fn take(repeats: usize, threads: usize, contestants: &mut [Contestant<'_>]) -> Vec<Samples> {
    let time = |calls: usize, call: &mut dyn FnMut()| {
        let start = Moment::now(threads);
        (0..calls).for_each(|_| call());
        start.elapsed().as_secs_f64().max(1e-9) / calls as f64
    };
    let calls: Vec<usize> = contestants
        .iter_mut()
        .map(|(_, call)| {
            call();
            (SAMPLE_MIN / time(1, call)).clamp(1.0, CALLS_MAX).ceil() as usize
        })
        .collect();
    let mut samples = vec![Samples(Vec::with_capacity(repeats)); contestants.len()];
    for _ in 0..repeats {
        for (((_, call), calls), samples) in contestants.iter_mut().zip(&calls).zip(&mut samples) {
            samples.0.push(time(*calls, call));
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_take_turns_and_are_judged_in_pairs() {
        let order = std::cell::RefCell::new(Vec::new());
        let wait = |name: char, ms| {
            order.borrow_mut().push(name);
            std::thread::sleep(std::time::Duration::from_millis(ms));
        };
        let mut contestants: [Contestant<'_>; 2] =
            [("quick", Box::new(|| wait('q', 3))), ("slow", Box::new(|| wait('s', 12)))];
        let samples = take(3, 2, &mut contestants);
        drop(contestants);
        // one call to warm up, one to learn how long it takes, then turns
        assert_eq!(order.borrow().iter().collect::<String>(), "qqssqsqsqs");
        assert!(samples[0].best() >= 3e-3 && samples[1].median() >= 12e-3);
        assert!(samples[0].times_faster_than(&samples[1]) > 1.0);
    }

    #[test]
    fn the_median_is_a_sample() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.0);
        assert_eq!(Samples(vec![3.0, 1.0]).best(), 1.0);
        assert_eq!(Samples(vec![1.0, 2.0, 4.0]).times_faster_than(&Samples(vec![2.0, 8.0, 8.0])), 2.0);
    }
}
