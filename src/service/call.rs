//! What surrounds every call within its being seen: its deadline, the guard against panics, the bytes it holds.
//!
//! A call lasts from its headers to the last frame of its answer, so the guard wraps both bodies as well:
//! `request.rs` counts what comes, `response.rs` what goes.
//!
//! The deadline is our own because tonic answers an expired grpc-timeout with CANCELLED and forgets it once the answer
//! has begun; ours fires a little earlier, and it is also what the queue drops late work by.

mod request;
mod response;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::connection::{OpenCall, Peer};
use super::described;
use super::inflight::{Allowance, Budget};
use super::seen::RequestId;
use super::shutdown::{Phase, reached};
use super::status::{draining, status};
use crate::engine::EngineError;
use crate::settings::Settings;
use request::Received;
use response::Answered;

/// When the answer to a call is of no use any more. Every call carries it among its extensions, but for a stream
/// whose client set no timeout: that one has no end, only each of its items has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub Instant);

/// How much earlier than the client's deadline ours is, so that the status arrives before tonic's own timer.
const EARLIER: Duration = Duration::from_millis(5);

/// Puts a [`Guarded`] around the services.
#[derive(Clone)]
pub(super) struct Calls {
    rules: Arc<Rules>,
    phase: watch::Receiver<Phase>,
    budget: Budget,
}

/// What holds for every call.
struct Rules {
    deadline_default: Duration,
    deadline_max: Duration,
    message_read_max: Duration,
    drain_quiet: Duration,
    retry_after: Duration,
    elements_max: usize,
    /// Largest message of each service.
    message_bytes_max: Vec<(&'static str, usize)>,
}

impl Calls {
    /// `services` are the names of the services with the largest message that each takes, bytes.
    pub(super) fn new(
        settings: &Settings,
        services: Vec<(&'static str, usize)>,
        phase: watch::Receiver<Phase>,
        budget: Budget,
    ) -> Self {
        let service = &settings.service;
        let rules = Rules {
            deadline_default: Duration::from_millis(service.deadline_default_ms),
            deadline_max: Duration::from_millis(service.deadline_max_ms),
            message_read_max: Duration::from_millis(service.message_read_max_ms),
            drain_quiet: Duration::from_millis(settings.connection.drain_quiet_ms),
            retry_after: Duration::from_millis(service.retry_after_ms),
            elements_max: settings.elements_max(),
            message_bytes_max: services,
        };
        Self { rules: Arc::new(rules), phase, budget }
    }

    /// Resolves when the call must end, with the word it ends with.
    fn cut(&self, deadline: Option<Instant>) -> Cut {
        let mut phase = self.phase.clone();
        let late = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        Box::pin(async move {
            tokio::select! {
                () = late => status(EngineError::DeadlineExceeded),
                () = reached(&mut phase, Phase::Stopping) => draining(),
            }
        })
    }
}

type Cut = Pin<Box<dyn Future<Output = Status> + Send>>;

impl Rules {
    /// By when the call must have ended. A stream without a timeout of its own may go on.
    fn deadline(&self, headers: &HeaderMap, path: &str, now: Instant) -> Option<Instant> {
        let allowed = match grpc_timeout(headers) {
            Some(asked) => asked.min(self.deadline_max),
            None if described::answers_with_a_stream(path) => return None,
            None => self.deadline_default.min(self.deadline_max),
        };
        Some(now + allowed.saturating_sub(EARLIER.min(allowed / 2)))
    }

    /// The service of a path with its largest message; of no service for a path that is unknown.
    fn message_bytes_max(&self, path: &str) -> (&'static str, usize) {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.message_bytes_max.iter().find(|(name, _)| *name == service).copied().unwrap_or(("no service", 0))
    }
}

impl<S> Layer<S> for Calls {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, calls: self.clone() }
    }
}

/// A service with everything around it that every call needs.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    calls: Calls,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Calls { rules, phase, budget } = &self.calls;
        if *phase.borrow() >= Phase::Refusing {
            return Box::pin(async { Ok(draining().into_http()) });
        }
        let (id, open) = (request.extensions().get().cloned(), Peer::of(request.extensions()).map(Peer::call));
        let path = request.uri().path().to_owned();
        let deadline = rules.deadline(request.headers(), &path, Instant::now());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        let allowance = Allowance::new(budget, rules.retry_after, rules.elements_max);
        request.extensions_mut().insert(allowance.clone());
        let received = |body| Body::new(Received::new(body, &self.calls, &path, deadline, allowance.clone()));
        let handled = allowance.clone().scope(self.inner.call(request.map(received)));
        let mut guard =
            Guard { id, open, cut: self.calls.cut(deadline), budget: budget.clone(), _allowance: allowance };
        Box::pin(async move {
            let response = tokio::select! {
                biased;
                response = without_panic(handled, guard.id.as_ref()) => response,
                status = &mut guard.cut => status.into_http(),
            };
            Ok(match response.headers().contains_key(Status::GRPC_STATUS) {
                // All is said.
                true => response,
                false => response.map(|body| Body::new(Answered::new(body, guard))),
            })
        })
    }
}

