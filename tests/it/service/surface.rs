//! What the services answer and refuse.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use vljepa::service::proto::model_service_client::ModelServiceClient;
use vljepa::service::proto::{self, predict_result};

use super::{CLIP, STILL, ask, fields, file, frames, item, start, values};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_item_of_a_list_fails_alone_and_the_others_are_as_if_alone() {
    let server = start(|_| {}).await;
    let items = vec![
        item(file(STILL), "word1"),
        item(file(b"no picture"), "word1"),
        item(file(CLIP), "word2"),
        item(None, "word1"),
    ];
    let alone = items[2].clone();
    let mut client = server.embeddings();
    let mut predict = async |items| {
        let request = proto::PredictRequest { items, ..Default::default() };
        client.predict(request).await.expect("an answer").into_inner()
    };
    let response = predict(items).await;
    let mut found = Vec::new();
    for (at, result) in response.results.into_iter().enumerate() {
        match result.outcome.expect("an outcome") {
            predict_result::Outcome::Prediction(prediction) => found.push((at, prediction)),
            predict_result::Outcome::Error(error) => {
                assert_eq!(error.code, Code::InvalidArgument as i32);
                assert!(error.message.starts_with(&format!("items[{at}].media: ")), "{}", error.message);
            }
        }
    }
    assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 2]);
    let (usage, embedding) = (found[1].1.usage.expect("usage"), found[1].1.embedding.as_ref().expect("an embedding"));
    assert_eq!((usage.visual_tokens, usage.frames_decoded, usage.frames_used), (8, 8, 4));
    assert_eq!(embedding.space, response.space);
    let single = predict(vec![alone]).await.results.remove(0).outcome;
    let Some(predict_result::Outcome::Prediction(single)) = single else { panic!("{single:?}") };
    let cosine: f32 =
        values(embedding).iter().zip(values(&single.embedding.expect("an embedding"))).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.9999, "{cosine}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_in_their_order_and_as_asked() {
    let server = start(|settings| settings.text.bytes_max = 20).await;
    let output = proto::OutputOptions { dimensions: 4, dtype: proto::Dtype::F16 as i32, ..Default::default() };
    let texts = ["word1 word2", "", "a text that is much too long", "word3", "word1 word2"].map(String::from);
    let request = proto::EncodeTextRequest { texts: texts.into(), output: Some(output), ..Default::default() };
    let response = server.embeddings().encode_text(request).await.expect("an answer").into_inner();
    let outcomes: Vec<_> = response.results.into_iter().map(|result| result.outcome.expect("an outcome")).collect();
    let data: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            proto::encode_text_result::Outcome::Encoded(text) => Ok(text.embedding.clone().expect("an embedding")),
            proto::encode_text_result::Outcome::Error(error) => Err(error.message.clone()),
        })
        .collect();
    assert_eq!(data[1], Err("texts[1]: is empty".into()));
    assert_eq!(data[2], Err("texts[2]: is 28 bytes, at most 20".into()));
    let first = data[0].as_ref().expect("embedded");
    assert_eq!((first.data.len(), first.dimensions, first.dtype), (8, 4, proto::Dtype::F16 as i32));
    assert_eq!(data[0], data[4]);
    assert_ne!(data[0], data[3]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_nearest_candidate_or_what_the_decoder_says() {
    let server = start(|_| {}).await;
    let mut client = server.answers().send_compressed(CompressionEncoding::Zstd);
    let candidates = ["word3", "word4 word5", "word6"];
    let chosen = client.answer(ask(file(CLIP), &candidates)).await.expect("an answer").into_inner();
    assert_eq!(chosen.choices.iter().map(|choice| &*choice.text).collect::<Vec<_>>(), candidates);
    let best = chosen.choices.iter().max_by(|a, b| a.score.total_cmp(&b.score)).expect("choices");
    assert_eq!(chosen.answer, best.text);
    assert!((chosen.choices.iter().map(|choice| choice.score).sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(chosen.embedding.is_none());

    let spoken = proto::AnswerRequest { want_embedding: true, ..ask(file(CLIP), &[]) };
    let spoken = client.answer(spoken).await.expect("an answer").into_inner();
    let length: f32 = values(&spoken.embedding.expect("wanted")).iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert!(spoken.choices.is_empty());
    let timing = spoken.timing.expect("timing");
    assert!(timing.vision_ms > 0.0 && timing.decoder_ms > 0.0 && timing.total_ms >= timing.vision_ms, "{timing:?}");

    let generation = proto::Generation { temperature: 1.0, seed: 7, ..Default::default() };
    let sampled = proto::AnswerRequest { generation: Some(generation), ..ask(file(CLIP), &[]) };
    let once = client.answer(sampled.clone()).await.expect("an answer").into_inner().answer;
    assert_eq!(client.answer(sampled).await.expect("an answer").into_inner().answer, once);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_frames_mean_the_same_in_every_format() {
    let server = start(|_| {}).await;
    let rgb: Vec<u8> = (0..24 * 20 * 3).map(|at| (at * 7 % 251) as u8).collect();
    let bgr: Vec<u8> = rgb.as_chunks().0.iter().flat_map(|&[red, green, blue]: &[u8; 3]| [blue, green, red]).collect();
    let raw = |data: &[u8], format: proto::FrameFormat| {
        let frame = |pts_ms| proto::Frame { data: data.to_vec(), format: format as i32, width: 24, height: 20, pts_ms };
        item(frames(vec![frame(0), frame(40)]), "word1")
    };
    let items = vec![
        raw(&rgb, proto::FrameFormat::Rgb8),
        raw(&bgr, proto::FrameFormat::Bgr8),
        raw(&bgr, proto::FrameFormat::Rgb8),
    ];
    let mut data = Vec::new();
    for item in items {
        // One request each: in batches of different sizes the last bits of a dense product may differ.
        let request = proto::PredictRequest { items: vec![item], ..Default::default() };
        let response = server.embeddings().predict(request).await.expect("an answer").into_inner();
        data.extend(response.results.into_iter().map(|result| match result.outcome {
            Some(predict_result::Outcome::Prediction(found)) => found.embedding.expect("an embedding").data,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(data[0], data[1]);
    assert_ne!(data[0], data[2]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_name_the_field() {
    let server = start(|settings| settings.text.candidates_max = 2).await;
    let mut client = server.answers();
    let frame = |data: &[u8], pts_ms| proto::Frame {
        data: data.to_vec(),
        format: proto::FrameFormat::Gray8 as i32,
        width: 2,
        height: 2,
        pts_ms,
    };
    let sampling = |sampling| proto::AnswerRequest { sampling: Some(sampling), ..ask(file(CLIP), &["a"]) };
    let output = |output| proto::AnswerRequest { output: Some(output), ..ask(file(CLIP), &["a"]) };
    let wrong = [
        ("media", ask(None, &[])),
        ("media", ask(file(&CLIP[..200]), &[])),
        ("media.inline", ask(file(b""), &[])),
        ("media.frames", ask(frames(vec![]), &[])),
        ("media.frames[0].data", ask(frames(vec![frame(b"123", 0)]), &[])),
        ("media.frames[1].pts_ms", ask(frames(vec![frame(b"1234", 9), frame(b"1234", 8)]), &[])),
        ("question", proto::AnswerRequest { question: "  ".into(), ..ask(file(CLIP), &[]) }),
        ("candidates", ask(file(CLIP), &["a", "b", "c"])),
        ("priority", proto::AnswerRequest { priority: 77, ..ask(file(CLIP), &["a"]) }),
        ("candidates[1]", ask(file(CLIP), &["a", ""])),
        ("sampling.frames", sampling(proto::Sampling { frames: Some(0), ..Default::default() })),
        ("sampling.fps", sampling(proto::Sampling { fps: Some(f32::NAN), ..Default::default() })),
        ("sampling.end_ms", sampling(proto::Sampling { start_ms: Some(5), end_ms: Some(5), ..Default::default() })),
        ("output.dimensions", output(proto::OutputOptions { dimensions: 17, ..Default::default() })),
        ("output.dtype", output(proto::OutputOptions { dtype: 99, ..Default::default() })),
    ];
    for (field, request) in wrong {
        let status = client.answer(request).await.expect_err(field);
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_string()]), "{status}");
    }
    let elsewhere = proto::AnswerRequest { model: "another".into(), ..ask(file(CLIP), &[]) };
    assert_eq!(client.answer(elsewhere).await.expect_err("no such model").code(), Code::NotFound);
    assert_eq!(client.answer(ask(file(STILL), &["word1"])).await.expect("still well").into_inner().answer, "word1");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_told_so() {
    let server = start(|settings| settings.service.deadline_default_ms = 1).await;
    let status = server.answers().answer(ask(file(CLIP), &[])).await.expect_err("a millisecond is too short");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let mut patient = Request::new(ask(file(CLIP), &[]));
    patient.set_timeout(Duration::from_secs(60));
    server.answers().answer(patient).await.expect("its own deadline is longer");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let server = start(|settings| settings.queue.items_max = 1).await;
    let mut calls = JoinSet::new();
    for _ in 0..32 {
        let mut client = server.answers();
        calls.spawn(async move { client.answer(ask(file(CLIP), &["word1"])).await });
    }
    let outcomes = calls.join_all().await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(!refused.is_empty() && refused.len() < outcomes.len(), "{} of {}", refused.len(), outcomes.len());
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let delay = status.get_details_retry_info().expect("retry info").retry_delay.expect("a delay");
        assert!(delay >= Duration::from_millis(100) && delay <= Duration::from_secs(30), "{delay:?}");
    }
    server.answers().answer(ask(file(CLIP), &["word1"])).await.expect("there is room again");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_the_whole_queue_is_refused_for_good() {
    // A part of it is kept for sessions and jobs.
    let server = start(|settings| settings.queue.cost_max = 5).await;
    let status = server.answers().answer(ask(file(CLIP), &[])).await.expect_err("8 visual tokens alone");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().ends_with("at most 4 are admitted"), "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_tells_its_limits() {
    let server = start(|settings| settings.media.items_max = 7).await;
    let mut client = ModelServiceClient::new(server.channel.clone());
    let listed = client.list_models(proto::ListModelsRequest {}).await.expect("a list").into_inner().models;
    let model = client.get_model(proto::GetModelRequest { name: "tiny".into() }).await.expect("a model").into_inner();
    assert_eq!(model.model.as_ref(), listed.first());
    let model = listed.into_iter().next().expect("one model");
    assert_eq!((&*model.name, model.dimensions, model.space.len(), model.parts.len()), ("tiny", 16, 16, 4));
    assert_eq!(model.limits.expect("limits").items_max, 7);
    // The second one would not fit into the headers that a client takes, were it told in full.
    for name in ["another".to_string(), "x".repeat(100_000)] {
        let refused = client.get_model(proto::GetModelRequest { name }).await.expect_err("no such model");
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_reflections_list_the_services() {
    let server = start(|_| {}).await;
    macro_rules! listed {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request = ServerReflectionRequest { host: String::new(), message_request };
            let mut client = ServerReflectionClient::new(server.channel.clone());
            let mut responses =
                client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection").into_inner();
            match responses.message().await.expect("an answer").expect("one").message_response {
                Some(MessageResponse::ListServicesResponse(list)) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for listed in [listed!(v1), listed!(v1alpha)] {
        for service in
            ["vljepa.v1.AnswerService", "vljepa.v1.EmbeddingService", "vljepa.v1.ModelService", "grpc.health.v1.Health"]
        {
            assert!(listed.iter().any(|name| name == service), "{service} in {listed:?}");
        }
    }
    server.end().await;
}
