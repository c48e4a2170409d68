//! One attempt at a shard: its rows are read, embedded and written to a part, all three at once, and the part is staged.
//!
//! Nothing outlives an attempt that is dropped: the reading and the writing thread end when the channels to them close,
//! the engine takes work back whose caller is gone, and files that were staged for nobody are discarded. What comes out
//! depends on the input and the model alone: rows keep their order, and an embedding has the same bits in any company.

mod reader;
mod rows;
mod writer;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::oneshot;

use super::files::Files;
use super::{Done, Failed, Fault, Job, Meter, Shard, Spec, Staged, StagedFile, Tally};
use crate::engine::Engine;
use reader::{Reader, Unit};
use rows::Embedder;
use writer::Writer;

/// What became of a row.
enum Through {
    /// The rows of the output that it makes.
    Done(Vec<Done>),
    /// It failed.
    Failed(Failed),
}

/// Computes a shard and leaves its files staged; counts the rows that are through.
pub async fn attempt(engine: &Engine, job: &Job, shard: &Shard, files: &Files, meter: &Meter) -> Result<Staged, Fault> {
    check_space(engine, job)?;
    let spec = Arc::new(job.spec.clone());
    let mut reader = Reader::start(engine.settings(), spec.clone(), shard.clone(), files.clone());
    let writer = Writer::start(engine, spec.clone());
    match embed_all(engine, spec, &mut reader, &writer, meter).await {
        Ok(()) => {}
        // Who writes knows better why it took no more.
        Err(Ended::Writer) => return Err(writer.fault().await),
        Err(Ended::Fault(fault)) => return Err(fault),
    }
    let (parts, mut tally) = writer.finish(shard.index).await?;
    tally.skipped = shard.rows.saturating_sub(tally.rows());
    stage(files, parts, tally).await
}

/// The space of a job's vectors is one, from its first shard to its last.
fn check_space(engine: &Engine, job: &Job) -> Result<(), Fault> {
    let (space, planned) = (engine.space().to_string(), job.plan.as_ref().map(|plan| plan.space.as_str()));
    match planned {
        Some(planned) if planned == space => Ok(()),
        _ => Err(Fault::Broken(format!(
            "the space of model {} is {space}, the job's is {}: another model has its name now",
            engine.name(),
            planned.unwrap_or("not decided")
        ))),
    }
}

/// Why not all rows came through.
enum Ended {
    Writer,
    Fault(Fault),
}

/// Hands every row to the engine, as many at once as the settings allow, and what becomes of them to the writer, in
/// order.
async fn embed_all(
    engine: &Engine,
    spec: Arc<Spec>,
    reader: &mut Reader,
    writer: &Writer,
    meter: &Meter,
) -> Result<(), Ended> {
    let jobs = &engine.settings().jobs;
    let embedder = Arc::new(Embedder::new(engine, spec));
    // Two lots of texts, so that one is prepared while the other is computed; or so many media.
    let (room, weight_of) = (2 * jobs.media_at_once, |unit: &Unit| match unit {
        Unit::Words(_) => jobs.media_at_once,
        Unit::Media(_) => 2,
    });
    let (mut flight, mut weight, mut next, mut ended) = (FuturesOrdered::new(), 0, None, false);
    loop {
        if let Some(unit) = next.take_if(|unit| weight == 0 || weight + weight_of(unit) <= room) {
            let (embedder, of_unit) = (embedder.clone(), weight_of(&unit));
            weight += of_unit;
            flight.push_back(async move { (embedder.embed(unit).await, of_unit) });
            continue;
        }
        if ended && next.is_none() && flight.is_empty() {
            return Ok(());
        }
        tokio::select! {
            unit = reader.next(), if next.is_none() && !ended => {
                next = unit.map_err(Ended::Fault)?;
                ended = next.is_none();
            }
            Some((through, of_unit)) = flight.next() => {
                let through = through.map_err(Ended::Fault)?;
                weight -= of_unit;
                let rows = through.len() as u64;
                writer.take(through).await.map_err(|_| Ended::Writer)?;
                meter.add(rows);
            }
        }
    }
}

/// Writes the files under temporary names. Whoever is dropped meanwhile wants none of them.
async fn stage(files: &Files, parts: Vec<(String, Vec<u8>)>, tally: Tally) -> Result<Staged, Fault> {
    let (told, staged) = oneshot::channel();
    let files = files.clone();
    let attempt = format!("{:032x}", rand::random::<u128>());
    // Apart, because what has begun to write a file cannot be stopped: it ends, and then looks whether anybody waits.
    tokio::spawn(async move {
        let outcome = stage_all(&files, &attempt, parts).await;
        let failed = outcome.is_err();
        let staged = outcome.map(|files| Staged { attempt: attempt.clone(), files, tally });
        let (taken, takes) = oneshot::channel();
        // What is sent may still find nobody.
        let wanted = told.send((staged, taken)).is_ok() && takes.await.is_ok() && !failed;
        if !wanted && let Err(error) = files.discard(&attempt).await {
            tracing::warn!(%attempt, %error, "temporary files of an attempt stay until the next start");
        }
    });
    let (staged, taken): (_, oneshot::Sender<()>) = staged.await.map_err(|_| Fault::Stopped)?;
    // It waits for nothing else.
    let _ = taken.send(());
    staged
}

async fn stage_all(files: &Files, attempt: &str, parts: Vec<(String, Vec<u8>)>) -> Result<Vec<StagedFile>, Fault> {
    let mut staged = Vec::with_capacity(parts.len());
    for (name, bytes) in parts {
        staged.push(files.stage(attempt, &name, bytes).await?);
    }
    Ok(staged)
}
