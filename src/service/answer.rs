//! AnswerService: see proto/vljepa/v1/answer_service.proto.

use tonic::{Request, Response, Status};

use super::convert;
use super::proto::answer_service_server::AnswerService;
use super::proto::{AnswerRequest, AnswerResponse};
use super::status::status;
use crate::engine::Models;

pub(super) struct Answers(pub Models);

#[tonic::async_trait]
impl AnswerService for Answers {
    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerResponse>, Status> {
        let engine = self.0.named(&request.get_ref().model).map_err(status)?;
        let (question, manner, output, call) = convert::ask(request, &engine, self.0.uploads()).map_err(status)?;
        let answer = engine.answer(question, manner, call).await.map_err(status)?;
        Ok(convert::reply(convert::answer(answer, output), engine.settings()))
    }
}
