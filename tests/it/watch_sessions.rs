//! Live sessions over a model: what is told depends on the frames alone, costs no more than it must, and every frame is
//! accounted for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vljepa::embedding::Embedding;
use vljepa::engine::{
    Call, Class, Engine, EngineError, Full, Manner, Media, MediaFrame, ModelThread, Models, PixelOrder, Question,
    ThreadState, Trail,
};
use vljepa::input::{MediaLimits, Sampling, Windows, decode_media};
use vljepa::model::bundle::Bundle;
use vljepa::model::decoder::{DecodeOptions, TokenSampling};
use vljepa::model::vl_jepa::VlJepa;
use vljepa::segment::{Policy, Trigger as RuleTrigger};
use vljepa::settings::{Settings, WatchSettings};
use vljepa::watch::{
    Decode, DropReason, Drops, Event, Finished, Frame, Input, Query, Session, Spec, Stats, Trigger, Unsent, View,
};

use crate::model_laws::{BERT, bundle};

const VIDEO: &[u8] = include_bytes!("../../fixtures/demo/star.mp4");

fn started(set: impl FnOnce(&mut Settings)) -> (Engine, ModelThread) {
    let folder = tempfile::tempdir().expect("a folder");
    let model = VlJepa::load(&bundle(folder.path(), BERT)).expect("a model");
    let mut settings = Settings::default();
    set(&mut settings);
    Engine::start(model, settings).expect("a thread")
}

fn choose() -> Manner {
    Manner::Choose(["word1", "word2", "word3"].map(String::from).to_vec())
}

fn greedy() -> Manner {
    Manner::Speak(DecodeOptions { max_tokens: 4, sampling: TokenSampling::Greedy })
}

fn query(question: &str, manner: Option<Manner>) -> Query {
    Query { question: question.into(), manner, held: None }
}

/// Changes are seen at once and in every distance.
fn policy() -> Policy {
    Policy { threshold: 1e-6, calm: None, gap_min_ms: 0, silence_max_ms: None, ..Policy::default() }
}

fn spec(queries: Vec<Query>) -> Spec {
    let view = View { window_ms: 400, stride_ms: 100, frames: None, still: 1.0 };
    Spec { queries, view, decode: Decode::Drift(policy()), drops: Drops::Wait }
}

/// Stripes of a scene, so that scenes differ in more than brightness.
fn picture(scene: u8, pts_ms: u64) -> MediaFrame {
    let pixels = (0..256_u32).map(|at| ((at >> (scene % 5)) as u8).wrapping_mul(37 + scene)).collect();
    MediaFrame::Raw { width: 16, height: 16, order: PixelOrder::Gray, pixels, pts_ms }
}

fn frame(seq: u64, scene: u8, pts_ms: u64) -> Input {
    Input::Frame(Frame::new(seq, picture(scene, pts_ms)))
}

async fn session(engine: &Engine, spec: Spec) -> Session {
    bounded(engine, spec, &engine.settings().watch).await
}

async fn bounded(engine: &Engine, spec: Spec, bounds: &WatchSettings) -> Session {
    Session::start(engine.clone(), spec, bounds, Trail::default()).await.expect("a session")
}

/// All events to the end, each acknowledged as it is read; their numbers have no gaps.
async fn events(session: &Session) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(next) = session.next(events.len() as u64).await {
        assert_eq!(next.number, events.len() as u64 + 1);
        events.push(next.event.clone());
        session.acknowledge(next.number);
    }
    assert!(matches!(events.last(), Some(Event::Finished(_))), "the last one is the last");
    events
}

/// What happens when all this is sent, in order, with a stop behind it.
async fn told(engine: &Engine, spec: Spec, inputs: Vec<Input>) -> Vec<Event> {
    let session = session(engine, spec).await;
    let sender = session.clone();
    let sending = async move {
        for input in inputs.into_iter().chain([Input::Stop]) {
            sender.send(input).await.expect("it lives");
        }
    };
    tokio::join!(events(&session), sending).0
}

