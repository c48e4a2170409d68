//! The one thread that owns a model, and what it does with a batch.
//!
//! The loop is the whole scheduler: while the model runs, requests gather; from what has gathered comes the next
//! batch. A panic ends the thread; its end is seen by everybody through [`ModelThread`].

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::watch;

use super::cache::TextCache;
use super::error::EngineError;
use super::line::Line;
use super::queue::{Batch, Entry};
use super::stages::{Outcome, Stages};
use super::trail::Stage;
use super::work::Job;
use super::{name_of, seen};
use crate::model::vl_jepa::VlJepa;

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

/// The model and what it works from.
pub(super) struct Worker {
    pub name: Arc<OnceLock<Arc<str>>>,
    pub model: Arc<VlJepa>,
    pub texts: Arc<TextCache>,
    pub texts_cost_max: usize,
    pub line: Arc<Line>,
}

/// However the thread ends, nobody waits for it any more.
struct Ending<'a>(&'a Line);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Worker {
    /// Answers what comes until nothing can come any more.
    pub fn run(self) {
        let _ending = Ending(&self.line);
        self.line.pulse().during(|| {
            while let Some(Batch { entries, expired, load }) = self.line.next_batch() {
                expired.into_iter().for_each(|entry| entry.work.answer(Err(EngineError::DeadlineExceeded)));
                if !entries.is_empty() {
                    seen::batch(&name_of(&self.name, &self.model), load.items, load.cost);
                    self.answer(entries);
                }
            }
        });
    }

    fn answer(&self, entries: Vec<Entry<Job>>) {
        let (started, name) = (Instant::now(), name_of(&self.name, &self.model));
        for Entry { call, arrived, .. } in &entries {
            seen::waited(&name, call.class, started - *arrived);
            call.trail.passed(Stage { name: "queue", started: *arrived, ended: started });
        }
        let Self { model, texts, texts_cost_max, .. } = self;
        let stages = Stages { name: &name, model, texts, texts_cost_max: *texts_cost_max };
        match stages.run(&entries) {
            Ok(Outcome { found, passed, timing }) => {
                self.line.learn(passed, &timing);
                for (entry, mut found) in entries.into_iter().zip(found) {
                    found.timing.queue = started - entry.arrived;
                    entry.work.answer(Ok(found));
                }
            }
            Err(error) if entries.len() == 1 => {
                let failed = EngineError::Internal(error.to_string());
                entries.into_iter().for_each(|entry| entry.work.answer(Err(failed.clone())));
            }
            // One hostile item fails alone.
            Err(_) => entries.into_iter().for_each(|entry| self.answer(vec![entry])),
        }
    }
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
}
