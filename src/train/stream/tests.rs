//! The experiment on made-up recordings whose truth is known, and as a whole with a subject that knows nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;

use super::choose::Ground;
use super::*;
use crate::input::{Clip, Windows};
use crate::model::bundle::Bundle;
use crate::segment::{Policy, Reference};
use crate::train::data::Edges;
use crate::train::evaluate::{Rows, Subject};
use crate::train::world::{Annotation, Event, Pairs, Phrasings, StreamConfig};

/// Each of these captions is a direction of its own; the subject says the caption of the strongest. It notes how often it
/// was asked for the words of a row.
struct Oracle {
    captions: Vec<String>,
    edges: Edges,
    asked: Mutex<HashMap<Vec<u32>, usize>>,
}

impl Subject for Oracle {
    fn predict(&self, _clips: &[Arc<Clip>], _questions: &[&[u32]]) -> Result<Rows, String> {
        Err("it has no eyes".into())
    }

    fn embed(&self, texts: &[&[u32]]) -> Result<Rows, String> {
        let own: Vec<_> = self.captions.iter().map(|text| self.edges.answer(text).expect("known words")).collect();
        let direction = |text: &&[u32]| axis(own.iter().position(|ids| ids == text).expect("a caption"), own.len());
        Ok(texts.iter().map(direction).collect())
    }

    fn decode(&self, rows: &Rows) -> Result<Option<Vec<String>>, String> {
        let mut asked = self.asked.lock().expect("no panic");
        for row in rows {
            *asked.entry(row.iter().map(|value| value.to_bits()).collect()).or_default() += 1;
        }
        let strongest = |row: &Vec<f32>| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        Ok(Some(rows.iter().map(|row| self.captions[strongest(row)].clone()).collect()))
    }
}

fn axis(index: usize, count: usize) -> Vec<f32> {
    (0..count).map(|at| if at == index { 1.0 } else { 0.0 }).collect()
}

const LENGTHS_S: [u64; 6] = [8, 2, 12, 2, 6, 10];

/// Stretches of [`LENGTHS_S`], each with a caption of its own and seen at once, two windows a second; no two rows are equal.
fn recording() -> (Recording, Oracle) {
    let captions = [
        "a red circle and a blue square on a plain background",
        "a large red circle moves left on a plain background",
        "a small green star on a plain background",
        "a small green star grows on a plain background",
        "three objects on a striped background",
        "two objects on a dotted background",
    ]
    .map(String::from);
    let mut start_ms = 0;
    let mut annotations = Vec::new();
    for (at, seconds) in LENGTHS_S.iter().enumerate() {
        let end_ms = start_ms + 1000 * seconds;
        let event = if *seconds == 2 { Event::Grows } else { Event::Nothing };
        annotations.push(Annotation { start_ms, end_ms, event, caption: captions[at].clone(), cut: at == 4 });
        start_ms = end_ms;
    }
    let windows: Vec<[u64; 2]> = (0..start_ms / 500).map(|at| [500 * at, 500 * at + 500]).collect();
    let row = |(index, window): (usize, &[u64; 2])| {
        let stretch = annotations.iter().position(|a| window[0] < a.end_ms).expect("a stretch");
        let mut row = axis(stretch, captions.len());
        row[(stretch + 1) % captions.len()] += 1e-3 * index as f32;
        row
    };
    let rows = windows.iter().enumerate().map(row).collect();
    let edges = Edges::of(&Bundle::bundled().expect("the bundled model")).expect("its edges");
    let oracle = Oracle { captions: captions.to_vec(), edges, asked: Mutex::default() };
    (Recording::new(start_ms, annotations, windows, rows), oracle)
}

const PLAIN: Policy = Policy {
    reference: Reference::Segment,
    threshold: 0.3,
    calm: None,
    unsettled_max_ms: 3_000,
    smoothing: 0.0,
    gap_min_ms: 0,
    silence_max_ms: None,
    per_minute_max: None,
};

#[test]
fn what_follows_the_meaning_says_everything_with_fewer_words() {
    let (recording, oracle) = recording();
    let recordings = [recording];
    let mut ground = Ground::new(&oracle, &oracle.edges, &recordings, 2).expect("words");
    for voice in [Voice::Decoder, Voice::Nearest] {
        let mut point = |spots: Vec<Spot>| ground.point(&[spots], voice, None).expect("a point");
        let all = point(uniform(&recordings[0], 1, 0));
        assert_eq!((all.rate_hz, all.score.exact, all.score.events, all.score.holds), (2.0, 1.0, 1.0, 1.0));
        assert!((all.score.cider - 10.0).abs() < 1e-9, "{all:?}");
        for said in [Said::One, Said::Mean] {
            let cut = point(ward(&recordings[0], 6, said));
            assert_eq!((cut.rate_hz, cut.score), (6.0 / 40.0, all.score), "{said:?}");
            let live = point(gate(&recordings[0], PLAIN, said));
            // said where a stretch begins, so the middle of a long one may be nearer to the next one's text
            assert!(live.rate_hz == 6.0 / 40.0 && live.score.events == 1.0, "{live:?}");
        }
        let steady = point(uniform(&recordings[0], 13, 0));
        assert!(steady.rate_hz > 6.0 / 40.0 && steady.score.exact < 1.0, "{steady:?}");
        assert_eq!(point(Vec::new()).score, Score::default(), "nothing said");
    }
    let asked = oracle.asked.lock().expect("no panic");
    assert!(asked.len() > 80 && asked.values().all(|&times| times == 1), "every embedding is decoded once");
}

