//! Which sessions there are, whose they are, who holds them and until when: a plain struct that is given the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::engine::Owner;

/// What a session is found by: the hash of its token, so that no time tells how much of a guess was right.
pub(super) type Key = [u8; 32];

/// How many sessions there are, and of these how many nobody holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// With a client, those that begin included.
    pub attached: usize,
    /// Without one: their calls broke.
    pub detached: usize,
}

/// There is no room for a further session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// When room may come: a session that nobody holds is forgotten then. None if all are held.
    pub(super) room_at: Option<Instant>,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Roll<S> {
    kept: HashMap<Key, Kept<S>>,
    /// Sessions that begin: they have their places already.
    opening: usize,
    max: usize,
    /// How long a session without a client is kept.
    resume: Duration,
    closed: bool,
}

#[derive(Debug)]
struct Kept<S> {
    session: S,
    owner: Owner,
    /// The number of the newest claim: only that one's leaving leaves the session alone.
    claim: u64,
    /// When it is forgotten, if nobody holds it.
    forgotten: Option<Instant>,
}

impl<S: Clone> Roll<S> {
    pub(super) fn new(max: usize, resume: Duration) -> Self {
        Self { kept: HashMap::new(), opening: 0, max, resume, closed: false }
    }

    /// Takes a place for a session that begins. If all are taken, one goes whose session `is_over` and held by nobody: it
    /// is kept only for what its client may not have read. That one is given back, to be dropped outside of any lock.
    pub(super) fn enter(&mut self, is_over: impl Fn(&S) -> bool) -> Result<Option<S>, Full> {
        let mut gone = None;
        if self.kept.len() + self.opening >= self.max {
            let left = self.kept.iter().filter_map(|(key, kept)| Some((kept.forgotten?, key, kept)));
            let over = left.clone().filter(|(.., kept)| is_over(&kept.session)).min_by_key(|&(at, ..)| at);
            let Some(key) = over.map(|(_, key, _)| *key) else {
                return Err(Full { room_at: left.map(|(at, ..)| at).min() });
            };
            gone = self.remove(&key);
        }
        self.opening += 1;
        Ok(gone)
    }

    /// Gives a place back whose session did not begin.
    pub(super) fn withdraw(&mut self) {
        self.opening -= 1;
    }

    /// A session has begun in a place that was taken for it; its first claim.
    pub(super) fn put(&mut self, key: Key, session: S, owner: Owner) -> u64 {
        self.opening -= 1;
        self.kept.insert(key, Kept { session, owner, claim: 1, forgotten: None });
        1
    }

    /// The session of `key` as `owner` sees it, with the number of a new claim on it. What is another's is as absent as
    /// what was forgotten.
    pub(super) fn claim(&mut self, key: &Key, owner: &Owner, now: Instant) -> Option<(S, u64)> {
        if self.closed {
            return None;
        }
        let kept = self.kept.get_mut(key).filter(|kept| kept.owner == *owner)?;
        if kept.forgotten.is_some_and(|at| at <= now) {
            return None;
        }
        (kept.claim, kept.forgotten) = (kept.claim + 1, None);
        Some((kept.session.clone(), kept.claim))
    }

    /// Whoever has claim number `claim` lets go of it. Nothing happens if a newer claim was made; the session is given if it
    /// is not kept any longer.
    pub(super) fn leave(&mut self, key: &Key, claim: u64, now: Instant) -> Option<S> {
        let (closed, resume) = (self.closed, self.resume);
        let kept = self.kept.get_mut(key).filter(|kept| kept.claim == claim)?;
        if closed || resume.is_zero() {
            return self.remove(key);
        }
        kept.forgotten = Some(now + resume);
        None
    }

    /// The session is not kept, if claim number `claim` is the newest on it.
    pub(super) fn end(&mut self, key: &Key, claim: u64) -> Option<S> {
        self.kept.get(key).filter(|kept| kept.claim == claim)?;
        self.remove(key)
    }

