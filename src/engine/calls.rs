//! What can be asked of an engine: each call prepares on the pool, enters by the door, waits in the line until the
//! deadline, and puts together what the model found. `entry.rs` is the door and the line.

mod entry;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::admission::Permit;
use super::done::{Done, embedded};
use super::error::EngineError;
use super::prepare::Wanted;
use super::request::{Answer, Call, Embedded, Manner, Question, Timing, Usage};
use super::seen;
use super::stages::pieces;
use super::trail::{Stage, Trail};
use super::work::{Scene, Text, Then, Work, unknown};
use super::{Engine, Inner};
use crate::embedding::Embedding;
use crate::input::{Clip, Tokens};
use crate::model::error::ModelError;
use entry::Begun;

impl Engine {
    /// Answers a question in words.
    pub async fn answer(&self, question: Question, manner: Manner, call: Call) -> Result<Answer, EngineError> {
        within(call.deadline, self.answer_until(question, manner, &call)).await
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
                let outcome = async { engine.scene(question?, |_, _| Ok(Then::Return), &call).await.map(embedded) };
                (at, within(call.deadline, outcome).await)
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
        within(call.deadline, self.embed_texts_until(texts, &call)).await
    }

    async fn answer_until(&self, question: Question, manner: Manner, call: &Call) -> Result<Answer, EngineError> {
        self.can(Some(&manner))?;
        let asked = manner.clone();
        let then = |inner: &Inner, wanted: &Wanted| inner.then(Some(asked), wanted);
        Ok(self.scene(question, then, call).await?.answer(Some(&manner)))
    }

    /// Whether the model has what answering in this manner takes.
    pub(super) fn can(&self, manner: Option<&Manner>) -> Result<(), EngineError> {
        match manner {
            Some(Manner::Speak(_)) if self.0.model.decoder.is_none() => {
                Err(EngineError::Missing { model: self.0.model.facts().name.clone(), part: "decoder" })
            }
            _ => Ok(()),
        }
    }

