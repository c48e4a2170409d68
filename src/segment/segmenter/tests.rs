use proptest::prelude::*;

use super::*;

/// Every change at once: what the plain gate does.
const PLAIN: Policy = Policy {
    reference: Reference::Segment,
    threshold: 0.5,
    calm: None,
    unsettled_max_ms: 3_000,
    smoothing: 0.0,
    gap_min_ms: 0,
    silence_max_ms: None,
    per_minute_max: None,
};

/// Unit vectors at these angles, degrees.
fn turned(angles: &[f32]) -> Vec<Vec<f32>> {
    angles.iter().map(|angle| angle.to_radians()).map(|a| vec![a.cos(), a.sin()]).collect()
}

/// One a second.
fn decisions(policy: Policy, stream: &[Vec<f32>]) -> Vec<Decision> {
    let mut segmenter = Segmenter::new(policy);
    (0u64..).zip(stream).map(|(t, embedding)| segmenter.push(1000 * t, embedding)).collect()
}

/// Which seconds have words, and why.
fn words(policy: Policy, stream: &[Vec<f32>]) -> Vec<(usize, Trigger)> {
    let decisions = decisions(policy, stream);
    decisions.iter().enumerate().filter_map(|(t, decision)| Some((t, decision.trigger?))).collect()
}

fn times(policy: Policy, stream: &[Vec<f32>]) -> Vec<usize> {
    words(policy, stream).into_iter().map(|(t, _)| t).collect()
}

/// A stream with steps at 3 and 5.
fn steps() -> Vec<Vec<f32>> {
    [[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]].map(Vec::from).to_vec()
}

const REFERENCES: [Reference; 3] = [Reference::Last, Reference::Mean, Reference::Segment];

#[test]
fn words_come_on_drift_and_keep_the_gap() {
    for reference in REFERENCES {
        let policy = Policy { reference, ..PLAIN };
        assert_eq!(words(policy, &steps()), [(0, Trigger::First), (3, Trigger::Drift), (5, Trigger::Drift)]);
        assert_eq!(times(Policy { gap_min_ms: 4000, ..policy }, &steps()), [0, 4], "{reference:?}");
        assert_eq!(times(Policy { threshold: 2.0, ..policy }, &steps()), [0]);
    }
    let held = decisions(Policy { gap_min_ms: 4000, ..PLAIN }, &steps())[3];
    assert_eq!((held.trigger, held.held), (None, Some(Held::Gap)));
}

#[test]
fn a_mean_reference_follows_a_slow_turn_that_a_fixed_one_does_not() {
    let turn = turned(&(0..40).map(|t| 3.0 * t as f32).collect::<Vec<_>>());
    let of = |reference| times(Policy { reference, threshold: 0.2, ..PLAIN }, &turn);
    let (last, mean) = (of(Reference::Last), of(Reference::Mean));
    assert!(last.len() > mean.len() && mean.len() > 1, "{last:?} {mean:?}");
    assert_eq!(mean, of(Reference::Segment), "nothing is held");
}

#[test]
fn waiting_wears_a_change_away_only_where_what_waits_joins_the_mean() {
    let stream = turned(&[0.0, 0.0, 90.0, 90.0, 90.0, 90.0, 90.0, 90.0, 90.0]);
    let of = |reference| times(Policy { reference, gap_min_ms: 8000, ..PLAIN }, &stream);
    assert_eq!((of(Reference::Mean), of(Reference::Segment)), (vec![0], vec![0, 8]));
}

#[test]
fn words_wait_until_the_stream_is_calm() {
    let calm = Policy { calm: Some(0.01), ..PLAIN };
    let stream = turned(&[0.0, 0.0, 70.0, 100.0, 130.0, 130.0, 130.0]);
    assert_eq!(times(PLAIN, &stream), [0, 2]);
    assert_eq!(times(calm, &stream), [0, 5]);
    let made = decisions(calm, &stream);
    assert_eq!(made[4].held, Some(Held::Unsettled));
    assert_eq!(made.iter().map(|d| d.segment_start_ms).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 2000, 2000]);
    assert!(made[6].drift < 1e-9, "the calm embedding is the new reference");
}

#[test]
fn a_change_that_goes_back_before_it_is_calm_was_none() {
    let calm = Policy { calm: Some(0.01), ..PLAIN };
    let stream = turned(&[0.0, 0.0, 90.0, 20.0, 0.0, 0.0, 90.0, 90.0]);
    let made = decisions(calm, &stream);
    assert_eq!(times(calm, &stream), [0, 7]);
    assert_eq!(made[7].segment_start_ms, 6000, "the first change was none");
    assert!(made[4].drift < 0.01, "what was far did not join the segment: {}", made[4].drift);
}

#[test]
fn a_stream_that_never_calms_has_words_all_the_same() {
    let wild = turned(&(0..12).map(|t| 60.0 * t as f32).collect::<Vec<_>>());
    let calm = Policy { calm: Some(0.01), threshold: 0.3, ..PLAIN };
    assert_eq!(times(Policy { unsettled_max_ms: 2000, ..calm }, &wild)[..3], [0, 3, 6]);
    let silent = Policy { unsettled_max_ms: 86_400_000, silence_max_ms: Some(4000), ..calm };
    let made = words(silent, &wild);
    assert_eq!(made[..3], [(0, Trigger::First), (4, Trigger::MaxSilence), (8, Trigger::MaxSilence)]);
}

