//! The pool that prepares requests: decoding, scaling, splitting into tokens.
//!
//! This is processor time spent on hostile bytes, so it happens off the async threads, on a bounded number of
//! blocking ones, and a panic in a decoder is an error of its request alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::EngineError;
use super::request::{Call, Class};
use crate::settings::Settings;

/// Whether a request is still worth working for; asked between its pieces.
#[derive(Debug, Clone)]
pub struct Wanted {
    left: Arc<AtomicBool>,
    deadline: Instant,
}

/// Says that the caller has left when it is dropped.
#[derive(Debug)]
pub struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wanted {
    /// As long as nobody leaves, and until `deadline`.
    pub fn until(deadline: Instant) -> Self {
        Self { left: Arc::default(), deadline }
    }

    /// To be held by the caller.
    pub fn leaving(&self) -> Leaving {
        Leaving(self.left.clone())
    }

    /// Fails when nobody waits any more; then it matters to nobody how.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.left.load(Ordering::Relaxed) || Instant::now() >= self.deadline {
            true => Err(EngineError::DeadlineExceeded),
            false => Ok(()),
        }
    }
}

/// Far beyond any work that is bounded by its pieces.
const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 3600);

fn panicked() -> EngineError {
    EngineError::Internal("preparing the request panicked".into())
}

/// What work of one class passes before it gets a thread's time.
#[derive(Debug, Clone)]
struct Places {
    gate: Option<Arc<Semaphore>>,
    threads: Arc<Semaphore>,
}

type HeldPlaces = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

impl Places {
    async fn take(&self) -> Result<HeldPlaces, EngineError> {
        let stopped = |_| EngineError::Stopped;
        let gate = match &self.gate {
            Some(gate) => Some(gate.clone().acquire_owned().await.map_err(stopped)?),
            None => None,
        };
        Ok((gate, self.threads.clone().acquire_owned().await.map_err(stopped)?))
    }
}

/// A place in the pool that can be left for a while.
#[derive(Debug)]
pub struct Turn {
    held: Option<HeldPlaces>,
    places: Places,
    runtime: Handle,
}

impl Turn {
    /// Runs what only waits, while others have the place.
    pub fn rest<T>(&mut self, waiting: impl FnOnce() -> T) -> Result<T, EngineError> {
        self.held = None;
        let answer = waiting();
        self.held = Some(self.runtime.block_on(self.places.take())?);
        Ok(answer)
    }
}

/// The pool that prepares requests. It has no bound of its own: whoever comes has a place by the door, and keeps it while
/// being here.
#[derive(Debug)]
pub struct Prepare {
    inside: Arc<AtomicUsize>,
    threads: Arc<Semaphore>,
    threads_count: usize,
    /// Sessions and jobs pass a gate of their own first, so that a query has few of them before it.
    gates: [Option<Arc<Semaphore>>; Class::ALL.len()],
    /// What one request takes, by what the last ones took.
    usual: Mutex<Duration>,
}

impl Prepare {
    /// With the threads of `settings`.
    pub fn new(settings: &Settings) -> Self {
        let threads_count = match settings.cpu.decode_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let gate = || Some(Arc::new(Semaphore::new((threads_count / 2).max(1))));
        Self {
            inside: Arc::default(),
            threads: Arc::new(Semaphore::new(threads_count)),
            threads_count,
            gates: [None, gate(), gate()],
            usual: Mutex::default(),
        }
    }

