//! What work costs, in tokens of each stage, and how long it will take by what earlier work took.
//!
//! Tokens are what budgets count, because they are known beforehand and the same on every machine. Time is what
//! people wait for; it is learned while the model runs.

use std::time::Duration;

/// What a piece of work asks of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// What the vision encoder makes of its clip.
    pub vision: Part,
    /// Its question.
    pub question: Part,
    /// Visual tokens that the predictor reads before the question.
    pub read: usize,
    /// Tokens of its texts whose embeddings are not known.
    pub text: usize,
    /// What the decoder may write.
    pub decoder: Part,
}

/// Tokens of a stage that a batch computes once for all who ask the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// How many.
    pub tokens: usize,
    /// Equal where the same is asked: a digest.
    pub same: u64,
}

impl Part {
    fn beside(self, other: Part) -> Self {
        if self == other { Self { tokens: 0, ..self } } else { self }
    }
}

impl Cost {
    /// All of it, tokens.
    pub fn tokens(&self) -> usize {
        self.vision.tokens + self.question.tokens + self.text + self.decoder.tokens
    }

    /// What it adds to a batch that does `others` anyway.
    pub fn beside<'a>(self, others: impl IntoIterator<Item = &'a Cost>) -> Self {
        others.into_iter().fold(self, |left, other| Self {
            vision: left.vision.beside(other.vision),
            question: left.question.beside(other.question),
            decoder: left.decoder.beside(other.decoder),
            ..left
        })
    }
}

/// Tokens that passed through each stage of the model, those of the decoder at their longest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// The vision encoder, equal clips once.
    pub vision: usize,
    /// The predictor: visual tokens and questions, equal scenes once.
    pub predictor: usize,
    /// The text encoder, equal texts once.
    pub text: usize,
    /// The decoder, equal answers once.
    pub decoder: usize,
}

impl Passed {
    /// By stage, in the order they run.
    pub fn stages(self) -> [usize; STAGES] {
        [self.vision, self.predictor, self.text, self.decoder]
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            vision: self.vision + other.vision,
            predictor: self.predictor + other.predictor,
            text: self.text + other.text,
            decoder: self.decoder + other.decoder,
        }
    }
}

const STAGES: usize = 4;

/// How fast each stage is, by what it took lately.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    stages: [Speed; STAGES],
    all: Speed,
}

/// Tokens and the time they took; older ones count for less and less.
#[derive(Debug, Clone, Copy, Default)]
struct Speed {
    tokens: f64,
    seconds: f64,
}

impl Speed {
    fn learn(&mut self, tokens: usize, time: Duration) {
        /// What a batch leaves of the weight of those before it.
        const KEPT: f64 = 0.8;
        if tokens > 0 {
            self.tokens = self.tokens * KEPT + tokens as f64;
            self.seconds = self.seconds * KEPT + time.as_secs_f64();
        }
    }

    fn seconds_per_token(&self) -> Option<f64> {
        (self.tokens > 0.0).then(|| self.seconds / self.tokens)
    }
}

/// How long work will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The time.
    pub time: Duration,
    /// Whether every stage of it has been measured.
    pub measured: bool,
}

impl Pace {
    /// Learns from a batch: what passed through each stage and how long that took.
    pub fn learn(&mut self, passed: Passed, times: [Duration; STAGES]) {
        for ((speed, tokens), time) in self.stages.iter_mut().zip(passed.stages()).zip(times) {
            speed.learn(tokens, time);
        }
    }

    /// Learns how long a batch took as a whole, its cost as the door counts it.
    pub fn learn_all(&mut self, cost: usize, time: Duration) {
        self.all.learn(cost, time);
    }

    /// Cost that is worked off in a second; nothing before the first batch.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.all.seconds_per_token().map(|seconds| 1.0 / seconds.max(1e-9))
    }

    /// How long work of `cost` takes; a stage that was never measured is taken for slow.
    pub fn estimate(&self, cost: &Cost) -> Estimate {
        const UNMEASURED_SECONDS: f64 = 1e-3;
        let predictor = if cost.question.tokens > 0 { cost.read + cost.question.tokens } else { 0 };
        let (mut seconds, mut measured) = (0.0, true);
        for (speed, tokens) in self.stages.iter().zip([cost.vision.tokens, predictor, cost.text, cost.decoder.tokens]) {
            let known = speed.seconds_per_token();
            measured &= tokens == 0 || known.is_some();
            seconds += tokens as f64 * known.unwrap_or(UNMEASURED_SECONDS);
        }
        Estimate { time: Duration::from_secs_f64(seconds.min(1e9)), measured }
    }
}