#[test]
fn silence_ends_without_beginning_a_segment() {
    for reference in REFERENCES {
        let policy = Policy { reference, silence_max_ms: Some(3000), ..PLAIN };
        let made = decisions(policy, &turned(&[10.0; 8]));
        let said: Vec<_> = made.iter().map(|d| d.trigger).collect();
        let silence = Some(Trigger::MaxSilence);
        assert_eq!(said, [Some(Trigger::First), None, None, silence, None, None, silence, None], "{reference:?}");
        assert!(made.iter().all(|d| d.segment_start_ms == 0 && d.held.is_none()), "{made:?}");
    }
}

#[test]
fn the_budget_holds_in_every_minute_and_then_is_there_again() {
    let flicker = turned(&(0..140).map(|t| if t % 2 == 0 { 0.0 } else { 90.0 }).collect::<Vec<_>>());
    let policy = Policy { per_minute_max: Some(3), ..PLAIN };
    assert_eq!(times(policy, &flicker), [0, 1, 2, 61, 62, 63, 122, 123, 124], "121 is as 63");
    let held = decisions(policy, &flicker)[3];
    assert_eq!((held.trigger, held.held), (None, Some(Held::Budget)));
}

#[test]
fn gap_silence_and_minute_end_to_the_millisecond() {
    let stream = turned(&[0.0, 90.0]);
    let at = |policy: Policy, ms: u64, embedding: usize| {
        let mut segmenter = Segmenter::new(policy);
        segmenter.push(0, &stream[0]);
        segmenter.push(ms, &stream[embedding])
    };
    let gap = Policy { gap_min_ms: 700, ..PLAIN };
    assert_eq!((at(gap, 699, 1).held, at(gap, 700, 1).trigger), (Some(Held::Gap), Some(Trigger::Drift)));
    let minute = Policy { per_minute_max: Some(1), ..PLAIN };
    assert_eq!((at(minute, 59_999, 1).held, at(minute, 60_000, 1).held), (Some(Held::Budget), None));
    let silence = Policy { silence_max_ms: Some(700), ..PLAIN };
    assert_eq!((at(silence, 699, 0).trigger, at(silence, 700, 0).trigger), (None, Some(Trigger::MaxSilence)));
}

#[test]
fn smoothing_hides_one_odd_embedding() {
    let angles = [&[0.0; 10][..], &[80.0], &[0.0; 3], &[90.0; 6]].concat();
    assert_eq!(times(PLAIN, &turned(&angles)), [0, 10, 11, 14]);
    let smooth = Policy { smoothing: 0.6, ..PLAIN };
    assert_eq!(times(smooth, &turned(&angles)), [0, 16], "and what stays comes later");
}

#[test]
fn what_was_spoken_for_another_reason_counts() {
    let policy = Policy { gap_min_ms: 2000, per_minute_max: Some(2), ..PLAIN };
    let stream = turned(&[0.0, 90.0, 180.0]);
    let mut segmenter = Segmenter::new(policy);
    segmenter.push(0, &stream[0]);
    segmenter.spoken(3000, &stream[1]);
    let near = segmenter.push(4000, &stream[1]);
    assert_eq!((near.drift < 1e-9, near.trigger, near.segment_start_ms), (true, None, 3000), "it is the reference");
    assert_eq!(segmenter.push(4500, &stream[2]).held, Some(Held::Gap));
    assert_eq!(segmenter.push(9000, &stream[2]).held, Some(Held::Budget));
    assert_eq!(segmenter.push(60_000, &stream[2]).trigger, Some(Trigger::Drift));
    let mut fresh = Segmenter::new(policy);
    fresh.spoken(0, &stream[0]);
    assert_eq!(fresh.push(500, &stream[0]).trigger, None, "there have been words");
}

#[test]
fn a_time_that_falls_counts_as_the_latest() {
    let policy = Policy { gap_min_ms: 1000, per_minute_max: Some(5), silence_max_ms: Some(60_000), ..PLAIN };
    let stream = turned(&[0.0, 90.0]);
    let mut segmenter = Segmenter::new(policy);
    segmenter.push(5000, &stream[0]);
    let back = segmenter.push(0, &stream[1]);
    assert_eq!((back.held, back.segment_start_ms), (Some(Held::Gap), 5000));
    segmenter.spoken(10, &stream[0]);
    assert_eq!(segmenter.push(u64::MAX, &stream[1]).trigger, Some(Trigger::Drift));
}

