//! What only a process of its own can show: its memory, its file descriptors.
#![cfg(target_os = "linux")]

use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::wire::{PATIENCE, framed, refused, whole};
use crate::model_laws::{BERT, bundle};

const PREDICT: &str = "/vljepa.v1.EmbeddingService/Predict";

/// A server as a process of its own, whose memory is its own too.
struct Process(std::process::Child, std::net::SocketAddr);

impl Process {
    /// `vljepa serve` with a tiny model and at most `files` open files.
    fn start(folder: &std::path::Path, files: u32) -> Self {
        bundle(folder, BERT);
        let (program, directory) = (env!("CARGO_BIN_EXE_vljepa"), folder.to_str().expect("a plain path"));
        let mut child = std::process::Command::new("sh")
            .args(["-c", &format!("ulimit -n {files}; exec {program} serve --addr 127.0.0.1:0 --bundle {directory}")])
            .env("VLJEPA_LOG", "error")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().expect("piped")), &mut line)
            .expect("it says where it serves");
        let address = line.trim().rsplit(' ').next().expect("an address").parse().expect("an address");
        Self(child, address)
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.1)).expect("an address").connect().await.expect("it listens")
    }

    /// The most memory it ever held, bytes.
    fn memory_max(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("on Linux");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it ran");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_million_empty_items_cost_no_more_than_their_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Process::start(folder.path(), 256);
    let channel = server.channel().await;
    refused(&channel, PREDICT, whole(framed(b"")).await).await;
    let before = server.memory_max();
    let items = [0x12, 0].repeat(30_000_000);
    let status = refused(&channel, PREDICT, whole(framed(&items)).await).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let more = server.memory_max() - before;
    println!("{} MB more for a message of {} MB", more >> 20, items.len() >> 20);
    assert!(more < 3 * items.len(), "{} MB for a message of {} MB", more >> 20, items.len() >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_file_descriptors_goes_on_when_it_has_some_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Process::start(folder.path(), 64);
    let channel = server.channel().await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(server.1).await.expect("the kernel accepts it"));
    }
    let check = || async { HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await };
    check().await.expect("who is connected is served");
    drop(crowd);
    let later = async {
        let mut later = HealthClient::new(server.channel().await);
        later.check(HealthCheckRequest::default()).await.expect("there is room again")
    };
    tokio::time::timeout(PATIENCE, later).await.expect("within the patience");
}