fn stats(events: &[Event]) -> Stats {
    match events.last() {
        Some(Event::Finished(Finished { stats, error: None })) => *stats,
        other => panic!("{other:?}"),
    }
}

/// Every frame that came is told once.
fn assert_accounted(stats: &Stats) {
    let Stats { frames_dropped, frames_failed, frames_still, frames_encoded, frames_skipped, .. } = *stats;
    let told = frames_dropped + frames_failed + frames_still + frames_encoded + frames_skipped;
    assert_eq!(stats.frames, told, "{stats:?}");
}

/// Events without what the clock says.
fn timeless(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::Seen(seen) => {
            format!("seen {} {:?} {} {} {:?}", seen.query, seen.span, seen.drift, seen.repeated, seen.embedding)
        }
        Event::Spoken(said) => {
            let (text, choices, trigger) = (&said.text, &said.choices, said.trigger);
            format!("said {} {:?} {} {text} {choices:?} {trigger:?}", said.query, said.segment, said.drift)
        }
        Event::Finished(Finished { stats, error }) => {
            let stats = Stats { vision_ms: 0.0, predictor_ms: 0.0, words_ms: 0.0, ..*stats };
            format!("finished {stats:?} {error:?}")
        }
        other => format!("{other:?}"),
    };
    events.iter().map(one).collect()
}

fn said(events: &[Event]) -> Vec<(usize, Trigger, [u64; 2])> {
    let spoken = events.iter().filter_map(|event| match event {
        Event::Spoken(said) => Some((said.query, said.trigger, said.segment.ms)),
        _ => None,
    });
    spoken.collect()
}

fn failed(events: &[Event]) -> Vec<(u64, String)> {
    let failed = events.iter().filter_map(|event| match event {
        Event::Failed(failed) => Some((failed.seq, failed.error.to_string())),
        _ => None,
    });
    failed.collect()
}

