//! Faults, each against a server in a process of its own: clients that leave, deadlines, readers that do not read,
//! signals, a panic of the model thread, a port that is taken, bundles that are torn.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use vljepa::service::proto;
use vljepa::service::proto::answer_service_client::AnswerServiceClient;
use vljepa::service::proto::embedding_service_client::EmbeddingServiceClient;
use vljepa::service::proto::stream_predict_request::Message as Asked;
use vljepa::service::proto::stream_predict_response::Message as Told;
use vljepa::service::proto::stream_predict_result::Outcome;

use crate::hostile::media::gif;
use crate::process::{FREE, Process, serve};
use crate::service::{STILL, ask, file, item};
use crate::tiny::{BERT, bundle};

/// One thread decodes, one computes: what is ahead in a queue is ahead.
const SLOW: &[(&str, &str)] = &[("VLJEPA_THREADS", "1"), ("VLJEPA_DECODE_THREADS", "1")];
/// More than any machine of ours needs for what is not slow by intention.
const LONG: Duration = Duration::from_secs(30);

/// A clip whose decoding takes long enough to be interrupted: 100 frames on a canvas of 300 x 300.
fn slow_clip() -> Vec<u8> {
    gif(300, 300, 100)
}

async fn answer(channel: &Channel, media: &[u8], deadline: Option<Duration>) -> Result<String, Status> {
    let mut request = Request::new(ask(file(media), &["word1"]));
    deadline.into_iter().for_each(|deadline| request.set_timeout(deadline));
    let mut client = AnswerServiceClient::new(channel.clone());
    client.answer(request).await.map(|response| response.into_inner().answer)
}

async fn health(channel: &Channel) -> Result<i32, Status> {
    let mut client = HealthClient::new(channel.clone());
    client.check(HealthCheckRequest::default()).await.map(|response| response.into_inner().status)
}

fn asked(id: u64, media: &[u8], timeout_ms: u64) -> proto::StreamPredictRequest {
    let item =
        proto::StreamPredictItem { id, item: Some(item(file(media), "word1")), timeout_ms, ..Default::default() };
    proto::StreamPredictRequest { message: Some(Asked::Item(item)) }
}

/// A stream with these items; the client does not half-close before its sender is dropped.
async fn stream(
    channel: &Channel,
    items: Vec<proto::StreamPredictRequest>,
    deadline: Option<Duration>,
) -> (mpsc::Sender<proto::StreamPredictRequest>, Streaming<proto::StreamPredictResponse>) {
    let (sender, receiver) = mpsc::channel(items.len().max(1));
    for item in items {
        sender.send(item).await.expect("there is room");
    }
    let mut request = Request::new(ReceiverStream::new(receiver));
    deadline.into_iter().for_each(|deadline| request.set_timeout(deadline));
    let mut client = EmbeddingServiceClient::new(channel.clone());
    (sender, client.stream_predict(request).await.expect("a stream").into_inner())
}

