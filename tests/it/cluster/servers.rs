//! A real cluster of NATS servers on this machine: three processes, each with JetStream on a disk of its own.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where `.ci/cluster` puts the server; one that is on the path does as well.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nats/bin/nats-server");

/// The servers; they end with this.
pub struct Servers {
    program: PathBuf,
    nodes: Vec<Node>,
    _folder: TempDir,
}

struct Node {
    port: u16,
    monitor: u16,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// The program, if it is there; tells that the test is skipped if not.
fn program() -> Option<PathBuf> {
    let installed = PathBuf::from(INSTALLED);
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("nats-server"))
        .chain([installed])
        .find(|file| file.is_file());
    if found.is_none() {
        println!("skipped: there is no nats-server; .ci/cluster installs one");
    }
    found
}

/// Ports that nobody has just now.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect()
}

impl Servers {
    /// So many servers, once they have found each other. None where there is no such program.
    pub fn start(count: usize) -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().expect("a folder");
        let ports = free_ports(3 * count);
        let (clients, rest) = ports.split_at(count);
        let (routes, monitors) = rest.split_at(count);
        let all: Vec<String> = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let nodes = (0..count).map(|at| {
            let file = |name: &str| folder.path().join(format!("{at}{name}"));
            let config = format!(
                "server_name: n{at}\nlisten: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\n\
                 jetstream {{ store_dir: {:?}, max_memory_store: 64MB, max_file_store: 2GB }}\n{}",
                clients[at],
                monitors[at],
                file(""),
                match count {
                    1 => String::new(),
                    _ => format!(
                        "cluster {{ name: test, no_advertise: true, listen: 127.0.0.1:{}, routes: {all:?} }}\n",
                        routes[at]
                    ),
                }
            );
            fs::write(file(".conf"), config).expect("a file");
            Node { port: clients[at], monitor: monitors[at], config: file(".conf"), log: file(".log"), child: None }
        });
        let mut servers = Self { program, nodes: nodes.collect(), _folder: folder };
        for node in &mut servers.nodes {
            node.start(&servers.program);
        }
        let until = Instant::now() + Duration::from_secs(60);
        while !servers.nodes.iter().all(|node| node.is_healthy()) {
            assert!(Instant::now() < until, "the servers do not find each other:\n{}", servers.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(servers)
    }

    /// The setting `cluster.url`.
    pub fn url(&self) -> String {
        let urls = self.nodes.iter().map(|node| format!("nats://127.0.0.1:{}", node.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The address of one of them.
    pub fn address(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[at].port)
    }

    /// Kills the server that leads the stream called `name`, as a machine does that burns.
    pub fn kill_leader(&mut self, name: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let leader = self.nodes.iter().find_map(|node| node.leader(name));
            if let Some(node) =
                self.nodes.iter_mut().enumerate().find(|(at, _)| leader == Some(format!("n{at}"))).map(|(_, node)| node)
                && let Some(mut child) = node.child.take()
            {
                child.kill().expect("it runs");
                child.wait().expect("it is ours");
                return;
            }
            assert!(Instant::now() < until, "nobody leads {name}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The same, and lets the server come back with what is on its disk.
    pub fn kill_and_restart_leader(&mut self, name: &str) {
        let before: Vec<usize> = self.running();
        self.kill_leader(name);
        let after = self.running();
        for at in before.into_iter().filter(|at| !after.contains(at)) {
            let program = self.program.clone();
            self.nodes[at].start(&program);
        }
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].child.is_some()).collect()
    }

    fn log(&self) -> String {
        self.nodes.iter().map(|node| fs::read_to_string(&node.log).unwrap_or_default()).collect()
    }
}

impl Node {
    fn start(&mut self, program: &Path) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a file");
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.config).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("it runs"));
    }

    fn is_healthy(&self) -> bool {
        self.asked("/healthz").is_some_and(|answer| answer.contains("200 OK"))
    }

    /// Which server leads a stream, as this one knows.
    fn leader(&self, name: &str) -> Option<String> {
        let answer = self.asked("/jsz?streams=1")?;
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let streams = body["account_details"][0]["stream_detail"].as_array()?;
        let stream = streams.iter().find(|stream| stream["name"] == name)?;
        Some(stream["cluster"]["leader"].as_str()?.to_owned())
    }

    fn asked(&self, path: &str) -> Option<String> {
        self.child.as_ref()?;
        asked(self.monitor, path)
    }
}

/// What is answered over HTTP on a port of this machine.
pub fn asked(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    // By HTTP 1.0, so that the answer is in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
