//! `vljepa bench load` as a person runs it, against servers whose behaviour is known.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::model_laws::{BERT, bundle};
use crate::service::start;

const STILL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/squares.jpg");
const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo/star.gif");

fn vljepa(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vljepa")).args(arguments).output().expect("the binary runs")
}

/// Runs a load about two files of which the tiny model knows the words, and reads the figures it wrote.
fn load(arguments: &[&str], server: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("figures.json");
    let asks = ["--media", STILL, CLIP, "--question", "word1?", "--choices", "word2, word3"];
    let json = ["--json", json.to_str().expect("a plain path")];
    let output = vljepa(&[&["bench", "load"], arguments, &asks, &json, server].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&std::fs::read(json[1]).expect("it was written")).expect("JSON")
}

fn count(run: &Value, status: Option<&str>) -> u64 {
    let statuses = run["figures"]["by_status"].as_array().expect("statuses");
    let wanted = statuses.iter().filter(|one| status.is_none_or(|status| one["status"] == status));
    wanted.map(|one| one["count"].as_u64().expect("a count")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_fate() {
    let server = start(|_| {}).await;
    let address = server.address.to_string();
    let arguments = ["--server", &address, "--rate", "60", "--duration", "800ms", "--warmup", "200ms"];
    let mix = [
        "--mix",
        "answer=3,predict=1,encode=1,stream=1",
        "--conducts",
        "plain=3,spoilt=1",
        "--arrivals",
        "constant",
        "--classes",
        "interactive=1,job=1",
    ];
    let run = tokio::task::block_in_place(|| load(&[&arguments[..], &mix].concat(), &[]));
    let figures = &run["figures"];
    // 60 a second from 200 ms to 1 s, the instants of both ends told by the schedule.
    assert_eq!(figures["scheduled"], 48, "{figures}");
    assert_eq!((figures["unsent"].as_u64(), count(&run, None)), (Some(0), 48), "{figures}");
    assert_eq!(count(&run, Some("OK")) + count(&run, Some("INVALID_ARGUMENT")), 48, "{figures}");
    assert!(count(&run, Some("OK")) > 20 && count(&run, Some("INVALID_ARGUMENT")) > 2, "{figures}");
    let quantile = |name: &str| figures["ok"][name].as_f64().expect("a number");
    assert!(0.0 < quantile("p50_ms") && quantile("p50_ms") <= quantile("p99_ms"), "{figures}");
    assert!(quantile("p99_ms") <= quantile("max_ms"), "{figures}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_has_refusals() {
    let server = start(|settings| settings.queue.items_max = 1).await;
    let address = server.address.to_string();
    let arguments = ["--server", &address, "--rate", "300", "--duration", "800ms", "--warmup", "100ms"];
    let run = tokio::task::block_in_place(|| load(&arguments, &[]));
    let (ok, refused) = (count(&run, Some("OK")), count(&run, Some("RESOURCE_EXHAUSTED")));
    assert!(ok > 0 && refused > 0, "{run}");
    assert_eq!(Some(ok + refused), run["figures"]["sent"].as_u64(), "{run}");
    assert_eq!(run["figures"]["refused"]["count"].as_u64(), Some(refused));
    server.end().await;
}

#[test]
fn an_own_server_is_a_process_whose_memory_and_time_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(folder.path(), BERT);
    let directory = folder.path().to_str().expect("a plain path");
    let run = load(&["--rate", "40", "--duration", "700ms", "--warmup", "100ms"], &["--", "--bundle", directory]);
    assert!(count(&run, Some("OK")) > 10, "{run}");
    assert!(run["server_cores"].as_f64() >= Some(0.0) && run["client_cores"].as_f64() >= Some(0.0), "{run}");
    let resident = |name: &str| run[name].as_u64().expect("bytes");
    assert!(resident("resident_bytes") > 1 << 20, "{run}");
    assert!(resident("resident_bytes") <= resident("resident_most_bytes"), "{run}");
    let output = vljepa(&["bench", "load", "--rate", "5", "--clips", "1", "--", "--bundle", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("the server did not start") && told.contains("/nowhere"), "{told}");
}

#[test]
fn the_bare_transport_is_asked_the_same() {
    let mut echo = Command::new(env!("CARGO_BIN_EXE_vljepa"))
        .args(["bench", "echo"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    BufReader::new(echo.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("serving echo on ").expect("an address");
    let pid = echo.id().to_string();
    let run = load(
        &["--server", address, "--server-pid", &pid, "--rate", "200", "--duration", "500ms", "--warmup", "100ms"],
        &[],
    );
    echo.kill().expect("it runs");
    echo.wait().expect("it ended");
    let sent = run["figures"]["sent"].as_u64().expect("a count");
    assert!(sent > 50 && count(&run, Some("OK")) == sent, "{run}");
    assert!(run["resident_bytes"].as_u64().is_some(), "{run}");
}

#[test]
fn wrong_calls_are_told_and_other_machines_spared() {
    for (arguments, told) in [
        (&["--server", "192.0.2.1:50051", "--rate", "1"][..], "another machine"),
        (&[], "one of --rate, --sweep"),
        (&["--rate", "0"], "--rate is 0"),
        (&["--rate", "1e5", "--duration", "1h"], "at most"),
        (&["--rate", "1", "--connections", "0"], "--connections is 0"),
        (&["--rate", "1", "--duration", "3"], "a time such as"),
        (&["--rate", "1", "--mix", "delete"], "none of answer"),
        (&["--sweep", "--report"], "cannot be used with"),
    ] {
        let output = vljepa(&[&["bench", "load", "--clips", "1"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(told), "{arguments:?}: {text}");
    }
}