    async fn embed_texts_until(
        &self,
        texts: Vec<Result<String, EngineError>>,
        call: &Call,
    ) -> Result<Vec<Result<Embedded, EngineError>>, EngineError> {
        let started = Instant::now();
        call.trail.asks(&self.name());
        let permit = self.enter(call).await?;
        let texts = self
            .prepared(call, move |inner, wanted| {
                let each = (0..).zip(texts).map(|(at, text)| {
                    wanted.check()?;
                    Ok(text.and_then(|text| inner.text(&text, &format!("texts[{at}]"))))
                });
                each.collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let prepare = self.passed("prepare", started, &call.trail);
        let readable: Vec<Text> = texts.iter().flatten().cloned().collect();
        let permit = self.settle(permit, unknown(&readable), call).await?;
        let (embeddings, timing) = self.embed(readable, &permit, call).await?;
        let timing = Timing { prepare, total: started.elapsed(), ..timing };
        let mut embeddings = embeddings.into_iter();
        let each = texts.into_iter().map(|text| {
            let Tokens { ids, truncated } = text?.tokens;
            let usage = Usage { text_tokens: ids.len(), truncated, ..Usage::default() };
            let embedding = embeddings.next().expect("one embedding a text");
            Ok(Embedded { embedding, usage, timing })
        });
        Ok(each.collect())
    }

    /// Embeds texts in pieces of at most a batch each, so that others get their turn in between.
    async fn embed(
        &self,
        texts: Vec<Text>,
        permit: &Arc<Permit>,
        call: &Call,
    ) -> Result<(Vec<Embedding>, Timing), EngineError> {
        let cost = |text: &Text| if text.known.is_some() { 0 } else { text.tokens.ids.len() };
        let pieces = pieces(&texts, cost, self.0.rules.cost_max(call.class));
        let begun = pieces.into_iter().map(|piece| self.begin(Work::Texts(piece.to_vec()), permit, call));
        let begun: Vec<Begun> = begun.collect::<Result<_, _>>()?;
        let (mut embeddings, mut timing) = (Vec::with_capacity(texts.len()), Timing::default());
        for piece in begun {
            let found = piece.outcome().await?;
            embeddings.extend(found.embeddings);
            // They wait side by side and are computed one after the other.
            timing.queue = timing.queue.max(found.timing.queue);
            timing.text += found.timing.text;
        }
        Ok((embeddings, timing))
    }

    /// Prepares a scene and runs it.
    async fn scene(
        &self,
        question: Question,
        then: impl FnOnce(&Inner, &Wanted) -> Result<Then, EngineError> + Send + 'static,
        call: &Call,
    ) -> Result<Done, EngineError> {
        let started = Instant::now();
        call.trail.asks(&self.name());
        let permit = self.enter(call).await?;
        let (engine, trail) = (self.clone(), call.trail.clone());
        let scene = self
            .prepared(call, move |inner, wanted| {
                let began = Instant::now();
                let tokens = inner.question_tokens(&question.text)?;
                let then = then(inner, wanted)?;
                engine.passed("tokenize", began, &trail);
                let began = Instant::now();
                let tokens_of = |clip: &Clip| inner.visual_tokens(clip);
                let seen = inner.studio.seen(&question, &inner.model.preprocessor, tokens_of, wanted)?;
                engine.passed("decode", began, &trail);
                seen::frames(seen.clip.frames_decoded, seen.clip.frames_used);
                Ok(Scene { seen, question: tokens, then })
            })
            .await?;
        self.through(scene, permit, started, call).await
    }

    /// Runs a scene that was begun at `started` and is prepared now.
    pub(super) async fn through(
        &self,
        mut scene: Scene,
        permit: Permit,
        started: Instant,
        call: &Call,
    ) -> Result<Done, EngineError> {
        let prepare = self.passed("prepare", started, &call.trail);
        let mut usage = Usage {
            visual_tokens: 0,
            text_tokens: scene.question.ids.len(),
            frames_decoded: scene.seen.clip.frames_decoded,
            frames_used: scene.seen.clip.frames_used,
            truncated: scene.question.truncated,
            clip: Some(scene.seen.facts),
        };
        let permit = self.settle(permit, scene.cost().tokens(), call).await?;
        let ahead = self.candidates_ahead(&mut scene.then, &permit, call).await?;
        let mut found = self.begin(Work::Scene(scene), &permit, call)?.outcome().await?;
        found.timing.queue += ahead.queue;
        found.timing.text += ahead.text;
        usage.visual_tokens = found.visual_tokens;
        Ok(Done { found, usage, prepare, total: started.elapsed() })
    }

    /// Embeds candidates that are more than a batch before the work that asks for them, in pieces.
    pub(super) async fn candidates_ahead(
        &self,
        then: &mut Then,
        permit: &Arc<Permit>,
        call: &Call,
    ) -> Result<Timing, EngineError> {
        match then {
            Then::Rank(candidates) if unknown(candidates) > self.0.rules.cost_max(call.class) => {
                let (embeddings, timing) = self.embed(candidates.clone(), permit, call).await?;
                for (candidate, embedding) in candidates.iter_mut().zip(embeddings) {
                    candidate.known = Some(Arc::new(embedding));
                }
                Ok(timing)
            }
            _ => Ok(Timing::default()),
        }
    }

    /// Tells those who watch that a stage is over, and how long it took.
    pub(super) fn passed(&self, name: &'static str, started: Instant, trail: &Trail) -> Duration {
        let stage = Stage { name, started, ended: Instant::now() };
        trail.passed(stage);
        seen::stage(&self.name(), name, stage.took());
        stage.took()
    }

    pub(super) async fn prepared<T: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce(&Inner, &Wanted) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inner = self.0.clone();
        self.0.prepare.run(call, move |wanted| work(&inner, wanted)).await
    }
}

impl Inner {
    /// What becomes of an embedding that is asked for in this manner; none: it is the answer.
    pub(super) fn then(&self, manner: Option<Manner>, wanted: &Wanted) -> Result<Then, EngineError> {
        Ok(match manner {
            None => Then::Return,
            Some(Manner::Speak(options)) => Then::Decode(options),
            Some(Manner::Choose(texts)) => {
                let text = |(at, text): (usize, &String)| {
                    wanted.check()?;
                    self.text(text, &format!("candidates[{at}]"))
                };
                Then::Rank(texts.iter().enumerate().map(text).collect::<Result<_, _>>()?)
            }
        })
    }

    pub(super) fn question_tokens(&self, text: &str) -> Result<Tokens, EngineError> {
        readable("question", self.model.tokenize_question(text))
    }

    /// A text, and its embedding if it is remembered.
    fn text(&self, text: &str, field: &str) -> Result<Text, EngineError> {
        let tokens = readable(field, self.model.tokenize_text(text))?;
        Ok(Text { known: self.texts.asked(&tokens.ids), tokens })
    }

    pub(super) fn visual_tokens(&self, clip: &Clip) -> usize {
        let vision = &self.model.config.vision;
        (clip.pixels.shape()[0] / vision.tubelet_size).max(1) * vision.tokens_per_step()
    }
}

fn readable(field: &str, tokens: Result<Tokens, ModelError>) -> Result<Tokens, EngineError> {
    let invalid = |problem| EngineError::Invalid { field: field.into(), problem };
    match tokens {
        Ok(tokens) if tokens.ids.is_empty() => Err(invalid("has no word that is read".into())),
        Ok(tokens) => Ok(tokens),
        Err(error) => Err(invalid(error.to_string())),
    }
}

pub(super) async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or(Err(EngineError::DeadlineExceeded))
}
