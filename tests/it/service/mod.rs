//! The service as clients see it: a tiny random model behind a real socket. Here is what its tests share.

mod life;
mod models;
mod process;
mod security;
mod seen;
mod stream;
mod surface;
mod transport;
mod uploads;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic_types::StatusExt;
use vljepa::engine::{Engine, Models};
use vljepa::jobs::Jobs;
use vljepa::jobs::store::Embedded;
use vljepa::model::vl_jepa::VlJepa;
use vljepa::service::proto;
use vljepa::service::proto::answer_service_client::AnswerServiceClient;
use vljepa::service::proto::embedding_service_client::EmbeddingServiceClient;
use vljepa::service::proto::media::Source;
use vljepa::service::{Listeners, ServeError, Served, serve};
use vljepa::settings::Settings;

use crate::model_laws::{BERT, bundle};

pub const STILL: &[u8] = include_bytes!("../../../fixtures/demo/squares.jpg");
pub const CLIP: &[u8] = include_bytes!("../../../fixtures/demo/star.gif");

/// A server that runs, and a connection to it.
pub struct Running {
    pub address: SocketAddr,
    pub channel: Channel,
    pub models: Models,
    pub stop: oneshot::Sender<()>,
    pub served: JoinHandle<Result<(), ServeError>>,
}

/// Starts a server of a tiny model, called "tiny", with the default settings changed by `set`. With TLS, the channel is of
/// no use: it speaks plain text.
pub async fn start(set: impl FnOnce(&mut Settings)) -> Running {
    start_on(set, None).await
}

/// The same with metrics and probes, and their address.
pub async fn start_watched(set: impl FnOnce(&mut Settings)) -> (Running, SocketAddr) {
    let admin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = admin.local_addr().expect("bound");
    (start_on(set, Some(admin)).await, address)
}

async fn start_on(set: impl FnOnce(&mut Settings), admin: Option<TcpListener>) -> Running {
    let mut settings = Settings::default();
    set(&mut settings);
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    let (engine, thread) = Engine::start(model, settings.clone()).expect("a thread");
    let models = Models::new(settings);
    models.add("tiny", engine, thread).expect("the first");
    serve_models(models, admin).await
}

/// Starts a server of these models.
pub async fn serve_models(models: Models, admin: Option<TcpListener>) -> Running {
    let settings = models.settings();
    let store = settings.jobs.directory.as_deref().map(|directory| {
        let store = Embedded::open(directory, settings.jobs.items_max).expect("a store");
        Arc::new(store)
    });
    let encrypted = settings.tls.certificate.is_some();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let jobs = store.map(|store| Jobs::open(models.clone(), store));
    let what = Served { models: models.clone(), jobs };
    let served = tokio::spawn(serve(Listeners { calls: listener, admin }, what, async { drop(stopped.await) }));
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = match encrypted {
        true => endpoint.connect_lazy(),
        false => endpoint.connect().await.expect("listens"),
    };
    Running { address, channel, models, stop, served }
}

impl Running {
    pub fn answers(&self) -> AnswerServiceClient<Channel> {
        AnswerServiceClient::new(self.channel.clone())
    }

    pub fn embeddings(&self) -> EmbeddingServiceClient<Channel> {
        EmbeddingServiceClient::new(self.channel.clone())
    }

    pub async fn end(self) {
        self.stop.send(()).expect("it serves");
        drop(self.channel);
        self.served.await.expect("no panic").expect("a clean end");
    }
}

pub fn file(bytes: &[u8]) -> Option<proto::Media> {
    Some(proto::Media { source: Some(Source::Inline(bytes.to_vec())) })
}

pub fn frames(frames: Vec<proto::Frame>) -> Option<proto::Media> {
    Some(proto::Media { source: Some(Source::Frames(proto::FrameSequence { frames })) })
}

pub fn item(media: Option<proto::Media>, question: &str) -> proto::PredictItem {
    proto::PredictItem { media, question: question.into(), ..Default::default() }
}

pub fn ask(media: Option<proto::Media>, candidates: &[&str]) -> proto::AnswerRequest {
    let candidates = candidates.iter().map(|text| text.to_string()).collect();
    proto::AnswerRequest { media, question: "word1 word2".into(), candidates, ..Default::default() }
}

/// The fields that a status finds wrong.
pub fn fields(status: &tonic::Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

pub fn values(embedding: &proto::Embedding) -> Vec<f32> {
    embedding.data.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}
