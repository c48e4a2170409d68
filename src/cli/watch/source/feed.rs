//! Where frames wait between the thread that reads them and the session that looks at them: few, and by the rule of the
//! session what becomes of more. Who drops the [`Feed`] ends the reading, and the process that reads.

use std::collections::VecDeque;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Reading;
use crate::engine::MediaFrame;
use crate::watch::Drops;

/// Frames that wait here; there are more places further on.
const WAITING_MAX: usize = 4;

/// A feed, and who fills it.
pub(super) fn feed(drops: Drops, reading: &Reading) -> (Filler, Feed) {
    let shared = Arc::new(Shared::default());
    let pacer = reading.realtime.then(Pacer::default);
    let patience = reading.stall.max(Duration::from_secs_f64(3.0 / reading.fps));
    (Filler { shared: shared.clone(), drops, pacer: Mutex::new(pacer) }, Feed { shared, patience })
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is room again, or nobody wants more.
    room: Condvar,
    /// There is a frame, or the end.
    filled: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<MediaFrame>,
    dropped: u64,
    /// How the reading ended.
    outcome: Option<anyhow::Result<()>>,
    /// Nobody wants more.
    closed: bool,
    /// The process that reads.
    child: Option<Child>,
}

impl Shared {
    /// What a panic left is as good as before: every change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When frames were shown first, for a source that is played at its own pace.
#[derive(Default)]
struct Pacer(Option<(Instant, u64)>);

impl Pacer {
    fn due(&mut self, pts_ms: u64) -> Instant {
        let (began, first_ms) = *self.0.get_or_insert_with(|| (Instant::now(), pts_ms));
        // No clock reaches as far as times can.
        began.checked_add(Duration::from_millis(pts_ms.saturating_sub(first_ms))).unwrap_or(began)
    }
}

/// The end at which frames come in.
pub(super) struct Filler {
    shared: Arc<Shared>,
    drops: Drops,
    /// Of a source that is played at its own pace.
    pacer: Mutex<Option<Pacer>>,
}

impl Filler {
    /// Adds a frame, when it is its time and there is room; false if nobody wants more.
    pub fn push(&self, frame: MediaFrame) -> bool {
        let due = {
            let mut pacer = self.pacer.lock().unwrap_or_else(PoisonError::into_inner);
            pacer.as_mut().map(|pacer| pacer.due(frame.pts_ms()))
        };
        let mut state = self.shared.lock();
        while let Some(left) = due.map(|due| due.saturating_duration_since(Instant::now()))
            && !left.is_zero()
            && !state.closed
        {
            state = self.shared.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let full = match self.drops {
            Drops::Wait | Drops::Oldest => WAITING_MAX,
            Drops::LatestOnly => 1,
        };
        while !state.closed && state.waiting.len() >= full {
            match self.drops {
                Drops::Wait => state = self.shared.room.wait(state).unwrap_or_else(PoisonError::into_inner),
                Drops::Oldest | Drops::LatestOnly => {
                    state.waiting.pop_front();
                    state.dropped += 1;
                }
            }
        }
        if state.closed {
            return false;
        }
        state.waiting.push_back(frame);
        drop(state);
        self.shared.filled.notify_one();
        true
    }

    /// Whether somebody still wants frames.
    pub fn is_wanted(&self) -> bool {
        !self.shared.lock().closed
    }

    /// Leaves the process that reads to be ended with the feed.
    pub fn leave(&self, mut child: Child) {
        let mut state = self.shared.lock();
        if state.closed {
            end(&mut child);
        }
        state.child = Some(child);
        drop(state);
        // Whoever waits already has patience from now on.
        self.shared.filled.notify_one();
    }

    /// Looks after that process.
    pub fn with_child<Answer>(&self, look: impl FnOnce(&mut Child) -> Answer) -> Option<Answer> {
        self.shared.lock().child.as_mut().map(look)
    }

    /// Nothing follows. What went wrong because nobody wanted more did not go wrong.
    pub fn end(self, outcome: anyhow::Result<()>) {
        let mut state = self.shared.lock();
        state.outcome = Some(if state.closed { Ok(()) } else { outcome });
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.outcome.get_or_insert_with(|| Err(anyhow::anyhow!("the thread that read the source has panicked")));
        drop(state);
        self.shared.filled.notify_one();
    }
}

/// The end at which frames go out.
pub(in crate::cli::watch) struct Feed {
    shared: Arc<Shared>,
    /// How long a process may bring nothing.
    patience: Duration,
}

impl Feed {
    /// The next frame; none: the source has ended.
    pub async fn next(&mut self) -> anyhow::Result<Option<MediaFrame>> {
        let wanted = Instant::now();
        loop {
            let filled = self.shared.filled.notified();
            let by_process = {
                let mut state = self.shared.lock();
                if let Some(frame) = state.waiting.pop_front() {
                    drop(state);
                    self.shared.room.notify_one();
                    return Ok(Some(frame));
                }
                if let Some(outcome) = state.outcome.take() {
                    // Asked again it has ended, well or not.
                    state.outcome = Some(Ok(()));
                    return outcome.map(|()| None);
                }
                state.child.is_some()
            };
            match by_process {
                false => filled.await,
                true => {
                    let left = self.patience.saturating_sub(wanted.elapsed());
                    if tokio::time::timeout(left, filled).await.is_err() {
                        self.close();
                        let seconds = self.patience.as_secs_f64();
                        anyhow::bail!("the source brought no frame for {seconds} s; --stall sets how long it may");
                    }
                }
            }
        }
    }

