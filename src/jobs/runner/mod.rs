//! The loop that works jobs off: it takes in hand every job that is not at rest, decides what is next ([`Active::next`],
//! [`Turns`]) and lets it be done by tasks ([`Step`]). It sleeps until a task ends or a job is moved from outside; the
//! truth stays in the store, so that a runner may be dropped at any moment and another one goes on.

mod active;
mod steps;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};

use super::commit::Halt;
use super::job::{Event, Job, JobId, State};
use super::row::Fault;
use super::shard::Shard;
use super::store::StoreError;
use super::turns::Turns;
use active::{Active, Next};
pub use steps::Only;
pub(super) use steps::Tools;
use steps::{Outcome, PAGE, Step};

/// Jobs that are cut or recovered at once: these wait for disks, not for the model.
const WHOLE_AT_ONCE: usize = 2;
/// How long parts that are computed get to be written at the end.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Jobs that were moved from outside; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Touched(Arc<Moved>);

#[derive(Default)]
struct Moved {
    jobs: Mutex<HashSet<JobId>>,
    wake: Notify,
}

impl Touched {
    /// This one was moved.
    pub fn touch(&self, id: &JobId) {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        self.0.wake.notify_one();
    }

    fn take(&self) -> HashSet<JobId> {
        std::mem::take(&mut self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Works jobs off.
pub(super) struct Runner {
    tools: Tools,
    touched: Touched,
    shards_at_once: usize,
    /// The one job that is worked off; all if there is none.
    sole: Option<JobId>,
    active: HashMap<JobId, Active>,
    turns: Turns,
    tasks: JoinSet<Outcome>,
    /// What each task does.
    steps: HashMap<Id, (JobId, Step)>,
}

impl Runner {
    /// A runner that has nothing in hand.
    pub fn new(tools: Tools, touched: Touched, shards_at_once: usize) -> Self {
        Self {
            tools,
            touched,
            shards_at_once,
            sole: None,
            active: HashMap::new(),
            turns: Turns::default(),
            tasks: JoinSet::new(),
            steps: HashMap::new(),
        }
    }

    /// Works all jobs off, until `shutdown` or until the store fails.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.tools.store.jobs(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for job in page.into_iter().filter(|job| !job.state.ended()) {
                self.take(job);
            }
        }
        self.turn_around(shutdown).await
    }

    /// Works one job off, until nothing more can be done with it, until `shutdown` or until the store fails.
    pub async fn finish(mut self, id: &JobId, shutdown: impl Future<Output = ()>) -> Result<(), StoreError> {
        self.sole = Some(id.clone());
        self.take(self.tools.store.job(id).await?);
        self.turn_around(shutdown).await
    }

