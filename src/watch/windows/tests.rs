//! Windows in tables, and the law that a stream is cut as a recording is.

use super::*;
use proptest::prelude::*;

const ALL: Choice = Choice { frames: None, frames_max: 64, kept_max: 1024 };

fn windows(window_ms: u64, stride_ms: u64, choice: Choice) -> Windows<u64> {
    Windows::new(input::Windows { window_ms, stride_ms }, choice)
}

/// The ranges of what comes when frames of these times come and the stream ends.
fn cut(window_ms: u64, stride_ms: u64, times: &[u64]) -> Vec<[u64; 2]> {
    let mut windows = windows(window_ms, stride_ms, ALL);
    let (complete, rest) = fed(&mut windows, times);
    complete.into_iter().chain(rest).map(|window| window.span.ms).collect()
}

type Given = Vec<Window<u64>>;

fn fed(windows: &mut Windows<u64>, times: &[u64]) -> (Given, Given) {
    let mut complete = Vec::new();
    for (seq, &ms) in (100..).zip(times) {
        windows.push(seq, ms, ms);
        complete.extend(std::iter::from_fn(|| windows.complete()));
    }
    (complete, std::iter::from_fn(|| windows.rest()).collect())
}

#[test]
fn a_window_is_complete_when_a_frame_at_its_end_has_come() {
    let mut windows = windows(500, 250, ALL);
    let mut given: Vec<Vec<(Span, Vec<u64>)>> = Vec::new();
    for (seq, ms) in (0..).zip([1000, 1200, 1499, 1500, 1900]) {
        windows.push(seq, ms, ms);
        given.push(std::iter::from_fn(|| windows.complete()).map(|window| (window.span, window.pictures)).collect());
    }
    let first = (Span { seq: [0, 2], ms: [1000, 1500] }, vec![1000, 1200, 1499]);
    let second = (Span { seq: [2, 3], ms: [1250, 1750] }, vec![1499, 1500]);
    assert_eq!(given, [vec![], vec![], vec![], vec![first], vec![second]]);
    assert_eq!(windows.duration_ms(), 900);
    // Shown until 2300, of [1500, 2000) all and of [2000, 2500) nothing.
    let rest = windows.rest().expect("whole");
    assert_eq!((rest.span, rest.pictures), (Span { seq: [3, 4], ms: [1500, 2000] }, vec![1500, 1900]));
    assert_eq!(windows.rest().map(|window| window.span.ms), Some([1750, 2250]));
    assert!(windows.rest().is_none(), "no frame begins in what follows");
}

#[test]
fn the_end_counts_half_windows_and_the_only_one() {
    let ten: Vec<u64> = (0..10).map(|at| 7_000 + 100 * at).collect();
    let from = |ranges: &[[u64; 2]]| ranges.iter().map(|range| range.map(|ms| ms + 7_000)).collect::<Vec<_>>();
    assert_eq!(cut(400, 400, &ten), from(&[[0, 400], [400, 800], [800, 1000]]), "half of the last is there");
    assert_eq!(cut(700, 700, &ten), from(&[[0, 700]]), "300 of 700 ms are less than half");
    assert_eq!(cut(5000, 5000, &ten), from(&[[0, 1000]]), "the only one");
    assert_eq!(cut(200, 200, &[7]), [[7, 7]], "a picture");
    assert_eq!(cut(200, 200, &[]), [[0; 2]; 0]);
}

#[test]
fn gaps_are_passed_over_in_one_step() {
    // 1 ms windows: walked one by one this would take years.
    let far = u64::MAX - 10;
    assert_eq!(cut(1, 1, &[5, 3_600_000_000, far]), [[5, 6], [3_600_000_000, 3_600_000_001], [far, far + 1]]);
    assert_eq!(cut(10, 3, &[0, 1_000_000, 1_000_020])[..3], [[0, 10], [999_993, 1_000_003], [999_996, 1_000_006]]);
    // The last instant there is ends no window, and harms none.
    assert_eq!(cut(10, 5, &[0, u64::MAX]).first(), Some(&[0, 10]));
    assert_eq!(cut(10, 5, &[u64::MAX]), [[u64::MAX; 2]; 0]);
    assert_eq!(cut(u64::MAX, 1, &[0, 7]), [[0, 14]]);
}

