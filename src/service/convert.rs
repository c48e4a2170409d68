//! From protobuf to the engine's plain structs and back: all validation, every refusal with field, value and
//! bound.

use std::time::{Duration, Instant};

use tonic::Request;

use super::layers::Deadline;
use super::proto::{self, encode_text_result, media::Source, predict_result};
use super::status::item_status;
use crate::embedding::{Dtype, Embedding, Space};
use crate::engine::{
    Answer, Call, Embedded, Engine, EngineError, Manner, Media, MediaFrame, PixelOrder, Question, Timing, Usage,
};
use crate::input::Sampling;
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::model::facts::{ModelFacts, PartFacts};
use crate::settings::Settings;

type Checked<T> = Result<T, EngineError>;

const FPS_MAX: f32 = 1000.0;
const TEMPERATURE_MAX: f32 = 10.0;

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
) -> Checked<(Vec<Checked<Question>>, Output, Call)> {
    let (call, request) = opened(request, engine);
    let settings = engine.settings();
    count("items", request.items.len(), 1, settings.media.items_max)?;
    let question = |(at, item): (usize, proto::PredictItem)| {
        question(item.media, item.sampling, item.question, settings)
            .map_err(|error| error.within(&format!("items[{at}]")))
    };
    let questions = request.items.into_iter().enumerate().map(question).collect();
    Ok((questions, output(request.output, engine.dimensions())?, call))
}

/// EncodeText's texts, the wrong ones as their errors, with output and call.
pub(super) fn texts(
    request: Request<proto::EncodeTextRequest>,
    engine: &Engine,
) -> Checked<(Vec<Checked<String>>, Output, Call)> {
    let (call, request) = opened(request, engine);
    let settings = engine.settings();
    count("texts", request.texts.len(), 1, settings.text.texts_max)?;
    let texts = (0..).zip(request.texts).map(|(at, one)| text(&format!("texts[{at}]"), one, settings)).collect();
    Ok((texts, output(request.output, engine.dimensions())?, call))
}

/// Answer's question, manner, output if an embedding is wanted, and call.
pub(super) fn ask(
    request: Request<proto::AnswerRequest>,
    engine: &Engine,
) -> Checked<(Question, Manner, Option<Output>, Call)> {
    let (call, request) = opened(request, engine);
    let settings = engine.settings();
    count("candidates", request.candidates.len(), 0, settings.text.candidates_max)?;
    let manner = match request.candidates.is_empty() {
        true => Manner::Speak(generation(request.generation.unwrap_or_default(), settings)?),
        false => {
            let candidate = |(at, one)| text(&format!("candidates[{at}]"), one, settings);
            Manner::Choose((0..).zip(request.candidates).map(candidate).collect::<Checked<_>>()?)
        }
    };
    let output = output(request.output, engine.dimensions())?;
    let question = question(request.media, request.sampling, request.question, settings)?;
    Ok((question, manner, request.want_embedding.then_some(output), call))
}

fn opened<T>(request: Request<T>, engine: &Engine) -> (Call, T) {
    // The guard puts one into every request; this is for a service that is called without it.
    let default = || Instant::now() + Duration::from_millis(engine.settings().service.deadline_default_ms);
    let deadline = request.extensions().get::<Deadline>().map_or_else(default, |deadline| deadline.0);
    (Call::interactive(deadline), request.into_inner())
}

fn question(
    media: Option<proto::Media>,
    sampling: Option<proto::Sampling>,
    words: String,
    settings: &Settings,
) -> Checked<Question> {
    let text = text("question", words, settings)?;
    let sampling = sampling_of(sampling.unwrap_or_default(), settings)?;
    Ok(Question { media: media_of(media, settings)?, sampling, text })
}

fn media_of(media: Option<proto::Media>, settings: &Settings) -> Checked<Media> {
    match media.and_then(|media| media.source) {
        None => Err(invalid("media", "is missing")),
        Some(Source::Inline(bytes)) => {
            count_bytes("media.inline", bytes.len(), settings)?;
            Ok(Media::File(bytes))
        }
        Some(Source::Frames(proto::FrameSequence { frames })) => {
            count("media.frames", frames.len(), 1, settings.media.frames_max)?;
            count_bytes("media.frames", frames.iter().map(|frame| frame.data.len()).sum(), settings)?;
            if let Some(at) = frames.windows(2).position(|pair| pair[1].pts_ms < pair[0].pts_ms) {
                let (before, after) = (frames[at].pts_ms, frames[at + 1].pts_ms);
                let problem = format!("is {after}, must not be below the frame before, {before}");
                return Err(invalid(format!("media.frames[{}].pts_ms", at + 1), problem));
            }
            let frame = |(at, one)| frame(one, settings).map_err(|error| error.within(&format!("media.frames[{at}]")));
            Ok(Media::Frames((0..).zip(frames).map(frame).collect::<Checked<_>>()?))
        }
    }
}