#[test]
fn an_embedding_without_direction_is_far_from_everything_and_does_no_harm() {
    let mut segmenter = Segmenter::new(PLAIN);
    segmenter.push(0, &[1.0, 0.0]);
    let zero = segmenter.push(1, &[0.0, 0.0]);
    assert_eq!((zero.drift, zero.trigger), (1.0, Some(Trigger::Drift)));
    assert_eq!(segmenter.push(2, &[1.0, 0.0]).trigger, Some(Trigger::Drift));
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let made = segmenter.push(3, &[odd, 0.0]);
        assert_eq!((made.drift, made.trigger, made.held), (0.0, None, None), "{odd}");
        segmenter.spoken(3, &[odd, 0.0]);
    }
    assert_eq!(segmenter.push(4, &[1.0, 0.0]).drift, 0.0, "and nothing stays of it");
    let mut odd_first = Segmenter::new(PLAIN);
    assert_eq!(odd_first.push(0, &[f32::NAN]).trigger, None);
    odd_first.spoken(1, &[f32::NAN]);
    assert_eq!(odd_first.push(2, &[1.0]).trigger, Some(Trigger::First));
}

fn policies() -> impl Strategy<Value = Policy> {
    let some = |range: std::ops::Range<u64>| prop::option::of(range);
    let distances = (0.0..1.2f64, prop::option::of(0.01..0.5f64), 0.0..0.95f64);
    let times = (0..6_000u64, 0..3_000u64, some(3_000..9_000), prop::option::of(1..9u32));
    (0..3usize, distances, times).prop_map(|(reference, distances, times)| {
        let (threshold, calm, smoothing) = distances;
        let (unsettled_max_ms, gap_min_ms, silence_max_ms, per_minute_max) = times;
        let reference = REFERENCES[reference];
        Policy { reference, threshold, calm, unsettled_max_ms, smoothing, gap_min_ms, silence_max_ms, per_minute_max }
    })
}

/// Times and embeddings; some are odd, and time stands still now and then.
fn streams() -> impl Strategy<Value = Vec<(u64, Vec<f32>)>> {
    let value = prop_oneof![8 => -1.0..1.0f32, 1 => Just(0.0), 1 => Just(f32::NAN)];
    let embedding = prop_oneof![2 => prop::collection::vec(value, 3), 3 => Just(vec![1.0, 0.5, 0.0])];
    prop::collection::vec((0..4_000u64, embedding), 0..120).prop_map(|stream| {
        let mut now = 0;
        let at = |(later, embedding): (u64, Vec<f32>)| {
            now += later;
            (now, embedding)
        };
        stream.into_iter().map(at).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_bounds_of_time_hold_on_any_stream(policy in policies(), stream in streams()) {
        prop_assert_eq!(policy.check(), Ok(()));
        let mut segmenter = Segmenter::new(policy);
        let mut said: Vec<u64> = Vec::new();
        for (at, embedding) in &stream {
            let made = segmenter.push(*at, embedding);
            prop_assert!((0.0..=2.0).contains(&made.drift));
            prop_assert!(made.trigger.is_none() || made.held.is_none());
            prop_assert!(made.segment_start_ms <= *at);
            prop_assert!(segmenter.recent_ms.len() <= policy.per_minute_max.unwrap_or(0) as usize);
            if made.trigger.is_some() {
                prop_assert!(said.last().is_none_or(|last| at - last >= policy.gap_min_ms));
                said.push(*at);
            }
            let minute = said.iter().filter(|&&t| at - t < 60_000).count();
            let most = policy.per_minute_max.map_or(usize::MAX, |most| most as usize);
            prop_assert!(minute <= most, "{} in a minute", minute);
            let odd = embedding.iter().any(|value| !value.is_finite());
            if let (Some(last), Some(silence)) = (said.last(), policy.silence_max_ms)
                && !odd && minute < most {
                prop_assert!(at - last < silence, "silent for {} ms", at - last);
            }
        }
    }

    #[test]
    fn what_comes_later_changes_nothing(policy in policies(), stream in streams(), cut in 0..120usize) {
        let mut whole = Segmenter::new(policy);
        let all: Vec<Decision> = stream.iter().map(|(at, e)| whole.push(*at, e)).collect();
        let (head, tail) = stream.split_at(cut.min(stream.len()));
        let mut part = Segmenter::new(policy);
        let mut found: Vec<Decision> = head.iter().map(|(at, e)| part.push(*at, e)).collect();
        let mut taken_up = part.clone();
        found.extend(tail.iter().map(|(at, e)| taken_up.push(*at, e)));
        prop_assert_eq!(found, all);
    }

    #[test]
    fn one_embedding_for_ever_is_put_into_words_once(
        policy in policies(),
        embedding in prop::collection::vec(-1.0..1.0f32, 4).prop_filter("direction", |e| e.iter().any(|v| v.abs() > 1e-3)),
        steps in prop::collection::vec(0..4_000u64, 1..80),
    ) {
        let policy = Policy { threshold: policy.threshold.max(1e-9), ..policy };
        let mut segmenter = Segmenter::new(policy);
        let mut now = 0;
        for (count, step) in steps.iter().enumerate() {
            now += step;
            let trigger = segmenter.push(now, &embedding).trigger;
            let allowed = match trigger {
                Some(Trigger::First) => count == 0,
                Some(Trigger::Drift) => false,
                Some(Trigger::MaxSilence) => policy.silence_max_ms.is_some(),
                None => count > 0,
            };
            prop_assert!(allowed, "{trigger:?} at {count}");
        }
    }
}
