//! StreamPredict: ids, the window, and every way in which a call can end.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use vljepa::service::proto::stream_predict_request::Message as Asked;
use vljepa::service::proto::stream_predict_response::Message as Told;
use vljepa::service::proto::stream_predict_result::Outcome;
use vljepa::service::proto::{
    StreamPredictFinished, StreamPredictItem, StreamPredictOpen, StreamPredictRequest, StreamPredictResponse,
};

use super::{CLIP, Running, STILL, ask, fields, file, item, start};

fn open(window: u32) -> Asked {
    Asked::Open(StreamPredictOpen { window, ..Default::default() })
}

fn asked(id: u64, media: &[u8]) -> Asked {
    Asked::Item(StreamPredictItem { id, item: Some(item(file(media), "word1")), ..Default::default() })
}

/// A call that may last `patience`, and what its client sends.
async fn call(
    server: &Running,
    patience: Duration,
) -> (mpsc::Sender<StreamPredictRequest>, Streaming<StreamPredictResponse>) {
    let (sender, messages) = mpsc::channel(100);
    let mut request = Request::new(ReceiverStream::new(messages));
    request.set_timeout(patience);
    (sender, server.embeddings().stream_predict(request).await.expect("a stream").into_inner())
}

/// Sends all messages and half-closes; what comes back, and the status it ends with.
async fn whole(server: &Running, messages: Vec<Asked>) -> (Vec<Told>, Result<(), Status>) {
    let (sender, mut responses) = call(server, Duration::from_secs(60)).await;
    tokio::spawn(async move {
        for message in messages {
            // The server may have ended the call.
            let _ = sender.send(StreamPredictRequest { message: Some(message) }).await;
        }
    });
    let mut told = Vec::new();
    loop {
        match responses.message().await {
            Ok(Some(response)) => told.push(response.message.expect("a message")),
            Ok(None) => return (told, Ok(())),
            Err(status) => return (told, Err(status)),
        }
    }
}

