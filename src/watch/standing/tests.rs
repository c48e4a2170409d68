//! When one query's windows become words, in tables.

use super::*;
use crate::embedding::Space;

fn point(angle: f32) -> Embedding {
    Embedding { values: vec![angle.cos(), angle.sin()], space: Space::from_bytes([7; 8]) }
}

/// The window of 400 ms that begins at `start`; a frame every 10 ms.
fn span(start: u64) -> Span {
    Span { seq: [start / 10, start / 10 + 40], ms: [start, start + 400] }
}

fn drift() -> Decode {
    Decode::Drift(Policy { threshold: 0.3, calm: None, smoothing: 0.0, ..Policy::default() })
}

/// What is decided about windows every `stride` of these angles.
fn decided(standing: &mut Standing, stride: u64, angles: &[f32]) -> Vec<Option<Trigger>> {
    let each = (0..).zip(angles).map(|(at, &angle)| standing.sees(span(stride * at), point(angle)).trigger);
    each.collect()
}

const FIRST: Option<Trigger> = Some(Trigger::Rule(segment::Trigger::First));
const DRIFT: Option<Trigger> = Some(Trigger::Rule(segment::Trigger::Drift));

#[test]
fn words_come_with_the_first_window_and_with_every_change() {
    let mut standing = Standing::new(drift(), true, false);
    assert!(standing.latest().is_none() && standing.flushed().is_none());
    let found = decided(&mut standing, 100, &[0.0, 0.1, 2.0, 2.1, 2.0]);
    assert_eq!(found, [FIRST, None, DRIFT, None, None]);
    let latest = standing.latest().expect("a window");
    assert_eq!(latest.segment, Span { seq: [20, 80], ms: [400, 800] }, "since the change");
    assert_eq!(latest.embedding, point(2.0));

    let mut changed = Standing::new(drift(), true, true);
    assert_eq!(decided(&mut changed, 100, &[0.0, 0.0]), [Some(Trigger::QueryChanged), None]);
    let mut silent = Standing::new(drift(), false, false);
    assert_eq!(decided(&mut silent, 100, &[0.0, 2.0]), [None, None], "it never becomes words");
    assert!(silent.flushed().is_none() && silent.latest().is_some_and(|latest| latest.drift > 0.3));
}

#[test]
fn the_clock_strikes_on_full_times_and_never_catches_up() {
    let strikes = |every_ms, stride, windows| {
        let mut standing = Standing::new(Decode::Uniform { every_ms }, true, false);
        let found = decided(&mut standing, stride, &vec![0.0; windows]);
        let struck = (0..).zip(found).filter(|(_, trigger)| *trigger == Some(Trigger::Uniform));
        struck.map(|(at, _): (u64, _)| at * stride).collect::<Vec<_>>()
    };
    assert_eq!(strikes(1000, 100, 40), [1000, 2000, 3000]);
    assert_eq!(strikes(250, 100, 11), [300, 500, 800, 1000]);
    assert_eq!(strikes(100, 1000, 4), [1000, 2000, 3000], "once a window");
    assert_eq!(strikes(0, 100, 3), [100, 200]);
    let mut standing = Standing::new(Decode::Uniform { every_ms: u64::MAX }, true, true);
    assert_eq!(decided(&mut standing, 1 << 62, &[0.0; 3]), [Some(Trigger::QueryChanged), None, None]);
    let latest = standing.latest().expect("a window").segment;
    assert_eq!(latest.ms[0], (2 << 62) + 200, "about its own window");
}

#[test]
fn never_only_measures() {
    let mut standing = Standing::new(Decode::Never, true, false);
    let found: Vec<Decided> =
        [0.0, 3.0, 0.0].iter().zip(0..).map(|(&angle, at)| standing.sees(span(at), point(angle))).collect();
    assert!(found.iter().all(|decided| decided.trigger.is_none() && decided.held.is_none()));
    assert!(found[1].drift > 1.9 && standing.flushed().is_some(), "{found:?}");
}

#[test]
fn a_flush_is_a_new_reference_and_what_was_owed_is_paid_once() {
    let mut standing = Standing::new(drift(), true, false);
    decided(&mut standing, 100, &[0.0, 0.6]);
    assert!(standing.flushed().is_some());
    assert!(standing.sees(span(200), point(0.6)).drift < 1e-6, "compared with what was flushed");
    standing.owes(Trigger::Uniform);
    assert_eq!(standing.sees(span(300), point(0.6)).trigger, Some(Trigger::Uniform));
    assert_eq!(standing.sees(span(400), point(0.6)).trigger, None);
    standing.owes(Trigger::Uniform);
    assert_eq!(standing.sees(span(500), point(3.0)).trigger, DRIFT, "both in one");
    assert_eq!(standing.sees(span(600), point(3.0)).trigger, None);
    standing.owes(Trigger::Uniform);
    assert!(standing.flushed().is_some());
    assert_eq!(standing.sees(span(700), point(3.0)).trigger, None, "the flush has paid it");
}

#[test]
fn a_segment_that_goes_on_keeps_its_beginning_and_memory_is_bounded() {
    let mut standing = Standing::new(drift(), true, false);
    decided(&mut standing, 100, &vec![0.0; 3 * MIDDLES_MAX]);
    let latest = standing.latest().expect("a window").segment;
    assert_eq!((latest.seq[0], latest.ms[0]), (0, 0));
    assert_eq!(standing.middles.len(), MIDDLES_MAX);
}
