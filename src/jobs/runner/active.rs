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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::fake::spec;
    use crate::jobs::{JobId, Plan, Rank};

    fn active(state: State, stage: Stage) -> Active {
        let mut job = Job::new(JobId("a".into()), spec(Rank::Normal), 5);
        job.state = state;
        job.plan = (state != State::Pending).then(|| Plan { shards: 3, rows: 30, space: String::new() });
        Active { stage, ..Active::new(job) }
    }

    fn shards(count: u32) -> Vec<(Shard, Option<Record>)> {
        let shard = |index| Shard { index, first_row: 0, rows: 1, start: 0, end: 0, digest: String::new() };
        (0..count).map(|index| (shard(index), None)).collect()
    }

    #[test]
    fn what_is_next_in_every_state_and_stage() {
        use Next::{GiveUp, Idle, Leave, Shards, Wait, Whole};
        use Step::{Plan, Recover, Tidy};
        // By stage: nothing under way; steps under way; the same, given up and through.
        let table = [
            (State::Pending, Stage::Taken, Whole(Plan), Wait, Leave),
            (State::Running, Stage::Taken, Whole(Recover), Wait, Leave),
            (State::Running, Stage::Ready, Shards, Shards, Leave),
            (State::Paused, Stage::Taken, Leave, GiveUp, Leave),
            (State::Paused, Stage::Ready, Leave, GiveUp, Leave),
            (State::Cancelling, Stage::Taken, Whole(Recover), Wait, Leave),
            (State::Cancelling, Stage::Ready, Idle, GiveUp, Leave),
            (State::Cancelled, Stage::Ready, Whole(Tidy), GiveUp, Whole(Tidy)),
            (State::Cancelled, Stage::Tidy, Leave, GiveUp, Leave),
            (State::Succeeded, Stage::Ready, Whole(Tidy), GiveUp, Whole(Tidy)),
            (State::Failed, Stage::Taken, Whole(Tidy), GiveUp, Whole(Tidy)),
            (State::Failed, Stage::Tidy, Leave, GiveUp, Leave),
        ];
        for (state, stage, idle, busy, stopped) in table {
            let mut active = active(state, stage);
            assert_eq!(active.next(None), idle, "{state:?} {stage:?}");
            active.steps = 1;
            assert_eq!(active.next(None), busy, "{state:?} {stage:?} with steps under way");
            active.stop.cancel();
            assert_eq!(active.next(None), Wait, "{state:?} {stage:?} given up");
            active.steps = 0;
            assert_eq!(active.next(None), stopped, "{state:?} {stage:?} given up and through");
            active.gone = true;
            assert_eq!(active.next(None), Next::Done, "{state:?} {stage:?} forgotten");
        }
        let mut unplanned = active(State::Cancelling, Stage::Taken);
        unplanned.job.plan = None;
        assert_eq!(unplanned.next(None), Idle, "nothing was ever written");
    }

    #[test]
    fn no_shard_is_begun_while_it_rests_or_is_tidied() {
        let mut tired = active(State::Running, Stage::Ready);
        (tired.tired, tired.next) = (true, 3);
        tired.waiting.extend(shards(1).into_iter().map(|(shard, _)| shard));
        tired.stop.cancel();
        assert_eq!((tired.next(None), tired.ready()), (Next::Whole(Step::Rest), false));
        tired.begin_whole(Step::Rest);
        assert_eq!((tired.next(None), tired.ready(), tired.stop.is_cancelled()), (Next::Wait, false, false));
        tired.steps = 0;
        tired.end(Step::Rest);
        assert_eq!((tired.next(None), tired.ready()), (Next::Leave, false), "and begins anew");

        let mut tidied = active(State::Failed, Stage::Ready);
        tidied.begin_whole(Step::Tidy);
        tidied.job.state = State::Running;
        assert_eq!((tidied.next(None), tidied.ready()), (Next::Wait, false), "resumed meanwhile");
        tidied.steps = 0;
        tidied.end(Step::Tidy);
        assert_eq!(tidied.next(None), Next::Leave, "and begins anew");
    }

    #[test]
    fn shards_are_read_in_order_and_not_many_ahead() {
        let (mut active, count) = (active(State::Running, Stage::Ready), WAITING_MAX as u32 + 2);
        active.job.plan.as_mut().expect("it is cut").shards = count;
        let mut begun = Vec::new();
        while active.ready() {
            if let Some(shard) = active.begin_shard() {
                begun.push(shard.index);
                continue;
            }
            let from = active.unread().expect("it is ready");
            active.read(shards(count).split_off(from as usize), None);
            assert!(active.waiting.len() <= WAITING_MAX);
        }
        assert_eq!(begun, Vec::from_iter(0..count));
        assert_eq!(active.steps, begun.len());
        let only = Some(Only { index: 0, count: 2 });
        assert_eq!(active.next(only), Next::Shards, "they are under way");
        active.steps = 0;
        assert_eq!(active.next(only), Next::Done, "the rest is of others");
    }
}
