//! The list of services: each once, with the largest message it takes. Routes, health and limits read it here.

use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::pb::health_server::{self, HealthServer};

use super::convert::Grounds;
use super::health::Health;
use super::proto::answer_service_server::AnswerServiceServer;
use super::proto::embedding_service_server::EmbeddingServiceServer;
use super::proto::job_service_server::JobServiceServer;
use super::proto::media_service_server::MediaServiceServer;
use super::proto::model_service_server::ModelServiceServer;
use super::proto::watch_service_server::WatchServiceServer;
use super::shutdown::Drain;
use super::watch::{Live, Watches};
use super::{answer, embedding, jobs, media, models, proto};
use crate::engine::Models;
use crate::jobs::Jobs;

/// All services.
pub(super) struct Services {
    pub(super) routes: Routes,
    /// Each service's name with its largest message, bytes.
    pub(super) bounds: Vec<(&'static str, usize)>,
    pub(super) health: Health,
    pub(super) sessions: Live,
}

/// The services of `models`, and of `jobs` if there are any.
pub(super) fn all(models: &Models, jobs: Option<Jobs>, drain: &Drain) -> Services {
    let settings = &models.settings().service;
    let (large, small) = (settings.message_bytes_max, settings.small_message_bytes_max);
    let mut routes = Routes::builder();
    let mut bounds = Vec::new();
    macro_rules! serve {
        ($service:expr, $bytes_max:expr) => {{
            let service = $service;
            bounds.push((name_of(&service), $bytes_max));
            routes.add_service(service);
        }};
    }
    // tonic's own bounds; and every service takes the same compressions.
    macro_rules! bounded {
        ($server:ident, $service:expr, $bytes_max:expr) => {
            $server::new($service)
                .max_decoding_message_size($bytes_max)
                .max_encoding_message_size(large)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .send_compressed(Gzip)
                .send_compressed(Zstd)
        };
    }
    let embeddings = embedding::Embeddings { models: models.clone(), phase: drain.phase() };
    serve!(bounded!(EmbeddingServiceServer, embeddings, large), large);
    serve!(bounded!(AnswerServiceServer, answer::Answers(models.clone()), large), large);
    let sessions = Live::new(models.settings());
    let watches = Watches { models: models.clone(), sessions: sessions.clone(), ending: drain.ending() };
    serve!(bounded!(WatchServiceServer, watches, large), large);
    // A chunk and its frame.
    let chunk = small.max(models.settings().uploads.chunk_bytes_max + (1 << 10));
    serve!(bounded!(MediaServiceServer, media::MediaFiles(models.clone()), chunk), chunk);
    serve!(bounded!(ModelServiceServer, models::Models(models.clone()), small), small);
    let grounds = Grounds::new(models.settings());
    let calls = jobs::JobCalls { jobs, models: models.clone(), grounds, phase: drain.phase() };
    serve!(bounded!(JobServiceServer, calls, small), small);
    let described = "the descriptors are made by the build";
    serve!(reflection().build_v1().expect(described), small);
    // Python's clients still ask for this one.
    serve!(reflection().build_v1alpha().expect(described), small);
    // Last, for it knows all the others, and itself.
    let known = bounds.iter().map(|(name, _)| *name).chain([health_server::SERVICE_NAME]).collect();
    let health = Health::new(models.clone(), known, drain.phase());
    serve!(HealthServer::new(health.clone()).max_decoding_message_size(small), small);
    Services { routes: routes.routes(), bounds, health, sessions }
}

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
