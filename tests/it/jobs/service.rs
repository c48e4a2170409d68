//! JobService as clients see it: a job's life, how it moves, and what becomes of watchers when a server ends.

use std::time::Duration;

use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use vljepa::service::proto::{
    self, CancelJobRequest, CreateJobRequest, DeleteJobRequest, GetJobRequest, Job, JobState, ListJobErrorsRequest,
    PauseJobRequest, ResumeJobRequest, WatchJobRequest,
};

use super::ground::{Ground, asked, changes, serve};
use crate::service::Running;

fn job(response: Option<Job>) -> (JobState, Job) {
    let job = response.expect("a job");
    (job.state(), job)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_made_watched_read_and_forgotten() {
    let ground = Ground::new(|_| {}).await;
    ground.texts("rows.jsonl", 45);
    let title = "a title".to_owned();
    let made = ground.create(CreateJobRequest { title, ..asked("rows.jsonl", "out/one") }).await.expect("it is kept");
    let spec = made.spec.clone().expect("a spec");
    let (input, output) = (spec.input.expect("an input"), spec.output.expect("an output"));
    assert_eq!((&*input.location, input.kind()), ("rows.jsonl", proto::JobInputKind::Jsonl), "as clients know it");
    assert_eq!((&*output.location, output.format()), ("out/one", proto::JobFormat::Parquet), "defaults filled in");
    assert_eq!((&*spec.model, spec.item_timeout_ms, spec.rank), ("tiny", 60_000, proto::JobRank::Normal as i32));

    let watch = ground.jobs().watch_job(WatchJobRequest { id: made.id.clone() }).await.expect("a watch").into_inner();
    let told = changes(watch).await.expect("it ends with OK");
    let last = told.last().expect("its state").clone();
    assert_eq!((last.state(), &*last.reason, &*last.title), (JobState::Succeeded, "", "a title"));
    let progress = last.progress.expect("progress");
    let counts = [progress.succeeded, progress.failed, progress.skipped, progress.written, progress.in_work];
    assert_eq!((progress.rows, counts), (Some(45), [41, 4, 0, 41, 0]));
    assert_eq!((progress.parts, progress.parts_done), (5, 5));
    assert!(last.space.len() == 16 && last.created.is_some() && last.started.is_some() && last.ended.is_some());
    let revisions: Vec<u64> = told.iter().map(|job| job.progress.expect("progress").succeeded).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
    assert!(ground.root("out/one/part-00004.parquet").is_file());

    let got = ground.jobs().get_job(GetJobRequest { id: made.id.clone() }).await.expect("a job").into_inner();
    assert_eq!(got.job.as_ref(), Some(&last));
    let again = ground.ended(&made.id).await;
    assert_eq!(again, last, "whoever comes late hears the end at once");

    let mut errors = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListJobErrorsRequest { id: made.id.clone(), page_size: 3, page_token };
        let page = ground.jobs().list_job_errors(request).await.expect("a page").into_inner();
        assert!((1..=3).contains(&page.errors.len()) || page.next_page_token.is_empty());
        errors.extend(page.errors);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let ids: Vec<(u64, &str)> = errors.iter().map(|error| (error.row, &*error.id)).collect();
    assert_eq!(ids, [(9, "r9"), (19, "r19"), (29, "r29"), (39, "r39")]);
    assert!(errors.iter().all(|error| error.code == "INVALID_ARGUMENT" && !error.message.is_empty()), "{errors:?}");

    std::fs::write(ground.root("out/one/mine.txt"), "not the job's").expect("written");
    let delete = DeleteJobRequest { id: made.id.clone(), delete_output: true };
    ground.jobs().delete_job(delete.clone()).await.expect("it has ended");
    assert!(!ground.root("out/one/part-00000.parquet").exists() && ground.root("out/one/mine.txt").exists());
    assert_eq!(ground.jobs().delete_job(delete).await.expect_err("forgotten").code(), Code::NotFound);
    assert_eq!(
        ground.jobs().get_job(GetJobRequest { id: made.id }).await.expect_err("forgotten").code(),
        Code::NotFound
    );
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_moves_as_its_state_allows() {
    let ground = Ground::new(|settings| settings.jobs.shards_at_once = 1).await;
    ground.texts("many.jsonl", 30_000);
    ground.texts("few.jsonl", 3);
    let mut jobs = ground.jobs();
    let refused = |status: Status, told: &str| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(told), "{told}: {status}");
    };

    let id = ground.create(asked("many.jsonl", "many")).await.expect("it is kept").id;
    let (id, delete) = (|| id.clone(), DeleteJobRequest { id: id.clone(), delete_output: false });
    refused(jobs.delete_job(delete.clone()).await.expect_err("it goes on"), "cannot be deleted");
    for _ in 0..2 {
        let paused = jobs.pause_job(PauseJobRequest { id: id() }).await.expect("it may").into_inner();
        assert_eq!(job(paused.job).0, JobState::Paused);
    }
    refused(jobs.delete_job(delete.clone()).await.expect_err("it may go on"), "cannot be deleted");
    for _ in 0..2 {
        let (state, _) = job(jobs.resume_job(ResumeJobRequest { id: id() }).await.expect("it may").into_inner().job);
        assert!(matches!(state, JobState::Pending | JobState::Running), "{state:?}");
    }
    for _ in 0..2 {
        let (state, _) = job(jobs.cancel_job(CancelJobRequest { id: id() }).await.expect("it may").into_inner().job);
        assert!(matches!(state, JobState::Cancelling | JobState::Cancelled), "{state:?}");
    }
    let ended = ground.ended(&id()).await;
    assert_eq!(ended.state(), JobState::Cancelled);
    assert!(ended.progress.expect("progress").parts_done < 3000);
    refused(jobs.pause_job(PauseJobRequest { id: id() }).await.expect_err("over"), "cancelled, cannot pause");
    refused(jobs.resume_job(ResumeJobRequest { id: id() }).await.expect_err("over"), "cancelled, cannot resume");
    jobs.delete_job(delete).await.expect("over");

    let id = ground.create(asked("few.jsonl", "few")).await.expect("it is kept").id;
    assert_eq!(ground.ended(&id).await.state(), JobState::Succeeded);
    refused(jobs.pause_job(PauseJobRequest { id: id.clone() }).await.expect_err("over"), "succeeded, cannot pause");
    refused(jobs.resume_job(ResumeJobRequest { id: id.clone() }).await.expect_err("over"), "succeeded, cannot resume");
    refused(jobs.cancel_job(CancelJobRequest { id }).await.expect_err("over"), "succeeded, cannot cancel");

    let mut strict = asked("many.jsonl", "strict");
    strict.spec.as_mut().expect("a spec").errors_max = Some(0);
    let id = ground.create(strict).await.expect("it is kept").id;
    let failed = ground.ended(&id).await;
    assert_eq!(failed.state(), JobState::Failed);
    assert!(failed.reason.ends_with("rows failed, errors_max is 0"), "{}", failed.reason);
    refused(jobs.cancel_job(CancelJobRequest { id: id.clone() }).await.expect_err("over"), "failed, cannot cancel");
    // It may be tried again, and fails again.
    jobs.resume_job(ResumeJobRequest { id: id.clone() }).await.expect("it may");
    assert_eq!(ground.ended(&id).await.state(), JobState::Failed);

    // What another job has written is not written over.
    let id = ground.create(asked("few.jsonl", "few")).await.expect("it is kept").id;
    let failed = ground.ended(&id).await;
    assert_eq!(failed.state(), JobState::Failed);
    assert!(!failed.reason.is_empty());
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_tells_watchers_and_the_next_one_goes_on() {
    let mut ground = Ground::new(|settings| settings.jobs.shards_at_once = 1).await;
    ground.texts("rows.jsonl", 3000);
    let id = ground.create(asked("rows.jsonl", "out")).await.expect("it is kept").id;
    let mut watch = ground.jobs().watch_job(WatchJobRequest { id: id.clone() }).await.expect("a watch").into_inner();
    watch.message().await.expect("its state").expect("at once");
    let folder = ground.folder.path().to_owned();
    let Running { stop, served, channel, .. } = ground.server;
    stop.send(()).expect("it serves");
    match changes(watch).await {
        // It may have been done before the end began.
        Ok(told) => assert_eq!(told.last().map(Job::state), Some(JobState::Succeeded)),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert_eq!(status.get_details_error_info().expect("a reason").reason, "DRAINING");
        }
    }
    drop(channel);
    served.await.expect("no panic").expect("a clean end");
    ground.server = serve(&folder, |_| {}).await;
    let ended = ground.ended(&id).await;
    let progress = ended.progress.expect("progress");
    assert_eq!((ended.state(), progress.succeeded, progress.failed), (JobState::Succeeded, 2700, 300));
    assert_eq!((progress.parts_done, progress.parts), (300, 300));
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_at_its_deadline() {
    let ground = Ground::new(|_| {}).await;
    ground.texts("rows.jsonl", 30_000);
    let id = ground.create(asked("rows.jsonl", "out")).await.expect("it is kept").id;
    ground.jobs().pause_job(PauseJobRequest { id: id.clone() }).await.expect("it may");
    let mut request = Request::new(WatchJobRequest { id });
    request.set_timeout(Duration::from_millis(300));
    let watch = ground.jobs().watch_job(request).await.expect("a watch").into_inner();
    let status = changes(watch).await.expect_err("nothing ends it but its deadline");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    ground.server.end().await;
}