fn results(told: &[Told]) -> Vec<(u64, Code)> {
    let code = |outcome: &Option<Outcome>| match outcome.as_ref().expect("an outcome") {
        Outcome::Prediction(found) => found.embedding.as_ref().map_or(Code::Unknown, |_| Code::Ok),
        Outcome::Error(error) => Code::from_i32(error.code),
    };
    let result = |told: &Told| match told {
        Told::Result(result) => Some((result.id, code(&result.outcome))),
        _ => None,
    };
    told.iter().filter_map(result).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_is_answered_under_its_id_and_a_hostile_one_fails_alone() {
    let server = start(|_| {}).await;
    let media = |id: u64| if id % 10 == 7 { &b"no picture"[..] } else { [STILL, CLIP][id as usize % 2] };
    // No opening: the defaults hold.
    let (told, ended) = whole(&server, (0..150).map(|id| asked(id, media(id))).collect()).await;
    ended.expect("a good end");
    assert!(matches!(&told[0], Told::Opened(opened) if opened.model == "tiny" && opened.window == 64), "{:?}", told[0]);
    let mut results = results(&told);
    results.sort_unstable_by_key(|&(id, _)| id);
    let expected = |id| (id, if id % 10 == 7 { Code::InvalidArgument } else { Code::Ok });
    assert_eq!(results, (0..150).map(expected).collect::<Vec<_>>());
    let finished = StreamPredictFinished { items: 150, succeeded: 135, failed: 15 };
    assert_eq!(told.last(), Some(&Told::Finished(finished)));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_one_is_answered_in_order_and_an_id_in_flight_is_refused() {
    let server = start(|_| {}).await;
    let media = |id: u64| if id.is_multiple_of(3) { CLIP } else { &b"no picture"[..] };
    let messages = std::iter::once(open(1)).chain((0..40).map(|id| asked(id, media(id))));
    let (told, ended) = whole(&server, messages.collect()).await;
    ended.expect("a good end");
    let ids: Vec<u64> = results(&told).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());

    let (told, ended) = whole(&server, (0..64).map(|at| asked(at / 2, CLIP)).collect()).await;
    ended.expect("a good end");
    let results = results(&told);
    let there = results.iter().filter(|(_, code)| *code == Code::AlreadyExists).count();
    assert!(there > 0, "{results:?}");
    assert_eq!(results.iter().filter(|(_, code)| *code == Code::Ok).count(), 64 - there);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_holds_items_back_and_refuses_none() {
    let server = start(|settings| settings.queue.items_max = 1).await;
    let (told, ended) = whole(&server, (0..100).map(|id| asked(id, CLIP)).collect()).await;
    ended.expect("a good end");
    assert!(results(&told).iter().all(|(_, code)| *code == Code::Ok), "{:?}", results(&told));
    assert_eq!(results(&told).len(), 100);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_bytes_stays_within_the_memory_of_all_calls() {
    let server = start(|settings| settings.service.inflight_bytes_max = 8 * CLIP.len()).await;
    let (told, ended) = whole(&server, (0..60).map(|id| asked(id, CLIP)).collect()).await;
    ended.expect("a good end");
    let finished = StreamPredictFinished { items: 60, succeeded: 60, failed: 0 };
    assert_eq!(told.last(), Some(&Told::Finished(finished)));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_item_ends_the_call_after_what_was_read() {
    let server = start(|settings| settings.service.stream_items_max = 8).await;
    let unknown = StreamPredictOpen { model: "another".into(), ..Default::default() };
    let priority = StreamPredictOpen { priority: 77, ..Default::default() };
    for (about, messages, items, code, field) in [
        ("a late opening", vec![asked(1, CLIP), open(0), asked(2, CLIP)], 1, Code::InvalidArgument, "open"),
        ("too wide a window", vec![open(9)], 0, Code::InvalidArgument, "open.window"),
        ("no such priority", vec![Asked::Open(priority)], 0, Code::InvalidArgument, "open.priority"),
        ("no such model", vec![Asked::Open(unknown), asked(1, CLIP)], 0, Code::NotFound, ""),
    ] {
        let (told, ended) = whole(&server, messages).await;
        let status = ended.expect_err(about);
        assert_eq!((status.code(), results(&told).len()), (code, items), "{about}: {status}");
        assert_eq!(fields(&status).join(","), field, "{about}");
        assert!(matches!(told.last(), Some(Told::Finished(told)) if told.items == items as u64), "{about}: {told:?}");
    }
    let (told, ended) = whole(&server, vec![]).await;
    ended.expect("nothing is no mistake");
    assert_eq!(told, [Told::Finished(StreamPredictFinished::default())]);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_the_items_and_the_calls() {
    let server = start(|_| {}).await;
    let (sender, mut responses) = call(&server, Duration::from_millis(700)).await;
    let hurried =
        StreamPredictItem { id: 3, item: Some(item(file(CLIP), "word1")), timeout_ms: 1, ..Default::default() };
    for message in [Asked::Item(hurried), asked(4, STILL)] {
        sender.send(StreamPredictRequest { message: Some(message) }).await.expect("it is read");
    }
    let mut told = Vec::new();
    let status = loop {
        match responses.message().await {
            Ok(response) => told.push(response.expect("no end without the client").message.expect("a message")),
            Err(status) => break status,
        }
    };
    let mut results = results(&told);
    results.sort_unstable_by_key(|&(id, _)| id);
    assert_eq!(results, [(3, Code::DeadlineExceeded), (4, Code::Ok)]);
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_items_along() {
    let server = start(|settings| settings.queue.items_max = 8).await;
    for _ in 0..20 {
        let (sender, mut responses) = call(&server, Duration::from_secs(60)).await;
        for id in 0..16 {
            sender.send(StreamPredictRequest { message: Some(asked(id, CLIP)) }).await.expect("it is read");
        }
        responses.message().await.expect("no error").expect("the opening");
    }
    // Of what was left behind nothing may hold a place for ever.
    let mut client = server.answers();
    for _ in 0..100 {
        match client.answer(ask(file(CLIP), &["word1"])).await {
            Ok(_) => return server.end().await,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no room after 5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_answers_what_it_has_read_and_says_why_it_ends() {
    let server = start(|_| {}).await;
    let (sender, mut responses) = call(&server, Duration::from_secs(60)).await;
    for id in 0..20 {
        sender.send(StreamPredictRequest { message: Some(asked(id, CLIP)) }).await.expect("it is read");
    }
    let mut told = vec![responses.message().await.expect("no error").expect("the opening").message.expect("a message")];
    server.stop.send(()).expect("it serves");
    let status = loop {
        match responses.message().await {
            Ok(response) => told.push(response.expect("the client has not ended it").message.expect("a message")),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("draining"), "{status}");
    let Some(Told::Finished(finished)) = told.last().cloned() else { panic!("{told:?}") };
    assert_eq!(finished.items, results(&told).len() as u64, "what was read was answered");
    assert_eq!((finished.items, finished.failed), (finished.succeeded, 0));
    drop((sender, responses, server.channel));
    server.served.await.expect("no panic").expect("a clean end");
}
