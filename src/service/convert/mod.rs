//! From protobuf to the engine's plain structs and back: all validation, every refusal with field, value and
//! bound.

mod jobs;
mod media;
mod models;
mod results;
mod stream;
mod uploads;
mod watch;

use std::time::{Duration, Instant};

use tonic::Request;

use super::call::Deadline;
use super::proto;
use super::seen::KeyName;
use crate::embedding::Dtype;
use crate::engine::{Call, Class, Engine, EngineError, Manner, Owner, Question, Trail, Uploads};
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::settings::Settings;
use media::{media_of, sampling_of};

pub(super) use jobs::{
    Grounds, Target, asked as asked_job, errors_page, job, job_errors, job_id, job_owner, job_page, jobs, new_job,
};
pub(super) use models::{model, model_place, passing};
pub(super) use results::{answer, encoded_texts, prediction, predictions, reply};
pub(super) use stream::{Opening, Whole, opening, stream_item, whole};
pub(super) use uploads::{promise, receipt};
pub(super) use watch::{
    Terms, watch_event, watch_picture, watch_resumption, watch_speak, watch_start, watch_started, watch_update,
};

pub(super) type Checked<T> = Result<T, EngineError>;

const TEMPERATURE_MAX: f32 = 10.0;

/// What questions are read with.
pub(super) struct Desk<'a> {
    pub settings: &'a Settings,
    /// What a media may name.
    pub uploads: &'a Uploads,
    /// Who asks.
    pub owner: Owner,
}

/// How embeddings go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Output {
    dimensions: usize,
    normalize: bool,
    dtype: Dtype,
}

/// Predict's items, the wrong ones as their errors, with output and call.
pub(super) fn questions(
    request: Request<proto::PredictRequest>,
    engine: &Engine,
    uploads: &Uploads,
) -> Checked<(Vec<Checked<Question>>, Output, Call)> {
    let settings = engine.settings();
    let desk = Desk { settings, uploads, owner: owner(&request) };
    let (call, request) = (call(&request, settings), request.into_inner());
    let call = Call { class: class(request.priority)?, ..call };
    count("items", request.items.len(), 1, settings.media.items_max)?;
    let question = |(at, item): (usize, proto::PredictItem)| {
        question(item.media, item.sampling, item.question, &desk).map_err(|error| error.within(&format!("items[{at}]")))
    };
    let questions = request.items.into_iter().enumerate().map(question).collect();
    Ok((questions, output(request.output, engine.dimensions())?, call))
}

/// EncodeText's texts, the wrong ones as their errors, with output and call.
pub(super) fn texts(
    request: Request<proto::EncodeTextRequest>,
    engine: &Engine,
) -> Checked<(Vec<Checked<String>>, Output, Call)> {
    let settings = engine.settings();
    let (call, request) = (call(&request, settings), request.into_inner());
    let call = Call { class: class(request.priority)?, ..call };
    count("texts", request.texts.len(), 1, settings.text.texts_max)?;
    let texts = (0..).zip(request.texts).map(|(at, one)| text(&format!("texts[{at}]"), one, settings)).collect();
    Ok((texts, output(request.output, engine.dimensions())?, call))
}

/// Answer's question, manner, output if an embedding is wanted, and call.
pub(super) fn ask(
    request: Request<proto::AnswerRequest>,
    engine: &Engine,
    uploads: &Uploads,
) -> Checked<(Question, Manner, Option<Output>, Call)> {
    let settings = engine.settings();
    let desk = Desk { settings, uploads, owner: owner(&request) };
    let (call, request) = (call(&request, settings), request.into_inner());
    let call = Call { class: class(request.priority)?, ..call };
    count("candidates", request.candidates.len(), 0, settings.text.candidates_max)?;
    let manner = match request.candidates.is_empty() {
        true => Manner::Speak(generation(request.generation.unwrap_or_default(), settings)?),
        false => {
            let candidate = |(at, one)| text(&format!("candidates[{at}]"), one, settings);
            Manner::Choose((0..).zip(request.candidates).map(candidate).collect::<Checked<_>>()?)
        }
    };
    let output = output(request.output, engine.dimensions())?;
    let question = question(request.media, request.sampling, request.question, &desk)?;
    Ok((question, manner, request.want_embedding.then_some(output), call))
}

