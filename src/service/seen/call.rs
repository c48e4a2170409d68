//! One call as it is seen: begun with the request's head, told once when it is dropped, with the status that its
//! trailers, its headers or its silence gave it.
//!
//! Errors learn the request's id on their way out, so that a client can name the call that failed.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Request, StatusCode};
use opentelemetry::Context;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{RequestId, Watching, metrics, traces};
use crate::engine::{Steps, Trail, shortened};
use crate::service::connection::Peer;

/// A method that is served.
#[derive(Debug, Clone)]
pub struct Method {
    pub service: Arc<str>,
    pub method: Arc<str>,
}

/// Where the check of keys leaves the name of the key that a call came with; never the key.
#[derive(Debug, Clone, Default)]
pub(in crate::service) struct KeyName(pub Arc<OnceLock<String>>);

/// A call in progress.
pub struct Call {
    watching: Arc<Watching>,
    id: RequestId,
    path: String,
    peer: Option<SocketAddr>,
    key: KeyName,
    started: Instant,
    started_at: SystemTime,
    parent: Option<Context>,
    trail: Trail,
    status: Option<(Code, String)>,
}

/// A call that has ended, as logs and traces tell it.
pub struct Told<'a> {
    pub id: &'a str,
    pub method: &'a str,
    pub peer: Option<SocketAddr>,
    pub key: Option<&'a str>,
    pub code: Code,
    pub message: &'a str,
    pub started: Instant,
    pub started_at: SystemTime,
    pub elapsed: Duration,
    pub steps: Steps,
}

impl Call {
    /// Takes note of a request, and gives it what the layers below and the handler look for.
    pub fn begins(watching: &Arc<Watching>, request: &mut Request<Body>) -> Self {
        let id = RequestId::of(request.headers());
        let (key, trail) = (KeyName::default(), Trail::kept());
        let parent = watching.traces.as_ref().map(|traces| traces.parent(request.headers()));
        let peer = Peer::of(request.extensions()).map(|peer| peer.address);
        let path = request.uri().path().to_owned();
        let extensions = request.extensions_mut();
        extensions.insert(id.clone());
        extensions.insert(key.clone());
        extensions.insert(trail.clone());
        let watching = watching.clone();
        watching.open.fetch_add(1, Ordering::Relaxed);
        let (started, started_at) = (Instant::now(), SystemTime::now());
        Self { watching, id, path, peer, key, started, started_at, parent, trail, status: None }
    }

    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// The head of the response is there; an error may be all in it.
    pub fn answers(&mut self, status: StatusCode, headers: &mut HeaderMap) {
        self.ends(headers);
        // What is no gRPC at all is refused in the words of HTTP.
        if self.status.is_none() && !status.is_success() {
            let code = if status.is_client_error() { Code::InvalidArgument } else { Code::Internal };
            self.status = Some((code, format!("HTTP {status}")));
        }
    }

    /// Reads the final status, if there is one, and tells an error which request it ends.
    pub fn ends(&mut self, trailers: &mut HeaderMap) {
        let Some(status) = Status::from_header_map(trailers) else { return };
        if status.code() != Code::Ok {
            name_request(&status, self.id.as_str(), trailers);
        }
        self.status = Some((status.code(), status.message().into()));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.watching.open.fetch_sub(1, Ordering::Relaxed);
        // Nobody took the answer to its end.
        let left = || (Code::Cancelled, "the client left".into());
        let (code, message) = self.status.take().unwrap_or_else(left);
        let elapsed = self.started.elapsed();
        let known = self.watching.methods.get(&self.path);
        metrics::called(known, code, elapsed);
        let unknown = || shortened(&self.path);
        let method = known.map_or_else(unknown, |method| format!("{}/{}", method.service, method.method));
        let told = Told {
            id: self.id.as_str(),
            method: &method,
            peer: self.peer,
            key: self.key.0.get().map(String::as_str),
            code,
            message: &message,
            started: self.started,
            started_at: self.started_at,
            elapsed,
            steps: self.trail.steps(),
        };
        let traces = self.watching.traces.as_ref().zip(self.parent.as_ref());
        let trace = traces.and_then(|(traces, parent)| traces.tell(&told, known.is_some(), parent));
        log(&told, trace.as_deref());
    }
}

/// One line a call. What a client asked and showed is not among it; the message of an error may repeat a name that
/// the client gave, so only the server's own faults tell theirs.
fn log(told: &Told, trace: Option<&str>) {
    let Told { id, method, peer, key, code, message, steps, .. } = told;
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let stage = |stage: &str| steps.times.iter().find(|(name, _)| *name == stage).map(|(_, time)| ms(*time));
    let class = steps.class.map(|class| class.name());
    let counted = |count: usize| (steps.items > 0).then_some(count as u64);
    macro_rules! line {
        ($level:ident, $($more:tt)*) => {
            tracing::$level!(
                request_id = id,
                trace_id = trace,
                method,
                peer = peer.map(tracing::field::display),
                key,
                status = traces::name(*code),
                elapsed_ms = ms(told.elapsed),
                model = steps.model.as_deref(),
                class,
                items = counted(steps.items),
                cost = counted(steps.cost),
                prepare_ms = stage("prepare"),
                queue_ms = stage("queue"),
                vision_ms = stage("vision"),
                predictor_ms = stage("predictor"),
                text_ms = stage("text"),
                decoder_ms = stage("decoder"),
                $($more)*
            )
        };
    }
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss => line!(error, error = message, "call failed"),
        _ => line!(info, "call"),
    }
}

/// Puts the id into the details of an error, and into its words where nothing else tells what went wrong.
fn name_request(status: &Status, id: &str, headers: &mut HeaderMap) {
    let mut details = status.get_error_details();
    if details.request_info().is_none() {
        details.set_request_info(id, "");
    }
    let mut message = status.message().to_owned();
    if status.code() == Code::Internal && !message.contains(id) {
        message = format!("{message}, request {id}");
    }
    let kept = MetadataMap::new();
    let named = Status::with_error_details_and_metadata(status.code(), message, details, kept);
    // Too large for a header can only be what came in so: then it stays as it is.
    let _ = named.add_header(headers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn named(status: Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).expect("fits");
        name_request(&status, "id-7", &mut headers);
        Status::from_header_map(&headers).expect("a status")
    }

    #[test]
    fn an_error_learns_its_request_and_keeps_what_it_knew() {
        let details = ErrorDetails::with_bad_request_violation("media", "is missing");
        let status = named(Status::with_error_details(Code::InvalidArgument, "media: is missing", details));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "media: is missing"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("kept").field_violations[0].field, "media");
        assert_eq!(details.request_info().expect("added").request_id, "id-7");
    }

    #[test]
    fn an_internal_error_names_its_request_in_words_too() {
        assert_eq!(named(Status::internal("internal error")).message(), "internal error, request id-7");
        assert_eq!(named(Status::internal("request id-7 failed")).message(), "request id-7 failed");
    }
}
