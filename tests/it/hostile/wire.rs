//! Oddities below gRPC: HTTP/2 as no library speaks it. Each has a connection of its own; whatever the server makes of
//! it, others are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{LIMITS, well};
use crate::process::Process;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn field(name: &str, value: &str) -> Vec<u8> {
    // Literal, never indexed, lengths below 127 in one byte.
    [&[0x10, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// A call's headers with more fields.
fn headers(more: &[(&str, &str)]) -> Vec<u8> {
    let path = "/vljepa.v1.AnswerService/Answer";
    let usual = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")];
    let kind = [("content-type", "application/grpc"), ("te", "trailers")];
    usual.iter().chain(&kind).chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

fn opened(then: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), then].concat()
}

fn call(stream: u32, message: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &headers(&[])), frame(DATA, END_STREAM, stream, message)].concat()
}

/// What the server did to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    /// Ended it, with or without a GOAWAY.
    End,
    /// Answered or reset the stream and left the connection open.
    Answer,
    /// Nothing at all.
    Nothing,
}

/// Sends `bytes` and waits for what is expected; what never comes is what the server did within the patience.
async fn did(server: &Process, bytes: &[u8], expected: &[Did]) -> Did {
    let connection = TcpStream::connect(server.address).await.expect("it listens");
    let (mut reader, mut writer) = connection.into_split();
    let bytes = bytes.to_vec();
    // The server may end it meanwhile, or stop reading.
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let patience = if expected.contains(&Did::Nothing) { 500 } else { 10_000 };
    let (mut seen, mut did) = (Vec::new(), Did::Nothing);
    let reading = async {
        let mut part = [0; 1 << 14];
        while !expected.contains(&did) || did == Did::Nothing {
            did = match reader.read(&mut part).await {
                Ok(read @ 1..) => {
                    seen.extend_from_slice(&part[..read]);
                    done(&seen)
                }
                _ => return Did::End,
            };
        }
        did
    };
    let within = tokio::time::timeout(Duration::from_millis(patience), reading).await;
    writing.abort();
    within.unwrap_or(done(&seen))
}

fn done(frames: &[u8]) -> Did {
    let kinds = kinds(frames);
    match () {
        () if frames.starts_with(b"HTTP/1.1 ") => Did::Answer,
        () if kinds.contains(&GOAWAY) => Did::End,
        () if kinds.contains(&HEADERS) || kinds.contains(&RST_STREAM) => Did::Answer,
        () => Did::Nothing,
    }
}

fn kinds(mut frames: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, rest @ ..] = frames {
        kinds.push(*kind);
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        frames = rest.get(5 + length..).unwrap_or_default();
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http2_ends_its_own_connection_alone() {
    let server = Process::start(LIMITS);
    let answer = well(&server).await;
    let odd_stream = |stream| opened(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers(&[])));
    let header = |fields: &[u8]| opened(&frame(HEADERS, END_HEADERS | END_STREAM, 1, fields));
    let open = frame(HEADERS, END_HEADERS, 1, &headers(&[]));
    let big = [headers(&[]), field("x-more", &"a".repeat(100)).repeat(10_000)].concat();
    let continued = |parts: Vec<Vec<u8>>| {
        let parts = parts.into_iter().flat_map(|part| frame(CONTINUATION, 0, 1, &part));
        opened(&[frame(HEADERS, END_STREAM, 1, &headers(&[])), parts.collect()].concat())
    };
    let storm = |streams: u32| -> Vec<u8> {
        let stream = |at| [frame(HEADERS, END_HEADERS, at, &headers(&[])), frame(RST_STREAM, 0, at, &[0, 0, 0, 8])];
        opened(&(0..streams).flat_map(|at| stream(2 * at + 1).concat()).collect::<Vec<_>>())
    };
    let rows: Vec<(&str, Vec<u8>, &[Did])> = vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &[Did::Answer]),
        ("HTTP/1.1 that is not", b"POST\x01 / HTTP/1.1\r\n: \r\n\r\n".to_vec(), &[Did::End, Did::Answer]),
        ("garbage", (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect(), &[Did::End]),
        ("a TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".repeat(9), &[Did::End]),
        ("half a preface", PREFACE[..10].to_vec(), &[Did::End, Did::Nothing]),
        ("no settings", [PREFACE, &open].concat(), &[Did::End, Did::Nothing]),
        ("a frame of 16 MB", opened(&[0xFF, 0xFF, 0xFF, DATA, 0, 0, 0, 0, 1]), &[Did::End]),
        ("an unknown frame", opened(&frame(0xEE, 0xFF, 7, b"what?")), &[Did::Nothing]),
        ("data before headers", opened(&frame(DATA, 0, 1, b"data")), &[Did::End]),
        ("a server's stream", odd_stream(2), &[Did::End]),
        ("stream 0", odd_stream(0), &[Did::End]),
        ("settings of 5 bytes", opened(&frame(SETTINGS, 0, 0, &[0; 5])), &[Did::End]),
        ("a window of 2^32 - 1", opened(&frame(SETTINGS, 0, 0, &[0, 4, 255, 255, 255, 255])), &[Did::End]),
        ("a window that grows by 0", opened(&frame(WINDOW_UPDATE, 0, 0, &[0; 4])), &[Did::End]),
        ("a window that overflows", opened(&frame(WINDOW_UPDATE, 0, 0, &[127, 255, 255, 255])), &[Did::End]),
        ("HPACK of nothing", header(&[0xFF; 32]), &[Did::End]),
        ("an index beyond the table", header(&[0xBF + 60, 0xFF, 0x7F]), &[Did::End]),
        ("no method", header(&field(":path", "/")), &[Did::Answer, Did::End]),
        ("capital letters", header(&[headers(&[]), field("X-BAD", "1")].concat()), &[Did::Answer, Did::End]),
        ("no gRPC", header(&[field(":method", "GET"), headers(&[])].concat()), &[Did::Answer, Did::End]),
        ("a message of 4 GB", opened(&call(1, &[0, 255, 255, 255, 255, 1])), &[Did::Answer]),
        ("a message that is cut", opened(&call(1, &[0, 0, 0, 0, 9, 1])), &[Did::Answer]),
        ("a compression not told", opened(&call(1, &[1, 0, 0, 0, 1, 1])), &[Did::Answer]),
        ("a flag that is none", opened(&call(1, &[7, 0, 0, 0, 0])), &[Did::Answer]),
        ("no message", opened(&call(1, &[])), &[Did::Answer]),
        ("headers of 1 MB", continued(big.chunks(16_000).map(<[u8]>::to_vec).collect()), &[Did::End, Did::Answer]),
        ("continued for ever", continued(vec![vec![]; 20_000]), &[Did::End]),
        ("4,000 streams reset", storm(4_000), &[Did::End, Did::Answer, Did::Nothing]),
        ("20,000 settings", opened(&frame(SETTINGS, 0, 0, &[]).repeat(20_000)), &[Did::Nothing, Did::End]),
        ("20,000 pings", opened(&frame(PING, 0, 0, &[1; 8]).repeat(20_000)), &[Did::Nothing, Did::End]),
        (
            "20,000 empty data",
            opened(&[open, frame(DATA, 0, 1, &[]).repeat(20_000)].concat()),
            &[Did::Nothing, Did::End],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows {
        let did = did(&server, &bytes, expected).await;
        if !expected.contains(&did) {
            wrong.push(format!("{name}: not {expected:?} but {did:?}"));
        }
        assert_eq!(well(&server).await, answer, "after {name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