/// When to come again: when a backlog of `cost` has been worked off at `tokens_per_second`, within bounds; at once
/// where no pace is known.
pub fn come_again(cost: usize, tokens_per_second: Option<f64>, [least, most]: [Duration; 2]) -> Duration {
    const FOREVER_SECONDS: f64 = 1e9;
    let seconds = tokens_per_second.map_or(0.0, |speed| cost as f64 / speed);
    Duration::from_secs_f64(seconds.min(FOREVER_SECONDS)).min(most).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_was_never_measured_is_slow_and_said_to_be_unmeasured() {
        let mut pace = Pace::default();
        let text = Cost { text: 5, ..Cost::default() };
        assert_eq!(pace.estimate(&text), Estimate { time: 5 * MS, measured: false });
        pace.learn(Passed { text: 100, ..Passed::default() }, [Duration::ZERO, Duration::ZERO, 10 * MS, MS]);
        assert_eq!(pace.estimate(&text), Estimate { time: MS / 2, measured: true });
        assert!(!pace.estimate(&Cost { decoder: Part { tokens: 1, same: 0 }, ..text }).measured);
        assert_eq!(pace.tokens_per_second(), None);
    }

    #[test]
    fn what_others_ask_too_is_added_once_and_a_new_question_about_a_clip_still_reads_it() {
        let part = |tokens, same| Part { tokens, same };
        let ask = |clip, question| Cost {
            vision: part(100, clip),
            question: part(5, question),
            read: 100,
            text: 3,
            decoder: part(20, question),
        };
        let batch = [ask(1, 1), ask(2, 2)];
        for (about, cost, expected) in [
            ("all is new", ask(3, 3), 128),
            ("the clip is known", ask(2, 3), 28),
            ("only texts are never shared", ask(2, 2), 3),
        ] {
            assert_eq!(cost.beside(&batch).tokens(), expected, "{about}");
        }
        let mut pace = Pace::default();
        let each = Passed { vision: 1, predictor: 1, text: 1, decoder: 1 };
        pace.learn(each, [MS; 4]);
        assert_eq!(pace.estimate(&ask(2, 3).beside(&batch)).time, (105 + 3 + 20) * MS);
        assert_eq!(pace.estimate(&ask(2, 2).beside(&batch)).time, 3 * MS);
    }

    #[test]
    fn what_took_long_lately_counts_most() {
        let mut pace = Pace::default();
        let mut took = |ms| {
            pace.learn(
                Passed { vision: 10, ..Passed::default() },
                [ms * MS, Duration::ZERO, Duration::ZERO, Duration::ZERO],
            );
            pace.learn_all(10, ms * MS);
            (
                pace.estimate(&Cost { vision: Part { tokens: 10, same: 0 }, ..Cost::default() }).time,
                pace.tokens_per_second().expect("learned"),
            )
        };
        assert_eq!(took(10).0, 10 * MS);
        let (slower, _) = took(100);
        assert!((59 * MS..61 * MS).contains(&slower), "{slower:?}");
        let (time, speed) = (0..30).map(|_| took(20)).last().expect("thirty");
        assert!((19 * MS..21 * MS).contains(&time) && (speed - 500.0).abs() < 25.0, "{time:?} {speed}");
    }

    #[test]
    fn who_is_refused_comes_again_when_the_backlog_is_gone() {
        let bounds = [100 * MS, 30_000 * MS];
        for (cost, speed, expected_ms) in [
            (2000, Some(1000.0), 2000),
            (50, Some(1000.0), 100),
            (1 << 40, Some(1000.0), 30_000),
            (1000, Some(1e-300), 30_000),
            (1000, None, 100),
        ] {
            assert_eq!(come_again(cost, speed, bounds), expected_ms * MS, "{cost} {speed:?}");
        }
    }
}
