//! What JobService refuses, each with its field, its setting or its owner.

use tonic::{Code, Request};
use vljepa::service::keys::{NewKey, Scope};
use vljepa::service::proto::job_service_client::JobServiceClient;
use vljepa::service::proto::{self, CreateJobRequest, ListJobErrorsRequest, ListJobsRequest};

use super::ground::{Ground, asked, each};
use crate::service::{fields, start};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_jobs_name_the_field() {
    let ground = Ground::new(|settings| settings.text.candidates_max = 2).await;
    ground.texts("rows.jsonl", 1);
    std::fs::create_dir(ground.root("media")).expect("a folder");
    std::os::unix::fs::symlink("/tmp", ground.root("link")).expect("a link");
    let good = || asked("rows.jsonl", "out");
    let spec = |change: &dyn Fn(&mut proto::JobSpec)| {
        let mut request = good();
        change(request.spec.as_mut().expect("a spec"));
        request
    };
    let input = |change: &dyn Fn(&mut proto::JobInput)| spec(&|spec| change(spec.input.as_mut().expect("an input")));
    let output =
        |change: &dyn Fn(&mut proto::JobOutput)| spec(&|spec| change(spec.output.as_mut().expect("an output")));
    let at = |location: &str| input(&|input| input.location = location.into());
    let into = |location: &str| output(&|output| output.location = location.into());
    let column = |columns: proto::JobColumns| input(&|input| input.columns = Some(columns.clone()));
    let embedding = |dimensions, dtype| {
        let options = proto::OutputOptions { dimensions, dtype, ..Default::default() };
        spec(&|spec| spec.embedding = Some(options))
    };
    let segments =
        |window_ms, stride_ms| spec(&|spec| spec.segments = Some(proto::JobSegments { window_ms, stride_ms }));
    let strings = |count: usize| vec!["word1".to_owned(); count];
    for (field, problem, request) in [
        ("spec", "is missing", CreateJobRequest::default()),
        ("spec.input", "is missing", spec(&|spec| spec.input = None)),
        ("spec.output", "is missing", spec(&|spec| spec.output = None)),
        ("spec.input.location", "is empty", at("")),
        ("spec.input.location", "must be a relative path without \"..\"", at("../rows.jsonl")),
        ("spec.input.location", "must be a relative path without \"..\"", at("/etc/passwd")),
        ("spec.input.location", "which leads out of jobs.root", at("link/x.jsonl")),
        ("spec.input.location", "which is not there", at("nothing.jsonl")),
        ("spec.input.kind", "is 99, which means nothing", input(&|input| input.kind = 99)),
        (
            "spec.input.columns.id",
            "is 129 bytes, at most 128",
            column(proto::JobColumns { id: "x".repeat(129), ..Default::default() }),
        ),
        (
            "spec.input.columns.text",
            "has control characters",
            column(proto::JobColumns { text: "\u{1b}[2J".into(), ..Default::default() }),
        ),
        ("spec.output.location", "is empty", into("")),
        ("spec.output.location", "must be a relative path without \"..\"", into("a/../../b")),
        ("spec.output.location", "which leads out of jobs.root", into("link/out")),
        ("spec.output.location", "which is no directory", into("rows.jsonl")),
        ("spec.output.location", "jobs.urls is not set, no URL is allowed", into("s3://bucket/out")),
        ("spec.output.format", "is -1, which means nothing", output(&|output| output.format = -1)),
        ("spec.output.rows_a_part", "must be from 0 to 65536", output(&|output| output.rows_a_part = u32::MAX)),
        ("spec.question", "is empty, media files bring none of their own", at("media")),
        ("spec.question", "is empty", spec(&|spec| spec.question = "  ".into())),
        ("spec.candidates", "is 10000, must be from 0 to 2", spec(&|spec| spec.candidates = strings(10_000))),
        ("spec.candidates[1]", "is empty", spec(&|spec| spec.candidates = vec!["word1".into(), String::new()])),
        ("spec.segments.window_ms", "is 0, must be from 1 to 86400000", segments(0, 5)),
        ("spec.segments.stride_ms", "must be from 0 to 86400000", segments(1, u64::MAX)),
        ("spec.embedding.dimensions", "is 17, must be from 0 to 16", embedding(17, 0)),
        ("spec.embedding.dtype", "is 99, no such type", embedding(0, 99)),
        ("spec.embedding.dtype", "is DTYPE_BINARY", embedding(0, proto::Dtype::Binary as i32)),
        ("spec.item_timeout_ms", "must be from 0 to 600000", spec(&|spec| spec.item_timeout_ms = u64::MAX)),
        ("spec.rank", "is 7, which means nothing", spec(&|spec| spec.rank = 7)),
        ("title", "is 201 bytes, at most 200", CreateJobRequest { title: "x".repeat(201), ..good() }),
        ("title", "has control characters", CreateJobRequest { title: "a\u{7}".into(), ..good() }),
        ("request_id", "must be 0 to 64 letters", CreateJobRequest { request_id: "a b".into(), ..good() }),
        ("request_id", "must be 0 to 64 letters", CreateJobRequest { request_id: "x".repeat(65), ..good() }),
    ] {
        let status = ground.create(request).await.expect_err(problem);
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_string()]), "{status}");
        assert!(status.message().contains(problem), "{problem}: {status}");
    }
    let elsewhere = spec(&|spec| spec.model = "another".into());
    assert_eq!(ground.create(elsewhere).await.expect_err("no such model").code(), Code::NotFound);
    let listed = ground.jobs().list_jobs(ListJobsRequest::default()).await.expect("a list").into_inner();
    assert!(listed.jobs.is_empty(), "nothing of it was kept: {listed:?}");
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_job_has_are_not_found() {
    let ground = Ground::new(|_| {}).await;
    let long = "x".repeat(100_000);
    for id in ["0123456789abcdef", "nonsense", "../../etc/passwd", "\0", &long] {
        for (call, outcome) in each(&ground.jobs(), id, None).await {
            let status = outcome.expect_err(call);
            assert_eq!(status.code(), Code::NotFound, "{call}: {status}");
        }
    }
    for (call, outcome) in each(&ground.jobs(), "", None).await {
        let status = outcome.expect_err(call);
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["id".to_owned()]),
            "{call}: {status}"
        );
    }
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_or_a_root_the_setting_is_named() {
    let server = start(|_| {}).await;
    let mut jobs = JobServiceClient::new(server.channel.clone());
    let mut outcomes = each(&jobs, "0123456789abcdef", None).await;
    outcomes.push(("create", jobs.create_job(asked("a", "b")).await.map(drop)));
    outcomes.push(("list", jobs.list_jobs(ListJobsRequest::default()).await.map(drop)));
    for (call, outcome) in outcomes {
        let status = outcome.expect_err(call);
        assert_eq!(status.code(), Code::FailedPrecondition, "{call}: {status}");
        assert!(status.message().starts_with("jobs.directory: is not set (vljepa serve --jobs DIR)"), "{status}");
    }
    server.end().await;

    let ground = Ground::new(|settings| settings.jobs.root = None).await;
    let status = ground.create(asked("a.jsonl", "b")).await.expect_err("no root");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().starts_with("jobs.root: is not set (vljepa serve --jobs-root DIR)"), "{status}");
    ground.jobs().list_jobs(ListJobsRequest::default()).await.expect("the rest works");
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_page_by_page_and_garbage_asks_for_no_page() {
    let ground = Ground::new(|_| {}).await;
    ground.texts("rows.jsonl", 3);
    let mut made = Vec::new();
    for at in 0..5 {
        made.push(ground.create(asked("rows.jsonl", &format!("out{at}"))).await.expect("it is kept").id);
    }
    let list = async |page_size, page_token: &str| {
        let request = ListJobsRequest { page_size, page_token: page_token.into() };
        ground.jobs().list_jobs(request).await.map(tonic::Response::into_inner)
    };
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(2, &token).await.expect("a page");
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    listed.sort();
    made.sort();
    assert_eq!(listed, made);
    assert_eq!(list(0, "").await.expect("a page").jobs.len(), 5);
    for garbage in ["x", "../..", "\0", "0123456789ABCDEF", &"x".repeat(100_000)] {
        let status = list(2, garbage).await.expect_err("no such page");
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["page_token".to_owned()]),
            "{status}"
        );
        let request = ListJobErrorsRequest { id: made[0].clone(), page_size: 2, page_token: garbage.into() };
        let status = ground.jobs().list_job_errors(request).await.expect_err("no such page");
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["page_token".to_owned()]),
            "{status}"
        );
    }
    let status = list(1001, "").await.expect_err("too many");
    assert_eq!(status.message(), "page_size: is 1001, must be from 0 to 1000");
    ground.server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_its_keys_alone() {
    let keys = tempfile::tempdir().expect("a folder");
    let file = keys.path().join("keys.toml");
    let drawn = ["one", "other"].map(|name| NewKey::draw(name, &[Scope::Jobs], None).expect("a key"));
    let stranger = NewKey::draw("stranger", &[Scope::Predict], None).expect("a key");
    let blocks: String = drawn.iter().chain([&stranger]).map(|key| &*key.block).collect();
    std::fs::write(&file, blocks).expect("written");
    let ground = Ground::new(|settings| settings.keys.file = Some(file)).await;
    ground.texts("rows.jsonl", 3);
    let keyed = |token: &str, output: &str, request_id: &str| {
        let mut request =
            Request::new(CreateJobRequest { request_id: request_id.into(), ..asked("rows.jsonl", output) });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
        request
    };
    let [one, other] = drawn.map(|key| key.token);
    let created = async |request| {
        let response = ground.jobs().create_job(request).await;
        response.map(|response| response.into_inner().job.expect("a job").id)
    };
    let first = created(keyed(&one, "out1", "nightly")).await.expect("it is kept");
    assert_eq!(
        created(keyed(&one, "out1", "nightly")).await.as_ref().ok(),
        Some(&first),
        "asking twice is asking once"
    );
    let second = created(keyed(&other, "out2", "nightly")).await.expect("it is kept");
    assert_ne!(first, second, "another's request");
    for (call, outcome) in each(&ground.jobs(), &first, Some(&other)).await {
        assert_eq!(outcome.expect_err(call).code(), Code::NotFound, "{call}");
    }
    for (token, own) in [(&one, &first), (&other, &second)] {
        let mut request = Request::new(ListJobsRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
        let listed = ground.jobs().list_jobs(request).await.expect("a list").into_inner().jobs;
        assert_eq!(listed.iter().map(|job| &job.id).collect::<Vec<_>>(), [own]);
    }
    let outcome = created(keyed(&stranger.token, "out3", "")).await.expect_err("no scope");
    assert_eq!(outcome.code(), Code::PermissionDenied, "{outcome}");
    ground.server.end().await;
}
