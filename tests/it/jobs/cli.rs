//! `vljepa job` as a person runs it: a job in one process, shares of one in several, and a server's jobs from outside.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::tiny::{BERT, bundle};

/// A bundle, and inputs of texts in whose rows every tenth has nothing to embed.
fn ground(rows: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    bundle(&folder.path().join("bundle"), BERT);
    write_texts(&folder.path().join("rows.jsonl"), rows);
    folder
}

fn write_texts(file: &Path, rows: usize) {
    let line = |row: usize| match row % 10 {
        9 => format!("{{\"id\": \"r{row}\"}}\n"),
        _ => format!("{{\"id\": \"r{row}\", \"text\": \"word{} word{}\"}}\n", row % 30, row % 7),
    };
    std::fs::write(file, (0..rows).map(line).collect::<String>()).expect("written");
}

fn job(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    command.arg("job").args(arguments).current_dir(folder).env_clear();
    command
}

fn run(folder: &Path, out: &str, more: &[&str]) -> Command {
    let arguments = ["run", "rows.jsonl", "--out", out, "--bundle", "bundle", "--rows-per-part", "10"];
    job(folder, &[&arguments[..], &["--format", "jsonl"], more].concat())
}

fn output(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// The files of an output, without what belongs to the store and to what is under way.
fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(out).expect("a folder").map(|entry| entry.expect("readable"));
    let files = entries.filter(|entry| entry.file_type().expect("known").is_file());
    files
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("readable")))
        .collect()
}

#[test]
fn a_job_runs_without_a_server_and_again_is_done_at_once() {
    let folder = ground(45);
    let (status, told, _) = output(run(folder.path(), "out", &["--json"]));
    assert_eq!(status, Some(0), "{told}");
    let job = &json(&told)[0];
    assert_eq!(
        (&job["state"], &job["rows"], &job["succeeded"], &job["failed"]),
        (&"succeeded".into(), &45.into(), &41.into(), &4.into())
    );
    let before = files(&folder.path().join("out"));
    assert_eq!(before.keys().filter(|name| name.starts_with("part-")).count(), 5, "{:?}", before.keys());
    let (status, told, log) = output(run(folder.path(), "out", &[]));
    assert_eq!((status, &*told), (Some(0), "succeeded; 45 of 45 rows, 4 failed, 5 of 5 parts\n"), "{log}");
    assert_eq!(files(&folder.path().join("out")), before, "nothing is done twice");

    let (status, told, error) = output(run(folder.path(), "out", &["--dimensions", "4"]));
    assert_eq!((status, &*told), (Some(1), ""));
    assert!(error.starts_with("error: out/_job is of another job: vectors was {"), "{error}");
    assert_eq!(files(&folder.path().join("out")), before, "what is there stays");
}

#[test]
fn who_runs_a_job_names_media_wherever_they_lie() {
    let folder = ground(0);
    std::fs::create_dir(folder.path().join("in")).expect("a folder");
    std::fs::write(folder.path().join("star.gif"), include_bytes!("../../../fixtures/demo/star.gif")).expect("written");
    std::fs::write(folder.path().join("in/rows.jsonl"), "{\"media\": \"../star.gif\"}").expect("written");
    let arguments = ["run", "in/rows.jsonl", "--out", "out", "--bundle", "bundle", "--question", "word1"];
    // Where clients' inputs lie is nothing to a job that nobody else asked for.
    let mut command = job(folder.path(), &arguments);
    command.env("VLJEPA_JOBS_ROOT", folder.path().join("in"));
    let (status, told, log) = output(command);
    assert_eq!((status, &*told), (Some(0), "succeeded; 1 of 1 rows, 1 of 1 parts\n"), "{log}");
}

