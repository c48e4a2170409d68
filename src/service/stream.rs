//! StreamPredict: items come in, results go out as they are done, and a bounded window lies between.
//!
//! One task a call reads, begins and sends. What is in flight is bounded in items and in bytes; while the window is
//! full, or the client does not read, nothing is read, and HTTP/2's flow control holds the client back. When the
//! client leaves or the deadline passes, the task is dropped, and with it all that it began.

use std::collections::HashMap;
use std::time::Instant;

use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::convert::{self, Opening, Whole};
use super::proto::stream_predict_request::Message as Asked;
use super::proto::stream_predict_response::Message as Told;
use super::proto::stream_predict_result::Outcome;
use super::proto::{
    Prediction, StreamPredictFinished, StreamPredictItem, StreamPredictOpen, StreamPredictOpened, StreamPredictRequest,
    StreamPredictResponse, StreamPredictResult,
};
use super::shutdown::{Phase, reached};
use super::status::{draining, item_status, status};
use crate::engine::{EngineError, Models};
use crate::settings::Settings;

/// What goes back to the client.
pub(super) type Responses = ReceiverStream<Result<StreamPredictResponse, Status>>;

/// Results that are done and wait for the connection; the others wait in the window.
const RESPONSES_WAITING: usize = 4;

/// Answers `requests` until the client has no more, it leaves, the deadline passes or the server drains.
pub(super) fn answer(
    models: Models,
    phase: watch::Receiver<Phase>,
    requests: Request<Streaming<StreamPredictRequest>>,
) -> Responses {
    let (responses, sent) = mpsc::channel(RESPONSES_WAITING);
    let whole = convert::whole(&requests);
    let deadline = whole.deadline;
    let session = Session {
        window: Window { bytes_max: bytes_max(models.settings()), ..Window::default() },
        models,
        requests: requests.into_inner(),
        responses: responses.clone(),
        whole,
        opened: None,
        tasks: JoinSet::new(),
        told: StreamPredictFinished::default(),
    };
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = responses.closed() => return,
            () = passed(deadline) => Err(status(EngineError::DeadlineExceeded)),
            ended = session.run(phase) => ended,
        };
        if let Err(ending) = ended {
            // Whoever has gone needs no status.
            let _ = responses.send(Err(ending)).await;
        }
    });
    ReceiverStream::new(sent)
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The most bytes in flight of one call: as many as one message may have, and never most of what all calls share.
fn bytes_max(settings: &Settings) -> usize {
    settings.service.message_bytes_max.min(settings.service.inflight_bytes_max / 4)
}

/// One call.
struct Session {
    models: Models,
    requests: Streaming<StreamPredictRequest>,
    responses: mpsc::Sender<Result<StreamPredictResponse, Status>>,
    whole: Whole,
    /// The model's name and what holds for all items, once the first message has come.
    opened: Option<(String, Opening)>,
    window: Window,
    tasks: JoinSet<(u64, Result<Prediction, EngineError>)>,
    told: StreamPredictFinished,
}

impl Session {
    /// Reads until there is a reason to end, answers what has been read, and gives the reason.
    async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Result<(), Status> {
        let mut began = std::pin::pin!(reached(&mut phase, Phase::Refusing));
        let (mut reading, mut ending) = (true, Ok(()));
        loop {
            tokio::select! {
                () = &mut began, if reading => (reading, ending) = (false, Err(draining())),
                Some(done) = self.tasks.join_next() => {
                    let bug = |error: tokio::task::JoinError| status(EngineError::Internal(error.to_string()));
                    let (id, outcome) = done.map_err(bug)?;
                    self.window.leave(id);
                    self.tell(id, outcome).await;
                }
                message = self.requests.next(), if reading && self.window.has_room() => {
                    let taken = match message {
                        None => Err(Ok(())),
                        Some(Err(unreadable)) => Err(Err(unreadable)),
                        Some(Ok(message)) => self.take(message).await.map_err(|error| Err(status(error))),
                    };
                    if let Err(reason) = taken {
                        (reading, ending) = (false, reason);
                    }
                }
                else => break,
            }
        }
        self.send(Told::Finished(self.told)).await;
        ending
    }

