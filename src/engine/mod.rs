//! Requests, batching and the one thread that owns a model.
//!
//! [`Engine`] is what the service and the commands hold: it prepares a request on the blocking pool, lets it
//! in by the door if there is room, and waits in the line for the model thread's answer until the deadline. Dropping
//! the last clone of it is the shutdown: the thread answers what it has and ends.

mod admission;
mod cache;
mod calls;
mod cost;
mod done;
mod error;
mod fitted;
mod line;
mod load;
mod look;
mod media;
mod memory;
mod models;
mod prepare;
mod queue;
mod request;
pub mod seen;
mod segments;
mod snapshot;
mod stages;
mod trail;
mod uploads;
mod work;
mod worker;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use admission::Load;
pub use cache::{Cache, CacheStats};
pub use cost::Passed;
pub use error::{Code, EngineError, shortened};
pub use fitted::Fitted;
pub use look::{Asked, Looked};
pub use models::{ModelState, Models};
pub use request::{
    Answer, Call, Choice, Class, ClipFacts, Embedded, Full, Manner, Media, MediaFrame, PixelOrder, Question, Timing,
    Usage,
};
pub use segments::Segment;
pub use snapshot::Snapshot;
pub use trail::{Stage, Steps, Trail};
pub use uploads::{Owner, Promise, Receipt, Stored, Upload, Uploads};
pub use worker::{ModelThread, ThreadState};

use crate::embedding::Space;
use crate::model::vl_jepa::VlJepa;
use crate::settings::Settings;
use admission::Admission;
use cache::TextCache;
use line::Line;
use queue::Rules;
use worker::Worker;

/// Answers requests; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    /// Under which it is served; given late, by who serves it.
    name: Arc<OnceLock<Arc<str>>>,
    model: Arc<VlJepa>,
    settings: Settings,
    rules: Rules,
    texts: Arc<TextCache>,
    studio: media::Studio,
    prepare: prepare::Prepare,
    door: Admission,
    line: Arc<Line>,
    /// Whether it is served no more.
    retired: watch::Sender<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.line.close();
    }
}

impl Engine {
    /// Starts the thread that owns `model`. Fails if the system gives no thread.
    pub fn start(model: VlJepa, settings: Settings) -> std::io::Result<(Self, ModelThread)> {
        let (model, queue) = (Arc::new(model), &settings.queue);
        let rules = Rules::new(queue);
        let texts = Arc::new(TextCache::new(queue.text_cache_items, queue.text_cache_bytes));
        let line = Arc::new(Line::new(rules.clone()));
        let name = Arc::new(OnceLock::new());
        let worker = Worker {
            name: name.clone(),
            model: model.clone(),
            texts: texts.clone(),
            texts_cost_max: rules.batch_max.cost,
            line: line.clone(),
        };
        let thread = ModelThread::spawn(move || worker.run())?;
        let inner = Inner {
            name,
            model,
            rules,
            texts,
            studio: media::Studio::new(&settings.media, Duration::from_millis(settings.service.retry_after_ms)),
            prepare: prepare::Prepare::new(&settings),
            door: Admission::new(Load { items: queue.items_max, cost: queue.cost_max }, queue),
            line,
            retired: watch::Sender::new(false),
            settings,
        };
        Ok((Self(Arc::new(inner)), thread))
    }

    /// The model, for what can be told about it.
    pub fn model(&self) -> &VlJepa {
        &self.0.model
    }

    /// The name under which it is served; the bundle's own if nobody gave it one before it was first used.
    pub fn name(&self) -> Arc<str> {
        name_of(&self.0.name, &self.0.model)
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Dimensions of the space.
    pub fn dimensions(&self) -> usize {
        self.0.model.facts().dimensions
    }

    /// The space of all embeddings.
    pub fn space(&self) -> Space {
        self.0.model.space()
    }

    /// What waits, what runs and how fast, now.
    pub fn load(&self) -> Snapshot {
        Snapshot::of(&self.0)
    }

    /// Asks the model thread for a sign of life, waiting until `deadline`. A thread that works shows it with every
    /// kernel it calls, however long its batch takes; one that shows nothing for the bound of the settings is ill.
    pub async fn probe(&self, deadline: Instant) -> Result<(), EngineError> {
        let bound = Duration::from_millis(self.0.settings.service.health_max_ms);
        match self.0.line.beats(bound, deadline).await {
            true => Ok(()),
            false => Err(EngineError::Stopped),
        }
    }

    /// Resolves when it is served no more, its model taken away or everything closed: who holds it for longer than one call
    /// lets go of it then, for the model's thread and memory go only with the last hand on it.
    pub async fn retired(&self) {
        let mut retired = self.0.retired.subscribe();
        // Its sender is this very engine's: it is not gone while somebody asks.
        let _ = retired.wait_for(|&retired| retired).await;
    }

    /// Makes the model thread panic, so that what follows can be tested.
    #[doc(hidden)]
    pub fn panic_model_thread(&self) {
        self.0.line.ask_for_panic();
    }
}

fn name_of(given: &OnceLock<Arc<str>>, model: &VlJepa) -> Arc<str> {
    given.get_or_init(|| model.facts().name.as_str().into()).clone()
}
