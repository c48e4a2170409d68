//! `vljepa ask`: a question about each of some files, in turn.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{Source, SourceArgs};
use super::{FAILED, print_line, read_media, runtime, told, waiting};
use crate::engine::{Answer, Manner, Media, Question, Timing};
use crate::input::Sampling;
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// Images or clips (JPEG, PNG, WebP, BMP, GIF, MP4 with H.264; animated ones and videos are clips), then the question.
    #[arg(value_names = ["FILE", "QUESTION"], num_args = 2.., required = true)]
    words: Vec<String>,
    /// Answers to choose from, separated by commas; without them the decoder answers in its own words.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    choices: Vec<String>,
    /// Print one JSON object a file.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

impl Ask {
    pub(super) fn run(mut self, settings: &Settings) -> anyhow::Result<i32> {
        let question = self.words.pop().unwrap_or_default();
        anyhow::ensure!(!question.trim().is_empty(), "QUESTION is empty");
        let manner = self.manner(settings)?;
        let files: Vec<PathBuf> = self.words.iter().map(PathBuf::from).collect();
        runtime()?.block_on(async {
            let mut source = self.source.open(settings).await?;
            let mut status = 0;
            for file in &files {
                // One bad file fails alone.
                match ask(&mut source, file, &question, &manner, settings).await {
                    Ok(answer) if self.json => print_line(&as_json(file, &answer)),
                    Ok(answer) => print(file, &answer, files.len() > 1),
                    Err(error) => {
                        eprintln!("error: {}: {}", file.display(), told(&error));
                        status = FAILED;
                    }
                }
            }
            Ok(status)
        })
    }

    fn manner(&self, settings: &Settings) -> anyhow::Result<Manner> {
        let choices: Vec<String> = self.choices.iter().map(|choice| choice.trim().to_owned()).collect();
        anyhow::ensure!(choices.iter().all(|choice| !choice.is_empty()), "--choices has an empty choice");
        let max = settings.text.candidates_max;
        anyhow::ensure!(choices.len() <= max, "--choices has {} choices, at most {max}", choices.len());
        let max_tokens = settings.text.answer_tokens_max;
        Ok(match choices.is_empty() {
            true => Manner::Speak(DecodeOptions { max_tokens, sampling: TokenSampling::Greedy }),
            false => Manner::Choose(choices),
        })
    }
}

async fn ask(
    source: &mut Source,
    file: &Path,
    question: &str,
    manner: &Manner,
    settings: &Settings,
) -> anyhow::Result<Answer> {
    let media = Media::File(read_media(file, source.file_bytes_max(settings))?);
    let waiting = waiting(format!("asking {}", file.display()));
    let question = Question { media, sampling: Sampling::default(), text: question.into() };
    let answer = source.answer(question, manner.clone()).await;
    waiting.finish_and_clear();
    answer
}

fn as_json(file: &Path, answer: &Answer) -> Value {
    let choices: Vec<Value> =
        answer.choices.iter().map(|choice| json!({"text": choice.text, "score": choice.score})).collect();
    json!({
        "file": file.display().to_string(),
        "answer": answer.text,
        "choices": choices,
        "embedding": answer.embedded.embedding.values,
        "timing_ms": timing_json(&answer.embedded.timing),
    })
}

/// Milliseconds by stage.
pub(super) fn timing_json(timing: &Timing) -> Value {
    Value::Object(timing.stages_ms().map(|(stage, ms)| (stage.to_owned(), json!(ms))).into_iter().collect())
}

/// The answer, then the choices from best to worst, then the time.
pub(super) fn print(file: &Path, answer: &Answer, several: bool) {
    match several {
        true => println!("{}: {}", file.display(), answer.text),
        false => println!("{}", answer.text),
    }
    let mut choices = answer.choices.clone();
    choices.sort_by(|a, b| b.score.total_cmp(&a.score));
    let width = choices.iter().map(|choice| choice.text.chars().count()).max().unwrap_or(0);
    for choice in choices {
        println!("  {:width$}  {:.3}", choice.text, choice.score);
    }
    println!("  {}", timing_text(&answer.embedded.timing));
}

/// The stages that took time, such as `12.3 ms: prepare 2.1, vision 9.0`.
pub(super) fn timing_text(timing: &Timing) -> String {
    let [stages @ .., (_, total)] = timing.stages_ms();
    let stages: Vec<String> =
        stages.iter().filter(|(_, ms)| *ms >= 0.05).map(|(stage, ms)| format!("{stage} {ms:.1}")).collect();
    format!("{total:.1} ms: {}", stages.join(", "))
}
