//! What is said over one session on a server: credits, what may have been lost when a call broke, which events are new.
//! Pure: it is told what came and says what is next, and knows no calls.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::convert;
use crate::service::proto;
use crate::service::proto::watch_request::Message;
use crate::service::proto::watch_response::Message as Told;
use crate::watch::{Event, Finished, Input, Numbered};

/// Inputs that wait to be sent.
const WAITING_MAX: usize = 2;

/// What a message of the server was.
pub(super) enum Heard {
    Word,
    /// Everything has been told but the status.
    Last(Finished),
}

/// The state of a session on a server, as its client knows it.
pub(super) struct Conversation {
    start: proto::WatchStart,
    token: Option<String>,
    /// How often it was begun or taken up.
    begun: u64,
    /// The server has said that it has begun in this call.
    ready: bool,
    /// Frames that may be sent now.
    credits: u64,
    /// Frames that may be on their way at once, as was said first: earlier ones have come for certain.
    credits_first: u64,
    /// What is to be sent.
    waiting: VecDeque<Message>,
    /// What was sent and may not have come, in order.
    uncertain: VecDeque<Message>,
    /// The session is to end: nothing is taken any more.
    stopped: bool,
    /// The server is about to end, and takes no frames.
    leaving: bool,
    /// Number of the last event that came, and of the last one that was acknowledged.
    heard: u64,
    acknowledged: u64,
    told: VecDeque<Arc<Numbered>>,
}

impl Conversation {
    /// One that begins with this message.
    pub fn new(start: proto::WatchStart) -> Self {
        Self {
            start,
            token: None,
            begun: 0,
            ready: false,
            credits: 0,
            credits_first: 0,
            waiting: VecDeque::new(),
            uncertain: VecDeque::new(),
            stopped: false,
            leaving: false,
            heard: 0,
            acknowledged: 0,
            told: VecDeque::new(),
        }
    }

    /// The first message of a call: begins the session, or takes it up again.
    pub fn begin(&mut self) -> proto::WatchRequest {
        // Until the server says that it has begun, nothing else may be sent.
        (self.ready, self.credits) = (false, 0);
        let start = match &self.token {
            None => self.start.clone(),
            Some(token) => {
                // That is an acknowledgement too.
                self.acknowledged = self.heard;
                proto::WatchStart { resume_token: token.clone(), resume_after: self.heard, ..Default::default() }
            }
        };
        proto::WatchRequest { message: Some(Message::Start(start)) }
    }

    /// How often it was begun or taken up.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether there is anything to take up.
    pub fn can_resume(&self) -> bool {
        self.token.is_some()
    }

    /// Whether there is room for an input.
    pub fn wants_input(&self) -> bool {
        !self.stopped && self.waiting.len() < WAITING_MAX
    }

    /// Takes an input.
    pub fn take(&mut self, input: Input) {
        if self.stopped {
            return;
        }
        let message = match input {
            // It could not be looked at any more.
            Input::Frame(_) if self.leaving => return,
            Input::Frame(frame) => match convert::frame(frame) {
                Some(message) => message,
                None => return,
            },
            Input::Update { query, to } => {
                Message::UpdateQuery(proto::UpdateQuery { query: query as u32, to: Some(convert::query(&to)) })
            }
            Input::Flush => Message::Flush(proto::WatchFlush {}),
            Input::Speak { query, embedding, range_ms } => convert::speak(query, &embedding, range_ms),
            Input::Stop => Message::Stop(proto::WatchStop {}),
        };
        self.stopped = matches!(message, Message::Stop(_));
        self.waiting.push_back(message);
    }

    /// Whether there is something to send now.
    pub fn speaks(&self) -> bool {
        self.ready && (self.heard > self.acknowledged || self.next_is_free())
    }

    fn next_is_free(&self) -> bool {
        match self.waiting.front() {
            None => false,
            Some(Message::Frame(_)) => self.credits > 0,
            Some(_) => true,
        }
    }

    /// What is to be sent now.
    pub fn speak(&mut self) -> Option<proto::WatchRequest> {
        if !self.ready {
            return None;
        }
        let message = if self.heard > self.acknowledged {
            self.acknowledged = self.heard;
            Message::Ack(proto::WatchAck { event: self.heard })
        } else if self.next_is_free() {
            let message = self.waiting.pop_front()?;
            if matches!(message, Message::Frame(_)) {
                self.credits -= 1;
            }
            self.uncertain.push_back(message.clone());
            self.forget();
            message
        } else {
            return None;
        };
        Some(proto::WatchRequest { message: Some(message) })
    }

