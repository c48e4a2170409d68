//! Requests, batching and the one thread that owns a model.
//!
//! [`Engine`] is what the service and the commands hold: it prepares a request on the blocking pool, lets it
//! into the queue if there is room, and waits for the model thread's answer until the deadline. Dropping the
//! last clone of it is the shutdown: the thread answers what it has and ends.

mod cache;
mod error;
mod load;
mod models;
mod prepare;
mod queue;
mod request;
pub mod seen;
mod trail;
mod uploads;
mod worker;

use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use error::{EngineError, shortened};
pub use models::{ModelState, Models};
pub use queue::Load;
pub use request::{
    Answer, Call, Choice, Class, Embedded, Manner, Media, MediaFrame, PixelOrder, Question, Timing, Usage,
};
pub use trail::{Stage, Steps, Trail};
pub use uploads::{Owner, Promise, Receipt, Stored, Upload, Uploads};
pub use worker::{ModelThread, ThreadState};

use crate::embedding::Space;
use crate::input::{Clip, MediaLimits, Tokens};
use crate::model::decoder::DecodeOptions;
use crate::model::error::ModelError;
use crate::model::vl_jepa::VlJepa;
use crate::settings::Settings;
use queue::{Admission, Entry};
use worker::{Found, Job, Then, Work, Worker};

/// Answers requests; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    /// Under which it is served; given late, by who serves it.
    name: Arc<OnceLock<Arc<str>>>,
    model: Arc<VlJepa>,
    media_limits: MediaLimits,
    settings: Settings,
    prepare: prepare::Prepare,
    door: Admission,
    inbox: mpsc::Sender<Entry<Job>>,
}

impl Engine {
    /// Starts the thread that owns `model`. Fails if the system gives no thread.
    pub fn start(model: VlJepa, settings: Settings) -> std::io::Result<(Self, ModelThread)> {
        let model = Arc::new(model);
        let queue = &settings.queue;
        let batch_max = Load { items: queue.batch_items_max, cost: queue.batch_cost_max };
        let name = Arc::new(OnceLock::new());
        let texts = cache::Cache::new(queue.text_cache_items);
        let worker = Worker { name: name.clone(), model: model.clone(), texts, batch_max };
        let (inbox, outlet) = mpsc::channel();
        let thread = ModelThread::spawn(move || worker.run(outlet))?;
        let threads = match settings.cpu.decode_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let retry_after = Duration::from_millis(settings.service.retry_after_ms);
        let inner = Inner {
            name,
            model,
            media_limits: media_limits(&settings),
            prepare: prepare::Prepare::new(queue.items_max, threads, retry_after),
            door: Admission::new(Load { items: queue.items_max, cost: queue.cost_max }),
            inbox,
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

    /// Answers a question in words.
    pub async fn answer(&self, question: Question, manner: Manner, call: Call) -> Result<Answer, EngineError> {
        within(call.deadline, self.answer_until(question, manner, call)).await
    }

    /// Predicts the embedding of the answer to each question; each one succeeds or fails alone, and one that has
    /// been refused before keeps its error.
    pub async fn predict(
        &self,
        questions: Vec<Result<Question, EngineError>>,
        call: Call,
    ) -> Vec<Result<Embedded, EngineError>> {
        let mut outcomes = vec![Err(EngineError::Stopped); questions.len()];
        // Dropped with the caller, and then all its tasks end.
        let mut tasks = JoinSet::new();
        for (at, question) in questions.into_iter().enumerate() {
            let (engine, call) = (self.clone(), call.clone());
            tasks.spawn(async move {
                let deadline = call.deadline;
                let outcome = async { engine.scene(question?, |_| Ok(Then::Return), call).await.map(embedded) };
                (at, within(deadline, outcome).await)
            });
        }
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok((at, outcome)) => outcomes[at] = outcome,
                Err(error) => tracing::error!(%error, "an item's task failed"),
            }
        }
        outcomes
    }

    /// Embeds texts, as one piece of work; an unreadable one fails alone, and one that has been refused before
    /// keeps its error.
    pub async fn embed_texts(
        &self,
        texts: Vec<Result<String, EngineError>>,
        call: Call,
    ) -> Result<Vec<Result<Embedded, EngineError>>, EngineError> {
        within(call.deadline, self.embed_texts_until(texts, call)).await
    }

