//! The client's side of the wire: connections, and one call a request of the schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::arrivals::{Arrival, Class, Conduct, Rpc};
use super::asks::Ask;
use super::drive::Service;
use crate::cli::client::{Caller, endpoint};
use crate::service::proto;
use crate::service::proto::answer_service_client::AnswerServiceClient;
use crate::service::proto::embedding_service_client::EmbeddingServiceClient;
use crate::settings::ClientSettings;

/// Who leaves does so within these.
const LEAVING_MAX_MS: u64 = 40;
/// The patience of who is in a hurry.
const HURRIED_MAX_MS: u64 = 5;

/// Connections that take turns, and what is asked over them.
pub(super) struct Connections {
    channels: Vec<Channel>,
    asks: Arc<[Ask]>,
    deadline: Duration,
    client: ClientSettings,
    caller: Caller,
    turn: AtomicUsize,
}

impl Connections {
    /// Connects `count` times.
    pub(super) async fn open(
        address: &str,
        count: usize,
        asks: Arc<[Ask]>,
        deadline: Duration,
        client: &ClientSettings,
    ) -> anyhow::Result<Self> {
        let endpoint = endpoint(address, client)?.tcp_nodelay(true);
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            channels.push(endpoint.connect().await.with_context(|| format!("no connection to {address}"))?);
        }
        let (client, caller) = (client.clone(), Caller::new(deadline, client)?);
        Ok(Self { channels, asks, deadline, client, caller, turn: AtomicUsize::new(0) })
    }

    /// As many connections to another server, for the same asks.
    pub(super) async fn to(&self, address: &str, count: usize) -> anyhow::Result<Self> {
        Self::open(address, count, self.asks.clone(), self.deadline, &self.client).await
    }

    /// Bytes of all media, and how many there are.
    pub(super) fn media(&self) -> (usize, usize) {
        (self.asks.iter().map(|ask| ask.media.len()).sum(), self.asks.len())
    }

    async fn called(&self, arrival: &Arrival) -> Result<(), Status> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let call = Call {
            channel: self.channels[turn % self.channels.len()].clone(),
            ask: &self.asks[(arrival.choice % self.asks.len() as u64) as usize],
            spoilt: arrival.conduct == Conduct::Spoilt,
            priority: priority(arrival.class) as i32,
            caller: match arrival.conduct {
                Conduct::Hurried => self.caller.within(Duration::from_millis(1 + arrival.choice % HURRIED_MAX_MS)),
                _ => self.caller.clone(),
            },
        };
        match arrival.rpc {
            Rpc::Answer => call.answer().await,
            Rpc::Predict => call.predict().await,
            Rpc::Encode => call.encode().await,
            Rpc::Stream => call.stream().await,
        }
    }
}

impl Service for Connections {
    async fn ask(&self, arrival: &Arrival) -> Code {
        let call = self.called(arrival);
        let outcome = match arrival.conduct {
            Conduct::Leaving => {
                let patience = Duration::from_millis(arrival.choice % LEAVING_MAX_MS);
                tokio::time::timeout(patience, call).await.unwrap_or_else(|_| Err(Status::cancelled("left")))
            }
            _ => call.await,
        };
        match outcome {
            Ok(()) => Code::Ok,
            // tonic's own timer in this process calls it so when it fires before the server's word is here.
            Err(status) if status.code() == Code::Cancelled && status.message() == "Timeout expired" => {
                Code::DeadlineExceeded
            }
            Err(status) => status.code(),
        }
    }
}

/// One request as it goes out.
struct Call<'a> {
    channel: Channel,
    ask: &'a Ask,
    spoilt: bool,
    priority: i32,
    caller: Caller,
}

impl Call<'_> {
    async fn answer(self) -> Result<(), Status> {
        let message = proto::AnswerRequest {
            media: Some(self.media()),
            question: self.ask.question.clone(),
            candidates: self.ask.candidates.clone(),
            priority: self.priority,
            ..Default::default()
        };
        AnswerServiceClient::new(self.channel.clone()).answer(self.caller.request(message)).await.map(drop)
    }

    async fn predict(self) -> Result<(), Status> {
        use proto::predict_result::Outcome;
        let (items, priority) = (vec![self.item()], self.priority);
        let request = self.caller.request(proto::PredictRequest { items, priority, ..Default::default() });
        let response = EmbeddingServiceClient::new(self.channel).predict(request).await?.into_inner();
        only(response.results.into_iter().map(|result| match result.outcome {
            Some(Outcome::Prediction(_)) => Ok(()),
            Some(Outcome::Error(error)) => Err(error.code),
            None => Err(Code::Unknown as i32),
        }))
    }

    async fn encode(self) -> Result<(), Status> {
        use proto::encode_text_result::Outcome;
        let texts = if self.spoilt { vec![String::new()] } else { self.ask.candidates.clone() };
        let request =
            self.caller.request(proto::EncodeTextRequest { texts, priority: self.priority, ..Default::default() });
        let response = EmbeddingServiceClient::new(self.channel).encode_text(request).await?.into_inner();
        only(response.results.into_iter().map(|result| match result.outcome {
            Some(Outcome::Encoded(_)) => Ok(()),
            Some(Outcome::Error(error)) => Err(error.code),
            None => Err(Code::Unknown as i32),
        }))
    }

    async fn stream(self) -> Result<(), Status> {
        use proto::stream_predict_response::Message;
        use proto::stream_predict_result::Outcome;
        let item =
            proto::StreamPredictItem { id: 1, item: Some(self.item()), priority: self.priority, ..Default::default() };
        let message = proto::stream_predict_request::Message::Item(item);
        let request = self.caller.request(tokio_stream::once(proto::StreamPredictRequest { message: Some(message) }));
        let mut responses = EmbeddingServiceClient::new(self.channel).stream_predict(request).await?.into_inner();
        let mut outcome = None;
        // To its end, for the status is the last word.
        while let Some(response) = responses.message().await? {
            if let Some(Message::Result(result)) = response.message {
                outcome = result.outcome;
            }
        }
        only(std::iter::once(match outcome {
            Some(Outcome::Prediction(_)) => Ok(()),
            Some(Outcome::Error(error)) => Err(error.code),
            None => Err(Code::Unknown as i32),
        }))
    }

    fn media(&self) -> proto::Media {
        let whole = &self.ask.media;
        let bytes = if self.spoilt { &whole[..whole.len() / 2] } else { whole };
        proto::Media { source: Some(proto::media::Source::Inline(bytes.to_vec())) }
    }

    fn item(&self) -> proto::PredictItem {
        proto::PredictItem { media: Some(self.media()), question: self.ask.question.clone(), ..Default::default() }
    }
}

/// The first failure of a list's items is the fate of the request.
fn only(mut results: impl Iterator<Item = Result<(), i32>>) -> Result<(), Status> {
    results.find_map(Result::err).map_or(Ok(()), |code| Err(Status::new(Code::from(code), "an item failed")))
}

fn priority(class: Class) -> proto::Priority {
    match class {
        Class::Interactive => proto::Priority::Interactive,
        Class::Watch => proto::Priority::Watch,
        Class::Job => proto::Priority::Job,
    }
}
