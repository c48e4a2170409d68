//! WatchService: see proto/vljepa/v1/watch_service.proto.
//!
//! One task a call. It finds out which session the call is about, and then reads and writes side by side until the session
//! is over or the call is: `reading.rs` is what comes in, `writing.rs` what goes out, `ledger.rs` what both count. Whatever
//! way the call ends, its session is left to whoever takes it up again, unless it is to end with it. Nothing here holds an
//! engine: a session ends with its model, and may not keep it.

mod ledger;
mod reading;
mod writing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, Terms, Whole};
use super::proto::watch_request::Message as Asked;
use super::proto::watch_service_server::WatchService;
use super::proto::{WatchRequest, WatchResponse, WatchStart};
use super::shutdown::Ending;
use super::status::{status, taken_over};
use crate::engine::{EngineError, Models};
use crate::settings::Settings;
use crate::watch::{Attached, Held, Sessions};
use ledger::Ledger;
use reading::Ended;

/// What is done and waits for the connection; the rest waits in the session.
const RESPONSES_WAITING: usize = 4;

type Told = Result<WatchResponse, Status>;

/// What the service keeps beside each session.
pub(super) struct About {
    terms: Terms,
    ledger: Mutex<Ledger>,
}

/// The sessions of a server.
pub(super) type Live = Sessions<About>;

pub(super) struct Watches {
    pub models: Models,
    pub sessions: Live,
    pub ending: Ending,
}

#[tonic::async_trait]
impl WatchService for Watches {
    type WatchStream = ReceiverStream<Told>;

    async fn watch(&self, requests: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (responses, sent) = mpsc::channel(RESPONSES_WAITING);
        let (models, sessions, ending) = (self.models.clone(), self.sessions.clone(), self.ending.clone());
        tokio::spawn(async move {
            let (whole, settings) = (convert::whole(&requests), models.settings());
            let around = Around { settings, sessions: &sessions, ending: &ending, whole, responses };
            around.answer(&models, requests.into_inner()).await;
        });
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

/// What a call has around it, whichever session it is about.
struct Around<'a> {
    settings: &'a Settings,
    sessions: &'a Live,
    ending: &'a Ending,
    whole: Whole,
    responses: mpsc::Sender<Told>,
}

/// How long something on a call took.
enum Until<T> {
    Done(T),
    /// Until the client left.
    Left,
    /// Until the call's deadline.
    Late,
}

impl Around<'_> {
    async fn answer(self, models: &Models, mut requests: Streaming<WatchRequest>) {
        let ended = match self.until(self.begin(models, &mut requests)).await {
            Until::Done(Ok((attached, after))) => self.go_on(attached, after, &mut requests).await,
            Until::Done(Err(wrong)) => Some(Err(wrong)),
            Until::Late => Some(Err(status(EngineError::DeadlineExceeded))),
            Until::Left => None,
        };
        if let Some(Err(ending)) = ended {
            // Whoever has gone needs no status.
            let _ = self.responses.send(Err(ending)).await;
        }
    }

    /// The session that the first message is about, and the event after which it is told.
    #[allow(clippy::result_large_err)]
    async fn begin(
        &self,
        models: &Models,
        requests: &mut Streaming<WatchRequest>,
    ) -> Result<(Attached<About>, u64), Status> {
        let first = match reading::next(self, requests).await {
            Ok(first) => first.unwrap_or_default(),
            Err(Ended::Wrong(wrong) | Ended::Finish(Err(wrong))) => return Err(wrong),
            Err(Ended::Finish(Ok(()))) => WatchRequest::default(),
        };
        let bytes = first.encoded_len();
        let Some(Asked::Start(start)) = first.message else {
            let problem = "is missing, must be the first message".into();
            return Err(status(EngineError::Invalid { field: "start".into(), problem }));
        };
        let resumption = convert::watch_resumption(&start).map_err(|error| status(error.within("start")))?;
        match resumption {
            Some((token, after)) => self.resume(&token, after).await,
            None => Ok((self.open(models, start, bytes).await?, 0)),
        }
    }

    #[allow(clippy::result_large_err)]
    async fn open(&self, models: &Models, start: WatchStart, bytes: usize) -> Result<Attached<About>, Status> {
        let held = self.hold(bytes)?;
        let (model, engine) = models.entry(&start.model).map_err(status)?;
        let begin = async {
            let (spec, terms) = convert::watch_start(start, model, &engine, held)?;
            let spoken = spec.queries.iter().map(|query| query.manner.is_some()).collect();
            let about = About { terms, ledger: Mutex::new(Ledger::new(spoken)) };
            let (trail, owner) = (self.whole.trail.clone(), self.whole.owner.clone());
            self.sessions.open(engine, spec, trail, owner, about).await
        };
        begin.await.map_err(|error| status(error.within("start")))
    }

