//! Many answers about one long clip, a segment at a time: the file is gone through once, and while the model looks at
//! one segment the next is decoded. What is in memory is the segments under way, never the clip.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Engine;
use super::calls::within;
use super::error::EngineError;
use super::media::{Shot, seen_of};
use super::request::{Answer, Call, Manner, Question};
use super::seen;
use super::work::Scene;
use crate::input::{Tokens, Windows};

/// A segment and the answer about it.
#[derive(Debug, Clone)]
pub struct Segment {
    /// From when to when it goes, milliseconds since the clip's start.
    pub range_ms: [u64; 2],
    /// The answer; its text is empty where only the embedding was asked for.
    pub answer: Answer,
}

impl Engine {
    /// Asks one question about every segment of a clip, and answers in their order. The question's sampling holds within
    /// a segment; its start and end are not looked at. Decoding a segment has the time that decoding a clip has, and each
    /// answer the time that is left to the call now: the longer the clip, the longer the whole may take.
    pub async fn segments(
        &self,
        question: Question,
        windows: Windows,
        manner: Option<Manner>,
        call: Call,
    ) -> Result<Vec<Segment>, EngineError> {
        self.can(manner.as_ref())?;
        call.trail.asks(&self.name());
        let patience = call.deadline.saturating_duration_since(Instant::now());
        let at_once = self.0.settings.media.segments_at_once;
        let (given, mut taken) = mpsc::channel::<(Shot, Tokens)>(1);
        let inner = self.0.clone();
        let making = self.0.prepare.run_by_turns(&call, move |wanted, turn| {
            let tokens = inner.question_tokens(&question.text)?;
            inner.studio.shots(&question, windows, &inner.model.preprocessor, wanted, &mut |shot| {
                seen::frames(shot.clip.frames_decoded, shot.clip.frames_used);
                match turn.rest(|| given.blocking_send((shot, tokens.clone())).is_ok())? {
                    true => Ok(()),
                    // Nobody takes it where everybody has left.
                    false => Err(EngineError::DeadlineExceeded),
                }
            })
        });
        let asking = async {
            let (mut segments, mut under_way, mut ended) = (Vec::new(), JoinSet::new(), false);
            loop {
                tokio::select! {
                    shot = taken.recv(), if !ended && under_way.len() < at_once => match shot {
                        None => ended = true,
                        Some((shot, tokens)) => {
                            let (engine, manner) = (self.clone(), manner.clone());
                            let call = Call { deadline: Instant::now() + patience, ..call.clone() };
                            under_way.spawn(async move { engine.segment(shot, tokens, manner, call).await });
                        }
                    },
                    Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                        let failed = |_| EngineError::Internal("a segment's task failed".into());
                        segments.push(done.map_err(failed)??);
                    }
                    else => break,
                }
            }
            Ok(segments)
        };
        let ((), mut segments) = tokio::try_join!(making, asking)?;
        segments.sort_by_key(|segment| segment.range_ms);
        Ok(segments)
    }

    async fn segment(
        &self,
        shot: Shot,
        question: Tokens,
        manner: Option<Manner>,
        call: Call,
    ) -> Result<Segment, EngineError> {
        let range_ms = shot.range_ms;
        let answer = within(call.deadline, async {
            let started = Instant::now();
            let permit = self.enter(&call).await?;
            let asked = manner.clone();
            let scene = self.prepared(&call, move |inner, wanted| {
                let tokens = inner.visual_tokens(&shot.clip);
                Ok(Scene { seen: seen_of(shot, tokens), question, then: inner.then(asked, wanted)? })
            });
            let done = self.through(scene.await?, permit, started, &call).await?;
            Ok(done.answer(manner.as_ref()))
        });
        Ok(Segment { range_ms, answer: answer.await? })
    }
}
