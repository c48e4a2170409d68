//! A job that the runner has in hand: what of it is to be done, what is being done, and what comes next. A plain struct
//! without tasks of its own, so that the rule of what comes next is a table.

use std::collections::VecDeque;

use tokio_util::sync::CancellationToken;

use super::steps::{Only, Step};
use crate::jobs::job::{Job, State};
use crate::jobs::shard::{Record, Shard};

/// Shards of one job in hand that are not begun.
const WAITING_MAX: usize = 16;

/// How far a job has been brought since it was taken in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is done.
    Taken,
    /// Its shards may be computed.
    Ready,
    /// It has ended, and nothing useless is left of it.
    Tidy,
}

/// What is to be done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A step that takes the job as a whole.
    Whole(Step),
    /// Shards, when it is the job's turn.
    Shards,
    /// Nothing: steps are under way.
    Wait,
    /// Steps under way are to be given up.
    GiveUp,
    /// None of its shards is in work: it is to be cancelled.
    Idle,
    /// It is not to be in hand any more, or anew.
    Leave,
    /// All that is to be done here is done; others do the rest.
    Done,
}

/// A job in hand.
pub(super) struct Active {
    pub job: Job,
    pub stage: Stage,
    /// Steps under way.
    pub steps: usize,
    /// Gives up what is under way.
    pub stop: CancellationToken,
    /// Its model has stopped; it is to rest before it is begun anew.
    pub tired: bool,
    /// The store does not know it any more.
    pub gone: bool,
    /// The first shard that is not read from the store.
    next: u32,
    /// Shards that are read and not begun.
    waiting: VecDeque<Shard>,
}

impl Active {
    pub fn new(job: Job) -> Self {
        Self {
            job,
            stage: Stage::Taken,
            steps: 0,
            stop: CancellationToken::new(),
            tired: false,
            gone: false,
            next: 0,
            waiting: VecDeque::new(),
        }
    }

    /// A newer state of the job, from whoever moved it.
    pub fn see(&mut self, job: Job) {
        if job.revision >= self.job.revision {
            self.job = job;
        }
    }

    /// What is to be done now.
    pub fn next(&self, only: Option<Only>) -> Next {
        use State::{Cancelled, Cancelling, Failed, Paused, Pending, Running, Succeeded};
        let planned = self.job.plan.is_some();
        let stopped = self.stop.is_cancelled();
        if self.steps > 0 {
            return match self.job.state {
                _ if stopped => Next::Wait,
                Running if self.stage == Stage::Ready => Next::Shards,
                Pending | Running => Next::Wait,
                // What was decided gets its files their names.
                Cancelling if self.stage == Stage::Taken && planned => Next::Wait,
                Paused | Cancelling | Cancelled | Succeeded | Failed => Next::GiveUp,
            };
        }
        match (self.job.state, self.stage) {
            _ if self.gone => Next::Done,
            (Pending | Running, _) if self.tired => Next::Whole(Step::Rest),
            (Pending | Running | Cancelling, _) if stopped => Next::Leave,
            (Pending, _) => Next::Whole(Step::Plan),
            (Running | Cancelling, Stage::Taken) if planned => Next::Whole(Step::Recover),
            (Running, _) if only.is_some() && !self.open() => Next::Done,
            (Running, _) => Next::Shards,
            (Cancelling, _) => Next::Idle,
            (Paused, _) | (Cancelled | Succeeded | Failed, Stage::Tidy) => Next::Leave,
            (Cancelled | Succeeded | Failed, _) => Next::Whole(Step::Tidy),
        }
    }

    /// A step that takes it as a whole begins.
    pub fn begin_whole(&mut self, step: Step) {
        self.steps += 1;
        match step {
            // No shard is begun while what attempts left is removed.
            Step::Tidy => self.stop.cancel(),
            Step::Rest => {
                (self.stage, self.tired) = (Stage::Taken, false);
                self.stop = CancellationToken::new();
            }
            Step::Plan | Step::Recover | Step::Shard(_) => {}
        }
    }

    /// A step has ended well, or was given up.
    pub fn end(&mut self, step: Step) {
        match step {
            Step::Plan | Step::Recover if !self.stop.is_cancelled() => self.stage = Stage::Ready,
            Step::Tidy => self.stage = Stage::Tidy,
            // It begins anew.
            Step::Rest => self.stop.cancel(),
            Step::Plan | Step::Recover | Step::Shard(_) => {}
        }
    }

    /// Whether a shard may be begun, as far as is known.
    pub fn ready(&self) -> bool {
        self.job.state == State::Running && self.stage == Stage::Ready && !self.stop.is_cancelled() && self.open()
    }

    /// Whether shards are waiting, or not read from the store yet.
    fn open(&self) -> bool {
        !self.waiting.is_empty() || self.unread().is_some()
    }

    /// The first shard that is not read from the store, if there is one.
    pub fn unread(&self) -> Option<u32> {
        let shards = self.job.plan.as_ref().map_or(0, |plan| plan.shards);
        (self.next < shards).then_some(self.next)
    }

    /// Takes in shards from [`Active::unread`] on, not more of them than are soon begun.
    pub fn read(&mut self, page: Vec<(Shard, Option<Record>)>, only: Option<Only>) {
        self.next = page.last().map_or(u32::MAX, |(last, _)| last.index + 1);
        for (shard, _) in page.into_iter().filter(|(_, record)| record.is_none()) {
            if self.waiting.len() == WAITING_MAX {
                self.next = shard.index;
                break;
            }
            if only.is_none_or(|only| only.has(shard.index)) {
                self.waiting.push_back(shard);
            }
        }
    }

    /// The next shard, in order, of those that are read.
    pub fn begin_shard(&mut self) -> Option<Shard> {
        let shard = self.waiting.pop_front()?;
        self.steps += 1;
        Some(shard)
    }
}
