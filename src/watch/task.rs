//! What runs while a session lives: one half takes what was sent and makes frames fit, the other looks at them in order.
//! Between them stand a bounded number of frames, so that the next ones are decoded while the model looks.

use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::event::{Finished, Stats};
use super::looker::Looker;
use super::shared::Shared;
use super::spec::{Drops, Frame, Input};
use crate::engine::{EngineError, Fitted};
use crate::settings::WatchSettings;

/// What is to be done next.
pub enum Ready {
    /// Look at a frame that was made fit, if it could be.
    Frame {
        /// Its number.
        seq: u64,
        /// What became of it.
        fitted: Result<Fitted, EngineError>,
    },
    /// Everything else that was sent.
    Request(Input),
}

/// How many frames are made fit ahead. Where they wait anyway, all that may wait; where newer ones take the places of
/// older ones, few: what is made fit already is not dropped for a newer one.
pub fn ahead(drops: Drops, bounds: &WatchSettings) -> usize {
    match drops {
        Drops::Wait => bounds.frames_waiting_max.max(1),
        Drops::Oldest | Drops::LatestOnly => 1,
    }
}

/// However the task ends, the session is over then, and told so.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let error = Some(EngineError::Internal("the session's task ended before it was done".into()));
        self.0.end(|[frames, frames_dropped]| Finished {
            stats: Stats { frames, frames_dropped, ..Stats::default() },
            error,
        });
    }
}

/// Runs a session to its end.
pub async fn run(mut looker: Looker, shared: Arc<Shared>, ahead: usize) {
    let _ending = Ending(shared.clone());
    let (engine, fitter) = (looker.engine.clone(), looker.fitter());
    let (given, taken) = mpsc::channel(ahead);
    let outcome = tokio::select! {
        biased;
        () = engine.retired() => Err(EngineError::Stopped),
        outcome = look(&mut looker, taken) => outcome,
        never = fit(fitter, &shared, given) => match never {},
    };
    looker.finish(outcome.err());
}

/// Takes what was sent, one after the other, and makes frames fit.
async fn fit(fitter: super::looker::Fitter, shared: &Shared, given: Sender<Ready>) -> std::convert::Infallible {
    loop {
        // Before anything is taken: what waits may still be dropped, what is under way not.
        let Ok(place) = given.reserve().await else { return std::future::pending().await };
        let ready = match shared.when(|state| state.inbox.take()).await {
            // What is held for its bytes is let go with them, when it fits.
            Input::Frame(Frame { seq, picture, held: _held }) => Ready::Frame {
                seq,
                fitted: match picture {
                    Ok(picture) => fitter.fit(picture).await,
                    Err(unusable) => Err(unusable.error),
                },
            },
            request => Ready::Request(request),
        };
        place.send(ready);
    }
}

/// Does what is ready, in order, until somebody stops it or it cannot go on.
async fn look(looker: &mut Looker, mut taken: Receiver<Ready>) -> Result<(), EngineError> {
    loop {
        let Some(ready) = taken.recv().await else { return std::future::pending().await };
        let stop = matches!(ready, Ready::Request(Input::Stop));
        looker.takes(ready).await?;
        if stop {
            return Ok(());
        }
    }
}
