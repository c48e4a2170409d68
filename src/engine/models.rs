//! The models that one process serves: each an engine with a thread of its own, found by name.
//!
//! A request that found its engine keeps it until it is answered; so a model that is taken away answers what it has
//! begun, and only then does its thread end and its memory go back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::error::{EngineError, shortened};
use super::{Engine, ModelThread, ThreadState, Uploads};
use crate::settings::Settings;

/// The engines that are served, in the order they were added; cheap to clone.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

struct Inner {
    settings: Settings,
    uploads: Uploads,
    served: Mutex<Vec<Served>>,
    /// Counts what was added and taken away.
    changes: watch::Sender<u64>,
}

struct Served {
    name: String,
    engine: Engine,
    thread: ModelThread,
}

impl Models {
    /// No models yet; `settings` are those of the process.
    pub fn new(settings: Settings) -> Self {
        let uploads = Uploads::new(&settings);
        Self(Arc::new(Inner { settings, uploads, served: Mutex::default(), changes: watch::Sender::new(0) }))
    }

    /// The settings of the process.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The media that were sent ahead, for whichever model.
    pub fn uploads(&self) -> &Uploads {
        &self.0.uploads
    }

    /// Serves one more model under `name`. Fails if there is one of that name.
    pub fn add(&self, name: &str, engine: Engine, thread: ModelThread) -> Result<(), EngineError> {
        let mut served = self.served();
        if served.iter().any(|one| one.name == name) {
            return Err(EngineError::Present { what: "model", name: shortened(name) });
        }
        // One that has been used already keeps the name it had.
        let _ = engine.0.name.set(name.into());
        served.push(Served { name: name.into(), engine, thread });
        drop(served);
        self.0.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Takes a model away: no new request finds it, those that found it are answered. Its thread ends after them.
    pub fn remove(&self, name: &str) -> Result<ModelThread, EngineError> {
        let mut served = self.served();
        let Some(at) = served.iter().position(|one| one.name == name) else { return Err(unknown(name, &served)) };
        let removed = served.remove(at);
        drop(served);
        self.0.changes.send_modify(|changes| *changes += 1);
        Ok(removed.thread)
    }

    /// Takes all models away; their threads end when all is answered.
    pub fn close(&self) -> Vec<ModelThread> {
        let threads = self.served().drain(..).map(|one| one.thread).collect();
        self.0.changes.send_modify(|changes| *changes += 1);
        threads
    }

    /// The engine of the model called `name`; an empty name means the first.
    pub fn named(&self, name: &str) -> Result<Engine, EngineError> {
        self.entry(name).map(|(_, engine)| engine)
    }

    /// The same with the name under which it is served.
    pub fn entry(&self, name: &str) -> Result<(String, Engine), EngineError> {
        let served = self.served();
        match served.iter().find(|one| name.is_empty() || one.name == name) {
            Some(one) => Ok((one.name.clone(), one.engine.clone())),
            None => Err(unknown(name, &served)),
        }
    }

    /// All of them, each with its name.
    pub fn all(&self) -> Vec<(String, Engine)> {
        self.served().iter().map(|one| (one.name.clone(), one.engine.clone())).collect()
    }

    /// Resolves when the thread of a served model has panicked, and never otherwise.
    pub async fn failed(&self) {
        let mut changes = self.0.changes.subscribe();
        loop {
            let mut ends = JoinSet::new();
            for one in self.served().iter() {
                let mut thread = one.thread.clone();
                ends.spawn(async move { thread.ended().await });
            }
            tokio::select! {
                () = panicked(&mut ends) => return,
                // Whoever waits holds a sender: it is never gone.
                _ = changes.changed() => {}
            }
        }
    }

    fn served(&self) -> MutexGuard<'_, Vec<Served>> {
        self.0.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn panicked(ends: &mut JoinSet<ThreadState>) {
    while let Some(end) = ends.join_next().await {
        if matches!(end, Ok(ThreadState::Panicked)) {
            return;
        }
    }
    std::future::pending().await
}

fn unknown(name: &str, served: &[Served]) -> EngineError {
    EngineError::Unknown { asked: shortened(name), served: served.iter().map(|one| one.name.clone()).collect() }
}
