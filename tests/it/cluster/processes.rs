//! Servers and workers as processes, killed, stopped and cut off in mid-shard: nothing is lost, nothing is doubled, and
//! the bytes are those of one machine that nobody disturbed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vljepa::engine::{Engine, Models};
use vljepa::jobs::cluster::Replicated;
use vljepa::jobs::store::Embedded;
use vljepa::jobs::{Job, JobId, Jobs, NewJob, State, Store};
use vljepa::model::bundle::Bundle;
use vljepa::model::vl_jepa::VlJepa;
use vljepa::settings::Settings;

use super::proxy::Proxy;
use super::servers::{Servers, asked};
use super::settings;
use crate::jobs::samples::job;
use crate::tiny::{BERT, bundle};

/// Texts of one shard: so many that it takes a while.
const ROWS_A_PART: u64 = 300;
const SHARDS: u64 = 20;

/// Everything that a job is done with, in a folder of its own.
struct Fleet {
    folder: TempDir,
    settings: Settings,
    started: usize,
}

/// A server or a worker; it ends with this.
struct Process {
    child: Child,
    /// The first line that it said.
    said: String,
    /// Open, so that it may say more.
    _output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Fleet {
    fn new(servers: &Servers, name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("model")).expect("a folder");
        bundle(&folder.path().join("model"), BERT);
        let mut input = File::create(folder.path().join("texts.jsonl")).expect("a file");
        for row in 0..ROWS_A_PART * SHARDS {
            // No two are alike.
            let text: Vec<String> = (0..8u32).map(|word| format!("word{}", (row >> (2 * word)) % 36)).collect();
            writeln!(input, "{{\"id\": \"row-{row}\", \"text\": \"{}\"}}", text.join(" ")).expect("there is room");
        }
        let mut settings = settings(servers, name);
        // On a machine that is busy, leases end although nobody has died.
        settings.cluster.deliveries_max = 100;
        Self { folder, settings, started: 0 }
    }

