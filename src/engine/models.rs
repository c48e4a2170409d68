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
    shelf: Mutex<Shelf>,
    /// Counts what was added and taken away.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Shelf {
    served: Vec<Served>,
    /// Names that are taken although nothing answers to them.
    passing: Vec<(String, ModelState)>,
    /// Nothing is served any more.
    closed: bool,
}

/// What a model does that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// It comes.
    Loading,
    /// It goes.
    Unloading,
}

/// A name that is taken while its model comes or goes; free again when this is dropped.
pub(super) struct Passing {
    models: Models,
    name: String,
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
        Self(Arc::new(Inner { settings, uploads, shelf: Mutex::default(), changes: watch::Sender::new(0) }))
    }

    /// The settings of the process.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The media that were sent ahead, for whichever model.
    pub fn uploads(&self) -> &Uploads {
        &self.0.uploads
    }

    /// Serves one more model under `name`. Fails if there is one of that name, or if there are too many.
    pub fn add(&self, name: &str, engine: Engine, thread: ModelThread) -> Result<(), EngineError> {
        self.pass(name, ModelState::Loading)?.serve(engine, thread)
    }

    /// Takes a model away: no new request finds it, those that found it are answered. Its thread ends after them.
    pub fn remove(&self, name: &str) -> Result<ModelThread, EngineError> {
        self.take_away(name).map(|(thread, _)| thread)
    }

    /// The same, its name still taken.
    pub(super) fn take_away(&self, name: &str) -> Result<(ModelThread, Passing), EngineError> {
        let mut shelf = self.shelf();
        let Some(at) = shelf.served.iter().position(|one| one.name == name) else {
            return Err(unknown(name, &shelf.served));
        };
        let Served { name, thread, engine } = shelf.served.remove(at);
        engine.0.retired.send_replace(true);
        shelf.passing.push((name.clone(), ModelState::Unloading));
        drop((shelf, engine));
        self.changed();
        Ok((thread, Passing { models: self.clone(), name }))
    }

    /// Takes a name for a model that is not served yet.
    pub(super) fn pass(&self, name: &str, state: ModelState) -> Result<Passing, EngineError> {
        let mut shelf = self.shelf();
        let served = shelf.served.iter().map(|one| &one.name);
        let mut names = served.chain(shelf.passing.iter().map(|(name, _)| name));
        if names.any(|taken| taken == name) {
            return Err(EngineError::Present { what: "model", name: shortened(name) });
        }
        let (models, max) = (shelf.served.len() + shelf.passing.len(), self.0.settings.models.items_max);
        if models >= max {
            let problem = format!("is {max}, and there are {models} models");
            return Err(EngineError::Unfit { subject: "models.items_max".into(), problem });
        }
        shelf.passing.push((name.into(), state));
        Ok(Passing { models: self.clone(), name: name.into() })
    }

    /// Takes all models away; their threads end when all is answered. None can be added any more.
    pub fn close(&self) -> Vec<ModelThread> {
        let mut shelf = self.shelf();
        shelf.closed = true;
        let end = |one: Served| {
            one.engine.0.retired.send_replace(true);
            one.thread
        };
        let threads = shelf.served.drain(..).map(end).collect();
        drop(shelf);
        self.changed();
        threads
    }

    /// The names of those that come or go.
    pub fn passing(&self) -> Vec<(String, ModelState)> {
        self.shelf().passing.clone()
    }

    /// The engine of the model called `name`; an empty name means the first.
    pub fn named(&self, name: &str) -> Result<Engine, EngineError> {
        self.entry(name).map(|(_, engine)| engine)
    }

    /// The same with the name under which it is served.
    pub fn entry(&self, name: &str) -> Result<(String, Engine), EngineError> {
        let served = &self.shelf().served;
        match served.iter().find(|one| name.is_empty() || one.name == name) {
            Some(one) => Ok((one.name.clone(), one.engine.clone())),
            None => Err(unknown(name, served)),
        }
    }

    /// All of them, each with its name.
    pub fn all(&self) -> Vec<(String, Engine)> {
        self.shelf().served.iter().map(|one| (one.name.clone(), one.engine.clone())).collect()
    }

    /// Whether the thread of a served model has panicked.
    pub fn panicked(&self) -> bool {
        self.shelf().served.iter().any(|one| one.thread.state() == ThreadState::Panicked)
    }

    /// Resolves when the thread of a served model has panicked, and never otherwise.
    pub async fn failed(&self) {
        let mut changes = self.0.changes.subscribe();
        loop {
            let mut ends = JoinSet::new();
            for one in &self.shelf().served {
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

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passing {
    /// The model is here: it is served under its name from now on.
    pub(super) fn serve(mut self, engine: Engine, thread: ModelThread) -> Result<(), EngineError> {
        let mut shelf = self.models.0.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.closed {
            return Err(EngineError::Stopped);
        }
        // One step: nobody can take the name meanwhile, and then it is not this one's to give back.
        let name = std::mem::take(&mut self.name);
        shelf.passing.retain(|(passing, _)| *passing != name);
        // One that has been used already keeps the name it had.
        let _ = engine.0.name.set((*name).into());
        shelf.served.push(Served { name, engine, thread });
        drop(shelf);
        self.models.changed();
        Ok(())
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.models.shelf().passing.retain(|(name, _)| *name != self.name);
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
