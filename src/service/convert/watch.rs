//! What Watch's messages mean, and what is told of a session.

mod policy;
mod told;

#[cfg(test)]
mod tests;

use super::media::frame;
use super::{Checked, Output, count, generation, invalid, output, text};
use crate::embedding::{Dtype, Embedding, Space};
use crate::engine::{Engine, EngineError, Manner, MediaFrame};
use crate::service::proto::{self, Speak, WatchStart};
use crate::settings::Settings;
use crate::watch::{Decode, Drops, Held, Input, Query, Spec, View};
use policy::decode_of;

pub(in crate::service) use told::{event as watch_event, started as watch_started};

/// What holds for a whole session, as the service needs it while the model may go.
#[derive(Debug, Clone)]
pub(in crate::service) struct Terms {
    /// The model's name.
    pub model: String,
    /// The space of all embeddings.
    space: Space,
    dimensions: usize,
    /// Whether the model has one.
    decoder: bool,
    view: View,
    decode: Decode,
    /// How embeddings go out, if they are wanted.
    pub output: Option<Output>,
}

/// The token of the session that the first message takes up, and the event after which it goes on; none: it begins one.
pub(in crate::service) fn watch_resumption(start: &WatchStart) -> Checked<Option<(String, u64)>> {
    let WatchStart { resume_token, resume_after, .. } = start;
    let alone = WatchStart { resume_token: resume_token.clone(), resume_after: *resume_after, ..Default::default() };
    match resume_token.is_empty() {
        true if *resume_after != 0 => Err(invalid("resume_after", format!("is {resume_after}, needs resume_token"))),
        true => Ok(None),
        false if *start != alone => {
            Err(invalid("resume_token", "is set beside other fields: what was asked cannot be changed"))
        }
        false => Ok(Some((resume_token.clone(), *resume_after))),
    }
}

/// What a session of `engine`, which is served as `model`, is asked, and what holds for it. `held` counts the message's
/// bytes.
pub(in crate::service) fn watch_start(
    start: WatchStart,
    model: String,
    engine: &Engine,
    held: Held,
) -> Checked<(Spec, Terms)> {
    let settings = engine.settings();
    let WatchStart { queries, window, decode, drop, want_embeddings, output: asked, .. } = start;
    count("queries", queries.len(), 1, settings.watch.queries_max)?;
    let output = output(asked, engine.dimensions())?;
    let terms = Terms {
        model,
        space: engine.space(),
        dimensions: engine.dimensions(),
        decoder: engine.model().decoder.is_some(),
        view: view_of(window.unwrap_or_default(), settings).map_err(|error| error.within("window"))?,
        decode: decode_of(decode.unwrap_or_default()).map_err(|error| error.within("decode"))?,
        output: want_embeddings.then_some(output),
    };
    let query = |(at, query): (usize, proto::WatchQuery)| {
        let asked = query_of(query, &terms, settings, held.clone());
        asked.map_err(|error| error.within(&format!("queries[{at}]")))
    };
    let queries = queries.into_iter().enumerate().map(query).collect::<Checked<_>>()?;
    let drops = match proto::DropPolicy::try_from(drop) {
        Ok(proto::DropPolicy::Unspecified | proto::DropPolicy::Wait) => Drops::Wait,
        Ok(proto::DropPolicy::Oldest) => Drops::Oldest,
        Ok(proto::DropPolicy::LatestOnly) => Drops::LatestOnly,
        Err(_) => return Err(invalid("drop", format!("is {drop}, no such policy"))),
    };
    Ok((Spec { queries, view: terms.view, decode: terms.decode, drops }, terms))
}

/// The picture of a frame; what is wrong with it is told when its turn has come.
pub(in crate::service) fn watch_picture(picture: Option<proto::Frame>, settings: &Settings) -> Checked<MediaFrame> {
    let picture = picture.ok_or_else(|| invalid("frame", "is missing"))?;
    let (bytes, max) = (picture.data.len(), settings.media.bytes_max);
    let wrong = match bytes {
        0 => Some("is empty".into()),
        bytes if bytes > max => Some(format!("is {bytes} bytes, at most {max}")),
        _ => None,
    };
    let picture = wrong.map_or_else(|| frame(picture, settings), |problem| Err(invalid("data", problem)));
    picture.map_err(|error| error.within("frame"))
}

/// A changed query of a session that has `queries`, and its place among them.
pub(in crate::service) fn watch_update(
    proto::UpdateQuery { query, to }: proto::UpdateQuery,
    queries: usize,
    terms: &Terms,
    settings: &Settings,
    held: Held,
) -> Checked<(usize, Query)> {
    let at = query as usize;
    let last = queries.min(settings.watch.queries_max - 1);
    count("query", at, 0, last)?;
    let to = query_of(to.ok_or_else(|| invalid("to", "is missing"))?, terms, settings, held);
    let to = to.map_err(|error| error.within("to"))?;
    match to.manner {
        // As at the start.
        Some(Manner::Speak(_)) if !terms.decoder => {
            Err(EngineError::Missing { model: terms.model.clone(), part: "decoder" })
        }
        _ => Ok((at, to)),
    }
}

