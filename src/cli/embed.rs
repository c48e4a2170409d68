//! `vljepa embed`: the embedding of an answer to each of some files, or of each of some texts.

use std::path::PathBuf;

use serde_json::json;

use super::client::SourceArgs;
use super::{FAILED, print_line, read_media, runtime, told, waiting};
use crate::engine::{Embedded, Media, Question};
use crate::input::Sampling;
use crate::settings::Settings;

const SHOWN: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct Embed {
    /// Images or clips, asked the question.
    #[arg(value_name = "FILE", required_unless_present = "texts", conflicts_with = "texts")]
    files: Vec<PathBuf>,
    /// What is asked about the files.
    #[arg(long, value_name = "QUESTION", default_value = "what is happening?")]
    question: String,
    /// Embed this text instead of files; may be given several times.
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// Print one JSON object an embedding.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

impl Embed {
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<i32> {
        runtime()?.block_on(async {
            let mut source = self.source.open(settings).await?;
            let mut status = 0;
            for file in &self.files {
                let name = file.display().to_string();
                let waiting = waiting(format!("embedding {name}"));
                let embedded = async {
                    let media = Media::File(read_media(file, source.file_bytes_max(settings))?);
                    let text = self.question.clone();
                    source.predict(Question { media, sampling: Sampling::default(), text }).await
                };
                let embedded = embedded.await;
                waiting.finish_and_clear();
                status |= self.show("file", &name, embedded);
            }
            for text in &self.texts {
                status |= self.show("text", text, source.embed_text(text.clone()).await);
            }
            Ok(status)
        })
    }

    fn show(&self, kind: &str, name: &str, embedded: anyhow::Result<Embedded>) -> i32 {
        match embedded {
            Ok(Embedded { embedding, timing, .. }) if self.json => print_line(&json!({
                kind: name,
                "space": embedding.space.to_string(),
                "embedding": embedding.values,
                "timing_ms": super::ask::timing_json(&timing),
            })),
            Ok(Embedded { embedding, .. }) => {
                let dimensions = embedding.values.len();
                println!(
                    "{name}: space {}, {dimensions} dimensions: {}",
                    embedding.space,
                    first_values(&embedding.values)
                );
            }
            Err(error) => {
                eprintln!("error: {name}: {}", told(&error));
                return FAILED;
            }
        }
        0
    }
}

/// The first values of an embedding, as a person reads them.
pub(super) fn first_values(values: &[f32]) -> String {
    let shown: Vec<String> = values.iter().take(SHOWN).map(|value| format!("{value:+.3}")).collect();
    let more = if values.len() > SHOWN { " ..." } else { "" };
    format!("{}{more}", shown.join(" "))
}
