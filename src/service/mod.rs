//! The gRPC face of the engine.
//!
//! This floor alone knows protobuf. A handler is three lines: convert, call, convert; all validation is in
//! `convert`, all statuses in `status`, the layers around every call in `layers`. The caller brings the socket,
//! the engine and the signal that ends it.

mod answer;
mod convert;
mod embedding;
mod health;
mod layers;
mod media;
mod models;
mod seen;
mod shutdown;
mod status;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use crate::engine::Models;
use proto::answer_service_server::AnswerServiceServer;
use proto::embedding_service_server::EmbeddingServiceServer;
use proto::media_service_server::MediaServiceServer;
use proto::model_service_server::ModelServiceServer;

use seen::{Admin, Seen, States, Traces};

pub use shutdown::ServeError;

/// The generated code of package vljepa.v1; the comments are in proto/.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::too_many_lines)]
pub mod proto {
    tonic::include_proto!("vljepa.v1");
    /// What reflection answers from.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For calls.
    pub calls: TcpListener,
    /// For metrics and probes over HTTP, if they are wanted.
    pub admin: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(calls: TcpListener) -> Self {
        Self { calls, admin: None }
    }
}

/// Serves on `listeners` until `shutdown` resolves or the thread of a model panics.
///
/// Then health says NOT_SERVING, the drain delay passes, nothing new is taken, and what is in flight may finish
/// until the drain bound. Fails if the transport does, or if a model's thread panicked.
pub async fn serve(
    listeners: impl Into<Listeners>,
    models: Models,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Listeners { calls, admin } = listeners.into();
    tokio::spawn(models.uploads().sweeping());
    let drain = shutdown::Drain::new(&models.settings().service);
    let health = health::Health::new(models.clone(), drain.draining());
    let traces = Traces::start(&models.settings().traces).map_err(ServeError::Traces)?.map(Arc::new);
    // Dropped with this function, the listener for metrics and probes ends last.
    let mut aside = JoinSet::new();
    if let Some(listener) = admin {
        aside.spawn(Admin::new(models.clone(), health.clone(), States::new()).serve(listener));
    }
    // Every service takes the same bounds and compressions.
    macro_rules! bounded {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(models.settings().service.message_bytes_max)
                .max_encoding_message_size(models.settings().service.message_bytes_max)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
        };
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let described = "the descriptors are made by the build";
    let server = Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        // Outside of all that can refuse a call or end it: whatever happens to it is seen.
        .layer(Seen::new(&[proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET], traces.clone()))
        .layer(layers::Guard::new(&models.settings().service))
        .add_service(bounded!(
            EmbeddingServiceServer,
            embedding::Embeddings { models: models.clone(), draining: drain.draining() }
        ))
        .add_service(bounded!(AnswerServiceServer, answer::Answers(models.clone())))
        .add_service(bounded!(MediaServiceServer, media::MediaFiles(models.clone())))
        .add_service(bounded!(ModelServiceServer, models::Models(models.clone())))
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1().expect(described))
        // Python's clients still ask for this one.
        .add_service(reflection().build_v1alpha().expect(described));
    let serving = server.serve_with_incoming_shutdown(TcpListenerStream::new(calls), drain.refused());
    let outcome = drain.run(serving, models, shutdown).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    outcome
}