    #[allow(clippy::result_large_err)]
    async fn resume(&self, token: &str, after: u64) -> Result<(Attached<About>, u64), Status> {
        let resumed = self.sessions.resume(token, &self.whole.owner).await.map_err(status)?;
        let attached = resumed.ok_or_else(taken_over)?;
        attached.about().ledger().resume(after).map_err(status)?;
        attached.session().acknowledge(after);
        Ok((attached, after))
    }

    /// Tells that the session is there, and then reads and writes. How the call ends; none: its client has left.
    async fn go_on(
        &self,
        attached: Attached<About>,
        after: u64,
        requests: &mut Streaming<WatchRequest>,
    ) -> Option<Result<(), Status>> {
        let talk = Talk { around: self, attached: &attached, silent: AtomicBool::new(false) };
        let talked = self.until(async {
            talk.begins().await;
            tokio::select! {
                biased;
                () = attached.superseded() => Err(taken_over()),
                ended = talk.runs(after, requests) => ended,
            }
        });
        match talked.await {
            // What is read knows the deadline too, and may have been first.
            Until::Done(ended) if ended.is_ok() || !self.is_late() => Some(ended),
            Until::Done(_) | Until::Late => {
                attached.end();
                Some(Err(status(EngineError::DeadlineExceeded)))
            }
            Until::Left => None,
        }
    }

    async fn until<T>(&self, work: impl Future<Output = T>) -> Until<T> {
        let deadline = self.whole.deadline;
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => Until::Done(done),
            () = late => Until::Late,
            // So do the layers around the call.
            () = self.responses.closed() => if self.is_late() { Until::Late } else { Until::Left },
        }
    }

    fn is_late(&self) -> bool {
        self.whole.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Counts bytes that outlive their message.
    #[allow(clippy::result_large_err)]
    fn hold(&self, bytes: usize) -> Result<Held, Status> {
        let held = self.whole.hold(bytes).map_err(status)?;
        Ok(held.map(|held| Arc::new(held) as _))
    }

    /// A session's own bound is used up.
    fn exhausted(&self, limit: &'static str, max: u64) -> EngineError {
        let retry_after = Duration::from_millis(self.settings.service.retry_after_ms);
        EngineError::Exhausted { limit, max, retry_after }
    }
}

/// A call that has its session.
struct Talk<'a> {
    around: &'a Around<'a>,
    attached: &'a Attached<About>,
    /// Nothing can be acknowledged any more.
    silent: AtomicBool,
}

impl Talk<'_> {
    async fn begins(&self) {
        let session = self.attached.session();
        let credits = self.ledger().begin(*session.granted().borrow());
        let token = self.attached.token().as_str();
        let started = convert::watch_started(&self.about().terms, token, credits, session.seq());
        // Whoever has left is noticed by others.
        let _ = self.around.responses.send(Ok(writing::of(started))).await;
    }

    /// Reads and writes until the last event is told, or until what was read ends the call at once.
    #[allow(clippy::result_large_err)]
    async fn runs(&self, after: u64, requests: &mut Streaming<WatchRequest>) -> Result<(), Status> {
        let (mut reading, mut writing) = (std::pin::pin!(self.read(requests)), std::pin::pin!(self.write(after)));
        let mut ending = None;
        loop {
            tokio::select! {
                ended = &mut reading, if ending.is_none() => match ended {
                    Ended::Wrong(wrong) => return Err(wrong),
                    Ended::Finish(how) => ending = Some(how),
                },
                told = &mut writing => return ending.unwrap_or(Ok(())).and(told),
            }
        }
    }

    /// From now on what is kept for a client that cannot acknowledge it must not bring the session to a stop.
    fn acknowledges_no_more(&self) {
        self.silent.store(true, Ordering::Relaxed);
        self.relieve();
    }

    fn relieve(&self) {
        if self.silent.load(Ordering::Relaxed) {
            let relieved = self.ledger().relieve(self.around.settings.watch.events_kept_max as u64);
            if let Some(through) = relieved {
                self.attached.session().acknowledge(through);
            }
        }
    }

    fn about(&self) -> &About {
        self.attached.about()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.about().ledger()
    }
}

impl About {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
