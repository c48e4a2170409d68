//! ModelService: see proto/vljepa/v1/model_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::model_service_server::ModelService;
use super::proto::{GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse};
use super::status::status;
use crate::engine::Engine;

pub(super) struct Models(pub Engine);

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(ListModelsResponse { models: vec![convert::model(&self.0)] }))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        self.0.must_be(&request.get_ref().name).map_err(status)?;
        Ok(Response::new(GetModelResponse { model: Some(convert::model(&self.0)) }))
    }
}
