//! What one process knows of all jobs: the last it has seen of each, with the progress that the records of its shards
//! add up to. A record may be seen any number of times and counts once. Plain values: the watch of the bucket and
//! what this process writes itself tell it what to know.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use serde::{Deserialize, Serialize};

use crate::jobs::{Event, Job, JobId, Progress, Record, State};

/// A job as the bucket keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) job: Job,
    /// Grows whenever a job goes on after it was paused or has failed: what is in the queue of an earlier generation
    /// is of no use.
    pub(super) generation: u32,
    /// Under whose name the plan's shards are kept.
    pub(super) planner: String,
    /// Of the request that made it, unlike any other: an answer that gets lost is found out by it.
    pub(super) maker: String,
    /// Whether what ended attempts have left behind is cleared away.
    pub(super) swept: bool,
}

/// A job with its revision in the bucket.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) kept: Kept,
    pub(super) revision: u64,
}

/// Everything that is known.
#[derive(Default)]
pub(super) struct View {
    jobs: BTreeMap<JobId, Known>,
    folds: BTreeMap<JobId, Fold>,
}

/// What the records of one job add up to.
#[derive(Default)]
pub(super) struct Fold {
    settled: Numbers,
    /// Records whose files have no names yet.
    decided: BTreeMap<u32, Record>,
    progress: Progress,
}

/// A set of small numbers.
#[derive(Default)]
struct Numbers(Vec<u64>);

impl Numbers {
    fn has(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Says whether it is new.
    fn add(&mut self, number: u32) -> bool {
        let (place, bit) = (number as usize / 64, 1 << (number % 64));
        if place >= self.0.len() {
            self.0.resize(place + 1, 0);
        }
        let new = self.0[place] & bit == 0;
        self.0[place] |= bit;
        new
    }
}

impl Fold {
    fn see(&mut self, shard: u32, record: Record) {
        if !record.settled {
            if !self.settled.has(shard) {
                self.decided.insert(shard, record);
            }
        } else if self.settled.add(shard) {
            self.decided.remove(&shard);
            self.progress.shards += 1;
            self.progress.tally += record.staged.tally;
        }
    }
}

impl View {
    /// Learns how a job stands, unless something later is known already.
    pub(super) fn see_job(&mut self, kept: Kept, revision: u64) {
        let id = kept.job.id.clone();
        if self.jobs.get(&id).is_none_or(|known| known.revision < revision) {
            self.jobs.insert(id, Known { kept, revision });
        }
    }

    /// Learns that a job is gone.
    pub(super) fn see_gone(&mut self, id: &JobId, revision: u64) {
        if self.jobs.get(id).is_some_and(|known| known.revision < revision) {
            self.jobs.remove(id);
            self.folds.remove(id);
        }
    }

    /// Learns of a shard's record.
    pub(super) fn see_record(&mut self, id: &JobId, shard: u32, record: Record) {
        self.folds.entry(id.clone()).or_default().see(shard, record);
    }

    pub(super) fn known(&self, id: &JobId) -> Option<&Known> {
        self.jobs.get(id)
    }

    pub(super) fn count(&self) -> usize {
        self.jobs.len()
    }

    /// At most `max` jobs after `after`, each with its progress.
    pub(super) fn jobs(&self, after: Option<&JobId>, max: usize) -> Vec<Job> {
        let from = after.map_or(Unbounded, Excluded);
        self.jobs
            .range::<JobId, _>((from, Unbounded))
            .take(max)
            .map(|(_, known)| self.with_progress(&known.kept.job))
            .collect()
    }

    /// All jobs as they are kept.
    pub(super) fn all(&self) -> impl Iterator<Item = &Known> {
        self.jobs.values()
    }

    /// A job as it is kept, with the progress that is known now. May turn out to have ended by it.
    pub(super) fn with_progress(&self, job: &Job) -> Job {
        let mut job = job.clone();
        let Some(fold) = self.folds.get(&job.id).filter(|fold| fold.progress.shards > job.progress.shards) else {
            return job;
        };
        // So that a reader who waits for a later revision sees each step.
        job.revision += u64::from(fold.progress.shards - job.progress.shards);
        job.progress = fold.progress;
        job
    }

    /// Whether the records of a job say that it has ended although it does not know yet.
    pub(super) fn concludes(&self, id: &JobId) -> bool {
        let Some(known) = self.jobs.get(id) else { return false };
        let mut job = self.with_progress(&known.kept.job);
        let open = matches!(job.state, State::Running | State::Paused);
        let progressed = Event::Progressed(job.progress);
        open && job.apply(progressed, 0).is_ok() && job.state.ended()
    }

