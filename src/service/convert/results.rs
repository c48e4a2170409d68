//! From the engine's outcomes to protobuf.

use prost::Message;
use tonic::Response;

use super::{Checked, Output};
use crate::embedding::{Dtype, Embedding, Space};
use crate::engine::{Answer, Choice, Embedded, EngineError, Timing, Usage};
use crate::service::proto::{self, encode_text_result, predict_result};
use crate::service::status::item_status;
use crate::settings::Settings;

/// A message on its way out. Compressing a small one costs more than it saves.
pub(in crate::service) fn reply<M: Message>(message: M, settings: &Settings) -> Response<M> {
    let small = message.encoded_len() < settings.service.compress_bytes_min;
    let mut response = Response::new(message);
    if small {
        response.disable_compression();
    }
    response
}

/// Predict's response.
pub(in crate::service) fn predictions(
    outcomes: Vec<Checked<Embedded>>,
    output: Output,
    space: Space,
) -> proto::PredictResponse {
    let result = |(at, outcome): (usize, Checked<Embedded>)| {
        let outcome = match outcome {
            Ok(embedded) => predict_result::Outcome::Prediction(prediction(&embedded, output)),
            Err(error) => predict_result::Outcome::Error(item_status(named(error, at))),
        };
        proto::PredictResult { outcome: Some(outcome) }
    };
    proto::PredictResponse { results: outcomes.into_iter().enumerate().map(result).collect(), space: space.to_string() }
}

/// One item's value.
pub(in crate::service) fn prediction(embedded: &Embedded, output: Output) -> proto::Prediction {
    proto::Prediction {
        embedding: Some(embedding_of(&embedded.embedding, output)),
        usage: Some(usage(embedded.usage)),
        timing: Some(timing(embedded.timing)),
    }
}

/// The engine names fields from the question on.
fn named(error: EngineError, at: usize) -> EngineError {
    match &error {
        EngineError::Invalid { field, .. } if field.starts_with("items[") => error,
        _ => error.within(&format!("items[{at}]")),
    }
}

/// EncodeText's response.
pub(in crate::service) fn encoded_texts(
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
pub(in crate::service) fn answer(answer: Answer, output: Option<Output>) -> proto::AnswerResponse {
    let Answer { text, choices, embedded } = answer;
    proto::AnswerResponse {
        answer: text,
        choices: choices.into_iter().map(choice).collect(),
        embedding: output.map(|output| embedding_of(&embedded.embedding, output)),
        usage: Some(usage(embedded.usage)),
        timing: Some(timing(embedded.timing)),
    }
}

pub(super) fn choice(Choice { text, score, cosine }: Choice) -> proto::Choice {
    proto::Choice { text, score, cosine }
}

pub(super) fn embedding_of(embedding: &Embedding, output: Output) -> proto::Embedding {
    let kept = embedding.cut(output.dimensions, output.normalize).expect("dimensions were checked with the request");
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

pub(super) fn timing(timing: Timing) -> proto::Timing {
    let [prepare_ms, queue_ms, vision_ms, predictor_ms, text_ms, decoder_ms, total_ms] =
        timing.stages_ms().map(|(_, ms)| ms as f32);
    proto::Timing { prepare_ms, queue_ms, vision_ms, predictor_ms, text_ms, decoder_ms, total_ms }
}