#[test]
fn a_flush_takes_what_is_there_and_nothing_comes_twice() {
    let mut windows = windows(1000, 250, ALL);
    let (complete, rest) = fed(&mut windows, &[0, 100, 200]);
    assert_eq!((complete.len(), rest.len()), (0, 1), "the only one");
    assert_eq!(rest[0].span.ms, [0, 300]);
    let (complete, rest) = fed(&mut windows, &[300, 1200, 1300]);
    let ranges = |windows: &[Window<u64>]| windows.iter().map(|window| window.span.ms).collect::<Vec<_>>();
    assert_eq!(ranges(&complete), [[250, 1250]]);
    assert_eq!(ranges(&rest), [[500, 1400], [750, 1400]], "of [1000, 2000) less than half is there");
    let (complete, _) = fed(&mut windows, &[5000]);
    assert_eq!(ranges(&complete), [[1000, 2000], [1250, 2250]], "the rest of its time has come now");
}

#[test]
fn time_that_falls_is_told_and_time_that_stands_is_not() {
    let mut windows = windows(100, 100, ALL);
    assert!(windows.check(0).is_ok());
    windows.push(1, 50, 50);
    assert!(windows.check(50).is_ok());
    let error = windows.check(49).expect_err("it falls").to_string();
    assert_eq!(error, "frame.pts_ms: is 49, must be at least 50, the time of the frame before");
    windows.push(2, 50, 51);
    windows.push(3, 150, 150);
    assert_eq!(windows.complete().map(|window| window.pictures), Some(vec![50, 51]));
}

#[test]
fn frames_are_chosen_as_for_clips_and_the_kept_are_bounded() {
    let times: Vec<u64> = (0..10_000).collect();
    let mut eight = windows(10_000, 10_000, Choice { frames: Some(8), ..ALL });
    let (_, rest) = fed(&mut eight, &times);
    assert!(eight.kept.len() <= 1024);
    let chosen = &rest[0].pictures;
    assert_eq!((chosen.len(), chosen[0], chosen[7]), (8, 0, 9_999), "first and last are always seen");
    // Evenly but for the places where thinning has not come round yet: never twice as wide as it should be.
    assert!(chosen.windows(2).all(|pair| (700..2900).contains(&(pair[1] - pair[0]))), "{chosen:?}");

    let mut all = windows(100, 100, Choice { frames: None, frames_max: 5, kept_max: 1024 });
    let (complete, rest) = fed(&mut all, &[0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 105, 106, 200]);
    assert_eq!(complete[0].pictures, [0, 1, 2, 3, 4]);
    assert_eq!(complete[1].pictures, [100, 101, 103, 105, 106], "no more than the model takes");
    assert_eq!(rest.len(), 1);
    let mut two = windows(100, 100, Choice { kept_max: 2, ..ALL });
    assert_eq!(fed(&mut two, &[0, 1, 2, 3, 4, 100]).0[0].pictures, [0], "a frame of the next window is kept as well");
}

proptest! {
    #[test]
    fn a_stream_is_cut_where_a_recording_is(
        gaps in prop::collection::vec(prop_oneof![4 => 1..60_u64, 1 => 200..900_u64], 0..60),
        window_ms in 1..400_u64,
        stride_part in 1..=100_u64,
    ) {
        let stride_ms = (window_ms * stride_part).div_ceil(100);
        let times: Vec<u64> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
        let times: Vec<u64> = std::iter::once(0).chain(times).collect();
        let recording = input::Windows { window_ms, stride_ms }.of(&times).expect("windows");
        prop_assert_eq!(cut(window_ms, stride_ms, &times), recording.clone());
        let mut windows = windows(window_ms, stride_ms, Choice { frames: Some(4), ..ALL });
        let (complete, rest) = fed(&mut windows, &times);
        for (window, range) in complete.into_iter().chain(rest).zip(recording) {
            let sampling = Sampling { frames: Some(4), ..Sampling::default() }.within(range);
            let chosen: Vec<u64> =
                sampling.indices(&times, None, 64).expect("frames").into_iter().map(|at| times[at]).collect();
            prop_assert_eq!(window.pictures, chosen);
        }
    }
}