    /// Asks the model thread for a sign of life, waiting until `deadline`.
    pub async fn probe(&self, deadline: Instant) -> Result<(), EngineError> {
        // No permit: a full house is no sign of illness.
        within(deadline, self.send(Work::Probe, 0, Call::interactive(deadline), None)).await.map(drop)
    }

    /// Makes the model thread panic, so that what follows can be tested.
    #[doc(hidden)]
    pub fn panic_model_thread(&self) {
        let (reply, _) = oneshot::channel();
        let now = Instant::now();
        let work = Job { work: Work::Panic, reply, permit: None, trail: Trail::default() };
        let _ = self.0.inbox.send(Entry {
            work,
            cost: 0,
            arrived: now,
            class: Class::Interactive,
            deadline: now + Duration::from_secs(60),
        });
    }

    async fn answer_until(&self, question: Question, manner: Manner, call: Call) -> Result<Answer, EngineError> {
        let candidates = match &manner {
            Manner::Choose(candidates) => candidates.clone(),
            Manner::Speak(_) if self.0.model.decoder.is_none() => {
                return Err(EngineError::Missing { model: self.0.model.facts().name.clone(), part: "decoder" });
            }
            Manner::Speak(_) => vec![],
        };
        let then = move |inner: &Inner| {
            Ok(match manner {
                Manner::Speak(options) => Then::Decode(options),
                Manner::Choose(texts) => {
                    let tokens = (0..).zip(&texts).map(|(at, text)| inner.tokens(text, &format!("candidates[{at}]")));
                    Then::Rank(tokens.collect::<Result<_, _>>()?)
                }
            })
        };
        let mut done = self.scene(question, then, call).await?;
        let ranked = std::mem::take(&mut done.found.ranked);
        // Of equals the first given.
        let best = ranked.iter().rev().max_by(|a, b| a.cosine.total_cmp(&b.cosine));
        let text = match best {
            Some(best) => candidates[best.index].clone(),
            None => done.found.spoken.take().unwrap_or_default(),
        };
        let choices = ranked
            .iter()
            .zip(candidates)
            .map(|(ranked, text)| Choice { text, score: ranked.score, cosine: ranked.cosine })
            .collect();
        Ok(Answer { text, choices, embedded: embedded(done) })
    }

    async fn embed_texts_until(
        &self,
        texts: Vec<Result<String, EngineError>>,
        call: Call,
    ) -> Result<Vec<Result<Embedded, EngineError>>, EngineError> {
        let started = Instant::now();
        call.trail.asks(&self.name());
        let tokens = self
            .prepared(move |inner| {
                let each = (0..).zip(texts).map(|(at, text)| inner.tokens(&text?, &format!("texts[{at}]")));
                Ok(each.collect::<Vec<_>>())
            })
            .await?;
        let prepare = self.passed("prepare", started, &call.trail);
        let readable: Vec<Tokens> = tokens.iter().flatten().cloned().collect();
        let cost = readable.iter().map(|tokens| tokens.ids.len()).sum();
        let found = self.run(Work::Texts(readable), cost, call).await?;
        let timing = Timing { prepare, total: started.elapsed(), ..found.timing };
        let mut embeddings = found.embeddings.into_iter();
        let each = tokens.into_iter().map(|tokens| {
            let Tokens { ids, truncated } = tokens?;
            let usage = Usage { text_tokens: ids.len(), truncated, ..Usage::default() };
            let embedding = embeddings.next().expect("one embedding a text");
            Ok(Embedded { embedding, usage, timing })
        });
        Ok(each.collect())
    }

    /// Prepares a scene and runs it.
    async fn scene(
        &self,
        question: Question,
        then: impl FnOnce(&Inner) -> Result<Then, EngineError> + Send + 'static,
        call: Call,
    ) -> Result<Done, EngineError> {
        let started = Instant::now();
        call.trail.asks(&self.name());
        let (engine, trail) = (self.clone(), call.trail.clone());
        let (clip, tokens, then) = self
            .prepared(move |inner| {
                let began = Instant::now();
                let tokens = inner.question_tokens(&question.text)?;
                let then = then(inner)?;
                engine.passed("tokenize", began, &trail);
                let began = Instant::now();
                let clip = prepare::clip(&question, &inner.model.preprocessor, &inner.media_limits)?;
                engine.passed("decode", began, &trail);
                seen::frames(clip.frames_decoded, clip.frames_used);
                Ok((clip, tokens, then))
            })
            .await?;
        let prepare = self.passed("prepare", started, &call.trail);
        let mut usage = Usage {
            visual_tokens: 0,
            text_tokens: tokens.ids.len(),
            frames_decoded: clip.frames_decoded,
            frames_used: clip.frames_used,
            truncated: tokens.truncated,
        };
        let cost = self.0.cost(&clip, &tokens, &then);
        let work = Work::Scene { clip: Arc::new(clip), question: tokens, then };
        let found = self.run(work, cost, call).await?;
        usage.visual_tokens = found.visual_tokens;
        Ok(Done { found, usage, prepare, total: started.elapsed() })
    }