/// Who asks, as far as uploads are concerned.
pub(super) fn owner<T>(request: &Request<T>) -> Owner {
    let key = request.extensions().get::<KeyName>()?.0.get()?;
    Some(key.as_str().into())
}

/// When the answer to `request` is of no use any more.
fn deadline<T>(request: &Request<T>, settings: &Settings) -> Instant {
    // The guard puts one into every request; this is for a service that is called without it.
    let default = || Instant::now() + Duration::from_millis(settings.service.deadline_default_ms);
    request.extensions().get::<Deadline>().map_or_else(default, |deadline| deadline.0)
}

/// What belongs to the call that brought `request`, as long as nobody says more.
fn call<T>(request: &Request<T>, settings: &Settings) -> Call {
    let trail = request.extensions().get::<Trail>().cloned().unwrap_or_default();
    Call { trail, ..Call::interactive(deadline(request, settings)) }
}

fn class(priority: i32) -> Checked<Class> {
    match proto::Priority::try_from(priority) {
        Ok(proto::Priority::Unspecified | proto::Priority::Interactive) => Ok(Class::Interactive),
        Ok(proto::Priority::Watch) => Ok(Class::Watch),
        Ok(proto::Priority::Job) => Ok(Class::Job),
        Err(_) => Err(invalid("priority", format!("is {priority}, no such priority"))),
    }
}

fn question(
    media: Option<proto::Media>,
    sampling: Option<proto::Sampling>,
    words: String,
    desk: &Desk,
) -> Checked<Question> {
    let text = text("question", words, desk.settings)?;
    let sampling = sampling_of(sampling.unwrap_or_default(), desk.settings)?;
    Ok(Question { media: media_of(media, desk)?, sampling, text })
}

fn generation(generation: proto::Generation, settings: &Settings) -> Checked<DecodeOptions> {
    let proto::Generation { max_tokens, temperature, top_p, seed } = generation;
    let max = settings.text.answer_tokens_max;
    count("generation.max_tokens", max_tokens as usize, 0, max)?;
    if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
        let problem = format!("is {temperature}, must be from 0 to {TEMPERATURE_MAX}");
        return Err(invalid("generation.temperature", problem));
    }
    if !(0.0..=1.0).contains(&top_p) {
        return Err(invalid("generation.top_p", format!("is {top_p}, must be from 0 to 1")));
    }
    let sampling = match temperature > 0.0 {
        false => TokenSampling::Greedy,
        true => TokenSampling::TopP { temperature, top_p: if top_p == 0.0 { 1.0 } else { top_p }, seed },
    };
    Ok(DecodeOptions { max_tokens: if max_tokens == 0 { max } else { max_tokens as usize }, sampling })
}

fn output(output: Option<proto::OutputOptions>, dimensions_max: usize) -> Checked<Output> {
    let output = output.unwrap_or_default();
    count("output.dimensions", output.dimensions as usize, 0, dimensions_max)?;
    let dtype = proto::Dtype::try_from(output.dtype)
        .map_err(|_| invalid("output.dtype", format!("is {}, no such type", output.dtype)))?;
    Ok(Output {
        dimensions: if output.dimensions == 0 { dimensions_max } else { output.dimensions as usize },
        normalize: output.normalize.unwrap_or(true),
        dtype: match dtype {
            proto::Dtype::Unspecified | proto::Dtype::F32 => Dtype::F32,
            proto::Dtype::F16 => Dtype::F16,
            proto::Dtype::Int8 => Dtype::Int8,
            proto::Dtype::Binary => Dtype::Binary,
        },
    })
}

fn text(field: &str, text: String, settings: &Settings) -> Checked<String> {
    let max = settings.text.bytes_max;
    match text.len() {
        _ if text.trim().is_empty() => Err(invalid(field, "is empty")),
        bytes if bytes > max => Err(invalid(field, format!("is {bytes} bytes, at most {max}"))),
        _ => Ok(text),
    }
}

fn count(field: &str, value: usize, min: usize, max: usize) -> Checked<()> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(invalid(field, format!("is {value}, must be from {min} to {max}"))),
    }
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> EngineError {
    EngineError::Invalid { field: field.into(), problem: problem.into() }
}
