//! UploadMedia: what is taken, what is refused, and how long it can be used.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use vljepa::service::proto::media::Source;
use vljepa::service::proto::media_service_client::MediaServiceClient;
use vljepa::service::proto::upload_media_request::Message as Sent;
use vljepa::service::proto::{self, UploadMediaHeader, UploadMediaRequest, UploadMediaResponse, predict_result};

use super::{CLIP, Running, ask, fields, file, item, start};

fn header(bytes: Option<u64>, sha256: &[u8]) -> Sent {
    Sent::Header(UploadMediaHeader { bytes, sha256: sha256.to_vec() })
}

fn chunks(bytes: &[u8]) -> Vec<Sent> {
    bytes.chunks(1000).map(|chunk| Sent::Chunk(chunk.to_vec())).collect()
}

async fn upload(server: &Running, messages: Vec<Sent>) -> Result<UploadMediaResponse, Status> {
    let messages = messages.into_iter().map(|message| UploadMediaRequest { message: Some(message) });
    let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
    let response = MediaServiceClient::new(server.channel.clone()).upload_media(messages).await;
    response.map(|response| response.into_inner())
}

fn uploaded(name: &str) -> Option<proto::Media> {
    Some(proto::Media { source: Some(Source::Upload(name.into())) })
}

async fn delete(server: &Running, name: &str) -> Result<(), Status> {
    let request = proto::DeleteMediaRequest { name: name.into() };
    MediaServiceClient::new(server.channel.clone()).delete_media(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_is_the_same_as_what_is_sent_along() {
    // Too large for an inline media, so its own bound must hold.
    let server = start(|settings| settings.media.bytes_max = CLIP.len() - 1).await;
    let sha256 = Sha256::digest(CLIP);
    let messages = [vec![header(Some(CLIP.len() as u64), &sha256)], chunks(CLIP)].concat();
    let receipt = upload(&server, messages).await.expect("as promised");
    assert_eq!((receipt.bytes, &*receipt.sha256), (CLIP.len() as u64, &*sha256));
    let expires_at = std::time::SystemTime::try_from(receipt.expires_at.expect("a time")).expect("a time");
    let expiry = expires_at.duration_since(std::time::SystemTime::now()).expect("ahead");
    assert!(expiry > Duration::from_secs(3500) && expiry <= Duration::from_secs(3600), "{expiry:?}");

    let status = server.answers().answer(ask(file(CLIP), &["word1"])).await.expect_err("too large inline");
    assert_eq!(fields(&status), ["media.inline"]);
    let answer = server.answers().answer(ask(uploaded(&receipt.name), &["word1", "word2"])).await.expect("an answer");
    assert_eq!(answer.into_inner().usage.expect("usage").frames_decoded, 8);
    let items = vec![item(uploaded(&receipt.name), "word1"), item(uploaded("uploads/0"), "word1")];
    let request = proto::PredictRequest { items, ..Default::default() };
    let results = server.embeddings().predict(request).await.expect("an answer").into_inner().results;
    assert!(matches!(results[0].outcome, Some(predict_result::Outcome::Prediction(_))), "{:?}", results[0]);
    let Some(predict_result::Outcome::Error(error)) = &results[1].outcome else { panic!("{:?}", results[1]) };
    assert!(error.code == Code::NotFound as i32 && error.message.contains("uploads/0"), "{error:?}");

    delete(&server, &receipt.name).await.expect("it is there");
    assert_eq!(delete(&server, &receipt.name).await.expect_err("it was").code(), Code::NotFound);
    let status = server.answers().answer(ask(uploaded(&receipt.name), &[])).await.expect_err("deleted");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert_eq!(status.get_details_resource_info().expect("which").resource_name, receipt.name);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_promised_or_has_no_room_is_refused_and_takes_none() {
    let server = start(|settings| (settings.uploads.items_max, settings.uploads.total_bytes_max) = (2, 5000)).await;
    for (about, messages, field) in [
        ("another sum", [vec![header(None, &[1; 32])], chunks(CLIP)[..2].to_vec()].concat(), "header.sha256"),
        ("no sum", vec![header(None, &[1; 31])], "header.sha256"),
        ("less than promised", [vec![header(Some(2001), &[])], chunks(CLIP)[..2].to_vec()].concat(), "header.bytes"),
        ("a late header", vec![chunks(CLIP)[0].clone(), header(None, &[])], "header"),
        ("nothing", vec![], "chunk"),
    ] {
        let status = upload(&server, messages).await.expect_err(about);
        assert_eq!((status.code(), fields(&status).join(",")), (Code::InvalidArgument, field.into()), "{about}");
    }
    // Whoever leaves in the middle leaves nothing.
    for _ in 0..4 {
        let begun = tokio_stream::StreamExt::chain(
            tokio_stream::once(UploadMediaRequest { message: Some(chunks(CLIP)[0].clone()) }),
            tokio_stream::pending(),
        );
        let mut request = Request::new(begun);
        request.set_timeout(Duration::from_millis(50));
        MediaServiceClient::new(server.channel.clone()).upload_media(request).await.expect_err("never ended");
    }
    let mut kept = upload(&server, chunks(&CLIP[..3000])).await;
    for _ in 0..100 {
        if kept.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        kept = upload(&server, chunks(&CLIP[..3000])).await;
    }
    kept.expect("room");
    let status = upload(&server, vec![header(Some(2001), &[])]).await.expect_err("too much");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("uploads.total_bytes_max") && status.message().contains("5000"), "{status}");
    assert_eq!(status.get_details_quota_failure().expect("which").violations[0].subject, "uploads.total_bytes_max");
    let delay = status.get_details_retry_info().expect("when").retry_delay.expect("a delay");
    assert!(delay > Duration::from_secs(3000), "{delay:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_expires() {
    let server = start(|settings| (settings.uploads.expiry_ms, settings.uploads.items_max) = (300, 1)).await;
    let receipt = upload(&server, chunks(CLIP)).await.expect("room");
    tokio::time::sleep(Duration::from_millis(350)).await;
    let status = server.answers().answer(ask(uploaded(&receipt.name), &[])).await.expect_err("it is over");
    assert!(status.code() == Code::NotFound && status.message().contains(&receipt.name), "{status}");
    upload(&server, chunks(CLIP)).await.expect("room again");
    server.end().await;
}
