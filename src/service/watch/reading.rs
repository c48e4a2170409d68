//! What a client sends on a call of Watch, one message after the other. What comes of it is `writing.rs`' matter: neither
//! waits for the other.

use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::{Around, Talk};
use crate::engine::EngineError;
use crate::service::convert;
use crate::service::proto::watch_request::Message as Asked;
use crate::service::proto::{UpdateQuery, WatchFrame, WatchRequest};
use crate::service::shutdown::{Phase, reached};
use crate::service::status::{draining, no_credit, silent, status};
use crate::watch::{Frame, Held, Input, Unsent, Unusable};

/// Time between looks whether a frame for which there is no room can ever have some.
const LOOK: Duration = Duration::from_secs(1);

/// Why nothing more is read.
pub(super) enum Ended {
    /// What has come is finished, and then the call ends: well, or with a status.
    Finish(Result<(), Status>),
    /// The call ends at once.
    Wrong(Status),
}

/// The next message of a call, if it comes within `idle` and before the server refuses.
pub(super) async fn next(
    around: &Around<'_>,
    requests: &mut Streaming<WatchRequest>,
) -> Result<Option<WatchRequest>, Ended> {
    let (mut phase, idle) = (around.ending.phase(), Duration::from_millis(around.settings.watch.idle_ms));
    tokio::select! {
        biased;
        () = reached(&mut phase, Phase::Refusing) => Err(Ended::Finish(Err(draining()))),
        message = timeout(idle, requests.next()) => match message {
            Err(_) => Err(Ended::Finish(Err(silent(idle)))),
            Ok(Some(Err(unreadable))) => Err(Ended::Wrong(unreadable)),
            Ok(message) => Ok(message.transpose().unwrap_or_default()),
        },
    }
}

impl Talk<'_> {
    /// Reads until there is a reason not to, and asks the session to finish if that is what the reason is.
    pub(super) async fn read(&self, requests: &mut Streaming<WatchRequest>) -> Ended {
        let why = loop {
            match next(self.around, requests).await {
                Ok(Some(message)) => match self.take(message).await {
                    Ok(()) => {}
                    Err(wrong) => break Ended::Wrong(wrong),
                },
                Ok(None) => break Ended::Finish(Ok(())),
                Err(ended) => break ended,
            }
        };
        if let Ended::Finish(_) = why {
            self.acknowledges_no_more();
            // One that is over needs no stop.
            let _ = self.attached.session().send(Input::Stop).await;
        }
        why
    }

    #[allow(clippy::result_large_err)]
    async fn take(&self, message: WatchRequest) -> Result<(), Status> {
        let bytes = message.encoded_len();
        let invalid =
            |field: &str, problem: &str| EngineError::Invalid { field: field.into(), problem: problem.into() };
        match message.message {
            None => Err(status(invalid("message", "is missing"))),
            Some(Asked::Start(_)) => Err(status(invalid("start", "must be the first message"))),
            Some(Asked::Frame(frame)) => self.frame(frame, bytes).await,
            Some(Asked::UpdateQuery(update)) => self.update(update, bytes),
            Some(Asked::Flush(_)) => self.asks(Input::Flush),
            Some(Asked::Speak(speak)) => {
                let input = convert::watch_speak(speak, &self.ledger().spoken, &self.about().terms);
                self.asks(input.map_err(|error| status(error.within("speak")))?)
            }
            Some(Asked::Ack(ack)) => {
                self.ledger().acknowledge(ack.event).map_err(status)?;
                self.attached.session().acknowledge(ack.event);
                Ok(())
            }
            Some(Asked::Stop(_)) => self.asks(Input::Stop),
        }
    }

    #[allow(clippy::result_large_err)]
    async fn frame(&self, WatchFrame { seq, frame }: WatchFrame, bytes: usize) -> Result<(), Status> {
        if !self.ledger().has_credit() {
            return Err(no_credit(seq));
        }
        let (held, pts_ms) = (self.hold(bytes)?, frame.as_ref().map_or(0, |frame| frame.pts_ms));
        let unusable = |error: EngineError| Unusable { pts_ms, error: error.within("frame") };
        let picture = convert::watch_picture(frame, self.around.settings).map_err(unusable);
        self.sends(Frame { seq, picture, held }).await?;
        // Nothing waits between the two: a frame that was not taken has not used up its credit.
        self.ledger().takes_frame();
        Ok(())
    }

    /// Sends a frame as soon as there is room for its bytes. There never will be while nothing is computed because events
    /// are kept whose acknowledgement may stand behind this very frame: then the call ends.
    #[allow(clippy::result_large_err)]
    async fn sends(&self, frame: Frame) -> Result<(), Status> {
        let max = self.around.settings.watch.events_kept_max as u64;
        let mut sending = std::pin::pin!(self.attached.session().send(Input::Frame(frame)));
        loop {
            tokio::select! {
                // What is sent to a session that is over has come too late, and needs no answer but its last event.
                _ = &mut sending => return Ok(()),
                () = sleep_until(Instant::now() + LOOK) => {
                    if self.ledger().kept() >= max {
                        return Err(status(self.around.exhausted("watch.events_kept_max", max)));
                    }
                }
            }
        }
    }

    #[allow(clippy::result_large_err)]
    fn update(&self, update: UpdateQuery, bytes: usize) -> Result<(), Status> {
        let (held, queries) = (self.hold(bytes)?, self.ledger().spoken.len());
        let read = convert::watch_update(update, queries, &self.about().terms, self.around.settings, held);
        let (query, to) = read.map_err(|error| status(error.within("update_query")))?;
        let spoken = to.manner.is_some();
        self.asks(Input::Update { query, to })?;
        let mut ledger = self.ledger();
        match ledger.spoken.get_mut(query) {
            Some(known) => *known = spoken,
            None => ledger.spoken.push(spoken),
        }
        Ok(())
    }

    /// Sends what is no frame.
    #[allow(clippy::result_large_err)]
    fn asks(&self, input: Input) -> Result<(), Status> {
        let max = self.around.settings.watch.requests_waiting_max as u64;
        match self.attached.session().try_send(input) {
            Err(Unsent::Full) => Err(status(self.around.exhausted("watch.requests_waiting_max", max))),
            // As with frames.
            Ok(()) | Err(Unsent::Ended) => Ok(()),
        }
    }

    #[allow(clippy::result_large_err)]
    fn hold(&self, bytes: usize) -> Result<Held, Status> {
        self.around.hold(bytes)
    }
}
