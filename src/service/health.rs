//! Health: every answer is a sign of life of the model thread itself, never a constant.
//!
//! One look is shared by all who ask while another goes on, so that a thousand watchers cost what a few do.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::shutdown::Phase;
use crate::engine::{Models, shortened};

const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How old a look may be that is told to a watcher, who is told nothing new for an interval anyway.
const WATCH_AGE_MAX: Duration = Duration::from_millis(500);

/// Asks every model's thread; says NOT_SERVING while the server drains.
#[derive(Clone)]
pub(super) struct Health {
    models: Models,
    /// The services that are known, by full name.
    services: Arc<[&'static str]>,
    phase: watch::Receiver<Phase>,
    last: Arc<Mutex<Option<(Instant, ServingStatus)>>>,
}

impl Health {
    pub(super) fn new(models: Models, services: Vec<&'static str>, phase: watch::Receiver<Phase>) -> Self {
        Self { models, services: services.into(), phase, last: Arc::default() }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }

    /// Whether the server should be sent requests.
    pub(super) async fn serving(&self) -> bool {
        self.look(Duration::ZERO).await == ServingStatus::Serving
    }

    /// What is seen now; or was, by a look that began no longer than `age_max` before.
    async fn look(&self, age_max: Duration) -> ServingStatus {
        if *self.phase.borrow() > Phase::Serving {
            return ServingStatus::NotServing;
        }
        // Whoever comes while somebody looks waits, and then one of them looks for all.
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        match *last {
            Some((began, status)) if began + age_max >= asked => status,
            _ => {
                let began = Instant::now();
                last.insert((began, self.ask().await)).1
            }
        }
    }

    async fn ask(&self) -> ServingStatus {
        let patience = Duration::from_millis(self.models.settings().service.health_max_ms);
        let (deadline, models) = (Instant::now() + patience, self.models.all());
        let mut alive = !models.is_empty();
        for (_, engine) in models {
            alive = alive && engine.probe(deadline).await.is_ok();
        }
        if alive { ServingStatus::Serving } else { ServingStatus::NotServing }
    }

    /// Tells every change until the server ends: a watch must not hold the shutdown.
    async fn tell(mut self, known: bool, changes: mpsc::Sender<Result<HealthCheckResponse, Status>>) {
        let mut last = None;
        loop {
            // The look after which nothing changes any more is the last.
            let ends = *self.phase.borrow_and_update() > Phase::Serving;
            let status = if known { self.look(WATCH_AGE_MAX).await } else { ServingStatus::ServiceUnknown };
            if last.replace(status) != Some(status) && changes.send(Ok(response(status))).await.is_err() || ends {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                _ = self.phase.changed() => {}
                () = changes.closed() => return,
            }
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match &*request.get_ref().service {
            service if self.knows(service) => Ok(Response::new(response(self.look(Duration::ZERO).await))),
            service => Err(Status::not_found(format!("service {:?} is not served", shortened(service)))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (changes, told) = mpsc::channel(1);
        let known = self.knows(&request.get_ref().service);
        tokio::spawn(self.clone().tell(known, changes));
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}
