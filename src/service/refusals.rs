//! What requests would be refused for, without a server around them and without asking the model: the door for the law
//! of the conversions (`fuzz/laws/convert.rs`), which are private otherwise.

use prost::Message;
use tonic::Request;
use tonic_types::StatusExt;

use super::convert::{self, Checked};
use super::proto::stream_predict_request::Message as Asked;
use super::proto::{
    AnswerRequest, CreateJobRequest, EncodeTextRequest, PredictRequest, StreamPredictOpen, StreamPredictRequest,
    UploadMediaHeader, WatchQuery, WatchRequest, WatchStart, watch_request,
};
use super::status::status;
use crate::engine::{Engine, EngineError, Models};

/// A status as a client would receive it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Refusal {
    /// gRPC's number of it.
    pub code: i32,
    /// Its message.
    pub message: String,
    /// The fields that its details name.
    pub fields: Vec<String>,
    /// What it takes in the headers of a response, bytes.
    pub header_bytes: usize,
}

/// Reads `bytes` as each kind of request, for the only model of `models`.
#[doc(hidden)]
pub fn refusals(bytes: &[u8], models: &Models) -> Vec<Refusal> {
    let Ok(engine) = models.named("") else { return Vec::new() };
    let mut found: Vec<EngineError> = Vec::new();
    let uploads = models.uploads();
    if let Ok(request) = PredictRequest::decode(bytes).map(Request::new) {
        match convert::questions(request, &engine, uploads) {
            Ok((questions, ..)) => questions.into_iter().for_each(|question| found.extend(question.err())),
            Err(error) => found.push(error),
        }
    }
    if let Ok(request) = EncodeTextRequest::decode(bytes).map(Request::new) {
        match convert::texts(request, &engine) {
            Ok((texts, ..)) => texts.into_iter().for_each(|text| found.extend(text.err())),
            Err(error) => found.push(error),
        }
    }
    if let Ok(request) = AnswerRequest::decode(bytes).map(Request::new) {
        found.extend(convert::ask(request, &engine, uploads).err());
    }
    if let Ok(StreamPredictRequest { message: Some(message) }) = StreamPredictRequest::decode(bytes) {
        let whole = convert::whole(&Request::new(()));
        let opening = |open| convert::opening(open, &engine);
        let outcome: Checked<()> = match message {
            Asked::Open(open) => opening(open).map(drop),
            Asked::Item(item) => opening(StreamPredictOpen::default())
                .and_then(|opening| convert::stream_item(item, &opening, &whole, &engine, uploads).map(drop)),
        };
        found.extend(outcome.err());
    }
    if let Ok(header) = UploadMediaHeader::decode(bytes) {
        found.extend(convert::promise(header).err());
    }
    if let Ok(request) = CreateJobRequest::decode(bytes) {
        let settings = models.settings();
        let target = convert::Target { model: "".into(), dimensions: engine.dimensions(), settings };
        found.extend(convert::asked_job(request, None, &target).err());
    }
    if let Ok(WatchRequest { message: Some(message) }) = WatchRequest::decode(bytes) {
        found.extend(watch(message, &engine).err());
    }
    found.into_iter().map(refusal).collect()
}

/// A message of Watch: as the first one of a session, or as one of a session with all defaults.
fn watch(message: watch_request::Message, engine: &Engine) -> Checked<()> {
    let begin = |start| convert::watch_start(start, String::new(), engine, None);
    let terms = || {
        let queries = vec![WatchQuery { question: "what is it?".into(), ..Default::default() }];
        begin(WatchStart { queries, ..Default::default() }).map(|(_, terms)| terms)
    };
    let settings = engine.settings();
    match message {
        watch_request::Message::Start(start) => match convert::watch_resumption(&start)? {
            None => begin(start).map(drop),
            Some(_) => Ok(()),
        },
        watch_request::Message::Frame(frame) => convert::watch_picture(frame.frame, settings).map(drop),
        watch_request::Message::UpdateQuery(update) => {
            convert::watch_update(update, 1, &terms()?, settings, None).map(drop)
        }
        watch_request::Message::Speak(speak) => convert::watch_speak(speak, &[true], &terms()?).map(drop),
        watch_request::Message::Flush(_) | watch_request::Message::Ack(_) | watch_request::Message::Stop(_) => Ok(()),
    }
}

fn refusal(error: EngineError) -> Refusal {
    let status = status(error);
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let (code, message) = (status.code() as i32, status.message().to_owned());
    let headers = status.into_http::<tonic::body::Body>().headers().clone();
    Refusal {
        code,
        message,
        fields: violations.into_iter().map(|violation| violation.field).collect(),
        header_bytes: headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
    }
}
