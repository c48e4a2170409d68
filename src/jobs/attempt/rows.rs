//! What the engine is asked for a unit of rows, and what its answers and errors mean for them.
//!
//! An error of a row fails the row; that the model stops is nobody's fault; and where there is no room for now, the row
//! waits and asks again, for how full the machine is must not show in the output.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, RwLock};

use super::Through;
use super::reader::{MediaRow, Room, Unit};
use crate::engine::{Call, Class, Embedded, Engine, EngineError, Full, Manner, Media, Question, Trail};
use crate::input::Sampling;
use crate::jobs::inputs::{Root, Unread};
use crate::jobs::{Done, Failed, Failure, Fault, Item, MediaFacts, MediaPlace, Ranked, Row, Segments, Spec};

/// Asks the engine.
pub(super) struct Embedder {
    engine: Engine,
    spec: Arc<Spec>,
    root: Root,
    /// For the files that are read.
    room: Room,
    media_bytes_max: usize,
    /// Held by those who ask beside others, and by the one who asks alone.
    company: RwLock<()>,
}

/// Why a row is not through.
enum Stopped {
    Row(Failure),
    Job(Fault),
}

impl From<EngineError> for Stopped {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::Job(Fault::Stopped),
            other => Self::Row(other.into()),
        }
    }
}

impl From<Unread> for Stopped {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Row(failure) => Self::Row(failure),
            Unread::Job(fault) => Self::Job(fault),
        }
    }
}

/// A question that can be asked more than once.
struct Asked {
    file: Vec<u8>,
    text: String,
}

impl Embedder {
    pub fn new(engine: &Engine, spec: Arc<Spec>) -> Self {
        let settings = engine.settings();
        Self {
            root: Root::of(&spec.input, settings),
            room: Room::new(settings.jobs.ahead_bytes_max),
            media_bytes_max: settings.media.bytes_max,
            company: RwLock::default(),
            engine: engine.clone(),
            spec,
        }
    }

    /// What becomes of each row, in order.
    pub async fn embed(&self, unit: Unit) -> Result<Vec<Through>, Fault> {
        match unit {
            Unit::Words(rows) => self.words(rows).await,
            Unit::Media(row) => {
                let MediaRow { row: Row { number, id, item }, _held } = *row;
                match self.media(number, &id, item).await {
                    Ok(done) => Ok(vec![Through::Done(done)]),
                    Err(Stopped::Row(failure)) => Ok(vec![Through::Failed(Failed { row: number, id, failure })]),
                    Err(Stopped::Job(fault)) => Err(fault),
                }
            }
        }
    }

    /// A call of a row that begins now.
    fn call(&self) -> Call {
        let deadline = Instant::now() + Duration::from_millis(self.spec.item_ms_max);
        Call { class: Class::Job, deadline, full: Full::Wait, trail: Trail::default() }
    }

    async fn words(&self, rows: Vec<Row>) -> Result<Vec<Through>, Fault> {
        let texts: Vec<String> = rows.iter().filter_map(text_of).cloned().collect();
        let mut embedded = self.texts(texts).await?.into_iter();
        let through = rows.into_iter().map(|Row { number, id, item }| {
            let outcome = item.and_then(|_| embedded.next().expect("one outcome a text"));
            match outcome {
                Ok(Embedded { embedding, usage, .. }) => Through::Done(vec![Done {
                    row: number,
                    id,
                    segment_ms: None,
                    embedding,
                    media: None,
                    ranked: None,
                    truncated: usage.truncated,
                }]),
                Err(failure) => Through::Failed(Failed { row: number, id, failure }),
            }
        });
        Ok(through.collect())
    }

    /// One outcome a text. What many are refused for together is asked again by halves: in the end it is one text's.
    async fn texts(&self, texts: Vec<String>) -> Result<Vec<Result<Embedded, Failure>>, Fault> {
        let (mut outcomes, mut lots) = (Vec::with_capacity(texts.len()), vec![texts]);
        while let Some(mut lot) = lots.pop() {
            if lot.is_empty() {
                continue;
            }
            match self.engine.embed_texts(lot.iter().cloned().map(Ok).collect(), self.call()).await {
                Ok(found) => outcomes.extend(found.into_iter().map(|each| each.map_err(|error| self.of_text(error)))),
                Err(EngineError::Stopped) => return Err(Fault::Stopped),
                Err(EngineError::Overloaded { retry_after, .. }) => {
                    tokio::time::sleep(retry_after).await;
                    lots.push(lot);
                }
                Err(error) if lot.len() == 1 => outcomes.push(Err(self.of_text(error))),
                Err(_) => {
                    let later = lot.split_off(lot.len() / 2);
                    lots.extend([later, lot]);
                }
            }
        }
        Ok(outcomes)
    }

