//! How serving ends: in order, and within a bound.
//!
//! tonic's own graceful shutdown waits for every connection, a half-open one for up to an hour; so it runs in a
//! task that is left behind when the bound is reached.

use std::time::Duration;

use tokio::sync::watch;

use crate::engine::{ModelThread, ThreadState};
use crate::settings::ServiceSettings;

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model thread panicked; the process should end, for it cannot answer any more.
    #[error("the model thread panicked")]
    ModelThread,
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
        mut thread: ModelThread,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut serving = tokio::spawn(serving);
        let mut model = thread.clone();
        tokio::select! {
            outcome = &mut serving => return Ok(outcome.unwrap_or(Ok(()))?),
            _ = model.ended() => tracing::error!("the model thread has ended"),
            () = shutdown => tracing::info!("draining"),
        }
        self.draining.send_replace(true);
        if thread.state() == ThreadState::Running {
            tokio::time::sleep(self.delay).await;
        }
        self.refusing.send_replace(true);
        let drained = async {
            let _ = (&mut serving).await;
            // The connections held the last engines; the thread answers what it has and ends.
            thread.ended().await
        };
        if tokio::time::timeout(self.bound, drained).await.is_err() {
            tracing::warn!(bound_ms = self.bound.as_millis() as u64, "not drained within the bound: hard stop");
            serving.abort();
        }
        match thread.state() {
            ThreadState::Panicked => Err(ServeError::ModelThread),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::time::Instant;

    fn drain(bound_ms: u64) -> Drain {
        Drain::new(&ServiceSettings { drain_max_ms: bound_ms, ..ServiceSettings::default() })
    }

    #[tokio::test]
    async fn a_panic_of_the_model_thread_ends_serving_with_an_error() {
        let thread = ModelThread::spawn(|| panic!("a bug in the model")).expect("a thread");
        let drain = drain(10_000);
        let (health, refused) = (drain.draining(), drain.refused());
        let serving = async {
            refused.await;
            Ok(())
        };
        let outcome = drain.run(serving, thread, pending()).await;
        assert!(matches!(outcome, Err(ServeError::ModelThread)), "{outcome:?}");
        assert!(*health.borrow(), "health was told");
    }

    #[tokio::test]
    async fn the_bound_holds_when_connections_do_not_end() {
        let (busy, work) = std::sync::mpsc::channel::<()>();
        let thread = ModelThread::spawn(move || work.recv().unwrap_or_default()).expect("a thread");
        let started = Instant::now();
        let outcome = drain(50).run(pending(), thread, async {}).await;
        assert!(outcome.is_ok() && started.elapsed() < Duration::from_secs(5), "{outcome:?}");
        drop(busy);
    }
}
