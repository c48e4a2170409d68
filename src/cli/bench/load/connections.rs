//! The client's side of the wire: connections, and one call a request of the schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::arrivals::{Arrival, Class, Conduct, Rpc};
use super::asks::Ask;
use super::drive::Service;
use crate::service::proto;
use crate::service::proto::answer_service_client::AnswerServiceClient;
use crate::service::proto::embedding_service_client::EmbeddingServiceClient;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Who leaves does so within these.
const LEAVING_MAX_MS: u64 = 40;
/// The patience of who is in a hurry.
const HURRIED_MAX_MS: u64 = 5;

/// Connections that take turns, and what is asked over them.
pub(super) struct Connections {
    channels: Vec<Channel>,
    asks: Arc<[Ask]>,
    deadline: Duration,
    turn: AtomicUsize,
}

impl Connections {
    /// Connects `count` times.
    pub(super) async fn open(
        address: &str,
        count: usize,
        asks: Arc<[Ask]>,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_MAX);
        let endpoint = endpoint.tcp_nodelay(true);
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            channels.push(endpoint.connect().await.with_context(|| format!("no connection to {address}"))?);
        }
        Ok(Self { channels, asks, deadline, turn: AtomicUsize::new(0) })
    }

    /// As many connections to another server, for the same asks.
    pub(super) async fn to(&self, address: &str, count: usize) -> anyhow::Result<Self> {
        Self::open(address, count, self.asks.clone(), self.deadline).await
    }

    /// Bytes of all media, and how many there are.
    pub(super) fn media(&self) -> (usize, usize) {
        (self.asks.iter().map(|ask| ask.media.len()).sum(), self.asks.len())
    }

    async fn called(&self, arrival: &Arrival) -> Result<(), Status> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let channel = self.channels[turn % self.channels.len()].clone();
        let ask = &self.asks[(arrival.choice % self.asks.len() as u64) as usize];
        let spoilt = arrival.conduct == Conduct::Spoilt;
        let deadline = match arrival.conduct {
            Conduct::Hurried => Duration::from_millis(1 + arrival.choice % HURRIED_MAX_MS),
            _ => self.deadline,
        };
        match arrival.rpc {
            Rpc::Answer => answer(channel, ask, spoilt, deadline).await,
            Rpc::Predict => predict(channel, ask, spoilt, deadline).await,
            Rpc::Encode => encode(channel, ask, spoilt, deadline).await,
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

async fn answer(channel: Channel, ask: &Ask, spoilt: bool, deadline: Duration) -> Result<(), Status> {
    let message = proto::AnswerRequest {
        media: Some(media(ask, spoilt)),
        question: ask.question.clone(),
        candidates: ask.candidates.clone(),
        ..Default::default()
    };
    AnswerServiceClient::new(channel).answer(within(deadline, message)).await.map(drop)
}

async fn predict(channel: Channel, ask: &Ask, spoilt: bool, deadline: Duration) -> Result<(), Status> {
    use proto::predict_result::Outcome;
    let item =
        proto::PredictItem { media: Some(media(ask, spoilt)), question: ask.question.clone(), ..Default::default() };
    let message = proto::PredictRequest { items: vec![item], ..Default::default() };
    let response = EmbeddingServiceClient::new(channel).predict(within(deadline, message)).await;
    only(response.map(Response::into_inner)?.results.into_iter().map(|result| match result.outcome {
        Some(Outcome::Prediction(_)) => Ok(()),
        Some(Outcome::Error(error)) => Err(error.code),
        None => Err(Code::Unknown as i32),
    }))
}

async fn encode(channel: Channel, ask: &Ask, spoilt: bool, deadline: Duration) -> Result<(), Status> {
    use proto::encode_text_result::Outcome;
    let texts = if spoilt { vec![String::new()] } else { ask.candidates.clone() };
    let message = proto::EncodeTextRequest { texts, ..Default::default() };
    let response = EmbeddingServiceClient::new(channel).encode_text(within(deadline, message)).await;
    only(response.map(Response::into_inner)?.results.into_iter().map(|result| match result.outcome {
        Some(Outcome::Encoded(_)) => Ok(()),
        Some(Outcome::Error(error)) => Err(error.code),
        None => Err(Code::Unknown as i32),
    }))
}

/// The first failure of a list's items is the fate of the request.
fn only(mut results: impl Iterator<Item = Result<(), i32>>) -> Result<(), Status> {
    results.find_map(Result::err).map_or(Ok(()), |code| Err(Status::new(Code::from(code), "an item failed")))
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn media(ask: &Ask, spoilt: bool) -> proto::Media {
    let bytes = if spoilt { &ask.media[..ask.media.len() / 2] } else { &ask.media };
    proto::Media { source: Some(proto::media::Source::Inline(bytes.to_vec())) }
}
