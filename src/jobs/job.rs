//! A job's life: a plain struct and the events that move it, given the time. Every rule about states is in [`Job::apply`].

use std::fmt;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::shard::Tally;
use super::spec::Spec;

/// The time of day, milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64)
}

/// Names a job: 16 letters and digits, of its time of creation first, so that names sort by age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub String);

impl JobId {
    /// The name of a job made at `now_ms`; `chance` tells those of one millisecond apart.
    pub fn new(now_ms: u64, chance: u64) -> Self {
        Self(digits(now_ms, 9) + &digits(chance, 7))
    }

    /// The name of the job that does just this: the same whoever makes it, and whenever.
    pub fn of(spec: &Spec) -> Self {
        let spec = serde_json::to_vec(spec).expect("its keys are strings, its numbers finite");
        let digest = Sha256::digest(spec);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self(digits(number(&digest[..8]), 9) + &digits(number(&digest[8..16]), 7))
    }
}

/// The last `count` digits of a number to the base 32.
fn digits(number: u64, count: u32) -> String {
    // In the order of ASCII, and without letters that look like digits.
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    (0..count).rev().map(|place| char::from(DIGITS[(number >> (5 * place)) as usize & 31])).collect()
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its input is not planned yet.
    Pending,
    /// Its shards are worked on.
    Running,
    /// Nothing is worked on until it is resumed.
    Paused,
    /// It is to end; shards in work are being given up.
    Cancelling,
    /// It was ended. What was settled before stays.
    Cancelled,
    /// Every shard is settled.
    Succeeded,
    /// It could not go on; its reason says why.
    Failed,
}

impl State {
    /// All of them.
    pub const ALL: [State; 7] =
        [Self::Pending, Self::Running, Self::Paused, Self::Cancelling, Self::Cancelled, Self::Succeeded, Self::Failed];

    /// Its name as metrics and people see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing happens to it by itself any more.
    pub fn ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Succeeded | Self::Failed)
    }
}

/// How the input was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of shards.
    pub shards: u32,
    /// Number of input rows.
    pub rows: u64,
    /// Fingerprint of the space that the whole output is in; a model of another one must not go on with it.
    pub space: String,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Shards whose part counts.
    pub shards: u32,
    /// Their rows.
    pub tally: Tally,
}

/// A job as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What its caller calls it; may be empty.
    pub title: String,
    /// Name of the key that made it; none where keys are not asked for.
    pub owner: Option<String>,
    /// The caller's own name of the request that made it; may be empty. A second request of that owner and name makes
    /// no second job.
    #[serde(default)]
    pub request_id: String,
    /// What it is asked to do.
    pub spec: Spec,
    /// Where it stands.
    pub state: State,
    /// How its input was cut, once it is.
    pub plan: Option<Plan>,
    /// How far it is.
    pub progress: Progress,
    /// Why it failed; empty otherwise.
    pub reason: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// When it was planned.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Grows with every change.
    pub revision: u64,
}

/// What happens to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its input is cut.
    Planned(Plan),
    /// So far it is now.
    Progressed(Progress),
    /// Somebody wants it to wait.
    Pause,
    /// Somebody wants it to go on, also after it failed.
    Resume,
    /// Somebody wants it to end.
    Cancel,
    /// None of its shards is in work.
    Idle,
    /// It cannot go on.
    Fail(String),
}

/// A state does not allow what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job {id} is {}, cannot {asked}: must be {allowed}", state.name())]
pub struct Refused {
    /// The job.
    pub id: JobId,
    /// Where it stands.
    pub state: State,
    /// What was asked, such as `pause`.
    pub asked: &'static str,
    /// The states that allow it.
    pub allowed: &'static str,
}

impl Job {
    /// A job nobody has begun.
    pub fn new(id: JobId, spec: Spec, now_ms: u64) -> Self {
        Self {
            id,
            title: String::new(),
            owner: None,
            request_id: String::new(),
            spec,
            state: State::Pending,
            plan: None,
            progress: Progress::default(),
            reason: String::new(),
            created_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            revision: 0,
        }
    }

