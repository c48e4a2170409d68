//! What is done with a stream, in order: frames become windows, windows embeddings, and those that are worth it words.
//!
//! Nothing is begun while too many events are kept; what was begun is told to its end, so that the bound is passed by one
//! window's events at most.

mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::event::{Event, Finished, FrameFailed, Seen, Span, Stats, Trigger};
use super::seen;
use super::shared::Shared;
use super::spec::{Decode, Held, Spec};
use super::standing::Standing;
use super::still::is_still;
use super::task::Ready;
use super::windows::{Choice, Window, Windows};
use crate::embedding::Embedding;
use crate::engine::{Asked, Cache, Call, Class, Engine, EngineError, Fitted, Full, Manner, MediaFrame, Timing, Trail};
use crate::input;
use crate::settings::WatchSettings;

/// A picture of the stream; frames that are the same share it.
#[derive(Debug)]
struct Shown {
    number: u64,
    fitted: Arc<Fitted>,
    /// Whether the vision encoder has looked at it.
    encoded: AtomicBool,
}

/// A question that stands.
struct Posed {
    /// As the engine reads it.
    asked: Asked,
    /// How it is put into words; none: it never is.
    manner: Option<Manner>,
    /// Different for every question that ever stood in the session.
    version: u64,
    /// When it is put into words.
    standing: Standing,
    /// Let go with it.
    _held: Held,
}

/// How one session asks its engine.
#[derive(Debug, Clone)]
struct Asking {
    patience: Duration,
    trail: Trail,
}

impl Asking {
    fn call(&self) -> Call {
        let deadline = Instant::now() + self.patience;
        Call { class: Class::Watch, deadline, full: Full::Wait, trail: self.trail.clone() }
    }
}

/// Makes frames fit.
pub struct Fitter {
    engine: Engine,
    asking: Asking,
}

impl Fitter {
    /// Makes one fit.
    pub async fn fit(&self, picture: MediaFrame) -> Result<Fitted, EngineError> {
        self.engine.fit(picture, self.asking.call()).await
    }
}

/// Who looks at a stream.
pub struct Looker {
    /// Whom it asks.
    pub engine: Engine,
    asking: Asking,
    shared: Arc<Shared>,
    decode: Decode,
    still: f32,
    queries: Vec<Posed>,
    queries_max: usize,
    versions: u64,
    windows: Windows<Arc<Shown>>,
    /// The picture before, with which the next frame is compared.
    before: Option<Arc<Shown>>,
    /// Pictures there were.
    pictures: u64,
    /// Embeddings of pictures that were looked at, by query and pictures.
    known: Cache<(u64, Vec<u64>), Embedding>,
    /// The newest frame that was taken.
    seq: u64,
    /// Seconds of the stream that have begun.
    seconds: u64,
    stats: Stats,
}

impl Looker {
    /// Reads the queries of `spec`; fails where one cannot be asked, or where the model takes not so many frames.
    pub async fn new(
        engine: Engine,
        spec: Spec,
        bounds: &WatchSettings,
        trail: Trail,
        shared: Arc<Shared>,
    ) -> Result<Self, EngineError> {
        let Spec { queries, view, decode, drops: _ } = spec;
        let preprocessor = &engine.model().preprocessor;
        let frames = view.frames.or(preprocessor.num_frames());
        let choice =
            Choice { frames, frames_max: preprocessor.max_num_frames(), kept_max: bounds.window_frames_max.max(2) };
        let invalid = |field: &str, problem: String| EngineError::Invalid { field: field.into(), problem };
        if !(1..=choice.frames_max).contains(&frames.unwrap_or(1)) {
            let problem = format!("is {}, must be from 1 to {}", frames.unwrap_or(0), choice.frames_max);
            return Err(invalid("window.frames", problem));
        }
        if queries.is_empty() {
            return Err(invalid("queries", "is empty, must have one at least".into()));
        }
        let rule = input::Windows { window_ms: view.window_ms.max(1), stride_ms: view.stride_ms.max(1) };
        let mut looker = Self {
            asking: Asking { patience: Duration::from_millis(bounds.patience_ms), trail },
            engine,
            shared,
            decode,
            still: view.still,
            queries: Vec::new(),
            queries_max: bounds.queries_max,
            versions: 0,
            windows: Windows::new(rule, choice),
            before: None,
            pictures: 0,
            known: Cache::new(bounds.windows_kept_max, usize::MAX),
            seq: 0,
            seconds: 0,
            stats: Stats::default(),
        };
        for (at, query) in queries.into_iter().enumerate() {
            let posed = looker.poses(query, false).await;
            looker.queries.push(posed.map_err(|error| error.within(&format!("queries[{at}]")))?);
        }
        Ok(looker)
    }

