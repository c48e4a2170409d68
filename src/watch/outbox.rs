//! What a session has told: numbered events, kept until they are acknowledged. A plain rule without a clock or a task.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Event, Numbered};

/// The events of one session.
#[derive(Debug)]
pub struct Outbox {
    /// Ascending, without gaps.
    kept: VecDeque<Arc<Numbered>>,
    /// Number of the next one.
    next: u64,
    kept_max: usize,
    over: bool,
}

impl Outbox {
    /// Nothing told yet; full with `kept_max` events.
    pub fn new(kept_max: usize) -> Self {
        Self { kept: VecDeque::new(), next: 1, kept_max, over: false }
    }

    /// Tells an event, whether there is room or not: who tells asks before it begins, and what it begins it finishes.
    /// After [`Event::Finished`] nothing is told any more.
    pub fn tell(&mut self, event: Event) {
        if self.over {
            return;
        }
        self.over = matches!(event, Event::Finished(_));
        self.kept.push_back(Arc::new(Numbered { number: self.next, event }));
        self.next += 1;
    }

    /// Whether more may be begun.
    pub fn has_room(&self) -> bool {
        self.kept.len() < self.kept_max
    }

    /// Whether the last event has been told.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The first event above `after` that is kept.
    pub fn after(&self, after: u64) -> Option<Arc<Numbered>> {
        self.kept.get(self.kept.partition_point(|event| event.number <= after)).cloned()
    }

    /// Forgets the events up to `through`; those that are still to come are not meant.
    pub fn acknowledge(&mut self, through: u64) {
        let forgotten = self.kept.partition_point(|event| event.number <= through);
        self.kept.drain(..forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{DropReason, Dropped, Finished, Span, Stats};
    use proptest::prelude::*;

    fn event(frames: u64) -> Event {
        Event::Dropped(Dropped { span: Span::default(), frames, reason: DropReason::Behind })
    }

    fn number(found: Option<Arc<Numbered>>) -> Option<u64> {
        found.map(|event| event.number)
    }

    #[test]
    fn events_are_numbered_from_one_and_the_last_is_the_last() {
        let mut outbox = Outbox::new(2);
        assert!(outbox.has_room() && outbox.after(0).is_none());
        outbox.tell(event(0));
        assert!(outbox.has_room());
        outbox.tell(event(0));
        assert!(!outbox.has_room(), "two are kept");
        outbox.tell(event(0));
        assert_eq!(
            [0, 1, 2, 3, u64::MAX].map(|after| number(outbox.after(after))),
            [Some(1), Some(2), Some(3), None, None]
        );
        outbox.acknowledge(2);
        assert!(outbox.has_room());
        assert_eq!(number(outbox.after(0)), Some(3), "what is forgotten is passed over");
        outbox.acknowledge(u64::MAX);
        outbox.tell(Event::Finished(Finished { stats: Stats::default(), error: None }));
        assert_eq!(number(outbox.after(3)), Some(4), "it was not there when all were acknowledged");
        outbox.tell(event(0));
        assert!(outbox.is_over() && outbox.after(4).is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled_between_reading_and_acknowledging(
            steps in prop::collection::vec((0..4_u8, 0..6_u64), 1..200),
        ) {
            let (mut outbox, mut told, mut read, mut acknowledged) = (Outbox::new(4), 0, Vec::new(), 0);
            for (step, amount) in steps {
                match step {
                    0 | 1 => {
                        outbox.tell(event(told));
                        told += 1;
                    }
                    2 => {
                        let last: u64 = read.last().copied().unwrap_or(0);
                        read.extend(number(outbox.after(last)));
                    }
                    // Only what was read, as a client does; and sometimes again what was before.
                    _ => {
                        let last: u64 = read.last().copied().unwrap_or(0);
                        acknowledged = acknowledged.max(last.saturating_sub(amount));
                        outbox.acknowledge(last.saturating_sub(amount));
                    }
                }
                prop_assert_eq!(outbox.kept.len() as u64, told - acknowledged);
                prop_assert_eq!(outbox.has_room(), told - acknowledged < 4);
            }
            while let Some(event) = outbox.after(read.last().copied().unwrap_or(0)) {
                read.push(event.number);
            }
            prop_assert_eq!(read, (1..=told).collect::<Vec<_>>());
        }
    }
}
