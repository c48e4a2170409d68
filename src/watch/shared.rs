//! What the hands on a session and its task share: what waits and what was told, under one lock, and who is told when it
//! changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::event::{Event, Finished};
use super::inbox::Inbox;
use super::outbox::Outbox;

/// What waits and what was told.
#[derive(Debug)]
pub struct State {
    /// What waits.
    pub inbox: Inbox,
    /// What was told.
    pub outbox: Outbox,
}

/// The state, and who waits for which change of it.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    changed: Notify,
    granted: watch::Sender<u64>,
}

impl Shared {
    /// A session of which nothing is known yet.
    pub fn new(inbox: Inbox, outbox: Outbox) -> Self {
        let granted = watch::Sender::new(inbox.granted());
        Self { state: Mutex::new(State { inbox, outbox }), changed: Notify::new(), granted }
    }

    /// Looks at the state.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state, and tells whoever waits for that.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let outcome = change(&mut state);
        let granted = state.inbox.granted();
        self.granted.send_if_modified(|before| std::mem::replace(before, granted) != granted);
        drop(state);
        self.changed.notify_waiters();
        outcome
    }

    /// Changes the state as soon as `change` has an outcome; it must leave everything as it is where it has none.
    pub async fn when<T>(&self, mut change: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look: what happens between it and the waiting is not missed.
            changed.as_mut().enable();
            let outcome = change(&mut self.lock());
            if let Some(outcome) = outcome {
                // It may have made room for others.
                self.change(|_| ());
                return outcome;
            }
            changed.await;
        }
    }

    /// Tells an event.
    pub fn tell(&self, event: Event) {
        self.change(|state| state.outbox.tell(event));
    }

    /// Tells the last event, and before it what was dropped since and with the end; `finished` is given how many frames came
    /// and how many were dropped, in all. Where it has been told already nothing happens.
    pub fn end(&self, finished: impl FnOnce([u64; 2]) -> Finished) {
        self.change(|State { inbox, outbox }| {
            if outbox.is_over() {
                return;
            }
            let behind = inbox.take_notice();
            for notice in behind.into_iter().chain(inbox.end()) {
                outbox.tell(Event::Dropped(notice));
            }
            outbox.tell(Event::Finished(finished([inbox.came(), inbox.dropped()])));
        });
    }

    /// How many frames may have been sent in all, whenever that changes.
    pub fn granted(&self) -> watch::Receiver<u64> {
        self.granted.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