    /// Who makes its frames fit.
    pub fn fitter(&self) -> Fitter {
        Fitter { engine: self.engine.clone(), asking: self.asking.clone() }
    }

    /// Does what is ready. An error is the session's end.
    pub async fn takes(&mut self, ready: Ready) -> Result<(), EngineError> {
        self.has_room().await;
        if let Some(notice) = self.shared.change(|state| state.inbox.take_notice()) {
            seen::frames("dropped", notice.frames);
            self.stats.frames_dropped += notice.frames;
            self.shared.tell(Event::Dropped(notice));
        }
        match ready {
            Ready::Frame { seq, fitted } => {
                self.seq = seq;
                self.frame(seq, fitted).await?;
                self.shared.change(|state| state.inbox.understood());
            }
            Ready::Request(request) => self.request(request).await?,
        }
        Ok(())
    }

    /// Waits until so much has been acknowledged that something may be begun.
    async fn has_room(&self) {
        self.shared.when(|state| state.outbox.has_room().then_some(())).await;
    }

    async fn frame(&mut self, seq: u64, fitted: Result<Fitted, EngineError>) -> Result<(), EngineError> {
        let usable = fitted.and_then(|fitted| self.windows.check(fitted.pts_ms()).map(|()| fitted));
        let fitted = match usable {
            Ok(fitted) => fitted,
            Err(EngineError::Stopped) => return Err(EngineError::Stopped),
            Err(error) => {
                seen::frames("failed", 1);
                self.stats.frames_failed += 1;
                self.shared.change(|state| state.inbox.known());
                self.fails(seq, error);
                return Ok(());
            }
        };
        let ms = fitted.pts_ms();
        let picture = self.shown(fitted);
        self.windows.push(seq, ms, picture);
        self.shared.change(|state| state.inbox.known());
        let seconds = self.windows.duration_ms() / 1000 + 1;
        let ticks = (seconds - self.seconds).saturating_mul(self.queries.len() as u64);
        self.stats.decodes_uniform_1hz = self.stats.decodes_uniform_1hz.saturating_add(ticks);
        self.seconds = seconds;
        while let Some(window) = self.windows.complete() {
            let due = self.window(window).await?;
            self.speak(due).await?;
        }
        Ok(())
    }

    /// The picture that a frame shows: the one before again where they are the same.
    fn shown(&mut self, fitted: Fitted) -> Arc<Shown> {
        let still = |before: &&Arc<Shown>| is_still(before.fitted.levels(), fitted.levels(), self.still);
        if let Some(before) = self.before.as_ref().filter(still) {
            seen::frames("still", 1);
            self.stats.frames_still += 1;
            return before.clone();
        }
        self.pictures += 1;
        let shown = Shown { number: self.pictures, fitted: Arc::new(fitted), encoded: AtomicBool::new(false) };
        self.before.insert(Arc::new(shown)).clone()
    }

