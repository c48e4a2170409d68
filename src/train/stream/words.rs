//! What is said at the spots: each embedding is put into words once, however many ways ask for it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::recording::Recording;
use super::ways::Spot;
use crate::train::data::Edges;
use crate::train::evaluate::{EvaluateError, Rows, Subject};
use crate::train::loss::{dot, unique};
use crate::train::step::each;

/// How an embedding is put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Voice {
    /// The model's decoder.
    Decoder,
    /// The nearest of the captions that occur.
    Nearest,
}

/// Texts of embeddings, made as they are asked for.
pub struct Words<'a> {
    subject: &'a dyn Subject,
    recordings: &'a [Recording],
    /// What may be said, and where it lies.
    captions: (Vec<String>, Rows),
    threads: usize,
    speaks: bool,
    /// Numbers of texts by recording and run.
    said: HashMap<(usize, Range<usize>), [usize; 2]>,
    texts: Vec<String>,
    numbers: HashMap<String, usize>,
}

/// Embeddings a pass of the decoder.
const BATCH: usize = 64;

impl<'a> Words<'a> {
    /// Nothing said yet. The captions to choose from are those of the recordings.
    pub fn new(
        subject: &'a dyn Subject,
        edges: &Edges,
        recordings: &'a [Recording],
        threads: usize,
    ) -> Result<Words<'a>, EvaluateError> {
        let all = recordings.iter().flat_map(|recording| &recording.annotations);
        let captions = unique(&all.map(|annotation| annotation.caption.clone()).collect::<Vec<_>>()).0;
        let ids = captions.iter().map(|text| edges.answer(text)).collect::<Result<Vec<_>, _>>()?;
        let mut rows = Rows::new();
        for ids in ids.chunks(BATCH) {
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            rows.extend(subject.embed(&ids).map_err(EvaluateError::Model)?);
        }
        let speaks = subject.decode(&Rows::new()).map_err(EvaluateError::Model)?.is_some();
        let (said, texts, numbers) = Default::default();
        Ok(Words { subject, recordings, captions: (captions, rows), threads, speaks, said, texts, numbers })
    }

    /// How many captions the nearest is chosen from.
    pub fn candidates(&self) -> usize {
        self.captions.0.len()
    }

    /// The voices of the model.
    pub fn voices(&self) -> &'static [Voice] {
        if self.speaks { &[Voice::Decoder, Voice::Nearest] } else { &[Voice::Nearest] }
    }

    /// Sees to it that every spot of these recordings' spots has its words.
    pub fn make(&mut self, spots: &[Vec<Spot>]) -> Result<(), EvaluateError> {
        let asked =
            spots.iter().enumerate().flat_map(|(at, spots)| spots.iter().map(move |s| (at, s.run.start, s.run.end)));
        let missing: BTreeSet<_> =
            asked.filter(|&(at, start, end)| !self.said.contains_key(&(at, start..end))).collect();
        let missing: Vec<(usize, Range<usize>)> =
            missing.into_iter().map(|(at, start, end)| (at, start..end)).collect();
        let share = missing.len().div_ceil(self.threads.max(1)).clamp(1, BATCH);
        let batches: Vec<&[(usize, Range<usize>)]> = missing.chunks(share).collect();
        let mut made: Vec<[String; 2]> = Vec::with_capacity(missing.len());
        for round in batches.chunks(self.threads.max(1)) {
            let texts = each(round.to_vec(), |_, batch| self.texts_of(batch)).map_err(EvaluateError::Model)?;
            made.extend(texts.into_iter().flatten());
        }
        for (key, texts) in missing.into_iter().zip(made) {
            let numbers = texts.map(|text| self.number(text));
            self.said.insert(key, numbers);
        }
        Ok(())
    }

    /// The number of the text of a spot; equal texts have equal numbers. None where it was not made.
    pub fn said(&self, recording: usize, spot: &Spot, voice: Voice) -> Option<usize> {
        let said = self.said.get(&(recording, spot.run.clone()))?;
        Some(said[if voice == Voice::Decoder { 0 } else { 1 }])
    }

    /// A text by its number.
    pub fn text(&self, number: usize) -> &str {
        &self.texts[number]
    }

    fn number(&mut self, text: String) -> usize {
        let next = self.texts.len();
        *self.numbers.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            next
        })
    }

    /// What the decoder says, if there is one, and the nearest caption.
    fn texts_of(&self, batch: &[(usize, Range<usize>)]) -> Result<Vec<[String; 2]>, String> {
        let rows: Rows = batch.iter().map(|(at, run)| self.recordings[*at].pooled(run)).collect();
        let decoded = self.subject.decode(&rows)?;
        let decoded = decoded.unwrap_or_else(|| vec![String::new(); rows.len()]);
        let nearest = |row: &Vec<f32>| {
            let (texts, places) = &self.captions;
            let best =
                (0..texts.len()).max_by(|&a, &b| dot(&places[a], row).total_cmp(&dot(&places[b], row)).then(b.cmp(&a)));
            best.map_or_else(String::new, |index| texts[index].clone())
        };
        Ok(decoded.into_iter().zip(&rows).map(|(text, row)| [text, nearest(row)]).collect())
    }
}
