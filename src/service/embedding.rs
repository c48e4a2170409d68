//! EmbeddingService: see proto/vljepa/v1/embedding_service.proto.

use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::proto::embedding_service_server::EmbeddingService;
use super::proto::{EncodeTextRequest, EncodeTextResponse, PredictRequest, PredictResponse, StreamPredictRequest};
use super::shutdown::Phase;
use super::status::status;
use super::stream::{self, Responses};
use crate::engine::Models;

pub(super) struct Embeddings {
    pub models: Models,
    pub phase: watch::Receiver<Phase>,
}

#[tonic::async_trait]
impl EmbeddingService for Embeddings {
    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, Status> {
        let engine = self.models.named(&request.get_ref().model).map_err(status)?;
        let (questions, output, call) = convert::questions(request, &engine, self.models.uploads()).map_err(status)?;
        let outcomes = engine.predict(questions, call).await;
        Ok(convert::reply(convert::predictions(outcomes, output, engine.space()), engine.settings()))
    }

    async fn encode_text(&self, request: Request<EncodeTextRequest>) -> Result<Response<EncodeTextResponse>, Status> {
        let engine = self.models.named(&request.get_ref().model).map_err(status)?;
        let (texts, output, call) = convert::texts(request, &engine).map_err(status)?;
        let outcomes = engine.embed_texts(texts, call).await.map_err(status)?;
        Ok(convert::reply(convert::encoded_texts(outcomes, output, engine.space()), engine.settings()))
    }

    type StreamPredictStream = Responses;

    async fn stream_predict(
        &self,
        requests: Request<Streaming<StreamPredictRequest>>,
    ) -> Result<Response<Responses>, Status> {
        Ok(Response::new(stream::answer(self.models.clone(), self.phase.clone(), requests)))
    }
}
