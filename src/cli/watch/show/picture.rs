//! A stream as a chart: drift over time, a line a question, and when words were made.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::Output;
use super::words::{beginning, one_line};
use crate::cli::chart::{Axis, Chart, Line};
use crate::watch::{Event, Finished};

/// Pixels of the chart.
const SIZE: (u32, u32) = (900, 500);
/// Points of a line that are kept; of more, the larger one of each two. A chart has fewer columns.
const POINTS_MAX: usize = 1 << 14;
/// Characters of a question in the legend.
const LEGEND: usize = 40;

/// A chart that is drawn when all has been seen.
pub(super) struct Picture {
    file: File,
    title: String,
    questions: Vec<String>,
    drifts: Vec<Vec<(u64, f64)>>,
    decodes: Vec<u64>,
}

impl Picture {
    pub fn create(path: &Path, questions: &[String], source: &str) -> anyhow::Result<Self> {
        let drifts = vec![vec![]; questions.len()];
        // The chart's letters have no ellipsis.
        let label = |question: &String| beginning(&one_line(question), LEGEND).replace('…', "..");
        let questions = questions.iter().map(label).collect();
        Ok(Self { file: File::create(path)?, title: one_line(source), questions, drifts, decodes: vec![] })
    }

    fn chart(&self) -> Chart {
        let last = self.drifts.iter().flatten().map(|point| point.0).chain(self.decodes.iter().copied()).max();
        let (unit, unit_ms) = match last.unwrap_or(0) {
            ..600_000 => ("seconds", 1e3),
            600_000..10_800_000 => ("minutes", 6e4),
            _ => ("hours", 3.6e6),
        };
        let time = |ms: u64| ms as f64 / unit_ms;
        let line = |(label, points): (&String, &Vec<(u64, f64)>)| Line {
            label: label.clone(),
            points: points.iter().map(|&(ms, drift)| (time(ms), drift)).collect(),
            dots: false,
        };
        Chart {
            title: self.title.clone(),
            x: Axis { label: unit.into(), ..Axis::default() },
            y: Axis { label: "drift: cosine distance to the running segment".into(), ..Axis::default() },
            lines: self.questions.iter().zip(&self.drifts).map(line).collect(),
            marks: self.decodes.iter().map(|&ms| time(ms)).collect(),
            mark_label: "put into words".into(),
        }
    }
}

impl Output for Picture {
    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Seen(seen) => {
                if let Some(points) = self.drifts.get_mut(seen.query) {
                    points.push((seen.span.ms[1], seen.drift));
                    thin(points, POINTS_MAX);
                }
            }
            Event::Spoken(spoken) => {
                self.decodes.push(spoken.segment.ms[1]);
                if self.decodes.len() > POINTS_MAX {
                    let mut keep = false;
                    self.decodes.retain(|_| {
                        keep = !keep;
                        keep
                    });
                }
            }
            Event::Dropped(_) | Event::Failed(_) | Event::Finished(_) => {}
        }
        Ok(())
    }

    fn end(&mut self, _finished: Option<&Finished>) -> anyhow::Result<()> {
        Ok(self.file.write_all(&self.chart().png(SIZE.0, SIZE.1)?)?)
    }
}

/// Halves points that are more than `max`: of each two the one that stands out.
fn thin(points: &mut Vec<(u64, f64)>, max: usize) {
    if points.len() > max {
        let larger = |pair: &[(u64, f64)]| match pair {
            [a, b] if b.1 > a.1 || a.1.is_nan() => *b,
            _ => pair[0],
        };
        *points = points.chunks(2).map(larger).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_points_the_peaks_stay() {
        let mut points = vec![(0, 0.1), (1, 0.9), (2, f64::NAN), (3, 0.2), (4, 0.3)];
        thin(&mut points, 5);
        assert_eq!(points.len(), 5);
        thin(&mut points, 4);
        assert_eq!(points, [(1, 0.9), (3, 0.2), (4, 0.3)]);
    }

    #[test]
    fn time_has_a_fitting_unit() {
        let chart = |ms| {
            let picture = Picture {
                file: tempfile::tempfile().expect("a file"),
                title: String::new(),
                questions: vec!["q".into()],
                drifts: vec![vec![(0, 0.0), (ms, 0.5)]],
                decodes: vec![ms / 2],
            };
            let chart = picture.chart();
            (chart.x.label.clone(), chart.lines[0].points[1].0, chart.marks[0])
        };
        assert_eq!(chart(90_000), ("seconds".into(), 90.0, 45.0));
        assert_eq!(chart(1_200_000), ("minutes".into(), 20.0, 10.0));
        assert_eq!(chart(36_000_000), ("hours".into(), 10.0, 5.0));
    }
}