    async fn turn_around(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), StoreError> {
        tokio::pin!(shutdown);
        loop {
            self.look().await?;
            self.decide().await?;
            while self.begin_shards().await? {
                self.decide().await?;
            }
            if self.sole.is_some() && self.active.is_empty() {
                return Ok(());
            }
            let touched = self.touched.0.clone();
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = self.tasks.join_next_with_id() => self.end(ended).await?,
                () = touched.wake.notified() => {}
            }
        }
        self.give_up().await;
        Ok(())
    }

    fn take(&mut self, job: Job) {
        let active = self.active.entry(job.id.clone()).or_insert_with(|| Active::new(job.clone()));
        active.see(job);
    }

    /// Sees what was moved from outside.
    async fn look(&mut self) -> Result<(), StoreError> {
        for id in self.touched.take() {
            if self.sole.as_ref().is_some_and(|sole| *sole != id) {
                continue;
            }
            match self.tools.store.job(&id).await {
                Ok(job) if job.state.ended() && !self.active.contains_key(&id) => {}
                found => {
                    if let Some(job) = self.see(&id, found)? {
                        self.take(job);
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins, gives up and leaves what is to be begun, given up and left.
    async fn decide(&mut self) -> Result<(), StoreError> {
        let mut in_hand: Vec<JobId> = self.active.keys().cloned().collect();
        in_hand.sort_by_key(|id| (Reverse(self.active[id].job.spec.rank), id.clone()));
        for id in in_hand {
            while let Some(active) = self.active.get_mut(&id) {
                match active.next(self.tools.only) {
                    Next::Shards | Next::Wait => break,
                    Next::GiveUp => active.stop.cancel(),
                    Next::Whole(step) => {
                        let whole = self.under_way(|step| matches!(step, Step::Plan | Step::Recover));
                        if whole >= WHOLE_AT_ONCE && matches!(step, Step::Plan | Step::Recover) {
                            break;
                        }
                        self.begin_whole(&id, step);
                    }
                    Next::Idle => {
                        let moved = self.tools.store.change(&id, Event::Idle).await;
                        if let Some(job) = self.see(&id, moved)? {
                            self.take(job);
                        }
                    }
                    Next::Leave => {
                        self.leave(&id);
                        // It may have been resumed meanwhile, or is to begin anew.
                        let found = self.tools.store.job(&id).await;
                        let job = self.see(&id, found)?;
                        if let Some(job) = job.filter(|job| !job.state.ended() && job.state != State::Paused) {
                            self.take(job);
                        }
                    }
                    Next::Done => self.leave(&id),
                }
            }
        }
        Ok(())
    }

    /// How many such steps are under way.
    fn under_way(&self, such: impl Fn(&Step) -> bool) -> usize {
        self.steps.values().filter(|(_, step)| such(step)).count()
    }

    fn leave(&mut self, id: &JobId) {
        self.active.remove(id);
        self.turns.forget(id);
        self.tools.live.rest(id);
    }

    /// Begins as many shards as may be in work, of the jobs whose turn it is. Tells whether one of these turned out to
    /// have none left.
    async fn begin_shards(&mut self) -> Result<bool, StoreError> {
        while self.under_way(|step| matches!(step, Step::Shard(_))) < self.shards_at_once {
            let ready = self.active.values().filter(|active| active.ready());
            let ready = ready.map(|active| (&active.job.id, active.job.spec.rank));
            let Some(id) = self.turns.next(ready) else { break };
            match self.next_shard(&id).await? {
                Some(shard) => self.begin_shard(&id, shard),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The next shard of a job, read from the store if there is none in hand.
    async fn next_shard(&mut self, id: &JobId) -> Result<Option<Shard>, StoreError> {
        let (store, only) = (self.tools.store.clone(), self.tools.only);
        while let Some(active) = self.active.get_mut(id) {
            if let Some(shard) = active.begin_shard() {
                return Ok(Some(shard));
            }
            let Some(from) = active.unread() else { break };
            let page = store.shards(id, from, PAGE).await;
            let page = self.see(id, page)?;
            if let (Some(active), Some(page)) = (self.active.get_mut(id), page) {
                active.read(page, only);
            } else {
                break;
            }
        }
        Ok(None)
    }

    fn begin_shard(&mut self, id: &JobId, shard: Shard) {
        let active = &self.active[id];
        let step = Step::Shard(shard.index);
        let task = self.tools.clone().shard(active.job.clone(), shard, active.stop.clone());
        let task = self.tasks.spawn(task);
        self.steps.insert(task.id(), (id.clone(), step));
    }

    fn begin_whole(&mut self, id: &JobId, step: Step) {
        let Some(active) = self.active.get_mut(id) else { return };
        active.begin_whole(step);
        let (tools, job, stop) = (self.tools.clone(), active.job.clone(), active.stop.clone());
        let task = match step {
            Step::Plan => self.tasks.spawn(tools.plan(job, stop)),
            Step::Recover => self.tasks.spawn(tools.recover(job, stop)),
            Step::Rest => self.tasks.spawn(tools.rest(stop)),
            Step::Tidy => self.tasks.spawn(tools.tidy(job)),
            Step::Shard(_) => unreachable!("shards are begun one by one"),
        };
        self.steps.insert(task.id(), (id.clone(), step));
    }

    /// A task has ended.
    async fn end(&mut self, ended: Result<(Id, Outcome), JoinError>) -> Result<(), StoreError> {
        let (task, outcome) = ended.unwrap_or_else(|error| {
            let problem = format!("internal error: {error}");
            (error.id(), Err(Halt::Fault(Fault::Broken(problem))))
        });
        let (id, step) = self.steps.remove(&task).expect("every task is one of these");
        if let Step::Shard(shard) = step {
            self.tools.live.end(&id, shard);
        }
        let Some(active) = self.active.get_mut(&id) else { return Ok(()) };
        active.steps -= 1;
        match outcome {
            Ok(job) => {
                if let Some(job) = job {
                    active.see(job);
                }
                active.end(step);
            }
            Err(Halt::Store(error)) => _ = self.see(&id, Err::<Job, _>(error))?,
            Err(Halt::Fault(fault)) if step == Step::Tidy => {
                tracing::warn!(job = %id, "what attempts have left stays: {fault}");
                active.end(step);
            }
            Err(Halt::Fault(Fault::Stopped)) => {
                active.tired = true;
                active.stop.cancel();
            }
            Err(Halt::Fault(Fault::Broken(problem))) => {
                let reason = match step {
                    Step::Shard(shard) => format!("shard {shard}: {problem}"),
                    _ => problem,
                };
                tracing::warn!(job = %id, "{reason}");
                let moved = self.tools.store.change(&id, Event::Fail(reason)).await;
                if let (Some(job), Some(active)) = (self.see(&id, moved)?, self.active.get_mut(&id)) {
                    active.see(job);
                }
            }
        }
        Ok(())
    }

    /// What the store says of a job, unless it does not know it any more; then nothing more is done for it.
    fn see<T>(&mut self, id: &JobId, said: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match said {
            Ok(said) => Ok(Some(said)),
            Err(StoreError::Unknown(_)) => {
                if let Some(active) = self.active.get_mut(id) {
                    active.gone = true;
                    active.stop.cancel();
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives everything up; what is computed is still written if that is quick.
    async fn give_up(&mut self) {
        for active in self.active.values() {
            active.stop.cancel();
        }
        let over = async { while self.tasks.join_next().await.is_some() {} };
        // What hangs is dropped with the tasks.
        let _ = tokio::time::timeout(LAST_WORDS_MAX, over).await;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        for id in self.active.keys() {
            self.tools.live.rest(id);
        }
    }
}