fn frame(frame: proto::Frame, settings: &Settings) -> Checked<MediaFrame> {
    let proto::Frame { data, width, height, pts_ms, .. } = frame;
    let format = proto::FrameFormat::try_from(frame.format)
        .map_err(|_| invalid("format", format!("is {}, no such format", frame.format)))?;
    let order = match format {
        proto::FrameFormat::Unspecified | proto::FrameFormat::Encoded => {
            return Ok(MediaFrame::Encoded { bytes: data, pts_ms });
        }
        proto::FrameFormat::Rgb8 => PixelOrder::Rgb,
        proto::FrameFormat::Bgr8 => PixelOrder::Bgr,
        proto::FrameFormat::Gray8 => PixelOrder::Gray,
    };
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > settings.media.pixels_max {
        let problem = format!("is {width} x {height}, must be 1 to {} pixels", settings.media.pixels_max);
        return Err(invalid("width", problem));
    }
    let bytes = pixels * order.channels();
    if data.len() as u64 != bytes {
        return Err(invalid("data", format!("is {} bytes, {width} x {height} pixels need {bytes}", data.len())));
    }
    Ok(MediaFrame::Raw { width, height, order, pixels: data, pts_ms })
}

fn sampling_of(sampling: proto::Sampling, settings: &Settings) -> Checked<Sampling> {
    let proto::Sampling { frames, fps, start_ms, end_ms } = sampling;
    let frames = frames.map(|frames| frames as usize);
    if let Some(frames) = frames {
        count("sampling.frames", frames, 1, settings.media.frames_max)?;
    }
    if let Some(fps) = fps.filter(|&fps| !(fps > 0.0 && fps <= FPS_MAX)) {
        return Err(invalid("sampling.fps", format!("is {fps}, must be above 0, at most {FPS_MAX}")));
    }
    let start = start_ms.unwrap_or(0);
    if let Some(end) = end_ms.filter(|&end| end <= start) {
        return Err(invalid("sampling.end_ms", format!("is {end}, must be above start_ms, {start}")));
    }
    Ok(Sampling { frames, fps, start_ms, end_ms })
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

fn count_bytes(field: &str, bytes: usize, settings: &Settings) -> Checked<()> {
    match bytes {
        0 => Err(invalid(field, "is empty")),
        bytes if bytes > settings.media.bytes_max => {
            Err(invalid(field, format!("is {bytes} bytes, at most {}", settings.media.bytes_max)))
        }
        _ => Ok(()),
    }
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> EngineError {
    EngineError::Invalid { field: field.into(), problem: problem.into() }
}

/// Predict's response.
pub(super) fn predictions(outcomes: Vec<Checked<Embedded>>, output: Output, space: Space) -> proto::PredictResponse {
    let result = |(at, outcome): (usize, Checked<Embedded>)| {
        let outcome = match outcome {
            Ok(Embedded { embedding, usage: used, timing: took }) => {
                predict_result::Outcome::Prediction(proto::Prediction {
                    embedding: Some(embedding_of(&embedding, output)),
                    usage: Some(usage(used)),
                    timing: Some(timing(took)),
                })
            }
            Err(error) => predict_result::Outcome::Error(item_status(named(error, at))),
        };
        proto::PredictResult { outcome: Some(outcome) }
    };
    proto::PredictResponse { results: outcomes.into_iter().enumerate().map(result).collect(), space: space.to_string() }
}

/// The engine names fields from the question on.
fn named(error: EngineError, at: usize) -> EngineError {
    match &error {
        EngineError::Invalid { field, .. } if field.starts_with("items[") => error,
        _ => error.within(&format!("items[{at}]")),
    }
}

/// EncodeText's response.
pub(super) fn encoded_texts(
    outcomes: Vec<Checked<Embedded>>,
    output: Output,
    space: Space,
) -> proto::EncodeTextResponse {
    let result = |outcome: Checked<Embedded>| {
        let outcome = match outcome {
            Ok(Embedded { embedding, usage: used, timing: took }) => {
                encode_text_result::Outcome::Encoded(proto::EncodedText {
                    embedding: Some(embedding_of(&embedding, output)),
                    usage: Some(usage(used)),
                    timing: Some(timing(took)),
                })
            }
            Err(error) => encode_text_result::Outcome::Error(item_status(error)),
        };
        proto::EncodeTextResult { outcome: Some(outcome) }
    };
    proto::EncodeTextResponse { results: outcomes.into_iter().map(result).collect(), space: space.to_string() }
}

/// Answer's response.
pub(super) fn answer(answer: Answer, output: Option<Output>) -> proto::AnswerResponse {
    let Answer { text, choices, embedded } = answer;
    let choice =
        |choice: crate::engine::Choice| proto::Choice { text: choice.text, score: choice.score, cosine: choice.cosine };
    proto::AnswerResponse {
        answer: text,
        choices: choices.into_iter().map(choice).collect(),
        embedding: output.map(|output| embedding_of(&embedded.embedding, output)),
        usage: Some(usage(embedded.usage)),
        timing: Some(timing(embedded.timing)),
    }
}

fn embedding_of(embedding: &Embedding, output: Output) -> proto::Embedding {
    let mut kept = embedding.clone();
    kept.values.truncate(output.dimensions);
    if output.normalize && output.dimensions < embedding.values.len() {
        kept = Embedding::normalized(kept.values, kept.space);
    }
    let dtype = match output.dtype {
        Dtype::F32 => proto::Dtype::F32,
        Dtype::F16 => proto::Dtype::F16,
        Dtype::Int8 => proto::Dtype::Int8,
        Dtype::Binary => proto::Dtype::Binary,
    };
    proto::Embedding {
        data: kept.to_bytes(output.dtype),
        dtype: dtype as i32,
        dimensions: output.dimensions as u32,
        space: embedding.space.to_string(),
    }
}

fn usage(usage: Usage) -> proto::Usage {
    proto::Usage {
        visual_tokens: usage.visual_tokens as u32,
        text_tokens: usage.text_tokens as u32,
        frames_decoded: usage.frames_decoded as u32,
        frames_used: usage.frames_used as u32,
        truncated: usage.truncated,
    }
}

fn timing(timing: Timing) -> proto::Timing {
    let [prepare_ms, queue_ms, vision_ms, predictor_ms, text_ms, decoder_ms, total_ms] =
        timing.stages_ms().map(|(_, ms)| ms as f32);
    proto::Timing { prepare_ms, queue_ms, vision_ms, predictor_ms, text_ms, decoder_ms, total_ms }
}

/// What is served, with all its limits.
pub(super) fn model(name: &str, engine: &Engine) -> proto::Model {
    let facts = engine.model().facts();
    let part = |part: &PartFacts| proto::ModelPart {
        name: part.part.into(),
        architecture: part.architecture.clone(),
        parameters: part.parameters,
        precision: part.precision.into(),
        bytes_on_disk: part.bytes_on_disk,
        bytes_in_memory: part.bytes_in_memory,
    };
    proto::Model {
        name: name.into(),
        space: facts.space.to_string(),
        dimensions: facts.dimensions as u32,
        parts: facts.parts.iter().map(part).collect(),
        instruction_set: facts.instruction_set.into(),
        visual_tokens: facts.visual_tokens as u32,
        limits: Some(limits(engine.settings(), facts)),
    }
}

fn limits(settings: &Settings, facts: &ModelFacts) -> proto::Limits {
    let Settings { media, text, queue, service, .. } = settings;
    proto::Limits {
        message_bytes_max: service.message_bytes_max as u64,
        media_bytes_max: media.bytes_max as u64,
        pixels_max: media.pixels_max,
        frames_max: media.frames_max as u32,
        decoded_bytes_max: media.decode_bytes_max,
        text_bytes_max: text.bytes_max as u32,
        items_max: media.items_max as u32,
        texts_max: text.texts_max as u32,
        candidates_max: text.candidates_max as u32,
        question_tokens_max: facts.question_tokens_max as u32,
        text_tokens_max: facts.text_tokens_max as u32,
        answer_tokens_max: text.answer_tokens_max.min(facts.answer_tokens_max) as u32,
        queue_items_max: queue.items_max as u32,
        queue_tokens_max: queue.cost_max as u64,
        batch_items_max: queue.batch_items_max as u32,
        batch_tokens_max: queue.batch_cost_max as u64,
        deadline_default_ms: service.deadline_default_ms,
        deadline_max_ms: service.deadline_max_ms,
    }
}