    /// Moves it, and tells whether that changed anything. What programs report of a job that has ended or moved on
    /// meanwhile changes nothing; what a person asks for and the state does not allow is refused.
    pub fn apply(&mut self, event: Event, now_ms: u64) -> Result<bool, Refused> {
        use State::{Cancelled, Cancelling, Failed, Paused, Pending, Running, Succeeded};
        let before = self.clone();
        match (event, self.state) {
            (Event::Planned(plan), Pending | Paused | Cancelling) if self.plan.is_none() => {
                self.plan = Some(plan);
                self.started_ms = Some(now_ms);
                if self.state == Pending {
                    self.state = Running;
                }
            }
            (Event::Progressed(progress), state) if state != Succeeded => self.progress = progress,
            (Event::Planned(_) | Event::Progressed(_), _) => {}
            (Event::Pause, Pending | Running) => self.state = Paused,
            (Event::Pause, Paused) => {}
            (Event::Pause, _) => return Err(self.refused("pause", "pending, running or paused")),
            (Event::Resume, Paused | Failed) => {
                self.state = if self.plan.is_some() { Running } else { Pending };
                self.reason.clear();
            }
            (Event::Resume, Pending | Running) => {}
            (Event::Resume, _) => return Err(self.refused("resume", "paused, failed, pending or running")),
            (Event::Cancel, Pending | Running | Paused) => self.state = Cancelling,
            (Event::Cancel, Cancelling | Cancelled) => {}
            (Event::Cancel, _) => return Err(self.refused("cancel", "pending, running, paused or cancelling")),
            (Event::Idle, Cancelling) => self.state = Cancelled,
            (Event::Idle, _) => {}
            (Event::Fail(reason), Pending | Running | Paused) => (self.state, self.reason) = (Failed, reason),
            (Event::Fail(_), Cancelling) => self.state = Cancelled,
            (Event::Fail(_), _) => {}
        }
        self.judge();
        self.ended_ms = self.state.ended().then(|| self.ended_ms.unwrap_or(now_ms));
        let changed = *self != before;
        self.revision += u64::from(changed);
        Ok(changed)
    }

    /// What follows from how far it is.
    fn judge(&mut self) {
        let failed = self.progress.tally.failed;
        if !matches!(self.state, State::Running | State::Paused) {
            return;
        }
        if let Some(max) = self.spec.errors_max.filter(|&max| failed > max) {
            self.state = State::Failed;
            self.reason = format!("{failed} rows failed, errors_max is {max}");
        } else if self.plan.as_ref().is_some_and(|plan| plan.shards == self.progress.shards) {
            self.state = State::Succeeded;
        }
    }

    /// Whether it may be forgotten: only once nothing happens to it by itself any more.
    pub fn deletable(&self) -> Result<(), Refused> {
        match self.state.ended() {
            true => Ok(()),
            false => Err(self.refused("be deleted", "cancelled, succeeded or failed")),
        }
    }

