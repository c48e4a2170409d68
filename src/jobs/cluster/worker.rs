//! A worker: takes shards from the queue, does them, lets the store decide whether they count, and only then tells the
//! queue. Whatever it was doing when it dies, another worker does.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::queue::Delivery;
use super::replicated::Replicated;
use super::shared::encoded;
use super::view::Known;
use crate::jobs::commit::{Halt, commit, forward};
use crate::jobs::{Event, Fault, Job, JobId, Meter, State, Store, StoreError, Work};

/// Time after which a worker without work looks by itself.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Time that a shard which failed waits for its next worker, the first time; twice as long each time after.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time that giving up may take at the end.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);

/// The worker of one process; cheap to clone.
#[derive(Clone)]
pub struct Worker {
    store: Replicated,
    work: Arc<dyn Work>,
    /// Of the models here: the worker takes no other shards.
    spaces: Vec<String>,
    shards_at_once: usize,
}

/// What is remembered of a shard that was not done when it was handed out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Trouble {
    /// Times that it was handed back without a try, as a worker does that is told to end.
    excused: u64,
    /// What happened the last time.
    last: String,
}

/// A shard that nobody could do, for people who look for it.
#[derive(Serialize)]
struct DeadLetter<'a> {
    shard: u32,
    tries: u64,
    last: &'a str,
}

/// How it went.
enum Outcome {
    /// It counts, whoever did it, or is of no use any more.
    Done,
    /// It is handed back: this process ends.
    Excused,
    /// It is handed back because of this.
    Failed(String),
    /// It is left to another one after a while; it is not the shard's fault.
    Later(String),
}

impl From<Halt> for Outcome {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Store(error) => error.into(),
            Halt::Fault(Fault::Broken(problem)) => Self::Failed(problem),
            Halt::Fault(Fault::Stopped) => Self::Excused,
        }
    }
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unknown(_) => Self::Done,
            error => Self::Later(error.to_string()),
        }
    }
}

impl Worker {
    /// A worker of models with these spaces, which does at most so many shards at once.
    pub fn new(store: Replicated, work: Arc<dyn Work>, spaces: Vec<String>, shards_at_once: usize) -> Self {
        Self { store, work, spaces, shards_at_once }
    }