#[test]
fn too_many_errors_fail_a_job_and_its_command() {
    let folder = ground(45);
    let (status, told, log) = output(run(folder.path(), "out", &["--max-errors", "0"]));
    assert_eq!(status, Some(1), "{told}{log}");
    assert!(told.starts_with("failed: ") && told.contains(" failed, errors_max is 0"), "{told}");
    for (more, problem) in [
        (&["--dimensions", "17"][..], "--dimensions is 17, must be 1 to 16"),
        (&["--rows-per-part", "70000"], "--rows-per-part is 70000, must be 1 to 65536"),
        (&["--item-timeout", "1000m"], "--item-timeout is 60000000 ms, must be 1 to 600000 ms"),
        (&["--choices", "a,,b"], "--choices has an empty choice"),
        (&["--shard-index", "2", "--shard-count", "2"], "--shard-index is 2, must be below --shard-count 2"),
    ] {
        let arguments = [&["run", "rows.jsonl", "--out", "other", "--bundle", "bundle"], more].concat();
        let (status, _, error) = output(job(folder.path(), &arguments));
        assert_eq!((status, &*error), (Some(1), &*format!("error: {problem}\n")));
    }
    let missing = ["run", "nothing.jsonl", "--out", "other", "--bundle", "bundle"];
    let (status, _, error) = output(job(folder.path(), &missing));
    assert_eq!((status, &*error), (Some(1), "error: nothing.jsonl: no such file or directory\n"));
    for wrong in
        [&["--item-timeout", "soon"][..], &["--shard-index", "1"], &["--dtype", "f64"], &["--rows-per-part", "0"]]
    {
        let (status, ..) = output(job(folder.path(), &[&["run", "rows.jsonl", "--out", "x"], wrong].concat()));
        assert_eq!(status, Some(2), "{wrong:?}");
    }
}

