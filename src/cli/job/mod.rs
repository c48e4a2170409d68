//! `vljepa job`: batch jobs of a server, and one in this process. `asked.rs` is what a job is asked to do, `remote.rs` the
//! calls of a server, `run.rs` the job in this process, `standing.rs` and `show.rs` what is shown of either.

mod asked;
mod remote;
mod run;
mod show;
mod standing;

use crate::cli::client::RemoteJobs;
use crate::settings::{Flag, Settings};

/// The commands about jobs.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Job {
    /// Makes a job on a server; INPUT and --out lie below the server's --jobs-root.
    Submit(Box<remote::Submit>),
    /// Does a job in this process, without a server; the same command again goes on where it was.
    Run(Box<run::Run>),
    /// Lists the jobs of a server, the eldest first.
    List(remote::List),
    /// Shows how a job stands.
    Show(remote::Named),
    /// Shows how a job stands until it has ended. Exit status: 0 succeeded, 1 not.
    Watch(remote::Named),
    /// Lets a job wait.
    Pause(remote::Named),
    /// Lets a job go on that is paused or has failed.
    Resume(remote::Named),
    /// Ends a job; parts that are written stay.
    Cancel(remote::Named),
    /// Forgets a job that has ended.
    Delete(remote::Delete),
    /// Lists the rows of a job that failed.
    Errors(remote::Named),
}

impl Job {
    pub(super) fn flags(&self) -> Vec<Flag> {
        match self {
            Self::Submit(submit) => submit.server.flags(),
            Self::Run(_) => vec![],
            Self::List(list) => list.server.flags(),
            Self::Show(named)
            | Self::Watch(named)
            | Self::Pause(named)
            | Self::Resume(named)
            | Self::Cancel(named)
            | Self::Errors(named) => named.server.flags(),
            Self::Delete(delete) => delete.named.server.flags(),
        }
    }

    pub(super) fn run(self, settings: Settings) -> anyhow::Result<i32> {
        match self {
            Self::Submit(submit) => submit.run(&settings),
            Self::Run(run) => run.run(settings),
            Self::List(list) => list.run(&settings),
            Self::Show(named) => named.show(&settings),
            Self::Watch(named) => named.watch(&settings),
            Self::Pause(named) => named.moved(&settings, RemoteJobs::pause_job),
            Self::Resume(named) => named.moved(&settings, RemoteJobs::resume_job),
            Self::Cancel(named) => named.moved(&settings, RemoteJobs::cancel_job),
            Self::Delete(delete) => delete.run(&settings),
            Self::Errors(named) => named.errors(&settings),
        }
    }
}

/// A time such as `500ms`, `30s`, `2m`; a number alone is seconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" | "min" => 60_000,
        _ => 0,
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|&ms| ms > 0).ok_or_else(|| "must be a time such as 500ms, 30s or 2m".into())
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn times_have_units() {
        for (text, ms) in [("500ms", Some(500)), ("30s", Some(30_000)), ("2m", Some(120_000)), ("7", Some(7000))] {
            assert_eq!(milliseconds(text).ok(), ms, "{text}");
        }
        for wrong in ["", "s", "0s", "-1s", "1h30", "1.5s", "18446744073709551615s", "99999999999999999999ms"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
    }
}
