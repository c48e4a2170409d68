//! Work without a model and a disk, so that the rules of commits and of the runner are tested: attempts wait until they
//! are let through, fail as they are told to, and what they leave can be counted.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};

use super::job::{Job, JobId, Plan};
use super::pace::Meter;
use super::parts::ErrorsToken;
use super::row::{Failed, Failure, Fault};
use super::shard::{Shard, Staged, StagedFile, Tally};
use super::spec::{Input, InputKind, Output, Rank, Spec};
use super::work::Work;
use crate::engine::{Code, EngineError};

/// Rows of each shard.
pub const ROWS: u64 = 10;

/// What happens to an attempt.
#[derive(Debug, Clone)]
pub enum Fate {
    Fails(Fault),
    Panics,
    /// It makes other bytes than all others.
    ComesOutOtherwise,
}

/// Work that is counted.
pub struct Fake {
    /// Shards of every input.
    shards: u32,
    /// One permit lets one attempt through.
    pub gate: Semaphore,
    /// One permit lets one input be cut.
    pub planning: Semaphore,
    inner: Mutex<Inner>,
    /// Sees a new value with every line of the log.
    told: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    /// What was done, in order.
    log: Vec<String>,
    fates: HashMap<u32, Vec<Fate>>,
    attempts: u32,
    /// Attempts whose files have temporary names, and their jobs.
    staged: HashMap<String, JobId>,
    /// By name of the job and file, the attempt.
    files: HashMap<(JobId, String), String>,
}

impl Fake {
    /// Every input has so many shards; nothing is held up.
    pub fn free(shards: u32) -> Self {
        Self { gate: Semaphore::new(1 << 20), ..Self::held(shards) }
    }

    /// The same, each attempt waiting for a permit.
    pub fn held(shards: u32) -> Self {
        Self {
            shards,
            gate: Semaphore::new(0),
            planning: Semaphore::new(1 << 20),
            inner: Mutex::default(),
            told: watch::Sender::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, line: String) {
        self.inner().log.push(line);
        self.told.send_modify(|lines| *lines += 1);
    }

    /// What was done so far.
    pub fn log(&self) -> Vec<String> {
        self.inner().log.clone()
    }

    /// Waits until so many lines of the log begin with `what`.
    pub async fn until(&self, what: &str, count: usize) {
        let mut told = self.told.subscribe();
        let enough = |_: &usize| self.log().iter().filter(|line| line.starts_with(what)).count() >= count;
        told.wait_for(enough).await.expect("it lives");
    }

    /// The next attempt at this shard has this fate.
    pub fn doom(&self, shard: u32, fate: Fate) {
        self.inner().fates.entry(shard).or_default().push(fate);
    }

    /// The names of a job's files, in order.
    pub fn files(&self, id: &JobId) -> Vec<String> {
        let mut names: Vec<_> =
            self.inner().files.keys().filter(|(job, _)| job == id).map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }

    /// Attempts whose files have temporary names.
    pub fn staged(&self) -> usize {
        self.inner().staged.len()
    }

    /// A file gets lost.
    pub fn lose(&self, id: &JobId, name: &str) {
        self.inner().files.remove(&(id.clone(), name.into())).expect("it was there");
    }

    /// Stages what an attempt makes of a shard.
    pub fn stage(&self, id: &JobId, shard: u32) -> Staged {
        let mut inner = self.inner();
        inner.attempts += 1;
        let attempt = format!("attempt-{}", inner.attempts);
        inner.staged.insert(attempt.clone(), id.clone());
        let name = part(shard);
        let file = StagedFile { temporary: attempt.clone(), name, bytes: 1, sha256: String::new() };
        let tally = Tally { succeeded: ROWS - 1, failed: 1, skipped: 0, written: ROWS - 1 };
        Staged { attempt, files: vec![file], tally }
    }
}

/// The name of a shard's part.
pub fn part(shard: u32) -> String {
    format!("part-{shard:05}")
}

/// Something to do.
pub fn spec(rank: Rank) -> Spec {
    let output = Output { rows_a_part: ROWS, ..Output::new("out") };
    Spec { rank, ..Spec::new(Input::new("in", InputKind::Jsonl), output) }
}

/// Tells when an attempt is given up.
struct Begun<'a> {
    fake: &'a Fake,
    line: String,
    through: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.through {
            self.fake.tell(format!("given up {}", self.line));
        }
    }
}

