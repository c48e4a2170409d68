//! A server as a process of its own, for tests that look at what only a process has: memory, signals, an exit status.
//! It serves a tiny random bundle on a free port; what it logs is kept, for a panic anywhere in it is a finding.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::transport::Channel;

use crate::tiny::{BERT, bundle};

/// The address of whichever port is free.
pub const FREE: &str = "127.0.0.1:0";

/// A server that runs until it is told otherwise or dropped.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
}

/// `vljepa serve` of the bundle in `folder`, with nothing of this environment but the given variables.
pub fn serve(folder: &Path, address: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    command.args(["serve", "--addr", address, "--bundle"]).arg(folder).env_clear();
    command.env("VLJEPA_LOG", "warn").envs(variables.iter().copied());
    command
}

impl Process {
    /// Serves a tiny bundle; returns when it listens.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        bundle(folder.path(), BERT);
        Self::serving(serve(folder.path(), FREE, variables), folder)
    }

    /// Serves the bundle in `place`; returns when it listens.
    pub fn of(place: &Path, variables: &[(&str, &str)]) -> Self {
        Self::serving(serve(place, FREE, variables), tempfile::tempdir().expect("a folder"))
    }

    fn serving(mut command: Command, folder: TempDir) -> Self {
        let log = File::create(folder.path().join("log")).expect("a file");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("UTF-8");
        let address = line.trim_end().split_once(" on ").map(|(_, address)| address.parse());
        Self { address: address.unwrap_or_else(|| panic!("{line:?}")).expect("an address"), child, folder }
    }

    /// A connection of its own.
    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("it listens")
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Its exit status, and how long it took to come from now on; it must come within `bound`.
    pub async fn ended(&mut self, bound: Duration) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return (status, asked.elapsed());
            }
            assert!(asked.elapsed() < bound, "it still runs after {bound:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("UTF-8")
    }

    /// A line of /proc/PID/status, such as `RssAnon`, bytes.
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).expect(line);
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
