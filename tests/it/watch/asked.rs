//! What sessions are asked and what they tell: queries, changes, flushes, words for what a client brings, frames that are
//! wrong, twice there or too many.

use tonic::Code;
use vljepa::engine::{Engine, Models};
use vljepa::model::bundle::Bundle;
use vljepa::model::vl_jepa::VlJepa;
use vljepa::service::proto::watch_request::Message as Asked;
use vljepa::service::proto::watch_response::Message as Told;
use vljepa::service::proto::{
    DecodeEvent, DecodeMode, DecodePolicy, DecodeTrigger, DropPolicy, DropReason, EmbeddingEvent, Frame, FrameFormat,
    Speak, UpdateQuery, WatchFrame, WatchResponse, WatchStart, WatchStats,
};
use vljepa::settings::Settings;

use super::{Heard, begin, frame, frames, query, uniform};
use crate::service::{STILL, fields, serve_models, start};

const SHAPES: &[u8] = include_bytes!("../../../fixtures/demo/shapes.png");

fn decodes(told: &[WatchResponse]) -> Vec<&DecodeEvent> {
    let decode = |one| match one {
        &WatchResponse { message: Some(Told::Decode(ref event)), .. } => Some(event),
        _ => None,
    };
    told.iter().filter_map(decode).collect()
}

fn embeddings_of(told: &[WatchResponse]) -> Vec<&EmbeddingEvent> {
    let embedding = |one| match one {
        &WatchResponse { message: Some(Told::Embedding(ref event)), .. } => Some(event),
        _ => None,
    };
    told.iter().filter_map(embedding).collect()
}

/// Every frame that came is told once.
fn adds_up(stats: &WatchStats) {
    let told =
        stats.frames_dropped + stats.frames_failed + stats.frames_still + stats.frames_encoded + stats.frames_skipped;
    assert_eq!(told, stats.frames, "{stats:?}");
}

