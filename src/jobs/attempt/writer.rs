//! The thread that writes a part: encoding a table is no work for an async thread, and the engine need not wait for it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Through;
use crate::engine::Engine;
use crate::jobs::parts::PartWriter;
use crate::jobs::{Fault, Spec, Tally};

/// Lots of rows that are embedded and not written.
const LOTS_BEHIND: usize = 4;

/// The files of a part by their final names, and what became of the rows.
type Part = (Vec<(String, Vec<u8>)>, Tally);

enum Message {
    Rows(Vec<Through>),
    /// That was all; the number of the part.
    End(u32),
}

/// Where rows go.
pub(super) struct Writer {
    messages: mpsc::Sender<Message>,
    /// None if nobody said that it was all.
    part: JoinHandle<Result<Option<Part>, Fault>>,
}

impl Writer {
    /// Begins a part.
    pub fn start(engine: &Engine, spec: Arc<Spec>) -> Self {
        let (space, dimensions) = (engine.space(), engine.dimensions());
        let bytes_max = engine.settings().jobs.part_bytes_max;
        let (messages, received) = mpsc::channel(LOTS_BEHIND);
        let part =
            tokio::task::spawn_blocking(move || write(PartWriter::new(&spec, space, dimensions, bytes_max), received));
        Self { messages, part }
    }

    /// Takes rows, in their order; fails when it has ended early, for a reason that [`Writer::fault`] tells.
    pub async fn take(&self, rows: Vec<Through>) -> Result<(), ()> {
        self.messages.send(Message::Rows(rows)).await.map_err(|_| ())
    }

    /// Why it ended early.
    pub async fn fault(self) -> Fault {
        drop(self.messages);
        match joined(self.part).await {
            Err(fault) => fault,
            Ok(_) => Fault::Stopped,
        }
    }

    /// Ends the part.
    pub async fn finish(self, index: u32) -> Result<Part, Fault> {
        // If it has ended already, its fault is told.
        let _ = self.messages.send(Message::End(index)).await;
        joined(self.part).await?.ok_or(Fault::Stopped)
    }
}

async fn joined(part: JoinHandle<Result<Option<Part>, Fault>>) -> Result<Option<Part>, Fault> {
    match part.await {
        Ok(part) => part,
        Err(error) if error.is_panic() => Err(Fault::Broken("writing the part panicked".into())),
        Err(_) => Err(Fault::Stopped),
    }
}

fn write(mut part: PartWriter, mut messages: mpsc::Receiver<Message>) -> Result<Option<Part>, Fault> {
    let mut tally = Tally::default();
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::End(index) => return Ok(Some((part.finish(index)?, tally))),
            Message::Rows(rows) => {
                for row in rows {
                    match row {
                        Through::Done(done) => {
                            tally.succeeded += 1;
                            tally.written += done.len() as u64;
                            done.iter().try_for_each(|done| part.push(done))?;
                        }
                        Through::Failed(failed) => {
                            tally.failed += 1;
                            part.fail(&failed)?;
                        }
                    }
                }
            }
        }
    }
    Ok(None)
}
