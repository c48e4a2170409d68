//! JobService: see proto/vljepa/v1/job_service.proto.

use std::pin::Pin;
use std::time::Duration;

use futures::stream::unfold;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::convert::{self, Grounds};
use super::proto::job_service_server::JobService;
use super::proto::{
    CancelJobRequest, CancelJobResponse, CreateJobRequest, CreateJobResponse, DeleteJobRequest, DeleteJobResponse,
    GetJobRequest, GetJobResponse, Job, ListJobErrorsRequest, ListJobErrorsResponse, ListJobsRequest, ListJobsResponse,
    PauseJobRequest, PauseJobResponse, ResumeJobRequest, ResumeJobResponse, WatchJobRequest, WatchJobResponse,
};
use super::shutdown::{Phase, reached};
use super::status::{draining, status};
use crate::engine::{EngineError, Models};
use crate::jobs::{JobId, JobView, Jobs, State};

/// Time after which a running job is told again although nothing has changed: somebody waits to hear that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// What goes to somebody who watches a job.
type Told = Result<WatchJobResponse, Status>;

pub(super) struct JobCalls {
    /// None if the server has no store of jobs.
    pub jobs: Option<Jobs>,
    pub models: Models,
    pub grounds: Grounds,
    pub phase: watch::Receiver<Phase>,
}

impl JobCalls {
    #[allow(clippy::result_large_err)]
    fn jobs(&self) -> Result<&Jobs, Status> {
        let missing = || EngineError::Unfit {
            subject: "jobs.directory".into(),
            problem: "is not set (vljepa serve --jobs DIR): this server keeps no jobs".into(),
        };
        self.jobs.as_ref().ok_or_else(|| status(missing()))
    }

    fn told(&self, view: JobView) -> Option<Job> {
        Some(convert::job(view, &self.grounds))
    }
}

/// A call that names a job and is answered with it: convert, call, convert.
macro_rules! moves {
    ($self:ident, $request:ident, $call:ident, $Response:ident) => {{
        let (jobs, owner) = ($self.jobs()?, convert::job_owner(&$request));
        let id = convert::job_id(&$request.get_ref().id).map_err(status)?;
        let view = jobs.$call(&id, owner.as_deref()).await.map_err(status)?;
        Ok(Response::new($Response { job: $self.told(view) }))
    }};
}

#[tonic::async_trait]
impl JobService for JobCalls {
    async fn create_job(&self, request: Request<CreateJobRequest>) -> Result<Response<CreateJobResponse>, Status> {
        let jobs = self.jobs()?;
        let new = convert::new_job(request, &self.models, &self.grounds).await.map_err(status)?;
        let view = jobs.create(new).await.map_err(status)?;
        Ok(Response::new(CreateJobResponse { job: self.told(view) }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        moves!(self, request, get, GetJobResponse)
    }

    async fn pause_job(&self, request: Request<PauseJobRequest>) -> Result<Response<PauseJobResponse>, Status> {
        moves!(self, request, pause, PauseJobResponse)
    }

    async fn resume_job(&self, request: Request<ResumeJobRequest>) -> Result<Response<ResumeJobResponse>, Status> {
        moves!(self, request, resume, ResumeJobResponse)
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<CancelJobResponse>, Status> {
        moves!(self, request, cancel, CancelJobResponse)
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let (jobs, owner) = (self.jobs()?, convert::job_owner(&request));
        let (after, max) = convert::job_page(request.get_ref()).map_err(status)?;
        let page = jobs.list(owner.as_deref(), after.as_ref(), max).await.map_err(status)?;
        Ok(convert::reply(convert::jobs(page, &self.grounds), self.models.settings()))
    }

    async fn delete_job(&self, request: Request<DeleteJobRequest>) -> Result<Response<DeleteJobResponse>, Status> {
        let (jobs, owner) = (self.jobs()?, convert::job_owner(&request));
        let id = convert::job_id(&request.get_ref().id).map_err(status)?;
        jobs.delete(&id, owner.as_deref(), request.get_ref().delete_output).await.map_err(status)?;
        Ok(Response::new(DeleteJobResponse {}))
    }

    async fn list_job_errors(
        &self,
        request: Request<ListJobErrorsRequest>,
    ) -> Result<Response<ListJobErrorsResponse>, Status> {
        let (jobs, owner) = (self.jobs()?, convert::job_owner(&request));
        let (id, page) = convert::errors_page(request.get_ref()).map_err(status)?;
        let page = jobs.errors(&id, owner.as_deref(), page).await.map_err(status)?;
        Ok(convert::reply(convert::job_errors(page), self.models.settings()))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Told> + Send>>;

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let (jobs, owner) = (self.jobs()?.clone(), convert::job_owner(&request));
        let id = convert::job_id(&request.get_ref().id).map_err(status)?;
        let views = Box::pin(jobs.watch(&id, owner.as_deref()).await.map_err(status)?);
        let (grounds, phase) = (self.grounds.clone(), self.phase.clone());
        let watching = Watching { jobs, id, owner, grounds, phase, views, over: false };
        Ok(Response::new(Box::pin(unfold(watching, async |mut watching| Some((watching.next().await?, watching))))))
    }
}

/// Somebody who watches a job. The layers end it at its deadline, and it ends with its connection.
struct Watching {
    jobs: Jobs,
    id: JobId,
    owner: Option<String>,
    grounds: Grounds,
    phase: watch::Receiver<Phase>,
    views: Pin<Box<dyn Stream<Item = Result<JobView, EngineError>> + Send>>,
    /// The last word is said.
    over: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Told> {
        if self.over {
            return None;
        }
        let mut phase = self.phase.clone();
        let told = tokio::select! {
            view = self.view() => view?.map_err(status),
            () = reached(&mut phase, Phase::Refusing) => Err(draining()),
        };
        self.over = told.is_err();
        Some(told.map(|view| WatchJobResponse { job: Some(convert::job(view, &self.grounds)) }))
    }

    /// The next change, or a sign of life; none after the job has ended.
    async fn view(&mut self) -> Option<Result<JobView, EngineError>> {
        loop {
            match timeout(SIGN_OF_LIFE, self.views.next()).await {
                Ok(view) => return view,
                Err(_) => match self.jobs.get(&self.id, self.owner.as_deref()).await {
                    Ok(view) if view.job.state != State::Running => {}
                    view => return Some(view),
                },
            }
        }
    }
}
