//! How good what was said is: every stretch of a stream is paired with the text nearest in time.

use std::collections::HashMap;

use super::cider::{Cider, words};
use super::recording::Recording;
use super::ways::Spot;
use super::words::{Voice, Words};
use crate::train::loss::unique;
use crate::train::world::{Annotation, Event};

/// How good texts are, over all stretches of all recordings.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Score {
    /// Mean CIDEr-D, 0 to 10.
    pub cider: f64,
    /// Share of stretches whose caption is said word by word.
    pub exact: f64,
    /// That of the events alone.
    pub events: f64,
    /// That of the stretches alone in which nothing happens.
    pub holds: f64,
}

/// Scores texts of some recordings.
pub struct Scorer<'a> {
    recordings: &'a [Recording],
    cider: Cider,
    /// The different captions: where each occurs first among all stretches, and its words.
    captions: Vec<(usize, Vec<String>)>,
    /// The caption of every stretch, by recording.
    of: Vec<Vec<usize>>,
    /// CIDEr and exactness by text and caption.
    known: HashMap<(usize, usize), (f64, bool)>,
}

impl<'a> Scorer<'a> {
    /// One for these recordings, whose stretches are the documents of CIDEr.
    pub fn new(recordings: &'a [Recording]) -> Scorer<'a> {
        let texts = |recording: &Recording| recording.annotations.iter().map(|a| a.caption.clone()).collect::<Vec<_>>();
        let all: Vec<String> = recordings.iter().flat_map(texts).collect();
        let (different, mut indices) = unique(&all);
        let first = |number: usize| indices.iter().position(|&index| index == number).unwrap_or_default();
        let captions = different.iter().enumerate().map(|(number, text)| (first(number), words(text))).collect();
        let of = recordings.iter().map(|r| indices.drain(..r.annotations.len()).collect()).collect();
        Scorer { recordings, cider: Cider::new(&all), captions, of, known: HashMap::new() }
    }

    /// The score of the texts of spots, a list a recording. A stretch of a recording without spots is told nothing.
    pub fn score(&mut self, said: &Words, spots: &[Vec<Spot>], voice: Voice) -> Score {
        let (mut cider, mut right, mut counts) = (0.0, [0usize; 2], [0usize; 2]);
        let recordings = self.recordings;
        for (index, (recording, spots)) in recordings.iter().zip(spots).enumerate() {
            for (stretch, annotation) in recording.annotations.iter().enumerate() {
                let kind = usize::from(annotation.event != Event::Nothing);
                counts[kind] += 1;
                let text = nearest(spots, middle_ms(annotation)).and_then(|spot| said.said(index, spot, voice));
                let Some(text) = text else { continue };
                let (similar, exact) = self.compare(said, text, self.of[index][stretch]);
                cider += similar;
                right[kind] += usize::from(exact);
            }
        }
        let all = counts[0] + counts[1];
        Score {
            cider: cider / all.max(1) as f64,
            exact: share(right[0] + right[1], all),
            events: share(right[1], counts[1]),
            holds: share(right[0], counts[0]),
        }
    }

    /// Share of events whose caption is said by any window whose middle lies in the event.
    pub fn ceiling(&mut self, said: &Words, voice: Voice) -> f64 {
        let (mut right, mut count) = (0, 0);
        let recordings = self.recordings;
        for (index, recording) in recordings.iter().enumerate() {
            for (stretch, annotation) in recording.annotations.iter().enumerate() {
                if annotation.event == Event::Nothing {
                    continue;
                }
                count += 1;
                let inside = |at: u64| annotation.start_ms <= at && at < annotation.end_ms;
                let within = (0..recording.rows.len()).filter(|&window| inside(recording.middle_ms(window)));
                let texts = within.filter_map(|window| {
                    let spot = Spot { at_ms: recording.middle_ms(window), run: window..window + 1 };
                    said.said(index, &spot, voice)
                });
                let texts: Vec<usize> = texts.collect();
                right += usize::from(texts.into_iter().any(|text| self.compare(said, text, self.of[index][stretch]).1));
            }
        }
        share(right, count)
    }

    fn compare(&mut self, said: &Words, text: usize, caption: usize) -> (f64, bool) {
        let (cider, captions) = (&self.cider, &self.captions);
        *self.known.entry((text, caption)).or_insert_with(|| {
            let (document, wanted) = &captions[caption];
            let text = said.text(text);
            (cider.score(text, *document), words(text) == *wanted)
        })
    }
}

/// The middle of a stretch, milliseconds.
fn middle_ms(annotation: &Annotation) -> u64 {
    annotation.start_ms + annotation.end_ms.saturating_sub(annotation.start_ms) / 2
}

/// The spot nearest in time, the earlier of two; spots are in the order of time.
fn nearest(spots: &[Spot], at_ms: u64) -> Option<&Spot> {
    let after = spots.partition_point(|spot| spot.at_ms < at_ms);
    let candidates = spots[after.saturating_sub(1)..].iter().take(2);
    candidates.min_by_key(|spot| spot.at_ms.abs_diff(at_ms))
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Score {
    /// The mean of some scores.
    pub fn mean(scores: &[Score]) -> Score {
        let of = |field: fn(&Score) -> f64| scores.iter().map(field).sum::<f64>() / scores.len().max(1) as f64;
        Score { cider: of(|s| s.cider), exact: of(|s| s.exact), events: of(|s| s.events), holds: of(|s| s.holds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_in_time_is_the_earlier_of_two() {
        let spots: Vec<Spot> = [100, 200, 400].map(|at_ms| Spot { at_ms, run: 0..1 }).to_vec();
        let found = |at: u64| nearest(&spots, at).map(|spot| spot.at_ms);
        let expected = [(0, 100), (100, 100), (149, 100), (150, 100), (151, 200), (300, 200), (301, 400), (999, 400)];
        for (at, spot) in expected {
            assert_eq!(found(at), Some(spot), "{at}");
        }
        assert_eq!(nearest(&[], 5), None);
    }
}
