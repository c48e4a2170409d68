//! The one thread that owns a model, and what it does with a batch.
//!
//! The loop is the whole scheduler: while the model runs, requests gather; what has gathered is the next batch.
//! A panic ends the thread; its end is seen by everybody through [`ModelThread`].

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::cache::Cache;
use super::error::EngineError;
use super::queue::{Batch, Entry, Load, Permit, Queue, Waiting};
use super::request::Timing;
use super::trail::{Stage, Trail};
use super::{name_of, seen};
use crate::embedding::{Embedding, Ranked, rank};
use crate::input::{Clip, Tokens};
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::model::error::ModelError;
use crate::model::vl_jepa::{Scene, VlJepa};

/// What the model is asked to do.
#[derive(Debug)]
pub enum Work {
    /// Nothing: show that the thread lives.
    Probe,
    /// Panic, so that what follows can be tested.
    Panic,
    /// Embed texts.
    Texts(Vec<Tokens>),
    /// Predict the embedding of an answer.
    Scene {
        /// What is seen.
        clip: Arc<Clip>,
        /// What is asked.
        question: Tokens,
        /// What happens to the embedding.
        then: Then,
    },
}

/// What happens to a predicted embedding.
#[derive(Debug)]
pub enum Then {
    /// It is the answer.
    Return,
    /// It is compared with these texts.
    Rank(Vec<Tokens>),
    /// It is put into words.
    Decode(DecodeOptions),
}

/// What the model found.
#[derive(Debug, Default)]
pub struct Found {
    /// The predicted embedding, or one a text; none for a probe.
    pub embeddings: Vec<Embedding>,
    /// Candidates, in the order given.
    pub ranked: Vec<Ranked>,
    /// What the decoder said.
    pub spoken: Option<String>,
    /// Tokens that the vision encoder made.
    pub visual_tokens: usize,
    /// Queue and model stages.
    pub timing: Timing,
}

/// Work and the one who waits for it.
#[derive(Debug)]
pub struct Job {
    /// The work.
    pub work: Work,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<Found, EngineError>>,
    /// Held until the job is gone.
    pub permit: Option<Permit>,
    /// Where its stages are told.
    pub trail: Trail,
}

impl Waiting for Job {
    fn abandoned(&self) -> bool {
        self.reply.is_closed() && !matches!(self.work, Work::Panic)
    }

    fn urgent(&self) -> bool {
        matches!(self.work, Work::Probe | Work::Panic)
    }
}

impl Job {
    fn answer(self, outcome: Result<Found, EngineError>) {
        let Self { reply, permit, .. } = self;
        // Before the reply: who has an answer must find the place free that it took.
        drop(permit);
        // The client may have gone meanwhile.
        let _ = reply.send(outcome);
    }
}

/// How a model thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadState {
    /// At work or waiting for work.
    Running,
    /// Everything is answered and nothing can come any more.
    Finished,
    /// It panicked.
    Panicked,
}

/// Sees a model thread from outside.
#[derive(Debug, Clone)]
pub struct ModelThread(watch::Receiver<ThreadState>);

impl ModelThread {
    /// Runs `work` in a thread of its own.
    pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let (state, thread) = watch::channel(ThreadState::Running);
        std::thread::Builder::new().name("model".into()).spawn(move || {
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(work));
            let _ = state.send(if outcome.is_ok() { ThreadState::Finished } else { ThreadState::Panicked });
        })?;
        Ok(Self(thread))
    }

    /// How it is now.
    pub fn state(&self) -> ThreadState {
        *self.0.borrow()
    }

    /// Resolves when it has ended.
    pub async fn ended(&mut self) -> ThreadState {
        // A sender that is gone has told its last state.
        let _ = self.0.wait_for(|&state| state != ThreadState::Running).await;
        self.state()
    }
}

/// The model and what it remembers.
pub(super) struct Worker {
    pub name: Arc<OnceLock<Arc<str>>>,
    pub model: Arc<VlJepa>,
    pub texts: Cache<Vec<u32>, Embedding>,
    pub batch_max: Load,
}

impl Worker {
    /// Answers what comes until every sender is gone; whoever still waits after a panic is told by the dropping of
    /// queue and inbox.
    pub fn run(mut self, inbox: Receiver<Entry<Job>>) {
        let mut queue = Queue::new(self.batch_max);
        while queue.fill(&inbox) {
            let batch = queue.next_batch(Instant::now());
            self.answer(batch);
        }
    }

