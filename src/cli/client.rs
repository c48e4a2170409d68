//! Where a command's answers come from: an engine in this process, or a server.

mod caller;
mod jobs;
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::bundle::BundleArgs;
use super::start_engine;
use crate::embedding::{Dtype, Embedding};
use crate::engine::{Answer, Call, Choice, Embedded, Engine, Manner, Media, Question, Timing, Usage};
use crate::service::proto;
use crate::service::proto::answer_service_client::AnswerServiceClient;
use crate::service::proto::embedding_service_client::EmbeddingServiceClient;
use crate::service::proto::media::Source as MediaSource;
use crate::service::proto::media_service_client::MediaServiceClient;
use crate::service::proto::upload_media_request::Message as Sent;
use crate::settings::{ClientSettings, Flag, Settings};

pub(super) use caller::Caller;
pub(super) use jobs::{Changes, RemoteJobs};
pub(super) use watch::{Events, Sender, Sessions};

/// How long a server may be silent: while it is connected to, before it is pinged, and before a ping is answered.
const SILENCE: Duration = Duration::from_secs(5);

/// Files that are uploaded go in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// The options of every command that asks.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// Ask the server at this address, such as 127.0.0.1:50051 or https://host:50051, instead of loading a model.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["bundle", "precision"])]
    server: Option<String>,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    bundle: BundleArgs,
}

/// The options of every command that connects to a server: whom it trusts, and how it shows who it is.
#[derive(Debug, clap::Args)]
pub(super) struct IdentityArgs {
    /// Authorities that may vouch for a server with TLS (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate to show to the server (PEM).
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// That certificate's private key (PEM).
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Key to show to the server; other users see it among the processes, VLJEPA_API_KEY is not seen.
    #[arg(long, value_name = "TOKEN")]
    api_key: Option<String>,
}

impl IdentityArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let files = [
            ("--ca", "client.ca", &self.ca),
            ("--client-cert", "client.certificate", &self.client_cert),
            ("--client-key", "client.key", &self.client_key),
        ];
        let files = files.into_iter().filter_map(|(flag, key, file)| Flag::file(flag, key, file.as_deref()));
        files.chain(Flag::named("--api-key", "client.api_key", self.api_key.as_ref())).collect()
    }
}

impl SourceArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.identity.flags()
    }

    pub(super) async fn open(&self, settings: &Settings) -> anyhow::Result<Source> {
        match &self.server {
            Some(address) => Ok(Source::There(Box::new(Remote::connect(address, settings).await?))),
            None => Ok(Source::Here(start_engine(&self.bundle, settings.clone())?.0)),
        }
    }
}

/// What answers.
pub(super) enum Source {
    /// An engine in this process.
    Here(Engine),
    /// A server.
    There(Box<Remote>),
}

impl Source {
    /// The largest file that may be asked about: what is too much for a message is uploaded to a server.
    pub(super) fn file_bytes_max(&self, settings: &Settings) -> u64 {
        let inline = settings.media.bytes_max as u64;
        match self {
            Self::Here(_) => inline,
            Self::There(_) => inline.max(settings.uploads.bytes_max),
        }
    }

    pub(super) async fn answer(&mut self, question: Question, manner: Manner) -> anyhow::Result<Answer> {
        match self {
            Self::Here(engine) => Ok(engine.answer(question, manner, call(engine)).await?),
            Self::There(remote) => remote.answer(question, manner).await,
        }
    }

    pub(super) async fn predict(&mut self, question: Question) -> anyhow::Result<Embedded> {
        match self {
            Self::Here(engine) => {
                let mut outcomes = engine.predict(vec![Ok(question)], call(engine)).await;
                Ok(outcomes.pop().expect("one outcome an item")?)
            }
            Self::There(remote) => remote.predict(question).await,
        }
    }

    pub(super) async fn embed_text(&mut self, text: String) -> anyhow::Result<Embedded> {
        match self {
            Self::Here(engine) => {
                let mut outcomes = engine.embed_texts(vec![Ok(text)], call(engine)).await?;
                Ok(outcomes.pop().expect("one outcome a text")?)
            }
            Self::There(remote) => remote.embed_text(text).await,
        }
    }
}

