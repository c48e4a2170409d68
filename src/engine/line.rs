//! Where those who ask and the model thread meet: the queue under one lock, and what each side tells the other.
//!
//! Who asks holds a [`Place`]; dropping it takes the work out of the queue at once, pixels and permit with it. A
//! channel would keep both until the model thread came to look, and that may be a minute away.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::admission::Load;
use super::cost::{Pace, Passed};
use super::queue::{Batch, Entry, Queue, Rules, Ticket};
use super::request::{Class, Timing};
use super::work::Job;
use crate::kernel::pulse::Pulse;

/// The queue and its two sides.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    /// Something came, or somebody wants a sign of life.
    changed: Condvar,
    /// Beats whenever the model thread gets on.
    pulse: Pulse,
}

#[derive(Debug)]
struct State {
    queue: Queue<Job>,
    pace: Pace,
    running: Load,
    passed: Passed,
    phase: Phase,
    panic_asked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Entries come and go.
    Open,
    /// What waits is still answered, nothing can come.
    Closing,
    /// The model thread is gone.
    Ended,
}

/// What the model thread does, as others see it.
#[derive(Debug, Clone)]
pub struct Glance {
    /// What waits, by class.
    pub waiting: [Load; Class::ALL.len()],
    /// What the model works on.
    pub running: Load,
    /// What passed through the model since it started.
    pub passed: Passed,
    /// Cost worked off in a second, once known.
    pub tokens_per_second: Option<f64>,
}

/// A place in the line, left when it is dropped.
#[derive(Debug)]
pub struct Place {
    line: Arc<Line>,
    ticket: Ticket,
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.line.state().queue.cancel(self.ticket);
        // Large, and not to be freed under the lock.
        drop(left);
    }
}

