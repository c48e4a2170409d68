//! From a session's events to protobuf.

use super::Terms;
use super::policy::policy;
use crate::segment::Trigger as Rule;
use crate::service::convert::Output;
use crate::service::convert::results::{choice, embedding_of, timing};
use crate::service::proto::watch_response::Message as Told;
use crate::service::proto::{
    self, DecodeEvent, DecodeTrigger, DropNotice, EmbeddingEvent, FrameError, WatchFinished, WatchResponse,
    WatchStarted, WatchStats, WatchWindow,
};
use crate::service::status::item_status;
use crate::watch::{DropReason, Dropped, Event, FrameFailed, Numbered, Seen, Span, Spoken, Stats, Trigger, View};

/// The session as it is: with so many credits, and frames up to number `seq`.
pub(in crate::service) fn started(terms: &Terms, token: &str, credits: u32, seq: Option<u64>) -> Told {
    let View { window_ms, stride_ms, frames, still } = terms.view;
    let window = WatchWindow { window_ms, stride_ms, frames: frames.map(|frames| frames as u32), still: Some(still) };
    Told::Started(WatchStarted {
        model: terms.model.clone(),
        resume_token: token.into(),
        credits,
        seq,
        space: terms.space.to_string(),
        window: Some(window),
        decode: Some(policy(terms.decode)),
    })
}

/// An event; its embedding only if there is an output for it.
pub(in crate::service) fn event(Numbered { number, event }: &Numbered, output: Option<Output>) -> WatchResponse {
    let told = match event {
        Event::Seen(seen) => Told::Embedding(looked_at(seen, output)),
        Event::Spoken(spoken) => Told::Decode(put_into_words(spoken)),
        Event::Dropped(Dropped { span, frames, reason }) => {
            let reason = match reason {
                DropReason::Behind => proto::DropReason::Behind,
                DropReason::Ended => proto::DropReason::Ended,
            };
            Told::Drop(DropNotice { span: Some(span_of(*span)), frames: *frames, reason: reason as i32 })
        }
        Event::Failed(FrameFailed { seq, error }) => {
            Told::FrameError(FrameError { seq: *seq, error: Some(item_status(error.clone())) })
        }
        Event::Finished(finished) => Told::Finished(WatchFinished { stats: Some(stats(&finished.stats)) }),
    };
    WatchResponse { event: *number, message: Some(told) }
}

fn looked_at(seen: &Seen, output: Option<Output>) -> EmbeddingEvent {
    EmbeddingEvent {
        query: seen.query as u32,
        span: Some(span_of(seen.span)),
        drift: seen.drift,
        repeated: seen.repeated,
        embedding: output.map(|output| embedding_of(&seen.embedding, output)),
        timing: Some(timing(seen.timing)),
    }
}

fn put_into_words(spoken: &Spoken) -> DecodeEvent {
    let trigger = match spoken.trigger {
        Trigger::Rule(Rule::First) => DecodeTrigger::First,
        Trigger::Rule(Rule::Drift) => DecodeTrigger::Drift,
        Trigger::Rule(Rule::MaxSilence) => DecodeTrigger::MaxSilence,
        Trigger::QueryChanged => DecodeTrigger::QueryChanged,
        Trigger::Flush => DecodeTrigger::Flush,
        Trigger::Uniform => DecodeTrigger::Uniform,
        Trigger::Speak => DecodeTrigger::Speak,
    };
    DecodeEvent {
        query: spoken.query as u32,
        text: spoken.text.clone(),
        choices: spoken.choices.iter().cloned().map(choice).collect(),
        trigger: trigger as i32,
        segment: Some(span_of(spoken.segment)),
        drift: spoken.drift,
        timing: Some(timing(spoken.timing)),
    }
}

fn span_of(Span { seq, ms }: Span) -> proto::Span {
    proto::Span { first_seq: seq[0], last_seq: seq[1], start_ms: ms[0], end_ms: ms[1] }
}

fn stats(stats: &Stats) -> WatchStats {
    let Stats {
        frames,
        frames_dropped,
        frames_failed,
        frames_still,
        frames_encoded,
        frames_skipped,
        windows,
        windows_repeated,
        embeddings,
        decodes,
        decodes_uniform_1hz,
        duration_ms,
        vision_ms,
        predictor_ms,
        words_ms,
    } = *stats;
    WatchStats {
        frames,
        frames_dropped,
        frames_failed,
        frames_still,
        frames_encoded,
        frames_skipped,
        windows,
        windows_repeated,
        embeddings,
        decodes,
        decodes_uniform_1hz,
        duration_ms,
        vision_ms,
        predictor_ms,
        words_ms,
    }
}
