//! The commands that ask a server about jobs.

use serde_json::json;

use super::asked::Asked;
use super::show::{HEADING, Shown, facts, row};
use super::standing::Standing;
use crate::cli::client::{Changes, IdentityArgs, RemoteJobs};
use crate::cli::{FAILED, print_line, runtime};
use crate::jobs::State;
use crate::service::proto;
use crate::settings::{Flag, Settings};

/// Which server is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The server's address, such as 127.0.0.1:50051 or https://host:50051.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    server: String,
    #[command(flatten)]
    identity: IdentityArgs,
}

impl Server {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.identity.flags()
    }

    async fn connect(&self, settings: &Settings) -> anyhow::Result<RemoteJobs> {
        RemoteJobs::connect(&self.server, settings).await
    }
}

/// `vljepa job submit`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Submit {
    #[command(flatten)]
    asked: Asked,
    /// What the job is called.
    #[arg(long, default_value = "")]
    title: String,
    /// Name of this request: the same one again gives the same job instead of a second one.
    #[arg(long, value_name = "NAME", default_value = "")]
    request_id: String,
    /// Show how it stands until it has ended. Exit status: 0 succeeded, 1 not.
    #[arg(long)]
    watch: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) server: Server,
}

impl Submit {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        let request = proto::CreateJobRequest {
            spec: Some(self.asked.message()?),
            title: self.title,
            request_id: self.request_id,
        };
        runtime()?.block_on(async {
            let mut jobs = self.server.connect(settings).await?;
            let job = Standing::from(jobs.create(request).await?);
            match (self.watch, self.json) {
                (false, true) => print_line(&job.json()),
                (false, false) => println!("{}", job.id),
                (true, json) => {
                    if !json {
                        eprintln!("job {}", job.id);
                    }
                    return watched(jobs.watch(job.id).await?, json).await;
                }
            }
            Ok(0)
        })
    }
}

/// `vljepa job list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    /// Print one JSON object a job.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) server: Server,
}

impl List {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let mut jobs = self.server.connect(settings).await?;
            let mut page = jobs.list(String::new()).await?;
            if !self.json && !page.jobs.is_empty() {
                println!("{HEADING}");
            }
            loop {
                for job in page.jobs.into_iter().map(Standing::from) {
                    if self.json { print_line(&job.json()) } else { println!("{}", row(&job)) }
                }
                if page.next_page_token.is_empty() {
                    return Ok(0);
                }
                page = jobs.list(page.next_page_token).await?;
            }
        })
    }
}

/// A command about one job.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Named {
    /// The job's name.
    id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) server: Server,
}

impl Named {
    pub(super) fn show(self, settings: &Settings) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let job = Standing::from(self.server.connect(settings).await?.get_job(self.id).await?);
            if self.json {
                print_line(&job.json())
            } else {
                facts(&job)
            }
            Ok(0)
        })
    }

    pub(super) fn watch(self, settings: &Settings) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let changes = self.server.connect(settings).await?.watch(self.id).await?;
            watched(changes, self.json).await
        })
    }

    /// By a call whose answer is the job as it then is: pause, resume, cancel.
    pub(super) fn moved(
        self,
        settings: &Settings,
        call: impl AsyncFnOnce(&mut RemoteJobs, String) -> anyhow::Result<proto::Job>,
    ) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let job = Standing::from(call(&mut self.server.connect(settings).await?, self.id).await?);
            if self.json {
                print_line(&job.json())
            } else {
                println!("{} is {}", job.id, job.state.name())
            }
            Ok(0)
        })
    }

    pub(super) fn errors(self, settings: &Settings) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let (mut jobs, mut token) = (self.server.connect(settings).await?, String::new());
            loop {
                let page = jobs.errors(self.id.clone(), token).await?;
                for proto::JobError { row, id, code, message } in page.errors {
                    match self.json {
                        true => print_line(&json!({"row": row, "id": id, "code": code, "message": message})),
                        // What a row brings must not move a terminal.
                        false => println!("{row}  {}  {code}  {}", id.escape_debug(), message.escape_debug()),
                    }
                }
                token = page.next_page_token;
                if token.is_empty() {
                    return Ok(0);
                }
            }
        })
    }
}

/// `vljepa job delete`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Delete {
    #[command(flatten)]
    pub(super) named: Named,
    /// Remove its parts and errors too; nothing else in the directory.
    #[arg(long)]
    output: bool,
}

impl Delete {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let id = self.named.id;
            self.named.server.connect(settings).await?.delete(id.clone(), self.output).await?;
            match self.named.json {
                true => print_line(&json!({"id": id, "deleted": true})),
                false => println!("{id} is deleted"),
            }
            Ok(0)
        })
    }
}

/// Shows every change until there are no more; the exit status tells how it ended.
async fn watched(mut changes: Changes, json: bool) -> anyhow::Result<i32> {
    let (mut shown, mut last) = (Shown::new(json), None);
    while let Some(job) = changes.next().await? {
        let job = Standing::from(job);
        if json {
            print_line(&job.json())
        } else {
            shown.tell(&job)
        }
        last = Some(job);
    }
    shown.end();
    match last {
        Some(job) => {
            if !json {
                println!("{}", job.line());
            }
            Ok(if job.state == State::Succeeded { 0 } else { FAILED })
        }
        None => anyhow::bail!("server: it told nothing of the job"),
    }
}
