//! The request's body as it comes: each message is judged by its length before any of it is kept.
//!
//! gRPC frames a message by five bytes, a flag and the length. So a message that is too large, or for which there is no
//! room, is refused before it is read; and a body that never ends does not outlive its call.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::{Calls, Cut};
use crate::service::inflight::Allowance;
use crate::service::shutdown::{Phase, reached};
use crate::service::status::{draining, status, too_long, too_slow};

/// A request's body, counted.
pub(super) struct Received {
    body: Body,
    frames: Frames,
    judge: Judge,
    cut: Cut,
    /// Resolves when a stream that has nothing under way is told to end.
    farewell: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Runs while a message is under way.
    slow: Option<Pin<Box<Sleep>>>,
    failed: bool,
}

impl Received {
    pub(super) fn new(body: Body, calls: &Calls, path: &str, deadline: Option<Instant>, allowance: Allowance) -> Self {
        let (mut phase, quiet) = (calls.phase.clone(), calls.rules.drain_quiet);
        let (service, bytes_max) = calls.rules.message_bytes_max(path);
        let judge = Judge {
            allowance,
            service,
            bytes_max: bytes_max.min(calls.budget.max()),
            read_max: calls.rules.message_read_max,
        };
        let farewell = async move {
            reached(&mut phase, Phase::Refusing).await;
            tokio::time::sleep(quiet).await;
        };
        Self {
            body,
            frames: Frames::default(),
            judge,
            cut: calls.cut(deadline),
            farewell: Box::pin(farewell),
            slow: None,
            failed: false,
        }
    }

    /// Why nothing more may come, if so.
    fn ended(&mut self, context: &mut Context) -> Option<Status> {
        if let Poll::Ready(status) = self.cut.as_mut().poll(context) {
            return Some(status);
        }
        match &mut self.slow {
            None => self.farewell.as_mut().poll(context).is_ready().then(draining),
            Some(slow) => slow.as_mut().poll(context).is_ready().then(|| too_slow(self.judge.read_max.as_millis())),
        }
    }

    fn judged(&mut self, data: &[u8]) -> Result<(), Status> {
        let begun = self.frames.begun;
        self.frames.feed(data, |bytes| self.judge.message(bytes))?;
        if self.frames.between() {
            self.slow = None;
        } else if self.slow.is_none() || begun != self.frames.begun {
            self.slow = Some(Box::pin(tokio::time::sleep(self.judge.read_max)));
        }
        Ok(())
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        let outcome = match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(Ok(()), |data| this.judged(data)).map(|()| frame),
            Poll::Pending => match this.ended(context) {
                Some(status) => Err(status),
                None => return Poll::Pending,
            },
            ended => return ended,
        };
        this.failed = outcome.is_err();
        Poll::Ready(Some(outcome))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Decides about a message by its length.
struct Judge {
    allowance: Allowance,
    service: &'static str,
    bytes_max: usize,
    read_max: Duration,
}

impl Judge {
    fn message(&self, bytes: usize) -> Result<(), Status> {
        if bytes > self.bytes_max {
            return Err(too_long(bytes, self.bytes_max, self.service));
        }
        self.allowance.message(bytes).map_err(status)
    }
}

/// Where in gRPC's framing a body is.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 5],
    /// Bytes of the header that are there.
    headed: usize,
    /// Bytes of the message that are still to come.
    missing: usize,
    /// Messages begun so far.
    begun: u64,
}

impl Frames {
    /// Reads on; `judge` is told the length of each message before any of its bytes.
    fn feed<E>(&mut self, mut data: &[u8], mut judge: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        while !data.is_empty() {
            if self.missing > 0 {
                let read = self.missing.min(data.len());
                self.missing -= read;
                data = &data[read..];
                continue;
            }
            self.header[self.headed] = data[0];
            (self.headed, data) = (self.headed + 1, &data[1..]);
            if let (5, [_, length @ ..]) = (self.headed, self.header) {
                self.missing = u32::from_be_bytes(length) as usize;
                (self.headed, self.begun) = (0, self.begun + 1);
                judge(self.missing)?;
            }
        }
        Ok(())
    }

    /// Nothing is under way.
    fn between(&self) -> bool {
        self.missing == 0 && self.headed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_are_the_same_in_any_pieces(
            lengths in prop::collection::vec(0_usize..40, 0..8),
            pieces in prop::collection::vec(1_usize..17, 1..9),
        ) {
            let mut stream = Vec::new();
            for &length in &lengths {
                stream.push(0);
                stream.extend((length as u32).to_be_bytes());
                stream.extend(std::iter::repeat_n(0xff, length));
            }
            let (mut frames, mut seen, mut rest) = (Frames::default(), Vec::new(), &stream[..]);
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*piece));
                frames.feed(now, |length| { seen.push(length); Ok::<_, ()>(()) }).expect("all are allowed");
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(frames.between());
            prop_assert_eq!(frames.begun as usize, lengths.len());
            prop_assert_eq!(seen, lengths);
        }
    }

    #[test]
    fn a_message_is_judged_at_its_header() {
        let mut frames = Frames::default();
        assert_eq!(frames.feed(&[0, 0, 0, 1], |_| Err(())), Ok(()));
        assert!(!frames.between());
        assert_eq!(
            frames.feed(&[2], |length| if length == 258 { Err("at its last byte") } else { Ok(()) }),
            Err("at its last byte")
        );
    }
}