/// The codes of the items' results in the order they came, and how the stream ended.
async fn told(mut responses: Streaming<proto::StreamPredictResponse>) -> (Vec<(u64, Code)>, Result<(), Status>) {
    let mut results = Vec::new();
    loop {
        match responses.message().await {
            Ok(Some(proto::StreamPredictResponse { message: Some(Told::Result(result)) })) => {
                let code = match result.outcome.expect("an outcome") {
                    Outcome::Prediction(_) => Code::Ok,
                    Outcome::Error(error) => Code::from_i32(error.code),
                };
                results.push((result.id, code));
            }
            Ok(Some(_)) => {}
            Ok(None) => return (results, Ok(())),
            Err(status) => return (results, Err(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_clients_that_leave_costs_nobody_an_answer() {
    let server = Process::start(SLOW);
    let (channel, slow) = (server.channel().await, slow_clip());
    let alone = answer(&channel, STILL, Some(LONG)).await.expect("an answer");
    let mut calls = JoinSet::new();
    for at in 0..1000u64 {
        // Some leave before they are read, some while they wait, are decoded or computed, some after the answer.
        let (channel, patience) = (channel.clone(), Duration::from_millis(at * 7919 % 400));
        let media = if at % 50 == 0 { slow.clone() } else { STILL.to_vec() };
        calls.spawn(async move {
            let call = async {
                match at % 3 {
                    0 => drop(answer(&channel, &media, Some(LONG)).await),
                    1 => {
                        let (_open, responses) = stream(&channel, vec![asked(1, &media, 0); 4], Some(LONG)).await;
                        drop(told(responses).await);
                    }
                    _ => {
                        let texts = (0..50).map(|text| format!("word{at} {text}")).collect();
                        let request = proto::EncodeTextRequest { texts, ..Default::default() };
                        drop(EmbeddingServiceClient::new(channel.clone()).encode_text(request).await);
                    }
                }
            };
            tokio::time::timeout(patience, call).await.is_err()
        });
    }
    let left = calls.join_all().await.into_iter().filter(|&left| left).count();
    assert!(left > 300, "only {left} left");
    // What nobody waits for any more is not in the way, and nothing of it stays.
    assert_eq!(answer(&channel, STILL, Some(LONG)).await.expect("an answer"), alone);
    assert_eq!(health(&channel).await.expect("health"), ServingStatus::Serving as i32);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_hold_while_decoding_while_queued_and_on_streams() {
    // Who brings no deadline has the server's, so that it is the server's answer and no timer of the client that is seen.
    let server = Process::start(&[SLOW, &[("VLJEPA_DEADLINE_DEFAULT_MS", "200")]].concat());
    let (channel, slow) = (server.channel().await, slow_clip());
    let mut ahead = JoinSet::new();
    for _ in 0..8 {
        let (channel, slow) = (channel.clone(), slow.clone());
        ahead.spawn(async move { answer(&channel, &slow, Some(LONG)).await });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let mut late = JoinSet::new();
    for deadline in [None, Some(1), Some(5), Some(20), Some(50), Some(100), None] {
        let (channel, slow, own) = (channel.clone(), slow.clone(), deadline.map(Duration::from_millis));
        late.spawn(async move { (answer(&channel, &slow, own).await, began.elapsed(), deadline) });
    }
    // A stream may last; its items have the default each, or their own.
    let asked = [asked(1, &slow, 0), asked(2, &slow, 100), asked(3, STILL, 30_000)];
    let (sender, items) = stream(&channel, asked.to_vec(), None).await;
    drop(sender);
    let (_open, short) = stream(&channel, vec![], Some(Duration::from_millis(200))).await;
    let ended = told(short).await.1.expect_err("200 ms").code();
    assert!(matches!(ended, Code::DeadlineExceeded | Code::Cancelled), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for (outcome, elapsed, deadline) in late.join_all().await {
        let code = outcome.expect_err("it waits behind others").code();
        // The client's own timer, which may be first, says Cancelled; who has no hope is refused at once.
        let other = code == Code::ResourceExhausted || code == Code::Cancelled && deadline.is_some();
        assert!(code == Code::DeadlineExceeded || other, "{code:?} for {deadline:?}");
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?} for {deadline:?}");
    }
    let (mut results, ended) = tokio::time::timeout(LONG, told(items)).await.expect("an end");
    ended.expect("a good end");
    results.sort_unstable_by_key(|&(id, _)| id);
    assert_eq!(results, [(1, Code::DeadlineExceeded), (2, Code::DeadlineExceeded), (3, Code::Ok)]);
    for outcome in ahead.join_all().await {
        outcome.expect("those ahead are answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_up_nobody_and_not_the_exit() {
    let mut server = Process::start(&[SLOW, &[("VLJEPA_DRAIN_MAX_MS", "2000")]].concat());
    let channel = server.channel().await;
    // It never takes a response from its stream, though there are far more than flow control lets through.
    let (unread, _responses) = stream(&channel, vec![], Some(LONG)).await;
    let filler = tokio::spawn(async move {
        for id in 0.. {
            if unread.send(asked(id, STILL, 0)).await.is_err() {
                break;
            }
        }
    });
    let other = server.channel().await;
    for _ in 0..20 {
        answer(&other, STILL, Some(LONG)).await.expect("others are answered");
    }
    assert!(!filler.is_finished(), "the stream is open");
    server.signal("TERM");
    let (status, took) = server.ended(LONG).await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
    filler.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_do_not_hold_the_exit() {
    let mut server = Process::start(&[("VLJEPA_DRAIN_MAX_MS", "2000")]);
    let silent = TcpStream::connect(server.address).expect("it listens");
    let mut half = TcpStream::connect(server.address).expect("it listens");
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").expect("it reads");
    let mut quiet = TcpStream::connect(server.address).expect("it listens");
    quiet.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it reads");
    answer(&server.channel().await, STILL, Some(LONG)).await.expect("others are served");
    server.signal("TERM");
    let (status, took) = server.ended(LONG).await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop((silent, half, quiet));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_server_answers_what_it_admitted_and_refuses_the_rest() {
    let mut server =
        Process::start(&[SLOW, &[("VLJEPA_DRAIN_DELAY_MS", "500"), ("VLJEPA_DRAIN_MAX_MS", "60000")]].concat());
    let (channel, slow) = (server.channel().await, slow_clip());
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (channel, slow) = (channel.clone(), slow.clone());
        calls.spawn(async move { answer(&channel, &slow, Some(LONG)).await });
    }
    // The client half-closes neither before nor after: the server must end the stream by itself.
    let items = (0..20).map(|id| asked(id, STILL, 0)).collect();
    let (open, responses) = stream(&server.channel().await, items, Some(LONG)).await;
    let streaming = tokio::spawn(told(responses));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal("TERM");
    for outcome in calls.join_all().await {
        outcome.expect("what was admitted is answered");
    }
    let (mut results, ended) = streaming.await.expect("no panic");
    results.sort_unstable_by_key(|&(id, _)| id);
    assert_eq!(results, (0..20).map(|id| (id, Code::Ok)).collect::<Vec<_>>(), "{ended:?}");
    assert_eq!(ended.expect_err("it drains").code(), Code::Unavailable);
    let (status, _) = server.ended(LONG).await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert_eq!(answer(&channel, STILL, Some(LONG)).await.expect_err("it is gone").code(), Code::Unavailable);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut server = Process::start(&[SLOW, &[("VLJEPA_DRAIN_DELAY_MS", "60000")]].concat());
    let channel = server.channel().await;
    answer(&channel, STILL, Some(LONG)).await.expect("an answer");
    server.signal("TERM");
    while health(&channel).await.expect("it drains for a minute") == ServingStatus::Serving as i32 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.signal("INT");
    assert_eq!(server.ended(Duration::from_secs(10)).await.0.code(), Some(130));
}

/// The signal that makes the model thread panic exists in builds with debug assertions alone.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_model_thread_turns_the_health_and_ends_the_process_with_failure() {
    let mut server = Process::start(&[]);
    let channel = server.channel().await;
    answer(&channel, STILL, Some(LONG)).await.expect("an answer");
    let mut watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.expect("a watch");
    let mut next = async || watch.get_mut().message().await.map(|response| response.map(|response| response.status));
    assert_eq!(next().await.expect("health"), Some(ServingStatus::Serving as i32));
    server.signal("USR1");
    assert_eq!(next().await.expect("health"), Some(ServingStatus::NotServing as i32));
    drop((channel, watch));
    assert_eq!(server.ended(LONG).await.0.code(), Some(1));
    assert!(server.log().contains("error: a model's thread panicked"), "{}", server.log());
}

/// Runs a server that cannot start; it must say why on one line.
fn fails(command: &mut std::process::Command) -> String {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("UTF-8");
    if !line.is_empty() {
        child.kill().expect("it runs");
    }
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((line.as_str(), output.status.code()), ("", Some(1)), "{told}");
    assert!(told.starts_with("error: ") && !told.contains("panicked"), "{told}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let server = Process::start(&[]);
    let address = server.address.to_string();
    let told = fails(&mut serve(folder.path(), &address, &[]));
    assert!(told.contains(&address) && told.contains("in use") && told.lines().count() == 1, "{told}");
    answer(&server.channel().await, STILL, Some(LONG)).await.expect("the first one is not disturbed");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_bundle_that_is_missing_or_torn_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let told = fails(&mut serve(&nowhere, FREE, &[]));
    assert!(told.contains("nowhere") && told.lines().count() == 1, "{told}");
    bundle(folder.path(), BERT);
    for path in files(folder.path()) {
        let name = path.strip_prefix(folder.path()).expect("below").to_string_lossy().into_owned();
        if name == "README.md" {
            continue;
        }
        let whole = std::fs::read(&path).expect("readable");
        for kept in [None, Some(0), Some(7), Some(whole.len() / 2), Some(whole.len() - 1)] {
            match kept {
                Some(kept) => std::fs::write(&path, &whole[..kept]).expect("writable"),
                None => std::fs::remove_file(&path).expect("there"),
            }
            let told = fails(&mut serve(folder.path(), FREE, &[]));
            println!("{name}, {kept:?}: {told}");
            assert!(told.contains(&name) && told.lines().count() == 1, "{name}, {kept:?} bytes kept: {told}");
        }
        std::fs::write(&path, &whole).expect("writable");
    }
}
