//! All connections: how they come in, how many there may be, and the one clock that ends those whose time has come.
//!
//! One task looks at all of them a few times in the shortest bound, instead of a timer each: what a connection does on
//! its way costs no timer, and the end of the server needs nothing but one more look.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::connection::{Bounds, Closing, Connection, Life};
use super::shutdown::Phase;
use crate::engine::seen;
use crate::settings::ConnectionSettings;

/// Connections that are accepted and not yet taken over.
const ACCEPTED_MAX: usize = 16;

/// Pause after an error of the listener itself, such as a process without file descriptors: it does not pass at once.
const PAUSE: Duration = Duration::from_millis(100);

/// All connections that are open. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    max: usize,
    open: Mutex<HashMap<u64, Arc<Life>>>,
    accepted: AtomicU64,
}

/// A connection's place among all; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}

impl Connections {
    pub(super) fn new(settings: &ConnectionSettings) -> Self {
        let (bounds, max) = (Bounds::new(settings), settings.connections_max);
        Self(Arc::new(Inner { bounds, max, open: Mutex::default(), accepted: AtomicU64::new(0) }))
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open().len()
    }

    /// What comes in on `listener`, until nobody takes it any more.
    pub(super) fn incoming(&self, listener: TcpListener) -> ReceiverStream<Result<Connection, Infallible>> {
        let (accepted, incoming) = mpsc::channel(ACCEPTED_MAX);
        let connections = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = accepted.closed() => {}
                () = connections.accept(listener, &accepted) => {}
            }
        });
        ReceiverStream::new(incoming)
    }

    async fn accept(&self, listener: TcpListener, accepted: &mpsc::Sender<Result<Connection, Infallible>>) {
        loop {
            match listener.accept().await {
                Ok((socket, address)) => {
                    if let Some(connection) = self.place(socket, address)
                        && accepted.send(Ok(connection)).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    if let Some(pause) = pause_after(&error) {
                        tracing::warn!(%error, open = self.count(), "cannot accept connections");
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// None, and the socket closed, if there are too many.
    fn place(&self, socket: TcpStream, address: SocketAddr) -> Option<Connection> {
        let mut open = self.open();
        if open.len() >= self.0.max {
            seen::refused("connections");
            tracing::warn!(%address, max = self.0.max, "too many connections: closed");
            return None;
        }
        let (id, life) = (self.0.accepted.fetch_add(1, Ordering::Relaxed), Arc::new(Life::new()));
        open.insert(id, life.clone());
        let place = Place { connections: self.clone(), id };
        // An answer of a few packets must not wait for an acknowledgement.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %address, "no TCP_NODELAY");
        }
        Some(Connection::new(socket, address, life, place))
    }

    /// Looks after all of them for as long as it is polled.
    pub(super) async fn look_after(self, mut phase: watch::Receiver<Phase>) {
        let mut closing = Closing::default();
        let pause = (self.0.bounds.shortest() / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let (now, current) = (Instant::now(), *phase.borrow_and_update());
            if current >= Phase::Refusing {
                closing.refusing.get_or_insert(now);
            }
            if current >= Phase::Stopping {
                closing.stopping.get_or_insert(now);
            }
            self.look(now, closing);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = phase.changed() => if changed.is_err() { return },
            }
        }
    }

    fn look(&self, now: Instant, closing: Closing) {
        // Ending one wakes its task, which needs the lock to give its place back.
        let lives: Vec<_> = self.open().values().cloned().collect();
        for life in lives {
            if let Some(reason) = life.ends(now, &self.0.bounds, closing) {
                tracing::debug!(reason, "connection closed");
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Life>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait before the next connection is accepted; none if the error was of one connection only.
fn pause_after(error: &io::Error) -> Option<Duration> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    let of_one = matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted);
    (!of_one).then_some(PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listeners_own_errors_make_a_pause() {
        assert_eq!(pause_after(&io::ErrorKind::ConnectionAborted.into()), None);
        // EMFILE, ENFILE, ENOMEM.
        for code in [24, 23, 12] {
            assert_eq!(pause_after(&io::Error::from_raw_os_error(code)), Some(PAUSE), "{code}");
        }
    }

    #[tokio::test]
    async fn a_place_is_given_back_and_the_next_one_beyond_the_bound_is_closed() {
        let settings = ConnectionSettings { connections_max: 1, ..ConnectionSettings::default() };
        let connections = Connections::new(&settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let accepted = async || {
            let _client = TcpStream::connect(address).await.expect("it listens");
            listener.accept().await.expect("a connection").0
        };
        let first = connections.place(accepted().await, address);
        assert!(first.is_some() && connections.place(accepted().await, address).is_none());
        drop(first);
        assert_eq!(connections.count(), 0);
        assert!(connections.place(accepted().await, address).is_some());
    }
}