/// Waits until nothing is left in the engine.
async fn empty(engine: &Engine) {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let load = engine.load();
        let items = load.waiting.iter().chain(&load.admitted).map(|(_, load)| load.items + load.cost).sum::<usize>();
        if items + load.running.items + load.preparing_items == 0 && load.media_bytes == 0 {
            return;
        }
        assert!(Instant::now() < patience, "something is left: {load:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_frame_for_ever_is_encoded_once_and_decoded_once() {
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    let (engine, _thread) = Engine::start(model, Settings::default()).expect("a thread");
    let inputs = (0..60).map(|at| frame(at, 7, 50 * at)).collect();
    let events = told(&engine, spec(vec![query("what is it?", Some(greedy()))]), inputs).await;
    let stats = stats(&events);
    assert_eq!((stats.frames, stats.frames_still, stats.frames_encoded), (60, 59, 1));
    assert_eq!((stats.windows, stats.windows_repeated, stats.embeddings, stats.decodes), (29, 28, 29, 1), "{stats:?}");
    assert_eq!(said(&events), [(0, Trigger::Rule(RuleTrigger::First), [0, 400])]);
    let clip = engine.load().passed;
    let tokens = engine.model().config.vision.tokens_per_step() * 8 / engine.model().config.vision.tubelet_size;
    assert_eq!(clip.vision, tokens, "one pass over one clip");
    for (at, event) in
        events.iter().filter_map(|event| if let Event::Seen(seen) = event { Some(seen) } else { None }).enumerate()
    {
        assert_eq!((event.repeated, event.span.ms[0]), (at > 0, 100 * at as u64));
        assert!(event.drift.abs() < 1e-6 && (at == 0) == (event.timing.total > Duration::ZERO));
    }
    assert_eq!((stats.duration_ms, stats.decodes_uniform_1hz), (2950, 3));
    assert_accounted(&stats);
}

/// Frames of scenes that come and go, with everything else between.
fn mixed() -> Vec<Input> {
    let mut inputs: Vec<Input> = (0..40).map(|at| frame(at, [1, 2, 1, 4][at as usize / 10], 40 * at)).collect();
    inputs.insert(35, Input::Flush);
    inputs.insert(25, Input::Update { query: 1, to: query("word8", Some(greedy())) });
    inputs.insert(20, Input::Update { query: 2, to: query("word9 word1", Some(choose())) });
    inputs.insert(12, frame(3, 9, 1));
    inputs.insert(8, Input::Frame(Frame::new(7, MediaFrame::Encoded { bytes: vec![1, 2, 3], pts_ms: 0 })));
    inputs.insert(8, Input::Frame(Frame::new(7, MediaFrame::Encoded { bytes: vec![1, 2, 3], pts_ms: 0 })));
    inputs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_frames_come_the_same_is_told() {
    let queries = || vec![query("word5", Some(choose())), query("word6", Some(greedy()))];
    let (engine, _thread) = started(|_| {});
    let expected = told(&engine, spec(queries()), mixed()).await;
    assert!(said(&expected).len() > 8, "{:?}", said(&expected));
    let expected = timeless(&expected);
    for round in 0..6_u64 {
        let (engine, _thread) = started(|settings| {
            settings.cpu.decode_threads = 1 + round as usize % 2;
            settings.watch.frames_waiting_max = 1 + 3 * round as usize;
            settings.watch.events_kept_max = 1 + 5 * round as usize;
        });
        let session = session(&engine, spec(queries())).await;
        let sender = session.clone();
        let sending = async move {
            for (at, input) in (0..).zip(mixed().into_iter().chain([Input::Stop])) {
                match (at * 7 + round) % 4 {
                    0 => tokio::time::sleep(Duration::from_millis(round)).await,
                    1 => tokio::task::yield_now().await,
                    _ => {}
                }
                sender.send(input).await.expect("it lives");
            }
        };
        let (events, ()) = tokio::join!(events(&session), sending);
        assert_eq!(timeless(&events), expected, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_queries_cost_one_vision_pass() {
    let inputs = || (0..30).map(|at| frame(at, at as u8 / 3, 40 * at)).collect::<Vec<_>>();
    let mut passed = Vec::new();
    for questions in [&["word1"][..], &["word1", "word2 word3", "word4"]] {
        let (engine, _thread) = started(|_| {});
        let queries = questions.iter().map(|question| query(question, None)).collect();
        let events = told(&engine, spec(queries), inputs()).await;
        let stats = stats(&events);
        assert_eq!((stats.embeddings, stats.decodes), (stats.windows * questions.len() as u64, 0), "{stats:?}");
        assert!(stats.windows > 8 && stats.vision_ms > 0.0 && stats.predictor_ms > 0.0);
        assert_accounted(&stats);
        passed.push(engine.load().passed);
    }
    assert_eq!(passed[0].vision, passed[1].vision);
    assert!(passed[1].predictor > 2 * passed[0].predictor);
}

/// Embeddings that `segments` finds, by their times.
async fn cut(engine: &Engine, file: &[u8], windows: Windows) -> Vec<([u64; 2], Embedding)> {
    let asked = Question { media: Media::File(file.to_vec()), sampling: Sampling::default(), text: "word1".into() };
    let deadline = Instant::now() + Duration::from_secs(60);
    let call = Call { class: Class::Watch, full: Full::Wait, ..Call::interactive(deadline) };
    let found = engine.segments(asked, windows, None, call).await.expect("segments");
    found.into_iter().map(|segment| (segment.range_ms, segment.answer.embedded.embedding)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_clip_has_the_embeddings_of_its_segments_bit_for_bit() {
    let bundled = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    let mut settings = Settings::default();
    settings.media.segments_at_once = 1;
    let engines = [Engine::start(bundled, settings).expect("a thread"), started(|set| set.media.segments_at_once = 1)];
    let limits =
        MediaLimits { bytes_max: 1 << 24, pixels_max: 1 << 24, frames_max: 1 << 10, decode_bytes_max: 1 << 28 };
    let frames = decode_media(VIDEO, &limits).expect("frames");
    for (engine, _thread) in engines {
        for [window_ms, stride_ms] in [[400, 200], [5000, 1000], [260, 100]] {
            let expected = cut(&engine, VIDEO, Windows { window_ms, stride_ms }).await;
            let view = View { window_ms, stride_ms, frames: None, still: -1.0 };
            let spec = Spec { view, decode: Decode::Never, ..spec(vec![query("word1", Some(choose()))]) };
            let inputs = (0..).zip(&frames).map(|(seq, frame)| {
                let (width, height, pts_ms) = (frame.width, frame.height, frame.pts_ms);
                let picture =
                    MediaFrame::Raw { width, height, order: PixelOrder::Rgb, pixels: frame.rgb.clone(), pts_ms };
                Input::Frame(Frame::new(seq, picture))
            });
            let events = told(&engine, spec, inputs.collect()).await;
            let found: Vec<_> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Seen(seen) => Some((seen.span.ms, seen.embedding.clone())),
                    _ => None,
                })
                .collect();
            assert_eq!(found, expected, "{window_ms} {stride_ms}");
            assert_eq!(stats(&events).decodes, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_is_accounted_for_whatever_becomes_of_it() {
    for drops in [Drops::Wait, Drops::Oldest, Drops::LatestOnly] {
        let (engine, _thread) = started(|settings| settings.watch.frames_waiting_max = 4);
        let session = session(&engine, Spec { drops, ..spec(vec![query("word5", Some(choose()))]) }).await;
        let (mut taken, mut seq) = (0, 0);
        for at in 0..120_u64 {
            seq += 1 + at % 3;
            let input = match at % 8 {
                2 => frame(seq.saturating_sub(5), 1, 20 * at),
                5 => Input::Frame(Frame::new(seq, MediaFrame::Encoded { bytes: vec![0; 9], pts_ms: 20 * at })),
                6 => frame(seq, 3, 20),
                _ => frame(seq, (at / 9) as u8, 20 * at),
            };
            match session.try_send(input) {
                Ok(()) => taken += 1,
                Err(refused) => assert_eq!((refused, drops), (Unsent::Full, Drops::Wait)),
            }
            if at % 60 == 59 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        session.try_send(Input::Stop).expect("there is always room for it");
        assert_eq!(session.try_send(Input::Flush), Err(Unsent::Ended));
        let events = events(&session).await;
        let stats = stats(&events);
        assert_accounted(&stats);
        assert!(stats.frames > 0 && stats.frames <= taken, "{stats:?}");
        assert!(stats.frames_failed > 0 || drops != Drops::Wait, "{stats:?}");
        let dropped = events.iter().map(|event| match event {
            Event::Dropped(dropped) if dropped.reason == DropReason::Behind => dropped.frames,
            _ => 0,
        });
        assert_eq!(dropped.sum::<u64>(), stats.frames_dropped);
        assert_eq!(stats.frames_dropped == 0, drops == Drops::Wait, "{drops:?} {stats:?}");
        assert_eq!(failed(&events).len() as u64, stats.frames_failed);
        let granted = *session.granted().borrow();
        match drops {
            Drops::Wait => assert_eq!(granted, taken + 4, "all came back"),
            _ => assert_eq!(granted, taken + 4),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_acknowledge_is_not_computed_for() {
    let (engine, _thread) = started(|settings| {
        settings.watch.frames_waiting_max = 3;
        settings.watch.events_kept_max = 4;
    });
    let session = session(&engine, spec(vec![query("word5", None), query("word6", None)])).await;
    let sender = session.clone();
    let sending = tokio::spawn(async move {
        for at in 0..40 {
            sender.send(frame(at, at as u8 / 2, 100 * at)).await.expect("it lives");
        }
        sender.send(Input::Stop).await
    });
    // Read without acknowledging: it stands still at its bound.
    for read in 0..4 {
        assert_eq!(session.next(read).await.map(|event| event.number), Some(read + 1));
    }
    let patience = Duration::from_millis(300);
    let more = tokio::time::timeout(patience, session.next(5)).await;
    assert!(more.is_err() && !sending.is_finished(), "a window's events over the bound at most");
    let (granted, passed) = (*session.granted().borrow(), engine.load().passed.vision);
    tokio::time::sleep(patience).await;
    assert_eq!((*session.granted().borrow(), engine.load().passed.vision), (granted, passed), "it stands");
    assert!(granted < 40, "credits are not given back");
    let all = events(&session).await;
    assert!(all.len() > 60, "{}", all.len());
    sending.await.expect("no panic").expect("it was stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_updates_and_embeddings_become_words() {
    let (engine, _thread) = started(|_| {});
    let mean = {
        let (deadline, question) = (Instant::now() + Duration::from_secs(60), "word7".to_string());
        let asked =
            Question { media: Media::Frames(vec![picture(1, 0)]), sampling: Sampling::default(), text: question };
        engine.answer(asked, choose(), Call::interactive(deadline)).await.expect("an answer")
    };
    let long =
        Embedding { values: mean.embedded.embedding.values.iter().map(|v| v * 3.0).collect(), space: engine.space() };
    let speak = |query, embedding: &Embedding| Input::Speak { query, embedding: embedding.clone(), range_ms: [5, 9] };
    let nowhere = Embedding { values: vec![f32::NAN; long.values.len()], space: engine.space() };
    let short = Embedding { values: vec![1.0], space: engine.space() };
    let mut inputs =
        vec![Input::Flush, speak(0, &long), speak(1, &long), speak(9, &long), speak(0, &nowhere), speak(0, &short)];
    inputs.extend((0..6).map(|at| frame(at, 1, 50 * at)));
    inputs.push(Input::Flush);
    inputs.push(Input::Update { query: 0, to: query("word2", Some(choose())) });
    inputs.push(Input::Update { query: 7, to: query("word2", None) });
    inputs.push(Input::Update { query: 0, to: query("", None) });
    inputs.push(Input::Update { query: 2, to: query("word4", Some(greedy())) });
    inputs.extend((6..30).map(|at| frame(at, 1, 50 * at)));
    let events = told(&engine, spec(vec![query("word5", Some(choose())), query("word6", None)]), inputs).await;
    let said = said(&events);
    assert_eq!(
        said,
        [
            (0, Trigger::Speak, [5, 9]),
            // Two windows count: [0, 400) as the only one, and half of [100, 500).
            (0, Trigger::Rule(RuleTrigger::First), [0, 300]),
            (0, Trigger::Flush, [0, 300]),
            (0, Trigger::QueryChanged, [200, 600]),
            (2, Trigger::Rule(RuleTrigger::First), [200, 600]),
        ]
    );
    let first = events.iter().find_map(|event| if let Event::Spoken(said) = event { Some(said) } else { None });
    let first = first.expect("words");
    assert_eq!(first.text, mean.text, "of whatever length");
    for (one, other) in first.choices.iter().zip(&mean.choices) {
        assert!((one.score - other.score).abs() < 1e-5, "{one:?} {other:?}");
    }
    let failed: Vec<String> = failed(&events).into_iter().map(|(_, error)| error).collect();
    assert_eq!(failed.len(), 6, "{failed:?}");
    for (problem, error) in [
        "speak.query: is 1, which is never put into words",
        "speak.query: is 9, must be below 2, the number of queries",
        "speak.embedding: holds NaN, must be finite",
        "speak.embedding: has 1 dimensions, must have 16",
        "update_query.query: is 7, must be at most 2: there are 2 queries, at most 8 may be",
        "update_query.to.question: has no word that is read",
    ]
    .iter()
    .zip(&failed)
    {
        assert_eq!(problem, error);
    }
    assert_eq!(stats(&events).decodes, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_decodes_as_often_as_it_says_and_never_is_never() {
    let (engine, _thread) = started(|_| {});
    let inputs = || (0..80).map(|at| frame(at, at as u8 / 4, 50 * at)).collect::<Vec<_>>();
    let uniform = Spec { decode: Decode::Uniform { every_ms: 1000 }, ..spec(vec![query("word5", Some(choose()))]) };
    let events = told(&engine, uniform, inputs()).await;
    let first = (0, Trigger::Rule(RuleTrigger::First), [0, 400]);
    let strikes = [1000, 2000, 3000].map(|at| (0, Trigger::Uniform, [at + 200, at + 400]));
    assert_eq!(said(&events), [&[first][..], &strikes].concat());
    assert_eq!(stats(&events).decodes_uniform_1hz, 4);
    let never = Spec { decode: Decode::Never, ..spec(vec![query("word5", Some(choose()))]) };
    let mut inputs = inputs();
    inputs.push(Input::Flush);
    let events = told(&engine, never, inputs).await;
    assert_eq!(said(&events).iter().map(|(_, trigger, _)| *trigger).collect::<Vec<_>>(), [Trigger::Flush]);
    let drifts = events.iter().filter(|event| matches!(event, Event::Seen(seen) if seen.drift > 1e-6)).count();
    assert!(drifts > 10, "drift is measured all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_is_remembered_but_words_follow_the_meaning() {
    let (engine, _thread) = started(|_| {});
    let inputs = (0..60).map(|at| frame(at, [1, 2, 1][at as usize / 20], 50 * at)).collect();
    let spec =
        Spec { view: View { stride_ms: 200, ..spec(vec![]).view }, ..spec(vec![query("word5", Some(choose()))]) };
    let events = told(&engine, spec, inputs).await;
    let stats = stats(&events);
    // The pictures of the third scene are those of the first but for their identity: they are new.
    assert_eq!((stats.frames_encoded, stats.frames_still), (3, 57));
    assert!(stats.windows_repeated >= 6, "{stats:?}");
    let triggers: Vec<Trigger> = said(&events).into_iter().map(|(_, trigger, _)| trigger).collect();
    let drift = Trigger::Rule(RuleTrigger::Drift);
    assert_eq!(triggers.first(), Some(&Trigger::Rule(RuleTrigger::First)));
    assert!(triggers.len() >= 3 && triggers[1..].iter().all(|trigger| *trigger == drift), "{triggers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_refuses_is_told_and_the_session_lives() {
    let (engine, _thread) = started(|settings| settings.queue.cost_max = 8);
    let inputs = (0..20).map(|at| frame(at, 1, 50 * at)).collect();
    let events = told(&engine, spec(vec![query("word5", Some(choose()))]), inputs).await;
    let stats = stats(&events);
    let failed = failed(&events);
    assert!(failed.iter().all(|(_, error)| error.starts_with("request costs ")), "{failed:?}");
    assert_eq!((failed.len() as u64, stats.embeddings, stats.frames_failed), (stats.windows, 0, 0), "{stats:?}");
    assert_accounted(&stats);
    empty(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_starts_no_session() {
    let (engine, _thread) = started(|_| {});
    let refused = async |spec: Spec| {
        let started = Session::start(engine.clone(), spec, &engine.settings().watch, Trail::default()).await;
        started.err().expect("refused").to_string()
    };
    assert_eq!(refused(spec(vec![])).await, "queries: is empty, must have one at least");
    let empty_question = spec(vec![query("word1", None), query("", None)]);
    assert_eq!(refused(empty_question).await, "queries[1].question: has no word that is read");
    let candidates = Manner::Choose(vec!["word1".into(), String::new()]);
    let empty_candidate = spec(vec![query("word1", Some(candidates))]);
    assert_eq!(refused(empty_candidate).await, "queries[0].candidates[1]: has no word that is read");
    let many = Spec { view: View { frames: Some(1 << 20), ..View::default() }, ..spec(vec![query("word1", None)]) };
    assert!(refused(many).await.starts_with("window.frames: is 1048576, must be from 1 to "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_and_words_for_it_are_an_answer() {
    let candidates = choose();
    for cost_max in [1 << 15, 2] {
        // Where a batch holds nearly nothing, candidates go ahead in pieces.
        let (engine, _thread) = started(|settings| settings.queue.batch_cost_max = cost_max);
        let call = || {
            let deadline = Instant::now() + Duration::from_secs(60);
            Call { class: Class::Watch, full: Full::Wait, ..Call::interactive(deadline) }
        };
        let frames: Vec<MediaFrame> = (0..4).map(|at| picture(at as u8, 40 * at)).collect();
        let mut fitted = Vec::new();
        for frame in &frames {
            fitted.push(Arc::new(engine.fit(frame.clone(), call()).await.expect("a frame")));
        }
        let asked = engine.read("word5".into(), Some(candidates.clone()), call()).await.expect("a question");
        let looked = engine.look(fitted, vec![asked], call()).await.expect("an embedding");
        for manner in [candidates.clone(), greedy()] {
            let media = Media::Frames(frames.clone());
            let question = Question { media, sampling: Sampling::default(), text: "word5".into() };
            let answer = engine.answer(question, manner.clone(), call()).await.expect("an answer");
            assert_eq!(looked.embeddings, std::slice::from_ref(&answer.embedded.embedding));
            assert_eq!(looked.usage.visual_tokens, answer.embedded.usage.visual_tokens);
            let before = engine.load().passed;
            let words = engine.words(looked.embeddings[0].clone(), manner, call()).await.expect("words");
            assert_eq!((&words.text, &words.choices), (&answer.text, &answer.choices));
            let after = engine.load().passed;
            assert_eq!(
                (after.vision, after.predictor),
                (before.vision, before.predictor),
                "nothing is predicted again"
            );
        }
        empty(&engine).await;
        let full = Call { full: Full::Refuse, deadline: Instant::now(), ..call() };
        let late = engine.fit(frames[0].clone(), full).await.err();
        assert_eq!(late, Some(EngineError::DeadlineExceeded));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_takes_everything_along() {
    let (engine, mut thread) = started(|_| {});
    for round in 0..40_u64 {
        let session = session(&engine, spec(vec![query("word5", Some(greedy()))])).await;
        for at in 0..20 {
            let _ = session.try_send(frame(at, at as u8, 100 * at));
        }
        tokio::time::sleep(Duration::from_micros(300 * round)).await;
    }
    empty(&engine).await;
    drop(engine);
    let ended = tokio::time::timeout(Duration::from_secs(60), thread.ended()).await;
    assert_eq!(ended, Ok(ThreadState::Finished), "no session holds the engine");
}

/// The error with which a session ended.
async fn end(session: &Session) -> (Stats, Option<EngineError>) {
    let all = tokio::time::timeout(Duration::from_secs(60), events(session)).await.expect("it ends");
    match all.last() {
        Some(Event::Finished(Finished { stats, error })) => (*stats, error.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_taken_away_or_panics_ends_its_sessions() {
    let (engine, thread) = started(|settings| settings.watch.frames_waiting_max = 64);
    let models = Models::new(engine.settings().clone());
    models.add("one", engine, thread).expect("room");
    let engine = models.named("one").expect("served");
    let waiting = session(&engine, spec(vec![query("word5", None)])).await;
    let busy = session(&engine, spec(vec![query("word5", Some(greedy()))])).await;
    for at in 0..50 {
        busy.try_send(frame(at, at as u8, 100 * at)).expect("room");
    }
    drop(engine);
    let mut thread = models.remove("one").expect("served");
    let ended = tokio::time::timeout(Duration::from_secs(60), thread.ended()).await;
    assert_eq!(ended, Ok(ThreadState::Finished), "the sessions let go of it");
    assert_eq!(end(&waiting).await.1, Some(EngineError::Stopped));
    let (stats, error) = end(&busy).await;
    assert_eq!((error, stats.frames), (Some(EngineError::Stopped), 50));
    assert!(stats.frames_dropped > 0, "{stats:?}");
    assert_accounted(&stats);
    assert_eq!(busy.try_send(Input::Flush), Err(Unsent::Ended));

    let (engine, _thread) = started(|_| {});
    let session = session(&engine, spec(vec![query("word5", None)])).await;
    engine.panic_model_thread();
    for at in 0..20 {
        if session.send(frame(at, 1, 100 * at)).await.is_err() {
            break;
        }
    }
    let (stats, error) = end(&session).await;
    assert_eq!(error, Some(EngineError::Stopped));
    assert_accounted(&stats);
    drop(Arc::new(session));
}
