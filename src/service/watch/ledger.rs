//! What a session's client may send and has been told: plain counts, which outlive the calls of the session.

use crate::engine::EngineError;
use crate::service::convert::Checked;

/// The counts of one session.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Of each query, whether it can be put into words.
    pub spoken: Vec<bool>,
    /// Frames that were taken.
    frames: u64,
    /// Frames that the client was told it may send in all.
    granted: u64,
    /// The number of the last event that was told.
    told: u64,
    /// Events up to this number are not kept.
    acknowledged: u64,
}

impl Ledger {
    pub fn new(spoken: Vec<bool>) -> Self {
        Self { spoken, ..Self::default() }
    }

    /// A call begins, while `granted` frames in all may be sent: its credits.
    pub fn begin(&mut self, granted: u64) -> u32 {
        self.granted = granted.max(self.frames);
        credits(self.granted - self.frames)
    }

    /// The credits that are new if `granted` frames in all may be sent.
    pub fn credit(&mut self, granted: u64) -> Option<u32> {
        let more = granted.saturating_sub(self.granted);
        self.granted += more;
        (more > 0).then(|| credits(more))
    }

    /// Whether a frame may come.
    pub fn has_credit(&self) -> bool {
        self.frames < self.granted
    }

    /// A frame was taken.
    pub fn takes_frame(&mut self) {
        self.frames += 1;
    }

    /// Event `number` goes to the client; of one that was told before nothing is new.
    pub fn tells(&mut self, number: u64) {
        self.told = self.told.max(number);
    }

    /// The client has all events up to `number`.
    pub fn acknowledge(&mut self, number: u64) -> Checked<()> {
        if number > self.told {
            return Err(invalid("ack.event", number, format!("the last one sent was {}", self.told)));
        }
        self.acknowledged = self.acknowledged.max(number);
        Ok(())
    }

    /// A client takes up the session that has all events up to `after`.
    pub fn resume(&mut self, after: u64) -> Checked<()> {
        let problem = match after {
            _ if after > self.told => format!("the last one sent was {}", self.told),
            _ if after < self.acknowledged => format!("those up to {} are not kept any more", self.acknowledged),
            _ => return self.acknowledge(after),
        };
        Err(invalid("start.resume_after", after, problem))
    }

    /// Events that were told and are kept.
    pub fn kept(&self) -> u64 {
        self.told - self.acknowledged
    }

    /// For a client that can acknowledge no more: when `max` events are kept, the older half of them counts as
    /// acknowledged. The number up to which they do.
    pub fn relieve(&mut self, max: u64) -> Option<u64> {
        if self.kept() < max {
            return None;
        }
        self.acknowledged = self.told - max / 2;
        Some(self.acknowledged)
    }
}

/// A session never has more, by its settings.
fn credits(frames: u64) -> u32 {
    u32::try_from(frames).unwrap_or(u32::MAX)
}

fn invalid(field: &str, number: u64, problem: String) -> EngineError {
    EngineError::Invalid { field: field.into(), problem: format!("is {number}, {problem}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_told_once_and_outlive_the_call() {
        let mut ledger = Ledger::new(vec![true]);
        assert!(!ledger.has_credit());
        assert_eq!((ledger.begin(3), ledger.credit(3)), (3, None));
        for _ in 0..3 {
            assert!(ledger.has_credit());
            ledger.takes_frame();
        }
        assert!(!ledger.has_credit(), "a fourth was not granted");
        assert_eq!((ledger.credit(5), ledger.credit(5), ledger.credit(4)), (Some(2), None, None));
        ledger.takes_frame();
        // Two more were granted while there was no call.
        assert_eq!((ledger.begin(7), ledger.credit(8)), (3, Some(1)));
        assert_eq!(Ledger::new(vec![]).credit(u64::MAX), Some(u32::MAX));
    }

    #[test]
    fn nobody_has_what_was_not_sent_and_what_is_gone_is_not_sent_again() {
        let mut ledger = Ledger::new(vec![]);
        (1..=10).for_each(|number| ledger.tells(number));
        ledger.tells(4);
        let problem = |checked: Checked<()>| checked.map_err(|error| error.to_string());
        assert_eq!((problem(ledger.acknowledge(7)), ledger.kept()), (Ok(()), 3));
        assert_eq!((problem(ledger.acknowledge(3)), ledger.kept()), (Ok(()), 3), "late, and no harm");
        let wrong = |told: &str| Err(told.to_owned());
        assert_eq!(problem(ledger.acknowledge(11)), wrong("ack.event: is 11, the last one sent was 10"));
        assert!(ledger.acknowledge(u64::MAX).is_err());
        assert_eq!(problem(ledger.resume(11)), wrong("start.resume_after: is 11, the last one sent was 10"));
        let gone = "start.resume_after: is 6, those up to 7 are not kept any more";
        assert_eq!(problem(ledger.resume(6)), wrong(gone));
        assert_eq!((problem(ledger.resume(7)), ledger.kept()), (Ok(()), 3));
        assert_eq!((problem(ledger.resume(9)), ledger.kept()), (Ok(()), 1), "who has it need not have it kept");
        assert_eq!((problem(ledger.resume(10)), ledger.kept()), (Ok(()), 0));
    }

    #[test]
    fn a_client_that_cannot_acknowledge_loses_the_older_half_and_only_when_it_must() {
        let mut ledger = Ledger::new(vec![]);
        ledger.tells(7);
        assert_eq!(ledger.relieve(8), None);
        ledger.tells(8);
        assert_eq!((ledger.relieve(8), ledger.kept(), ledger.relieve(8)), (Some(4), 4, None));
        ledger.tells(1000);
        assert_eq!((ledger.relieve(1), ledger.kept()), (Some(1000), 0));
    }
}
