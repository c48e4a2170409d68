//! How serving ends: in order, and within a bound.
//!
//! tonic's own graceful shutdown waits for every connection, a half-open one for up to an hour; so it runs in a
//! task that is left behind when the bound is reached.

use std::time::Duration;

use tokio::sync::watch;

use crate::engine::{Models, ThreadState};
use crate::settings::ServiceSettings;

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The thread of a model panicked; the process should end, for that model cannot answer any more.
    #[error("a model's thread panicked")]
    ModelThread,
    /// Traces cannot be told as they are asked for.
    #[error("{0}")]
    Traces(String),
    /// The socket failed.
    #[error("the server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// The steps of the end.
pub(super) struct Drain {
    delay: Duration,
    bound: Duration,
    draining: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
}

impl Drain {
    pub(super) fn new(settings: &ServiceSettings) -> Self {
        Self {
            delay: Duration::from_millis(settings.drain_delay_ms),
            bound: Duration::from_millis(settings.drain_max_ms),
            draining: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
        }
    }

    /// Turns true when the end has begun.
    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Resolves when nothing new is taken any more.
    pub(super) fn refused(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut refusing = self.refusing.subscribe();
        async move { drop(refusing.wait_for(|&refusing| refusing).await) }
    }

    /// Runs `serving` until the end, then ends it step by step.
    pub(super) async fn run(
        self,
        serving: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
        models: Models,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut serving = tokio::spawn(serving);
        let failed = tokio::select! {
            outcome = &mut serving => return Ok(outcome.unwrap_or(Ok(()))?),
            () = models.failed() => true,
            () = shutdown => false,
        };
        self.draining.send_replace(true);
        match failed {
            true => tracing::error!("a model's thread panicked"),
            false => {
                tracing::info!("draining");
                tokio::time::sleep(self.delay).await;
            }
        }
        self.refusing.send_replace(true);
        let mut threads = Vec::new();
        let drained = async {
            let _ = (&mut serving).await;
            threads = models.close();
            // What is still asked holds the last engines; the threads answer it and end.
            for thread in &mut threads {
                thread.ended().await;
            }
        };
        if tokio::time::timeout(self.bound, drained).await.is_err() {
            tracing::warn!(bound_ms = self.bound.as_millis() as u64, "not drained within the bound: hard stop");
            serving.abort();
        }
        threads.extend(models.close());
        match failed || threads.iter().any(|thread| thread.state() == ThreadState::Panicked) {
            true => Err(ServeError::ModelThread),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::model::bundle::Bundle;
    use crate::model::vl_jepa::VlJepa;
    use crate::settings::Settings;
    use std::future::pending;
    use std::time::Instant;

    fn models() -> (Models, Engine) {
        let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
        let models = Models::new(Settings::default());
        let (engine, thread) = Engine::start(model, Settings::default()).expect("a thread");
        models.add("one", engine.clone(), thread).expect("the first");
        (models, engine)
    }

    fn drain(bound_ms: u64) -> Drain {
        Drain::new(&ServiceSettings { drain_max_ms: bound_ms, ..ServiceSettings::default() })
    }

    #[tokio::test]
    async fn a_panic_of_the_model_thread_ends_serving_with_an_error() {
        let (models, engine) = models();
        engine.panic_model_thread();
        let drain = drain(10_000);
        let (health, refused) = (drain.draining(), drain.refused());
        let serving = async {
            refused.await;
            Ok(())
        };
        let outcome = drain.run(serving, models, pending()).await;
        assert!(matches!(outcome, Err(ServeError::ModelThread)), "{outcome:?}");
        assert!(*health.borrow(), "health was told");
    }

    #[tokio::test]
    async fn the_bound_holds_when_connections_do_not_end() {
        let (models, held) = models();
        let started = Instant::now();
        let outcome = drain(50).run(pending(), models, async {}).await;
        assert!(outcome.is_ok() && started.elapsed() < Duration::from_secs(5), "{outcome:?}");
        drop(held);
    }
}
