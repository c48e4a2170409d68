//! Models that come and go while others answer.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use vljepa::service::proto::model_service_client::ModelServiceClient;
use vljepa::service::proto::{self, ModelState};

use super::{CLIP, Running, ask, fields, file, start};
use crate::model_laws::{BERT, bundle};

/// A directory of models with one in `two`, and a torn one in `torn`.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    for name in ["two", "torn"] {
        std::fs::create_dir(root.path().join(name)).expect("a folder");
        bundle(&root.path().join(name), BERT);
    }
    let weights = root.path().join("torn/predictor/model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(weights, &bytes[..bytes.len() / 2]).expect("writable");
    root
}

async fn serving(root: &Path) -> Running {
    let root = root.to_owned();
    start(|settings| settings.models.root = Some(root)).await
}

fn client(server: &Running) -> ModelServiceClient<Channel> {
    ModelServiceClient::new(server.channel.clone())
}

async fn load(server: &Running, name: &str, directory: &str) -> Result<proto::Model, Status> {
    let request = proto::LoadModelRequest { name: name.into(), directory: directory.into() };
    client(server).load_model(request).await.map(|response| response.into_inner().model.expect("a model"))
}

async fn unload(server: &Running, name: &str) -> Result<(), Status> {
    client(server).unload_model(proto::UnloadModelRequest { name: name.into() }).await.map(drop)
}

async fn listed(server: &Running) -> Vec<(String, ModelState)> {
    let models = client(server).list_models(proto::ListModelsRequest {}).await.expect("a list").into_inner().models;
    models.into_iter().map(|model| (model.name.clone(), model.state())).collect()
}

fn to(model: &str) -> proto::AnswerRequest {
    proto::AnswerRequest { model: model.into(), ..ask(file(CLIP), &["word1", "word2"]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_answers_and_goes_and_the_last_one_may_go() {
    let root = root();
    let server = serving(root.path()).await;
    let health = async || {
        let mut client = HealthClient::new(server.channel.clone());
        client.check(HealthCheckRequest::default()).await.expect("health").into_inner().status()
    };
    server.answers().answer(to("second")).await.expect_err("not yet");
    let model = load(&server, "second", "two").await.expect("a sound bundle");
    assert_eq!((&*model.name, model.state(), model.dimensions), ("second", ModelState::Serving, 16));
    let names = |names: &[&str]| names.iter().map(|name| (name.to_string(), ModelState::Serving)).collect::<Vec<_>>();
    assert_eq!(listed(&server).await, names(&["tiny", "second"]));
    server.answers().answer(to("second")).await.expect("it answers");
    assert_eq!(load(&server, "second", "two").await.expect_err("taken").code(), Code::AlreadyExists);

    unload(&server, "tiny").await.expect("it is there");
    assert_eq!(unload(&server, "tiny").await.expect_err("it was").code(), Code::NotFound);
    assert_eq!(server.answers().answer(to("tiny")).await.expect_err("gone").code(), Code::NotFound);
    server.answers().answer(to("")).await.expect("the first is another one now");
    assert_eq!(health().await, ServingStatus::Serving);
    unload(&server, "second").await.expect("the last may go");
    assert_eq!((listed(&server).await, health().await), (vec![], ServingStatus::NotServing));
    load(&server, "tiny", "two").await.expect("the name is free");
    assert_eq!(health().await, ServingStatus::Serving);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_changes_nothing() {
    let root = root();
    let root_path = root.path().to_owned();
    let server = start(|settings| (settings.models.root, settings.models.items_max) = (Some(root_path), 2)).await;
    for (name, directory, code, field) in [
        ("a b", "two", Code::InvalidArgument, "name"),
        ("", "two", Code::InvalidArgument, "name"),
        ("a", "", Code::InvalidArgument, "directory"),
        ("a", "/etc", Code::InvalidArgument, "directory"),
        ("a", "two/../../x", Code::InvalidArgument, "directory"),
        ("a", ".", Code::InvalidArgument, "directory"),
        ("a", "none", Code::InvalidArgument, "directory"),
        ("a", "torn", Code::FailedPrecondition, ""),
        ("a", "two/vision", Code::FailedPrecondition, ""),
    ] {
        let status = load(&server, name, directory).await.expect_err(directory);
        assert_eq!((status.code(), &*fields(&status).join(",")), (code, field), "{name} {directory}: {status}");
    }
    assert_eq!(listed(&server).await, [("tiny".to_string(), ModelState::Serving)]);
    load(&server, "a", "two").await.expect("the name was given back each time");
    let status = load(&server, "b", "two").await.expect_err("a third");
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("models.items_max"), "{status}");
    server.end().await;
    let server = start(|_| {}).await;
    let status = load(&server, "a", "two").await.expect_err("off");
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("models.root"), "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_under_traffic_and_no_request_is_lost() {
    let root = root();
    let server = serving(root.path()).await;
    let until = Instant::now() + Duration::from_millis(1200);
    let mut traffic = JoinSet::new();
    for model in ["tiny", "tiny", "second", "second"] {
        let mut client = server.answers();
        traffic.spawn(async move {
            let (mut answered, mut absent) = (0, 0);
            while Instant::now() < until {
                match client.answer(to(model)).await {
                    Ok(_) => answered += 1,
                    Err(status) if model == "second" && status.code() == Code::NotFound => absent += 1,
                    Err(status) => panic!("{model}: {status}"),
                }
            }
            (model, answered, absent)
        });
    }
    let mut rounds = 0;
    while Instant::now() < until {
        load(&server, "second", "two").await.expect("a sound bundle");
        tokio::time::sleep(Duration::from_millis(30)).await;
        unload(&server, "second").await.expect("it is there");
        rounds += 1;
    }
    let (mut other, mut second) = (0, 0);
    for (model, answered, _) in traffic.join_all().await {
        *(if model == "tiny" { &mut other } else { &mut second }) += answered;
    }
    assert!(rounds >= 2 && other > 0 && second > 0, "{rounds} rounds, {other} and {second} answers");
    assert_eq!(listed(&server).await, [("tiny".to_string(), ModelState::Serving)]);
    server.end().await;
}
