//! ModelService: see proto/vljepa/v1/model_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::model_service_server::ModelService;
use super::proto::{GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse};
use super::status::status;
use crate::engine;

pub(super) struct Models(pub engine::Models);

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(ListModelsResponse {
            models: self.0.all().iter().map(|(name, engine)| convert::model(name, engine)).collect(),
        }))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        let (name, engine) = self.0.entry(&request.get_ref().name).map_err(status)?;
        Ok(Response::new(GetModelResponse { model: Some(convert::model(&name, &engine)) }))
    }
}