    /// Looks at a window with every query. Returns which of them are to be put into words, and why.
    async fn window(&mut self, window: Window<Arc<Shown>>) -> Result<Vec<(usize, Trigger)>, EngineError> {
        self.has_room().await;
        self.stats.windows += 1;
        let numbers: Vec<u64> = window.pictures.iter().map(|picture| picture.number).collect();
        let known = |query: &Posed| self.known.get(&(query.version, numbers.clone()));
        let known: Vec<Option<Embedding>> = self.queries.iter().map(known).collect();
        let missing: Vec<usize> = (0..known.len()).filter(|&at| known[at].is_none()).collect();
        let (mut embeddings, mut timing) = (Vec::new(), Timing::default());
        if missing.is_empty() {
            self.stats.windows_repeated += 1;
        } else {
            let questions = missing.iter().map(|&at| self.queries[at].asked.clone()).collect();
            match self.look(&window.pictures, questions).await {
                Ok(looked) => (embeddings, timing) = looked,
                Err(EngineError::Stopped) => return Err(EngineError::Stopped),
                Err(error) => self.fails(window.span.seq[1], error),
            }
        }
        for (&at, embedding) in missing.iter().zip(&embeddings) {
            let bytes = size_of_val(&embedding.values[..]) + size_of_val(&numbers[..]);
            self.known.insert((self.queries[at].version, numbers.clone()), embedding.clone(), bytes);
        }
        let mut embeddings = embeddings.into_iter();
        let mut due = Vec::new();
        for (query, known) in known.into_iter().enumerate() {
            let repeated = known.is_some();
            let Some(embedding) = known.or_else(|| embeddings.next()) else { continue };
            let timing = if repeated { Timing::default() } else { timing };
            due.extend(self.sees(query, window.span, embedding, repeated, timing).map(|trigger| (query, trigger)));
        }
        Ok(due)
    }

    /// Asks questions about pictures.
    async fn look(
        &mut self,
        pictures: &[Arc<Shown>],
        questions: Vec<Asked>,
    ) -> Result<(Vec<Embedding>, Timing), EngineError> {
        let frames = pictures.iter().map(|picture| picture.fitted.clone()).collect();
        let looked = self.engine.look(frames, questions, self.asking.call()).await?;
        let new = pictures.iter().filter(|picture| !picture.encoded.swap(true, Ordering::Relaxed)).count() as u64;
        seen::frames("used", new);
        self.stats.frames_encoded += new;
        self.stats.vision_ms += looked.timing.vision.as_secs_f64() * 1e3;
        self.stats.predictor_ms += looked.timing.predictor.as_secs_f64() * 1e3;
        Ok((looked.embeddings, looked.timing))
    }

    /// Tells what a query found in a window, and whether it is to be put into words.
    fn sees(
        &mut self,
        query: usize,
        span: Span,
        embedding: Embedding,
        repeated: bool,
        timing: Timing,
    ) -> Option<Trigger> {
        let posed = &mut self.queries[query];
        let decided = posed.standing.sees(span, embedding.clone());
        if decided.trigger.is_none() && posed.manner.is_some() {
            seen::silent(decided.held);
        }
        self.stats.embeddings += 1;
        let drift = decided.drift;
        self.shared.tell(Event::Seen(Seen { query, span, drift, repeated, embedding, timing }));
        decided.trigger
    }

    /// Something could not be done, at this frame.
    fn fails(&self, seq: u64, error: EngineError) {
        self.shared.tell(Event::Failed(FrameFailed { seq, error }));
    }

    /// Tells the end, and why, if nobody asked for it.
    pub fn finish(&mut self, error: Option<EngineError>) {
        let shared = self.shared.clone();
        shared.end(|[frames, frames_dropped]| {
            seen::frames("dropped", frames_dropped - self.stats.frames_dropped);
            let frames_skipped = self.pictures - self.stats.frames_encoded;
            let duration_ms = self.windows.duration_ms();
            let stats = Stats { frames, frames_dropped, frames_skipped, duration_ms, ..self.stats };
            Finished { stats, error }
        });
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        seen::frames("skipped", self.pictures - self.stats.frames_encoded);
    }
}
