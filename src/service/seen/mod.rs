//! What is seen of the server from outside: a log line, a duration and a trace of every call, metrics and probes over
//! HTTP.
//!
//! [`Seen`] is a layer around all calls. It gives each one a [`RequestId`] and a trail, and tells of it once, when its
//! body has ended, or its client has left: `call` is what is told, `traces` and `metrics` are to whom, `admin` is
//! where metrics and probes are asked for.

mod admin;
mod call;
mod id;
mod metrics;
mod states;
mod traces;

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use http::{HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tower::{Layer, Service};
use tracing::Instrument;

pub(super) use admin::Admin;
pub(super) use call::KeyName;
pub(super) use id::RequestId;
pub(super) use states::States;
pub(super) use traces::Traces;

use call::{Call, Method};

/// Watches every call.
#[derive(Clone)]
pub(super) struct Seen(Arc<Watching>);

struct Watching {
    /// Calls that have not ended.
    open: AtomicUsize,
    /// By path, `/service/method`: what is not among these is told as `other`.
    methods: HashMap<String, Method>,
    traces: Option<Arc<Traces>>,
}

impl Seen {
    /// Knows the methods that `descriptors` describe.
    pub fn new(descriptors: &[&[u8]], traces: Option<Arc<Traces>>) -> Self {
        let methods = descriptors.iter().flat_map(|bytes| methods(bytes)).collect();
        Self(Arc::new(Watching { open: AtomicUsize::new(0), methods, traces }))
    }

    /// Calls that have not ended.
    pub fn calls_open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }
}

fn methods(descriptors: &[u8]) -> Vec<(String, Method)> {
    let files = FileDescriptorSet::decode(descriptors).expect("descriptors are made by the build").file;
    let mut methods = Vec::new();
    for file in files {
        for service in &file.service {
            let name: Arc<str> = format!("{}.{}", file.package(), service.name()).into();
            let method = |method: &str| Method { service: name.clone(), method: method.into() };
            let path = |method: &str| format!("/{name}/{method}");
            methods.extend(service.method.iter().map(|one| (path(one.name()), method(one.name()))));
        }
    }
    methods
}

impl<S> Layer<S> for Seen {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, seen: self.clone() }
    }
}

/// A service whose calls are watched.
#[derive(Clone)]
pub(super) struct Watched<S> {
    inner: S,
    seen: Seen,
}

impl<S> Service<Request<Body>> for Watched<S>
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
        let mut call = Call::begins(&self.seen.0, &mut request);
        // So that what is logged on the way names its request; kept by every filter that keeps errors.
        let span = tracing::error_span!("call", request_id = call.id().as_str());
        let answered = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let (mut head, body) = answered.await?.into_parts();
            let id = HeaderValue::from_str(call.id().as_str()).expect("an id is printable");
            head.headers.insert(id::HEADER, id);
            call.answers(head.status, &mut head.headers);
            Ok(Response::from_parts(head, Body::new(WatchedBody { body, call })))
        })
    }
}

/// A response's body, whose end is the end of its call.
struct WatchedBody {
    body: Body,
    call: Call,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_trailers() {
                Ok(mut trailers) => {
                    self.call.ends(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(data) => data,
            })),
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_path() {
        let seen = Seen::new(&[super::super::proto::DESCRIPTORS], None);
        let method = seen.0.methods.get("/vljepa.v1.AnswerService/Answer").expect("known");
        assert_eq!((&*method.service, &*method.method), ("vljepa.v1.AnswerService", "Answer"));
        assert!(!seen.0.methods.contains_key("/vljepa.v1.AnswerService/Other"));
    }
}
