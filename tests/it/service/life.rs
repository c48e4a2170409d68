//! How a server is, and how it ends.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use vljepa::settings::Settings;

use super::{CLIP, ask, file, start};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_the_model_threads_and_turns_when_draining() {
    let server = start(|settings| settings.service.drain_delay_ms = 500).await;
    let mut client = HealthClient::new(server.channel.clone());
    let mut check = async |service: &str| {
        client.check(HealthCheckRequest { service: service.into() }).await.map(|response| response.into_inner().status)
    };
    assert_eq!(check("").await.expect("health"), ServingStatus::Serving as i32);
    assert_eq!(check("vljepa.v1.AnswerService").await.expect("health"), ServingStatus::Serving as i32);
    assert_eq!(check("no.such.Service").await.expect_err("unknown").code(), Code::NotFound);
    server.stop.send(()).expect("it serves");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(check("").await.expect("still answers"), ServingStatus::NotServing as i32);
    server.served.await.expect("no panic").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_health_hears_the_end_and_does_not_hold_it() {
    let server = start(|_| {}).await;
    let mut client = HealthClient::new(server.channel.clone());
    let mut watch = client.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    let mut next = async || watch.message().await.expect("no error").map(|response| response.status);
    assert_eq!(next().await, Some(ServingStatus::Serving as i32));
    let asked = Instant::now();
    server.stop.send(()).expect("it serves");
    assert_eq!(next().await, Some(ServingStatus::NotServing as i32));
    assert_eq!(next().await, None);
    drop((client, server.channel));
    server.served.await.expect("no panic").expect("a clean end");
    let bound = Duration::from_millis(Settings::default().service.drain_max_ms);
    assert!(asked.elapsed() < bound / 2, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_is_in_flight_and_does_not_wait_for_silent_connections() {
    let server = start(|settings| settings.service.drain_delay_ms = 500).await;
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let mut client = server.answers();
        calls.spawn(async move { client.answer(ask(file(CLIP), &[])).await });
    }
    // The drain delay leaves every call time to arrive.
    server.stop.send(()).expect("it serves");
    for outcome in calls.join_all().await {
        outcome.expect("what was in flight is finished");
    }
    drop(server.channel);
    server.served.await.expect("no panic").expect("a clean end");

    let server = start(|settings| settings.service.drain_max_ms = 300).await;
    let silent = TcpStream::connect(server.address).await.expect("it listens");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = Instant::now();
    server.end().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    drop(silent);
}
