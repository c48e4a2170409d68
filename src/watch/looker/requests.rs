//! What is asked of a stream beside its frames: changed queries, flushes, words; and how words are made.

use futures::future::join_all;

use super::{Looker, Posed};
use crate::embedding::Embedding;
use crate::engine::{Answer, EngineError, Manner};
use crate::watch::event::{Event, Span, Spoken, Trigger};
use crate::watch::seen;
use crate::watch::spec::{Input, Query};
use crate::watch::standing::{Latest, Standing};

impl Looker {
    /// Does what was asked. An error is the session's end; what cannot be is told and the session goes on.
    pub(super) async fn request(&mut self, request: Input) -> Result<(), EngineError> {
        let outcome = match request {
            Input::Flush => return self.flush().await,
            Input::Stop => return self.stop().await,
            Input::Update { query, to } => self.update(query, to).await,
            Input::Speak { query, embedding, range_ms } => self.speak_of(query, embedding, range_ms).await,
            // Frames come made fit.
            Input::Frame(_) => Ok(()),
        };
        match outcome {
            Err(EngineError::Stopped) => Err(EngineError::Stopped),
            Err(error) => {
                self.fails(self.seq, error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A query as it stands from now on.
    pub(super) async fn poses(&mut self, query: Query, changed: bool) -> Result<Posed, EngineError> {
        let Query { question, manner, held } = query;
        let asked = self.engine.read(question, manner.clone(), self.asking.call()).await?;
        self.versions += 1;
        let standing = Standing::new(self.decode, manner.is_some(), changed);
        Ok(Posed { asked, manner, version: self.versions, standing, _held: held })
    }

    async fn update(&mut self, query: usize, to: Query) -> Result<(), EngineError> {
        let (there, max) = (self.queries.len(), self.queries_max);
        if query > there || query >= max.max(there) {
            let most = there.min(max.max(there) - 1);
            let problem =
                format!("is {query}, must be at most {most}: there are {there} queries, at most {max} may be");
            return Err(EngineError::Invalid { field: "update_query.query".into(), problem });
        }
        let posed = self.poses(to, query < there).await.map_err(|error| error.within("update_query.to"))?;
        match self.queries.get_mut(query) {
            Some(stood) => *stood = posed,
            None => self.queries.push(posed),
        }
        Ok(())
    }

    /// Looks at what has come, whole window or not, and puts every query's latest window into words.
    async fn flush(&mut self) -> Result<(), EngineError> {
        let mut next = self.windows.rest();
        while let Some(window) = next {
            next = self.windows.rest();
            let due = self.window(window).await?;
            // The last one becomes words anyway.
            if next.is_some() {
                self.speak(due).await?;
            }
        }
        let flushed = (0..self.queries.len()).filter(|&query| self.queries[query].standing.flushed().is_some());
        let due: Vec<(usize, Trigger)> =
            flushed.collect::<Vec<_>>().into_iter().map(|at| (at, Trigger::Flush)).collect();
        self.speak(due).await
    }

    async fn stop(&mut self) -> Result<(), EngineError> {
        while let Some(window) = self.windows.rest() {
            let due = self.window(window).await?;
            self.speak(due).await?;
        }
        Ok(())
    }

    /// Puts the latest windows of these queries into words, side by side, and tells them in order.
    pub(super) async fn speak(&mut self, due: Vec<(usize, Trigger)>) -> Result<(), EngineError> {
        let asked: Vec<(usize, Trigger, Latest, Manner)> = due
            .into_iter()
            .filter_map(|(query, trigger)| {
                let posed = &self.queries[query];
                Some((query, trigger, posed.standing.latest()?.clone(), posed.manner.clone()?))
            })
            .collect();
        let words = |(_, _, latest, manner): &(usize, Trigger, Latest, Manner)| {
            self.engine.words(latest.embedding.clone(), manner.clone(), self.asking.call())
        };
        let answers = join_all(asked.iter().map(words)).await;
        for ((query, trigger, latest, _), answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(answer) => self.spoken(query, trigger, latest.segment, latest.drift, answer),
                Err(EngineError::Stopped) => return Err(EngineError::Stopped),
                Err(error) => {
                    self.fails(latest.segment.seq[1], error);
                    if trigger != Trigger::Flush {
                        self.queries[query].standing.owes(trigger);
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts an embedding that was brought along into words.
    async fn speak_of(&mut self, query: usize, embedding: Embedding, ms: [u64; 2]) -> Result<(), EngineError> {
        let invalid = |problem: String| EngineError::Invalid { field: "speak.query".into(), problem };
        let posed = self.queries.get(query);
        let posed = posed.ok_or_else(|| {
            invalid(format!("is {query}, must be below {}, the number of queries", self.queries.len()))
        })?;
        let manner = posed.manner.clone();
        let manner = manner.ok_or_else(|| invalid(format!("is {query}, which is never put into words")))?;
        // A mean of embeddings is shorter than they are.
        let embedding = Embedding::normalized(embedding.values, embedding.space);
        let answer = self.engine.words(embedding, manner, self.asking.call()).await;
        let answer = answer.map_err(|error| error.within("speak"))?;
        self.spoken(query, Trigger::Speak, Span { seq: [0; 2], ms }, 0.0, answer);
        Ok(())
    }

    fn spoken(&mut self, query: usize, trigger: Trigger, segment: Span, drift: f64, answer: Answer) {
        let Answer { text, choices, embedded } = answer;
        let timing = embedded.timing;
        seen::spoken(trigger);
        self.stats.decodes += 1;
        self.stats.words_ms += (timing.text + timing.decoder).as_secs_f64() * 1e3;
        self.shared.tell(Event::Spoken(Spoken { query, text, choices, trigger, segment, drift, timing }));
    }
}
