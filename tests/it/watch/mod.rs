//! Watch as clients see it: sessions of a tiny random model, and of the bundled one, behind a real socket. Here is the
//! client that the tests share.

mod asked;
mod bounds;
mod end;
mod resume;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use vljepa::service::proto::watch_request::Message as Asked;
use vljepa::service::proto::watch_response::Message as Told;
use vljepa::service::proto::watch_service_client::WatchServiceClient;
use vljepa::service::proto::{
    DecodeMode, DecodePolicy, Frame, FrameFormat, WatchAck, WatchFrame, WatchQuery, WatchRequest, WatchResponse,
    WatchStart, WatchStarted, WatchStats, WatchWindow,
};

/// Longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(60);

/// A wire to a server whose connections can be broken: a client that only drops its call half-closes it first.
pub struct Wire {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: JoinHandle<()>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let kept = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(server).await.expect("the server listens");
                let carrying = tokio::spawn(async move {
                    // Its end, whichever it is, is what is tested.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                kept.lock().expect("no panic").push(carrying.abort_handle());
            }
        });
        Self { address, connections, accepting }
    }

    /// Both sockets of every connection are closed, with whatever was on its way.
    pub fn breaks(&self) {
        self.connections.lock().expect("no panic").drain(..).for_each(|connection| connection.abort());
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("it is carried on")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.breaks();
    }
}

/// A client with its call.
#[derive(Debug)]
pub struct Client {
    pub sender: mpsc::Sender<WatchRequest>,
    pub responses: Streaming<WatchResponse>,
    pub started: WatchStarted,
    /// Frames that may be sent.
    pub credits: u32,
}

/// All that was told on a call, but for credits, and how it ended.
#[derive(Debug)]
pub struct Heard {
    pub told: Vec<WatchResponse>,
    pub status: Result<(), Status>,
}

/// A call whose first message is `start`; the status if it is refused.
pub async fn open(channel: &Channel, start: WatchStart, timeout: Option<Duration>) -> Result<Client, Status> {
    let (sender, messages) = mpsc::channel(64);
    sender.send(message(Asked::Start(start))).await.expect("room");
    let mut request = Request::new(ReceiverStream::new(messages));
    timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
    let mut client = WatchServiceClient::new(channel.clone());
    let mut responses = client.watch(request).await?.into_inner();
    let first = responses.message().await?.expect("no end before the beginning");
    let Some(Told::Started(started)) = first.message else { panic!("{first:?}") };
    assert_eq!(first.event, 0, "it is no event");
    let credits = started.credits;
    Ok(Client { sender, responses, started, credits })
}

/// A session, without a timeout.
pub async fn begin(channel: &Channel, start: WatchStart) -> Client {
    open(channel, start, None).await.expect("a session")
}

/// The session that `token` takes up.
pub async fn resume(channel: &Channel, token: &str, after: u64) -> Result<Client, Status> {
    let start = WatchStart { resume_token: token.into(), resume_after: after, ..Default::default() };
    open(channel, start, None).await
}

pub fn message(message: Asked) -> WatchRequest {
    WatchRequest { message: Some(message) }
}

impl Client {
    /// The server may have ended the call.
    pub async fn send(&mut self, asked: Asked) {
        let _ = self.sender.send(message(asked)).await;
    }

    pub async fn ack(&mut self, event: u64) {
        self.send(Asked::Ack(WatchAck { event })).await;
    }

