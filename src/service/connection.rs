//! One connection: its socket, and the rule by when it must end.
//!
//! hyper and tonic bound what a call does, not what a connection leaves undone: never sending its preface, never reading
//! its answers, having vanished without a word. The rule is a plain struct that is given the time; [`Connection`] tells
//! it what happens on the socket and turns its end into an end of file, also below TLS. `connections.rs` asks it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TlsConnectInfo};

use super::connections::Place;
use crate::settings::ConnectionSettings;

/// How long a connection may do what.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) preface: Duration,
    pub(super) idle: Duration,
    pub(super) unread: Duration,
    /// None: for ever.
    pub(super) age: Option<Duration>,
    pub(super) drain_quiet: Duration,
}

impl Bounds {
    pub(super) fn new(settings: &ConnectionSettings) -> Self {
        let age = settings.age_max_ms + settings.age_grace_ms;
        Self {
            preface: Duration::from_millis(settings.preface_max_ms),
            idle: Duration::from_millis(settings.idle_max_ms),
            unread: Duration::from_millis(settings.unread_max_ms),
            age: (settings.age_max_ms > 0).then(|| Duration::from_millis(age)),
            drain_quiet: Duration::from_millis(settings.drain_quiet_ms),
        }
    }

    pub(super) fn shortest(&self) -> Duration {
        self.preface.min(self.idle).min(self.unread).min(self.drain_quiet)
    }
}

/// What the server as a whole is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Closing {
    /// Since when nothing new is taken.
    pub(super) refusing: Option<Instant>,
    /// Since when calls are not waited for any more.
    pub(super) stopping: Option<Instant>,
}

/// What has happened on a connection so far.
#[derive(Debug, Clone)]
struct Facts {
    accepted: Instant,
    /// Calls so far.
    calls: u64,
    /// Calls that are not over.
    open: usize,
    /// When the last call ended.
    idle: Instant,
    /// When the last byte was read or written.
    moved: Instant,
    /// Since when the socket takes nothing.
    blocked: Option<Instant>,
    /// Since when each call's answer is not asked after.
    unread: BTreeMap<u64, Instant>,
}

impl Facts {
    fn new(now: Instant) -> Self {
        let unread = BTreeMap::new();
        Self { accepted: now, calls: 0, open: 0, idle: now, moved: now, blocked: None, unread }
    }

    /// When the connection must end if nothing more happens, and why; none while a call runs, which has its own bounds.
    fn end(&self, bounds: &Bounds, closing: Closing) -> Option<(Instant, &'static str)> {
        let (asked, alone) = (self.calls > 0, self.open == 0);
        let unread = self.unread.values().chain(&self.blocked).min();
        let quiet = |since: Instant| since.max(self.moved) + bounds.drain_quiet;
        let ends = [
            (!asked).then(|| (self.accepted + bounds.preface, "it never asked anything")),
            (asked && alone).then(|| (self.idle + bounds.idle, "it was idle")),
            unread.map(|&since| (since + bounds.unread, "it does not read its answers")),
            bounds.age.map(|age| (self.accepted + age, "it did not end at its age")),
            closing.refusing.filter(|_| alone).map(|since| (quiet(since), "the server is shutting down")),
            closing.stopping.map(|since| (since + bounds.drain_quiet, "the server stops")),
        ];
        ends.into_iter().flatten().min()
    }
}

/// What connection, calls and server share about one connection.
#[derive(Debug)]
pub(super) struct Life(Mutex<State>);

#[derive(Debug)]
struct State {
    facts: Facts,
    ended: bool,
    /// Whoever reads or writes.
    waker: Option<Waker>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { facts: Facts::new(Instant::now()), ended: false, waker: None }))
    }

    /// Ends the connection if its time has come; says why.
    pub(super) fn ends(&self, now: Instant, bounds: &Bounds, closing: Closing) -> Option<&'static str> {
        let mut state = self.state();
        let (end, reason) = state.facts.end(bounds, closing)?;
        if end > now || std::mem::replace(&mut state.ended, true) {
            return None;
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Some(reason)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers whom to wake; false if all is over.
    fn goes_on(&self, context: &Context) -> bool {
        let mut state = self.state();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        !state.ended
    }

    fn moved<T>(&self, outcome: &Poll<io::Result<T>>, writes: bool) {
        let (now, facts) = (Instant::now(), &mut self.state().facts);
        if outcome.is_ready() {
            facts.moved = now;
        }
        if writes {
            facts.blocked = if outcome.is_ready() { None } else { facts.blocked.or(Some(now)) };
        }
    }
}

/// Who is at the other end; every call carries it among its extensions.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// The client's address.
    pub(super) address: SocketAddr,
    life: Arc<Life>,
}

