//! The corpus of JobService: requests that must not become jobs, names that are none, pages that nobody was offered.

use std::path::Path;

use prost::Message;
use tonic::Code;
use vljepa::service::proto;

use super::requests::{Case, case};

const CREATE: &str = "/vljepa.v1.JobService/CreateJob";
const GET: &str = "/vljepa.v1.JobService/GetJob";
const LIST: &str = "/vljepa.v1.JobService/ListJobs";
const WATCH: &str = "/vljepa.v1.JobService/WatchJob";
const CANCEL: &str = "/vljepa.v1.JobService/CancelJob";
const DELETE: &str = "/vljepa.v1.JobService/DeleteJob";
const ERRORS: &str = "/vljepa.v1.JobService/ListJobErrors";

/// Makes the folders of a server of this corpus below `folder`, and tells its settings.
pub fn ground(folder: &Path) -> [(&'static str, String); 2] {
    let (store, root) = (folder.join("store"), folder.join("root"));
    std::fs::create_dir_all(root.join("in")).expect("a folder");
    std::fs::write(root.join("rows.jsonl"), "{\"text\": \"word1\"}\n").expect("written");
    std::os::unix::fs::symlink("/etc", root.join("out_of_it")).expect("a link");
    std::os::unix::fs::symlink("/no/such/place", root.join("nowhere")).expect("a link");
    std::os::unix::fs::symlink("round", root.join("round")).expect("a link");
    let told = |path: &Path| path.to_string_lossy().into_owned();
    [("VLJEPA_JOBS_DIRECTORY", told(&store)), ("VLJEPA_JOBS_ROOT", told(&root))]
}

pub fn corpus() -> Vec<Case> {
    creations().into_iter().chain(locations()).chain(names()).chain(pages()).collect()
}

fn asked(input: &str, output: &str) -> proto::CreateJobRequest {
    let input = proto::JobInput { location: input.into(), ..Default::default() };
    let output = proto::JobOutput { location: output.into(), ..Default::default() };
    let spec = proto::JobSpec { input: Some(input), output: Some(output), ..Default::default() };
    // One job, however often the corpus is sent.
    proto::CreateJobRequest { spec: Some(spec), request_id: "once".into(), ..Default::default() }
}

fn creations() -> Vec<Case> {
    let of = |change: &dyn Fn(&mut proto::JobSpec)| {
        let mut request = asked("rows.jsonl", "out");
        change(request.spec.as_mut().expect("a spec"));
        request.encode_to_vec()
    };
    let input = |change: &dyn Fn(&mut proto::JobInput)| of(&|spec| change(spec.input.as_mut().expect("an input")));
    let output = |change: &dyn Fn(&mut proto::JobOutput)| of(&|spec| change(spec.output.as_mut().expect("an output")));
    let named =
        |id: String| input(&|input| input.columns = Some(proto::JobColumns { id: id.clone(), ..Default::default() }));
    let segments = |window_ms, stride_ms| of(&|spec| spec.segments = Some(proto::JobSegments { window_ms, stride_ms }));
    let embedding = |dimensions, dtype| {
        of(&|spec| spec.embedding = Some(proto::OutputOptions { dimensions, dtype, ..Default::default() }))
    };
    let titled = |title: String| proto::CreateJobRequest { title, ..asked("rows.jsonl", "out") }.encode_to_vec();
    let wrong = Code::InvalidArgument;
    [
        ("job", of(&|_| ()), Code::Ok),
        ("xjob_empty", vec![], wrong),
        (
            "xjob_spec_empty",
            proto::CreateJobRequest { spec: Some(Default::default()), ..Default::default() }.encode_to_vec(),
            wrong,
        ),
        ("xjob_model", of(&|spec| spec.model = "../../etc".into()), Code::NotFound),
        ("xjob_kind_99", input(&|input| input.kind = 99), wrong),
        ("xjob_kind_min", input(&|input| input.kind = i32::MIN), wrong),
        ("xjob_format_99", output(&|output| output.format = 99), wrong),
        ("xjob_rank_99", of(&|spec| spec.rank = 99), wrong),
        ("xjob_dtype_binary", embedding(0, 4), wrong),
        ("xjob_dtype_99", embedding(0, 99), wrong),
        ("xjob_dimensions_max", embedding(u32::MAX, 0), wrong),
        ("xjob_part_rows_max", output(&|output| output.rows_a_part = u32::MAX), wrong),
        ("xjob_candidates_10000", of(&|spec| spec.candidates = vec!["w".into(); 10_000]), wrong),
        ("xjob_candidates_million", of(&|spec| spec.candidates = vec![String::new(); 1_000_000]), wrong),
        ("xjob_candidate_empty", of(&|spec| spec.candidates = vec![String::new()]), wrong),
        ("xjob_question_long", of(&|spec| spec.question = "x".repeat(100_000)), wrong),
        ("xjob_window_0", segments(0, 1), wrong),
        ("xjob_window_max", segments(u64::MAX, u64::MAX), wrong),
        ("xjob_timeout_max", of(&|spec| spec.item_timeout_ms = u64::MAX), wrong),
        ("xjob_column_long", named("x".repeat(1000)), wrong),
        ("xjob_column_control", named("\u{1b}]0;x\u{7}".into()), wrong),
        ("xjob_title_long", titled("x".repeat(1 << 20)), wrong),
        ("xjob_title_control", titled("\u{1b}[2J".into()), wrong),
        ("xjob_cut", of(&|_| ())[..5].to_vec(), wrong),
    ]
    .map(|(name, message, code)| case(name, CREATE, message, code))
    .into()
}

fn locations() -> Vec<Case> {
    let places = [
        "",
        ".",
        "..",
        "/",
        "../rows.jsonl",
        "in/../../x",
        "/etc/passwd",
        "./../x",
        "out_of_it/passwd",
        "out_of_it",
        "nowhere",
        "nowhere/x",
        "round",
        "round/x",
        "a\0b",
        "\u{1b}[2J",
        "file:///etc/passwd",
        "s3://bucket/x",
        "memory:///",
        "rows.jsonl/x",
    ];
    let long = ["x".repeat(1 << 20), "x/".repeat(600)];
    let at = |place: &&str| [asked(place, "out"), asked("rows.jsonl", place)].map(|request| request.encode_to_vec());
    let each = places.iter().copied().chain(long.iter().map(String::as_str));
    let messages: Vec<[Vec<u8>; 2]> = each.map(|place| at(&place)).collect();
    let named = messages.into_iter().enumerate().flat_map(|(at, messages)| {
        let of = move |which: &str| format!("xjob_{which}_{at}");
        let [input, output] = messages;
        [(of("input"), input), (of("output"), output)]
    });
    named.map(|(name, message)| case(&name, CREATE, message, Code::InvalidArgument)).collect()
}

fn names() -> Vec<Case> {
    let long = "x".repeat(1 << 20);
    let mut cases = Vec::new();
    for (at, id) in ["0123456789abcdef", "..", "\0", "../../store/jobs.redb", &long].into_iter().enumerate() {
        // All these requests begin with the name.
        let message = proto::GetJobRequest { id: id.into() }.encode_to_vec();
        for (call, path) in [("get", GET), ("watch", WATCH), ("cancel", CANCEL), ("delete", DELETE), ("errors", ERRORS)]
        {
            cases.push(case(&format!("xjob_{call}_{at}"), path, message.clone(), Code::NotFound));
        }
    }
    cases.extend(
        [GET, WATCH, CANCEL, DELETE, ERRORS].map(|path| case("xjob_no_name", path, vec![], Code::InvalidArgument)),
    );
    cases
}

fn pages() -> Vec<Case> {
    let list = |page_size, page_token: &str| {
        proto::ListJobsRequest { page_size, page_token: page_token.into() }.encode_to_vec()
    };
    let (wrong, good) = (Code::InvalidArgument, Code::Ok);
    [
        ("jobs_page", list(1000, ""), good),
        ("jobs_page_after_all", list(1, "zzzzzzzzzzzzzzzz"), good),
        ("xjobs_page_1001", list(1001, ""), wrong),
        ("xjobs_page_max", list(u32::MAX, ""), wrong),
        ("xjobs_token_path", list(0, "../../etc"), wrong),
        ("xjobs_token_nul", list(0, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), wrong),
        ("xjobs_token_long", list(0, &"a".repeat(1 << 20)), wrong),
    ]
    .map(|(name, message, code)| case(name, LIST, message, code))
    .into()
}