fn call(engine: &Engine) -> Call {
    Call::interactive(Instant::now() + Duration::from_millis(engine.settings().service.deadline_max_ms))
}

/// A connection to a server.
pub(super) struct Remote {
    answers: AnswerServiceClient<Channel>,
    embeddings: EmbeddingServiceClient<Channel>,
    uploads: MediaServiceClient<Channel>,
    /// Larger files are uploaded.
    inline_bytes_max: usize,
    caller: Caller,
}

/// Connects to the server at `address`.
pub(super) async fn connect(address: &str, client: &ClientSettings) -> anyhow::Result<Channel> {
    // What listens but never speaks is given up too.
    let endpoint = endpoint(address, client)?.http2_keep_alive_interval(SILENCE).keep_alive_timeout(SILENCE);
    endpoint.connect().await.with_context(|| format!("--server {address}"))
}

/// The server at `address`: with TLS if that says https, or nothing while authorities are named.
pub(super) fn endpoint(address: &str, client: &ClientSettings) -> anyhow::Result<Endpoint> {
    let named = || format!("--server {address}");
    let scheme = if client.ca.is_some() { "https" } else { "http" };
    let url = if address.contains("://") { address.into() } else { format!("{scheme}://{address}") };
    let endpoint = Endpoint::from_shared(url).with_context(named)?.connect_timeout(SILENCE);
    match endpoint.uri().scheme_str() {
        Some("https") => endpoint.tls_config(tls(client)?).with_context(named),
        _ => {
            ensure!(client.ca.is_none() && client.certificate.is_none(), "{}: TLS needs https://", named());
            Ok(endpoint)
        }
    }
}

fn tls(client: &ClientSettings) -> anyhow::Result<ClientTlsConfig> {
    let read = |setting: &str, file: &Path| {
        let name = || format!("{setting}: {}", file.display());
        std::fs::read(file).with_context(name)
    };
    let ca = client.ca.as_deref().context("https needs the server's authorities: --ca FILE")?;
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("client.ca", ca)?));
    Ok(match (&client.certificate, &client.key) {
        (Some(certificate), Some(key)) => {
            config.identity(Identity::from_pem(read("client.certificate", certificate)?, read("client.key", key)?))
        }
        _ => config,
    })
}

impl Remote {
    pub(super) async fn connect(address: &str, settings: &Settings) -> anyhow::Result<Self> {
        let channel = connect(address, &settings.client).await?;
        let bytes_max = settings.service.message_bytes_max;
        Ok(Self {
            answers: AnswerServiceClient::new(channel.clone()).max_decoding_message_size(bytes_max),
            embeddings: EmbeddingServiceClient::new(channel.clone()).max_decoding_message_size(bytes_max),
            uploads: MediaServiceClient::new(channel),
            inline_bytes_max: settings.media.bytes_max,
            caller: Caller::new(Duration::from_millis(settings.service.deadline_max_ms), &settings.client)?,
        })
    }

    async fn answer(&mut self, question: Question, manner: Manner) -> anyhow::Result<Answer> {
        let media = self.sent(question.media).await?;
        // How the decoder speaks is the server's choice: these commands only ever ask for its default.
        let candidates = match manner {
            Manner::Choose(candidates) => candidates,
            Manner::Speak(_) => vec![],
        };
        let message = proto::AnswerRequest {
            media: Some(media.clone()),
            question: question.text,
            candidates,
            want_embedding: true,
            ..Default::default()
        };
        let request = self.caller.request(message);
        let response = self.answers.answer(request).await;
        self.forget(media).await;
        let response = response.map_err(|status| refused(&status))?.into_inner();
        Ok(Answer {
            text: response.answer,
            choices: response.choices.into_iter().map(choice).collect(),
            embedded: embedded(response.embedding, response.usage, response.timing)?,
        })
    }

    async fn predict(&mut self, question: Question) -> anyhow::Result<Embedded> {
        use proto::predict_result::Outcome;
        let media = self.sent(question.media).await?;
        let item = proto::PredictItem { media: Some(media.clone()), question: question.text, ..Default::default() };
        let request = self.caller.request(proto::PredictRequest { items: vec![item], ..Default::default() });
        let response = self.embeddings.predict(request).await;
        self.forget(media).await;
        let response = response.map_err(|status| refused(&status))?.into_inner();
        match response.results.into_iter().next().and_then(|result| result.outcome) {
            Some(Outcome::Prediction(found)) => embedded(found.embedding, found.usage, found.timing),
            Some(Outcome::Error(error)) => Err(anyhow!("server: {}", error.message)),
            None => Err(anyhow!("server: response without a result")),
        }
    }