    /// One message of the client; an error is the call's, not an item's.
    async fn take(&mut self, message: StreamPredictRequest) -> Result<(), EngineError> {
        let wrong = |field: &str, problem: &str| EngineError::Invalid { field: field.into(), problem: problem.into() };
        match message.message {
            None => Err(wrong("message", "is missing, must be open or item")),
            Some(Asked::Open(_)) if self.opened.is_some() => Err(wrong("open", "must be the first message")),
            Some(Asked::Open(open)) => self.open(open).await.map_err(|error| error.within("open")),
            Some(Asked::Item(item)) => {
                if self.opened.is_none() {
                    self.open(StreamPredictOpen::default()).await?;
                }
                self.begin(item).await;
                Ok(())
            }
        }
    }

    async fn open(&mut self, open: StreamPredictOpen) -> Result<(), EngineError> {
        let (model, engine) = self.models.entry(&open.model)?;
        let opening = convert::opening(open, &engine)?;
        self.window.items_max = opening.window;
        let (window, space) = (opening.window as u32, engine.space().to_string());
        self.opened = Some((model.clone(), opening));
        self.send(Told::Opened(StreamPredictOpened { model, window, space })).await;
        Ok(())
    }

    /// Begins an item, or tells why it cannot be.
    async fn begin(&mut self, item: StreamPredictItem) {
        self.told.items += 1;
        let id = item.id;
        let bytes = item.encoded_len();
        if !self.window.enter(id, bytes) {
            return self.tell(id, Err(EngineError::Present { what: "item", name: id.to_string() })).await;
        }
        let (model, opening) = self.opened.as_ref().expect("opened by the first message");
        // Asked anew each time: a call that held its engine would hold a model that is to be unloaded.
        let engine = self.models.named(model);
        let item = engine.and_then(|engine| {
            let uploads = self.models.uploads();
            let held = self.whole.hold(bytes)?;
            let (question, output, call) = convert::stream_item(item, opening, &self.whole, &engine, uploads)?;
            Ok(async move {
                let outcome = engine.predict(vec![Ok(question)], call).await.pop().expect("one outcome an item");
                drop(held);
                (id, outcome.map(|found| convert::prediction(&found, output)).map_err(|error| error.within("item")))
            })
        });
        match item {
            Ok(work) => drop(self.tasks.spawn(work)),
            Err(error) => {
                self.window.leave(id);
                self.tell(id, Err(error)).await;
            }
        }
    }

    async fn tell(&mut self, id: u64, outcome: Result<Prediction, EngineError>) {
        let outcome = match outcome {
            Ok(prediction) => {
                self.told.succeeded += 1;
                Outcome::Prediction(prediction)
            }
            Err(error) => {
                self.told.failed += 1;
                Outcome::Error(item_status(error))
            }
        };
        self.send(Told::Result(StreamPredictResult { id, outcome: Some(outcome) })).await;
    }

    async fn send(&self, message: Told) {
        // A client that has gone ends the whole task.
        let _ = self.responses.send(Ok(StreamPredictResponse { message: Some(message) })).await;
    }
}

/// What is in flight: which ids, and how many bytes they came in.
#[derive(Debug, Default)]
struct Window {
    items: HashMap<u64, usize>,
    bytes: usize,
    items_max: usize,
    bytes_max: usize,
}

impl Window {
    /// Whether one more message may be read; an empty window always takes one.
    fn has_room(&self) -> bool {
        self.items.is_empty() || (self.items.len() < self.items_max && self.bytes < self.bytes_max)
    }

    /// False, and nothing changes, if the id is in flight.
    fn enter(&mut self, id: u64, bytes: usize) -> bool {
        if self.items.contains_key(&id) {
            return false;
        }
        self.items.insert(id, bytes);
        self.bytes += bytes;
        true
    }

    fn leave(&mut self, id: u64) {
        self.bytes -= self.items.remove(&id).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_bounded_in_items_and_bytes_and_takes_an_id_once() {
        let mut window = Window { items_max: 3, bytes_max: 100, ..Window::default() };
        assert!(window.has_room() && window.enter(7, 99));
        assert!(!window.enter(7, 1), "in flight");
        assert!(window.has_room(), "a byte is left");
        assert!(window.enter(8, 1000) && !window.has_room(), "bytes");
        window.leave(8);
        assert!(window.enter(9, 0) && window.has_room() && window.enter(10, 0) && !window.has_room(), "items");
        window.leave(7);
        window.leave(7);
        assert!(window.has_room() && window.enter(7, 1), "an id that left may come again");
        for id in [7, 9, 10] {
            window.leave(id);
        }
        assert_eq!((window.bytes, window.items.len()), (0, 0));
        assert!(window.enter(1, 101) && !window.has_room(), "one beyond the bound runs alone");
    }
}
