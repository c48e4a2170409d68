//! ModelService: see proto/vljepa/v1/model_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::model_service_server::ModelService;
use super::proto::{
    GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, LoadModelRequest, LoadModelResponse,
    UnloadModelRequest, UnloadModelResponse,
};
use super::status::status;
use crate::engine;

pub(super) struct Models(pub engine::Models);

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        let served = self.0.all().into_iter().map(|(name, engine)| convert::model(&name, &engine));
        let passing = self.0.passing().into_iter().map(|(name, state)| convert::passing(name, state));
        Ok(Response::new(ListModelsResponse { models: served.chain(passing).collect() }))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        let (name, engine) = self.0.entry(&request.get_ref().name).map_err(status)?;
        Ok(Response::new(GetModelResponse { model: Some(convert::model(&name, &engine)) }))
    }

    async fn load_model(&self, request: Request<LoadModelRequest>) -> Result<Response<LoadModelResponse>, Status> {
        let (name, directory) = convert::model_place(request.into_inner()).map_err(status)?;
        let engine = self.0.load(&name, directory).await.map_err(status)?;
        Ok(Response::new(LoadModelResponse { model: Some(convert::model(&name, &engine)) }))
    }

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<UnloadModelResponse>, Status> {
        self.0.unload(&request.get_ref().name).await.map_err(status)?;
        Ok(Response::new(UnloadModelResponse {}))
    }
}