#[test]
fn a_mean_is_of_unit_length_and_one_alone_is_itself() {
    let (recording, _) = recording();
    assert_eq!(recording.pooled(&(3..4)), recording.rows[3]);
    let mean = recording.pooled(&(0..20));
    let length = mean.iter().map(|value| value * value).sum::<f32>();
    assert!((length - 1.0).abs() < 1e-6 && mean[0] > mean[1] && mean[1] > mean[2], "{mean:?}");
    assert_eq!(recording.middle_ms(3), 1750);
}

#[test]
fn the_rule_speaks_of_the_segment_it_begins() {
    let (recording, _) = recording();
    let patient = Policy { gap_min_ms: 9_000, ..PLAIN };
    let runs: Vec<_> = gate(&recording, patient, Said::Mean).into_iter().map(|spot| spot.run).collect();
    assert_eq!(runs, [0..1, 16..19, 20..37, 44..55, 60..73], "from where the change was first seen");
    let one: Vec<_> = gate(&recording, patient, Said::One).into_iter().map(|spot| spot.run).collect();
    assert_eq!(one, [0..1, 18..19, 36..37, 54..55, 72..73]);
}

#[test]
fn distances_tell_cuts_from_rest() {
    let (recording, _) = recording();
    let found = Separation::of(&[recording]);
    assert!(found.cut_auc == 1.0 && found.event_auc > 0.5 && found.event_auc < 1.0, "{found:?}");
    assert!(found.cut_mean > 0.9 && found.hold_mean < 0.3, "{found:?}");
}

/// Sees the colours of four corners; the words are made of them. Knows nothing of what is asked.
struct Colours;

impl Subject for Colours {
    fn predict(&self, clips: &[Arc<Clip>], _questions: &[&[u32]]) -> Result<Rows, String> {
        let row = |clip: &Arc<Clip>| {
            let (frames, _, height, width) = clip.pixels.dim();
            let mut row = vec![0f32; 12];
            for ((_, colour, y, x), value) in clip.pixels.indexed_iter() {
                row[colour * 4 + 2 * (2 * y / height) + 2 * x / width] += value / (frames * height * width) as f32;
            }
            row
        };
        Ok(clips.iter().map(row).collect())
    }

    fn embed(&self, texts: &[&[u32]]) -> Result<Rows, String> {
        let row =
            |ids: &&[u32]| (0..12).map(|d| (ids.iter().map(|id| id * (d + 3)).sum::<u32>() % 17) as f32).collect();
        Ok(texts.iter().map(row).collect())
    }

    fn decode(&self, _rows: &Rows) -> Result<Option<Vec<String>>, String> {
        Ok(None)
    }
}

fn settings(threads: usize) -> StudySettings {
    StudySettings {
        streams: 3,
        validation: 1,
        seed: 5,
        config: StreamConfig { duration_ms: [15_000, 30_000], ..StreamConfig::default() },
        phrasings: Phrasings::HeldOut,
        pairs: Pairs::Train,
        view: View { windows: Windows { window_ms: 2000, stride_ms: 500 }, side: 64 },
        threads,
    }
}

#[test]
fn a_study_repeats_on_any_number_of_threads_and_its_figures_hang_together() {
    let edges = Edges::of(&Bundle::bundled().expect("the bundled model")).expect("its edges");
    let run = |threads| study(&Colours, Some(&Colours), &edges, &settings(threads)).expect("a study");
    let (one, three) = (run(1), run(3));
    assert_eq!(serde_json::to_string(&one).expect("JSON"), serde_json::to_string(&three).expect("JSON"));
    assert_eq!((one.streams, one.voices.len(), one.voices[0].voice), (3, 1, Voice::Nearest), "it has no decoder");
    assert_eq!(one.untrained, Some(one.separation), "the same subject");
    assert!(one.events > 0 && one.stretches > one.events && one.windows > 70, "{one:?}");
    assert!(one.rule.policy.check().is_ok() && one.rule.point.rate_hz > 0.0);
    let report = &one.voices[0];
    let all = report.curves[0].points.last().expect("a point");
    assert_eq!((report.all.rate_hz, report.all.score), (all.rate_hz, all.score));
    assert!(report.ceiling >= report.all.score.events);
    for curve in &report.curves {
        assert!(curve.points.windows(2).all(|w| w[0].rate_hz <= w[1].rate_hz) && curve.points[0].rate_hz > 0.0);
    }
    let ward: Vec<f64> = report.curves[1].points.iter().map(|point| point.score.cider).collect();
    assert_eq!(ward.last(), Some(&report.all.score.cider), "a segment a window is every window");
    let ratio = report.ratios[2];
    let rate = report.curves[0].rate_for(ratio.quality);
    assert_eq!((ratio.uniform_hz, (ratio.share * 10.0).round()), (rate, 7.0));
    let told = one.to_string();
    assert!(told.contains("untrained predictor") && told.contains("causal rule") && told.contains("uniform at 1 Hz"));
    let other = study(&Colours, None, &edges, &StudySettings { seed: 6, ..settings(2) }).expect("a study");
    assert_ne!(other.stretches, one.stretches, "other streams");
}
