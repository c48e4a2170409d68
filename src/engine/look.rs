//! What streams ask of an engine: frames made fit one at a time, one clip looked at with several questions, and words for an
//! embedding that is there already. A stream that decodes rarely predicts always; so the two are calls of their own.

use std::sync::Arc;
use std::time::Instant;

use super::Engine;
use super::admission::Load;
use super::calls::within;
use super::done::{Done, embedded};
use super::error::EngineError;
use super::fitted::Fitted;
use super::request::{Answer, Call, Manner, MediaFrame, Timing, Usage};
use super::work::{Look, Words, Work};
use crate::embedding::Embedding;
use crate::input::{Clip, Tokens};

/// A question that is read once and asked of many clips; cheap to clone.
#[derive(Debug, Clone)]
pub struct Asked(Arc<Tokens>);

/// A clip as several questions found it.
#[derive(Debug, Clone)]
pub struct Looked {
    /// One answer embedding a question, in their order.
    pub embeddings: Vec<Embedding>,
    /// What it took; the text tokens are those of all questions.
    pub usage: Usage,
    /// How long it took.
    pub timing: Timing,
}

impl Engine {
    /// Reads a question for [`look`](Self::look), and makes sure that the model has what answering in this manner takes.
    pub async fn read(&self, question: String, manner: Option<Manner>, call: Call) -> Result<Asked, EngineError> {
        self.can(manner.as_ref())?;
        within(call.deadline, async {
            let _permit = self.enter_by(&call, |door| door.enter(call.class, Load::one(0))).await?;
            let read = self.prepared(&call, move |inner, wanted| {
                let tokens = inner.question_tokens(&question)?;
                inner.then(manner, wanted)?;
                Ok(Asked(Arc::new(tokens)))
            });
            read.await
        })
        .await
    }

    /// Decodes one frame, of an animation the first picture, and scales it to what the model looks at.
    pub async fn fit(&self, frame: MediaFrame, call: Call) -> Result<Fitted, EngineError> {
        within(call.deadline, async {
            // It asks nothing of the model, but it takes a place.
            let _permit = self.enter_by(&call, |door| door.enter(call.class, Load::one(0))).await?;
            let (engine, trail) = (self.clone(), call.trail.clone());
            let fitting = self.prepared(&call, move |inner, wanted| {
                let began = Instant::now();
                let fitted = inner.studio.fitted(&frame, &inner.model.preprocessor, wanted)?;
                engine.passed("decode", began, &trail);
                Ok(fitted)
            });
            fitting.await
        })
        .await
    }

    /// Asks several questions about the clip of these frames; it goes through the vision encoder once.
    pub async fn look(
        &self,
        frames: Vec<Arc<Fitted>>,
        questions: Vec<Asked>,
        call: Call,
    ) -> Result<Looked, EngineError> {
        if questions.is_empty() {
            return Err(EngineError::Invalid {
                field: "questions".into(),
                problem: "is empty, must be at least 1".into(),
            });
        }
        within(call.deadline, async {
            let started = Instant::now();
            call.trail.asks(&self.name());
            let permit = self.enter(&call).await?;
            let look = self.prepared(&call, move |inner, wanted| {
                let tokens_of = |clip: &Clip| inner.visual_tokens(clip);
                let seen = inner.studio.assembled(&frames, &inner.model.preprocessor, tokens_of, wanted)?;
                Ok(Look { seen, questions: questions.into_iter().map(|Asked(tokens)| (*tokens).clone()).collect() })
            });
            let look = look.await?;
            let prepare = self.passed("prepare", started, &call.trail);
            let mut usage = Usage {
                visual_tokens: 0,
                text_tokens: look.questions.iter().map(|question| question.ids.len()).sum(),
                frames_decoded: look.seen.clip.frames_decoded,
                frames_used: look.seen.clip.frames_used,
                truncated: look.questions.iter().any(|question| question.truncated),
                clip: Some(look.seen.facts),
            };
            let permit = self.settle(permit, look.cost().tokens(), &call).await?;
            let found = self.begin(Work::Look(look), &permit, &call)?.outcome().await?;
            usage.visual_tokens = found.visual_tokens;
            let timing = Timing { prepare, total: started.elapsed(), ..found.timing };
            Ok(Looked { embeddings: found.embeddings, usage, timing })
        })
        .await
    }

    /// Puts an embedding into words: nothing is predicted again. It must be of the model's space, of full length, and of
    /// finite values, their squares adding up to 1.
    pub async fn words(&self, embedding: Embedding, manner: Manner, call: Call) -> Result<Answer, EngineError> {
        self.can(Some(&manner))?;
        self.knows(&embedding)?;
        within(call.deadline, async {
            let started = Instant::now();
            call.trail.asks(&self.name());
            let permit = self.enter(&call).await?;
            let asked = manner.clone();
            let then = self.prepared(&call, move |inner, wanted| inner.then(Some(asked), wanted)).await?;
            let prepare = self.passed("prepare", started, &call.trail);
            let mut words = Words { embedding, then };
            let permit = self.settle(permit, words.cost().tokens(), &call).await?;
            let ahead = self.candidates_ahead(&mut words.then, &permit, &call).await?;
            let mut found = self.begin(Work::Words(words), &permit, &call)?.outcome().await?;
            found.timing.queue += ahead.queue;
            found.timing.text += ahead.text;
            let (text, choices) = found.words(Some(&manner));
            let done = Done { found, usage: Usage::default(), prepare, total: started.elapsed() };
            Ok(Answer { text, choices, embedded: embedded(done) })
        })
        .await
    }

    /// Whether an embedding that came from outside is one of this model's.
    fn knows(&self, embedding: &Embedding) -> Result<(), EngineError> {
        let Embedding { values, space } = embedding;
        let problem = match values.iter().find(|value| !value.is_finite()) {
            _ if *space != self.space() => format!("is of space {space}, must be of {}", self.space()),
            _ if values.len() != self.dimensions() => {
                format!("has {} dimensions, must have {}", values.len(), self.dimensions())
            }
            Some(value) => format!("holds {value}, must be finite"),
            None => return Ok(()),
        };
        Err(EngineError::Invalid { field: "embedding".into(), problem })
    }
}
