//! A server with jobs, for the tests of JobService: its folders, its inputs, and every call.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use vljepa::service::proto::job_service_client::JobServiceClient;
use vljepa::service::proto::{
    self, CancelJobRequest, CreateJobRequest, DeleteJobRequest, GetJobRequest, Job, ListJobErrorsRequest,
    PauseJobRequest, ResumeJobRequest, WatchJobRequest, WatchJobResponse,
};
use vljepa::settings::Settings;

use crate::service::{Running, start};

/// A server with jobs, and the folder of its root and its store.
pub struct Ground {
    pub server: Running,
    pub folder: TempDir,
}

impl Ground {
    pub async fn new(set: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("root")).expect("a folder");
        Self { server: serve(folder.path(), set).await, folder }
    }

    pub fn root(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    /// Writes an input of texts; every tenth row has nothing to embed.
    pub fn texts(&self, name: &str, rows: usize) {
        let line = |row: usize| match row % 10 {
            9 => format!("{{\"id\": \"r{row}\"}}\n"),
            _ => format!("{{\"id\": \"r{row}\", \"text\": \"word{} word{}\"}}\n", row % 30, row % 7),
        };
        std::fs::write(self.root(name), (0..rows).map(line).collect::<String>()).expect("written");
    }

    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.server.channel.clone())
    }

    pub async fn create(&self, request: CreateJobRequest) -> Result<Job, Status> {
        let response = self.jobs().create_job(request).await?.into_inner();
        Ok(response.job.expect("a job"))
    }

    /// Watches until the job has ended.
    pub async fn ended(&self, id: &str) -> Job {
        let watch = self.jobs().watch_job(WatchJobRequest { id: id.into() }).await.expect("a watch").into_inner();
        changes(watch).await.expect("it ends well").pop().expect("its state")
    }
}

pub async fn serve(folder: &Path, set: impl FnOnce(&mut Settings)) -> Running {
    start(|settings| {
        settings.jobs.directory = Some(folder.join("store"));
        settings.jobs.root = Some(folder.join("root"));
        set(settings);
    })
    .await
}

/// All that a watcher hears.
pub async fn changes(mut watch: Streaming<WatchJobResponse>) -> Result<Vec<Job>, Status> {
    let mut changes = Vec::new();
    while let Some(response) = watch.message().await? {
        changes.push(response.job.expect("a job"));
    }
    Ok(changes)
}

pub fn asked(input: &str, output: &str) -> CreateJobRequest {
    let input = proto::JobInput { location: input.into(), ..Default::default() };
    let output = proto::JobOutput { location: output.into(), rows_a_part: 10, ..Default::default() };
    let spec = proto::JobSpec { input: Some(input), output: Some(output), ..Default::default() };
    CreateJobRequest { spec: Some(spec), ..Default::default() }
}

/// Every call that names a job, with its outcome.
pub async fn each(
    jobs: &JobServiceClient<Channel>,
    id: &str,
    token: Option<&str>,
) -> Vec<(&'static str, Result<(), Status>)> {
    let (id, mut jobs) = (|| id.to_owned(), jobs.clone());
    fn keyed<T>(message: T, token: Option<&str>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
        }
        request
    }
    let errors = ListJobErrorsRequest { id: id(), ..Default::default() };
    vec![
        ("get", jobs.get_job(keyed(GetJobRequest { id: id() }, token)).await.map(drop)),
        ("watch", jobs.watch_job(keyed(WatchJobRequest { id: id() }, token)).await.map(drop)),
        ("pause", jobs.pause_job(keyed(PauseJobRequest { id: id() }, token)).await.map(drop)),
        ("resume", jobs.resume_job(keyed(ResumeJobRequest { id: id() }, token)).await.map(drop)),
        ("errors", jobs.list_job_errors(keyed(errors, token)).await.map(drop)),
        ("cancel", jobs.cancel_job(keyed(CancelJobRequest { id: id() }, token)).await.map(drop)),
        ("delete", jobs.delete_job(keyed(DeleteJobRequest { id: id(), delete_output: true }, token)).await.map(drop)),
    ]
}
