//! One live session: a task that takes frames, asks the engine, and keeps what it tells until that is acknowledged.

use std::sync::Arc;

use tokio::sync::watch;

use super::event::Numbered;
use super::spec::{Input, Spec};
use crate::engine::{Engine, EngineError, Trail};
use crate::settings::WatchSettings;

/// One live session; cheap to clone. It ends by itself when the last clone is dropped.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner;

/// What was sent was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is no room for a frame now.
    Full,
    /// The session is over.
    Ended,
}

/// The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl Session {
    /// Starts one. Fails where the model lacks what the queries' manners take, or where a question has no word that is
    /// read; what `spec` says has been checked against the settings by whoever made it.
    pub async fn start(
        _engine: Engine,
        _spec: Spec,
        _bounds: &WatchSettings,
        _trail: Trail,
    ) -> Result<Self, EngineError> {
        unimplemented!("by the branch of sessions")
    }

    /// Sends, waiting while there is no room for a frame. Everything else always has room, within a bound of its own
    /// beyond which [`Unsent::Full`] is the answer of [`try_send`](Self::try_send).
    pub async fn send(&self, _input: Input) -> Result<(), Ended> {
        unimplemented!("by the branch of sessions")
    }

    /// Sends if there is room.
    pub fn try_send(&self, _input: Input) -> Result<(), Unsent> {
        unimplemented!("by the branch of sessions")
    }

    /// How many frames may have been sent in all, duplicates included: what was granted at the start and what was given
    /// back since.
    pub fn granted(&self) -> watch::Receiver<u64> {
        unimplemented!("by the branch of sessions")
    }

    /// The highest number of a frame that has come.
    pub fn seq(&self) -> Option<u64> {
        unimplemented!("by the branch of sessions")
    }

    /// The first event whose number is above `after`, when there is one; none: the session is over and nothing follows.
    pub async fn next(&self, _after: u64) -> Option<Arc<Numbered>> {
        unimplemented!("by the branch of sessions")
    }

    /// Events up to this number are not kept any more. While too many are kept nothing is computed.
    pub fn acknowledge(&self, _through: u64) {
        unimplemented!("by the branch of sessions")
    }
}
