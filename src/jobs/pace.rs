//! What moves between two settled shards: rows that are through but stand in no part yet, and how fast they come. None
//! of it is kept; after a crash it begins anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::job::JobId;

/// How long ago a row counts for a third of one that comes now.
const MEMORY: Duration = Duration::from_secs(10);

/// Rows a second, lately: every row counts, the older the less.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began: Instant,
    last: Instant,
    rows: f64,
}

impl Pace {
    /// Nothing has come yet.
    pub fn new(now: Instant) -> Self {
        Self { began: now, last: now, rows: 0.0 }
    }

    /// So many rows come now.
    pub fn add(&mut self, now: Instant, rows: u64) {
        self.rows = self.rows * faded(now - self.last) + rows as f64;
        self.last = now;
    }

    /// Rows a second.
    pub fn rows_per_second(&self, now: Instant) -> f64 {
        // What rows at a pace of one a second would have left since the beginning.
        let unit = MEMORY.as_secs_f64() * (1.0 - faded(now - self.began));
        if unit > 0.0 { self.rows * faded(now - self.last) / unit } else { 0.0 }
    }
}

fn faded(age: Duration) -> f64 {
    (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

/// Counts the rows of one shard that are through; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    rows: Arc<AtomicU64>,
    of: Option<(JobId, Live)>,
}

impl Meter {
    /// So many more are through.
    pub fn add(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        if let Some((job, live)) = &self.of {
            if let Some(moving) = live.moving().get_mut(job) {
                moving.pace.add(Instant::now(), rows);
            }
            live.0.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// How many are.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

/// The jobs that move; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    moving: Mutex<HashMap<JobId, Moving>>,
    /// Counts what is told of them.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Moving {
    pace: Pace,
    shards: HashMap<u32, Meter>,
    /// Rows in parts, of a job that others work on.
    settled: u64,
}

impl Moving {
    fn new(now: Instant, settled: u64) -> Self {
        Self { pace: Pace::new(now), shards: HashMap::new(), settled }
    }
}

impl Live {
    /// A shard of `job` is begun.
    pub fn begin(&self, job: &JobId, shard: u32) -> Meter {
        let meter = Meter { rows: Arc::default(), of: Some((job.clone(), self.clone())) };
        let mut moving = self.moving();
        let one = moving.entry(job.clone());
        let one = one.or_insert_with(|| Moving::new(Instant::now(), 0));
        one.shards.insert(shard, meter.clone());
        meter
    }

    /// So many rows of a job that others work on are in parts by now: its pace is that of its parts.
    pub fn elsewhere(&self, job: &JobId, settled: u64) {
        let now = Instant::now();
        let mut moving = self.moving();
        let one = moving.entry(job.clone()).or_insert_with(|| Moving::new(now, settled));
        one.pace.add(now, settled.saturating_sub(one.settled));
        one.settled = settled;
    }

    /// It is settled, or given up.
    pub fn end(&self, job: &JobId, shard: u32) {
        if let Some(moving) = self.moving().get_mut(job) {
            moving.shards.remove(&shard);
        }
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// Nothing of the job is to move for now.
    pub fn rest(&self, job: &JobId) {
        self.moving().remove(job);
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// A job that others work on rests or has ended.
    pub fn forget(&self, job: &JobId) {
        self.moving().remove(job);
    }

    /// Rows of a job that are through and in no part, and rows a second.
    pub fn of(&self, job: &JobId) -> (u64, f64) {
        match self.moving().get(job) {
            Some(one) => (one.shards.values().map(Meter::rows).sum(), one.pace.rows_per_second(Instant::now())),
            None => (0, 0.0),
        }
    }

    /// Whether a shard of the job is in work.
    pub fn works(&self, job: &JobId) -> bool {
        self.moving().get(job).is_some_and(|one| !one.shards.is_empty())
    }

    /// Sees a new value whenever anything moves.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn moving(&self) -> MutexGuard<'_, HashMap<JobId, Moving>> {
        self.0.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rows_per_second: u64, seconds: u64, began: Instant) -> Pace {
        let mut pace = Pace::new(began);
        for tick in 1..=seconds * 10 {
            pace.add(began + Duration::from_millis(100 * tick), rows_per_second / 10);
        }
        pace
    }

    #[test]
    fn it_is_right_from_the_beginning_and_forgets() {
        let began = Instant::now();
        for seconds in [1, 5, 60] {
            let told = pace(100, seconds, began).rows_per_second(began + Duration::from_secs(seconds));
            assert!((told - 100.0).abs() < 6.0, "{told} after {seconds} s");
        }
        let mut changed = pace(100, 60, began);
        for second in 61..=100 {
            changed.add(began + Duration::from_secs(second), 20);
        }
        let told = changed.rows_per_second(began + Duration::from_secs(100));
        assert!((told - 20.0).abs() < 3.0, "{told}");
        let told = changed.rows_per_second(began + Duration::from_secs(200));
        assert!(told < 0.01, "{told} although nothing came for long");
        assert_eq!(Pace::new(began).rows_per_second(began), 0.0);
    }

    #[test]
    fn the_pace_of_others_is_that_of_their_parts() {
        let (live, job) = (Live::default(), JobId("a".into()));
        live.elsewhere(&job, 500);
        assert_eq!(live.of(&job).1, 0.0, "what was there before is no pace");
        std::thread::sleep(Duration::from_millis(20));
        live.elsewhere(&job, 700);
        assert!(live.of(&job).1 > 10.0);
        assert_eq!(live.of(&job).0, 0, "nothing is in work here");
        live.forget(&job);
        assert_eq!(live.of(&job), (0, 0.0));
    }

    #[test]
    fn meters_add_up_until_their_shard_ends() {
        let (live, job) = (Live::default(), JobId("a".into()));
        let mut changes = live.changes();
        let (first, second) = (live.begin(&job, 0), live.begin(&job, 1));
        first.add(3);
        second.add(4);
        assert!(changes.has_changed().expect("it lives"));
        assert_eq!((live.of(&job).0, first.rows()), (7, 3));
        changes.mark_unchanged();
        live.end(&job, 0);
        assert!(changes.has_changed().expect("it lives"));
        assert_eq!(live.of(&job).0, 4);
        assert!(live.of(&job).1 > 0.0);
        live.rest(&job);
        second.add(1);
        assert_eq!(live.of(&job), (0, 0.0));
        assert_eq!(live.of(&JobId("b".into())), (0, 0.0));
    }
}
