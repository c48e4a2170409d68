//! Whose shard is next: the rule among jobs, a plain struct.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::job::JobId;
use super::spec::Rank;

/// Which job had its last turn when.
#[derive(Debug, Default)]
pub struct Turns {
    turn: u64,
    last: HashMap<JobId, u64>,
}

impl Turns {
    /// The job whose turn it is among those that have something to do: one of the highest rank, and among these the one
    /// that has waited longest, the eldest of those that never had a turn.
    pub fn next<'a>(&mut self, ready: impl Iterator<Item = (&'a JobId, Rank)>) -> Option<JobId> {
        let place = |(id, rank): &(&'a JobId, Rank)| (Reverse(*rank), self.last.get(*id).copied(), *id);
        let (next, _) = ready.min_by_key(place)?;
        self.turn += 1;
        self.last.insert(next.clone(), self.turn);
        Some(next.clone())
    }

    /// A job has nothing to do any more.
    pub fn forget(&mut self, id: &JobId) {
        self.last.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the next `count` jobs among `ready`, written as letters of names and digits of ranks.
    fn order(turns: &mut Turns, ready: &[(&str, Rank)], count: usize) -> String {
        let jobs: Vec<(JobId, Rank)> = ready.iter().map(|(id, rank)| (JobId((*id).into()), *rank)).collect();
        let next = |_| turns.next(jobs.iter().map(|(id, rank)| (id, *rank))).expect("somebody is ready").0;
        (0..count).map(next).collect()
    }

    #[test]
    fn ranks_first_then_turns() {
        use Rank::{High, Low, Normal};
        for (ready, expected) in [
            (&[("a", Normal)][..], "aaaaaa"),
            (&[("b", Normal), ("a", Normal)], "ababab"),
            (&[("c", Normal), ("a", Normal), ("b", Normal)], "abcabc"),
            (&[("a", Low), ("b", Normal), ("c", Normal)], "bcbcbc"),
            (&[("a", Low), ("b", Normal), ("c", High)], "cccccc"),
            (&[("a", Low), ("b", Low)], "ababab"),
        ] {
            assert_eq!(order(&mut Turns::default(), ready, 6), expected, "{ready:?}");
        }
        assert_eq!(Turns::default().next(std::iter::empty()), None);
    }

    #[test]
    fn a_new_job_has_the_next_turn_and_no_more_than_that() {
        let mut turns = Turns::default();
        assert_eq!(order(&mut turns, &[("a", Rank::Normal), ("b", Rank::Normal)], 3), "aba");
        let three = [("a", Rank::Normal), ("b", Rank::Normal), ("c", Rank::Normal)];
        assert_eq!(order(&mut turns, &three, 6), "cbacba");
        // Those that a higher rank held up go on where they were.
        assert_eq!(order(&mut turns, &[("a", Rank::Normal), ("d", Rank::High)], 2), "dd");
        assert_eq!(order(&mut turns, &three, 3), "cba");
        turns.forget(&JobId("a".into()));
        assert_eq!(order(&mut turns, &three, 3), "acb");
    }
}
