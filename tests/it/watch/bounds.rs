//! What a session may take: credits, events that nobody acknowledges, silence, deadlines, places, and messages that are no
//! part of any session.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;
use vljepa::service::proto::watch_request::Message as Asked;
use vljepa::service::proto::watch_response::Message as Told;
use vljepa::service::proto::{
    Speak, UpdateQuery, WatchAck, WatchFrame, WatchQuery, WatchRequest, WatchResponse, WatchStart, WatchWindow,
};

use super::{Client, Wire, begin, frame, frames, open, query, resume, uniform};
use crate::service::{CLIP, Running, ask, fields, file, start};

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// How a call ends of which nothing more is expected.
async fn end(client: &mut Client) -> tonic::Status {
    loop {
        match client.next().await {
            Ok(told) => assert!(told.is_some(), "it ends with a status"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_without_a_credit_ends_its_call_and_nobody_elses() {
    let set = |settings: &mut vljepa::settings::Settings| {
        (settings.watch.frames_waiting_max, settings.watch.events_kept_max) = (4, 1);
    };
    let server = start(set).await;
    let mut client = begin(&server.channel, uniform()).await;
    let token = client.started.resume_token.clone();
    // The session stands still after its first window, for nothing is acknowledged.
    for frame in frames(200) {
        client.send(Asked::Frame(frame)).await;
    }
    let status = end(&mut client).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "CREDIT_MISSING"), "{status}");
    server.answers().answer(ask(file(CLIP), &["word1"])).await.expect("others are answered");
    // Who has miscounted may do better.
    let again = resume(&server.channel, &token, 0).await.expect("the session is there");
    let next = again.started.seq.expect("some came") as usize;
    assert!((4..100).contains(&next), "{next}");
    let heard = again.whole(&frames(60)[next.min(60)..]).await;
    heard.status.as_ref().expect("a good end");
    assert_eq!(heard.stats().frames, 60.max(next as u64));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_or_acknowledge_stands_still_and_loses_nothing() {
    let server = start(|settings| settings.watch.events_kept_max = 8).await;
    let mut client = begin(&server.channel, uniform()).await;
    for frame in frames(32) {
        client.send(Asked::Frame(frame)).await;
    }
    for _ in 0..10 {
        server.answers().answer(ask(file(CLIP), &["word1"])).await.expect("others are answered");
    }
    let mut numbers = Vec::new();
    // What was begun is told to its end: a window's events at most beyond the bound.
    while let Ok(next) = tokio::time::timeout(Duration::from_millis(500), client.next()).await {
        numbers.push(next.expect("no error").expect("no end").event);
    }
    assert!((8..=10).contains(&numbers.len()), "{numbers:?}");
    client.ack(numbers.len() as u64).await;
    let next = client.next().await.expect("no error").expect("it goes on");
    assert_eq!(next.event, numbers.len() as u64 + 1);
    numbers.push(next.event);
    let heard = client.finish().await;
    heard.status.as_ref().expect("a good end, for who can acknowledge no more need not");
    numbers.extend(heard.told.iter().map(|one| one.event));
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(heard.stats().frames, 32);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_session_and_what_had_come_is_told_before() {
    let server = start(|settings| settings.watch.idle_ms = 300).await;
    let mut client = begin(&server.channel, uniform()).await;
    let token = client.started.resume_token.clone();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.ack(0).await;
    }
    client.send(Asked::Frame(frame(1, 0, 1))).await;
    let stats = client
        .until(|one| match &one.message {
            Some(Told::Finished(finished)) => finished.stats,
            _ => None,
        })
        .await;
    assert_eq!(stats.frames, 1);
    let status = end(&mut client).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::DeadlineExceeded, "SESSION_IDLE"), "{status}");
    let late = resume(&server.channel, &token, 0).await.expect("its end is kept").finish().await;
    assert!(matches!(late.told.last(), Some(WatchResponse { message: Some(Told::Finished(_)), .. })), "{late:?}");

    // One that never says anything at all.
    let (_silent, messages) = tokio::sync::mpsc::channel::<WatchRequest>(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut client = vljepa::service::proto::watch_service_client::WatchServiceClient::new(server.channel.clone());
    let status = client.watch(messages).await.expect("a call").into_inner().message().await.expect_err("silence");
    assert_eq!(reason(&status), "SESSION_IDLE", "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_call_is_its_sessions() {
    let server = start(|_| {}).await;
    let patience = Duration::from_millis(400);
    let mut client = open(&server.channel, uniform(), Some(patience)).await.expect("in time");
    let token = client.started.resume_token.clone();
    client.send(Asked::Frame(frame(1, 0, 1))).await;
    let status = end(&mut client).await;
    // The client's own timer may be first, in its own word.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let gone = resume(&server.channel, &token, 0).await.expect_err("it has ended");
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_bounded_and_come_back() {
    let server = start(|settings| settings.watch.sessions_max = 2).await;
    let refused = async || open(&server.channel, uniform(), None).await.err();
    let wire = Wire::to(server.address).await;
    let (_one, two) = (begin(&wire.channel().await, uniform()).await, begin(&server.channel, uniform()).await);
    let status = refused().await.expect("two are there");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status}");
    let violations = status.get_details_quota_failure().expect("which").violations;
    assert_eq!(violations[0].subject, "watch.sessions_max");
    // A session that waits for its client keeps its place; one that is over does not.
    wire.breaks();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(refused().await.map(|status| status.code()), Some(Code::ResourceExhausted));
    two.finish().await.status.expect("a good end");
    for _ in 0..5 {
        let next = begin(&server.channel, uniform()).await;
        assert!(refused().await.is_some());
        next.finish().await.status.expect("a good end");
    }
    server.end().await;

    let server = start(|settings| settings.watch.sessions_max = 0).await;
    let status = open(&server.channel, uniform(), None).await.expect_err("there are none");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("watch.sessions_max"), "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_names_its_field_and_takes_no_place() {
    let server = start(|settings| settings.watch.sessions_max = 1).await;
    let window = |window| WatchStart { window: Some(window), ..uniform() };
    for (start, code, field) in [
        (
            window(WatchWindow { stride_ms: 2001, ..Default::default() }),
            Code::InvalidArgument,
            "start.window.stride_ms",
        ),
        (window(WatchWindow { frames: Some(0), ..Default::default() }), Code::InvalidArgument, "start.window.frames"),
        (
            window(WatchWindow { frames: Some(1024), ..Default::default() }),
            Code::InvalidArgument,
            "start.window.frames",
        ),
        (WatchStart { queries: vec![], ..uniform() }, Code::InvalidArgument, "start.queries"),
        (
            WatchStart { queries: vec![query("word1", &[]), query(" ", &[])], ..uniform() },
            Code::InvalidArgument,
            "start.queries[1].question",
        ),
        (
            WatchStart { queries: vec![query("word1", &["word2", ""])], ..uniform() },
            Code::InvalidArgument,
            "start.queries[0].candidates[1]",
        ),
        (WatchStart { drop: 77, ..uniform() }, Code::InvalidArgument, "start.drop"),
        (WatchStart { resume_token: "x".into(), ..uniform() }, Code::InvalidArgument, "start.resume_token"),
        (WatchStart { model: "another".into(), ..uniform() }, Code::NotFound, ""),
    ] {
        let status = open(&server.channel, start, None).await.expect_err(field);
        assert_eq!((status.code(), &*fields(&status).join(",")), (code, field), "{status}");
    }
    begin(&server.channel, uniform()).await.finish().await.status.expect("the place is free");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_ends_the_call_and_leaves_the_session() {
    let server = start(|_| {}).await;
    let mut client = begin(&server.channel, uniform()).await;
    let token = client.started.resume_token.clone();
    let update = |query, to: Option<WatchQuery>| Asked::UpdateQuery(UpdateQuery { query, to });
    for (asked, field) in [
        (Some(Asked::Start(uniform())), "start"),
        (Some(update(0, None)), "update_query.to"),
        (Some(update(2, Some(query("word1", &[])))), "update_query.query"),
        (Some(update(0, Some(query("", &[])))), "update_query.to.question"),
        (Some(Asked::Speak(Speak::default())), "speak.embedding"),
        (Some(Asked::Speak(Speak { query: 7, ..Default::default() })), "speak.query"),
        (Some(Asked::Ack(WatchAck { event: 1 << 60 })), "ack.event"),
        (None, "message"),
    ] {
        client.sender.send(WatchRequest { message: asked }).await.expect("it is read");
        let status = end(&mut client).await;
        assert_eq!((status.code(), &*fields(&status).join(",")), (Code::InvalidArgument, field), "{status}");
        client = resume(&server.channel, &token, 0).await.expect("the session is there");
    }
    let heard = client.whole(&frames(10)).await;
    heard.status.as_ref().expect("a good end");
    assert_eq!(heard.stats().frames, 10);

    let nothing = WatchServiceFirst(&server);
    for first in [None, Some(Asked::Frame(frame(1, 0, 0))), Some(Asked::Stop(Default::default()))] {
        let status = nothing.refused(first).await;
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["start".to_string()]), "{status}");
    }
    server.end().await;
}

/// Calls that begin with something else than a start.
struct WatchServiceFirst<'a>(&'a Running);

impl WatchServiceFirst<'_> {
    async fn refused(&self, first: Option<Asked>) -> tonic::Status {
        let messages: Vec<_> = first.into_iter().map(super::message).collect();
        let mut client = vljepa::service::proto::watch_service_client::WatchServiceClient::new(self.0.channel.clone());
        let call = client.watch(tokio_stream::iter(messages)).await.expect("a call");
        call.into_inner().message().await.expect_err("it begins nothing")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_are_bounded() {
    let set = |settings: &mut vljepa::settings::Settings| {
        (settings.watch.requests_waiting_max, settings.watch.events_kept_max) = (4, 1);
    };
    let server = start(set).await;
    let mut client = begin(&server.channel, uniform()).await;
    for frame in frames(30) {
        client.send(Asked::Frame(frame)).await;
    }
    for _ in 0..200 {
        client.send(Asked::Flush(Default::default())).await;
    }
    let status = end(&mut client).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let violations = status.get_details_quota_failure().expect("which").violations;
    assert_eq!(violations[0].subject, "watch.requests_waiting_max");
    server.end().await;
}

/// Reads for a while; what came but credits.
async fn absorb(client: &mut Client) -> usize {
    let mut told = 0;
    while let Ok(next) = tokio::time::timeout(Duration::from_millis(300), client.next()).await {
        next.expect("no error").expect("no end");
        told += 1;
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_whose_bytes_have_no_room_wait_and_not_for_ever() {
    let set = |settings: &mut vljepa::settings::Settings| {
        let watch = &mut settings.watch;
        (watch.bytes_waiting_max, watch.events_kept_max, watch.frames_waiting_max) = (1 << 10, 2, 4);
    };
    let server = start(set).await;
    let mut client = begin(&server.channel, uniform()).await;
    let all: Vec<WatchFrame> = frames(8)
        .into_iter()
        .map(|mut frame| {
            let picture = frame.frame.as_mut().expect("a picture");
            (picture.data, picture.width, picture.height) = (vec![frame.seq as u8; 1024], 32, 32);
            frame
        })
        .collect();
    let (first, next) = all.split_at(4);
    for frame in first {
        client.send(Asked::Frame(frame.clone())).await;
    }
    assert_eq!((absorb(&mut client).await, client.credits), (0, 8), "understood, and no window");
    for frame in &next[..2] {
        client.send(Asked::Frame(frame.clone())).await;
    }
    assert_eq!(absorb(&mut client).await, 2, "the first window, and then it stands still");
    // These are taken from what waits as far as anything is made ready ahead; then one frame has room, and no other.
    for _ in 0..4 {
        client.send(Asked::Flush(Default::default())).await;
    }
    for frame in &next[2..] {
        client.send(Asked::Frame(frame.clone())).await;
    }
    let token = client.started.resume_token.clone();
    // Behind them stands what would help.
    client.ack(2).await;
    let status = end(&mut client).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let violations = status.get_details_quota_failure().expect("which").violations;
    assert_eq!(violations[0].subject, "watch.events_kept_max");
    // Taking it up acknowledges, and it goes on.
    let mut again = resume(&server.channel, &token, 2).await.expect("it is there");
    assert_eq!(again.started.seq, Some(7));
    assert_eq!(again.next().await.expect("no error").expect("no end").event, 3);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_share_the_model() {
    let server = start(|_| {}).await;
    let mut sessions = JoinSet::new();
    let began = std::time::Instant::now();
    for _ in 0..2 {
        let client = begin(&server.channel, uniform()).await;
        sessions.spawn(async move {
            let heard = client.whole(&frames(200)).await;
            (heard.stats().embeddings, began.elapsed())
        });
    }
    let ended = sessions.join_all().await;
    let [(one, first), (two, last)] = ended[..] else { panic!("{ended:?}") };
    assert!(one == two && one > 90, "{ended:?}");
    // Were one served after the other, the first would be done in half the time.
    let (first, last) = (first.min(last), first.max(last));
    assert!(first.as_secs_f64() > 0.6 * last.as_secs_f64(), "{ended:?}");
    server.end().await;
}