    /// The first `max` shards, of `shards`, that nobody has finished and that are not `elsewhere`.
    pub(super) fn open_shards(&self, id: &JobId, shards: u32, elsewhere: &BTreeSet<u32>, max: usize) -> Vec<u32> {
        let fold = self.folds.get(id);
        let open = |shard: &u32| {
            let finished = fold.is_some_and(|fold| fold.settled.has(*shard) || fold.decided.contains_key(shard));
            !finished && !elsewhere.contains(shard)
        };
        (0..shards).filter(open).take(max).collect()
    }

    /// The shards of a job that are decided and not settled.
    pub(super) fn unsettled(&self, id: &JobId) -> Vec<u32> {
        self.folds.get(id).map_or(vec![], |fold| fold.decided.keys().copied().collect())
    }

    /// Those with records of whom nothing else is known: jobs that were deleted while somebody finished a shard.
    pub(super) fn orphans(&self) -> Vec<JobId> {
        self.folds.keys().filter(|id| !self.jobs.contains_key(id)).cloned().collect()
    }

    /// Forgets records of a job that is gone.
    pub(super) fn forget(&mut self, id: &JobId) {
        if !self.jobs.contains_key(id) {
            self.folds.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Input, InputKind, Output, Plan, Spec, Staged, Tally};

    fn kept(shards: u32) -> Kept {
        let spec = Spec::new(Input::new("in.jsonl", InputKind::Jsonl), Output::new("out"));
        let spec = Spec { errors_max: Some(5), ..spec };
        let mut job = Job::new(id(), spec, 5);
        let plan = Plan { shards, rows: u64::from(shards) * 10, space: "0".repeat(16) };
        job.apply(Event::Planned(plan), 6).expect("it is pending");
        Kept { job, generation: 0, planner: String::new(), maker: String::new(), swept: false }
    }

    fn id() -> JobId {
        JobId("a".into())
    }

    fn record(failed: u64, settled: bool) -> Record {
        let tally = Tally { succeeded: 10 - failed, failed, skipped: 0, written: 10 - failed };
        Record { staged: Staged { attempt: "x".into(), files: vec![], tally }, settled }
    }

    #[test]
    fn a_record_counts_once_however_often_and_in_whatever_order_it_is_seen() {
        let mut view = View::default();
        view.see_record(&id(), 70, record(1, true));
        view.see_job(kept(100), 1);
        for shard in [70, 3, 3, 70] {
            view.see_record(&id(), shard, record(1, false));
            view.see_record(&id(), shard, record(1, true));
            view.see_record(&id(), shard, record(1, false));
        }
        view.see_record(&id(), 5, record(1, false));
        let job = view.with_progress(&kept(100).job);
        assert_eq!((job.progress.shards, job.progress.tally.rows(), job.progress.tally.failed), (2, 20, 2));
        assert_eq!(job.revision, kept(100).job.revision + 2, "each step is a later one");
        assert_eq!(view.unsettled(&id()), [5]);
        assert!(!view.concludes(&id()));
        let queued = BTreeSet::from([0, 4]);
        assert_eq!(view.open_shards(&id(), 8, &queued, 3), [1, 2, 6]);
        assert_eq!(view.open_shards(&id(), 8, &queued, 99), [1, 2, 6, 7]);
    }

    #[test]
    fn the_last_record_and_one_error_too_many_end_a_job() {
        let mut view = View::default();
        view.see_job(kept(2), 1);
        view.see_record(&id(), 0, record(0, true));
        assert!(!view.concludes(&id()));
        view.see_record(&id(), 1, record(0, true));
        assert!(view.concludes(&id()));

        let mut view = View::default();
        view.see_job(kept(9), 1);
        view.see_record(&id(), 0, record(6, true));
        assert!(view.concludes(&id()), "6 rows failed, 5 may");
    }

    #[test]
    fn the_latest_revision_stays() {
        let mut view = View::default();
        let mut paused = kept(2);
        paused.job.apply(Event::Pause, 7).expect("it runs");
        view.see_job(paused, 9);
        view.see_job(kept(2), 8);
        assert_eq!(view.known(&id()).map(|known| known.kept.job.state), Some(State::Paused));
        view.see_record(&id(), 0, record(0, true));
        view.see_gone(&id(), 8);
        assert_eq!(view.count(), 1, "that was before");
        view.see_gone(&id(), 10);
        assert_eq!((view.count(), view.orphans()), (0, vec![]));
        view.see_record(&id(), 1, record(0, true));
        assert_eq!(view.orphans(), [id()], "somebody was late");
    }
}
