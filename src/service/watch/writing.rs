//! What a client is told on a call of Watch: credits, events as they come or come again, and that the server is about to
//! end.

use std::future::pending;

use super::Talk;
use crate::service::convert;
use crate::service::proto::watch_response::Message as Told;
use crate::service::proto::{GoAway, WatchCredit, WatchResponse};
use crate::service::shutdown::{Phase, reached};
use crate::service::status::status;
use crate::watch::Event;
use tonic::Status;

impl Talk<'_> {
    /// Tells everything after event `after`, up to the last; then the error that ended the session, if one has.
    #[allow(clippy::result_large_err)]
    pub(super) async fn write(&self, mut after: u64) -> Result<(), Status> {
        let session = self.attached.session();
        let (mut granted, mut phase) = (session.granted(), self.around.ending.phase());
        let (mut grants, mut went) = (true, false);
        loop {
            // Nothing is taken from the session before there is room for it.
            let Ok(room) = self.around.responses.reserve().await else {
                // The client has left, and the call is about to be dropped.
                return pending().await;
            };
            let frames = *granted.borrow_and_update();
            if let Some(frames) = self.ledger().credit(frames) {
                room.send(Ok(of(Told::Credit(WatchCredit { frames }))));
                continue;
            }
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Draining), if !went => {
                    went = true;
                    room.send(Ok(of(Told::GoAway(self.go_away()))));
                }
                changed = granted.changed(), if grants => grants = changed.is_ok(),
                event = session.next(after) => {
                    // Whoever took up a session that is over and has all of it hears its end, and no more.
                    let Some(event) = event else { return Ok(()) };
                    after = event.number;
                    // First noted: what is told may be acknowledged.
                    self.ledger().tells(after);
                    room.send(Ok(convert::watch_event(&event, self.about().terms.output)));
                    if let Event::Finished(finished) = &event.event {
                        return finished.error.clone().map_or(Ok(()), |error| Err(status(error)));
                    }
                    self.relieve();
                }
            }
        }
    }

    fn go_away(&self) -> GoAway {
        GoAway {
            time_left_ms: self.around.ending.time_left().as_millis() as u64,
            resume_token: self.attached.token().as_str().into(),
        }
    }
}

/// What is no event.
pub(super) fn of(message: Told) -> WatchResponse {
    WatchResponse { event: 0, message: Some(message) }
}
