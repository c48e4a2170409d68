//! What a call leaves behind on its way through the engine: its model, its class, its cost, and every stage with the
//! instants at which it began and ended.
//!
//! It travels with the call, also onto the model thread, and outlives it: who watches calls from outside reads the
//! trail when the call has ended, however it ended, and makes log lines and spans of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::request::Class;

/// Stages remembered one by one; of a call that has more, such as a long stream, the later ones are only summed.
pub const STAGES_MAX: usize = 256;

/// One stage of a call, which may have come about on any thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Its name, as in [`super::Timing`].
    pub name: &'static str,
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
}

impl Stage {
    /// How long it took.
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.started)
    }
}

/// What is known of a call so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// The model that was asked.
    pub model: Option<Arc<str>>,
    /// Its place among others, once it stood at the queue.
    pub class: Option<Class>,
    /// Pieces of work that stood at the queue.
    pub items: usize,
    /// Their cost together, tokens.
    pub cost: usize,
    /// The stages in the order they ended, at most [`STAGES_MAX`].
    pub stages: Vec<Stage>,
    /// The time of each stage, also of those that are not remembered one by one.
    pub times: Vec<(&'static str, Duration)>,
}

/// A hand on the steps of one call; the default one remembers nothing.
#[derive(Debug, Clone, Default)]
pub struct Trail(Option<Arc<Mutex<Steps>>>);

impl Trail {
    /// A trail that is kept.
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    /// What is known so far.
    pub fn steps(&self) -> Steps {
        let mut steps = Steps::default();
        self.change(|known| steps = known.clone());
        steps
    }

    /// The model that is asked.
    pub fn asks(&self, model: &Arc<str>) {
        self.change(|steps| steps.model = Some(model.clone()));
    }

    /// A piece of work of the call has come to the queue.
    pub(super) fn queues(&self, class: Class, cost: usize) {
        self.change(|steps| {
            steps.class = Some(class);
            steps.items += 1;
            steps.cost += cost;
        });
    }

    /// A stage has ended. One that several items of the call shared is told by each, and counts once.
    pub(super) fn passed(&self, stage: Stage) {
        self.change(|steps| {
            if steps.stages.contains(&stage) {
                return;
            }
            match steps.times.iter_mut().find(|(name, _)| *name == stage.name) {
                Some((_, time)) => *time += stage.took(),
                None => steps.times.push((stage.name, stage.took())),
            }
            if steps.stages.len() < STAGES_MAX {
                steps.stages.push(stage);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Steps)) {
        if let Some(steps) = &self.0 {
            change(&mut steps.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_tells_stages_once_sums_them_and_is_bounded() {
        let (trail, start) = (Trail::kept(), Instant::now());
        let stage = |name, from_ms, to_ms| Stage {
            name,
            started: start + Duration::from_millis(from_ms),
            ended: start + Duration::from_millis(to_ms),
        };
        trail.asks(&"tiny".into());
        for _ in 0..2 {
            trail.queues(Class::Job, 20);
            trail.passed(stage("vision", 0, 5));
        }
        for at in 0..2 * STAGES_MAX as u64 {
            trail.passed(stage("text", at, at + 1));
        }
        let steps = trail.steps();
        assert_eq!((steps.model.as_deref(), steps.class), (Some("tiny"), Some(Class::Job)));
        assert_eq!((steps.items, steps.cost, steps.stages.len()), (2, 40, STAGES_MAX));
        let text = Duration::from_millis(2 * STAGES_MAX as u64);
        assert_eq!(steps.times, [("vision", Duration::from_millis(5)), ("text", text)]);
    }

    #[test]
    fn the_default_trail_remembers_nothing() {
        let trail = Trail::default();
        trail.queues(Class::Interactive, 1);
        assert_eq!(trail.steps(), Steps::default());
    }
}
