//! Training data from a file of JSON lines: `{"media": "cat.gif", "question": "...", "answer": "..."}`.
//!
//! Lines about one media file share its clip. Media paths are relative to the file; every media file is looked for
//! at the start, so a long run does not end at a typing error, and decoded when it is drawn.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::data::{Asked, DataError, Edges, Scene, Source, Ticket, mix};
use super::loss::unique;
use super::recipe::Stage;
use crate::input::{MediaLimits, Sampling, decode_media};

/// One line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    media: PathBuf,
    question: String,
    answer: String,
}

/// One media file and what the lines ask about it.
struct Media {
    path: PathBuf,
    line: usize,
    asked: Vec<Asked>,
}

/// A data file as a source.
pub struct LinesSource {
    file: PathBuf,
    clips: Vec<Media>,
    edges: Edges,
    limits: MediaLimits,
}

impl LinesSource {
    /// Reads and checks the whole file; the first fault is told with its line.
    pub fn open(file: &Path, edges: Edges, limits: MediaLimits) -> Result<LinesSource, DataError> {
        let lines = read(file)?;
        let fault = |line: usize, reason| DataError::Line { file: file.to_owned(), line, reason };
        let media: Vec<PathBuf> = lines.iter().map(|line| line.media.clone()).collect();
        let (media, indices) = unique(&media);
        let mut clips: Vec<Media> = Vec::with_capacity(media.len());
        for (number, (line, clip)) in lines.into_iter().zip(indices).enumerate() {
            let number = number + 1;
            if clip == clips.len() {
                let path = file.parent().unwrap_or(Path::new("")).join(&line.media);
                fs::metadata(&path).map_err(|e| fault(number, format!("media {}: {e}", line.media.display())))?;
                clips.push(Media { path, line: number, asked: Vec::new() });
            }
            let question = edges.question(&line.question).map_err(|e| fault(number, format!("question: {e}")))?;
            let answer = edges.answer(&line.answer).map_err(|e| fault(number, format!("answer: {e}")))?;
            for (field, ids) in [("question", &question), ("answer", &answer)] {
                if ids.is_empty() {
                    return Err(fault(number, format!("{field} has no words, at least 1 is needed")));
                }
            }
            clips[clip].asked.push(Asked { question, answer });
        }
        Ok(LinesSource { file: file.to_owned(), clips, edges, limits })
    }

    /// The media file of a draw: every epoch visits each once, in an order of its own.
    fn media(&self, ticket: Ticket) -> &Media {
        let count = self.clips.len() as u64;
        let (epoch, place) = (ticket.position / count, ticket.position % count);
        let order = mix(ticket.seed ^ mix(epoch ^ ((ticket.stage as u64) << 32)));
        // i -> stride * i + start is a permutation where the stride shares no factor with the count.
        let mut stride = order % count;
        while greatest_common_divisor(stride, count) != 1 {
            stride += 1;
        }
        let index = (u128::from(stride) * u128::from(place) + u128::from(order >> 32)) % u128::from(count);
        &self.clips[index as usize]
    }
}

impl Source for LinesSource {
    fn scene(&self, ticket: Ticket, stage: &Stage) -> Result<Scene, DataError> {
        let media = self.media(ticket);
        let fault = |e: &dyn std::fmt::Display| DataError::Line {
            file: self.file.clone(),
            line: media.line,
            reason: format!("media {}: {e}", media.path.display()),
        };
        let bytes = fs::read(&media.path).map_err(|e| fault(&e))?;
        let frames = decode_media(&bytes, &self.limits).map_err(|e| fault(&e))?;
        let clip = self.edges.preprocessor.clip(&frames, &Sampling::default()).map_err(|e| fault(&e))?;
        let mut asked = media.asked.clone();
        asked.shuffle(&mut ChaCha8Rng::seed_from_u64(ticket.hash()));
        asked.truncate(stage.questions);
        Ok(Scene { clip: Arc::new(clip), asked, decoys: Vec::new(), labels: None })
    }

    fn answers(&self, ticket: Ticket, _stage: &Stage, count: usize) -> Result<Vec<Vec<u32>>, DataError> {
        let mut rng = ChaCha8Rng::seed_from_u64(ticket.hash());
        let mut draw = || {
            let asked = &self.clips[rng.random_range(0..self.clips.len())].asked;
            asked[rng.random_range(0..asked.len())].answer.clone()
        };
        Ok((0..count).map(|_| draw()).collect())
    }
}

/// Every text of a data file, for a vocabulary.
pub fn texts(file: &Path) -> Result<Vec<String>, DataError> {
    Ok(read(file)?.into_iter().flat_map(|line| [line.question, line.answer]).collect())
}

fn read(file: &Path) -> Result<Vec<Line>, DataError> {
    let text = fs::read_to_string(file).map_err(|source| DataError::File { file: file.to_owned(), source })?;
    let fault = |line: usize, reason| DataError::Line { file: file.to_owned(), line, reason };
    let parse = |(index, line)| serde_json::from_str(line).map_err(|e| fault(index + 1, e.to_string()));
    let lines = text.trim_end().lines().enumerate().map(parse).collect::<Result<Vec<Line>, _>>()?;
    if lines.is_empty() { Err(DataError::Empty(file.to_owned())) } else { Ok(lines) }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
