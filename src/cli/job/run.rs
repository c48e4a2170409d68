//! `vljepa job run`: one job in this process, its store beside its output, so that the same command goes on where an
//! earlier one was interrupted, however that was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;

use super::asked::Asked;
use super::show::Shown;
use super::standing::Standing;
use crate::cli::bundle::BundleArgs;
use crate::cli::serve::ended_by_signal;
use crate::cli::{FAILED, print_line, runtime, start_models};
use crate::jobs::store::Embedded;
use crate::jobs::{JobId, Jobs, NewJob, Only, Spec, State};
use crate::settings::Settings;

/// What a shell shows for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;
const SHARES_MAX: u32 = 65_536;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Run {
    #[command(flatten)]
    asked: Asked,
    /// Directory where it is kept how far the job is; _job in --out if not given. Needed if --out is a URL.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Do only a share of the job, beside others of the same --out: the number of this one, from 0.
    #[arg(long, value_name = "I", requires = "shard_count")]
    shard_index: Option<u32>,
    /// How many shares there are.
    #[arg(long, value_name = "N", requires = "shard_index")]
    shard_count: Option<u32>,
    /// Print how it ended as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl Run {
    pub(super) fn run(self, settings: Settings) -> anyhow::Result<i32> {
        let only = self.only()?;
        let place = self.place()?;
        let store = open(&place)?;
        let bundle = self.bundle.open(&settings)?;
        let models = start_models(vec![(bundle.name.clone(), bundle)], settings.clone())?;
        let (model, engine) = models.entry("")?;
        let spec = self.asked.spec(&model, engine.dimensions(), &settings)?;
        drop(engine);
        let jobs = Jobs::open(models.clone(), Arc::new(store));
        let runtime = runtime()?;
        let outcome = runtime.block_on(async {
            let job = begun(&jobs, spec, &place).await?;
            let status = work(&jobs, job, only, self.json).await;
            drop(jobs);
            for mut thread in models.close() {
                thread.ended().await;
            }
            status
        });
        runtime.shutdown_background();
        outcome
    }

    fn only(&self) -> anyhow::Result<Option<Only>> {
        let (Some(index), Some(count)) = (self.shard_index, self.shard_count) else { return Ok(None) };
        ensure!((1..=SHARES_MAX).contains(&count), "--shard-count is {count}, must be 1 to {SHARES_MAX}");
        ensure!(index < count, "--shard-index is {index}, must be below --shard-count {count}");
        Ok(Some(Only { index, count }))
    }

    /// The directory of the store.
    fn place(&self) -> anyhow::Result<PathBuf> {
        let place = match &self.state {
            Some(state) => state.clone(),
            None if self.asked.out.contains("://") => {
                bail!("--state is missing, --out is no directory that could hold it")
            }
            None => Path::new(&self.asked.out).join("_job"),
        };
        Ok(match (self.shard_index, self.shard_count) {
            (Some(index), Some(count)) => place.join(format!("{index}-of-{count}")),
            _ => place,
        })
    }
}

fn open(place: &Path) -> anyhow::Result<Embedded> {
    std::fs::create_dir_all(place).with_context(|| place.display().to_string())?;
    Ok(Embedded::open(place, 1)?)
}

/// The store's job, which is made if it has none, and begun again if it had failed.
async fn begun(jobs: &Jobs, spec: Spec, place: &Path) -> anyhow::Result<JobId> {
    if let Some(kept) = jobs.list(None, None, 1).await?.jobs.pop()
        && let Some(difference) = difference(&kept.job.spec, &spec)?
    {
        bail!("{} is of another job: {difference}; choose another --out, or remove that directory", place.display());
    }
    let new = NewJob { spec, title: String::new(), owner: None, request_id: String::new() };
    let job = jobs.adopt(new).await?.job;
    if matches!(job.state, State::Failed | State::Paused) {
        jobs.resume(&job.id, None).await?;
    }
    Ok(job.id)
}

/// The first thing in which two specs differ, with what either says.
fn difference(kept: &Spec, asked: &Spec) -> anyhow::Result<Option<String>> {
    let (kept, asked) = (serde_json::to_value(kept)?, serde_json::to_value(asked)?);
    let (Some(kept), Some(asked)) = (kept.as_object(), asked.as_object()) else { return Ok(None) };
    let mut names = kept.keys().chain(asked.keys());
    Ok(names.find(|name| kept.get(*name) != asked.get(*name)).map(|name| {
        let told = |value: Option<&serde_json::Value>| value.map_or_else(|| "null".into(), ToString::to_string);
        format!("{name} was {}, is {}", told(kept.get(name)), told(asked.get(name)))
    }))
}

/// Works until nothing more is to be done here or a signal comes; the exit status.
async fn work(jobs: &Jobs, id: JobId, only: Option<Only>, json: bool) -> anyhow::Result<i32> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (mut views, mut shown) = (Box::pin(jobs.watch(&id, None).await?), Shown::new(json));
    let mut interrupted = std::pin::pin!(ended_by_signal()?);
    let mut finished = std::pin::pin!(jobs.finish(&id, only, async { drop(stopped.await) }));
    let (mut stop, mut watching) = (Some(stop), true);
    let view = loop {
        tokio::select! {
            view = &mut finished => break view?,
            view = views.next(), if watching => match view {
                Some(view) => shown.tell(&Standing::from(view?)),
                None => watching = false,
            },
            () = &mut interrupted, if stop.is_some() => drop(stop.take()),
        }
    };
    shown.end();
    let (ended, job) = (view.job.state.ended(), Standing::from(view));
    if json {
        print_line(&job.json())
    } else {
        println!("{}", job.line())
    }
    Ok(match job.state {
        State::Succeeded => 0,
        _ if ended => FAILED,
        // Every shard of this share is done; those of others may not be.
        _ if stop.is_some() => 0,
        _ => {
            eprintln!("interrupted; the same command goes on from here");
            INTERRUPTED
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Input, InputKind, Output};

    #[test]
    fn another_spec_is_told_apart_by_name_and_value() {
        let spec = Spec::new(Input::new("/in.jsonl", InputKind::Jsonl), Output::new("/out"));
        assert_eq!(difference(&spec, &spec.clone()).expect("JSON"), None);
        let other = Spec { question: Some("why?".into()), ..spec.clone() };
        let told = difference(&spec, &other).expect("JSON");
        assert_eq!(told.as_deref(), Some("question was null, is \"why?\""));
    }
}
