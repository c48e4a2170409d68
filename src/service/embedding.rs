//! EmbeddingService: see proto/vljepa/v1/embedding_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::embedding_service_server::EmbeddingService;
use super::proto::{EncodeTextRequest, EncodeTextResponse, PredictRequest, PredictResponse};
use super::status::status;
use crate::engine::Engine;

pub(super) struct Embeddings(pub Engine);

#[tonic::async_trait]
impl EmbeddingService for Embeddings {
    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, Status> {
        let (questions, output, deadline) = convert::questions(request, &self.0).map_err(status)?;
        let outcomes = self.0.predict(questions, deadline).await;
        Ok(Response::new(convert::predictions(outcomes, output, self.0.space())))
    }

    async fn encode_text(&self, request: Request<EncodeTextRequest>) -> Result<Response<EncodeTextResponse>, Status> {
        let (texts, output, deadline) = convert::texts(request, &self.0).map_err(status)?;
        let outcomes = self.0.embed_texts(texts, deadline).await.map_err(status)?;
        Ok(Response::new(convert::encoded_texts(outcomes, output, self.0.space())))
    }
}
