//! What is seen from outside: metrics, probes, request ids, traces, log lines, and the dashboard that shows them.

mod traces;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use vljepa::service::proto;
use vljepa::service::proto::answer_service_client::AnswerServiceClient;
use vljepa::service::proto::job_service_client::JobServiceClient;

use super::wire::{pieces, refused};
use super::{CLIP, Running, ask, file, item, start, start_watched};
use crate::model_laws::{BERT, bundle};

const DASHBOARD: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana/vljepa.json"));

/// Sends bytes and reads until the other side ends; the status of the answer, and all of it.
async fn talk(address: SocketAddr, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, text)
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    talk(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
}

/// The value of the first line that begins with `name` and holds all of `labels`.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        let (found, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
        found == name && labels.iter().all(|label| rest.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// One call of each kind: answered, chosen, embedded, refused, unknown.
async fn traffic(server: &Running) {
    let mut answers = server.answers();
    answers.answer(ask(file(CLIP), &[])).await.expect("an answer");
    for _ in 0..2 {
        answers.answer(ask(file(CLIP), &["word1", "word2"])).await.expect("a choice");
    }
    answers.answer(ask(None, &[])).await.expect_err("no media");
    let request = proto::PredictRequest { items: vec![item(file(CLIP), "word1")], ..Default::default() };
    server.embeddings().predict(request).await.expect("embeddings");
    let unknown = http::uri::PathAndQuery::from_static("/no.such.Service/Method");
    let mut client = tonic::client::Grpc::new(server.channel.clone());
    client.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<proto::AnswerRequest, proto::AnswerResponse>::default();
    let status = client.unary(Request::new(ask(None, &[])), unknown, codec).await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_happened() {
    let (server, admin) = start_watched(|_| {}).await;
    let (_, before) = get(admin, "/metrics").await;
    traffic(&server).await;
    let (status, after) = get(admin, "/metrics").await;
    assert_eq!(status, 200);
    assert!(after.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{after}");
    let call = "rpc_server_call_duration_seconds_count";
    let answer = ["rpc_service=\"vljepa.v1.AnswerService\"", "rpc_method=\"Answer\""];
    // Other servers of this process count into the same recorder: there may be more, not less.
    for (name, labels, least) in [
        (call, vec![answer[0], answer[1], "rpc_grpc_status_code=\"OK\""], 3.0),
        (call, vec![answer[0], answer[1], "rpc_grpc_status_code=\"INVALID_ARGUMENT\""], 1.0),
        (call, vec!["rpc_method=\"Predict\"", "rpc_grpc_status_code=\"OK\""], 1.0),
        (call, vec!["rpc_service=\"other\"", "rpc_method=\"other\"", "rpc_grpc_status_code=\"UNIMPLEMENTED\""], 1.0),
        ("vljepa_queue_wait_seconds_count", vec!["model=\"tiny\"", "class=\"interactive\""], 4.0),
        ("vljepa_batch_items_count", vec!["model=\"tiny\""], 4.0),
        ("vljepa_batch_cost_tokens_sum", vec!["model=\"tiny\""], 32.0),
        ("vljepa_stage_duration_seconds_count", vec!["stage=\"prepare\""], 4.0),
        ("vljepa_stage_duration_seconds_count", vec!["stage=\"decode\""], 4.0),
        ("vljepa_stage_duration_seconds_count", vec!["stage=\"vision\""], 4.0),
        ("vljepa_stage_duration_seconds_count", vec!["stage=\"predictor\""], 4.0),
        ("vljepa_stage_duration_seconds_count", vec!["stage=\"text\""], 2.0),
        ("vljepa_stage_duration_seconds_count", vec!["stage=\"decoder\""], 1.0),
        ("vljepa_frames_total", vec!["outcome=\"used\""], 16.0),
        ("vljepa_frames_total", vec!["outcome=\"skipped\""], 16.0),
    ] {
        let [before, after] = [&before, &after].map(|text| value(text, name, &labels).unwrap_or(0.0));
        assert!(after - before >= least, "{name} {labels:?}: {before}, then {after}");
    }
    for (name, labels, within) in [
        ("vljepa_queue_depth", &["model=\"tiny\"", "class=\"interactive\""][..], 0.0..=0.0),
        ("vljepa_saturation", &["model=\"tiny\""], 0.0..=1.0),
        ("vljepa_text_cache_hits_total", &["model=\"tiny\""], 2.0..=2.0),
        ("vljepa_text_cache_misses_total", &["model=\"tiny\""], 2.0..=2.0),
        ("vljepa_tokens_total", &["model=\"tiny\"", "stage=\"vision\""], 32.0..=32.0),
        ("vljepa_connections", &[], 1.0..=1.0),
        ("vljepa_calls_in_flight", &[], 0.0..=0.0),
        ("vljepa_inflight_bytes", &[], 0.0..=0.0),
        ("vljepa_uploads", &[], 0.0..=0.0),
        ("vljepa_build_info", &["version=\"0.1.0\""][..], 1.0..=1.0),
        ("process_start_time_seconds", &[], 1.7e9..=1e10),
        ("process_resident_memory_bytes", &[], 1e6..=1e11),
    ] {
        let value = value(&after, name, labels);
        assert!(value.is_some_and(|value| within.contains(&value)), "{name} {labels:?}: {value:?}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_counted_with_its_reason() {
    let (server, admin) = start_watched(|settings| settings.queue.cost_max = 5).await;
    let refused =
        async || value(&get(admin, "/metrics").await.1, "vljepa_admission_rejected_total", &["\"too_large\""]);
    let before = refused().await.unwrap_or(0.0);
    server.answers().answer(ask(file(CLIP), &[])).await.expect_err("8 visual tokens alone");
    assert!(refused().await.expect("counted") >= before + 1.0);
    server.end().await;
}

/// A job, to its end.
async fn job(server: &Running, input: &str) {
    let mut jobs = JobServiceClient::new(server.channel.clone());
    let input = proto::JobInput { location: input.into(), ..Default::default() };
    let output = proto::JobOutput { location: "out".into(), ..Default::default() };
    let spec = proto::JobSpec { input: Some(input), output: Some(output), ..Default::default() };
    let request = proto::CreateJobRequest { spec: Some(spec), ..Default::default() };
    let job = jobs.create_job(request).await.expect("it is kept").into_inner().job.expect("a job");
    let mut watch = jobs.watch_job(proto::WatchJobRequest { id: job.id }).await.expect("a watch").into_inner();
    while watch.message().await.expect("no error").is_some() {}
}

/// The names of metrics in a query.
fn metric_names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|part: char| !part.is_ascii_alphanumeric() && part != '_');
    words.filter(|word| ["vljepa_", "rpc_server_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
}

fn queries<'a>(part: &'a Value, found: &mut Vec<&'a str>) {
    match part {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| match field {
            Value::String(text) if ["expr", "query", "definition"].contains(&&**name) => found.push(text),
            field => queries(field, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_asks_for_nothing_that_is_not_told() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    let names: BTreeSet<&str> = asked.iter().flat_map(|query| metric_names(query)).collect();
    assert!(asked.len() >= 12 && names.len() >= 12, "{asked:?}: {names:?}");
    // So that something is refused as well.
    let (refusing, _) = start_watched(|settings| settings.queue.cost_max = 5).await;
    refusing.answers().answer(ask(file(CLIP), &[])).await.expect_err("too dear");
    refusing.end().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (server, admin) = start_watched(|settings| {
        settings.jobs.directory = Some(folder.path().join("store"));
        settings.jobs.root = Some(folder.path().into());
    })
    .await;
    traffic(&server).await;
    std::fs::write(folder.path().join("rows.jsonl"), "{\"text\": \"word1\"}\n").expect("written");
    job(&server, "rows.jsonl").await;
    let (_, told) = get(admin, "/metrics").await;
    for name in names {
        assert!(value(&told, name, &[]).is_some(), "{name} is not told:\n{told}");
    }
    assert_eq!(value(&told, "vljepa_jobs", &["\"succeeded\""]), Some(1.0));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_turn_when_the_end_begins_and_the_admin_listener_ends_last() {
    let (server, admin) = start_watched(|settings| settings.service.drain_delay_ms = 600).await;
    assert_eq!((get(admin, "/livez").await.0, get(admin, "/readyz").await.0), (200, 200));
    server.stop.send(()).expect("it serves");
    let asked = Instant::now();
    while get(admin, "/readyz").await.0 != 503 {
        assert!(asked.elapsed() < Duration::from_millis(500), "readiness did not turn");
    }
    assert_eq!((get(admin, "/livez").await.0, get(admin, "/metrics").await.0), (200, 200));
    drop(server.channel);
    server.served.await.expect("no panic").expect("a clean end");
    TcpStream::connect(admin).await.expect_err("all is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_panicked_is_seen_by_both_probes() {
    let (server, admin) = start_watched(|settings| settings.service.drain_max_ms = 2_000).await;
    // A call under way holds the end open: its message is not whole.
    let (sender, body) = pieces();
    sender.send(vec![0, 0, 0, 0, 9, 1].into()).await.expect("room");
    let channel = server.channel.clone();
    let call = tokio::spawn(async move { refused(&channel, "/vljepa.v1.AnswerService/Answer", body).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.models.named("tiny").expect("served").panic_model_thread();
    let mut live = 200;
    let begun = Instant::now();
    while live == 200 && begun.elapsed() < Duration::from_secs(5) {
        live = match TcpStream::connect(admin).await {
            Ok(_) => get(admin, "/livez").await.0,
            Err(_) => break,
        };
    }
    assert_ne!(live, 200, "a dead model is not alive");
    assert_eq!(call.await.expect("no panic").code(), Code::Unavailable);
    drop((sender, server.channel));
    server.served.await.expect("no panic of the server").expect_err("it ends for its model");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_refuses_what_it_does_not_know() {
    let (server, admin) = start_watched(|_| {}).await;
    for (path, status) in [("/", 404), ("/metrics/", 404), ("/livez?verbose", 200), ("/%00", 404)] {
        assert_eq!(get(admin, path).await.0, status, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let (status, text) = talk(admin, request.as_bytes()).await;
        assert!(status == 405 && text.contains("allow: GET, HEAD\r\n"), "{text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for nonsense in [&b"\0\x01\x02\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", long.as_bytes()] {
        let mut stream = TcpStream::connect(admin).await.expect("it listens");
        // It may hang up before it has read all.
        let _ = stream.write_all(nonsense).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&answer));
    }
    // Connections that say nothing take no place from those who ask, up to a bound.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(admin).await.expect("it listens"));
    }
    assert_eq!(get(admin, "/livez").await.0, 200);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_has_an_id_that_its_error_tells() {
    let server = start(|_| {}).await;
    let asked = |id: &'static str, media| {
        let mut request = Request::new(ask(media, &["word1"]));
        request.metadata_mut().insert("x-request-id", id.parse().expect("metadata"));
        request
    };
    let id = |metadata: &MetadataMap| metadata.get("x-request-id")?.to_str().ok().map(String::from);
    let answered = server.answers().answer(asked("mine-1", file(CLIP))).await.expect("an answer");
    assert_eq!(id(answered.metadata()).as_deref(), Some("mine-1"));
    let refused = server.answers().answer(asked("mine-2", None)).await.expect_err("no media");
    assert_eq!(id(refused.metadata()).as_deref(), Some("mine-2"));
    let details = refused.get_error_details();
    assert_eq!(details.request_info().expect("named").request_id, "mine-2");
    assert_eq!(details.bad_request().expect("still there").field_violations[0].field, "media");
    // What cannot be logged as it is is not taken over.
    let refused = server.answers().answer(asked("a \"b\"", None)).await.expect_err("no media");
    let made = id(refused.metadata()).expect("text");
    assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    assert_eq!(refused.get_error_details().request_info().expect("named").request_id, made);
    server.end().await;
}

/// The log lines of a server process that answered one question and refused one; what it was asked is not in them.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_one_log_line_without_what_was_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(bundle(folder.path(), BERT));
    let mut server = Command::new(env!("CARGO_BIN_EXE_vljepa"))
        .args(["serve", "--addr", "127.0.0.1:0", "--bundle", folder.path().to_str().expect("a plain path")])
        .env("VLJEPA_LOG_FORMAT", "json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
    let channel =
        Channel::from_shared(format!("http://{address}")).expect("an address").connect().await.expect("listens");
    let mut client = AnswerServiceClient::new(channel);
    for media in [file(CLIP), None] {
        let mut request = Request::new(ask(media, &["word3"]));
        request.metadata_mut().insert("x-request-id", "seen-7".parse().expect("metadata"));
        let _ = client.answer(request).await;
    }
    drop(client);
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("it runs");
    assert!(killed.success() && server.wait().expect("it ends").success());
    let mut log = String::new();
    server.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    let calls: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == "seen-7").collect();
    assert_eq!(calls.len(), 2, "{log}");
    for (call, status) in calls.iter().zip(["OK", "INVALID_ARGUMENT"]) {
        assert_eq!(call["status"], status, "{call}");
        assert_eq!(call["method"], "vljepa.v1.AnswerService/Answer");
        assert!(call["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{call}");
        assert!(call["elapsed_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{call}");
    }
    let done = calls[0];
    assert_eq!((&done["class"], &done["items"]), (&Value::from("interactive"), &Value::from(1)), "{done}");
    assert!(done["model"].is_string() && done["cost"].as_u64().is_some_and(|cost| cost > 8), "{done}");
    for stage in ["prepare_ms", "queue_ms", "vision_ms", "predictor_ms", "text_ms"] {
        assert!(done[stage].as_f64().is_some_and(|ms| ms >= 0.0), "{stage}: {done}");
    }
    assert!(!["word1", "word2", "word3"].iter().any(|word| log.contains(word)), "{log}");
}