    fn place(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// `vljepa COMMAND`, ready when it has said its first line.
    fn start(&mut self, command: &[&str], queue: &str) -> Process {
        self.started += 1;
        let log = self.folder.path().join(format!("{}.log", self.started));
        let cluster = &self.settings.cluster;
        let mut process = Command::new(env!("CARGO_BIN_EXE_vljepa"));
        process.args(command).args(["--bundle", &self.place("model"), "--queue", queue]).env_clear();
        let variables = [
            ("VLJEPA_LOG", "info".to_owned()),
            ("VLJEPA_THREADS", "1".to_owned()),
            // The tiny model is so fast that nothing would be in work when it is to be interrupted.
            ("VLJEPA_JOBS_TEXTS_AT_ONCE", "1".to_owned()),
            ("VLJEPA_TEXT_CACHE_ITEMS", "0".to_owned()),
            ("VLJEPA_CLUSTER_NAME", cluster.name.clone()),
            ("VLJEPA_QUEUE_REPLICAS", cluster.replicas.to_string()),
            ("VLJEPA_QUEUE_LEASE_MS", cluster.lease_ms.to_string()),
            ("VLJEPA_QUEUE_DELIVERIES_MAX", cluster.deliveries_max.to_string()),
            ("VLJEPA_QUEUE_RECONCILE_MS", cluster.reconcile_ms.to_string()),
        ];
        process.envs(variables).stdout(Stdio::piped()).stderr(File::create(&log).expect("a file"));
        let mut child = process.spawn().expect("the binary runs");
        let (mut said, mut output) = (String::new(), BufReader::new(child.stdout.take().expect("it is piped")));
        output.read_line(&mut said).expect("UTF-8");
        let process = Process { child, said, _output: output, log };
        assert!(!process.said.is_empty(), "{}", process.log());
        process
    }

    fn server(&mut self) -> Process {
        let url = self.url();
        self.start(&["serve", "--addr", "127.0.0.1:0"], &url)
    }

    fn worker(&mut self) -> Process {
        let url = self.url();
        self.start(&["worker"], &url)
    }

    fn url(&self) -> String {
        self.settings.cluster.url.clone().expect("it is set")
    }

    fn job(&self, out: &str) -> Job {
        let mut job = job(out);
        job.spec.input.location = self.place("texts.jsonl");
        job.spec.output.location = self.place(out);
        job.spec.output.rows_a_part = ROWS_A_PART;
        job
    }

    /// What one machine makes of the same input, without a queue.
    async fn undisturbed(&self) -> BTreeMap<String, Vec<u8>> {
        let models = Models::new(Settings::default());
        let opened = Bundle::open(&self.folder.path().join("model")).expect("it was written");
        let model = VlJepa::load(&opened).expect("it is whole");
        let (engine, thread) = Engine::start(model, Settings::default()).expect("there is a thread for it");
        models.add("tiny", engine, thread).expect("there is room");
        let store = Embedded::open(&self.folder.path().join("store"), 10).expect("it is new");
        let jobs = Jobs::open(models.clone(), Arc::new(store));
        let Job { spec, .. } = self.job("alone");
        let new = NewJob { spec, title: String::new(), owner: None, request_id: String::new() };
        let id = jobs.create(new).await.expect("there is room").job.id;
        let done = jobs.finish(&id, None, std::future::pending()).await.expect("nothing is in its way");
        assert_eq!(done.job.state, State::Succeeded, "{}", done.job.reason);
        models.close();
        parts(Path::new(&self.place("alone")))
    }
}

/// The files of an output that readers see.
fn parts(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(out).expect("it is there").map(|entry| entry.expect("readable").path());
    let visible = entries.filter(|path| path.is_file() && !name(path).starts_with(['_', '.']));
    visible.map(|path| (name(&path), fs::read(&path).expect("readable"))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

impl Process {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Ends it as an operator does; it must end well, and soon.
    async fn end(mut self) {
        self.signal("TERM");
        for _ in 0..1500 {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                assert!(status.success(), "{status}: {}", self.log());
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not end: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("UTF-8")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(store: &Replicated, id: &JobId, what: &str, fits: impl Fn(&Job) -> bool) -> Job {
    let until = tokio::time::Instant::now() + Duration::from_secs(300);
    loop {
        let job = store.job(id).await.expect("it is there");
        if fits(&job) {
            return job;
        }
        assert!(!job.state.ended() && tokio::time::Instant::now() < until, "{what}: {job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every row is there once, and every byte is that of the undisturbed run.
fn check(fleet: &Fleet, job: &Job, alone: &BTreeMap<String, Vec<u8>>) {
    assert_eq!((job.state, &*job.reason), (State::Succeeded, ""));
    assert_eq!(u64::from(job.progress.shards), SHARDS);
    assert_eq!(job.progress.tally.succeeded, ROWS_A_PART * SHARDS, "{:?}", job.progress);
    let parts = parts(Path::new(&job.spec.output.location));
    let names: Vec<_> = alone.keys().collect();
    assert_eq!(parts.keys().collect::<Vec<_>>(), names, "in {}", fleet.folder.path().display());
    assert!(parts.len() as u64 == SHARDS && parts == *alone, "other bytes than those of one machine");
    let lines = |bytes: &Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(parts.values().map(lines).sum::<u64>(), ROWS_A_PART * SHARDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_and_a_dead_leader_lose_nothing() {
    let Some(mut servers) = Servers::start(3) else { return };
    let mut fleet = Fleet::new(&servers, "killed");
    let alone = fleet.undisturbed().await;
    let store = Replicated::open(&fleet.settings).await.expect("servers answer");
    let server = fleet.server();
    let mut doomed = fleet.worker();
    let job = store.create(fleet.job("killed")).await.expect("there is room");
    until(&store, &job.id, "a shard is done", |job| job.progress.shards >= 1).await;
    // It is the only one, and shards are waiting: it has some.
    doomed.kill();
    let worker = fleet.worker();
    until(&store, &job.id, "more shards are done", |job| job.progress.shards >= 8).await;
    servers.kill_leader("KV_killed-jobs");
    servers.kill_and_restart_leader("killed-work");
    let job = until(&store, &job.id, "it ends", |job| job.state == State::Succeeded).await;
    check(&fleet, &job, &alone);
    assert!(worker.log().contains("taken over"), "nothing was in work when a worker was killed: {}", worker.log());
    worker.end().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_and_one_that_comes_back_change_nothing() {
    let Some(servers) = Servers::start(3) else { return };
    let mut fleet = Fleet::new(&servers, "woken");
    let alone = fleet.undisturbed().await;
    let store = Replicated::open(&fleet.settings).await.expect("servers answer");
    let server = fleet.server();
    let proxy = Proxy::to(servers.address(0));
    let (sleeper, remote) = (fleet.worker(), fleet.start(&["worker"], &proxy.url()));
    let job = store.create(fleet.job("woken")).await.expect("there is room");
    until(&store, &job.id, "a shard is done", |job| job.progress.shards >= 1).await;
    // Both have shards; neither can say so any more. One is stopped, the other computes on and nobody hears it.
    sleeper.signal("STOP");
    proxy.cut(true);
    let able = fleet.worker();
    let job = until(&store, &job.id, "others do what they had", |job| job.state == State::Succeeded).await;
    check(&fleet, &job, &alone);
    assert!(able.log().contains("taken over"), "nothing was in work when workers stopped: {}", able.log());
    // They come back with files of their own for shards that others have done.
    sleeper.signal("CONT");
    proxy.cut(false);
    let staged = Path::new(&job.spec.output.location).join("_staged");
    // The workers are well: they do the next job.
    able.end().await;
    let again = store.create(fleet.job("again")).await.expect("there is room");
    let again = until(&store, &again.id, "the next job ends", |job| job.state == State::Succeeded).await;
    check(&fleet, &again, &alone);
    check(&fleet, &store.job(&job.id).await.expect("it is there"), &alone);
    let left = || fs::read_dir(&staged).map(|entries| entries.count()).unwrap_or_default();
    for _ in 0..3000 {
        if left() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(left(), 0, "attempts that do not count are thrown away");
    for process in [sleeper, remote, server] {
        process.end().await;
    }
}

#[test]
fn without_its_queue_a_worker_says_so_and_ends() {
    let told = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
        let ended = command.arg("worker").args(arguments).env_clear().output().expect("the binary runs");
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(ended.stderr).expect("UTF-8")
    };
    assert_eq!(told(&[]), "error: there is no queue: --queue or cluster.url names its servers\n");
    let absent = told(&["--queue", "nats://127.0.0.1:1"]);
    assert!(absent.starts_with("error: cluster.url: nats://127.0.0.1:1: "), "{absent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_how_it_is() {
    let Some(servers) = Servers::start(1) else { return };
    let mut fleet = Fleet::new(&servers, "probed");
    fleet.settings.cluster.replicas = 1;
    let url = fleet.url();
    let worker = fleet.start(&["worker", "--admin-addr", "127.0.0.1:0"], &url);
    let port = worker.said.trim_end().strip_prefix("metrics and probes on http://127.0.0.1:").map(str::parse);
    let port = port.unwrap_or_else(|| panic!("{:?}", worker.said)).expect("a port");
    for (path, says) in [("/livez", "ok"), ("/readyz", "ok"), ("/metrics", "vljepa_saturation")] {
        let answer = asked(port, path).expect("it listens");
        assert!(answer.contains("200 OK") && answer.contains(says), "{path}: {answer}");
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_clients_rows_name_outside_their_input_is_read_by_no_worker() {
    let Some(servers) = Servers::start(1) else { return };
    let mut fleet = Fleet::new(&servers, "fenced");
    fleet.settings.cluster.replicas = 1;
    let (root, outside) = (fleet.place("root"), fleet.place("texts.jsonl"));
    fs::create_dir(&root).expect("a folder");
    std::os::unix::fs::symlink(&outside, Path::new(&root).join("link")).expect("linked");
    let named = [&*outside, "../texts.jsonl", "link"].map(|media| format!("{{\"media\": {media:?}}}\n"));
    fs::write(Path::new(&root).join("rows.jsonl"), named.concat() + "{\"text\": \"word1\"}").expect("written");
    let store = Replicated::open(&fleet.settings).await.expect("servers answer");
    let url = fleet.url();
    // The worker is not told the root: what clients may reach comes with their jobs.
    let server = fleet.start(&["serve", "--addr", "127.0.0.1:0", "--jobs-root", &root], &url);
    let worker = fleet.worker();
    let address = server.said.trim_end().rsplit(' ').next().expect("an address");
    let mut submit = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    submit
        .args(["job", "submit", "rows.jsonl", "--out", "out", "--question", "word2", "--server", address])
        .env_clear();
    let made = submit.output().expect("the binary runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let id = JobId(String::from_utf8(made.stdout).expect("UTF-8").trim_end().into());
    let job = until(&store, &id, "it ends", |job| job.state == State::Succeeded).await;
    let tally = job.progress.tally;
    assert_eq!((tally.succeeded, tally.failed), (1, 3));
    let errors = fs::read_to_string(Path::new(&root).join("out/_errors-00000.jsonl")).expect("written");
    assert_eq!(errors.matches("lies outside the input's directory").count(), 3, "{errors}");
    worker.end().await;
    server.end().await;
}