#[test]
fn shares_together_make_what_one_run_makes() {
    let folder = ground(95);
    assert_eq!(output(run(folder.path(), "whole", &[])).0, Some(0));
    // At once, as a cluster would.
    let shares: Vec<_> = ["0", "1", "2"]
        .map(|index| {
            let mut command = run(folder.path(), "shared", &["--shard-index", index, "--shard-count", "3"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
        })
        .into();
    for share in shares {
        let output = share.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (whole, mut shared) = (files(&folder.path().join("whole")), files(&folder.path().join("shared")));
    // The name of the job stands in it, which is that of another output.
    let marker = |files: &BTreeMap<String, Vec<u8>>| files.keys().any(|name| name == "_job.json");
    assert!(marker(&whole) && shared.remove("_job.json").is_some());
    assert!(whole.iter().filter(|(name, _)| *name != "_job.json").eq(shared.iter()), "{:?}", shared.keys());
    let (status, told, _) = output(run(folder.path(), "shared", &["--shard-index", "1", "--shard-count", "3"]));
    assert_eq!(status, Some(0), "{told}");
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let folder = ground(4000);
    assert_eq!(output(run(folder.path(), "whole", &[])).0, Some(0));
    let mut command = run(folder.path(), "out", &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let (out, begun) = (folder.path().join("out"), Instant::now());
    while !out.join("part-00003.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no part is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = Command::new("kill").arg("-INT").arg(child.id().to_string()).status();
    assert!(sent.expect("kill runs").success());
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    let log = String::from_utf8_lossy(&stderr);
    // It may have been done before the signal came.
    assert!(matches!(status.code(), Some(130 | 0)), "{status}: {log}");
    assert!(status.code() == Some(0) || log.contains("the same command goes on from here"), "{log}");
    assert_eq!(output(run(folder.path(), "out", &[])).0, Some(0));
    let (whole, made) = (files(&folder.path().join("whole")), files(&out));
    let parts = |files: &BTreeMap<String, Vec<u8>>| -> Vec<(String, Vec<u8>)> {
        files
            .iter()
            .filter(|(name, _)| *name != "_job.json")
            .map(|(name, bytes)| (name.clone(), bytes.clone()))
            .collect()
    };
    assert!(parts(&whole) == parts(&made), "{:?}", made.keys());
}

#[test]
fn a_second_run_on_one_output_is_told_so() {
    let folder = ground(20_000);
    let mut command = run(folder.path(), "out", &[]);
    let mut first = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let begun = Instant::now();
    while !folder.path().join("out/part-00000.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no part is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = output(run(folder.path(), "out", &[]));
    let running = first.try_wait().expect("it is ours").is_none();
    first.kill().expect("it is ours");
    first.wait().expect("it is ours");
    if running {
        assert_eq!(second.0, Some(1), "{second:?}");
        assert!(second.2.contains("another process works with this store"), "{second:?}");
    }
}

#[test]
fn a_servers_jobs_are_asked_for_from_outside() {
    let folder = tempfile::tempdir().expect("a folder");
    let [store, root] = ["store", "root"].map(|name| folder.path().join(name));
    std::fs::create_dir(&root).expect("a folder");
    write_texts(&root.join("rows.jsonl"), 45);
    write_texts(&root.join("many.jsonl"), 30_000);
    let variables = [("VLJEPA_JOBS_DIRECTORY", store), ("VLJEPA_JOBS_ROOT", root.clone())];
    let variables = variables.map(|(name, path)| (name, path.to_string_lossy().into_owned()));
    let server = Process::start(&variables.each_ref().map(|(name, value)| (*name, &**value)));
    let address = server.address.to_string();
    let ask = |arguments: &[&str]| output(job(folder.path(), &[arguments, &["--server", &address]].concat()));

    let submit = ["submit", "rows.jsonl", "--out", "out", "--rows-per-part", "10", "--title", "mine"];
    let (status, told, log) = ask(&[&submit[..], &["--watch", "--json"]].concat());
    assert_eq!(status, Some(0), "{told}{log}");
    let told = json(&told);
    let last = told.last().expect("its states");
    assert_eq!((&last["state"], &last["succeeded"], &last["title"]), (&"succeeded".into(), &41.into(), &"mine".into()));
    let id = last["id"].as_str().expect("a name");
    assert!(root.join("out/part-00000.parquet").is_file());

    let (status, told, _) = ask(&["show", id]);
    assert!(
        status == Some(0) && told.contains("state         succeeded\n") && told.contains("input         rows.jsonl\n"),
        "{told}"
    );
    let (status, told, _) = ask(&["list"]);
    assert!(status == Some(0) && told.lines().count() == 2 && told.contains(id) && told.contains("mine"), "{told}");
    let (status, told, _) = ask(&["errors", id, "--json"]);
    assert_eq!(
        (status, json(&told).iter().map(|row| row["id"].clone()).collect::<Vec<_>>()),
        (Some(0), ["r9", "r19", "r29", "r39"].map(Value::from).into())
    );
    let (status, told, _) = ask(&["watch", id]);
    assert_eq!((status, &*told), (Some(0), "succeeded; 45 of 45 rows, 4 failed, 5 of 5 parts\n"));
    let (status, _, error) = ask(&["pause", id]);
    assert!(
        status == Some(1) && error.starts_with("error: server: FailedPrecondition: ") && error.contains("cannot pause"),
        "{error}"
    );
    assert_eq!(ask(&["delete", id, "--output"]), (Some(0), format!("{id} is deleted\n"), String::new()));
    assert!(!root.join("out/part-00000.parquet").exists());
    let (status, _, error) = ask(&["show", id]);
    assert!(status == Some(1) && error.starts_with("error: server: NotFound: "), "{error}");

    let (status, id, _) = ask(&["submit", "many.jsonl", "--out", "many", "--rows-per-part", "10", "--request-id", "x"]);
    let id = id.trim();
    assert_eq!(status, Some(0));
    let (_, again, _) = ask(&["submit", "many.jsonl", "--out", "many", "--rows-per-part", "10", "--request-id", "x"]);
    assert_eq!(again.trim(), id, "the same request");
    assert_eq!(ask(&["pause", id]), (Some(0), format!("{id} is paused\n"), String::new()));
    assert_eq!(ask(&["resume", id]).0, Some(0));
    assert_eq!(ask(&["cancel", id]).0, Some(0));
    let (status, told, _) = ask(&["watch", id, "--json"]);
    assert_eq!(status, Some(1), "it did not succeed");
    assert_eq!(json(&told).last().expect("its state")["state"], "cancelled");
    let (status, _, error) = ask(&["submit", "../rows.jsonl", "--out", "x"]);
    assert!(status == Some(1) && error.starts_with("error: server: InvalidArgument: spec.input.location: "), "{error}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
