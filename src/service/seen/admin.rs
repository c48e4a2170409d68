//! Metrics and probes over plain HTTP, on a listener of their own: `/metrics`, `/livez`, `/readyz`.
//!
//! It is for machines on the inside, so it is small: GET only, few connections, short patience. It answers while the
//! server drains, and is the last to end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::metrics::recorder;
use super::states::States;
use crate::engine::Models;
use crate::jobs::Jobs;
use crate::service::Served;
use crate::service::health::Health;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// How long a connection may take to send its next request.
const HEADER_MAX: Duration = Duration::from_secs(10);

/// How long a connection may last in all.
const CONNECTION_MAX: Duration = Duration::from_secs(300);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long accepting pauses after an error, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// How often histograms are summed up, so that they do not grow while nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

/// Answers metrics and probes.
pub(in crate::service) struct Admin {
    models: Models,
    jobs: Option<Jobs>,
    health: Health,
    states: States,
}

impl Admin {
    pub fn new(served: impl Into<Served>, health: Health, states: States) -> Self {
        let Served { models, jobs } = served.into();
        Self { models, jobs, health, states }
    }

    /// Answers on `listener` until it is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let (admin, mut connections) = (Arc::new(self), JoinSet::new());
        let mut upkeep = tokio::time::interval(UPKEEP);
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(admin.clone().talk(stream))),
                    Err(error) => {
                        tracing::warn!(%error, "the admin listener cannot accept");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = upkeep.tick() => {
                    // Summing up is processor work, if little.
                    let _ = tokio::task::spawn_blocking(|| recorder().map(|recorder| recorder.run_upkeep())).await;
                }
            }
        }
    }

    async fn talk(self: Arc<Self>, stream: TcpStream) {
        let answer = |request: Request<Incoming>| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(request.method(), request.uri().path()).await) }
        };
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADER_MAX).max_buf_size(HEAD_BYTES_MAX);
        let connection = server.serve_connection(TokioIo::new(stream), service_fn(answer));
        // Whoever breaks off has no answer to get.
        let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let known = ["/metrics", "/livez", "/readyz"].contains(&path);
        let (status, text) = match path {
            _ if !known => (StatusCode::NOT_FOUND, "not found\n".into()),
            _ if !matches!(*method, Method::GET | Method::HEAD) => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
            "/livez" => told(!self.models.panicked(), "a model's thread panicked\n"),
            "/readyz" => told(self.health.serving().await, "draining, or a model shows no life\n"),
            _ => self.metrics().await,
        };
        let kind = match path {
            "/metrics" => "text/plain; version=0.0.4; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        let mut response = Response::new(text);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    async fn metrics(&self) -> (StatusCode, String) {
        let jobs = match &self.jobs {
            Some(jobs) => {
                jobs.states().await.inspect_err(|error| tracing::warn!(%error, "jobs cannot be counted")).ok()
            }
            None => None,
        };
        // Without the recorder, which another part of the process has taken, the states are still true.
        let events = recorder().map(|recorder| recorder.render()).unwrap_or_default();
        (StatusCode::OK, events + &self.states.text(&self.models, jobs.as_ref().map(|counts| &counts[..])))
    }
}

fn told(well: bool, trouble: &str) -> (StatusCode, String) {
    match well {
        true => (StatusCode::OK, "ok\n".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, trouble.into()),
    }
}
