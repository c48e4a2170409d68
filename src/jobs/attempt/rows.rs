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
use crate::engine::{
    Answer, Call, Class, ClipFacts, Embedded, Engine, EngineError, Full, Manner, Media, Question, Trail,
};
use crate::input::{Sampling, Windows};
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

/// An answer of the engine: about a whole clip, or about a segment of it.
struct Found {
    segment_ms: Option<[u64; 2]>,
    embedded: Embedded,
    ranked: Option<Ranked>,
}

impl Embedder {
    pub fn new(engine: &Engine, spec: Arc<Spec>) -> Self {
        let settings = engine.settings();
        Self {
            root: Root::of(&spec.input),
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
        let found = self.ask(&asked).await?.into_iter();
        Ok(found
            .map(|Found { segment_ms, embedded: Embedded { embedding, usage, .. }, ranked }| Done {
                row: number,
                id: id.into(),
                segment_ms,
                embedding,
                media: usage.clip.map(|ClipFacts { width, height, frames, duration_ms }| MediaFacts {
                    bytes,
                    width,
                    height,
                    frames,
                    duration_ms,
                }),
                ranked,
                truncated: usage.truncated,
            })
            .collect())
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
    async fn ask(&self, asked: &Asked) -> Result<Vec<Found>, Stopped> {
        let mut alone = false;
        loop {
            let outcome = match alone {
                false => {
                    let _beside = self.company.read().await;
                    self.ask_once(asked).await
                }
                true => {
                    let _alone = self.company.write().await;
                    self.ask_once(asked).await
                }
            };
            match outcome {
                Err(EngineError::Overloaded { retry_after, .. }) => tokio::time::sleep(retry_after).await,
                Err(EngineError::DeadlineExceeded) if !alone => alone = true,
                outcome => return Ok(outcome?),
            }
        }
    }

    async fn ask_once(&self, asked: &Asked) -> Result<Vec<Found>, EngineError> {
        let media = Media::File(asked.file.clone());
        let question = Question { media, sampling: Sampling::default(), text: asked.text.clone() };
        let candidates = &self.spec.candidates;
        let manner = (!candidates.is_empty()).then(|| Manner::Choose(candidates.clone()));
        Ok(match (self.spec.segments, manner) {
            (Some(Segments { window_ms, stride_ms }), manner) => {
                let windows = Windows { window_ms, stride_ms };
                let segments = self.engine.segments(question, windows, manner, self.call()).await?;
                segments.into_iter().map(|segment| Found::of(segment.answer, Some(segment.range_ms))).collect()
            }
            (None, Some(manner)) => vec![Found::of(self.engine.answer(question, manner, self.call()).await?, None)],
            (None, None) => {
                let embedded = self.engine.predict(vec![Ok(question)], self.call()).await.remove(0)?;
                vec![Found { segment_ms: None, embedded, ranked: None }]
            }
        })
    }
}

impl Found {
    fn of(Answer { text, choices, embedded }: Answer, segment_ms: Option<[u64; 2]>) -> Self {
        let scores: Vec<f32> = choices.iter().map(|choice| choice.score).collect();
        let ranked = (!scores.is_empty()).then_some(Ranked { answer: text, scores });
        Self { segment_ms, embedded, ranked }
    }
}

fn text_of(row: &Row) -> Option<&String> {
    match &row.item {
        Ok(Item::Text(text)) => Some(text),
        _ => None,
    }
}

/// Runs what waits for the disk away from the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Unread> + Send + 'static) -> Result<T, Stopped> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Stopped::Job(Fault::Stopped)),
    }
}
