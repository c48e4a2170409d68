//! What Watch's messages mean, and which field is named when they mean nothing.

use super::*;
use crate::engine::Code;
use crate::model::bundle::Bundle;
use crate::model::vl_jepa::VlJepa;
use crate::segment::Policy;
use crate::service::proto::{
    DecodeMode, DecodePolicy, DropPolicy, Frame, FrameFormat, Generation, OutputOptions, UpdateQuery, WatchQuery,
    WatchWindow,
};

fn engine(set: impl FnOnce(&mut Settings)) -> Engine {
    let mut settings = Settings::default();
    set(&mut settings);
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    Engine::start(model, settings).expect("a thread").0
}

fn query(question: &str, candidates: &[&str]) -> WatchQuery {
    let candidates = candidates.iter().map(|text| text.to_string()).collect();
    WatchQuery { question: question.into(), candidates, generation: None }
}

fn start() -> WatchStart {
    WatchStart { queries: vec![query("what is it?", &["a", "b"])], ..Default::default() }
}

fn begun(engine: &Engine, start: WatchStart) -> Checked<(Spec, Terms)> {
    watch_start(start, "one".into(), engine, None)
}

/// The field that is wrong.
fn wrong<T>(checked: Checked<T>) -> String {
    match checked {
        Ok(_) => "nothing".into(),
        Err(EngineError::Invalid { field, problem }) => {
            assert!(!problem.is_empty(), "{field}");
            field
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn what_is_unset_is_as_the_defaults_say() {
    let engine = engine(|_| {});
    let (spec, terms) = begun(&engine, start()).expect("good");
    assert_eq!((spec.view, spec.drops), (View::default(), Drops::Wait));
    assert_eq!(spec.decode, Decode::Drift(Policy::default()));
    assert!(terms.output.is_none() && matches!(&spec.queries[0].manner, Some(Manner::Choose(all)) if all.len() == 2));
    let told = told::started(&terms, "token", 32, None);
    let proto::watch_response::Message::Started(told) = told else { panic!("{told:?}") };
    assert_eq!((&*told.model, &*told.resume_token, told.credits, told.seq), ("one", "token", 32, None));
    let window = WatchWindow { window_ms: 2000, stride_ms: 500, frames: None, still: Some(1.0) };
    assert_eq!(told.window, Some(window));
    // What was told means the same when it is asked for.
    let (window, decode) = (told.window, told.decode);
    let (again, _) = begun(&engine, WatchStart { window, decode, ..start() }).expect("good");
    assert_eq!((again.view, again.decode), (spec.view, spec.decode));
}

#[test]
fn what_is_set_arrives() {
    let engine = engine(|_| {});
    let window = WatchWindow { window_ms: 3, stride_ms: 0, frames: Some(1), still: Some(0.0) };
    let decode = DecodePolicy {
        threshold: Some(2.0),
        calm: Some(0.0),
        smoothing: Some(0.99),
        gap_min_ms: Some(0),
        silence_max_ms: Some(0),
        per_minute_max: Some(0),
        ..Default::default()
    };
    let asked = WatchStart {
        queries: vec![query("a?", &[]), query("b?", &["x"])],
        window: Some(window),
        decode: Some(decode),
        drop: DropPolicy::LatestOnly as i32,
        want_embeddings: true,
        ..Default::default()
    };
    let (spec, terms) = begun(&engine, asked).expect("good");
    assert_eq!(spec.view, View { window_ms: 3, stride_ms: 1, frames: Some(1), still: 0.0 });
    let Decode::Drift(policy) = spec.decode else { panic!("{:?}", spec.decode) };
    assert_eq!((policy.threshold, policy.calm, policy.smoothing, policy.gap_min_ms), (2.0, None, 0.99, 0));
    assert_eq!((policy.silence_max_ms, policy.per_minute_max), (None, None));
    assert_eq!((spec.drops, spec.queries.len(), terms.output.is_some()), (Drops::LatestOnly, 2, true));
    assert!(matches!(spec.queries[0].manner, Some(Manner::Speak(_))));
    for (mode, uniform_ms, expected) in [
        (DecodeMode::Uniform, None, Decode::Uniform { every_ms: 1000 }),
        (DecodeMode::Uniform, Some(1), Decode::Uniform { every_ms: 1 }),
        (DecodeMode::Never, None, Decode::Never),
    ] {
        let decode = Some(DecodePolicy { mode: mode as i32, uniform_ms, ..Default::default() });
        assert_eq!(begun(&engine, WatchStart { decode, ..start() }).expect("good").0.decode, expected);
    }
}

#[test]
fn a_start_that_cannot_be_meant_names_its_field() {
    let engine = engine(|settings| {
        (settings.watch.queries_max, settings.watch.window_ms_max, settings.text.candidates_max) = (2, 10_000, 2);
        (settings.media.frames_max, settings.watch.window_frames_max, settings.text.bytes_max) = (64, 32, 100);
    });
    let with = |change: &dyn Fn(&mut WatchStart)| {
        let mut start = start();
        change(&mut start);
        wrong(begun(&engine, start))
    };
    let window = |window: WatchWindow| with(&|start| start.window = Some(window));
    let policy = |change: &dyn Fn(&mut DecodePolicy)| {
        let mut policy = DecodePolicy::default();
        change(&mut policy);
        with(&|start| start.decode = Some(policy))
    };
    let queries = |queries: &[WatchQuery]| with(&|start| start.queries = queries.to_vec());
    let asked = |question: &str, candidates: &[&str]| queries(&[query("fine", &[]), query(question, candidates)]);
    let generation =
        |generation: Generation| queries(&[WatchQuery { generation: Some(generation), ..query("fine", &[]) }]);
    assert_eq!(with(&|_| ()), "nothing");
    assert_eq!(queries(&[]), "queries");
    assert_eq!(queries(&[query("a", &[]), query("b", &[]), query("c", &[])]), "queries");
    assert_eq!(asked(" \n", &[]), "queries[1].question");
    assert_eq!(asked(&"x".repeat(101), &[]), "queries[1].question");
    assert_eq!(asked("fine", &["a", "b", "c"]), "queries[1].candidates");
    assert_eq!(asked("fine", &["a", ""]), "queries[1].candidates[1]");
    assert_eq!(
        generation(Generation { temperature: f32::NAN, ..Default::default() }),
        "queries[0].generation.temperature"
    );
    assert_eq!(
        generation(Generation { max_tokens: u32::MAX, ..Default::default() }),
        "queries[0].generation.max_tokens"
    );
    for (window_ms, stride_ms, expected) in [
        (10_000, 0, "nothing"),
        (10_001, 0, "window.window_ms"),
        (u64::MAX, 0, "window.window_ms"),
        (0, 2000, "nothing"),
        (0, 2001, "window.stride_ms"),
        (1, 1, "nothing"),
        (1, 2, "window.stride_ms"),
        (1, u64::MAX, "window.stride_ms"),
    ] {
        assert_eq!(window(WatchWindow { window_ms, stride_ms, ..Default::default() }), expected);
    }
    for (frames, expected) in [(0, "window.frames"), (32, "nothing"), (33, "window.frames")] {
        assert_eq!(window(WatchWindow { frames: Some(frames), ..Default::default() }), expected);
    }
    for still in [f32::NAN, f32::INFINITY, -0.1, 255.1, f32::NEG_INFINITY] {
        assert_eq!(window(WatchWindow { still: Some(still), ..Default::default() }), "window.still");
    }
    for value in [f64::NAN, f64::INFINITY, -1e-9, 2.1, f64::NEG_INFINITY] {
        assert_eq!(policy(&|policy| policy.threshold = Some(value)), "decode.threshold");
        assert_eq!(policy(&|policy| policy.calm = Some(value)), "decode.calm");
        assert_eq!(policy(&|policy| policy.smoothing = Some(value)), "decode.smoothing");
    }
    assert_eq!(policy(&|policy| policy.smoothing = Some(1.0)), "decode.smoothing");
    for time in [86_400_001, u64::MAX] {
        assert_eq!(policy(&|policy| policy.gap_min_ms = Some(time)), "decode.gap_min_ms");
        assert_eq!(policy(&|policy| policy.silence_max_ms = Some(time)), "decode.silence_max_ms");
        assert_eq!(policy(&|policy| policy.unsettled_max_ms = Some(time)), "decode.unsettled_max_ms");
        assert_eq!(policy(&|policy| policy.uniform_ms = Some(time)), "decode.uniform_ms");
    }
    assert_eq!(policy(&|policy| policy.uniform_ms = Some(0)), "decode.uniform_ms");
    assert_eq!(policy(&|policy| policy.per_minute_max = Some(60_001)), "decode.per_minute_max");
    let silent = |policy: &mut DecodePolicy| (policy.gap_min_ms, policy.silence_max_ms) = (Some(7), Some(6));
    assert_eq!(policy(&silent), "decode.silence_max_ms");
    // Also where the mode has no use for it.
    let never = DecodeMode::Never as i32;
    assert_eq!(policy(&|policy| (policy.mode, policy.threshold) = (never, Some(f64::NAN))), "decode.threshold");
    for unknown in [77, -1, i32::MIN] {
        assert_eq!(policy(&|policy| policy.mode = unknown), "decode.mode");
        assert_eq!(with(&|start| start.drop = unknown), "drop");
        let output = |dtype| Some(OutputOptions { dtype, ..Default::default() });
        assert_eq!(with(&|start| start.output = output(unknown)), "output.dtype");
    }
    let dimensions = Some(OutputOptions { dimensions: u32::MAX, ..Default::default() });
    assert_eq!(with(&|start| start.output = dimensions), "output.dimensions");
}

#[test]
fn who_takes_up_a_session_asks_for_nothing_else() {
    let token = |change: &dyn Fn(&mut WatchStart)| {
        let mut start = WatchStart { resume_token: "t".into(), ..Default::default() };
        change(&mut start);
        watch_resumption(&start)
    };
    assert_eq!(watch_resumption(&start()), Ok(None));
    assert_eq!(token(&|_| ()), Ok(Some(("t".into(), 0))));
    assert_eq!(token(&|start| start.resume_after = u64::MAX), Ok(Some(("t".into(), u64::MAX))));
    let lone = WatchStart { resume_after: 1, ..start() };
    assert_eq!(wrong(watch_resumption(&lone)), "resume_after");
    let changes: [&dyn Fn(&mut WatchStart); 7] = [
        &|start| start.model = "one".into(),
        &|start| start.queries = vec![WatchQuery::default()],
        &|start| start.window = Some(WatchWindow::default()),
        &|start| start.decode = Some(DecodePolicy::default()),
        &|start| start.drop = 1,
        &|start| start.want_embeddings = true,
        &|start| start.output = Some(OutputOptions::default()),
    ];
    for change in changes {
        assert_eq!(wrong(token(change)), "resume_token");
    }
}

#[test]
fn a_frame_that_is_no_picture_is_told_why() {
    let mut settings = Settings::default();
    settings.media.bytes_max = 100;
    let raw = |width, height, bytes: usize| Frame {
        data: vec![7; bytes],
        format: FrameFormat::Rgb8 as i32,
        width,
        height,
        pts_ms: 5,
    };
    for (frame, expected) in [
        (Some(raw(2, 2, 12)), "nothing"),
        (None, "frame"),
        (Some(raw(2, 2, 0)), "frame.data"),
        (Some(raw(2, 2, 11)), "frame.data"),
        (Some(raw(2, 2, 101)), "frame.data"),
        (Some(raw(0, 2, 1)), "frame.width"),
        (Some(raw(u32::MAX, u32::MAX, 3)), "frame.width"),
        (Some(Frame { format: 99, ..raw(2, 2, 12) }), "frame.format"),
        (Some(Frame { format: FrameFormat::Encoded as i32, ..raw(0, 0, 100) }), "nothing"),
    ] {
        assert_eq!(wrong(watch_picture(frame.clone(), &settings)), expected, "{frame:?}");
    }
}

#[test]
fn a_changed_query_is_read_as_at_the_start() {
    let engine = engine(|settings| settings.watch.queries_max = 3);
    let (_, terms) = begun(&engine, start()).expect("good");
    let update = |query, queries, to| {
        watch_update(UpdateQuery { query, to }, queries, &terms, engine.settings(), None).map(|(at, _)| at)
    };
    let fine = || Some(query("fine", &["a"]));
    assert_eq!(update(0, 2, fine()), Ok(0));
    assert_eq!(update(2, 2, fine()), Ok(2), "one more");
    assert_eq!(wrong(update(3, 2, fine())), "query");
    assert_eq!(wrong(update(3, 3, fine())), "query", "there may be three");
    assert_eq!(wrong(update(u32::MAX, 2, fine())), "query");
    assert_eq!(wrong(update(0, 2, None)), "to");
    assert_eq!(wrong(update(0, 2, Some(query("", &[])))), "to.question");
    assert_eq!(wrong(update(0, 2, Some(query("fine", &["a", " "])))), "to.candidates[1]");
    let mute = Terms { decoder: false, ..terms.clone() };
    let to = |to| UpdateQuery { query: 0, to: Some(to) };
    let refused = watch_update(to(query("fine", &[])), 1, &mute, engine.settings(), None);
    assert_eq!(refused.map(drop).expect_err("nobody speaks").code(), Code::FailedPrecondition);
    let silent = Terms { decode: Decode::Never, ..mute };
    let (_, silent) = watch_update(to(query("fine", &[])), 1, &silent, engine.settings(), None).expect("embeddings");
    assert!(silent.manner.is_none());
}

#[test]
fn only_points_of_the_space_are_spoken_of() {
    let engine = engine(|_| {});
    let (_, terms) = begun(&engine, start()).expect("good");
    let dimensions = terms.dimensions;
    let bytes = |value: f32| [value.to_le_bytes(); 512][..dimensions].concat();
    let good = proto::Embedding {
        data: bytes(3.0),
        dtype: proto::Dtype::F32 as i32,
        dimensions: dimensions as u32,
        space: terms.space.to_string(),
    };
    let speak = |change: &dyn Fn(&mut Speak)| {
        let mut speak = Speak { query: 1, embedding: Some(good.clone()), start_ms: 5, end_ms: 5 };
        change(&mut speak);
        watch_speak(speak, &[false, true], &terms)
    };
    let embedding =
        |change: &dyn Fn(&mut proto::Embedding)| wrong(speak(&|speak| change(speak.embedding.as_mut().expect("one"))));
    let Ok(Input::Speak { query: 1, embedding: read, range_ms: [5, 5] }) = speak(&|_| ()) else { panic!("no speech") };
    let length: f64 = read.values.iter().map(|&value| f64::from(value).powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-6, "{length}");
    assert_eq!(wrong(speak(&|speak| speak.query = 2)), "query");
    assert_eq!(wrong(speak(&|speak| speak.query = u32::MAX)), "query");
    assert_eq!(wrong(speak(&|speak| speak.query = 0)), "query", "it has no words");
    assert_eq!(wrong(speak(&|speak| speak.end_ms = 4)), "end_ms");
    assert_eq!(wrong(speak(&|speak| speak.embedding = None)), "embedding");
    for dtype in [proto::Dtype::F16 as i32, proto::Dtype::Binary as i32, 99, -1] {
        assert_eq!(embedding(&|embedding| embedding.dtype = dtype), "embedding.dtype");
    }
    assert_eq!(embedding(&|embedding| embedding.dtype = 0), "nothing");
    for promised in [0, dimensions as u32 - 1, u32::MAX] {
        assert_eq!(embedding(&|embedding| embedding.dimensions = promised), "embedding.dimensions");
    }
    for space in ["", "0000000000000000", "x", &"9".repeat(1 << 20)] {
        assert_eq!(embedding(&|embedding| embedding.space = space.into()), "embedding.space");
    }
    for data in [vec![], good.data[1..].to_vec(), [&good.data[..], &[0]].concat()] {
        assert_eq!(embedding(&|embedding| embedding.data = data.clone()), "embedding.data");
    }
    for value in [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(embedding(&|embedding| embedding.data = bytes(value)), "embedding.data", "{value}");
    }
    assert_eq!(embedding(&|embedding| embedding.data = bytes(f32::MAX)), "nothing", "long, and a direction");
}