    /// Counts what is dropped here.
    pub fn tally(&self) -> Tally {
        Tally(self.shared.clone())
    }

    /// Ends the reading; what waits may still be taken.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        if let Some(child) = &mut state.child {
            end(child);
        }
        drop(state);
        self.shared.room.notify_all();
    }
}

/// How many frames a feed has dropped.
pub(in crate::cli::watch) struct Tally(Arc<Shared>);

impl Tally {
    /// Frames that were dropped before the session knew of them.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends a process and takes note of its end, so that nothing of it is left.
fn end(child: &mut Child) {
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::MediaLimits;

    fn reading() -> Reading {
        let limits = MediaLimits { bytes_max: 1, pixels_max: 1, frames_max: 1, decode_bytes_max: 1 };
        let stall = Duration::from_secs(5);
        Reading {
            fps: 1000.0,
            side_max: 64,
            realtime: false,
            limit_ms: None,
            stall,
            drops: None,
            limits,
            picture_bytes_max: 1,
        }
    }

    fn frame(pts_ms: u64) -> MediaFrame {
        MediaFrame::Encoded { bytes: vec![], pts_ms }
    }

    async fn all(feed: &mut Feed) -> Vec<u64> {
        let mut times = vec![];
        while let Some(frame) = feed.next().await.expect("no fault") {
            times.push(frame.pts_ms());
        }
        times
    }

    #[tokio::test]
    async fn who_waits_loses_nothing_and_holds_little() {
        let (filler, mut feed) = feed(Drops::Wait, &reading());
        let thread = std::thread::spawn(move || {
            assert!((0..50).all(|at| filler.push(frame(at))));
            filler.end(Ok(()));
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(feed.shared.lock().waiting.len(), WAITING_MAX);
        assert_eq!(all(&mut feed).await, (0..50).collect::<Vec<_>>());
        assert_eq!(feed.tally().dropped(), 0);
        thread.join().expect("it ends");
    }

    #[tokio::test]
    async fn who_drops_never_waits() {
        for (drops, kept) in [(Drops::Oldest, &[6, 7, 8, 9][..]), (Drops::LatestOnly, &[9])] {
            let (filler, mut feed) = feed(drops, &reading());
            assert!((0..10).all(|at| filler.push(frame(at))));
            filler.end(Ok(()));
            assert_eq!(all(&mut feed).await, kept);
            assert_eq!(feed.tally().dropped(), 10 - kept.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_fault_comes_after_the_frames_before_it() {
        let (filler, mut feed) = feed(Drops::Wait, &reading());
        filler.push(frame(3));
        filler.end(Err(anyhow::anyhow!("torn")));
        assert_eq!(feed.next().await.expect("a frame").expect("a frame").pts_ms(), 3);
        assert_eq!(feed.next().await.expect_err("a fault").to_string(), "torn");
        assert!(feed.next().await.expect("the end").is_none());
        let (filler, mut feed) = super::feed(Drops::Wait, &reading());
        drop(filler);
        assert!(feed.next().await.expect_err("a fault").to_string().contains("panicked"));
    }

    #[tokio::test]
    async fn closing_ends_whoever_waits_for_room_or_time() {
        for realtime in [false, true] {
            let (filler, feed) = feed(Drops::Wait, &Reading { realtime, ..reading() });
            let thread = std::thread::spawn(move || (0..).take_while(|at| filler.push(frame(at * 3_600_000))).count());
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(feed);
            assert_eq!(thread.join().expect("it ends"), if realtime { 1 } else { WAITING_MAX });
        }
    }

    #[tokio::test]
    async fn a_process_that_brings_nothing_is_ended_though_it_came_late() {
        let (filler, mut feed) = feed(Drops::Wait, &Reading { stall: Duration::from_millis(200), ..reading() });
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            filler.leave(std::process::Command::new("sleep").arg("60").spawn().expect("it runs"));
            while filler.is_wanted() {
                std::thread::sleep(Duration::from_millis(5));
            }
            filler.with_child(|child| child.try_wait())
        });
        let outcome = tokio::time::timeout(Duration::from_secs(20), feed.next()).await.expect("in time");
        assert!(outcome.expect_err("nothing came").to_string().contains("brought no frame for 0.2 s"));
        let ended = thread.join().expect("it ends").expect("a process").expect("ours");
        assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
    }

    #[tokio::test]
    async fn frames_that_are_played_come_when_it_is_their_time() {
        let (filler, mut feed) = feed(Drops::Oldest, &Reading { realtime: true, ..reading() });
        std::thread::spawn(move || {
            assert!((0..4).all(|at| filler.push(frame(7_000 + at * 40))));
            filler.end(Ok(()));
        });
        let began = Instant::now();
        assert_eq!(all(&mut feed).await, [7_000, 7_040, 7_080, 7_120]);
        assert!(began.elapsed() >= Duration::from_millis(115), "{:?}", began.elapsed());
    }
}