    /// Runs until `shutdown` resolves; then gives up what it is doing and tells the queue so.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), StoreError> {
        let (stop, stopped) = watch::channel(false);
        let mut shards = JoinSet::new();
        let mut strangers = HashSet::new();
        tokio::select! {
            () = shutdown => {}
            ended = self.take(&mut shards, &stopped, &mut strangers) => ended?,
        }
        stop.send_replace(true);
        let given_up = async {
            while shards.join_next().await.is_some() {}
            for delivery in self.store.queue().rest().await {
                self.excuse(&delivery).await;
                delivery.give_up(None).await;
            }
        };
        if tokio::time::timeout(GIVE_UP_MAX, given_up).await.is_err() {
            tracing::warn!("the queue was not told that shards were given up; they come again after the lease");
        }
        Ok(())
    }

    /// Takes shards for ever.
    async fn take(
        &self,
        shards: &mut JoinSet<()>,
        stopped: &watch::Receiver<bool>,
        strangers: &mut HashSet<JobId>,
    ) -> Result<(), StoreError> {
        let mut wakes = self.store.queue().wakes().await?;
        loop {
            while shards.len() < self.shards_at_once {
                match self.store.queue().next(&self.spaces).await {
                    Ok(Some(delivery)) => drop(shards.spawn(self.clone().shard(delivery, stopped.clone()))),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!("no shards are handed out: {error}");
                        break;
                    }
                }
            }
            self.tell_of_strangers(strangers);
            let free = shards.len() < self.shards_at_once;
            tokio::select! {
                _ = shards.join_next(), if !shards.is_empty() => {}
                Some(_) = wakes.next(), if free => {}
                () = tokio::time::sleep(LOOK_AFTER), if free => {}
            }
        }
    }

    /// Says once of each running job that another model must do it.
    fn tell_of_strangers(&self, told: &mut HashSet<JobId>) {
        let view = self.store.view();
        let running = view.all().map(|known| &known.kept.job).filter(|job| job.state == State::Running);
        let running: Vec<(&Job, &str)> = running.filter_map(|job| Some((job, &*job.plan.as_ref()?.space))).collect();
        told.retain(|id| running.iter().any(|(job, _)| job.id == *id));
        for (job, space) in running {
            if !self.spaces.iter().any(|own| own == space) && told.insert(job.id.clone()) {
                let own = self.spaces.join(", ");
                tracing::warn!(job = %job.id, space, own, "is of a space that no model here has; another worker must do it");
            }
        }
    }

    /// Does one shard, and tells the queue how it went.
    async fn shard(self, delivery: Delivery, mut stopped: watch::Receiver<bool>) {
        let outcome = match self.outcome(&delivery, &mut stopped).await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        let (job, shard) = (delivery.ticket.job.clone(), delivery.ticket.shard.index);
        match outcome {
            Outcome::Done => delivery.done().await,
            Outcome::Excused => {
                tracing::info!(%job, shard, "given up: this worker ends");
                self.excuse(&delivery).await;
                delivery.give_up(None).await;
            }
            Outcome::Later(problem) => {
                tracing::warn!(%job, shard, "left for later: {problem}");
                self.excuse(&delivery).await;
                delivery.give_up(Some(AGAIN_AFTER)).await;
            }
            Outcome::Failed(problem) => {
                tracing::warn!(%job, shard, deliveries = delivery.deliveries, "failed: {problem}");
                match self.failed(&delivery, problem).await {
                    Ok(Some(after)) => delivery.give_up(Some(after)).await,
                    Ok(None) => delivery.done().await,
                    Err(error) => {
                        tracing::warn!(%job, shard, "{error}");
                        delivery.give_up(Some(AGAIN_AFTER)).await;
                    }
                }
            }
        }
    }

    async fn outcome(&self, delivery: &Delivery, stopped: &mut watch::Receiver<bool>) -> Result<Outcome, Outcome> {
        let ticket = &delivery.ticket;
        let kept = self.store.kept(&ticket.job).await?.kept;
        if kept.generation != ticket.generation || kept.job.state != State::Running {
            // When the job goes on, the shard is queued again.
            return Ok(Outcome::Done);
        }
        let (job, shard) = (&kept.job, &ticket.shard);
        if let Some(record) = self.store.record(&job.id, shard.index).await? {
            forward(&self.store, &*self.work, job, shard.index, &record).await?;
            return Ok(Outcome::Done);
        }
        let trouble = self.trouble(delivery).await?;
        if delivery.deliveries.saturating_sub(trouble.excused) > self.store.settings().deliveries_max {
            let last = if trouble.last.is_empty() { "no worker came back from it" } else { &trouble.last };
            self.bury(delivery, last).await?;
            return Ok(Outcome::Done);
        }
        if delivery.deliveries > 1 {
            tracing::info!(job = %job.id, shard = shard.index, deliveries = delivery.deliveries, "taken over");
        }
        let meter = Meter::default();
        let staged = tokio::select! {
            attempted = self.work.attempt(job, shard, &meter) => match attempted {
                Ok(staged) => staged,
                Err(fault) => return Err(Halt::Fault(fault).into()),
            },
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(Outcome::Excused),
            () = self.no_longer_wanted(&job.id, ticket.generation) => return Ok(Outcome::Done),
        };
        commit(&self.store, &*self.work, job, shard.index, staged).await?;
        Ok(Outcome::Done)
    }

    /// Resolves when a job is paused, cancelled, failed or gone.
    async fn no_longer_wanted(&self, id: &JobId, generation: u32) {
        let mut changes = self.store.changes();
        loop {
            changes.mark_unchanged();
            let wanted = |known: &Known| known.kept.job.state == State::Running && known.kept.generation == generation;
            if !self.store.view().known(id).is_some_and(wanted) {
                return;
            }
            // The store holds the sender.
            let _ = changes.changed().await;
        }
    }

    /// Keeps why a shard failed, and tells after what time it may be tried again; after the last time it is buried.
    async fn failed(&self, delivery: &Delivery, problem: String) -> Result<Option<Duration>, StoreError> {
        let trouble = self.note(delivery, |trouble| trouble.last.clone_from(&problem)).await?;
        let tries = delivery.deliveries.saturating_sub(trouble.excused);
        if tries >= self.store.settings().deliveries_max {
            self.bury(delivery, &problem).await?;
            return Ok(None);
        }
        let longest = Duration::from_millis(self.store.settings().lease_ms);
        Ok(Some((AGAIN_AFTER * (1 << tries.saturating_sub(1).min(10))).min(longest)))
    }

    /// Nobody can do it: a dead letter says why, and the job fails.
    async fn bury(&self, delivery: &Delivery, last: &str) -> Result<(), StoreError> {
        let (job, shard) = (&delivery.ticket.job, delivery.ticket.shard.index);
        let tries = self.store.settings().deliveries_max;
        let letter = encoded(&DeadLetter { shard, tries, last });
        self.store.bucket().create(&format!("dead.{job}.{}.{shard}", delivery.ticket.generation), &letter).await?;
        let reason = format!("shard {shard} was handed out {tries} times and never done; the last time: {last}");
        self.store.change(job, Event::Fail(reason)).await?;
        Ok(())
    }

    /// Keeps that this time is no try. If that fails, it counts as one.
    async fn excuse(&self, delivery: &Delivery) {
        let noted = self.note(delivery, |trouble| trouble.excused += 1);
        if !matches!(tokio::time::timeout(GIVE_UP_MAX / 2, noted).await, Ok(Ok(_))) {
            tracing::warn!(job = %delivery.ticket.job, shard = delivery.ticket.shard.index, "counts as tried");
        }
    }

    async fn trouble(&self, delivery: &Delivery) -> Result<Trouble, StoreError> {
        let entry = self.store.bucket().get(&trouble_key(delivery)).await?;
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default())
    }

    /// Changes what is remembered of a shard.
    async fn note(&self, delivery: &Delivery, change: impl Fn(&mut Trouble)) -> Result<Trouble, StoreError> {
        let key = trouble_key(delivery);
        loop {
            let entry = self.store.bucket().get(&key).await?;
            let known = entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
            let mut trouble: Trouble = known.unwrap_or_default();
            change(&mut trouble);
            let revision = entry.map_or(0, |entry| entry.revision);
            if self.store.bucket().update(&key, &encoded(&trouble), revision).await?.is_some() {
                return Ok(trouble);
            }
        }
    }
}

fn trouble_key(delivery: &Delivery) -> String {
    let ticket = &delivery.ticket;
    format!("trouble.{}.{}.{}", ticket.job, ticket.generation, ticket.shard.index)
}
