//! Processes on this machine: the server that a measurement starts for itself, and what the system counts of a process.
//!
//! The server is a process of its own so that its processor time and memory are not the client's.

use std::io::{BufRead, BufReader, Read, Seek};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::cli::bench::memory::Resident;

/// A model may be large.
const START_MAX: Duration = Duration::from_secs(600);
/// Linux counts processor time in hundredths of a second, whatever the kernel was built with.
const TICKS_PER_S: f64 = 100.0;

/// A server that lives as long as this value.
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
    pub(super) process: Process,
}

impl Server {
    /// Runs this very program with `arguments`, and waits until it says where it serves. The words of `run_with`, such as
    /// `nice -n 5`, stand before it.
    pub(super) fn start(run_with: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut log = tempfile::tempfile().context("no room for the server's log")?;
        let program = std::env::current_exe().context("this program does not know its file")?;
        let mut words = run_with.split_whitespace();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = command.spawn().context("the server does not start")?;
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let process = Process(child.id());
        let (tell, told) = mpsc::channel();
        // Read to the end, or the server would one day write into a full pipe.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).filter_map(|line| served_at(&line)).for_each(|address| {
                let _ = tell.send(address);
            });
        });
        let mut server = Self { child, address: String::new(), process };
        match told.recv_timeout(START_MAX) {
            Ok(address) => server.address = address.to_string(),
            Err(_) => {
                let mut text = String::new();
                log.rewind().and_then(|()| log.read_to_string(&mut text)).context("the server's log")?;
                let last = text.lines().last().unwrap_or("it said nothing").to_string();
                return Err(anyhow!("the server did not start: {last}"));
            }
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in `serving NAMES on ADDRESS`.
fn served_at(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("serving ")?.split_whitespace().find_map(|word| word.trim_end_matches([',', ';']).parse().ok())
}

/// A process by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process(pub(super) u32);

impl Process {
    /// The client.
    pub(super) fn own() -> Self {
        Self(std::process::id())
    }

    /// Its memory; None on systems that do not tell it, or when it has gone.
    pub(super) fn resident(self) -> Option<Resident> {
        Resident::of(self.0)
    }

    /// Processor time of all its threads until now, seconds.
    pub(super) fn cpu_seconds(self) -> Option<f64> {
        cpu_seconds(&std::fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?)
    }
}

/// The fields after the name, which may hold anything, count from 3; user and system time are 14 and 15.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((ticks(14)? + ticks(15)?) as f64 / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_first_words_tell_where_it_is() {
        let address: SocketAddr = "127.0.0.1:4242".parse().expect("an address");
        assert_eq!(served_at("serving world-small, other on 127.0.0.1:4242"), Some(address));
        assert_eq!(served_at("serving echo on 127.0.0.1:4242, without TLS"), Some(address));
        assert_eq!(served_at("metrics on 127.0.0.1:4242"), None);
    }

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 12345 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        let own = Process::own();
        assert!(own.cpu_seconds().is_some() && own.resident().is_some(), "a test runs on Linux");
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        // The program that runs this test knows no such option.
        for run_with in ["", "nice -n 1"] {
            let error = Server::start(run_with, &["--no-such-option"]).err().expect("wrong").to_string();
            assert!(error.starts_with("the server did not start: ") && error.len() > 40, "{error}");
        }
    }
}
