//! The corpus of WatchService: first messages that begin no session, and beginnings that are odd and meant.

use prost::Message;
use tonic::Code;
use vljepa::service::proto::watch_request::Message as Asked;
use vljepa::service::proto::{
    DecodePolicy, Frame, OutputOptions, Speak, UpdateQuery, WatchAck, WatchFrame, WatchQuery, WatchRequest, WatchStart,
    WatchWindow,
};

use super::requests::{Case, case};

const WATCH: &str = "/vljepa.v1.WatchService/Watch";

fn query(question: &str, candidates: usize) -> WatchQuery {
    WatchQuery { question: question.into(), candidates: vec!["word2".into(); candidates], generation: None }
}

pub fn corpus() -> Vec<Case> {
    starts().into_iter().chain(firsts()).map(|(name, message, code)| case(name, WATCH, message, code)).collect()
}

/// Each is a whole call: the client half-closes after it, so a session that begins ends.
fn starts() -> Vec<(&'static str, Vec<u8>, Code)> {
    let of = |change: &dyn Fn(&mut WatchStart)| {
        let mut start = WatchStart { queries: vec![query("word1", 2)], ..Default::default() };
        change(&mut start);
        WatchRequest { message: Some(Asked::Start(start)) }.encode_to_vec()
    };
    let queries = |queries: Vec<WatchQuery>| of(&|start| start.queries = queries.clone());
    let window = |window: WatchWindow| of(&|start| start.window = Some(window));
    let sized = |window_ms, stride_ms| window(WatchWindow { window_ms, stride_ms, ..Default::default() });
    let still = |still| window(WatchWindow { still: Some(still), ..Default::default() });
    let looks = |frames| window(WatchWindow { frames: Some(frames), ..Default::default() });
    let policy = |change: &dyn Fn(&mut DecodePolicy)| {
        let mut policy = DecodePolicy::default();
        change(&mut policy);
        of(&|start| start.decode = Some(policy))
    };
    let dtype = |dtype| of(&|start| start.output = Some(OutputOptions { dtype, ..Default::default() }));
    let token = |token: &str, after| {
        let start = WatchStart { resume_token: token.into(), resume_after: after, ..Default::default() };
        WatchRequest { message: Some(Asked::Start(start)) }.encode_to_vec()
    };
    let (wrong, gone, good) = (Code::InvalidArgument, Code::NotFound, Code::Ok);
    vec![
        ("watch", of(&|_| ()), good),
        ("watch_stride_1", sized(600_000, 1), good),
        ("watch_still_255", still(255.0), good),
        ("watch_queries_8", queries(vec![query("word1 \u{10FFFF}", 1024); 8]), good),
        ("watch_question_control", queries(vec![query("\0\u{1b}[2J\u{202e}", 0)]), good),
        ("xwatch_queries_0", queries(vec![]), wrong),
        ("xwatch_queries_9", queries(vec![query("word1", 0); 9]), wrong),
        ("xwatch_queries_100000", queries(vec![WatchQuery::default(); 100_000]), wrong),
        ("xwatch_question_blank", queries(vec![query(" \n\u{2003}", 0)]), wrong),
        ("xwatch_question_1_mb", queries(vec![query(&"word1 ".repeat(170_000), 0)]), wrong),
        ("xwatch_candidates_1025", queries(vec![query("word1", 1025)]), wrong),
        ("xwatch_window_max", sized(u64::MAX, 0), wrong),
        ("xwatch_stride_over", sized(10, 11), wrong),
        ("xwatch_stride_max", sized(0, u64::MAX), wrong),
        ("xwatch_frames_0", looks(0), wrong),
        ("xwatch_frames_max", looks(u32::MAX), wrong),
        ("xwatch_still_nan", still(f32::NAN), wrong),
        ("xwatch_still_infinite", still(f32::INFINITY), wrong),
        ("xwatch_still_negative", still(-1.0), wrong),
        ("xwatch_threshold_nan", policy(&|policy| policy.threshold = Some(f64::NAN)), wrong),
        ("xwatch_calm_nan", policy(&|policy| policy.calm = Some(f64::NAN)), wrong),
        ("xwatch_smoothing_infinite", policy(&|policy| policy.smoothing = Some(f64::INFINITY)), wrong),
        ("xwatch_gap_max", policy(&|policy| policy.gap_min_ms = Some(u64::MAX)), wrong),
        ("xwatch_silence_max", policy(&|policy| policy.silence_max_ms = Some(u64::MAX)), wrong),
        ("xwatch_minute_max", policy(&|policy| policy.per_minute_max = Some(u32::MAX)), wrong),
        ("xwatch_uniform_0", policy(&|policy| policy.uniform_ms = Some(0)), wrong),
        ("xwatch_mode_99", policy(&|policy| policy.mode = 99), wrong),
        ("xwatch_drop_negative", of(&|start| start.drop = i32::MIN), wrong),
        ("xwatch_dtype_99", dtype(99), wrong),
        ("xwatch_model", of(&|start| start.model = "\0".repeat(1 << 16)), gone),
        ("xwatch_token", token("00000000000000000000000000000000", 0), gone),
        ("xwatch_token_after_max", token("x", u64::MAX), gone),
        ("xwatch_token_1_mb", token(&"\u{1b}".repeat(1 << 20), 0), gone),
        ("xwatch_token_and_query", of(&|start| start.resume_token = "x".into()), wrong),
        ("xwatch_after_alone", of(&|start| start.resume_after = 1), wrong),
    ]
}

/// What cannot come first.
fn firsts() -> Vec<(&'static str, Vec<u8>, Code)> {
    let of = |message: Asked| WatchRequest { message: Some(message) }.encode_to_vec();
    let frame = WatchFrame { seq: u64::MAX, frame: Some(Frame { data: vec![0; 1 << 16], ..Default::default() }) };
    let wrong = Code::InvalidArgument;
    vec![
        ("xwatch_nothing", vec![], wrong),
        ("xwatch_frame_first", of(Asked::Frame(frame)), wrong),
        ("xwatch_update_first", of(Asked::UpdateQuery(UpdateQuery { query: u32::MAX, to: None })), wrong),
        ("xwatch_speak_first", of(Asked::Speak(Speak { query: u32::MAX, ..Default::default() })), wrong),
        ("xwatch_ack_first", of(Asked::Ack(WatchAck { event: u64::MAX })), wrong),
        ("xwatch_flush_first", of(Asked::Flush(Default::default())), wrong),
        ("xwatch_stop_first", of(Asked::Stop(Default::default())), wrong),
        ("xwatch_cut", vec![0x0A, 0x7F, 1], wrong),
    ]
}
