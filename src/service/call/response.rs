//! The answer's body as it goes: in pieces, counted until they are written, ended by a status whatever happens.
//!
//! HTTP/2 asks for the next piece when the client has room for it. So a large answer goes out in small pieces: what a
//! slow reader leaves unread stays here, where the call's end can drop it, and the connection knows since when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::{Guard, panicked};

/// The largest piece, bytes: what a client has room for if it says nothing else.
const PIECE: usize = 64 << 10;

/// An answer's body, guarded.
pub(super) struct Answered {
    body: Body,
    guard: Guard,
    /// Read, not sent.
    rest: Bytes,
    ended: bool,
}

impl Answered {
    pub(super) fn new(body: Body, guard: Guard) -> Self {
        Self { body, guard, rest: Bytes::new(), ended: false }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        self.unread(true);
        Frame::data(self.rest.split_to(PIECE.min(self.rest.len())))
    }

    fn unread(&self, waits: bool) {
        if let Some(open) = &self.guard.open {
            open.unread(waits);
        }
    }

    /// Ends with `status`, whatever was still to come.
    fn last_word(&mut self, status: &Status) -> Frame<Bytes> {
        (self.body, self.rest, self.ended) = (Body::empty(), Bytes::new(), true);
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            tracing::error!("a status does not fit into trailers");
        }
        Frame::trailers(trailers)
    }

    fn passed(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => {
                self.rest = self.guard.budget.count(data);
                self.piece()
            }
            Err(trailers) => {
                self.ended = true;
                trailers
            }
        }
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        // Who asks for more has taken what there was.
        this.unread(false);
        if let Poll::Ready(status) = this.guard.cut.as_mut().poll(context) {
            return Poll::Ready(Some(Ok(this.last_word(&status))));
        }
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        let frame = match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.body).poll_frame(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(frame)))) => this.passed(frame),
            Ok(Poll::Ready(Some(Err(status)))) => this.last_word(&status),
            Ok(Poll::Ready(None)) => this.last_word(&Status::unknown("the answer ended without a status")),
            Err(_) => this.last_word(&panicked(this.guard.id.as_ref())),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