    /// Lets go what has come for certain: everything up to the last frame but as many as may be on their way.
    fn forget(&mut self) {
        let mut frames = self.uncertain.iter().filter(|message| matches!(message, Message::Frame(_))).count() as u64;
        while frames > self.credits_first {
            if let Some(Message::Frame(_)) = self.uncertain.pop_front() {
                frames -= 1;
            }
        }
    }

    /// Whether there are events that nobody has been told.
    pub fn tells(&self) -> bool {
        !self.told.is_empty()
    }

    /// The next event.
    pub fn tell(&mut self) -> Option<Arc<Numbered>> {
        self.told.pop_front()
    }

    /// Takes a message of the server. Fails on one that makes no sense.
    pub fn hear(&mut self, response: proto::WatchResponse) -> anyhow::Result<Heard> {
        let event = match response.message.context("server: a message says nothing")? {
            Told::Started(started) => return self.started(started).map(|()| Heard::Word),
            Told::Credit(credit) => {
                self.credits = self.credits.saturating_add(credit.frames.into());
                return Ok(Heard::Word);
            }
            Told::GoAway(_) => {
                self.leave();
                return Ok(Heard::Word);
            }
            Told::Finished(finished) => return Ok(Heard::Last(convert::finished(finished))),
            Told::Embedding(seen) => self.known(seen.query).and_then(|()| convert::seen(seen)).map(Event::Seen)?,
            Told::Decode(spoken) => self.known(spoken.query).map(|()| Event::Spoken(convert::spoken(spoken)))?,
            Told::Drop(notice) => Event::Dropped(convert::dropped(notice)),
            Told::FrameError(failed) => Event::Failed(convert::failed(failed)),
        };
        // What is sent again was heard before.
        if response.event > self.heard {
            self.heard = response.event;
            self.told.push_back(Arc::new(Numbered { number: response.event, event }));
        }
        Ok(Heard::Word)
    }

    /// Whoever hears of a query looks it up: there must be one of that number.
    fn known(&self, query: u32) -> anyhow::Result<()> {
        let queries = self.start.queries.len();
        ensure!((query as usize) < queries, "server: tells of query {query}, there are {queries}");
        Ok(())
    }

    /// The session is over.
    pub fn finish(&mut self, finished: Finished) {
        self.heard += 1;
        self.told.push_back(Arc::new(Numbered { number: self.heard, event: Event::Finished(finished) }));
    }

    /// The server ends: what has come is finished, so nothing else is sent but that this is all.
    fn leave(&mut self) {
        if !self.leaving {
            self.leaving = true;
            self.waiting.retain(|message| !matches!(message, Message::Frame(_)));
            self.take(Input::Stop);
        }
    }

