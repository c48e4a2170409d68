//! EmbeddingService: see proto/vljepa/v1/embedding_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::embedding_service_server::EmbeddingService;
use super::proto::{EncodeTextRequest, EncodeTextResponse, PredictRequest, PredictResponse};
use super::status::status;
use crate::engine::Models;

pub(super) struct Embeddings(pub Models);

#[tonic::async_trait]
impl EmbeddingService for Embeddings {
    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, Status> {
        let engine = self.0.named(&request.get_ref().model).map_err(status)?;
        let (questions, output, call) = convert::questions(request, &engine).map_err(status)?;
        let outcomes = engine.predict(questions, call).await;
        Ok(Response::new(convert::predictions(outcomes, output, engine.space())))
    }

    async fn encode_text(&self, request: Request<EncodeTextRequest>) -> Result<Response<EncodeTextResponse>, Status> {
        let engine = self.0.named(&request.get_ref().model).map_err(status)?;
        let (texts, output, call) = convert::texts(request, &engine).map_err(status)?;
        let outcomes = engine.embed_texts(texts, call).await.map_err(status)?;
        Ok(Response::new(convert::encoded_texts(outcomes, output, engine.space())))
    }
}
