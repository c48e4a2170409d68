//! Clients that do what no proper client does: bodies piece by piece, HTTP/2 by hand, silence.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;

/// What a server may take for anything that it should do at once; long, because machines are slow at times.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body that says what it is told to, and ends when its sender is dropped.
struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

pub fn pieces() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(64);
    (sender, Body::new(Pieces(receiver)))
}

/// A whole body of one piece.
pub async fn whole(bytes: Vec<u8>) -> Body {
    let (sender, body) = pieces();
    sender.send(bytes.into()).await.expect("room");
    body
}

/// A message as gRPC frames it.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// One request as it stands, its answer within the patience.
pub async fn send(channel: &Channel, path: &str, content_type: &str, body: Body) -> Response<Body> {
    let mut channel = channel.clone();
    let request = Request::post(format!("http://server{path}")).header("content-type", content_type).body(body);
    let answer = async {
        std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("a connection");
        channel.call(request.expect("a request")).await.expect("an answer")
    };
    tokio::time::timeout(PATIENCE, answer).await.expect("at once")
}

/// The status of an answer that is nothing but a status.
pub async fn refused(channel: &Channel, path: &str, body: Body) -> Status {
    let answer = send(channel, path, "application/grpc", body).await;
    Status::from_header_map(answer.headers()).unwrap_or_else(|| panic!("no refusal: {answer:?}"))
}

/// Reads until the server closes the connection, at most for the patience; what came.
pub async fn closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let end = async {
        let mut buffer = [0; 4096];
        // A reset is an end as well.
        while let Ok(length @ 1..) = socket.read(&mut buffer).await {
            read.extend(&buffer[..length]);
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the server closes it");
    read
}

/// HTTP/2 by hand: what is not sent is not sent, and nothing is answered.
pub struct ByHand(pub TcpStream);

impl ByHand {
    /// A connection with preface and empty settings.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut by_hand = Self(TcpStream::connect(address).await.expect("it listens"));
        by_hand.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
        by_hand.frame(4, 0, 0, &[]).await;
        by_hand
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = &(payload.len() as u32).to_be_bytes()[1..];
        let frame = [length, &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.0.write_all(&frame).await.expect("written");
    }

    /// A call on stream 1, whole.
    pub async fn call(&mut self, path: &str, message: &[u8]) {
        let mut headers = Vec::new();
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")];
        for (name, value) in fields {
            // Literal, not indexed, names and values as they are.
            headers.extend([&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat());
        }
        self.frame(1, 4, 1, &headers).await;
        let body = framed(message);
        let mut rest = body.chunks(16_384).peekable();
        while let Some(piece) = rest.next() {
            self.frame(0, u8::from(rest.peek().is_none()), 1, piece).await;
        }
    }

    /// Reads until something of stream 1 has come.
    pub async fn answered(&mut self) {
        loop {
            let mut head = [0; 9];
            tokio::time::timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("at once").expect("a frame");
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).await.expect("its payload");
            if head[8] == 1 {
                return;
            }
        }
    }
}

/// HTTP/2's word for "this connection ends".
pub const GOAWAY: u8 = 7;

/// The kinds of the HTTP/2 frames in what was read.
pub fn frame_kinds(mut read: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *read {
        kinds.push(kind);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        read = read.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// A gRPC-Web call over HTTP/1.1, or a browser's question before it; the whole answer as text.
pub async fn http1(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let length = body.len();
    let head = format!("{head}\r\nhost: server\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).await.expect("written");
    String::from_utf8_lossy(&closed(&mut socket).await).into_owned()
}

pub fn code_of(outcome: Result<impl Sized, Status>) -> Code {
    outcome.err().map_or(Code::Ok, |status| status.code())
}