fn never() -> WatchStart {
    let decode = DecodePolicy { mode: DecodeMode::Never as i32, ..Default::default() };
    WatchStart { decode: Some(decode), ..uniform() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundled_model_says_what_it_sees_when_it_changes() {
    let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
    let models = Models::new(Settings::default());
    let (engine, thread) = Engine::start(model, Settings::default()).expect("a thread");
    models.add("small", engine, thread).expect("the first");
    let server = serve_models(models, None).await;
    let asked = WatchStart {
        queries: vec![
            query("which colour does the small square have?", &["red", "green", "blue", "white"]),
            query("name the shape of the orange object.", &["circle", "triangle", "star", "heart"]),
        ],
        ..Default::default()
    };
    // Two pictures, each for four seconds.
    let shown = |seq: u64| Frame {
        data: if seq <= 20 { STILL.to_vec() } else { SHAPES.to_vec() },
        pts_ms: (seq - 1) * 200,
        ..Default::default()
    };
    let all: Vec<_> = (1..=40).map(|seq| WatchFrame { seq, frame: Some(shown(seq)) }).collect();
    let heard = begin(&server.channel, asked).await.whole(&all).await;
    heard.status.as_ref().expect("a good end");
    let said = |query: u32| {
        let of = decodes(&heard.told).into_iter().filter(move |event| event.query == query);
        of.map(|event| (event.trigger(), event.text.clone())).collect::<Vec<_>>()
    };
    let (colour, shape) = (said(0), said(1));
    assert_eq!(colour[0], (DecodeTrigger::First, "blue".to_string()), "{colour:?}");
    assert!(matches!(&shape[..], [(DecodeTrigger::First, _), (DecodeTrigger::Drift, _), ..]), "{shape:?}");
    assert_eq!(shape.last().expect("some").1, "triangle", "{shape:?}");
    let stats = heard.stats();
    adds_up(&stats);
    assert_eq!((stats.frames, stats.frames_still), (40, 38), "{stats:?}");
    assert!(stats.windows_repeated > 4 && stats.decodes < stats.decodes_uniform_1hz, "{stats:?}");
    for event in decodes(&heard.told) {
        let sum: f32 = event.choices.iter().map(|choice| choice.score).sum();
        assert!(event.choices.len() == 4 && (sum - 1.0).abs() < 1e-3, "{event:?}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_numbered_and_the_statistics_are_what_was_told() {
    let server = start(|_| {}).await;
    let asked = WatchStart {
        queries: vec![query("word1", &["word3", "word4"]), query("word2", &[])],
        want_embeddings: true,
        ..uniform()
    };
    let client = begin(&server.channel, asked).await;
    assert_eq!((&*client.started.model, client.started.seq, client.credits), ("tiny", None, 32));
    let space = client.started.space.clone();
    let heard = client.whole(&frames(40)).await;
    heard.status.as_ref().expect("a good end");
    let numbers: Vec<u64> = heard.told.iter().map(|one| one.event).collect();
    assert_eq!(numbers, (1..=heard.told.len() as u64).collect::<Vec<_>>());
    let (embeddings, decodes, stats) = (embeddings_of(&heard.told), decodes(&heard.told), heard.stats());
    adds_up(&stats);
    assert_eq!((stats.frames, stats.frames_failed, stats.duration_ms), (40, 0, 3900));
    assert_eq!((stats.embeddings, stats.decodes), (embeddings.len() as u64, decodes.len() as u64));
    assert_eq!(stats.embeddings, 2 * stats.windows);
    for event in &embeddings {
        let embedding = event.embedding.as_ref().expect("it was wanted");
        assert_eq!((embedding.dimensions, &embedding.space), (16, &space));
        let span = event.span.expect("a span");
        assert!(span.first_seq <= span.last_seq && span.start_ms < span.end_ms, "{span:?}");
    }
    assert!(decodes.iter().any(|event| event.query == 0 && event.choices.len() == 2));
    assert!(decodes.iter().any(|event| event.query == 1 && event.choices.is_empty()));
    let quiet = begin(&server.channel, uniform()).await.whole(&frames(10)).await;
    assert!(embeddings_of(&quiet.told).iter().all(|event| event.embedding.is_none()), "not wanted");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_change_in_the_midst_and_one_more_may_come() {
    let server = start(|settings| settings.watch.queries_max = 2).await;
    let mut client = begin(&server.channel, uniform()).await;
    let mut told = Vec::new();
    client.feed(&frames(20), &mut told).await.expect("it goes on");
    for (at, answer) in [(0, "word7"), (1, "word8")] {
        let to = Some(query("word9", &[answer]));
        client.send(Asked::UpdateQuery(UpdateQuery { query: at, to })).await;
    }
    client.feed(&frames(40)[20..], &mut told).await.expect("it goes on");
    let spoken = |one: &WatchResponse| decodes(std::slice::from_ref(one)).iter().any(|event| event.query == 1);
    while !told.last().is_some_and(spoken) {
        told.push(client.next().await.expect("no error").expect("no end"));
    }
    // A third may not be.
    let to = Some(query("word9", &[]));
    client.send(Asked::UpdateQuery(UpdateQuery { query: 2, to })).await;
    let Heard { told: rest, status } = client.finish().await;
    let status = status.expect_err("too many queries");
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["update_query.query".to_string()]));
    told.extend(rest);
    let decodes = decodes(&told);
    let changed: Vec<_> = decodes.iter().filter(|event| event.trigger() == DecodeTrigger::QueryChanged).collect();
    assert!(matches!(&changed[..], [one] if one.query == 0 && one.text == "word7"), "{changed:?}");
    let after = decodes.iter().position(|event| event.query == 1).expect("the new one speaks");
    assert_eq!((decodes[after].trigger(), &*decodes[after].text), (DecodeTrigger::First, "word8"));
    assert!(decodes[after..].iter().all(|event| ["word7", "word8"].contains(&&*event.text)), "{decodes:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_looks_at_what_there_is_and_a_speech_puts_it_into_words() {
    let server = start(|_| {}).await;
    let asked = WatchStart { want_embeddings: true, queries: vec![query("word1", &["word3", "word4"])], ..never() };
    let mut client = begin(&server.channel, asked).await;
    // Less than a window.
    for frame in frames(3) {
        client.send(Asked::Frame(frame)).await;
    }
    client.send(Asked::Flush(Default::default())).await;
    let mut seen = None;
    let flushed = client
        .until(|one| match &one.message {
            Some(Told::Embedding(event)) => {
                seen = event.embedding.clone();
                None
            }
            Some(Told::Decode(event)) => Some(event.clone()),
            _ => None,
        })
        .await;
    assert_eq!((flushed.trigger(), flushed.choices.len()), (DecodeTrigger::Flush, 2));
    let speak = |query| Speak { query, embedding: seen.clone(), start_ms: 5, end_ms: 7 };
    assert!(seen.is_some(), "an embedding is told before its words");
    client.send(Asked::Speak(speak(0))).await;
    let spoken = client.until(|one| decodes(std::slice::from_ref(one)).first().map(|event| (*event).clone())).await;
    assert_eq!((spoken.trigger(), &spoken.text), (DecodeTrigger::Speak, &flushed.text));
    let segment = spoken.segment.expect("a segment");
    assert_eq!((segment.start_ms, segment.end_ms), (5, 7));
    client.send(Asked::Speak(speak(1))).await;
    let status = client.finish().await.status.expect_err("there is one query");
    assert_eq!(fields(&status), ["speak.query"], "{status}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_wrong_or_twice_there_harm_nobody() {
    let server = start(|_| {}).await;
    let with = |seq, change: &dyn Fn(&mut Frame)| {
        let mut frame = frame(seq, seq.saturating_mul(100), seq % 1000);
        change(frame.frame.as_mut().expect("a picture"));
        frame
    };
    let all = [
        with(1, &|_| ()),
        with(2, &|frame| frame.format = FrameFormat::Encoded as i32),
        with(3, &|frame| frame.data.truncate(255)),
        with(4, &|frame| frame.format = 77),
        with(5, &|frame| frame.width = u32::MAX),
        WatchFrame { seq: 6, frame: None },
        with(7, &|frame| frame.pts_ms = 99),
        with(8, &|_| ()),
        // Duplicates, whatever they show.
        with(8, &|frame| frame.data.clear()),
        with(3, &|_| ()),
        with(0, &|_| ()),
        with(u64::MAX, &|frame| frame.pts_ms = u64::MAX),
        with(u64::MAX, &|frame| frame.pts_ms = u64::MAX),
    ];
    let heard = begin(&server.channel, uniform()).await.whole(&all).await;
    heard.status.as_ref().expect("a good end");
    let failed: Vec<(u64, i32)> = heard
        .told
        .iter()
        .filter_map(|one| match &one.message {
            Some(Told::FrameError(error)) => Some((error.seq, error.error.as_ref().expect("why").code)),
            _ => None,
        })
        .collect();
    assert_eq!(failed, (2..=7).map(|seq| (seq, Code::InvalidArgument as i32)).collect::<Vec<_>>());
    let stats = heard.stats();
    adds_up(&stats);
    assert_eq!((stats.frames, stats.frames_failed), (9, 6), "{stats:?}");
    assert!(stats.windows < 10, "a gap of half of all time has no windows: {stats:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_frames_may_be_dropped_every_one_is_accounted_for() {
    // No room for more than two, and a model that is asked eight questions.
    let server = start(|settings| settings.watch.frames_waiting_max = 2).await;
    for drop in [DropPolicy::Wait, DropPolicy::Oldest, DropPolicy::LatestOnly] {
        let queries = (0..8).map(|at| query(&format!("word{at}"), &[])).collect();
        let asked = WatchStart { drop: drop as i32, queries, ..uniform() };
        let client = begin(&server.channel, asked).await;
        assert_eq!(client.credits, 2);
        let heard = client.whole(&frames(300)).await;
        heard.status.as_ref().expect("a good end");
        let stats = heard.stats();
        adds_up(&stats);
        let noticed: u64 = heard
            .told
            .iter()
            .filter_map(|one| match &one.message {
                Some(Told::Drop(notice)) => {
                    let span = notice.span.expect("a span");
                    assert!(
                        notice.reason() == DropReason::Behind && span.first_seq + notice.frames <= span.last_seq + 1
                    );
                    Some(notice.frames)
                }
                _ => None,
            })
            .sum();
        assert_eq!((stats.frames, stats.frames_dropped), (300, noticed), "{drop:?}");
        assert_eq!(noticed == 0, drop == DropPolicy::Wait, "{drop:?}: {noticed}");
    }
    server.end().await;
}
