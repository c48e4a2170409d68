//! A session's inputs and events in the words of the protocol.

use crate::embedding::{Dtype, Embedding, Space};
use crate::engine::{Choice, EngineError, Manner, MediaFrame, PixelOrder};
use crate::segment::Trigger as Rule;
use crate::service::proto;
use crate::service::proto::watch_request::Message;
use crate::watch::{
    Decode, DropReason, Dropped, Drops, Finished, Frame, FrameFailed, Query, Seen, Span, Spec, Spoken, Stats, Trigger,
};

use super::super::{choice, timing};

/// The first message of a session.
pub(super) fn start(spec: &Spec, want_embeddings: bool) -> proto::WatchStart {
    let window = proto::WatchWindow {
        window_ms: spec.view.window_ms,
        stride_ms: spec.view.stride_ms,
        // More than fit into the field are more than any server allows.
        frames: spec.view.frames.map(|frames| u32::try_from(frames).unwrap_or(u32::MAX)),
        still: Some(spec.view.still),
    };
    let drop = match spec.drops {
        Drops::Wait => proto::DropPolicy::Wait,
        Drops::Oldest => proto::DropPolicy::Oldest,
        Drops::LatestOnly => proto::DropPolicy::LatestOnly,
    };
    proto::WatchStart {
        queries: spec.queries.iter().map(query).collect(),
        window: Some(window),
        decode: Some(decode(&spec.decode)),
        drop: drop.into(),
        want_embeddings,
        ..Default::default()
    }
}

/// How the decoder speaks is the server's choice: the command only ever asks for its default.
pub(super) fn query(query: &Query) -> proto::WatchQuery {
    let candidates = match &query.manner {
        Some(Manner::Choose(candidates)) => candidates.clone(),
        Some(Manner::Speak(_)) | None => vec![],
    };
    proto::WatchQuery { question: query.question.clone(), candidates, generation: None }
}

fn decode(decode: &Decode) -> proto::DecodePolicy {
    match decode {
        Decode::Never => proto::DecodePolicy { mode: proto::DecodeMode::Never.into(), ..Default::default() },
        Decode::Uniform { every_ms } => proto::DecodePolicy {
            mode: proto::DecodeMode::Uniform.into(),
            uniform_ms: Some(*every_ms),
            ..Default::default()
        },
        Decode::Drift(policy) => proto::DecodePolicy {
            mode: proto::DecodeMode::Drift.into(),
            threshold: Some(policy.threshold),
            calm: Some(policy.calm.unwrap_or(0.0)),
            smoothing: Some(policy.smoothing),
            unsettled_max_ms: Some(policy.unsettled_max_ms),
            gap_min_ms: Some(policy.gap_min_ms),
            silence_max_ms: Some(policy.silence_max_ms.unwrap_or(0)),
            per_minute_max: Some(policy.per_minute_max.unwrap_or(0)),
            uniform_ms: None,
        },
    }
}

/// None of a picture that there is none of.
pub(super) fn frame(frame: Frame) -> Option<Message> {
    let Frame { seq, picture, held: _ } = frame;
    let picture = match picture.ok()? {
        MediaFrame::Encoded { bytes, pts_ms } => {
            proto::Frame { data: bytes, format: proto::FrameFormat::Encoded.into(), width: 0, height: 0, pts_ms }
        }
        MediaFrame::Raw { width, height, order, pixels, pts_ms } => {
            let format = match order {
                PixelOrder::Rgb => proto::FrameFormat::Rgb8,
                PixelOrder::Bgr => proto::FrameFormat::Bgr8,
                PixelOrder::Gray => proto::FrameFormat::Gray8,
            };
            proto::Frame { data: pixels, format: format.into(), width, height, pts_ms }
        }
    };
    Some(Message::Frame(proto::WatchFrame { seq, frame: Some(picture) }))
}

pub(super) fn speak(query: usize, embedding: &Embedding, range_ms: [u64; 2]) -> Message {
    let [start_ms, end_ms] = range_ms;
    let values = proto::Embedding {
        data: embedding.to_bytes(Dtype::F32),
        dtype: proto::Dtype::F32.into(),
        dimensions: embedding.values.len() as u32,
        space: embedding.space.to_string(),
    };
    Message::Speak(proto::Speak { query: query as u32, embedding: Some(values), start_ms, end_ms })
}

pub(super) fn seen(seen: proto::EmbeddingEvent) -> anyhow::Result<Seen> {
    let embedding = match seen.embedding {
        Some(found) => {
            let dimensions = found.dimensions as usize;
            Embedding::from_bytes(&found.data, Dtype::F32, dimensions, found.space.parse()?)?
        }
        // It was not asked for.
        None => Embedding { values: vec![], space: Space::from_bytes([0; 8]) },
    };
    let (span, timing) = (span(seen.span), timing(seen.timing.unwrap_or_default()));
    Ok(Seen { query: seen.query as usize, span, drift: seen.drift, repeated: seen.repeated, embedding, timing })
}

pub(super) fn spoken(spoken: proto::DecodeEvent) -> Spoken {
    use proto::DecodeTrigger as Told;
    let trigger = match spoken.trigger() {
        Told::First => Trigger::Rule(Rule::First),
        // What this program does not know yet is a kind of change.
        Told::Drift | Told::Unspecified => Trigger::Rule(Rule::Drift),
        Told::MaxSilence => Trigger::Rule(Rule::MaxSilence),
        Told::QueryChanged => Trigger::QueryChanged,
        Told::Flush => Trigger::Flush,
        Told::Uniform => Trigger::Uniform,
        Told::Speak => Trigger::Speak,
    };
    let choices: Vec<Choice> = spoken.choices.into_iter().map(choice).collect();
    let (segment, timing) = (span(spoken.segment), timing(spoken.timing.unwrap_or_default()));
    Spoken { query: spoken.query as usize, text: spoken.text, choices, trigger, segment, drift: spoken.drift, timing }
}

pub(super) fn dropped(notice: proto::DropNotice) -> Dropped {
    let reason = match notice.reason() {
        proto::DropReason::Ended => DropReason::Ended,
        proto::DropReason::Behind | proto::DropReason::Unspecified => DropReason::Behind,
    };
    Dropped { span: span(notice.span), frames: notice.frames, reason }
}

pub(super) fn failed(failed: proto::FrameError) -> FrameFailed {
    let message = failed.error.map(|error| error.message).unwrap_or_default();
    FrameFailed { seq: failed.seq, error: fault("server", message) }
}

pub(super) fn finished(finished: proto::WatchFinished) -> Finished {
    let told = finished.stats.unwrap_or_default();
    let stats = Stats {
        frames: told.frames,
        frames_dropped: told.frames_dropped,
        frames_failed: told.frames_failed,
        frames_still: told.frames_still,
        frames_encoded: told.frames_encoded,
        frames_skipped: told.frames_skipped,
        windows: told.windows,
        windows_repeated: told.windows_repeated,
        embeddings: told.embeddings,
        decodes: told.decodes,
        decodes_uniform_1hz: told.decodes_uniform_1hz,
        duration_ms: told.duration_ms,
        vision_ms: told.vision_ms,
        predictor_ms: told.predictor_ms,
        words_ms: told.words_ms,
    };
    Finished { stats, error: None }
}

/// An error that came as words, with who said them.
pub(super) fn fault(subject: &str, problem: String) -> EngineError {
    EngineError::Unfit { subject: subject.into(), problem }
}

fn span(span: Option<proto::Span>) -> Span {
    let span = span.unwrap_or_default();
    Span { seq: [span.first_seq, span.last_seq], ms: [span.start_ms, span.end_ms] }
}