impl Line {
    /// A line with nobody in it.
    pub fn new(rules: Rules) -> Self {
        let state = State {
            queue: Queue::new(rules),
            pace: Pace::default(),
            running: Load::default(),
            passed: Passed::default(),
            phase: Phase::Open,
            panic_asked: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), pulse: Pulse::default() }
    }

    /// Takes a place; none when the model thread is gone.
    pub fn join(self: &Arc<Self>, entry: Entry<Job>) -> Option<Place> {
        let mut state = self.state();
        if state.phase == Phase::Ended {
            return None;
        }
        let ticket = state.queue.push(entry);
        drop(state);
        self.changed.notify_one();
        Some(Place { line: self.clone(), ticket })
    }

    /// Nothing will come any more.
    pub fn close(&self) {
        let mut state = self.state();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Makes the model thread panic at its next batch.
    pub fn ask_for_panic(&self) {
        self.state().panic_asked = true;
        self.changed.notify_one();
    }

    /// What the model does next; sleeps while there is nothing, and is none once nothing can come.
    pub fn next_batch(&self) -> Option<Batch<Job>> {
        let mut state = self.state();
        state.running = Load::default();
        loop {
            self.pulse.beat();
            assert!(!state.panic_asked, "asked to panic");
            if !state.queue.is_empty() {
                let State { queue, pace, .. } = &mut *state;
                let batch = queue.next_batch(Instant::now(), pace);
                state.running = batch.load;
                return Some(batch);
            }
            if state.phase != Phase::Open {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Learns from a batch that has been worked off.
    pub fn learn(&self, passed: Passed, timing: &Timing) {
        let Timing { vision, predictor, text, decoder, .. } = *timing;
        let mut state = self.state();
        state.passed = state.passed.plus(passed);
        state.pace.learn(passed, [vision, predictor, text, decoder]);
        // A batch that everybody has left teaches nothing.
        if passed != Passed::default() {
            let cost = state.running.cost;
            state.pace.learn_all(cost, vision + predictor + text + decoder);
        }
    }

    /// The model thread is gone: who still waits is told by the dropping of what they wait for.
    pub fn end(&self) {
        let mut state = self.state();
        state.phase = Phase::Ended;
        state.running = Load::default();
        let left = state.queue.drain();
        drop(state);
        drop(left);
    }

    /// The beat of the model thread.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Whether the model thread gets on: it beat within `bound`, or does so now that it is asked. False at once when
    /// it is gone.
    pub async fn beats(&self, bound: Duration, deadline: Instant) -> bool {
        const PATIENCE: Duration = Duration::from_millis(5);
        loop {
            let (ended, idle) = {
                let state = self.state();
                (state.phase == Phase::Ended, state.running.items == 0)
            };
            match self.pulse.age() < bound {
                _ if ended => return false,
                true => return true,
                // Only who sleeps can be woken; who works has had its time.
                false if !idle || Instant::now() >= deadline => return false,
                false => self.changed.notify_one(),
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Cost worked off in a second; nothing before the first batch.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.state().pace.tokens_per_second()
    }

    /// How it stands now.
    pub fn glance(&self) -> Glance {
        let state = self.state();
        Glance {
            waiting: state.queue.waiting(),
            running: state.running,
            passed: state.passed,
            tokens_per_second: state.pace.tokens_per_second(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::admission::Admission;
    use crate::engine::request::Call;
    use crate::engine::work::Work;
    use crate::settings::QueueSettings;
    use tokio::sync::oneshot;

    const BOUND: Duration = Duration::from_millis(50);

    fn line() -> Arc<Line> {
        Arc::new(Line::new(Rules::new(&QueueSettings::default())))
    }

    fn entry(door: &Admission) -> Entry<Job> {
        let call = Call::interactive(Instant::now() + Duration::from_secs(60));
        let permit = Arc::new(door.enter(call.class, Load::one(5)).expect("room"));
        let work = Job { work: Work::Texts(vec![]), reply: oneshot::channel().0, permit };
        Entry { cost: work.work.cost(), work, arrived: Instant::now(), call }
    }

    fn door() -> Admission {
        Admission::new(Load { items: 10, cost: 100 }, &QueueSettings::default())
    }

    #[test]
    fn who_leaves_the_line_gives_everything_back_at_once() {
        let (line, door) = (line(), door());
        let place = line.join(entry(&door)).expect("open");
        assert_eq!((line.glance().waiting[0].items, door.inside()[0]), (1, Load::one(5)));
        drop(place);
        assert_eq!((line.glance().waiting[0].items, door.inside()[0]), (0, Load::default()));
    }

    #[test]
    fn what_waits_is_answered_after_closing_and_nobody_waits_after_the_end() {
        let (line, door) = (line(), door());
        let _place = line.join(entry(&door)).expect("open");
        line.close();
        assert_eq!(line.next_batch().map(|batch| batch.entries.len()), Some(1));
        assert!(line.next_batch().is_none());
        let _place = line.join(entry(&door));
        line.end();
        assert_eq!((line.glance().waiting[0].items, door.inside()[0]), (0, Load::default()));
        assert!(line.join(entry(&door)).is_none());
    }

    #[tokio::test]
    async fn who_works_must_beat_and_who_sleeps_must_wake() {
        let (line, door) = (line(), door());
        let soon = || Instant::now() + 2 * BOUND;
        assert!(line.beats(BOUND, soon()).await, "it has just begun");
        tokio::time::sleep(BOUND).await;
        assert!(!line.beats(BOUND, soon()).await, "nobody is there who wakes");

        let _place = line.join(entry(&door)).expect("open");
        let _batch = line.next_batch().expect("one entry");
        assert!(line.beats(BOUND, soon()).await, "a batch has begun");
        tokio::time::sleep(BOUND).await;
        let asked = Instant::now();
        assert!(!line.beats(BOUND, asked + Duration::from_secs(60)).await, "it hangs");
        assert!(asked.elapsed() < Duration::from_secs(30), "who hangs is not waited for");
        line.pulse().beat();
        assert!(line.beats(BOUND, soon()).await);

        let sleeper = std::thread::spawn({
            let line = line.clone();
            move || line.next_batch().is_none()
        });
        tokio::time::sleep(2 * BOUND).await;
        assert!(line.beats(BOUND, Instant::now() + Duration::from_secs(60)).await, "it wakes when it is asked");
        line.close();
        assert!(sleeper.join().expect("no panic"));
        line.end();
        assert!(!line.beats(Duration::from_secs(60), soon()).await, "it is gone");
    }
}