    async fn embed_text(&mut self, text: String) -> anyhow::Result<Embedded> {
        use proto::encode_text_result::Outcome;
        let request = self.caller.request(proto::EncodeTextRequest { texts: vec![text], ..Default::default() });
        let response = self.embeddings.encode_text(request).await.map_err(|status| refused(&status))?.into_inner();
        match response.results.into_iter().next().and_then(|result| result.outcome) {
            Some(Outcome::Encoded(found)) => embedded(found.embedding, found.usage, found.timing),
            Some(Outcome::Error(error)) => Err(anyhow!("server: {}", error.message)),
            None => Err(anyhow!("server: response without a result")),
        }
    }

    /// A whole file as a message says it: its bytes, or the name of an upload.
    async fn sent(&mut self, media: Media) -> anyhow::Result<proto::Media> {
        let Media::File(bytes) = media else { return Err(anyhow!("only whole files are sent to a server")) };
        let source = match bytes.len() <= self.inline_bytes_max {
            true => MediaSource::Inline(bytes),
            false => MediaSource::Upload(self.upload(bytes).await?),
        };
        Ok(proto::Media { source: Some(source) })
    }

    async fn upload(&mut self, bytes: Vec<u8>) -> anyhow::Result<String> {
        let header = proto::UploadMediaHeader { bytes: Some(bytes.len() as u64), sha256: vec![] };
        let chunk = move |at: usize| bytes[at..bytes.len().min(at + CHUNK_BYTES)].to_vec();
        let chunks = (0..header.bytes() as usize).step_by(CHUNK_BYTES).map(move |at| Sent::Chunk(chunk(at)));
        let messages = std::iter::once(Sent::Header(header)).chain(chunks);
        let messages = messages.map(|message| proto::UploadMediaRequest { message: Some(message) });
        let request = self.caller.request(tokio_stream::iter(messages));
        let response = self.uploads.upload_media(request).await.map_err(|status| refused(&status))?;
        Ok(response.into_inner().name)
    }

    /// Deletes what was uploaded for one question; what cannot be deleted expires.
    async fn forget(&mut self, media: proto::Media) {
        if let Some(MediaSource::Upload(name)) = media.source {
            let request = self.caller.request(proto::DeleteMediaRequest { name });
            let _ = self.uploads.delete_media(request).await;
        }
    }
}

fn refused(status: &tonic::Status) -> anyhow::Error {
    anyhow!("server: {:?}: {}", status.code(), status.message())
}

fn embedded(
    embedding: Option<proto::Embedding>,
    usage: Option<proto::Usage>,
    timing: Option<proto::Timing>,
) -> anyhow::Result<Embedded> {
    let embedding = embedding.context("server: response without an embedding")?;
    let (dimensions, space) = (embedding.dimensions as usize, embedding.space.parse()?);
    let usage = usage.unwrap_or_default();
    Ok(Embedded {
        embedding: Embedding::from_bytes(&embedding.data, Dtype::F32, dimensions, space)?,
        usage: Usage {
            visual_tokens: usage.visual_tokens as usize,
            text_tokens: usage.text_tokens as usize,
            frames_decoded: usage.frames_decoded as usize,
            frames_used: usage.frames_used as usize,
            truncated: usage.truncated,
            clip: None,
        },
        timing: self::timing(timing.unwrap_or_default()),
    })
}

fn choice(choice: proto::Choice) -> Choice {
    Choice { text: choice.text, score: choice.score, cosine: choice.cosine }
}

fn timing(timing: proto::Timing) -> Timing {
    let time = |ms: f32| Duration::try_from_secs_f32(ms / 1e3).unwrap_or_default();
    Timing {
        prepare: time(timing.prepare_ms),
        queue: time(timing.queue_ms),
        vision: time(timing.vision_ms),
        predictor: time(timing.predictor_ms),
        text: time(timing.text_ms),
        decoder: time(timing.decoder_ms),
        total: time(timing.total_ms),
    }
}
