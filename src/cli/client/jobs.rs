//! JobService as the commands call it: every call with its key, every refusal in a person's words.

use std::time::Duration;

use tonic::Streaming;
use tonic::transport::Channel;

use super::{Caller, connect, refused};
use crate::service::proto;
use crate::service::proto::job_service_client::JobServiceClient;
use crate::settings::Settings;

/// A connection to a server's jobs.
pub(in crate::cli) struct RemoteJobs {
    jobs: JobServiceClient<Channel>,
    caller: Caller,
}

/// Changes of one job, as they are told.
pub(in crate::cli) struct Changes(Streaming<proto::WatchJobResponse>);

impl Changes {
    /// The next one; none when the job has ended.
    pub async fn next(&mut self) -> anyhow::Result<Option<proto::Job>> {
        let response = self.0.message().await.map_err(|status| refused(&status))?;
        Ok(response.and_then(|response| response.job))
    }
}

/// One method a call whose answer is a job.
macro_rules! moves {
    ($($(#[doc = $about:literal])* $call:ident($Request:ident);)*) => {
        $($(#[doc = $about])*
        pub async fn $call(&mut self, id: String) -> anyhow::Result<proto::Job> {
            let request = self.caller.request(proto::$Request { id });
            let response = self.jobs.$call(request).await.map_err(|status| refused(&status))?;
            told(response.into_inner().job)
        })*
    };
}

impl RemoteJobs {
    /// Connects to the server at `address`.
    pub async fn connect(address: &str, settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            jobs: JobServiceClient::new(connect(address, &settings.client).await?),
            caller: Caller::new(Duration::from_millis(settings.service.deadline_default_ms), &settings.client)?,
        })
    }

    moves! {
        /// How a job stands.
        get_job(GetJobRequest);
        /// Lets a job wait.
        pause_job(PauseJobRequest);
        /// Lets a job go on.
        resume_job(ResumeJobRequest);
        /// Ends a job.
        cancel_job(CancelJobRequest);
    }

    /// Makes a job.
    pub async fn create(&mut self, request: proto::CreateJobRequest) -> anyhow::Result<proto::Job> {
        let request = self.caller.request(request);
        let response = self.jobs.create_job(request).await.map_err(|status| refused(&status))?;
        told(response.into_inner().job)
    }

    /// A page of jobs, and what asks for the next one.
    pub async fn list(&mut self, page_token: String) -> anyhow::Result<proto::ListJobsResponse> {
        let request = self.caller.request(proto::ListJobsRequest { page_token, ..Default::default() });
        Ok(self.jobs.list_jobs(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// How a job stands, from now until it has ended.
    pub async fn watch(&mut self, id: String) -> anyhow::Result<Changes> {
        // It lasts as long as the job does.
        let request = self.caller.lasting(proto::WatchJobRequest { id });
        let response = self.jobs.watch_job(request).await.map_err(|status| refused(&status))?;
        Ok(Changes(response.into_inner()))
    }

    /// Forgets a job.
    pub async fn delete(&mut self, id: String, delete_output: bool) -> anyhow::Result<()> {
        let request = self.caller.request(proto::DeleteJobRequest { id, delete_output });
        self.jobs.delete_job(request).await.map(drop).map_err(|status| refused(&status))
    }

    /// A page of rows that failed, and what asks for the next one.
    pub async fn errors(&mut self, id: String, page_token: String) -> anyhow::Result<proto::ListJobErrorsResponse> {
        let request = self.caller.request(proto::ListJobErrorsRequest { id, page_token, ..Default::default() });
        Ok(self.jobs.list_job_errors(request).await.map_err(|status| refused(&status))?.into_inner())
    }
}

fn told(job: Option<proto::Job>) -> anyhow::Result<proto::Job> {
    job.ok_or_else(|| anyhow::anyhow!("server: response without a job"))
}