    fn started(&mut self, started: proto::WatchStarted) -> anyhow::Result<()> {
        ensure!(!self.ready, "server: the session began twice in one call");
        self.ready = true;
        self.begun += 1;
        self.credits = started.credits.into();
        if self.token.is_none() {
            self.credits_first = self.credits.max(1);
        }
        self.token = Some(started.resume_token).filter(|token| !token.is_empty());
        // All messages come in order: with a frame everything before it has come.
        let come = |message: &Message| match (message, started.seq) {
            (Message::Frame(frame), Some(seq)) => frame.seq <= seq,
            _ => false,
        };
        let lost = self.uncertain.iter().rposition(come).map_or(0, |last| last + 1);
        self.uncertain.drain(..lost);
        while let Some(message) = self.uncertain.pop_back() {
            self.waiting.push_front(message);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MediaFrame;
    use crate::watch::Frame;

    fn frame(seq: u64) -> Input {
        Input::Frame(Frame { seq, picture: Ok(MediaFrame::Encoded { bytes: vec![1], pts_ms: seq }), held: None })
    }

    fn told(event: u64, message: Told) -> proto::WatchResponse {
        proto::WatchResponse { event, message: Some(message) }
    }

    fn started(credits: u32, seq: Option<u64>) -> proto::WatchResponse {
        let resume_token = "secret".into();
        told(0, Told::Started(proto::WatchStarted { resume_token, credits, seq, ..Default::default() }))
    }

    fn credit(frames: u32) -> proto::WatchResponse {
        told(0, Told::Credit(proto::WatchCredit { frames }))
    }

    fn decode(event: u64) -> proto::WatchResponse {
        told(event, Told::Decode(proto::DecodeEvent { text: event.to_string(), ..Default::default() }))
    }

    /// Everything that is said now: the numbers of frames, and what else by its letter.
    fn said(conversation: &mut Conversation) -> String {
        let mut said = String::new();
        while conversation.speaks() {
            said += &match conversation.speak().and_then(|request| request.message) {
                Some(Message::Frame(frame)) => frame.seq.to_string(),
                Some(Message::Ack(ack)) => format!("a{}", ack.event),
                Some(Message::Flush(_)) => "f".into(),
                Some(Message::Stop(_)) => "s".into(),
                other => panic!("{other:?}"),
            };
        }
        said
    }

    fn begun(credits: u32) -> Conversation {
        let queries = vec![proto::WatchQuery::default()];
        let mut conversation = Conversation::new(proto::WatchStart { queries, ..Default::default() });
        assert!(!conversation.can_resume());
        conversation.begin();
        conversation.take(frame(1));
        assert!(!conversation.speaks(), "not before the session has begun");
        conversation.hear(started(credits, None)).expect("sound");
        assert_eq!(said(&mut conversation), if credits > 0 { "1" } else { "" });
        conversation
    }

    fn hear(conversation: &mut Conversation, responses: impl IntoIterator<Item = proto::WatchResponse>) {
        for response in responses {
            conversation.hear(response).expect("sound");
        }
    }

    #[test]
    fn frames_take_credits_and_wait_for_more() {
        let mut one = begun(2);
        one.take(frame(2));
        one.take(frame(3));
        assert_eq!(said(&mut one), "2");
        one.take(Input::Flush);
        assert!(!one.wants_input(), "little is held");
        assert_eq!(said(&mut one), "", "a flush is about the frames before it");
        hear(&mut one, [credit(1)]);
        assert_eq!(said(&mut one), "3f");
        one.take(Input::Stop);
        assert!(!one.wants_input());
        one.take(frame(4));
        assert_eq!(said(&mut one), "s");
    }

    #[test]
    fn events_are_told_once_and_acknowledged() {
        let mut one = begun(2);
        hear(&mut one, [decode(1), decode(2), decode(2), decode(1)]);
        assert_eq!(said(&mut one), "a2");
        let numbers: Vec<u64> = std::iter::from_fn(|| one.tell().map(|event| event.number)).collect();
        assert_eq!(numbers, [1, 2]);
        let Some(Message::Start(start)) = one.begin().message else { panic!("a start") };
        assert_eq!((&*start.resume_token, start.resume_after), ("secret", 2));
        hear(&mut one, [started(2, Some(1)), decode(2), decode(3)]);
        assert_eq!(one.tell().map(|event| event.number), Some(3));
        assert!(one.tell().is_none());
    }

    #[test]
    fn what_was_lost_is_said_again_in_its_order() {
        let mut one = begun(4);
        for input in [frame(2), Input::Flush, frame(3)] {
            one.take(input);
            said(&mut one);
        }
        one.begin();
        one.take(Input::Stop);
        assert_eq!(said(&mut one), "", "not before the session is taken up");
        hear(&mut one, [started(2, Some(1))]);
        assert_eq!(said(&mut one), "2f3s");
        // Nothing had come at all, and then everything.
        one.begin();
        hear(&mut one, [started(4, None)]);
        assert_eq!(said(&mut one), "2f3s", "what had come before does not go away");
        one.begin();
        hear(&mut one, [started(4, Some(3))]);
        assert_eq!(said(&mut one), "s");
        assert_eq!(one.begun(), 4);
    }

    #[test]
    fn what_has_come_for_certain_is_not_held() {
        let mut one = begun(2);
        for seq in 2..50 {
            one.take(frame(seq));
            hear(&mut one, [credit(1)]);
            said(&mut one);
        }
        assert_eq!(one.uncertain.len(), 2);
    }

    #[test]
    fn a_server_that_leaves_is_sent_nothing_more() {
        let mut one = begun(1);
        one.take(frame(2));
        hear(&mut one, [told(0, Told::GoAway(proto::GoAway::default()))]);
        assert_eq!(said(&mut one), "s");
        assert!(!one.wants_input());
        let last = one.hear(told(3, Told::Finished(proto::WatchFinished::default()))).expect("sound");
        let Heard::Last(finished) = last else { panic!("the last word") };
        one.finish(finished);
        assert!(matches!(one.tell().expect("an event").event, Event::Finished(_)));
    }

    #[test]
    fn what_makes_no_sense_is_a_fault() {
        let mut one = begun(1);
        assert!(one.hear(started(1, None)).is_err(), "twice in one call");
        assert!(one.hear(proto::WatchResponse::default()).is_err());
        let other = proto::DecodeEvent { query: u32::MAX, ..Default::default() };
        assert!(one.hear(told(1, Told::Decode(other))).is_err(), "no such query");
        let torn = proto::Embedding { dimensions: 3, ..Default::default() };
        let torn = proto::EmbeddingEvent { embedding: Some(torn), ..Default::default() };
        assert!(one.hear(told(1, Told::Embedding(torn))).is_err());
    }
}
