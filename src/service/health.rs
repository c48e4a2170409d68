//! Health: every answer is a sign of life of the model thread itself, never a constant.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::IntervalStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::proto::answer_service_server::SERVICE_NAME as ANSWER;
use super::proto::embedding_service_server::SERVICE_NAME as EMBEDDING;
use super::proto::media_service_server::SERVICE_NAME as MEDIA;
use super::proto::model_service_server::SERVICE_NAME as MODEL;
use crate::engine::{Models, shortened};

const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Asks every model's thread; says NOT_SERVING while the server drains.
#[derive(Clone)]
pub(super) struct Health {
    models: Models,
    draining: watch::Receiver<bool>,
}

impl Health {
    pub(super) fn new(models: Models, draining: watch::Receiver<bool>) -> Self {
        Self { models, draining }
    }

    /// Whether the server should be sent requests.
    pub(super) async fn serving(&self) -> bool {
        self.look().await == ServingStatus::Serving
    }

    async fn look(&self) -> ServingStatus {
        let patience = Duration::from_millis(self.models.settings().service.health_max_ms);
        let (deadline, models) = (Instant::now() + patience, self.models.all());
        let mut alive = !*self.draining.borrow() && !models.is_empty();
        for (_, engine) in models {
            alive = alive && engine.probe(deadline).await.is_ok();
        }
        if alive { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

fn known(service: &str) -> bool {
    ["", ANSWER, EMBEDDING, MEDIA, MODEL].contains(&service)
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match &*request.get_ref().service {
            service if known(service) => Ok(Response::new(response(self.look().await))),
            service => Err(Status::not_found(format!("service {:?} is not served", shortened(service)))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let health = self.clone();
        let known = known(&request.get_ref().service);
        // The look after which nothing changes any more is the last: a watch must not hold the shutdown.
        let (draining, mut last_look) = (self.draining.clone(), false);
        let ticks = IntervalStream::new(tokio::time::interval(WATCH_INTERVAL));
        let ticks = ticks.map_while(move |_| {
            let ended = std::mem::replace(&mut last_look, *draining.borrow());
            (!ended).then_some(())
        });
        let looks = ticks.then(move |()| {
            let health = health.clone();
            async move { if known { health.look().await } else { ServingStatus::ServiceUnknown } }
        });
        let mut last = None;
        // Only changes are told.
        let changes =
            looks.filter_map(move |status| (last.replace(status) != Some(status)).then(|| Ok(response(status))));
        Ok(Response::new(Box::pin(changes)))
    }
}
