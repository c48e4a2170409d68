//! `vljepa bench echo`: a bare server with nothing behind it, to know the limit of the transport.
//!
//! It is tonic's server with the generated code of AnswerService, no layers, no checks and no model; it reads the same
//! requests and writes answers of the same size as a real one.

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::cli::runtime;
use crate::service::proto;
use crate::service::proto::answer_service_server::{AnswerService, AnswerServiceServer};

/// As the real server's default.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Serves on a free port of loopback until it is ended.
#[derive(Debug, clap::Args)]
pub(in crate::cli::bench) struct EchoServer {}

impl EchoServer {
    /// Serves for ever.
    pub(in crate::cli::bench) fn run(self) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("serving echo on {}", listener.local_addr()?);
            let service = AnswerServiceServer::new(Echo).max_decoding_message_size(MESSAGE_BYTES_MAX);
            // The builder's own option does not reach a socket that it did not open.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().add_service(service).serve_with_incoming(incoming).await?;
            Ok(0)
        })
    }
}

struct Echo;

#[tonic::async_trait]
impl AnswerService for Echo {
    async fn answer(&self, request: Request<proto::AnswerRequest>) -> Result<Response<proto::AnswerResponse>, Status> {
        let candidates = request.into_inner().candidates;
        let choice = |text| proto::Choice { text, score: 0.5, cosine: 0.5 };
        Ok(Response::new(proto::AnswerResponse {
            answer: candidates.first().cloned().unwrap_or_default(),
            choices: candidates.into_iter().map(choice).collect(),
            usage: Some(proto::Usage {
                visual_tokens: 256,
                text_tokens: 8,
                frames_decoded: 8,
                frames_used: 8,
                ..Default::default()
            }),
            timing: Some(proto::Timing {
                prepare_ms: 1.0,
                queue_ms: 1.0,
                vision_ms: 1.0,
                predictor_ms: 1.0,
                text_ms: 1.0,
                total_ms: 1.0,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}