    fn answer(&mut self, batch: Batch<Job>) {
        for entry in batch.expired {
            entry.work.answer(Err(EngineError::DeadlineExceeded));
        }
        let (probes, entries): (Vec<_>, Vec<_>) = batch.entries.into_iter().partition(|entry| entry.work.urgent());
        for probe in probes {
            assert!(!matches!(probe.work.work, Work::Panic), "asked to panic");
            probe.work.answer(Ok(Found::default()));
        }
        if entries.is_empty() {
            return;
        }
        let (started, name) = (Instant::now(), name_of(&self.name, &self.model));
        seen::batch(&name, entries.len(), entries.iter().map(|entry| entry.cost).sum());
        for Entry { work, class, arrived, .. } in &entries {
            seen::waited(&name, *class, started - *arrived);
            work.trail.passed(Stage { name: "queue", started: *arrived, ended: started });
        }
        let trails = entries.iter().map(|entry| entry.work.trail.clone()).collect();
        let stages = Stages { model: name, trails, timing: Timing::default() };
        match self.found(&entries.iter().map(|entry| &entry.work.work).collect::<Vec<_>>(), stages) {
            Ok(all) => {
                for (entry, mut found) in entries.into_iter().zip(all) {
                    found.timing.queue = started - entry.arrived;
                    entry.work.answer(Ok(found));
                }
            }
            Err(error) if entries.len() == 1 => {
                entries.into_iter().for_each(|entry| entry.work.answer(Err(model_failed(&error))));
            }
            // One hostile item fails alone.
            Err(_) => {
                entries.into_iter().for_each(|entry| self.answer(Batch { entries: vec![entry], expired: vec![] }))
            }
        }
    }

    /// Does all work of a batch, stage by stage.
    fn found(&mut self, batch: &[&Work], mut stages: Stages) -> Result<Vec<Found>, ModelError> {
        let mut found: Vec<Found> = batch.iter().map(|_| Found::default()).collect();
        self.predict(batch, &mut found, &mut stages)?;
        self.embed_texts(batch, &mut found, &mut stages)?;
        self.speak(batch, &mut found, &mut stages)?;
        for found in &mut found {
            found.timing = stages.timing;
        }
        Ok(found)
    }

    fn predict(&self, batch: &[&Work], found: &mut [Found], stages: &mut Stages) -> Result<(), ModelError> {
        let scenes: Vec<(usize, &Arc<Clip>, &Tokens)> = (0..)
            .zip(batch)
            .filter_map(|(at, work)| match work {
                Work::Scene { clip, question, .. } => Some((at, clip, question)),
                _ => None,
            })
            .collect();
        if scenes.is_empty() {
            return Ok(());
        }
        let (clips, which) = distinct(scenes.iter().map(|(_, clip, _)| *clip));
        let visual = stages.timed("vision", |timing| &mut timing.vision, || self.model.see(&clips))?;
        let asked: Vec<Scene> = scenes
            .iter()
            .zip(which)
            .map(|((_, _, question), clip)| Scene { visual: visual[clip].clone(), question: (*question).clone() })
            .collect();
        let embeddings = stages.timed("predictor", |timing| &mut timing.predictor, || self.model.predict(&asked))?;
        for (((at, ..), scene), embedding) in scenes.iter().zip(&asked).zip(embeddings) {
            found[*at].visual_tokens = scene.visual.len();
            found[*at].embeddings = vec![embedding];
        }
        Ok(())
    }

    /// Embeds texts and candidates, each distinct one once, and ranks the candidates.
    fn embed_texts(&mut self, batch: &[&Work], found: &mut [Found], stages: &mut Stages) -> Result<(), ModelError> {
        let started = Instant::now();
        let texts = batch.iter().flat_map(|work| match work {
            Work::Texts(texts) | Work::Scene { then: Then::Rank(texts), .. } => &texts[..],
            _ => &[],
        });
        let known = self.text_embeddings(texts)?;
        let logit_scale = self.model.facts().logit_scale;
        for (work, found) in batch.iter().zip(found) {
            match work {
                Work::Texts(texts) => found.embeddings = embeddings_of(texts, &known),
                Work::Scene { then: Then::Rank(candidates), .. } => {
                    let candidates = embeddings_of(candidates, &known);
                    let ranked = rank(&found.embeddings[0], &candidates, logit_scale);
                    found.ranked = ranked.expect("one model has one space");
                    found.ranked.sort_by_key(|ranked| ranked.index);
                }
                _ => {}
            }
        }
        if !known.is_empty() {
            stages.passed("text", |timing| &mut timing.text, started);
        }
        Ok(())
    }

