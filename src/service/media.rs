//! MediaService: see proto/vljepa/v1/media_service.proto.

use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::proto::media_service_server::MediaService;
use super::proto::upload_media_request::Message as Sent;
use super::proto::{DeleteMediaRequest, DeleteMediaResponse, UploadMediaRequest, UploadMediaResponse};
use super::status::status;
use crate::engine::{EngineError, Models, Owner, Promise, Receipt, Uploads};

pub(super) struct MediaFiles(pub Models);

#[tonic::async_trait]
impl MediaService for MediaFiles {
    async fn upload_media(
        &self,
        messages: Request<Streaming<UploadMediaRequest>>,
    ) -> Result<Response<UploadMediaResponse>, Status> {
        let owner = convert::owner(&messages);
        let receipt = received(messages.into_inner(), self.0.uploads(), &owner).await?;
        Ok(Response::new(convert::receipt(receipt)))
    }

    async fn delete_media(
        &self,
        request: Request<DeleteMediaRequest>,
    ) -> Result<Response<DeleteMediaResponse>, Status> {
        self.0.uploads().delete(&request.get_ref().name, &convert::owner(&request)).map_err(status)?;
        Ok(Response::new(DeleteMediaResponse {}))
    }
}

/// Writes what comes; an error, or a client that leaves, drops the upload and what was written of it.
async fn received(
    mut messages: Streaming<UploadMediaRequest>,
    uploads: &Uploads,
    owner: &Owner,
) -> Result<Receipt, Status> {
    let wrong =
        |field: &str, problem: &str| status(EngineError::Invalid { field: field.into(), problem: problem.into() });
    let mut upload = None;
    while let Some(message) = messages.message().await? {
        match message.message {
            None => return Err(wrong("message", "is missing, must be header or chunk")),
            Some(Sent::Header(_)) if upload.is_some() => return Err(wrong("header", "must be the first message")),
            Some(Sent::Header(header)) => {
                let promise = convert::promise(header).map_err(status)?;
                upload = Some(uploads.begin(promise, owner.clone()).await.map_err(status)?);
            }
            Some(Sent::Chunk(chunk)) => {
                if upload.is_none() {
                    upload = Some(uploads.begin(Promise::default(), owner.clone()).await.map_err(status)?);
                }
                let upload = upload.as_mut().expect("just begun");
                upload.write(chunk).await.map_err(status)?;
            }
        }
    }
    upload.ok_or_else(|| wrong("chunk", "never came"))?.finish().map_err(status)
}