#[async_trait]
impl Work for Fake {
    fn model(&self, name: &str) -> Result<String, EngineError> {
        match name {
            "" | "fake" => Ok("fake".into()),
            _ => Err(EngineError::Unknown { asked: name.into(), served: vec!["fake".into()] }),
        }
    }

    async fn plan(&self, job: &Job) -> Result<(Vec<Shard>, Plan), Fault> {
        self.tell(format!("plan {}", job.title));
        self.planning.acquire().await.expect("it is open").forget();
        let shard = |index: u32| Shard {
            index,
            first_row: u64::from(index) * ROWS,
            rows: ROWS,
            start: 0,
            end: 0,
            digest: String::new(),
        };
        let plan = Plan { shards: self.shards, rows: u64::from(self.shards) * ROWS, space: "5".repeat(16) };
        Ok(((0..self.shards).map(shard).collect(), plan))
    }

    async fn attempt(&self, job: &Job, shard: &Shard, meter: &Meter) -> Result<Staged, Fault> {
        let line = format!("{} {}", job.title, shard.index);
        self.tell(format!("begin {line}"));
        let mut begun = Begun { fake: self, line, through: false };
        meter.add(ROWS / 2);
        self.gate.acquire().await.expect("it is open").forget();
        let fate =
            self.inner().fates.get_mut(&shard.index).filter(|fates| !fates.is_empty()).map(|fates| fates.remove(0));
        begun.through = true;
        match fate {
            Some(Fate::Fails(fault)) => Err(fault),
            Some(Fate::Panics) => panic!("it is told to"),
            otherwise => {
                meter.add(ROWS - ROWS / 2);
                let mut staged = self.stage(&job.id, shard.index);
                if otherwise.is_some() {
                    staged.files[0].sha256 = "other".into();
                }
                Ok(staged)
            }
        }
    }

    async fn publish(&self, job: &Job, staged: &Staged) -> Result<(), Fault> {
        let key = (job.id.clone(), staged.files[0].name.clone());
        let mut inner = self.inner();
        if inner.staged.remove(&staged.attempt).is_some() {
            inner.files.insert(key, staged.attempt.clone());
        } else if !inner.files.contains_key(&key) {
            return Err(Fault::Broken(format!("{} is gone", staged.attempt)));
        }
        drop(inner);
        self.tell(format!("publish {} {}", job.title, staged.files[0].name));
        Ok(())
    }

    async fn lost(&self, job: &Job, staged: &Staged) -> Result<Option<String>, Fault> {
        let name = staged.files[0].name.clone();
        Ok((!self.files(&job.id).contains(&name)).then_some(name))
    }

    async fn discard(&self, _: &Job, attempt: &str) -> Result<(), Fault> {
        self.inner().staged.remove(attempt);
        Ok(())
    }

    async fn sweep(&self, job: &Job, keep: &HashSet<String>) -> Result<(), Fault> {
        self.inner().staged.retain(|attempt, of| *of != job.id || keep.contains(attempt));
        self.tell(format!("sweep {}", job.title));
        Ok(())
    }

    async fn clear(&self, job: &Job) -> Result<(), EngineError> {
        self.inner().files.retain(|(of, _), _| *of != job.id);
        Ok(())
    }

    /// One row of every part failed, its last.
    async fn errors(
        &self,
        _: &Job,
        from: ErrorsToken,
        max: usize,
    ) -> Result<(Vec<Failed>, Option<ErrorsToken>), EngineError> {
        let row = u64::from(from.shard) * ROWS + ROWS - 1;
        let failure = Failure { code: Code::InvalidArgument, message: "it is told to".into() };
        let failed = Failed { row, id: row.to_string(), failure };
        Ok((Vec::from_iter((max > 0 && from.byte == 0).then_some(failed)), None))
    }
}