    fn text_embeddings<'a>(
        &mut self,
        texts: impl Iterator<Item = &'a Tokens>,
    ) -> Result<HashMap<Vec<u32>, Embedding>, ModelError> {
        let mut known = HashMap::new();
        let mut missing: HashMap<&[u32], &Tokens> = HashMap::new();
        for text in texts {
            match self.texts.get(&text.ids) {
                Some(embedding) => drop(known.insert(text.ids.clone(), embedding)),
                None => drop(missing.insert(&text.ids, text)),
            }
        }
        let mut missing: Vec<Tokens> = missing.into_values().cloned().collect();
        missing.sort_by(|a, b| a.ids.cmp(&b.ids));
        // One request may bring more candidates than a batch should hold.
        let mut rest = &missing[..];
        while !rest.is_empty() {
            let mut cost = 0;
            let fits = rest
                .iter()
                .take_while(|text| {
                    cost += text.ids.len();
                    cost <= self.batch_max.cost
                })
                .count()
                .max(1);
            let (now, later) = rest.split_at(fits);
            for (text, embedding) in now.iter().zip(self.model.embed_text(now)?) {
                self.texts.insert(text.ids.clone(), embedding.clone());
                known.insert(text.ids.clone(), embedding);
            }
            rest = later;
        }
        Ok(known)
    }

    /// Puts embeddings into words: the greedy ones together, each sampled one alone, for its words must depend on
    /// its own seed and not on who else was asked.
    fn speak(&self, batch: &[&Work], found: &mut [Found], stages: &mut Stages) -> Result<(), ModelError> {
        let mut groups: Vec<(&DecodeOptions, Vec<usize>)> = Vec::new();
        for (at, work) in batch.iter().enumerate() {
            let Work::Scene { then: Then::Decode(options), .. } = work else { continue };
            match groups.iter_mut().find(|(other, _)| greedy_alike(other, options)) {
                Some((_, members)) => members.push(at),
                None => groups.push((options, vec![at])),
            }
        }
        for (options, members) in groups {
            let embeddings: Vec<Embedding> = members.iter().map(|&at| found[at].embeddings[0].clone()).collect();
            let spoken =
                stages.timed("decoder", |timing| &mut timing.decoder, || self.model.decode(&embeddings, options))?;
            for (at, text) in members.into_iter().zip(spoken) {
                found[at].spoken = Some(text);
            }
        }
        Ok(())
    }
}

fn embeddings_of(texts: &[Tokens], known: &HashMap<Vec<u32>, Embedding>) -> Vec<Embedding> {
    texts.iter().map(|text| known[&text.ids].clone()).collect()
}

fn greedy_alike(a: &DecodeOptions, b: &DecodeOptions) -> bool {
    a.sampling == TokenSampling::Greedy && a.sampling == b.sampling && a.max_tokens == b.max_tokens
}

fn model_failed(error: &ModelError) -> EngineError {
    EngineError::Internal(error.to_string())
}

/// Times the stages of one batch, and tells them to the metrics and to all whose work is in it.
struct Stages {
    model: Arc<str>,
    trails: Vec<Trail>,
    timing: Timing,
}

impl Stages {
    fn timed<T>(&mut self, name: &'static str, total: Total, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let outcome = work();
        self.passed(name, total, started);
        outcome
    }

    fn passed(&mut self, name: &'static str, total: Total, started: Instant) {
        let stage = Stage { name, started, ended: Instant::now() };
        *total(&mut self.timing) += stage.took();
        seen::stage(&self.model, name, stage.took());
        self.trails.iter().for_each(|trail| trail.passed(stage));
    }
}

/// The stage's place in the timing of its batch.
type Total = fn(&mut Timing) -> &mut Duration;

/// The clips that differ, and which of them each one is: equal pixels are seen once.
fn distinct<'a>(clips: impl Iterator<Item = &'a Arc<Clip>>) -> (Vec<Arc<Clip>>, Vec<usize>) {
    let mut seen: Vec<Arc<Clip>> = Vec::new();
    let which = clips
        .map(|clip| {
            let equal = |other: &Arc<Clip>| Arc::ptr_eq(other, clip) || other.pixels == clip.pixels;
            seen.iter().position(equal).unwrap_or_else(|| {
                seen.push(clip.clone());
                seen.len() - 1
            })
        })
        .collect();
    (seen, which)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_model_thread_is_seen() {
        let mut finished = ModelThread::spawn(|| {}).expect("a thread");
        assert_eq!(finished.ended().await, ThreadState::Finished);
        let mut panicked = ModelThread::spawn(|| panic!("a bug in the model")).expect("a thread");
        assert_eq!(panicked.ended().await, ThreadState::Panicked);
    }

    #[test]
    fn equal_clips_are_seen_once() {
        let clip = |value: f32| {
            let pixels = ndarray::Array4::from_elem((2, 3, 4, 4), value);
            Arc::new(Clip { pixels, frames_decoded: 2, frames_used: 2 })
        };
        let clips = [clip(1.0), clip(2.0), clip(1.0), clip(2.0), clip(3.0)];
        let (seen, which) = distinct(clips.iter());
        assert_eq!((seen.len(), which), (3, vec![0, 1, 0, 1, 2]));
    }
}
