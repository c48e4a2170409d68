//! How a kernel spreads over threads.
//!
//! Work below a threshold stays on the caller's thread, and a caller that is one of several equal workers (the
//! trainer's) asks for no spreading at all with [`serial`].

use std::cell::Cell;

thread_local! {
    static SERIAL: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` so that the kernels it calls stay on this thread.
pub fn serial<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            SERIAL.with(|flag| flag.set(self.0));
        }
    }
    let _restore = Restore(SERIAL.with(|flag| flag.replace(true)));
    work()
}

/// Threads that a kernel called from here may use, at least 1.
pub fn available() -> usize {
    if SERIAL.with(Cell::get) { 1 } else { rayon::current_num_threads() }
}

/// Bounds the threads of every kernel in this process. Takes effect once, before the first kernel runs.
///
/// Returns false when the pool exists already.
pub fn limit(threads: usize) -> bool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().is_ok()
}

/// Threads of their own for kernels, whatever the process's pool is like.
pub struct Pool(rayon::ThreadPool);

impl Pool {
    /// Starts so many threads.
    pub fn new(threads: usize) -> Result<Pool, rayon::ThreadPoolBuildError> {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().map(Pool)
    }

    /// Runs `work` on one of them; the kernels it calls use them all.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }
}

/// Keeps candle's element-wise operations on their caller's thread: its own pool waits by spinning, which cost half of
/// a training step here. To be called first thing in `main`, and by nobody else.
pub fn keep_candle_on_one_thread() {
    // SAFETY: `main` calls this before any other thread exists, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
}

/// Calls `work(task)` for every task in `0..tasks`, over threads when `cost` (about one per multiply) is worth it.
pub(crate) fn for_each(tasks: usize, cost: usize, work: impl Fn(usize) + Sync + Send) {
    use rayon::prelude::*;
    if tasks > 1 && cost > WORTH_SPREADING && available() > 1 {
        (0..tasks).into_par_iter().for_each(work);
    } else {
        (0..tasks).for_each(work);
    }
}

/// Cuts `values` into rows of `row` elements and calls `work(first_row, rows)` on runs of whole rows.
pub(crate) fn for_rows(values: &mut [f32], row: usize, cost: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    use rayon::prelude::*;
    let rows = values.len().checked_div(row).unwrap_or(0);
    let threads = available();
    if rows > 1 && cost > WORTH_SPREADING && threads > 1 {
        let run = rows.div_ceil(threads * 2);
        values.par_chunks_mut(run * row).enumerate().for_each(|(index, chunk)| work(index * run, chunk));
    } else if rows > 0 {
        work(0, values);
    }
}

/// Below this many multiplies a hand-over to other threads costs more than it saves.
const WORTH_SPREADING: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_ends_with_its_scope() {
        let before = available();
        assert_eq!(serial(available), 1);
        assert_eq!(available(), before);
    }

    #[test]
    fn a_pool_of_its_own_has_the_threads_asked_for() {
        for threads in [1, 3] {
            assert_eq!(Pool::new(threads).expect("threads").run(available), threads);
        }
    }

    #[test]
    fn every_row_is_visited_once() {
        for rows in [0, 1, 2, 7, 100] {
            let mut values = vec![0.0; rows * 3];
            for_rows(&mut values, 3, usize::MAX, |first, chunk| {
                for (index, row) in chunk.chunks_mut(3).enumerate() {
                    row.fill((first + index) as f32 + 1.0);
                }
            });
            let expected: Vec<f32> = (0..rows).flat_map(|row| [row as f32 + 1.0; 3]).collect();
            assert_eq!(values, expected);
        }
    }
}