    /// The next message that is no credit; none at the end.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            let next = tokio::time::timeout(LONG, self.responses.message()).await.expect("it goes on");
            match next? {
                Some(WatchResponse { message: Some(Told::Credit(more)), event }) => {
                    assert!(event == 0 && more.frames > 0, "{more:?}");
                    self.credits += more.frames;
                }
                other => return Ok(other),
            }
        }
    }

    /// Sends frames, as there are credits for them, and reads and acknowledges meanwhile; stops when all are sent.
    pub async fn feed(&mut self, frames: &[WatchFrame], told: &mut Vec<WatchResponse>) -> Result<(), Status> {
        let mut frames = frames.iter();
        loop {
            while self.credits > 0 {
                let Some(frame) = frames.next() else { return Ok(()) };
                self.credits -= 1;
                self.send(Asked::Frame(frame.clone())).await;
            }
            let credits = self.credits;
            while self.credits == credits {
                let next = tokio::time::timeout(LONG, self.responses.message()).await.expect("it goes on");
                match next?.expect("no end while frames are to come") {
                    WatchResponse { message: Some(Told::Credit(more)), .. } => self.credits += more.frames,
                    other => {
                        self.ack(other.event).await;
                        told.push(other);
                    }
                }
            }
        }
    }

    /// Half-closes and reads to the end.
    pub async fn finish(self) -> Heard {
        let Self { sender, mut responses, .. } = self;
        drop(sender);
        let mut told = Vec::new();
        let status = loop {
            match tokio::time::timeout(LONG, responses.message()).await.expect("it goes on") {
                Ok(Some(WatchResponse { message: Some(Told::Credit(_)), .. })) => {}
                Ok(Some(other)) => told.push(other),
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            }
        };
        Heard { told, status }
    }

    /// Feeds all frames, half-closes, and reads to the end.
    pub async fn whole(mut self, frames: &[WatchFrame]) -> Heard {
        let mut before = Vec::new();
        if let Err(status) = self.feed(frames, &mut before).await {
            return Heard { told: before, status: Err(status) };
        }
        let Heard { told, status } = self.finish().await;
        Heard { told: before.into_iter().chain(told).collect(), status }
    }

    /// Reads until `wanted` finds something.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(&WatchResponse) -> Option<T>) -> T {
        loop {
            let next = self.next().await.expect("no error").expect("no end");
            if let Some(found) = wanted(&next) {
                return found;
            }
        }
    }
}

impl Heard {
    /// The statistics, which are the last word.
    pub fn stats(&self) -> WatchStats {
        match self.told.last().and_then(|last| last.message.clone()) {
            Some(Told::Finished(finished)) => finished.stats.expect("statistics"),
            _ => panic!("{self:?}"),
        }
    }
}

/// Events without what differs from run to run: where the time went.
pub fn timeless(told: &[WatchResponse]) -> Vec<WatchResponse> {
    let mut told = told.to_vec();
    for one in &mut told {
        match &mut one.message {
            Some(Told::Embedding(event)) => event.timing = None,
            Some(Told::Decode(event)) => event.timing = None,
            Some(Told::Finished(finished)) => {
                let stats = finished.stats.as_mut().expect("statistics");
                (stats.vision_ms, stats.predictor_ms, stats.words_ms) = (0.0, 0.0, 0.0);
            }
            _ => {}
        }
    }
    told
}

/// A picture of `look`, never like that of another, as 16 x 16 levels.
pub fn picture(look: u64, pts_ms: u64) -> Frame {
    let level = |at: u64| (at * (2 * look + 7) + at / 16 * look * 31) % 251;
    let data = (0..256).map(|at| level(at) as u8).collect();
    Frame { data, format: FrameFormat::Gray8 as i32, width: 16, height: 16, pts_ms }
}

pub fn frame(seq: u64, pts_ms: u64, look: u64) -> WatchFrame {
    WatchFrame { seq, frame: Some(picture(look, pts_ms)) }
}

/// `count` frames from number 1 on, ten a second, each a picture of its own for half a second.
pub fn frames(count: u64) -> Vec<WatchFrame> {
    (1..=count).map(|seq| frame(seq, (seq - 1) * 100, (seq - 1) / 5)).collect()
}

pub fn query(question: &str, candidates: &[&str]) -> WatchQuery {
    let candidates = candidates.iter().map(|text| text.to_string()).collect();
    WatchQuery { question: question.into(), candidates, generation: None }
}

/// A session of one query, with windows of 400 ms every 200 ms, and words every 200 ms.
pub fn uniform() -> WatchStart {
    let decode = DecodePolicy { mode: DecodeMode::Uniform as i32, uniform_ms: Some(200), ..Default::default() };
    WatchStart {
        queries: vec![query("word1 word2", &["word3", "word4", "word5"])],
        window: Some(WatchWindow { window_ms: 400, stride_ms: 200, ..Default::default() }),
        decode: Some(decode),
        ..Default::default()
    }
}
