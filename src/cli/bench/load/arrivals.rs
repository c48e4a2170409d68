//! When requests are sent and which: a schedule drawn before anything is measured, so that a slow server cannot slow
//! down what it is measured with.
//!
//! Plain iterators from a seed; nothing here knows the time or the server.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pace {
    /// Independent of each other, as many clients make them: gaps are exponential.
    Poisson,
    /// All gaps alike.
    Constant,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rpc {
    /// Answer, with candidates.
    Answer,
    /// Predict, one item.
    Predict,
    /// EncodeText, the candidates.
    Encode,
    /// StreamPredict, one item a call.
    Stream,
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Class {
    /// Somebody waits for the answer.
    Interactive,
    /// A live session.
    Watch,
    /// Work that has time.
    Job,
}

/// How the client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Conduct {
    /// It waits for the answer to a sound request.
    Plain,
    /// Its media is cut in half.
    Spoilt,
    /// It leaves before the answer.
    Leaving,
    /// Its deadline is a few milliseconds.
    Hurried,
}

/// Kinds of something with their weights, written `answer=8,predict=1`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mix<T>(Vec<(T, f64)>);

impl<T: Copy> Mix<T> {
    /// Always the same.
    pub(super) fn only(kind: T) -> Self {
        Self(vec![(kind, 1.0)])
    }

    /// Kinds and their weights, of which one at least is above 0.
    pub(super) fn of(weights: &[(T, f64)]) -> Self {
        Self(weights.to_vec())
    }

    fn draw(&self, random: &mut impl Rng) -> T {
        let total: f64 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut left = random.random::<f64>() * total;
        for &(kind, weight) in &self.0 {
            left -= weight;
            if left < 0.0 {
                return kind;
            }
        }
        self.0.iter().rfind(|(_, weight)| *weight > 0.0).expect("a mix weighs something").0
    }
}

impl<T: ValueEnum> FromStr for Mix<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = T::from_str(name.trim(), true).map_err(|_| format!("{name:?} is none of {}", names::<T>()))?;
            let weight = weight.trim().parse::<f64>().ok().filter(|weight| (0.0..=1e6).contains(weight));
            Ok((kind, weight.ok_or_else(|| format!("the weight of {name} must be a number from 0 to 1000000"))?))
        };
        let parts = text.split(',').map(part).collect::<Result<Vec<_>, String>>()?;
        match parts.iter().any(|(_, weight)| *weight > 0.0) {
            true => Ok(Self(parts)),
            false => Err("one weight at least must be above 0".into()),
        }
    }
}

impl<T: ValueEnum> Display for Mix<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |(kind, weight): &(T, f64)| format!("{}={weight}", name(kind));
        formatter.write_str(&self.0.iter().map(part).collect::<Vec<_>>().join(","))
    }
}

fn names<T: ValueEnum>() -> String {
    T::value_variants().iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The word for a kind.
pub(super) fn name<T: ValueEnum>(kind: &T) -> String {
    kind.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
}

/// One request of the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arrival {
    /// When it is to be sent, from the start.
    pub(super) at: Duration,
    pub(super) rpc: Rpc,
    pub(super) class: Class,
    pub(super) conduct: Conduct,
    /// Any number; what is asked about, and how early who leaves does so, is taken from it.
    pub(super) choice: u64,
}

/// What is drawn.
#[derive(Debug, Clone)]
pub(super) struct Kinds {
    pub(super) rpcs: Mix<Rpc>,
    pub(super) classes: Mix<Class>,
    pub(super) conducts: Mix<Conduct>,
}

/// Endless arrivals, the same for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    gaps: Gaps,
    kinds: Kinds,
    random: ChaCha8Rng,
}

impl Schedule {
    /// `rate` a second, above 0.
    pub(super) fn new(pace: Pace, rate: f64, kinds: Kinds, seed: u64) -> Self {
        // What is drawn does not depend on the pace.
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(1);
        Self { gaps: Gaps::new(pace, rate, seed), kinds, random }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let Kinds { rpcs, classes, conducts } = &self.kinds;
        let random = &mut self.random;
        let at = self.gaps.next()?;
        let (rpc, class, conduct) = (rpcs.draw(random), classes.draw(random), conducts.draw(random));
        Some(Arrival { at, rpc, class, conduct, choice: random.random() })
    }
}

/// Instants from the start on.
#[derive(Debug, Clone)]
struct Gaps {
    pace: Pace,
    rate: f64,
    count: u64,
    seconds: f64,
    random: ChaCha8Rng,
}

impl Gaps {
    fn new(pace: Pace, rate: f64, seed: u64) -> Self {
        assert!(rate > 0.0, "a rate is above 0");
        Self { pace, rate, count: 0, seconds: 0.0, random: ChaCha8Rng::seed_from_u64(seed) }
    }
}