    /// Runs `work` when a thread is free; it does not start if the caller goes away before, and is told if the caller
    /// goes away meanwhile.
    pub async fn run<T: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce(&Wanted) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inside = Inside::one(&self.inside);
        let places = self.places(call.class);
        let held = places.take().await?;
        let (wanted, started) = (Wanted::until(call.deadline), Instant::now());
        let _leaving = wanted.leaving();
        let running = tokio::task::spawn_blocking(move || {
            // All are held by the thread itself: a caller that leaves does not free it.
            let _held = (inside, held);
            wanted.check()?;
            work(&wanted)
        });
        let outcome = running.await;
        self.learn(started.elapsed());
        outcome.unwrap_or_else(|_| Err(panicked()))
    }

    /// Runs `work` that takes its time: whenever it rests, its place is another's. It is told if the caller goes away,
    /// and the call's deadline is not its own.
    pub async fn run_by_turns<T: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce(&Wanted, &mut Turn) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let inside = Inside::one(&self.inside);
        let places = self.places(call.class);
        let mut turn = Turn { held: Some(places.take().await?), places, runtime: Handle::current() };
        let wanted = Wanted { left: Arc::default(), deadline: Instant::now() + UNBOUNDED };
        let _leaving = wanted.leaving();
        let running = tokio::task::spawn_blocking(move || {
            let _inside = inside;
            work(&wanted, &mut turn)
        });
        running.await.unwrap_or_else(|_| Err(panicked()))
    }

    fn places(&self, class: Class) -> Places {
        Places { gate: self.gates[class as usize].clone(), threads: self.threads.clone() }
    }

    /// What is being prepared or waits for it.
    pub fn items(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    /// What one request takes, by what the last ones took.
    pub fn usual(&self) -> Duration {
        *self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long what is here takes, by what the last ones took.
    pub fn backlog(&self) -> Duration {
        self.usual().saturating_mul(self.items().div_ceil(self.threads_count) as u32)
    }

    fn learn(&self, took: Duration) {
        let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
        *usual = (*usual * 7 + took) / 8;
    }
}

/// One that is counted until it is dropped.
struct Inside(Arc<AtomicUsize>);

impl Inside {
    fn one(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn prepare() -> Arc<Prepare> {
        let mut settings = Settings::default();
        settings.cpu.decode_threads = 1;
        Arc::new(Prepare::new(&settings))
    }

    fn call(class: Class) -> Call {
        Call { class, ..Call::interactive(Instant::now() + Duration::from_secs(60)) }
    }

    async fn run<T: Send + 'static>(
        prepare: &Prepare,
        work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        prepare.run(&call(Class::Interactive), |_| work()).await
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_request_alone() {
        let prepare = prepare();
        let outcome: Result<(), _> = run(&prepare, || panic!("a decoder's bug")).await;
        assert!(matches!(outcome, Err(EngineError::Internal(_))), "{outcome:?}");
        assert_eq!(run(&prepare, || Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn who_is_here_is_counted_to_the_end_of_the_work() {
        let prepare = prepare();
        let (finish, finished) = mpsc::channel::<()>();
        let busy = tokio::spawn({
            let prepare = prepare.clone();
            async move { run(&prepare, move || finished.recv().map_err(|_| EngineError::Stopped)).await }
        });
        let waiting = tokio::spawn({
            let prepare = prepare.clone();
            async move { run(&prepare, || Ok(())).await }
        });
        while prepare.items() < 2 {
            tokio::task::yield_now().await;
        }
        finish.send(()).expect("it waits");
        assert_eq!(busy.await.expect("no panic"), Ok(()));
        assert_eq!(waiting.await.expect("no panic"), Ok(()));
        assert_eq!(prepare.items(), 0);
        assert!(prepare.usual() > Duration::ZERO && prepare.backlog() == Duration::ZERO);
    }

    #[tokio::test]
    async fn work_is_told_that_its_caller_has_left() {
        let prepare = prepare();
        let (begun, begins) = mpsc::channel();
        let (told, tells) = mpsc::channel();
        let caller = tokio::spawn({
            let prepare = prepare.clone();
            async move {
                let work = move |wanted: &Wanted| {
                    begun.send(()).expect("the test waits");
                    while wanted.check().is_ok() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    told.send(()).expect("the test waits");
                    Ok(())
                };
                prepare.run(&call(Class::Interactive), work).await
            }
        });
        while begins.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        caller.abort();
        tokio::task::spawn_blocking(move || tells.recv_timeout(Duration::from_secs(30)))
            .await
            .expect("no panic")
            .expect("the work ends");
    }

    #[tokio::test]
    async fn a_query_has_one_job_before_it_however_many_wait() {
        let prepare = prepare();
        let (order, ends) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let mut jobs = tokio::task::JoinSet::new();
        let spawn = |jobs: &mut tokio::task::JoinSet<_>, class, work: Box<dyn FnOnce() + Send>| {
            let (prepare, order) = (prepare.clone(), order.clone());
            jobs.spawn(async move {
                let work = move |_: &Wanted| {
                    work();
                    order.send(class).map_err(|_| EngineError::Stopped)
                };
                prepare.run(&call(class), work).await
            });
        };
        spawn(&mut jobs, Class::Job, Box::new(move || finished.recv().expect("the test says when")));
        for _ in 0..8 {
            spawn(&mut jobs, Class::Job, Box::new(|| ()));
        }
        while prepare.items() < 9 {
            tokio::task::yield_now().await;
        }
        spawn(&mut jobs, Class::Interactive, Box::new(|| ()));
        while prepare.items() < 10 {
            tokio::task::yield_now().await;
        }
        finish.send(()).expect("it waits");
        while let Some(outcome) = jobs.join_next().await {
            outcome.expect("no panic").expect("prepared");
        }
        let order: Vec<Class> = ends.try_iter().collect();
        assert_eq!(order.iter().position(|&class| class == Class::Interactive), Some(1), "{order:?}");
    }
}