    /// Gives what is forgotten by now.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<S> {
        let forgotten = self.kept.extract_if(|_, kept| kept.forgotten.is_some_and(|at| at <= now));
        forgotten.map(|(_, kept)| kept.session).collect()
    }

    /// From now on what nobody holds is not kept: gives all of it.
    pub(super) fn close(&mut self) -> Vec<S> {
        self.closed = true;
        self.kept.extract_if(|_, kept| kept.forgotten.is_some()).map(|(_, kept)| kept.session).collect()
    }

    /// When the next one is forgotten.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.kept.values().filter_map(|kept| kept.forgotten).min()
    }

    pub(super) fn counted(&self) -> Counted {
        let detached = self.kept.values().filter(|kept| kept.forgotten.is_some()).count();
        Counted { attached: self.kept.len() - detached + self.opening, detached }
    }

    fn remove(&mut self, key: &Key) -> Option<S> {
        self.kept.remove(key).map(|kept| kept.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Key = [1; 32];
    const B: Key = [2; 32];
    const C: Key = [3; 32];

    fn roll(max: usize) -> Roll<char> {
        Roll::new(max, Duration::from_millis(100))
    }

    fn begin(roll: &mut Roll<char>, key: Key, session: char, owner: &Owner) -> u64 {
        roll.enter(|_| false).expect("room");
        roll.put(key, session, owner.clone())
    }

    fn counted(attached: usize, detached: usize) -> Counted {
        Counted { attached, detached }
    }

    #[test]
    fn a_session_is_its_owners_and_only_until_it_is_forgotten() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (nobody, alice): (Owner, Owner) = (None, Some("alice".into()));
        let mut roll = roll(4);
        let first = begin(&mut roll, A, 'a', &alice);
        assert_eq!(roll.next_expiry(), None, "it is held");
        assert_eq!(roll.leave(&A, first, at(0)), None);
        assert_eq!((roll.counted(), roll.next_expiry()), (counted(0, 1), Some(at(100))));
        assert_eq!(roll.claim(&A, &nobody, at(1)), None, "another's");
        assert_eq!(roll.claim(&B, &alice, at(1)), None, "never was");
        assert_eq!(roll.claim(&A, &alice, at(100)), None, "the sweep may come late");
        assert_eq!(roll.claim(&A, &alice, at(99)), Some(('a', 2)));
        assert_eq!((roll.expire(at(500)), roll.counted()), (vec![], counted(1, 0)));
        assert_eq!(roll.leave(&A, 2, at(500)), None);
        assert_eq!((roll.expire(at(599)), roll.expire(at(600))), (vec![], vec!['a']));
        assert_eq!((roll.claim(&A, &alice, at(600)), roll.counted()), (None, counted(0, 0)));
    }

    #[test]
    fn only_the_newest_claim_can_leave_a_session_or_end_it() {
        let now = Instant::now();
        let mut roll = roll(4);
        let first = begin(&mut roll, A, 'a', &None);
        let (_, second) = roll.claim(&A, &None, now).expect("taken over");
        assert_eq!((roll.leave(&A, first, now), roll.end(&A, first)), (None, None));
        assert_eq!(roll.counted(), counted(1, 0), "the second holds it");
        // The second gives up before it had it.
        assert_eq!((roll.leave(&A, second, now), roll.counted()), (None, counted(0, 1)));
        let (_, third) = roll.claim(&A, &None, now).expect("kept");
        assert_eq!((roll.end(&A, third), roll.counted()), (Some('a'), counted(0, 0)));
        assert_eq!((roll.end(&A, third), roll.leave(&A, third, now)), (None, None));
    }

    #[test]
    fn places_are_bounded_and_what_is_over_makes_room() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut roll = roll(2);
        assert_eq!(roll.enter(|_| true), Ok(None));
        let b = begin(&mut roll, B, 'b', &None);
        assert_eq!(roll.enter(|_| true), Err(Full { room_at: None }), "one begins, one is held");
        roll.withdraw();
        let a = begin(&mut roll, A, 'a', &None);
        roll.leave(&B, b, at(7));
        roll.leave(&A, a, at(3));
        assert_eq!(roll.enter(|_| false), Err(Full { room_at: Some(at(103)) }), "they go on");
        assert_eq!(roll.enter(|&session| session == 'b'), Ok(Some('b')));
        assert_eq!(roll.enter(|_| true), Ok(Some('a')));
        assert_eq!((roll.put(C, 'c', None), roll.counted()), (1, counted(2, 0)));
        assert_eq!(Roll::<char>::new(0, Duration::ZERO).enter(|_| true), Err(Full { room_at: None }));
    }

    #[test]
    fn after_the_close_nothing_is_kept_that_nobody_holds() {
        let now = Instant::now();
        let mut roll = roll(4);
        let (a, b) = (begin(&mut roll, A, 'a', &None), begin(&mut roll, B, 'b', &None));
        roll.leave(&A, a, now);
        assert_eq!((roll.close(), roll.claim(&B, &None, now)), (vec!['a'], None));
        assert_eq!((roll.leave(&B, b, now), roll.counted()), (Some('b'), counted(0, 0)));

        let mut never = Roll::new(4, Duration::ZERO);
        let a = begin(&mut never, A, 'a', &None);
        assert_eq!(never.leave(&A, a, now), Some('a'), "there is no taking up again");
    }
}
