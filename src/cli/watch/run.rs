//! One stream through one session: frames go in as there is room, events come out and are shown, and every way out is
//! a good end.

use std::pin::Pin;

use anyhow::ensure;
use tokio::sync::watch;

use super::source::Feed;
use crate::cli::client::{Events, Sender, Sessions};
use crate::cli::serve::ended_by_signal;
use crate::watch::{Event, Finished, Frame, Input, Spec};

/// The signal by which a person ends it; a second one ends the process.
pub(super) struct Interrupt {
    signal: Pin<Box<dyn Future<Output = ()>>>,
    happened: bool,
}

impl Interrupt {
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self { signal: Box::pin(ended_by_signal()?), happened: false })
    }

    /// Whether it has come.
    pub fn happened(&self) -> bool {
        self.happened
    }

    /// Returns when it comes, once.
    pub async fn come(&mut self) {
        match self.happened {
            true => std::future::pending().await,
            false => {
                self.signal.as_mut().await;
                self.happened = true;
            }
        }
    }
}

/// How it ended.
pub(super) struct Ending {
    /// The session's last word, if it had one.
    pub finished: Option<Finished>,
    /// What went wrong here: with the source, or with what is written.
    pub fault: Option<anyhow::Error>,
    /// Frames that were dropped before the session knew of them.
    pub unsent: u64,
}

/// Who is told what happens, with the frames that were dropped before the session knew of them. After a fault of theirs
/// the stream is stopped.
pub(super) type Tell<'a> = &'a mut dyn FnMut(&Event, u64) -> anyhow::Result<()>;

/// Watches a source to its end, to a signal or to a fault, and tells what happens but for the last word.
pub(super) async fn watch(
    mut feed: Feed,
    sessions: &Sessions,
    spec: Spec,
    want_embeddings: bool,
    interrupt: &mut Interrupt,
    tell: Tell<'_>,
) -> anyhow::Result<Ending> {
    let tally = feed.tally();
    let mut ending = Ending { finished: None, fault: None, unsent: 0 };
    let Some((sender, mut events)) = begin(sessions, spec, want_embeddings, interrupt).await? else {
        return Ok(ending);
    };
    let (stop, stopped) = watch::channel(false);
    let mut sending = std::pin::pin!(send_all(&mut feed, &sender, stopped));
    let mut sent = false;
    loop {
        tokio::select! {
            event = events.next() => match event? {
                None => break,
                Some(event) => match &event.event {
                    Event::Finished(finished) => ending.finished = Some(finished.clone()),
                    event => {
                        if let Err(fault) = tell(event, tally.dropped()) {
                            ending.fault.get_or_insert(fault);
                            stop.send_replace(true);
                        }
                    }
                },
            },
            outcome = &mut sending, if !sent => {
                sent = true;
                if let Err(fault) = outcome {
                    ending.fault.get_or_insert(fault);
                }
            }
            () = interrupt.come() => {
                stop.send_replace(true);
            }
        }
    }
    ending.unsent = tally.dropped();
    Ok(ending)
}

/// Starts a session; none if a signal comes before it has begun.
pub(super) async fn begin(
    sessions: &Sessions,
    spec: Spec,
    want_embeddings: bool,
    interrupt: &mut Interrupt,
) -> anyhow::Result<Option<(Sender, Events)>> {
    tokio::select! {
        started = sessions.start(spec, want_embeddings) => started.map(Some),
        () = interrupt.come() => Ok(None),
    }
}

/// Sends every frame, then that this was all.
async fn send_all(feed: &mut Feed, sender: &Sender, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut seq = 0;
    let all = async {
        while let Some(picture) = feed.next().await? {
            seq += 1;
            if sender.send(Input::Frame(Frame { seq, picture: Ok(picture), held: None })).await.is_err() {
                return Ok(());
            }
        }
        ensure!(seq > 0, "the source has no frame");
        Ok(())
    };
    let outcome = tokio::select! {
        biased;
        // An error means that nobody could stop it any more.
        _ = stopped.wait_for(|&stopped| stopped) => Ok(()),
        outcome = all => outcome,
    };
    feed.close();
    // If the session is over already, that is no fault.
    let _ = sender.send(Input::Stop).await;
    outcome
}
