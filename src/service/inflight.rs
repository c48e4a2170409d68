//! The bytes that all calls together hold: messages that came in and are not answered, answers that are not yet written.
//!
//! One number for the whole server, because a limit a connection bounds nothing when anybody may open another one.
//! What is taken is a value that gives it back when it is dropped, so that no way out of a call can forget it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::engine::{EngineError, seen};

/// Bytes that may be held, and that are. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    held: AtomicUsize,
    max: usize,
}

/// So many bytes of a budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Budget,
    bytes: usize,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Budget {
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Inner { held: AtomicUsize::new(0), max }))
    }

    /// The most that may be held.
    pub(super) fn max(&self) -> usize {
        self.0.max
    }

    /// What is held now.
    pub(super) fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Nothing yet: to be resized.
    pub(super) fn nothing(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }

    /// Counts `bytes` even if there is no room: what stands in memory already. Nothing new finds room then.
    pub(super) fn count(&self, bytes: Bytes) -> Bytes {
        self.0.held.fetch_add(bytes.len(), Ordering::Relaxed);
        let held = Held { budget: self.clone(), bytes: bytes.len() };
        Bytes::from_owner(Counted { bytes, _held: held })
    }
}

impl Held {
    /// Holds `bytes` from now on instead of what it held, or what it held if there is no room.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        let Inner { held, max } = &*self.budget.0;
        let resized = |now: usize| Some(now - self.bytes + bytes).filter(|&then| bytes <= self.bytes || then <= *max);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, resized).map_err(|_| Full)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What one call may use up: its part of the budget, and how much its messages may unfold to.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    held: Arc<Mutex<Held>>,
    retry_after: Duration,
    /// Elements of all repeated fields of one message.
    pub(super) elements_max: usize,
}

tokio::task_local! {
    /// The allowance of the call that is handled now: decoders are made without an argument.
    static CURRENT: Allowance;
}

impl Allowance {
    pub(super) fn new(budget: &Budget, retry_after: Duration, elements_max: usize) -> Self {
        Self { held: Arc::new(Mutex::new(budget.nothing())), retry_after, elements_max }
    }

    /// The allowance of the call that is handled now; none outside a call, in a client.
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Makes this the current one for `handled`.
    pub(super) fn scope<F: Future>(self, handled: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, handled)
    }

    /// A message of `bytes` begins, the one before is done with: a stream is charged for one message at a time.
    pub(super) fn message(&self, bytes: usize) -> Result<(), EngineError> {
        self.held().resize(bytes).map_err(|Full| self.full())
    }

    /// The message turned out to be `bytes` long, decompressed.
    pub(super) fn unfolded(&self, bytes: usize) -> Result<(), EngineError> {
        let mut held = self.held();
        let bytes = bytes.max(held.bytes);
        held.resize(bytes).map_err(|Full| self.full())
    }

    /// Room for `bytes` more that outlive their message: an item of a stream that is not answered yet.
    pub(super) fn hold(&self, bytes: usize) -> Result<Held, EngineError> {
        let mut more = self.held().budget.nothing();
        more.resize(bytes).map_err(|Full| self.full())?;
        Ok(more)
    }

    fn full(&self) -> EngineError {
        seen::refused("inflight_bytes");
        EngineError::Overloaded { what: "the memory of calls in flight", retry_after: self.retry_after }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (budget.nothing(), budget.nothing());
        assert_eq!((one.resize(6), other.resize(5)), (Ok(()), Err(Full)));
        assert_eq!((other.resize(4), budget.held()), (Ok(()), 10));
        assert_eq!((one.resize(7), budget.held()), (Err(Full), 10));
        drop(one);
        assert_eq!(budget.held(), 4);
    }

    #[test]
    fn what_stands_already_is_counted_and_may_shrink_while_there_is_no_room() {
        let budget = Budget::new(10);
        let mut request = budget.nothing();
        request.resize(8).expect("room");
        let answer = budget.count(Bytes::from_static(b"0123456789"));
        assert_eq!((budget.held(), request.resize(9), request.resize(3)), (18, Err(Full), Ok(())));
        let half = answer.slice(5..);
        drop(answer);
        assert_eq!(budget.held(), 13, "a part keeps the whole");
        drop(half);
        assert_eq!(budget.held(), 3);
    }

    proptest! {
        #[test]
        fn never_more_than_the_budget_and_all_of_it_comes_back(sizes in prop::collection::vec((0_usize..4, 0_usize..60), 1..50)) {
            let budget = Budget::new(100);
            let mut held: [Held; 4] = std::array::from_fn(|_| budget.nothing());
            for (at, bytes) in sizes {
                let before = held[at].bytes;
                let kept = held[at].resize(bytes).is_ok();
                prop_assert_eq!(held[at].bytes, if kept { bytes } else { before });
                prop_assert_eq!(budget.held(), held.iter().map(|one| one.bytes).sum::<usize>());
                prop_assert!(budget.held() <= 100);
            }
            drop(held);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