/// An embedding to be put into words in the manner of a query; `spoken` are those queries that have one.
pub(in crate::service) fn watch_speak(
    Speak { query, embedding, start_ms, end_ms }: Speak,
    spoken: &[bool],
    terms: &Terms,
) -> Checked<Input> {
    let at = query as usize;
    count("query", at, 0, spoken.len() - 1)?;
    if !spoken[at] {
        return Err(invalid("query", format!("is {at}, which has no candidates, and the model has no decoder")));
    }
    if end_ms < start_ms {
        return Err(invalid("end_ms", format!("is {end_ms}, must not be below start_ms, {start_ms}")));
    }
    let embedding = embedding.ok_or_else(|| invalid("embedding", "is missing"))?;
    let embedding = embedding_of(&embedding, terms).map_err(|error| error.within("embedding"))?;
    Ok(Input::Speak { query: at, embedding, range_ms: [start_ms, end_ms] })
}

fn query_of(query: proto::WatchQuery, terms: &Terms, settings: &Settings, held: Held) -> Checked<Query> {
    let proto::WatchQuery { question, candidates, generation: asked } = query;
    let question = text("question", question, settings)?;
    count("candidates", candidates.len(), 0, settings.text.candidates_max)?;
    let generation = generation(asked.unwrap_or_default(), settings)?;
    let manner = match candidates.is_empty() {
        true if !terms.decoder && terms.decode == Decode::Never => None,
        true => Some(Manner::Speak(generation)),
        false => {
            let candidate = |(at, one)| text(&format!("candidates[{at}]"), one, settings);
            Some(Manner::Choose((0..).zip(candidates).map(candidate).collect::<Checked<_>>()?))
        }
    };
    Ok(Query { question, manner, held })
}

fn view_of(window: proto::WatchWindow, settings: &Settings) -> Checked<View> {
    const LEVELS: std::ops::RangeInclusive<f32> = 0.0..=255.0;
    let usual = View::default();
    let proto::WatchWindow { window_ms, stride_ms, frames, still } = window;
    let window_ms = if window_ms == 0 { usual.window_ms } else { window_ms };
    milliseconds("window_ms", window_ms, 1, settings.watch.window_ms_max)?;
    let stride_ms = if stride_ms == 0 { (window_ms / 4).max(1) } else { stride_ms };
    milliseconds("stride_ms", stride_ms, 1, window_ms)?;
    let frames = frames.map(|frames| frames as usize);
    if let Some(frames) = frames {
        count("frames", frames, 1, settings.media.frames_max.min(settings.watch.window_frames_max))?;
    }
    let still = still.unwrap_or(usual.still);
    if !LEVELS.contains(&still) {
        return Err(invalid("still", format!("is {still}, must be from {} to {}", LEVELS.start(), LEVELS.end())));
    }
    Ok(View { window_ms, stride_ms, frames, still })
}

fn embedding_of(embedding: &proto::Embedding, terms: &Terms) -> Checked<Embedding> {
    let Terms { space, dimensions, .. } = terms;
    let proto::Embedding { data, dtype, dimensions: promised, space: named } = embedding;
    if !matches!(proto::Dtype::try_from(*dtype), Ok(proto::Dtype::Unspecified | proto::Dtype::F32)) {
        return Err(invalid("dtype", format!("is {dtype}, must be DTYPE_F32, {}", proto::Dtype::F32 as i32)));
    }
    if *promised as usize != *dimensions {
        return Err(invalid("dimensions", format!("is {promised}, must be {dimensions}")));
    }
    if *named != space.to_string() {
        let named = crate::engine::shortened(named);
        return Err(invalid("space", format!("is {named:?}, must be that of the session, {space}")));
    }
    let read = Embedding::from_bytes(data, Dtype::F32, *dimensions, *space);
    let read = read.map_err(|error| invalid("data", error.to_string()))?;
    if let Some(at) = read.values.iter().position(|value| !value.is_finite()) {
        return Err(invalid("data", format!("has {} at place {at}, must be numbers", read.values[at])));
    }
    if read.values.iter().all(|&value| value == 0.0) {
        return Err(invalid("data", "is all zeros, which is no point of the space"));
    }
    Ok(Embedding::normalized(read.values, read.space))
}

fn milliseconds(field: &str, value: u64, min: u64, max: u64) -> Checked<()> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(invalid(field, format!("is {value}, must be from {min} to {max} milliseconds"))),
    }
}
