//! Every event as a line of JSON, for programs; docs/WATCH.md tells the fields.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Output, STANDARD};
use crate::cli::ask::timing_json;
use crate::segment::Trigger as Rule;
use crate::watch::{DropReason, Event, Finished, Seen, Span, Spoken, Stats, Trigger};

/// Where lines go.
enum Place {
    Standard,
    File(File),
}

/// A file of lines.
pub(super) struct Lines {
    place: Place,
    questions: Vec<String>,
    embeddings: bool,
}

impl Lines {
    pub fn create(path: &Path, questions: &[String], embeddings: bool) -> anyhow::Result<Self> {
        let place = if path == Path::new(STANDARD) { Place::Standard } else { Place::File(File::create(path)?) };
        Ok(Self { place, questions: questions.to_vec(), embeddings })
    }

    fn write(&mut self, line: &Value) -> anyhow::Result<()> {
        match &mut self.place {
            Place::Standard => crate::cli::print_line(line),
            // At once and whole: whoever follows the file reads lines.
            Place::File(file) => file.write_all(format!("{line}\n").as_bytes())?,
        }
        Ok(())
    }

    fn question(&self, query: usize) -> &str {
        self.questions.get(query).map_or("", |question| question)
    }

    fn json(&self, event: &Event) -> Value {
        match event {
            Event::Seen(seen) => self.seen(seen),
            Event::Spoken(spoken) => self.spoken(spoken),
            Event::Dropped(dropped) => {
                let reason = match dropped.reason {
                    DropReason::Behind => "behind",
                    DropReason::Ended => "ended",
                };
                line("dropped", dropped.span, json!({"frames": dropped.frames, "reason": reason}))
            }
            Event::Failed(failed) => json!({"event": "failed", "seq": failed.seq, "error": failed.error.to_string()}),
            Event::Finished(finished) => ended(Some(finished)),
        }
    }

    fn seen(&self, seen: &Seen) -> Value {
        let mut fields = json!({
            "query": seen.query, "drift": number(seen.drift), "repeated": seen.repeated,
            "timing_ms": timing_json(&seen.timing),
        });
        if self.embeddings {
            fields["embedding"] = json!(seen.embedding.values);
            fields["space"] = json!(seen.embedding.space);
        }
        line("seen", seen.span, fields)
    }

    fn spoken(&self, spoken: &Spoken) -> Value {
        let choices: Vec<Value> = spoken
            .choices
            .iter()
            .map(|choice| json!({"text": choice.text, "score": choice.score, "cosine": choice.cosine}))
            .collect();
        let fields = json!({
            "query": spoken.query, "question": self.question(spoken.query), "text": spoken.text, "choices": choices,
            "trigger": trigger(spoken.trigger), "drift": number(spoken.drift), "timing_ms": timing_json(&spoken.timing),
        });
        line("spoken", spoken.segment, fields)
    }
}

impl Output for Lines {
    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        let line = self.json(event);
        self.write(&line)
    }

    fn end(&mut self, finished: Option<&Finished>) -> anyhow::Result<()> {
        let line = ended(finished);
        self.write(&line)
    }
}

/// The last line, with figures if the session told them.
fn ended(finished: Option<&Finished>) -> Value {
    let error = match finished {
        Some(finished) => finished.error.as_ref().map(ToString::to_string),
        None => Some("the session was lost".into()),
    };
    json!({"event": "finished", "stats": finished.map(|finished| figures(&finished.stats)), "error": error})
}

fn figures(stats: &Stats) -> Value {
    json!({
        "frames": stats.frames, "frames_dropped": stats.frames_dropped, "frames_failed": stats.frames_failed,
        "frames_still": stats.frames_still, "frames_encoded": stats.frames_encoded,
        "frames_skipped": stats.frames_skipped, "windows": stats.windows,
        "windows_repeated": stats.windows_repeated, "embeddings": stats.embeddings, "decodes": stats.decodes,
        "decodes_uniform_1hz": stats.decodes_uniform_1hz, "duration_ms": stats.duration_ms,
        "vision_ms": stats.vision_ms, "predictor_ms": stats.predictor_ms, "words_ms": stats.words_ms,
    })
}

/// An event about part of the stream.
fn line(event: &str, span: Span, fields: Value) -> Value {
    let ([first_seq, last_seq], [start_ms, end_ms]) = (span.seq, span.ms);
    let mut line = Map::new();
    line.insert("event".into(), json!(event));
    for (name, value) in [("start_ms", start_ms), ("end_ms", end_ms), ("first_seq", first_seq), ("last_seq", last_seq)]
    {
        line.insert(name.into(), json!(value));
    }
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    Value::Object(line)
}

/// JSON has no NaN.
fn number(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn trigger(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Rule(Rule::First) => "first",
        Trigger::Rule(Rule::Drift) => "drift",
        Trigger::Rule(Rule::MaxSilence) => "max_silence",
        Trigger::QueryChanged => "query_changed",
        Trigger::Flush => "flush",
        Trigger::Uniform => "uniform",
        Trigger::Speak => "speak",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineError, Timing};
    use crate::watch::FrameFailed;

    #[test]
    fn every_event_is_one_object_on_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut lines = Lines::create(&path, &["why\n?".into()], false).expect("a file");
        let span = Span { seq: [1, 8], ms: [0, 2000] };
        let spoken = Spoken {
            query: 0,
            text: "a\n\"b\"".into(),
            choices: vec![],
            trigger: Trigger::Rule(Rule::MaxSilence),
            segment: span,
            drift: f64::NAN,
            timing: Timing::default(),
        };
        lines.tell(&Event::Spoken(spoken)).expect("written");
        let error = EngineError::Internal("x".into());
        lines.tell(&Event::Failed(FrameFailed { seq: 3, error })).expect("written");
        lines.end(None).expect("written");
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let read: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((&read[0]["event"], &read[0]["trigger"]), (&json!("spoken"), &json!("max_silence")));
        assert_eq!((&read[0]["text"], &read[0]["question"]), (&json!("a\n\"b\""), &json!("why\n?")));
        assert_eq!((&read[0]["end_ms"], &read[0]["drift"]), (&json!(2000), &Value::Null));
        assert_eq!((&read[1]["seq"], &read[1]["error"]), (&json!(3), &json!("internal error: x")));
        assert_eq!((&read[2]["event"], &read[2]["stats"]), (&json!("finished"), &Value::Null));
    }
}
