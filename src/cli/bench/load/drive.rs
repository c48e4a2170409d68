//! The open loop: requests start when the schedule says so, however the server does.
//!
//! A thread of its own sleeps from one arrival to the next, for a runtime's timers are rounded to milliseconds. What
//! may be in flight is bounded; beyond the bound a request counts as unsent and is told, it never waits in silence.

use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tonic::Code;

use super::arrivals::{Arrival, Schedule};
use super::ledger::{Ledger, Outcome, Window};

/// What is measured.
pub(super) trait Service: Send + Sync + 'static {
    /// Asks and tells how it ended; bounded in time by its own deadline.
    fn ask(&self, arrival: &Arrival) -> impl Future<Output = Code> + Send;
}

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) schedule: Schedule,
    pub(super) window: Window,
    pub(super) in_flight_max: usize,
}

enum Fate {
    Unsent(Arrival),
    Done(Outcome),
}

/// Sends what the plan says until the end of its window and waits for everything that is in flight.
pub(super) async fn drive(service: &Arc<impl Service>, plan: Plan) -> Ledger {
    let mut ledger = Ledger::new(plan.window);
    let (fates, mut inbox) = mpsc::unbounded_channel();
    let (service, runtime) = (service.clone(), Handle::current());
    let pacing = thread::spawn(move || pace(&service, plan, &runtime, &fates));
    // Ends when the thread and every call have dropped their senders.
    while let Some(fate) = inbox.recv().await {
        match fate {
            Fate::Unsent(arrival) => ledger.unsent(arrival.at),
            Fate::Done(outcome) => ledger.record(outcome),
        }
    }
    pacing.join().expect("pacing has no panic");
    ledger
}

fn pace(service: &Arc<impl Service>, plan: Plan, runtime: &Handle, fates: &mpsc::UnboundedSender<Fate>) {
    let places = Arc::new(Semaphore::new(plan.in_flight_max));
    let start = Instant::now();
    for arrival in plan.schedule.take_while(|arrival| arrival.at < plan.window.to) {
        sleep(arrival.at.saturating_sub(start.elapsed()));
        let Ok(place) = places.clone().try_acquire_owned() else {
            let _ = fates.send(Fate::Unsent(arrival));
            continue;
        };
        let (service, fates) = (service.clone(), fates.clone());
        runtime.spawn(async move {
            let sent = start.elapsed();
            let code = service.ask(&arrival).await;
            let done = start.elapsed();
            drop(place);
            // The receiver waits for the last sender.
            let _ = fates.send(Fate::Done(Outcome { class: arrival.class, code, intended: arrival.at, sent, done }));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::arrivals::{Class, Conduct, Kinds, Mix, Pace, Rpc};
    use std::time::Duration;

    /// Answers one at a time, each in `busy`; refuses whom more than `waiting_max` are before.
    struct OneAtATime {
        busy: Duration,
        one: Semaphore,
        waiting: Semaphore,
    }

    impl OneAtATime {
        fn new(busy_ms: u64, waiting_max: usize) -> Arc<Self> {
            let (one, waiting) = (Semaphore::new(1), Semaphore::new(waiting_max));
            Arc::new(Self { busy: Duration::from_millis(busy_ms), one, waiting })
        }
    }

    impl Service for OneAtATime {
        async fn ask(&self, _: &Arrival) -> Code {
            let Ok(_place) = self.waiting.try_acquire() else { return Code::ResourceExhausted };
            let _turn = self.one.acquire().await.expect("never closed");
            tokio::time::sleep(self.busy).await;
            Code::Ok
        }
    }

    fn plan(rate: f64, in_flight_max: usize) -> Plan {
        let kinds = Kinds {
            rpcs: Mix::only(Rpc::Answer),
            classes: Mix::only(Class::Interactive),
            conducts: Mix::only(Conduct::Plain),
        };
        let (from, to) = (Duration::ZERO, Duration::from_millis(600));
        let window = Window { from, to, deadline: Duration::from_secs(60) };
        Plan { schedule: Schedule::new(Pace::Constant, rate, kinds, 1), window, in_flight_max }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_falls_behind_cannot_hide_it() {
        // 100 asked in 0.5 s, 20 ms each: the last one waits for about 1.5 s, though each call alone takes 20 ms.
        let figures = drive(&OneAtATime::new(20, 1000), plan(200.0, 1000)).await.figures();
        assert_eq!((figures.scheduled, figures.ok.count), (119, 119));
        assert!(figures.ok.p99_ms > 1000.0 && figures.ok.p50_ms > 400.0, "{figures:?}");
        // What it answers within the window is its capacity, not what was asked.
        assert!((10.0..=50.0).contains(&figures.goodput_per_s), "{figures:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn refusals_and_what_is_not_sent_are_counted_apart() {
        let figures = drive(&OneAtATime::new(50, 3), plan(200.0, 1000)).await.figures();
        assert_eq!(figures.ok.count + figures.refused.count, 119);
        assert!(figures.refused.count > 60 && figures.refused.p50_ms < figures.ok.p50_ms, "{figures:?}");
        let figures = drive(&OneAtATime::new(50, 1000), plan(200.0, 3)).await.figures();
        assert_eq!(figures.ok.count + figures.unsent, 119);
        assert!(figures.unsent > 60 && !figures.client_kept_up(), "{figures:?}");
    }
}
