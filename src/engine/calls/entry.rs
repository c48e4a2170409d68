//! How a call comes in and gets its place: by the door, with the room that it costs, in the line; or when to come again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::engine::admission::{Admission, Load, Permit};
use crate::engine::cost::come_again;
use crate::engine::error::EngineError;
use crate::engine::line::Place;
use crate::engine::queue::Entry;
use crate::engine::request::{Call, Class, Full};
use crate::engine::seen;
use crate::engine::work::{Found, Job, Work};
use crate::engine::{Engine, Inner};

impl Engine {
    /// Comes in by the door before anything is done for it: who is refused later has cost others their time.
    pub(in crate::engine) async fn enter(&self, call: &Call) -> Result<Permit, EngineError> {
        self.enter_by(call, |door| door.enter_unknown(call.class)).await
    }

    /// Comes in by the door as `enter` says.
    pub(in crate::engine) async fn enter_by(
        &self,
        call: &Call,
        enter: impl Fn(&Admission) -> Option<Permit>,
    ) -> Result<Permit, EngineError> {
        let left = call.deadline.saturating_duration_since(Instant::now());
        let retry_after = match self.0.too_late(call.class, left) {
            _ if left.is_zero() => return Err(EngineError::DeadlineExceeded),
            _ if call.full == Full::Wait => {
                return Ok(self.0.door.when_free(enter).await);
            }
            // Its deadline alone is too near, not that others are before it: coming again as hurried would not help.
            Some(_) if left < self.0.usual() => {
                tokio::time::sleep_until(call.deadline.into()).await;
                return Err(EngineError::DeadlineExceeded);
            }
            Some(retry_after) => {
                seen::refused("deadline");
                return Err(EngineError::Overloaded { what: "the time before the deadline", retry_after });
            }
            None => self.0.retry_after(),
        };
        enter(&self.0.door).ok_or_else(|| {
            seen::refused("queue");
            EngineError::Overloaded { what: "the queue", retry_after }
        })
    }

    /// Takes the room that is needed, now that the cost is known.
    pub(in crate::engine) async fn settle(
        &self,
        mut permit: Permit,
        cost: usize,
        call: &Call,
    ) -> Result<Arc<Permit>, EngineError> {
        let cost_max = self.0.door.max_of(call.class).cost;
        if cost > cost_max {
            seen::refused("too_large");
            return Err(EngineError::TooLarge { cost, cost_max });
        }
        match call.full {
            _ if permit.settle(cost) => {}
            Full::Wait => {
                // Its place goes back first: if all held theirs and waited for more, none would ever run.
                drop(permit);
                permit = self.0.door.when_free(|door| door.enter(call.class, Load::one(cost))).await;
            }
            Full::Refuse => {
                seen::refused("queue");
                return Err(EngineError::Overloaded { what: "the queue", retry_after: self.0.retry_after() });
            }
        }
        call.trail.queues(call.class, cost);
        Ok(Arc::new(permit))
    }

    /// Takes a place in the line.
    pub(in crate::engine) fn begin(&self, work: Work, permit: &Arc<Permit>, call: &Call) -> Result<Begun, EngineError> {
        let (reply, outcome) = oneshot::channel();
        let cost = work.cost();
        let work = Job { work, reply, permit: permit.clone() };
        let place = self.0.line.join(Entry { work, cost, arrived: Instant::now(), call: call.clone() });
        Ok(Begun { _place: place.ok_or(EngineError::Stopped)?, outcome })
    }
}

/// Work that is waiting or running; dropping it takes it back.
pub(in crate::engine) struct Begun {
    _place: Place,
    outcome: oneshot::Receiver<Result<Found, EngineError>>,
}

impl Begun {
    pub(in crate::engine) async fn outcome(self) -> Result<Found, EngineError> {
        self.outcome.await.map_err(|_| EngineError::Stopped)?
    }
}

impl Inner {
    /// When to come again, if those before it leave no hope of an answer in the time that is `left`. Without this a
    /// queue that is longer than its clients' patience is worked off for nobody.
    fn too_late(&self, class: Class, left: Duration) -> Option<Duration> {
        let before = self.door.inside()[..=class as usize].iter().map(|load| load.cost).sum();
        let model = come_again(before, self.line.tokens_per_second(), [Duration::ZERO, Duration::MAX]);
        // Both work at the same time. Half as much again, for batches are coarse and estimates are estimates.
        let wait = model.max(self.prepare.backlog()).saturating_mul(3) / 2;
        let [least, most] = self.retry_bounds();
        (wait > left).then(|| wait.saturating_sub(left).min(most).max(least))
    }

    /// What a request usually takes when nobody is before it.
    fn usual(&self) -> Duration {
        let model = come_again(self.door.usual_cost(), self.line.tokens_per_second(), [Duration::ZERO, Duration::MAX]);
        self.prepare.usual().saturating_add(model)
    }

    /// When the queue's backlog will have been worked off.
    fn retry_after(&self) -> Duration {
        let cost = self.door.inside().iter().map(|load| load.cost).sum();
        come_again(cost, self.line.tokens_per_second(), self.retry_bounds())
    }

    fn retry_bounds(&self) -> [Duration; 2] {
        let service = &self.settings.service;
        [service.retry_after_ms, service.retry_after_max_ms].map(Duration::from_millis)
    }
}
