//! What is shown of a stream and what is written: a screen, and files. Each is told every event, and in the end that
//! nothing follows, however it ended.

mod figures;
mod lines;
mod picture;
mod screen;
mod subtitles;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use self::lines::Lines;
use self::picture::Picture;
use self::screen::Screen;
use self::subtitles::Subtitles;
use crate::cli::cue::Format;
use crate::watch::{Event, Finished};

/// The name that means standard output.
const STANDARD: &str = "-";

/// The options that say what is written.
#[derive(Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// Write the answers as subtitles (SubRip).
    #[arg(long, value_name = "FILE")]
    srt: Option<PathBuf>,
    /// Write the answers as subtitles (WebVTT).
    #[arg(long, value_name = "FILE")]
    vtt: Option<PathBuf>,
    /// Write every event as a line of JSON; - is standard output, which then shows nothing else.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// With --jsonl: write embeddings too.
    #[arg(long, requires = "jsonl")]
    pub embeddings: bool,
    /// Draw drift over time, and when words were made (PNG).
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

impl OutputArgs {
    fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [("--srt", &self.srt), ("--vtt", &self.vtt), ("--jsonl", &self.jsonl), ("--chart", &self.chart)];
        files.into_iter().filter_map(|(flag, file)| Some((flag, file.as_deref()?)))
    }

    /// Fails where one output would overwrite another one or the source.
    pub fn check(&self, source: &str) -> anyhow::Result<()> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut taken = vec![("SOURCE", real(Path::new(source)))];
        for (flag, file) in self.files() {
            let real = real(file);
            if let Some((other, _)) = taken.iter().find(|(_, path)| *path == real) {
                anyhow::bail!("{flag} {}: is {other} as well", file.display());
            }
            let standard = file == Path::new(STANDARD);
            ensure!(
                !standard || flag == "--jsonl",
                "{flag} is -, must be a file; only --jsonl writes to standard output"
            );
            taken.push((flag, real));
        }
        Ok(())
    }
}

/// Something that is written.
trait Output {
    /// Takes note of what happened.
    fn tell(&mut self, event: &Event) -> anyhow::Result<()>;

    /// Nothing follows; the session's last word if it had one.
    fn end(&mut self, finished: Option<&Finished>) -> anyhow::Result<()>;
}

/// The screen and everything that is written.
pub(super) struct Shown {
    screen: Screen,
    /// Each with its flag, for errors.
    outputs: Vec<(&'static str, Box<dyn Output>)>,
}

impl Shown {
    /// Makes all files, so that one that cannot be made is told before anything is computed.
    pub fn open(asked: &OutputArgs, questions: &[String], source: &str) -> anyhow::Result<Self> {
        let mut outputs: Vec<(&'static str, Box<dyn Output>)> = vec![];
        for (flag, file) in asked.files() {
            let named = || format!("{flag} {}", file.display());
            let output: Box<dyn Output> = match flag {
                "--srt" => Box::new(Subtitles::create(file, Format::Srt, questions.len()).with_context(named)?),
                "--vtt" => Box::new(Subtitles::create(file, Format::Vtt, questions.len()).with_context(named)?),
                "--jsonl" => Box::new(Lines::create(file, questions, asked.embeddings).with_context(named)?),
                _ => Box::new(Picture::create(file, questions, source).with_context(named)?),
            };
            outputs.push((flag, output));
        }
        let taken = asked.jsonl.as_deref() == Some(Path::new(STANDARD));
        Ok(Self { screen: Screen::new(questions, !taken), outputs })
    }

    /// Shows and writes what happened; `unsent` frames were dropped before the session knew of them. A fault of one output
    /// does not keep the others from being told.
    pub fn tell(&mut self, event: &Event, unsent: u64) -> anyhow::Result<()> {
        self.screen.tell(event, unsent);
        self.each(|output| output.tell(event))
    }

    /// Completes everything.
    pub fn end(&mut self, finished: Option<&Finished>, unsent: u64) -> anyhow::Result<()> {
        self.screen.end(finished, unsent);
        self.each(|output| output.end(finished))
    }

    fn each(&mut self, mut tell: impl FnMut(&mut dyn Output) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut faults = self.outputs.iter_mut().map(|(flag, output)| tell(output.as_mut()).context(*flag));
        let first = faults.by_ref().find(Result::is_err);
        // The rest are told all the same; one fault is enough to be heard.
        faults.for_each(drop);
        first.unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_output_overwrites_another_or_the_source() {
        let folder = tempfile::tempdir().expect("a folder");
        let (here, film) = (folder.path(), folder.path().join("film.mp4"));
        std::fs::write(&film, "").expect("a file");
        let none = || OutputArgs { srt: None, vtt: None, jsonl: None, embeddings: false, chart: None };
        let source = film.to_str().expect("a plain path");
        let other = Some(here.join("./film.mp4"));
        let error = OutputArgs { chart: other, ..none() }.check(source).expect_err("the source").to_string();
        assert!(error.starts_with("--chart ") && error.ends_with("is SOURCE as well"), "{error}");
        let [one, two] = [here.join("a"), here.join("b")].map(Some);
        let same = OutputArgs { srt: one.clone(), vtt: one.clone(), ..none() };
        assert!(same.check(source).expect_err("the same").to_string().ends_with("is --srt as well"));
        OutputArgs { srt: one, vtt: two, jsonl: Some("-".into()), ..none() }.check(source).expect("sound");
        assert!(OutputArgs { chart: Some("-".into()), ..none() }.check(source).is_err());
    }
}
