//! AnswerService: see proto/vljepa/v1/answer_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::answer_service_server::AnswerService;
use super::proto::{AnswerRequest, AnswerResponse};
use super::status::status;
use crate::engine::Engine;

pub(super) struct Answers(pub Engine);

#[tonic::async_trait]
impl AnswerService for Answers {
    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerResponse>, Status> {
        let (question, manner, output, deadline) = convert::ask(request, &self.0).map_err(status)?;
        let answer = self.0.answer(question, manner, deadline).await.map_err(status)?;
        Ok(Response::new(convert::answer(answer, output)))
    }
}