impl Iterator for Gaps {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.count += 1;
        self.seconds = match self.pace {
            // By count, so that no rounding adds up.
            Pace::Constant => self.count as f64 / self.rate,
            Pace::Poisson => self.seconds - (1.0 - self.random.random::<f64>()).ln() / self.rate,
        };
        Some(Duration::from_secs_f64(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gaps(pace: Pace, rate: f64, seed: u64, count: usize) -> Vec<f64> {
        let instants: Vec<f64> = Gaps::new(pace, rate, seed).take(count).map(|at| at.as_secs_f64()).collect();
        std::iter::once(instants[0]).chain(instants.windows(2).map(|pair| pair[1] - pair[0])).collect()
    }

    fn kinds() -> Kinds {
        Kinds {
            rpcs: Mix::of(&[(Rpc::Answer, 8.0), (Rpc::Predict, 1.0), (Rpc::Encode, 1.0)]),
            classes: Mix::of(&[(Class::Interactive, 3.0), (Class::Watch, 0.0), (Class::Job, 1.0)]),
            conducts: Mix::only(Conduct::Plain),
        }
    }

    proptest! {
        #[test]
        fn poisson_gaps_have_mean_and_deviation_of_one_over_the_rate(rate in 0.1..10_000.0, seed: u64) {
            let gaps = gaps(Pace::Poisson, rate, seed, 20_000);
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            // Six deviations of each estimate: 6 / sqrt(20000), and twice as much for the square.
            prop_assert!((mean * rate - 1.0).abs() < 0.043, "{mean} at {rate}");
            prop_assert!((variance.sqrt() * rate - 1.0).abs() < 0.06, "{variance} at {rate}");
            prop_assert!(gaps.iter().all(|&gap| gap >= 0.0));
        }

        #[test]
        fn constant_gaps_are_constant(rate in 0.1..10_000.0, seed: u64) {
            for gap in gaps(Pace::Constant, rate, seed, 1000) {
                prop_assert!((gap - 1.0 / rate).abs() < 3e-9, "{gap} at {rate}");
            }
        }

        #[test]
        fn a_seed_is_a_schedule(seed: u64, rate in 1.0..1000.0) {
            let take = |pace, seed| Schedule::new(pace, rate, kinds(), seed).take(50).collect::<Vec<_>>();
            prop_assert_eq!(take(Pace::Poisson, seed), take(Pace::Poisson, seed));
            prop_assert_ne!(take(Pace::Poisson, seed), take(Pace::Poisson, seed.wrapping_add(1)));
            let choices = |pace| take(pace, seed).iter().map(|arrival| arrival.choice).collect::<Vec<_>>();
            prop_assert_eq!(choices(Pace::Poisson), choices(Pace::Constant));
        }
    }

    #[test]
    fn kinds_come_in_their_shares() {
        let drawn: Vec<Arrival> = Schedule::new(Pace::Constant, 1.0, kinds(), 7).take(40_000).collect();
        let share = |wanted: &dyn Fn(&Arrival) -> bool| {
            drawn.iter().filter(|arrival| wanted(arrival)).count() as f64 / drawn.len() as f64
        };
        for (about, share, expected) in [
            ("answer", share(&|arrival| arrival.rpc == Rpc::Answer), 0.8),
            ("encode", share(&|arrival| arrival.rpc == Rpc::Encode), 0.1),
            ("watch", share(&|arrival| arrival.class == Class::Watch), 0.0),
            ("job", share(&|arrival| arrival.class == Class::Job), 0.25),
            ("plain", share(&|arrival| arrival.conduct == Conduct::Plain), 1.0),
        ] {
            assert!((share - expected).abs() < 0.02, "{about}: {share}, not {expected}");
        }
    }

    #[test]
    fn mixes_are_read_and_wrong_ones_told() {
        let mix: Mix<Rpc> = "answer=8, predict=1,encode".parse().expect("a mix");
        assert_eq!(mix, Mix::of(&[(Rpc::Answer, 8.0), (Rpc::Predict, 1.0), (Rpc::Encode, 1.0)]));
        assert_eq!(mix.to_string(), "answer=8,predict=1,encode=1");
        for (wrong, told) in [
            ("", "none of answer, predict, encode, stream"),
            ("delete=1", "none of answer, predict, encode, stream"),
            ("answer=-1", "from 0 to 1000000"),
            ("answer=NaN", "from 0 to 1000000"),
            ("answer=0", "above 0"),
        ] {
            let error = wrong.parse::<Mix<Rpc>>().expect_err("wrong");
            assert!(error.contains(told), "{wrong:?}: {error}");
        }
    }
}