    fn refused(&self, asked: &'static str, allowed: &'static str) -> Refused {
        Refused { id: self.id.clone(), state: self.state, asked, allowed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Input, InputKind, Output};

    fn job(state: State, plan: bool) -> Job {
        let spec = Spec::new(Input::new("in.jsonl", InputKind::Jsonl), Output::new("out"));
        let spec = Spec { errors_max: Some(2), ..spec };
        let mut job = Job::new(JobId("a".into()), spec, 5);
        job.state = state;
        job.plan = plan.then(|| Plan { shards: 3, rows: 25, space: "0".repeat(16) });
        job
    }

    fn progress(shards: u32, failed: u64) -> Event {
        Event::Progressed(Progress { shards, tally: Tally { failed, ..Default::default() } })
    }

    #[test]
    fn every_event_in_every_state() {
        use State::*;
        let plan = || Event::Planned(Plan { shards: 3, rows: 25, space: "0".repeat(16) });
        // What becomes of Pending Running Paused Cancelling Cancelled Succeeded Failed; None is a refusal.
        let table: [(Event, [Option<State>; 7]); 6] = [
            (Event::Pause, [Some(Paused), Some(Paused), Some(Paused), None, None, None, None]),
            (Event::Resume, [Some(Pending), Some(Running), Some(Running), None, None, None, Some(Running)]),
            (
                Event::Cancel,
                [Some(Cancelling), Some(Cancelling), Some(Cancelling), Some(Cancelling), Some(Cancelled), None, None],
            ),
            (Event::Idle, [Pending, Running, Paused, Cancelled, Cancelled, Succeeded, Failed].map(Some)),
            (Event::Fail("why".into()), [Failed, Failed, Failed, Cancelled, Cancelled, Succeeded, Failed].map(Some)),
            (progress(1, 0), [Pending, Running, Paused, Cancelling, Cancelled, Succeeded, Failed].map(Some)),
        ];
        for (event, outcomes) in table {
            for (state, outcome) in State::ALL.into_iter().zip(outcomes) {
                let mut job = job(state, state != Pending);
                let applied = job.apply(event.clone(), 9);
                assert_eq!(applied.is_err(), outcome.is_none(), "{event:?} in {state:?}");
                assert_eq!(job.state, outcome.unwrap_or(state), "{event:?} in {state:?}");
                assert_eq!(job.ended_ms.is_some(), applied.is_ok() && job.state.ended(), "{event:?} in {state:?}");
            }
        }
        for (state, outcome) in [(Pending, Running), (Paused, Paused), (Cancelling, Cancelling)] {
            let mut job = job(state, false);
            assert_eq!((job.apply(plan(), 9), job.state, job.plan.is_some()), (Ok(true), outcome, true));
        }
    }

    #[test]
    fn it_ends_with_its_last_shard_and_fails_with_one_error_too_many() {
        let mut running = job(State::Running, true);
        assert_eq!(running.apply(progress(2, 2), 9), Ok(true));
        assert_eq!(running.apply(progress(2, 2), 9), Ok(false), "nothing new");
        assert_eq!(running.state, State::Running);
        running.apply(progress(3, 2), 10).expect("allowed");
        assert_eq!((running.state, running.ended_ms), (State::Succeeded, Some(10)));

        let mut running = job(State::Running, true);
        running.apply(progress(1, 3), 9).expect("allowed");
        assert_eq!((running.state, &*running.reason), (State::Failed, "3 rows failed, errors_max is 2"));
    }

    #[test]
    fn an_input_without_rows_succeeds_at_once() {
        let mut job = job(State::Pending, false);
        job.apply(Event::Planned(Plan { shards: 0, rows: 0, space: String::new() }), 9).expect("allowed");
        assert_eq!(job.state, State::Succeeded);
    }

    #[test]
    fn names_sort_by_age() {
        let times = [0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001, (1 << 45) - 1];
        let names: Vec<JobId> = times.into_iter().map(|now_ms| JobId::new(now_ms, !now_ms)).collect();
        assert!(names.is_sorted() && names.iter().all(|name| name.0.len() == 16), "{names:?}");
        assert_ne!(JobId::new(5, 1), JobId::new(5, 2));
        let spec = job(State::Pending, false).spec;
        let other = Spec { question: Some("what?".into()), ..spec.clone() };
        assert_eq!(JobId::of(&spec), JobId::of(&spec.clone()));
        assert_ne!(JobId::of(&spec), JobId::of(&other));
    }

    #[test]
    fn a_refusal_names_job_state_and_what_would_do() {
        let refused = job(State::Succeeded, true).apply(Event::Pause, 9).expect_err("it has ended");
        assert_eq!(refused.to_string(), "job a is succeeded, cannot pause: must be pending, running or paused");
    }
}
