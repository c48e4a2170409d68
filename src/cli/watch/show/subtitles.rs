//! Answers as subtitles, SubRip or WebVTT: each is on the screen from where its segment began until the next one's does.
//!
//! A cue is written when its end is known, so that whatever happens the file holds whole cues; several questions share
//! the screen, a line each, for cues of one file never overlap.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::Output;
use super::words::one_line;
use crate::cli::cue::{Cue, Format};
use crate::watch::{Event, Finished};

/// The shortest last cue, milliseconds: a stream may end with what is said last, and a picture has no length.
const LAST_MS_MIN: u64 = 1000;

/// What a question shows.
#[derive(Debug, Clone, Default)]
struct Answer {
    text: String,
    /// Where its segment began, and the end of the window in which that was seen, milliseconds.
    ms: [u64; 2],
}

/// Which answers are on the screen, and since when.
#[derive(Debug)]
struct Timeline {
    answers: Vec<Answer>,
    since_ms: u64,
}

impl Timeline {
    fn new(questions: usize) -> Self {
        Self { answers: vec![Answer::default(); questions], since_ms: 0 }
    }

    /// A question has a new answer; what was on the screen until then, if it was there for a while.
    fn spoken(&mut self, question: usize, ms: [u64; 2], text: &str) -> Option<Cue> {
        let text = one_line(text);
        let since_ms = self.since_ms;
        let before = self.answers.get_mut(question)?;
        // The same segment again, because nothing changed for long: what is said now is about what came since.
        let start = match ms[0] > before.ms[0] || before.text.is_empty() {
            true => ms[0],
            false => before.ms[1],
        };
        if before.text == text {
            before.ms = [start, ms[1]];
            return None;
        }
        let start = start.max(since_ms);
        let cue = self.until(start);
        self.answers[question] = Answer { text, ms: [ms[0].max(start), ms[1]] };
        self.since_ms = start;
        cue
    }

    /// What has been on the screen, until then.
    fn until(&self, end_ms: u64) -> Option<Cue> {
        let lines: Vec<String> =
            self.answers.iter().filter(|answer| !answer.text.is_empty()).map(|answer| answer.text.clone()).collect();
        let shown = !lines.is_empty() && end_ms > self.since_ms;
        shown.then_some(Cue { ms: [self.since_ms, end_ms], lines })
    }
}

/// A file of subtitles.
pub(super) struct Subtitles {
    file: File,
    format: Format,
    timeline: Timeline,
    cues: u64,
    /// How far the stream has been seen, milliseconds.
    seen_ms: u64,
}

impl Subtitles {
    pub fn create(path: &Path, format: Format, questions: usize) -> anyhow::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(format.opening().as_bytes())?;
        Ok(Self { file, format, timeline: Timeline::new(questions), cues: 0, seen_ms: 0 })
    }

    fn write(&mut self, cue: Option<Cue>) -> anyhow::Result<()> {
        let Some(cue) = cue else { return Ok(()) };
        self.cues += 1;
        // At once and whole.
        Ok(self.file.write_all(self.format.cue(self.cues, &cue).as_bytes())?)
    }
}

impl Output for Subtitles {
    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Seen(seen) => self.seen_ms = self.seen_ms.max(seen.span.ms[1]),
            Event::Spoken(spoken) => {
                self.seen_ms = self.seen_ms.max(spoken.segment.ms[1]);
                let cue = self.timeline.spoken(spoken.query, spoken.segment.ms, &spoken.text);
                self.write(cue)?;
            }
            Event::Dropped(_) | Event::Failed(_) | Event::Finished(_) => {}
        }
        Ok(())
    }

    fn end(&mut self, finished: Option<&Finished>) -> anyhow::Result<()> {
        // A window may reach beyond the end of the stream.
        let end = finished.map_or(self.seen_ms, |finished| finished.stats.duration_ms);
        let end = end.max(self.timeline.since_ms + LAST_MS_MIN);
        let cue = self.timeline.until(end);
        self.write(cue)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cue(ms: [u64; 2], lines: &[&str]) -> Cue {
        Cue { ms, lines: lines.iter().map(|line| line.to_string()).collect() }
    }

    #[test]
    fn an_answer_stands_until_the_next_one_begins() {
        let mut line = Timeline::new(1);
        assert_eq!(line.spoken(0, [0, 2000], "one"), None);
        assert_eq!(line.spoken(0, [4500, 7000], "two\nlines\n\n"), Some(cue([0, 4500], &["one"])));
        assert_eq!(line.spoken(0, [6000, 8000], "two lines"), None, "the same goes on");
        assert_eq!(line.spoken(0, [6000, 60_000], "three"), Some(cue([4500, 8000], &["two lines"])), "after silence");
        assert_eq!(line.spoken(0, [1000, 61_000], "four"), Some(cue([8000, 60_000], &["three"])), "time never falls");
        assert_eq!(line.until(62_000), Some(cue([60_000, 62_000], &["four"])));
        assert_eq!(line.spoken(7, [0, 1], "no such question"), None);
    }

    #[test]
    fn questions_share_the_screen() {
        let mut line = Timeline::new(2);
        assert_eq!(line.spoken(1, [0, 2000], "b"), None);
        assert_eq!(line.spoken(0, [0, 2000], "a"), None, "both begin at once");
        assert_eq!(line.spoken(1, [3000, 5000], "c"), Some(cue([0, 3000], &["a", "b"])));
        assert_eq!(line.spoken(0, [2500, 5000], "d"), None, "seen later, begun earlier: from now on");
        assert_eq!(line.until(9000), Some(cue([3000, 9000], &["d", "c"])));
    }

    proptest! {
        #[test]
        fn cues_never_overlap_and_are_never_empty(
            spoken in proptest::collection::vec((0..3usize, 0..100u64, 0..50u64, "[ab\n]{0,2}"), 0..40),
        ) {
            let mut line = Timeline::new(3);
            let mut cues: Vec<Cue> =
                spoken.iter().filter_map(|(at, start, length, text)| line.spoken(*at, [*start, start + length], text)).collect();
            cues.extend(line.until(1000));
            prop_assert!(cues.iter().all(|cue| cue.ms[0] < cue.ms[1] && !cue.lines.is_empty()));
            prop_assert!(cues.windows(2).all(|pair| pair[0].ms[1] <= pair[1].ms[0]));
            prop_assert!(cues.iter().flat_map(|cue| &cue.lines).all(|text| !text.is_empty() && !text.contains('\n')));
        }
    }
}
