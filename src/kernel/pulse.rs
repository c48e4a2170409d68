//! A sign that a thread gets on, seen from other threads: every kernel it calls is a beat.
//!
//! A pass through a large model takes longer than anybody waits for a sign of life; the kernels within it do not.
//! A thread that hangs calls none.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When something last got on; clones are the same pulse.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    /// Of the last beat, since the start.
    last_micros: AtomicU64,
}

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Pulse>> = const { RefCell::new(None) };
}

impl Default for Pulse {
    /// A pulse that beats now for the first time.
    fn default() -> Self {
        Self(Arc::new(Shared { start: Instant::now(), last_micros: AtomicU64::new(0) }))
    }
}

impl Pulse {
    /// Beats.
    pub fn beat(&self) {
        self.0.last_micros.store(self.0.start.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn age(&self) -> Duration {
        let last = Duration::from_micros(self.0.last_micros.load(Ordering::Relaxed));
        self.0.start.elapsed().saturating_sub(last)
    }

    /// Beats with every kernel that `work` calls from this thread.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<Pulse>);
        impl Drop for Restore {
            fn drop(&mut self) {
                OF_THIS_THREAD.replace(self.0.take());
            }
        }
        let _restore = Restore(OF_THIS_THREAD.replace(Some(self.clone())));
        work()
    }
}

/// A beat of whoever listens to this thread.
#[inline]
pub(crate) fn beat() {
    OF_THIS_THREAD.with_borrow(|pulse| {
        if let Some(pulse) = pulse {
            pulse.beat();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tally::{Kind, count};

    #[test]
    fn every_kernel_is_a_beat_while_somebody_listens() {
        let pulse = Pulse::default();
        let pause = Duration::from_millis(30);
        let ages = pulse.during(|| {
            std::thread::sleep(pause);
            let before = pulse.age();
            count(Kind::F32, 0.0, || ());
            (before, pulse.age())
        });
        assert!(ages.0 >= pause && ages.1 < ages.0, "{ages:?}");
        std::thread::sleep(pause);
        count(Kind::F32, 0.0, || ());
        assert!(pulse.age() >= pause, "nobody listens any more");
    }
}
