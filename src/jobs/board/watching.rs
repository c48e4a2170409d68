//! Telling somebody of a job whenever it changes, and not oftener than anybody can read.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{JobView, Jobs};
use crate::engine::EngineError;
use crate::jobs::job::JobId;

/// The least time between two tellings of one job.
pub(super) const TELLING: Duration = Duration::from_millis(250);
/// The most, while it runs: its pace fades although nothing happens.
const FADING: Duration = Duration::from_secs(2);

/// Somebody who is told of a job.
pub(super) struct Watching {
    id: JobId,
    owner: Option<String>,
    jobs: Jobs,
    stored: watch::Receiver<u64>,
    moved: watch::Receiver<u64>,
    told: Option<JobView>,
    looked: Option<Instant>,
    over: bool,
}

impl Watching {
    /// Nobody was told anything yet. What is stored and what moves is told by the two receivers.
    pub fn new(
        jobs: Jobs,
        id: &JobId,
        owner: Option<&str>,
        stored: watch::Receiver<u64>,
        moved: watch::Receiver<u64>,
    ) -> Self {
        let (id, owner) = (id.clone(), owner.map(String::from));
        Self { id, owner, jobs, stored, moved, told: None, looked: None, over: false }
    }

    /// The next view that differs from the last.
    pub async fn next(&mut self) -> Option<Result<JobView, EngineError>> {
        if self.over {
            return None;
        }
        loop {
            if let Some(looked) = self.looked {
                sleep_until(looked + TELLING).await;
            }
            self.looked = Some(Instant::now());
            // First: what changes while it is read is read again.
            self.stored.mark_unchanged();
            self.moved.mark_unchanged();
            let view = match self.jobs.get(&self.id, self.owner.as_deref()).await {
                Ok(view) => view,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            };
            if self.told.as_ref() != Some(&view) {
                self.over = view.job.state.ended();
                self.told = Some(view.clone());
                return Some(Ok(view));
            }
            tokio::select! {
                // The jobs here hold both senders.
                _ = self.stored.changed() => {}
                _ = self.moved.changed() => {}
                () = sleep(FADING), if view.rows_per_second > 0.0 => {}
            }
        }
    }
}