    /// Tells those who watch that a stage is over, and how long it took.
    fn passed(&self, name: &'static str, started: Instant, trail: &Trail) -> Duration {
        let stage = Stage { name, started, ended: Instant::now() };
        trail.passed(stage);
        seen::stage(&self.name(), name, stage.took());
        stage.took()
    }

    async fn prepared<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inner = self.0.clone();
        self.0.prepare.run(move || work(&inner)).await
    }

    /// Lets work into the queue and waits for its outcome.
    async fn run(&self, work: Work, cost: usize, call: Call) -> Result<Found, EngineError> {
        let Inner { door, settings, .. } = &*self.0;
        let cost_max = door.max().cost;
        if cost > cost_max {
            seen::refused("too_large");
            return Err(EngineError::TooLarge { cost, cost_max });
        }
        let retry_after = Duration::from_millis(settings.service.retry_after_ms);
        let full = EngineError::Overloaded { what: "the queue", retry_after };
        let permit = door.enter(Load { items: 1, cost }).ok_or_else(|| {
            seen::refused("queue");
            full
        })?;
        call.trail.queues(call.class, cost);
        self.send(work, cost, call, Some(permit)).await
    }

    async fn send(
        &self,
        work: Work,
        cost: usize,
        call: Call,
        permit: Option<queue::Permit>,
    ) -> Result<Found, EngineError> {
        let (reply, outcome) = oneshot::channel();
        let work = Job { work, reply, permit, trail: call.trail };
        let entry = Entry { work, cost, arrived: Instant::now(), class: call.class, deadline: call.deadline };
        self.0.inbox.send(entry).map_err(|_| EngineError::Stopped)?;
        outcome.await.map_err(|_| EngineError::Stopped)?
    }
}

impl Inner {
    fn question_tokens(&self, text: &str) -> Result<Tokens, EngineError> {
        readable("question", self.model.tokenize_question(text))
    }

    fn tokens(&self, text: &str, field: &str) -> Result<Tokens, EngineError> {
        readable(field, self.model.tokenize_text(text))
    }

    /// Tokens that pass through the model: visual ones, the question's, and the candidates' or the decoder's.
    fn cost(&self, clip: &Clip, question: &Tokens, then: &Then) -> usize {
        let vision = &self.model.config.vision;
        let visual = (clip.pixels.shape()[0] / vision.tubelet_size).max(1) * vision.tokens_per_step();
        let words = match then {
            Then::Return => 0,
            Then::Rank(candidates) => candidates.iter().map(|text| text.ids.len()).sum(),
            Then::Decode(DecodeOptions { max_tokens, .. }) => *max_tokens,
        };
        visual + question.ids.len() + words
    }
}

fn name_of(given: &OnceLock<Arc<str>>, model: &VlJepa) -> Arc<str> {
    given.get_or_init(|| model.facts().name.as_str().into()).clone()
}

fn readable(field: &str, tokens: Result<Tokens, ModelError>) -> Result<Tokens, EngineError> {
    let invalid = |problem| EngineError::Invalid { field: field.into(), problem };
    match tokens {
        Ok(tokens) if tokens.ids.is_empty() => Err(invalid("has no word that is read".into())),
        Ok(tokens) => Ok(tokens),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// A scene that has been through the model.
struct Done {
    found: Found,
    usage: Usage,
    prepare: Duration,
    total: Duration,
}

fn embedded(Done { found, usage, prepare, total }: Done) -> Embedded {
    let timing = Timing { prepare, total, ..found.timing };
    let embedding = found.embeddings.into_iter().next().expect("a scene has an embedding");
    Embedded { embedding, usage, timing }
}

fn media_limits(settings: &Settings) -> MediaLimits {
    let media = &settings.media;
    MediaLimits {
        bytes_max: media.bytes_max,
        pixels_max: media.pixels_max,
        frames_max: media.frames_max,
        decode_bytes_max: media.decode_bytes_max,
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or(Err(EngineError::DeadlineExceeded))
}
