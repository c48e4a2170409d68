//! What was sent to a session and waits: its order, its bounds, what is dropped, and how much more may be sent. A plain rule
//! without a clock or a task.
//!
//! A frame's credit comes back when the frame is understood; where frames may be dropped, as soon as it has come, because
//! room is always made for the next.

use std::collections::VecDeque;

use super::event::{DropReason, Dropped, Span};
use super::session::Unsent;
use super::spec::{Drops, Frame, Input};
use crate::settings::WatchSettings;

/// What waits for a session.
#[derive(Debug)]
pub struct Inbox {
    drops: Drops,
    frames_max: usize,
    bytes_max: usize,
    requests_max: usize,
    /// Frames and requests in the order they came.
    waiting: VecDeque<Input>,
    /// Of them: frames, their bytes, and everything else.
    frames: usize,
    bytes: usize,
    requests: usize,
    /// Number and time of the frames that were taken and of which it is not known what becomes of them.
    under_way: VecDeque<[u64; 2]>,
    /// Frames of which it is known, and that are not understood yet.
    known: usize,
    /// The highest number that has come.
    seq: Option<u64>,
    /// Frames that were sent, and those that may have been.
    sent: u64,
    granted: u64,
    /// Frames that came, duplicates not counted, and those of them that were dropped.
    came: u64,
    dropped: u64,
    notice: Option<Dropped>,
    closed: bool,
}

impl Inbox {
    /// An empty one.
    pub fn new(drops: Drops, bounds: &WatchSettings) -> Self {
        Self {
            drops,
            frames_max: bounds.frames_waiting_max,
            bytes_max: bounds.bytes_waiting_max,
            requests_max: bounds.requests_waiting_max,
            waiting: VecDeque::new(),
            frames: 0,
            bytes: 0,
            requests: 0,
            under_way: VecDeque::new(),
            known: 0,
            seq: None,
            sent: 0,
            granted: bounds.frames_waiting_max as u64,
            came: 0,
            dropped: 0,
            notice: None,
            closed: false,
        }
    }

    /// Takes what was sent, or gives it back if there is no room. Nothing can be sent after [`Input::Stop`].
    pub fn offer(&mut self, input: Input) -> Result<(), (Unsent, Input)> {
        match input {
            _ if self.closed => return Err((Unsent::Ended, input)),
            Input::Frame(frame) => return self.offer_frame(frame),
            Input::Stop => self.closed = true,
            Input::Update { .. } | Input::Flush | Input::Speak { .. } if self.requests >= self.requests_max => {
                return Err((Unsent::Full, input));
            }
            Input::Update { .. } | Input::Flush | Input::Speak { .. } => self.requests += 1,
        }
        self.waiting.push_back(input);
        Ok(())
    }

    fn offer_frame(&mut self, frame: Frame) -> Result<(), (Unsent, Input)> {
        if self.seq.is_some_and(|seq| frame.seq <= seq) {
            // A duplicate.
            self.sent += 1;
            self.granted += 1;
            return Ok(());
        }
        let bytes = frame.bytes();
        match self.drops {
            Drops::Wait if self.sent >= self.granted || !self.holds(bytes) => {
                return Err((Unsent::Full, Input::Frame(frame)));
            }
            Drops::Wait => {}
            Drops::Oldest => {
                while self.frames >= self.frames_max || !self.holds(bytes) {
                    self.drop_oldest();
                }
                self.granted += 1;
            }
            Drops::LatestOnly => {
                while self.frames > 0 {
                    self.drop_oldest();
                }
                self.granted += 1;
            }
        }
        self.seq = Some(frame.seq);
        self.sent += 1;
        self.came += 1;
        self.frames += 1;
        self.bytes += bytes;
        self.waiting.push_back(Input::Frame(frame));
        Ok(())
    }

    /// Whether a frame of so many bytes may wait beside the others; alone it always may.
    fn holds(&self, bytes: usize) -> bool {
        self.frames == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max
    }

    fn drop_oldest(&mut self) {
        let oldest = self.waiting.iter().position(|waiting| matches!(waiting, Input::Frame(_)));
        if let Some(Input::Frame(frame)) = oldest.and_then(|at| self.waiting.remove(at)) {
            self.frames -= 1;
            self.bytes -= frame.bytes();
            self.note([frame.seq, frame.pts_ms()], DropReason::Behind);
        }
    }

    /// Adds a dropped frame to what is to be told.
    fn note(&mut self, [seq, ms]: [u64; 2], reason: DropReason) {
        self.dropped += 1;
        self.notice = Some(match self.notice {
            Some(Dropped { span: Span { seq: [first, _], ms: [start, end] }, frames, .. }) => {
                let span = Span { seq: [first, seq], ms: [start.min(ms), end.max(ms)] };
                Dropped { span, frames: frames + 1, reason }
            }
            None => Dropped { span: Span { seq: [seq; 2], ms: [ms; 2] }, frames: 1, reason },
        });
    }

    /// The next thing to be done; a frame is then under way until it is [`known`](Self::known) what becomes of it.
    pub fn take(&mut self) -> Option<Input> {
        let next = self.waiting.pop_front()?;
        match &next {
            Input::Frame(frame) => {
                self.frames -= 1;
                self.bytes -= frame.bytes();
                self.under_way.push_back([frame.seq, frame.pts_ms()]);
            }
            Input::Stop => {}
            Input::Update { .. } | Input::Flush | Input::Speak { .. } => self.requests -= 1,
        }
        Some(next)
    }

    /// What becomes of the frame that was taken first is known; the end does not drop it any more.
    pub fn known(&mut self) {
        self.known += usize::from(self.under_way.pop_front().is_some());
    }

    /// The frame that was known first is done with.
    pub fn understood(&mut self) {
        if self.known > 0 {
            self.known -= 1;
            self.granted += u64::from(self.drops == Drops::Wait);
        }
    }

    /// The frames that were dropped since this was last asked, as one notice.
    pub fn take_notice(&mut self) -> Option<Dropped> {
        self.notice.take()
    }

    /// Ends it: what is under way or waits is dropped, and told as one notice; nothing can be sent any more.
    pub fn end(&mut self) -> Option<Dropped> {
        self.closed = true;
        let waiting = std::mem::take(&mut self.waiting).into_iter().filter_map(|waiting| match waiting {
            Input::Frame(frame) => Some([frame.seq, frame.pts_ms()]),
            _ => None,
        });
        let left: Vec<[u64; 2]> = std::mem::take(&mut self.under_way).into_iter().chain(waiting).collect();
        (self.frames, self.bytes, self.requests, self.notice) = (0, 0, 0, None);
        left.into_iter().for_each(|frame| self.note(frame, DropReason::Ended));
        self.notice.take()
    }

    /// How many frames may have been sent in all.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// The highest number of a frame that has come.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// Frames that came, duplicates not counted.
    pub fn came(&self) -> u64 {
        self.came
    }

    /// Frames that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests;