/// What stays with a call to its end.
struct Guard {
    id: Option<RequestId>,
    /// None for a call that came over no connection of ours.
    open: Option<OpenCall>,
    cut: Cut,
    budget: Budget,
    /// What the message took is given back when the call ends, not when it was read.
    _allowance: Allowance,
}

/// A panic becomes INTERNAL, and is logged with the id of its request.
async fn without_panic(
    call: impl Future<Output = Result<Response<Body>, Infallible>> + Send,
    id: Option<&RequestId>,
) -> Response<Body> {
    let mut call = std::pin::pin!(call);
    let outcome =
        std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(response))) => Poll::Ready(Some(response)),
            Err(_) => Poll::Ready(None),
        });
    outcome.await.unwrap_or_else(|| panicked(id).into_http())
}

fn panicked(id: Option<&RequestId>) -> Status {
    tracing::error!(request_id = id.map(RequestId::as_str), "a handler panicked");
    // Who watches the call adds the id.
    Status::internal("internal error")
}

/// The client's patience: at most eight digits and a unit, after gRPC's protocol over HTTP/2.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::{Body as _, Frame};
    use std::sync::LazyLock;
    use tonic::Code;

    fn timeout(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header value"));
        grpc_timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_after_the_protocol() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        for wrong in ["", "m", "250", "-1m", "+1m", "123456789S", "1d", "1\u{e9}"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }

    /// What a service may do with a call.
    #[derive(Clone, Copy)]
    enum Does {
        Nothing,
        Panics,
        Answers(&'static [&'static str]),
        PanicsLater,
    }

    /// A body of pieces, with or without a proper end.
    struct Pieces(std::slice::Iter<'static, &'static str>, bool);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.next() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))),
                None => {
                    assert!(self.1, "a bug");
                    let mut trailers = HeaderMap::new();
                    Status::ok("").add_header(&mut trailers).expect("fits");
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
            }
        }
    }

    /// A call of a service that does `does`; its answer's data and its status.
    async fn outcome(does: Does, phase: Phase, budget: &Budget) -> (usize, Status) {
        let inner = tower::service_fn(move |_: Request<Body>| async move {
            match does {
                Does::Nothing => std::future::pending().await,
                Does::Panics => panic!("a bug"),
                Does::Answers(pieces) => Ok(Response::new(Body::new(Pieces(pieces.iter(), true)))),
                Does::PanicsLater => Ok(Response::new(Body::new(Pieces(["ab"].iter(), false)))),
            }
        });
        let (phases, mut settings) = (watch::Sender::new(phase), Settings::default());
        settings.service.deadline_default_ms = 30;
        let calls = Calls::new(&settings, Vec::new(), phases.subscribe(), budget.clone());
        let request = Request::post("/vljepa.v1.AnswerService/Answer").body(Body::empty()).expect("a request");
        let (head, mut body) = calls.layer(inner).call(request).await.expect("an answer").into_parts();
        let (mut bytes, mut status) = (0, Status::from_header_map(&head.headers));
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame.expect("no error but a status").into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => status = frame.trailers_ref().and_then(Status::from_header_map),
            }
        }
        (bytes, status.expect("every call ends with a status"))
    }

    #[tokio::test]
    async fn every_call_ends_with_a_status_and_gives_back_what_it_held() {
        static LARGE: LazyLock<String> = LazyLock::new(|| "x".repeat(200_000));
        let large = Does::Answers(Vec::leak(vec!["ab", LARGE.as_str()]));
        let budget = Budget::new(1 << 20);
        for (does, phase, bytes, code, message) in [
            (large, Phase::Serving, 200_002, Code::Ok, ""),
            (large, Phase::Draining, 200_002, Code::Ok, ""),
            (large, Phase::Refusing, 0, Code::Unavailable, "the server is draining: go on elsewhere"),
            (Does::Panics, Phase::Serving, 0, Code::Internal, "internal error"),
            (Does::PanicsLater, Phase::Serving, 2, Code::Internal, "internal error"),
            (Does::Nothing, Phase::Serving, 0, Code::DeadlineExceeded, "deadline exceeded"),
        ] {
            let (read, status) = outcome(does, phase, &budget).await;
            assert_eq!((read, status.code(), status.message()), (bytes, code, message));
            assert_eq!(budget.held(), 0);
        }
    }
}