    /// The failure of a text, by its column instead of its place in a lot.
    fn of_text(&self, error: EngineError) -> Failure {
        match error {
            EngineError::Invalid { problem, .. } => {
                EngineError::Invalid { field: self.spec.input.columns.text.clone(), problem }.into()
            }
            other => other.into(),
        }
    }

    async fn media(&self, number: u64, id: &str, item: Result<Item, Failure>) -> Result<Vec<Done>, Stopped> {
        let (place, question) = match item.map_err(Stopped::Row)? {
            Item::Media { place, question } => (place, question),
            Item::Text(_) => unreachable!("a text is in a lot of texts"),
        };
        let (file, _held) = match place {
            MediaPlace::Bytes(file) => (file, None),
            MediaPlace::File(path) => {
                let (file, held) = self.read(path).await?;
                (file, Some(held))
            }
        };
        let bytes = file.len() as u64;
        let asked = Asked { file, text: question.or_else(|| self.spec.question.clone()).unwrap_or_default() };
        let done = |embedded: Embedded, ranked, segment_ms| Done {
            row: number,
            id: id.into(),
            segment_ms,
            media: embedded.usage.clip.map(|clip| MediaFacts {
                bytes,
                width: clip.width,
                height: clip.height,
                frames: clip.frames,
                duration_ms: clip.duration_ms,
            }),
            embedding: embedded.embedding,
            ranked,
            truncated: embedded.usage.truncated,
        };
        let Some(segments) = self.spec.segments else {
            let (embedded, ranked) = self.ask(&asked, Sampling::default()).await?;
            return Ok(vec![done(embedded, ranked, None)]);
        };
        let mut all = Vec::new();
        let (mut windows, mut at) = (vec![[0, segments.window_ms]], 0);
        while let Some(&[start, end]) = windows.get(at) {
            let sampling = Sampling { start_ms: Some(start), end_ms: Some(end), ..Sampling::default() };
            let (embedded, ranked) = self.ask(&asked, sampling).await?;
            if let Some(clip) = embedded.usage.clip.filter(|_| at == 0) {
                windows = windows_of(segments, clip.duration_ms);
            }
            all.push(done(embedded, ranked, Some([start, end])));
            at += 1;
        }
        Ok(all)
    }

    /// Reads a file, when there is room for it.
    async fn read(&self, path: PathBuf) -> Result<(Vec<u8>, OwnedSemaphorePermit), Stopped> {
        let (root, bytes_max) = (self.root.clone(), self.media_bytes_max);
        let file = blocking(move || root.open(&path, bytes_max)).await?;
        // Twice: the engine gets a copy, for the row may have to ask again.
        let held = self.room.hold(2 * file.bytes).await.map_err(Stopped::Job)?;
        Ok((blocking(move || file.read()).await?, held))
    }

    /// Asks one question, and ranks the candidates if there are any. A row whose time runs out among others of its shard
    /// gets it once more without them: how many are asked at once must not fail it.
    async fn ask(&self, asked: &Asked, sampling: Sampling) -> Result<(Embedded, Option<Ranked>), Stopped> {
        let mut alone = false;
        loop {
            let outcome = match alone {
                false => {
                    let _beside = self.company.read().await;
                    self.ask_once(asked, sampling).await
                }
                true => {
                    let _alone = self.company.write().await;
                    self.ask_once(asked, sampling).await
                }
            };
            match outcome {
                Err(EngineError::Overloaded { retry_after, .. }) => tokio::time::sleep(retry_after).await,
                Err(EngineError::DeadlineExceeded) if !alone => alone = true,
                outcome => return Ok(outcome?),
            }
        }
    }

    async fn ask_once(&self, asked: &Asked, sampling: Sampling) -> Result<(Embedded, Option<Ranked>), EngineError> {
        let question = Question { media: Media::File(asked.file.clone()), sampling, text: asked.text.clone() };
        let candidates = &self.spec.candidates;
        if candidates.is_empty() {
            let embedded = self.engine.predict(vec![Ok(question)], self.call()).await.remove(0)?;
            return Ok((embedded, None));
        }
        let answer = self.engine.answer(question, Manner::Choose(candidates.clone()), self.call()).await?;
        let scores = answer.choices.iter().map(|choice| choice.score).collect();
        Ok((answer.embedded, Some(Ranked { answer: answer.text, scores })))
    }
}

fn text_of(row: &Row) -> Option<&String> {
    match &row.item {
        Ok(Item::Text(text)) => Some(text),
        _ => None,
    }
}

/// The windows of a clip whose last frame is shown at `duration_ms`; the last one is as long as the others, or the clip
/// ends in it.
fn windows_of(segments: Segments, duration_ms: u64) -> Vec<[u64; 2]> {
    let starts = (0..=duration_ms).step_by(segments.stride_ms.max(1) as usize);
    starts.map(|start| [start, start + segments.window_ms]).collect()
}

/// Runs what waits for the disk away from the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Unread> + Send + 'static) -> Result<T, Stopped> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Stopped::Job(Fault::Stopped)),
    }
}
