//! The transport's bounds, each met by a client that goes beyond it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;
use vljepa::service::proto;

use super::wire::{
    ByHand, GOAWAY, PATIENCE, closed, code_of, frame_kinds, framed, http1, pieces, refused, send, whole,
};
use super::{CLIP, Running, STILL, ask, file, item, start};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const PREDICT: &str = "/vljepa.v1.EmbeddingService/Predict";
const ENCODE: &str = "/vljepa.v1.EmbeddingService/EncodeText";

async fn well(server: &Running) {
    server.answers().answer(ask(file(STILL), &["word1"])).await.expect("the server is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_asks_is_not_kept() {
    let server = start(|settings| settings.connection.preface_max_ms = 200).await;
    let mut silent = TcpStream::connect(server.address).await.expect("it listens");
    let mut prefaced = ByHand::connect(server.address).await;
    assert!(closed(&mut silent).await.is_empty());
    closed(&mut prefaced.0).await;
    // The client of this test never asked either, and shall know it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    well(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let server = start(|settings| settings.connection.idle_max_ms = 300).await;
    let mut idle = ByHand::connect(server.address).await;
    idle.call(CHECK, b"").await;
    let mut health = HealthClient::new(server.channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    watch.message().await.expect("no error").expect("a first word");
    closed(&mut idle.0).await;
    let quiet = tokio::time::timeout(Duration::from_millis(600), watch.message()).await;
    assert!(quiet.is_err(), "a call keeps its connection: {quiet:?}");
    drop((watch, health));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_at_once() {
    let server = start(|settings| settings.connection.connections_max = 2).await;
    let mut second = ByHand::connect(server.address).await;
    second.call(CHECK, b"").await;
    second.answered().await;
    let mut third = TcpStream::connect(server.address).await.expect("the kernel accepts it");
    assert!(closed(&mut third).await.is_empty());
    drop(second);
    well(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_gone() {
    let server = start(|settings| {
        (settings.connection.keepalive_ms, settings.connection.keepalive_max_ms) = (100, 1000);
    })
    .await;
    let mut vanished = ByHand::connect(server.address).await;
    closed(&mut vanished.0).await;
    well(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_ends_and_its_calls_do_not() {
    let server = start(|settings| {
        (settings.connection.age_max_ms, settings.connection.age_grace_ms) = (150, 1500);
    })
    .await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(700) {
        well(&server).await;
    }
    // One with a call that goes on is asked to end, and closed when it does not.
    let mut old = ByHand::connect(server.address).await;
    old.call(WATCH, b"").await;
    assert!(frame_kinds(&closed(&mut old.0).await).contains(&GOAWAY));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_his_answer_is_closed() {
    let server = start(|settings| settings.connection.unread_max_ms = 300).await;
    // Larger than the window that a client has before it says anything.
    let texts = proto::EncodeTextRequest { texts: vec!["word1".into(); 1024], ..Default::default() };
    let mut reader = ByHand::connect(server.address).await;
    reader.call(ENCODE, &prost::Message::encode_to_vec(&texts)).await;
    let read = closed(&mut reader.0).await;
    assert!((50_000..80_000).contains(&read.len()), "the window and no more: {}", read.len());
    well(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_is_refused_before_it_is_sent() {
    let server = start(|settings| settings.service.small_message_bytes_max = 2048).await;
    for (path, bytes, problem) in [
        (PREDICT, 70_u32 << 20, "message: is 73400320 bytes, at most 67108864 for vljepa.v1.EmbeddingService"),
        (CHECK, 2049, "message: is 2049 bytes, at most 2048 for grpc.health.v1.Health"),
    ] {
        let (sender, body) = pieces();
        sender.send([&[0], &bytes.to_be_bytes()[..]].concat().into()).await.expect("room");
        let status = refused(&server.channel, path, body).await;
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, problem));
    }
    well(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_so_many_bytes_of_all_calls() {
    let server = start(|settings| settings.service.inflight_bytes_max = 1 << 20).await;
    let (sender, body) = pieces();
    sender.send([&[0], &800_000_u32.to_be_bytes()[..]].concat().into()).await.expect("room");
    let channel = server.channel.clone();
    let holds = tokio::spawn(async move { send(&channel, PREDICT, "application/grpc", body).await });
    // On its way, and then there.
    while sender.capacity() < sender.max_capacity() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut client = server.embeddings();
    let mut predict = async || {
        let request = proto::PredictRequest { items: vec![item(file(&[0; 400_000]), "word1")], ..Default::default() };
        client.predict(request).await
    };
    let full = loop {
        match predict().await {
            Ok(_) => assert!(!holds.is_finished(), "800,000 bytes fit as long as nobody else is there"),
            Err(status) => break status,
        }
    };
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    assert!(full.message().starts_with("the memory of calls in flight is full"), "{full}");
    assert!(full.get_details_retry_info().expect("retry info").retry_delay > Some(Duration::ZERO));
    well(&server).await;
    // Who leaves gives his room back.
    holds.abort();
    drop(sender);
    let begin = Instant::now();
    while predict().await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "the room is not given back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_counts_as_what_it_unfolds_to() {
    let server = start(|settings| {
        (settings.service.message_bytes_max, settings.service.inflight_bytes_max) = (16 << 20, 4 << 20);
    })
    .await;
    for encoding in [Gzip, Zstd] {
        let mut client = server.embeddings().send_compressed(encoding);
        let mut encode = async |bytes: usize| {
            let texts = vec!["\0".repeat(bytes)];
            client.encode_text(proto::EncodeTextRequest { texts, ..Default::default() }).await
        };
        let bomb = encode(20 << 20).await.expect_err("beyond the message's bound");
        assert_eq!(bomb.code(), Code::ResourceExhausted, "{bomb}");
        assert!(bomb.message().contains("16777216"), "{bomb}");
        let large = encode(8 << 20).await.expect_err("beyond the room");
        assert_eq!(large.code(), Code::ResourceExhausted, "{large}");
        assert!(large.message().starts_with("the memory of calls in flight is full"), "{large}");
        encode(1 << 20).await.expect("its item alone is refused");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_for_those_who_like_it() {
    let server = start(|_| {}).await;
    let texts = proto::EncodeTextRequest { texts: vec!["word1".into(); 64], ..Default::default() };
    let plain = server.embeddings().encode_text(texts.clone()).await.expect("an answer").into_inner();
    for encoding in [Gzip, Zstd] {
        let mut client = server.embeddings().accept_compressed(encoding);
        let answer = client.encode_text(texts.clone()).await.expect("an answer");
        let named = answer.metadata().get("grpc-encoding").map(|name| name.to_str().expect("a word").to_owned());
        assert_eq!(named, Some(encoding.to_string()));
        let embeddings = |response: proto::EncodeTextResponse| {
            let outcome = |result: proto::EncodeTextResult| match result.outcome {
                Some(proto::encode_text_result::Outcome::Encoded(text)) => text.embedding,
                other => panic!("{other:?}"),
            };
            response.results.into_iter().map(outcome).collect::<Vec<_>>()
        };
        assert_eq!(embeddings(answer.into_inner()), embeddings(plain.clone()));
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_are_counted_before_they_are_made() {
    let server = start(|settings| {
        (settings.media.items_max, settings.media.frames_max) = (4, 4);
        (settings.text.texts_max, settings.text.candidates_max) = (40, 40);
        // A session's queries would be more.
        settings.watch.queries_max = 1;
    })
    .await;
    // 100 = 4 * (1 + 4) + 40 + 40.
    for (items, problem) in [
        (101, "message: its repeated fields hold more than 100 elements in all, counted up to items"),
        (100, "items: is 100, must be from 1 to 4"),
    ] {
        let status = refused(&server.channel, PREDICT, whole(framed(&[0x12, 0].repeat(items))).await).await;
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, problem));
    }
    let garbage = refused(&server.channel, PREDICT, whole(framed(&[0xff; 20])).await).await;
    assert_eq!(garbage.code(), Code::InvalidArgument, "{garbage}");
    well(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_does_not_come_whole_is_not_waited_for() {
    let server = start(|settings| settings.service.message_read_max_ms = 200).await;
    let (sender, body) = pieces();
    sender.send(Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2])).await.expect("room");
    let status = refused(&server.channel, PREDICT, body).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().starts_with("message: not whole 200 ms"), "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_bodies_that_do_not_end_and_streams_that_go_on() {
    let server = start(|settings| settings.service.deadline_default_ms = 200).await;
    let (_sender, body) = pieces();
    let status = refused(&server.channel, PREDICT, body).await;
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "deadline exceeded"));

    let mut health = HealthClient::new(server.channel.clone());
    let mut patient = health.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    let mut hasty = Request::new(HealthCheckRequest::default());
    hasty.set_timeout(Duration::from_millis(1000));
    let mut hasty = health.watch(hasty).await.expect("a watch").into_inner();
    assert!(hasty.message().await.expect("in time").is_some());
    let late = tokio::time::timeout(PATIENCE, hasty.message()).await.expect("at once").expect_err("its time is over");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(patient.message().await.expect("no error").is_some());
    let quiet = tokio::time::timeout(Duration::from_millis(100), patient.message()).await;
    assert!(quiet.is_err(), "a stream without a timeout goes on: {quiet:?}");
    drop((patient, health));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_told_as_the_protocol_asks() {
    let server = start(|_| {}).await;
    for path in ["/vljepa.v1.EmbeddingService/Nothing", "/no.such.Service/Nothing", "/"] {
        let status = refused(&server.channel, path, whole(framed(b"")).await).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
    let answer = send(&server.channel, PREDICT, "application/json", whole(framed(b"")).await).await;
    assert_eq!(answer.status(), 415);
    assert!(http1(server.address, "GET / HTTP/1.1", b"").await.starts_with("HTTP/1.1 415 "));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_served_from_the_origins_that_are_allowed() {
    let server = start(|settings| settings.service.web_origins = Some("https://example.org".into())).await;
    let head = |origin: &str| {
        format!(
            "POST {CHECK} HTTP/1.1\r\norigin: {origin}\r\ncontent-type: application/grpc-web+proto\r\nx-grpc-web: 1"
        )
    };
    let answer = http1(server.address, &head("https://example.org"), &framed(b"")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status:0"), "{answer}");
    assert!(answer.contains("content-type: application/grpc-web+proto"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://example.org"), "{answer}");
    let answer = http1(server.address, &head("https://elsewhere.org"), &framed(b"")).await;
    assert!(!answer.contains("access-control-allow-origin"), "{answer}");

    let question = "access-control-request-method: POST\r\naccess-control-request-headers: x-grpc-web";
    let question = format!("OPTIONS {CHECK} HTTP/1.1\r\norigin: https://example.org\r\n{question}");
    let answer = http1(server.address, &question, b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("access-control-allow-headers"), "{answer}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_has_its_health_and_many_watch_it() {
    let server = start(|_| {}).await;
    let mut health = HealthClient::new(server.channel.clone());
    for service in [
        "vljepa.v1.AnswerService",
        "vljepa.v1.EmbeddingService",
        "vljepa.v1.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.expect(service).into_inner().status;
        assert_eq!(status, ServingStatus::Serving as i32, "{service}");
    }
    let unknown = HealthCheckRequest { service: "no.such.Service".into() };
    let mut watch = health.watch(unknown).await.expect("a watch").into_inner();
    let first = watch.message().await.expect("no error").expect("a word");
    assert_eq!(first.status, ServingStatus::ServiceUnknown as i32);
    let mut watches = JoinSet::new();
    for _ in 0..200 {
        let mut health = health.clone();
        watches.spawn(async move {
            let mut watch = health.watch(HealthCheckRequest::default()).await?.into_inner();
            let mut heard = Vec::new();
            while let Some(word) = watch.message().await? {
                heard.push(word.status);
            }
            Ok::<_, Status>(heard)
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.stop.send(()).expect("it serves");
    for heard in watches.join_all().await {
        let words = [ServingStatus::Serving, ServingStatus::NotServing].map(|status| status as i32);
        assert_eq!(heard.expect("a proper end"), words);
    }
    drop((watch, health, server.channel));
    server.served.await.expect("no panic").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_client_has_vanished_does_not_hold_the_end() {
    let server = start(|settings| settings.service.drain_max_ms = 60_000).await;
    // It never answers the ping by which HTTP/2 says goodbye.
    let mut vanished = ByHand::connect(server.address).await;
    vanished.call(CHECK, b"").await;
    vanished.answered().await;
    let asked = Instant::now();
    server.end().await;
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_does_not_hold_the_end_beyond_its_bound() {
    let server = start(|settings| settings.service.drain_max_ms = 300).await;
    let texts = proto::EncodeTextRequest { texts: vec!["word1".into(); 1024], ..Default::default() };
    let mut reader = ByHand::connect(server.address).await;
    reader.call(ENCODE, &prost::Message::encode_to_vec(&texts)).await;
    reader.answered().await;
    let asked = Instant::now();
    server.end().await;
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_hard_stop_a_call_hears_a_last_word() {
    let server = start(|settings| settings.service.drain_max_ms = 300).await;
    let (sender, body) = pieces();
    sender.send(Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2])).await.expect("room");
    let channel = server.channel.clone();
    let call = tokio::spawn(async move { refused(&channel, PREDICT, body).await });
    // Behind it on the same connection: it has arrived.
    well(&server).await;
    let asked = Instant::now();
    server.stop.send(()).expect("it serves");
    let status = call.await.expect("no panic");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is draining: go on elsewhere"));
    drop(server.channel);
    server.served.await.expect("no panic").expect("a clean end");
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_finished_and_what_comes_later_is_refused() {
    let server = start(|_| {}).await;
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let mut client = server.answers();
        calls.spawn(async move { code_of(client.answer(ask(file(CLIP), &["word1"])).await) });
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    server.stop.send(()).expect("it serves");
    let codes = calls.join_all().await;
    assert!(codes.iter().all(|code| matches!(code, Code::Ok | Code::Unavailable)), "{codes:?}");
    drop(server.channel);
    server.served.await.expect("no panic").expect("a clean end");
}
