//! One live session: a task that takes frames, asks the engine, and keeps what it tells until that is acknowledged.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::event::Numbered;
use super::inbox::Inbox;
use super::looker::Looker;
use super::outbox::Outbox;
use super::shared::Shared;
use super::spec::{Input, Spec};
use super::task;
use crate::engine::{Engine, EngineError, Trail};
use crate::settings::WatchSettings;

/// One live session; cheap to clone. It ends by itself when the last clone is dropped.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What it has at the engine goes with it: places are left, work nobody waits for is not done.
        self.task.abort();
    }
}

/// What was sent was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is no room for a frame now.
    Full,
    /// The session is over, or was asked to stop.
    Ended,
}

/// The session is over, or was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl Session {
    /// Starts one, as a task of the runtime it is called in. Fails where the model lacks what the queries' manners take, does
    /// not take so many frames of a window, or where a question has no word that is read; what else `spec` says has been
    /// checked against the settings by whoever made it.
    ///
    /// The session holds the engine until it is over, and ends with [`EngineError::Stopped`] when the model is taken away
    /// ([`Engine::retired`]).
    pub async fn start(engine: Engine, spec: Spec, bounds: &WatchSettings, trail: Trail) -> Result<Self, EngineError> {
        let inbox = Inbox::new(spec.drops, bounds);
        let shared = Arc::new(Shared::new(inbox, Outbox::new(bounds.events_kept_max)));
        let ahead = task::ahead(spec.drops, bounds);
        let looker = Looker::new(engine, spec, bounds, trail, shared.clone()).await?;
        let task = tokio::spawn(task::run(looker, shared.clone(), ahead)).abort_handle();
        Ok(Self(Arc::new(Inner { shared, task })))
    }

    /// Sends, waiting while there is no room for a frame. Everything else always has room, within a bound of its own
    /// beyond which this waits as well, and [`Unsent::Full`] is the answer of [`try_send`](Self::try_send). Who stops
    /// waiting has sent nothing.
    pub async fn send(&self, input: Input) -> Result<(), Ended> {
        let mut sent = Some(input);
        let outcome = self.0.shared.when(|state| match state.inbox.offer(sent.take()?) {
            Ok(()) => Some(Ok(())),
            Err((Unsent::Ended, _)) => Some(Err(Ended)),
            Err((Unsent::Full, input)) => {
                sent = Some(input);
                None
            }
        });
        outcome.await
    }

    /// Sends if there is room. Where frames may be dropped there always is.
    pub fn try_send(&self, input: Input) -> Result<(), Unsent> {
        self.0.shared.change(|state| state.inbox.offer(input)).map_err(|(why, _)| why)
    }

    /// Whether nothing will be computed any more: the last event is among those that are kept, or has been acknowledged.
    pub fn is_over(&self) -> bool {
        self.0.shared.look(|state| state.outbox.is_over())
    }

    /// How many frames may have been sent in all, duplicates included: what was granted at the start and what was given
    /// back since.
    pub fn granted(&self) -> watch::Receiver<u64> {
        self.0.shared.granted()
    }

    /// The highest number of a frame that has come.
    pub fn seq(&self) -> Option<u64> {
        self.0.shared.look(|state| state.inbox.seq())
    }

    /// The first event whose number is above `after`, when there is one; none: the session is over and nothing follows.
    pub async fn next(&self, after: u64) -> Option<Arc<Numbered>> {
        let next = self.0.shared.when(|state| match state.outbox.after(after) {
            None if !state.outbox.is_over() => None,
            found => Some(found),
        });
        next.await
    }

    /// Events up to this number are not kept any more. While too many are kept nothing is computed.
    pub fn acknowledge(&self, through: u64) {
        self.0.shared.change(|state| state.outbox.acknowledge(through));
    }
}
