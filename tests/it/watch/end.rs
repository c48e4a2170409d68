//! How sessions end that nobody stopped: with their server, and with their model.

use std::time::{Duration, Instant};

use tonic::Code;
use tonic_types::StatusExt;
use vljepa::service::proto::UnloadModelRequest;
use vljepa::service::proto::model_service_client::ModelServiceClient;
use vljepa::service::proto::watch_request::Message as Asked;
use vljepa::service::proto::watch_response::Message as Told;

use super::{Wire, begin, frames, open, resume, uniform};
use crate::service::start;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_tells_at_once_takes_frames_for_a_while_and_finishes_what_has_come() {
    let server = start(|settings| {
        (settings.service.drain_delay_ms, settings.service.drain_max_ms) = (400, 20_000);
    })
    .await;
    let wire = Wire::to(server.address).await;
    let _left = begin(&wire.channel().await, uniform()).await;
    wire.breaks();
    let mut client = begin(&server.channel, uniform()).await;
    let mut told = Vec::new();
    client.feed(&frames(10), &mut told).await.expect("it goes on");
    let asked = Instant::now();
    server.stop.send(()).expect("it serves");
    let away = client
        .until(|one| match &one.message {
            Some(Told::GoAway(away)) => Some(away.clone()),
            _ => None,
        })
        .await;
    assert!(asked.elapsed() < Duration::from_millis(300), "{:?}", asked.elapsed());
    assert!((19_000..=20_400).contains(&away.time_left_ms), "{away:?}");
    assert_eq!(away.resume_token, client.started.resume_token);
    // It still takes frames, and a new session, which is told too.
    client.feed(&frames(20)[10..], &mut told).await.expect("it goes on");
    let mut late = open(&server.channel, uniform(), None).await.expect("nothing is refused yet");
    late.until(|one| matches!(one.message, Some(Told::GoAway(_))).then_some(())).await;
    let mut ends = Vec::new();
    for client in [&mut client, &mut late] {
        let mut finished = None;
        let status = loop {
            match client.next().await {
                Ok(next) => {
                    if let Some(Told::Finished(last)) = next.expect("it ends with a status").message {
                        finished = last.stats;
                    }
                }
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(status.get_details_error_info().expect("why").reason, "DRAINING");
        ends.push(finished.expect("what has come is finished").frames);
    }
    assert_eq!(ends, [20, 0]);
    assert!(asked.elapsed() > Duration::from_millis(350), "the delay passes");
    drop((client, late, server.channel));
    server.served.await.expect("no panic").expect("a clean end");
    assert!(asked.elapsed() < Duration::from_secs(10), "nothing held it up: {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_neither_reads_nor_leaves_is_cut_at_the_hard_stop() {
    let server = start(|settings| {
        (settings.service.drain_max_ms, settings.watch.events_kept_max) = (500, 4);
    })
    .await;
    let mut client = begin(&server.channel, uniform()).await;
    for frame in frames(30) {
        client.send(Asked::Frame(frame)).await;
    }
    let asked = Instant::now();
    server.stop.send(()).expect("it serves");
    // Its call is open, and it reads nothing.
    server.served.await.expect("no panic").expect("an end");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_their_model_and_do_not_keep_it() {
    let server = start(|_| {}).await;
    let mut client = begin(&server.channel, uniform()).await;
    let wire = Wire::to(server.address).await;
    let left = begin(&wire.channel().await, uniform()).await;
    let token = left.started.resume_token.clone();
    wire.breaks();
    let mut told = Vec::new();
    client.feed(&frames(10), &mut told).await.expect("it goes on");
    let mut models = ModelServiceClient::new(server.channel.clone());
    let unload = models.unload_model(UnloadModelRequest { name: "tiny".into() });
    tokio::time::timeout(Duration::from_secs(10), unload).await.expect("nothing holds it").expect("it was there");
    let ended = client.finish().await;
    let status = ended.status.as_ref().expect_err("it could not go on");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.get_details_error_info().expect("why").reason, "MODEL_STOPPED");
    assert!(ended.stats().frames >= 10, "its last word");
    // The same for who comes back to one that was left.
    let back = resume(&server.channel, &token, 0).await.expect("its end is kept").finish().await;
    assert_eq!(back.status.as_ref().expect_err("it could not go on").code(), Code::Unavailable);
    assert_eq!(back.stats().frames, 0);
    let none = open(&server.channel, uniform(), None).await.expect_err("no model");
    assert_eq!(none.code(), Code::NotFound, "{none}");
    server.end().await;
}
