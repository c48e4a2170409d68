//! How serving ends: in order, and within a bound.
//!
//! Health says NOT_SERVING, the drain delay passes, nothing new is taken, what is in flight is finished; a connection
//! without a call ends when it has been quiet (`connection.rs`), so that one whose client has vanished holds nothing up.
//! At the bound every call still open ends with UNAVAILABLE, and every connection with it.
//!
//! tonic's own graceful shutdown waits for every connection, a half-open one for up to an hour; so it runs in a
//! task that is left behind should even that not end it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::engine::{Models, ThreadState};
use crate::settings::Settings;

/// Time that connections get beyond their quiet time to end themselves at the hard stop.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The thread of a model panicked; the process should end, for that model cannot answer any more.
    #[error("a model's thread panicked")]
    ModelThread,
    /// Traces cannot be told as they are asked for.
    #[error("{0}")]
    Traces(String),
    /// An origin that no browser sends.
    #[error("VLJEPA_WEB_ORIGINS has {0:?}, must be * or origins such as https://example.org:8443, separated by commas")]
    Origin(String),
    /// A certificate or a key cannot be served with.
    #[error(transparent)]
    File(#[from] super::FileError),
    /// The socket failed.
    #[error("the server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It has not begun.
    Serving,
    /// Health says NOT_SERVING; everything is still taken.
    Draining,
    /// Nothing new is taken; what is in flight is finished.
    Refusing,
    /// Nothing is waited for any more; whatever is still open hears its last word.
    Stopping,
}

/// Resolves when the end has come as far as `phase`.
pub(super) async fn reached(now: &mut watch::Receiver<Phase>, phase: Phase) {
    // Without its sender there is no server any more.
    drop(now.wait_for(|now| *now >= phase).await);
}

/// What a call may know of the end; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    phase: watch::Receiver<Phase>,
    hard_stop: Arc<OnceLock<Instant>>,
}

impl Ending {
    /// How far the end has come.
    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Time until nothing is waited for any more; none while the end has not begun.
    pub(super) fn time_left(&self) -> Duration {
        self.hard_stop.get().map_or(Duration::ZERO, |stop| stop.saturating_duration_since(Instant::now()))
    }
}

/// The steps of the end.
pub(super) struct Drain {
    delay: Duration,
    bound: Duration,
    quiet: Duration,
    phase: watch::Sender<Phase>,
    /// When the hard stop comes at the latest, once the end has begun.
    hard_stop: Arc<OnceLock<Instant>>,
}

impl Drain {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            delay: Duration::from_millis(settings.service.drain_delay_ms),
            bound: Duration::from_millis(settings.service.drain_max_ms),
            quiet: Duration::from_millis(settings.connection.drain_quiet_ms),
            phase: watch::Sender::new(Phase::Serving),
            hard_stop: Arc::default(),
        }
    }

    /// For calls that tell their clients of the end.
    pub(super) fn ending(&self) -> Ending {
        Ending { phase: self.phase(), hard_stop: self.hard_stop.clone() }
    }

    /// How far the end has come.
    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Resolves when nothing new is taken any more.
    pub(super) fn refused(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.phase();
        async move { reached(&mut phase, Phase::Refusing).await }
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
        let delay = if failed { Duration::ZERO } else { self.delay };
        // Set once, for serving ends once; and before anybody is told.
        let _ = self.hard_stop.set(Instant::now() + delay + self.bound);
        self.phase.send_replace(Phase::Draining);
        match failed {
            true => tracing::error!("a model's thread panicked"),
            false => {
                tracing::info!("draining");
                tokio::time::sleep(delay).await;
            }
        }
        self.phase.send_replace(Phase::Refusing);
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
            self.phase.send_replace(Phase::Stopping);
            // Last words are written, and the connections end themselves.
            if !serving.is_finished() {
                drop(tokio::time::timeout(self.quiet + LAST_WORDS_MAX, &mut serving).await);
                serving.abort();
            }
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
    use std::future::pending;

    fn models() -> (Models, Engine) {
        let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
        let models = Models::new(Settings::default());
        let (engine, thread) = Engine::start(model, Settings::default()).expect("a thread");
        models.add("one", engine.clone(), thread).expect("the first");
        (models, engine)
    }

    fn drain(bound_ms: u64) -> Drain {
        let mut settings = Settings::default();
        (settings.service.drain_max_ms, settings.connection.drain_quiet_ms) = (bound_ms, 10);
        Drain::new(&settings)
    }

    #[tokio::test]
    async fn a_panic_of_the_model_thread_ends_serving_with_an_error() {
        let (models, engine) = models();
        engine.panic_model_thread();
        let drain = drain(10_000);
        let (health, refused, ending) = (drain.phase(), drain.refused(), drain.ending());
        assert_eq!(ending.time_left(), Duration::ZERO);
        let serving = async {
            refused.await;
            Ok(())
        };
        let outcome = drain.run(serving, models, pending()).await;
        assert!(matches!(outcome, Err(ServeError::ModelThread)), "{outcome:?}");
        assert!(*health.borrow() >= Phase::Draining, "health was told");
        assert!((1..=10).contains(&ending.time_left().as_secs()), "{:?}", ending.time_left());
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
