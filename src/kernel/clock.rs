//! Time as measurements want it: of one thread, the processor time that it got, so that what else the machine does is
//! not counted; of several, what the clock on the wall shows.

use std::time::{Duration, Instant};

/// A point in time of the thread that took it.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// Processor time of this thread since it began.
    Thread(Duration),
    /// Time on the wall.
    Wall(Instant),
}

impl Moment {
    /// Now: processor time where `threads` is 1 and the system tells it, else time on the wall.
    pub fn now(threads: usize) -> Moment {
        let processor = if threads == 1 { processor_time() } else { None };
        processor.map_or_else(|| Moment::Wall(Instant::now()), Moment::Thread)
    }

    /// Time since then; to be asked on the thread that took it.
    pub fn elapsed(self) -> Duration {
        match self {
            Moment::Thread(start) => processor_time().unwrap_or(start).saturating_sub(start),
            Moment::Wall(start) => start.elapsed(),
        }
    }
}

#[cfg(unix)]
fn processor_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, and `time` is one.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (answer == 0).then(|| Duration::new(seconds, nanoseconds))
}

#[cfg(not(unix))]
fn processor_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_not_charged_for_sleeping() {
        let (thread, wall) = (Moment::now(1), Moment::now(2));
        std::thread::sleep(Duration::from_millis(20));
        assert!(wall.elapsed() >= Duration::from_millis(20));
        match thread {
            Moment::Thread(_) => assert!(thread.elapsed() < wall.elapsed()),
            Moment::Wall(_) => println!("this system tells no processor time"),
        }
    }
}
