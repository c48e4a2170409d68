//! What surrounds every call within its being seen: the deadline, the guard against panics.
//!
//! The deadline is our own because tonic answers an expired grpc-timeout with CANCELLED; ours fires a little
//! earlier, and it is also what the queue drops late work by.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use super::seen::RequestId;
use crate::settings::ServiceSettings;

/// When the answer to a call is of no use any more; every call carries it among its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub Instant);

/// How much earlier than the client's deadline ours is, so that the status arrives before tonic's own timer.
const EARLIER: Duration = Duration::from_millis(5);

/// Puts a [`Guarded`] around the services.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    deadline_default: Duration,
    deadline_max: Duration,
}

impl Guard {
    pub(super) fn new(settings: &ServiceSettings) -> Self {
        Self {
            deadline_default: Duration::from_millis(settings.deadline_default_ms),
            deadline_max: Duration::from_millis(settings.deadline_max_ms),
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

/// A service with everything around it that every call needs.
#[derive(Debug, Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: Guard,
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
        let started = Instant::now();
        let id = request.extensions().get::<RequestId>().cloned();
        let asked = grpc_timeout(request.headers()).unwrap_or(self.guard.deadline_default);
        let allowed = asked.min(self.guard.deadline_max);
        let deadline = started + allowed.saturating_sub(EARLIER.min(allowed / 2));
        request.extensions_mut().insert(Deadline(deadline));
        let call = without_panic(self.inner.call(request), id);
        Box::pin(async move {
            let late = || Status::deadline_exceeded("deadline exceeded").into_http();
            let response = tokio::time::timeout_at(deadline.into(), call).await.unwrap_or_else(|_| late());
            Ok(response)
        })
    }
}

/// A panic becomes INTERNAL, and is logged with the id of its request.
async fn without_panic(
    call: impl Future<Output = Result<Response<Body>, Infallible>> + Send,
    id: Option<RequestId>,
) -> Response<Body> {
    let mut call = std::pin::pin!(call);
    let outcome =
        std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok(response))) => Poll::Ready(Some(response)),
            Err(_) => Poll::Ready(None),
        });
    outcome.await.unwrap_or_else(|| {
        tracing::error!(request_id = id.as_ref().map(RequestId::as_str), "a handler panicked");
        // Who watches the call adds the id.
        Status::internal("internal error").into_http()
    })
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

    #[tokio::test]
    async fn a_panic_becomes_internal() {
        let response = without_panic(async { panic!("a bug") }, None).await;
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!((status.code(), status.message()), (tonic::Code::Internal, "internal error"));
    }
}
