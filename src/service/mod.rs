//! The gRPC face of the engine.
//!
//! This floor alone knows protobuf. A handler is three lines: convert, call, convert; all validation is in
//! `convert`, all statuses in `status`; [`serve`] is the list of what surrounds every call. The caller brings the
//! sockets, the models and the signal that ends it.

mod answer;
mod call;
mod codec;
mod connection;
mod connections;
mod convert;
mod described;
pub mod elements;
mod embedding;
mod files;
mod health;
mod inflight;
mod jobs;
mod keyed;
pub mod keys;
mod media;
mod models;
mod refusals;
mod seen;
mod services;
mod shutdown;
mod status;
mod stream;
mod tls;
mod watch;
mod web;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic_web::GrpcWebLayer;

use crate::engine::Models;
use crate::jobs::Jobs;
use crate::settings::{ConnectionSettings, Settings};
use call::Calls;
use connections::Connections;
use inflight::Budget;
use keyed::Keyed;
use keys::Keys;
use seen::{Admin, Seen, States, Traces};
use services::Services;
use shutdown::{Drain, Phase};
use tls::Tls;

pub use files::FileError;
#[doc(hidden)]
pub use refusals::{Refusal, refusals};
pub use shutdown::ServeError;

/// Time that the runner of jobs gets to write down where it is.
const RUNNER_END_MAX: Duration = Duration::from_secs(5);

/// The generated code of package vljepa.v1; the comments are in proto/.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::too_many_lines)]
pub mod proto {
    tonic::include_proto!("vljepa.v1");
    /// What reflection answers from.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For calls.
    pub calls: TcpListener,
    /// For metrics and probes over HTTP, if they are wanted.
    pub admin: Option<TcpListener>,
}

/// What a server serves.
pub struct Served {
    /// The models that answer.
    pub models: Models,
    /// Its jobs, which are worked on while it serves; none without a store of them.
    pub jobs: Option<Jobs>,
}

impl From<Models> for Served {
    fn from(models: Models) -> Self {
        Self { models, jobs: None }
    }
}

impl From<TcpListener> for Listeners {
    fn from(calls: TcpListener) -> Self {
        Self { calls, admin: None }
    }
}

/// Reads the certificates and keys that `settings` name, and fails at the first that cannot be served with; for
/// telling so before a model is loaded.
pub fn check_files(settings: &Settings) -> Result<(), FileError> {
    Keys::read(&settings.keys)?;
    settings.tls.certificate.as_ref().map_or(Ok(()), |_| tls::config(&settings.tls).map(drop))
}

/// Serves on `listeners` until `shutdown` resolves or the thread of a model panics.
///
/// Then health says NOT_SERVING, the drain delay passes, nothing new is taken, jobs in work are given up, to go on where
/// they were when their store is opened again, and what is in flight may finish until the drain bound. Fails if the
/// transport does, if a model's thread panicked, or if a setting cannot be meant.
pub async fn serve(
    listeners: impl Into<Listeners>,
    served: impl Into<Served>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Listeners { calls, admin } = listeners.into();
    let Served { models, jobs } = served.into();
    let settings = models.settings().clone();
    let (tls, keys) = (Tls::open(&settings)?, Keys::open(&settings)?);
    let drain = Drain::new(&settings);
    let (connections, budget) =
        (Connections::new(&settings.connection), Budget::new(settings.service.inflight_bytes_max));
    let Services { routes, bounds, health, sessions } = services::all(&models, jobs.clone(), &drain);
    let traces = Traces::start(&settings.traces).map_err(ServeError::Traces)?.map(Arc::new);
    let seen = Seen::new(&described::SERVED, traces.clone());
    let server = transport(&settings.connection)
        // First, for a browser's question whether it may call is no gRPC; and every refusal must be readable for it.
        .layer(web::cors(settings.service.web_origins.as_deref())?)
        // Before anything is counted as a call.
        .layer(web::GrpcOnly)
        // From here on all is gRPC with trailers, whatever the client spoke.
        .layer(GrpcWebLayer::new())
        // Outside of all that can refuse a call or end it: whatever happens to it is seen.
        .layer(seen.clone())
        // Whoever has no key costs no more than this; and a connection that never shows one has never asked anything.
        .layer(Keyed(keys))
        // Around everything that works for a call: its deadline, its bytes, its end.
        .layer(Calls::new(&settings, bounds, drain.phase(), budget.clone()))
        .add_routes(routes);
    // Dropped with this function, the listener for metrics and probes ends last.
    let mut aside = JoinSet::new();
    aside.spawn(models.uploads().sweeping());
    aside.spawn(connections.clone().look_after(drain.phase()));
    aside.spawn(sessions.clone().look_after(drain.refused()));
    if let Some(listener) = admin {
        let states = States::new(connections.clone(), budget, Some(sessions), seen);
        let served = Served { models: models.clone(), jobs: jobs.clone() };
        aside.spawn(Admin::new(served, health, states).serve(listener));
    }
    let (incoming, refused) = (connections.incoming(calls), drain.refused());
    let serving: Pin<Box<dyn Future<Output = _> + Send>> = match tls {
        Some(tls) => Box::pin(server.serve_with_incoming_shutdown(tls.secured(incoming), refused)),
        None => Box::pin(server.serve_with_incoming_shutdown(incoming, refused)),
    };
    let runner = jobs.map(|jobs| {
        let refused = drain.refused();
        tokio::spawn(async move { jobs.run(refused).await })
    });
    let outcome = drain.run(serving, models, shutdown).await;
    if let Some(runner) = runner {
        // What is asked of the store is short; whatever it does not come to is done anew.
        drop(tokio::time::timeout(RUNNER_END_MAX, runner).await);
    }
    if let Some(traces) = traces {
        traces.end().await;
    }
    outcome
}

/// Answers metrics and probes on `listener`, for ever: for a process that has models and serves no calls.
pub async fn serve_admin(listener: TcpListener, models: Models) {
    let settings = models.settings();
    let (connections, budget) =
        (Connections::new(&settings.connection), Budget::new(settings.service.inflight_bytes_max));
    // Dropped, it would be the end of serving.
    let (_serving, phase) = tokio::sync::watch::channel(Phase::Serving);
    let health = health::Health::new(models.clone(), vec![], phase);
    let states = States::new(connections, budget, None, Seen::new(&[], None));
    Admin::new(models, health, states).serve(listener).await;
}

/// What tonic and hyper bound themselves; `connection.rs` has the rest.
fn transport(settings: &ConnectionSettings) -> Server {
    let server = Server::builder()
        // For gRPC-Web.
        .accept_http1(true)
        .max_concurrent_streams(settings.streams_max)
        // A client that gives up many calls at once is in a hurry, not hostile.
        .http2_max_pending_accept_reset_streams(Some(settings.streams_max as usize))
        .http2_keepalive_interval(Some(Duration::from_millis(settings.keepalive_ms)))
        .http2_keepalive_timeout(Some(Duration::from_millis(settings.keepalive_max_ms)));
    match settings.age_max_ms {
        0 => server,
        // Its own grace would close the connection without having asked it to end.
        age => server.max_connection_age(Duration::from_millis(age)),
    }
}