impl Peer {
    /// The peer of a call, with TLS or without.
    pub(super) fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get().or_else(|| Some(extensions.get::<TlsConnectInfo<Self>>()?.get_ref()))
    }

    /// A call begins.
    pub(super) fn call(&self) -> OpenCall {
        let facts = &mut self.life.state().facts;
        (facts.calls, facts.open) = (facts.calls + 1, facts.open + 1);
        OpenCall { life: self.life.clone(), id: facts.calls }
    }
}

/// A call on its connection, which it keeps from being idle; over when dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    life: Arc<Life>,
    id: u64,
}

impl OpenCall {
    /// A piece of the answer waits for the client to have room, or does not any more.
    pub(super) fn unread(&self, waits: bool) {
        let facts = &mut self.life.state().facts;
        if waits {
            facts.unread.insert(self.id, Instant::now());
        } else {
            facts.unread.remove(&self.id);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let facts = &mut self.life.state().facts;
        facts.open -= 1;
        facts.idle = Instant::now();
        facts.unread.remove(&self.id);
    }
}

/// A socket that ends when its time has come.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    address: SocketAddr,
    life: Arc<Life>,
    /// Given back when dropped.
    _place: Place,
}

impl Connection {
    pub(super) fn new(socket: TcpStream, address: SocketAddr, life: Arc<Life>, place: Place) -> Self {
        Self { socket, address, life, _place: place }
    }

    fn writes<T>(
        &mut self,
        context: &mut Context,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.life.goes_on(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let outcome = write(Pin::new(&mut self.socket), context);
        self.life.moved(&outcome, true);
        outcome
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { address: self.address, life: self.life.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        if !self.life.goes_on(context) {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut self.socket).poll_read(context, buffer);
        self.life.moved(&outcome, false);
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes(context, |socket, context| socket.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        pieces: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        self.writes(context, |socket, context| socket.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        preface: Duration::from_secs(10),
        idle: Duration::from_secs(100),
        unread: Duration::from_secs(30),
        age: Some(Duration::from_secs(1000)),
        drain_quiet: Duration::from_secs(1),
    };

    /// Seconds after its beginning at which a connection ends; 0 for never.
    fn end(
        bounds: &Bounds,
        closing: [Option<u64>; 2],
        happens: impl FnOnce(&mut Facts, &dyn Fn(u64) -> Instant),
    ) -> u64 {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut facts = Facts::new(begin);
        happens(&mut facts, &at);
        let [refusing, stopping] = closing.map(|second| second.map(at));
        facts.end(bounds, Closing { refusing, stopping }).map_or(0, |(end, _)| (end - begin).as_secs())
    }

    fn asked(facts: &mut Facts, open: usize) {
        (facts.calls, facts.open) = (9, open);
    }

    #[test]
    fn a_connection_ends_by_what_it_leaves_undone() {
        let serving = |happens: fn(&mut Facts, &dyn Fn(u64) -> Instant)| end(&BOUNDS, [None, None], happens);
        assert_eq!(serving(|_, _| {}), 10, "no preface");
        assert_eq!(serving(|facts, at| facts.moved = at(9)), 10, "bytes are no call");
        assert_eq!(serving(|facts, _| asked(facts, 1)), 1000, "while a call runs, its deadline rules");
        assert_eq!(
            serving(|facts, at| {
                asked(facts, 0);
                facts.idle = at(50);
            }),
            150,
            "idle"
        );
        assert_eq!(
            serving(|facts, at| {
                asked(facts, 2);
                facts.unread.extend([(1, at(20)), (2, at(15))]);
            }),
            45,
            "the oldest piece that is not read"
        );
        assert_eq!(
            serving(|facts, at| {
                asked(facts, 1);
                facts.blocked = Some(at(3));
            }),
            33,
            "a socket that takes nothing"
        );
    }

    #[test]
    fn at_the_end_of_the_server_only_calls_keep_a_connection() {
        let ageless = Bounds { age: None, ..BOUNDS };
        let ending = |closing, happens: fn(&mut Facts, &dyn Fn(u64) -> Instant)| end(&ageless, closing, happens);
        assert_eq!(ending([None, None], |facts, _| asked(facts, 1)), 0, "no bound but its own holds a call");
        assert_eq!(ending([Some(5), None], |facts, _| asked(facts, 1)), 0, "it is finished");
        assert_eq!(ending([Some(5), None], |_, _| {}), 6, "a silent one");
        assert_eq!(ending([Some(5), None], |facts, _| asked(facts, 0)), 6, "a half-open one");
        assert_eq!(
            ending([Some(5), None], |facts, at| {
                asked(facts, 0);
                facts.moved = at(7);
            }),
            8,
            "while an answer is written, it lives"
        );
        assert_eq!(
            ending([Some(5), Some(20)], |facts, at| {
                asked(facts, 1);
                facts.moved = at(20);
            }),
            21,
            "the hard stop waits for no call, only for its last word"
        );
    }
}
