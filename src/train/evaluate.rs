//! What a model knows: for every question family the share of right answers on clips that were never trained on, with
//! what guessing would score beside it.
//!
//! Clips are drawn for each family so that its answers come out even. Seeds have the bit that training's have not.

use std::fmt::{self, Display};
use std::ops::Range;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::data::{EVALUATION, Edges, mix};
use super::loss::{dot, unique};
use super::step::each;
use super::world::{Config, Family, Pairs, Phrasings, World, majority};
use crate::input::{Clip, InputError};

/// Something that can be examined: rows are unit embeddings of one space.
pub trait Subject: Sync {
    /// A row a question about a clip.
    fn predict(&self, clips: &[Arc<Clip>], questions: &[&[u32]]) -> Result<Rows, String>;

    /// A row a text.
    fn embed(&self, texts: &[&[u32]]) -> Result<Rows, String>;

    /// A text a row; `None` without a decoder.
    fn decode(&self, rows: &Rows) -> Result<Option<Vec<String>>, String>;
}

/// Embeddings, a row each.
pub type Rows = Vec<Vec<f32>>;

/// What is asked in an exam.
#[derive(Clone, Debug)]
pub struct ExamSettings {
    /// Clips a family, one question each.
    pub clips: usize,
    /// Windows over streams, of which it is asked what happens and for a description; 0 for none.
    pub windows: usize,
    /// Which clips; any number.
    pub seed: u64,
    /// Frames of a clip, and pixels of a frame's side.
    pub frames: usize,
    /// Pixels of a frame's side.
    pub size: usize,
    /// Which phrasings are used.
    pub phrasings: Phrasings,
    /// Which colour-shape pairs occur.
    pub pairs: Pairs,
    /// Ask again about grey pictures and let the decoder speak: what a whole report has.
    pub thorough: bool,
    /// Threads.
    pub threads: usize,
}

/// The outcome of an exam.
#[derive(Clone, Debug, Serialize)]
pub struct Exam {
    /// One line a family.
    pub families: Vec<FamilyScore>,
    /// The same of windows over streams; not in the means.
    pub windows: Vec<FamilyScore>,
    /// Mean of the families' accuracies.
    pub mean: f32,
    /// Mean of what always giving the most frequent answer scores.
    pub majority_mean: f32,
    /// Of captions: share whose nearest clip has this caption; clips in the pool.
    pub retrieval: Option<(f32, usize)>,
}

/// A family's outcome; shares are from 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyScore {
    /// Its name.
    pub family: String,
    /// Questions asked.
    pub questions: usize,
    /// Answers to choose from.
    pub candidates: usize,
    /// Right answers, chosen among the family's candidates.
    pub accuracy: f32,
    /// What always giving the most frequent answer would score.
    pub majority: f32,
    /// Right answers about grey pictures: what the question alone gives away.
    pub blind: Option<f32>,
    /// Right answers, chosen among the answers of all families.
    pub open: f32,
    /// Answers that the decoder spells exactly.
    pub decoded: Option<f32>,
    /// The largest cosine between two different candidates; near 1 they have collapsed.
    pub closest: f32,
    /// Which two.
    pub closest_pair: (String, String),
}

/// Why an exam cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A clip or a text was refused.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The model failed.
    #[error("the model failed: {0}")]
    Model(String),
}

/// A question with its clip.
struct Item {
    clip: Arc<Clip>,
    question: Vec<u32>,
    answer: String,
}

/// Texts with their embeddings.
struct Answers {
    texts: Vec<String>,
    rows: Rows,
}

/// Clips a forward pass.
const BATCH: usize = 16;

/// Examines `subject` in every family.
pub fn examine(subject: &dyn Subject, edges: &Edges, settings: &ExamSettings) -> Result<Exam, EvaluateError> {
    let config = Config { frames: settings.frames, pairs: settings.pairs, ..Config::default() };
    let world = World::new(config);
    let mut papers = Vec::new();
    for (index, family) in Family::ALL.iter().enumerate() {
        papers.push(draw(&world, *family, index as u64, edges, settings)?);
    }
    let everything: Vec<String> = papers.iter().zip(Family::ALL).flat_map(|(items, f)| choices(*f, items)).collect();
    let everything = embed(subject, edges, unique(&everything).0)?;
    let mut exam = Exam { families: Vec::new(), windows: Vec::new(), mean: 0.0, majority_mean: 0.0, retrieval: None };
    for (family, items) in Family::ALL.iter().zip(&papers) {
        let (score, retrieved) = mark(subject, (*family, items, &everything), settings)?;
        exam.families.push(score);
        exam.retrieval = retrieved.or(exam.retrieval);
    }
    for family in WINDOWS.into_iter().filter(|_| settings.windows > 0) {
        let items = draw_windows(&world, family, edges, settings)?;
        let texts = [everything.texts.clone(), choices(family, &items)].concat();
        let everything = embed(subject, edges, unique(&texts).0)?;
        let (mut score, _) = mark(subject, (family, &items, &everything), settings)?;
        score.family = format!("of windows: {}", family.name());
        exam.windows.push(score);
    }
    let mean = |of: fn(&FamilyScore) -> f32| exam.families.iter().map(of).sum::<f32>() / exam.families.len() as f32;
    (exam.mean, exam.majority_mean) = (mean(|f| f.accuracy), mean(|f| f.majority));
    Ok(exam)
}

/// Marks a paper: the score, and of captions the retrieval.
fn mark(
    subject: &dyn Subject,
    (family, items, everything): (Family, &[Item], &Answers),
    settings: &ExamSettings,
) -> Result<(FamilyScore, Option<(f32, usize)>), EvaluateError> {
    let rows = predict(subject, items, settings.threads)?;
    let own = everything.only(&choices(family, items));
    let mut score = score(family, items, &rows, (&own, everything));
    if settings.thorough {
        let blind = predict(subject, &greyed(items), settings.threads)?;
        score.blind = Some(share(items, |i| own.nearest(&blind[i]) == items[i].answer));
        let said = subject.decode(&rows).map_err(EvaluateError::Model)?;
        score.decoded = said.map(|said| share(items, |i| same_words(&said[i], &items[i].answer)));
    }
    let open = family.candidates().is_empty();
    Ok((score, open.then(|| (retrieval(items, &rows, &own), items.len()))))
}

/// What is asked of windows.
const WINDOWS: [Family; 2] = [Family::Event, Family::Describe];

/// The questions of a family about windows over streams, as often as windows have each answer.
fn draw_windows(
    world: &World,
    family: Family,
    edges: &Edges,
    settings: &ExamSettings,
) -> Result<Vec<Item>, EvaluateError> {
    let stream = mix(settings.seed ^ mix(Family::ALL.len() as u64));
    let mut items = Vec::with_capacity(settings.windows);
    for number in 0..settings.windows as u64 {
        let seed = mix(stream ^ number) | EVALUATION;
        let window = world.window(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed));
        for asked in window.questions(1, &[(family, 1.0)], settings.phrasings, &mut rng) {
            items.push(Item {
                clip: edges.film(window.render(settings.size), settings.size)?,
                question: edges.question(&asked.question)?,
                answer: asked.answer,
            });
        }
    }
    Ok(items)
}

/// The questions of a family, drawn and prepared over threads.
fn draw(
    world: &World,
    family: Family,
    index: u64,
    edges: &Edges,
    settings: &ExamSettings,
) -> Result<Vec<Item>, EvaluateError> {
    let stream = mix(settings.seed ^ mix(index));
    let one = |number: u64| -> Result<Item, InputError> {
        let seed = mix(stream ^ number) | EVALUATION;
        let (scenario, question) = world.clip_for(family, settings.phrasings, seed);
        let ids = edges.question(&question.question)?;
        Ok(Item {
            clip: edges.clip(&scenario, settings.size, settings.frames)?,
            question: ids,
            answer: question.answer,
        })
    };
    let shards = spans(settings.clips, settings.threads);
    let drawn = each(shards, |_, span: Range<usize>| span.map(|i| one(i as u64)).collect::<Result<Vec<_>, _>>())?;
    Ok(drawn.into_iter().flatten().collect())
}

/// What a family is answered from: its closed list, or else the different answers that occur.
fn choices(family: Family, items: &[Item]) -> Vec<String> {
    let closed = family.candidates();
    if !closed.is_empty() {
        return closed;
    }
    unique(&items.iter().map(|item| item.answer.clone()).collect::<Vec<_>>()).0
}

fn embed(subject: &dyn Subject, edges: &Edges, texts: Vec<String>) -> Result<Answers, EvaluateError> {
    let ids = texts.iter().map(|text| edges.answer(text)).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let rows = subject.embed(&ids).map_err(EvaluateError::Model)?;
    Ok(Answers { texts, rows })
}

fn predict(subject: &dyn Subject, items: &[Item], threads: usize) -> Result<Rows, EvaluateError> {
    let batch = |items: &[Item]| {
        let clips: Vec<_> = items.iter().map(|item| Arc::clone(&item.clip)).collect();
        let questions: Vec<_> = items.iter().map(|item| item.question.as_slice()).collect();
        subject.predict(&clips, &questions)
    };
    let shards = spans(items.len(), threads);
    let rows = each(shards, |_, span: Range<usize>| {
        let batches = items[span].chunks(BATCH).map(batch).collect::<Result<Vec<_>, _>>()?;
        Ok(batches.into_iter().flatten().collect::<Rows>())
    });
    Ok(rows.map_err(EvaluateError::Model)?.into_iter().flatten().collect())
}

/// The same questions about grey pictures.
fn greyed(items: &[Item]) -> Vec<Item> {
    let grey = |item: &Item| {
        let mut clip = Clip::clone(&item.clip);
        clip.pixels.fill(0.0);
        Item { clip: Arc::new(clip), question: item.question.clone(), answer: item.answer.clone() }
    };
    items.iter().map(grey).collect()
}

fn score(family: Family, items: &[Item], rows: &Rows, (own, everything): (&Answers, &Answers)) -> FamilyScore {
    let (closest, closest_pair) = own.closest();
    let most = majority(items.iter().map(|item| item.answer.as_str())).map_or(0.0, |(_, share)| share);
    FamilyScore {
        family: family.name().to_owned(),
        questions: items.len(),
        candidates: own.texts.len(),
        accuracy: share(items, |i| own.nearest(&rows[i]) == items[i].answer),
        majority: most,
        blind: None,
        open: share(items, |i| everything.nearest(&rows[i]) == items[i].answer),
        decoded: None,
        closest,
        closest_pair,
    }
}

/// Share of texts whose nearest clip has this very text.
fn retrieval(items: &[Item], rows: &Rows, captions: &Answers) -> f32 {
    let nearest = |text: &Vec<f32>| {
        let best = (0..rows.len()).max_by(|&a, &b| dot(&rows[a], text).total_cmp(&dot(&rows[b], text)));
        best.map(|index| items[index].answer.as_str())
    };
    let found = captions.texts.iter().zip(&captions.rows).filter(|(text, row)| nearest(row) == Some(text.as_str()));
    found.count() as f32 / captions.texts.len().max(1) as f32
}

impl Answers {
    /// Those of some texts.
    fn only(&self, texts: &[String]) -> Answers {
        let place = |text: &String| self.texts.iter().position(|known| known == text);
        let rows = texts.iter().filter_map(place).map(|index| self.rows[index].clone()).collect();
        Answers { texts: texts.to_vec(), rows }
    }

    fn nearest(&self, row: &[f32]) -> &str {
        let best = (0..self.rows.len()).max_by(|&a, &b| dot(&self.rows[a], row).total_cmp(&dot(&self.rows[b], row)));
        best.map_or("", |index| &self.texts[index])
    }

    fn closest(&self) -> (f32, (String, String)) {
        let mut best = (f32::NEG_INFINITY, (0, 0));
        for i in 0..self.rows.len() {
            for j in 0..i {
                let cosine = dot(&self.rows[i], &self.rows[j]);
                if cosine > best.0 {
                    best = (cosine, (j, i));
                }
            }
        }
        let (cosine, (i, j)) = best;
        let text = |index: usize| self.texts.get(index).cloned().unwrap_or_default();
        (cosine, (text(i), text(j)))
    }
}

fn share(items: &[Item], right: impl Fn(usize) -> bool) -> f32 {
    (0..items.len()).filter(|i| right(*i)).count() as f32 / items.len().max(1) as f32
}

fn same_words(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// `count` items cut into as many runs as there are threads, none of them empty.
pub(super) fn spans(count: usize, threads: usize) -> Vec<Range<usize>> {
    (0..threads).map(|i| count * i / threads..count * (i + 1) / threads).filter(|span| !span.is_empty()).collect()
}

impl Display for Exam {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let part = |value: Option<f32>| value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value));
        writeln!(f, "family         n   of  right  most  blind   open  words  closest two answers")?;
        for line in self.families.iter().chain(&self.windows) {
            let (one, other) = &line.closest_pair;
            writeln!(
                f,
                "{:<12} {:>3} {:>4} {:>6} {:>5} {:>6} {:>6} {:>6}  {:.2} {one} / {other}",
                line.family,
                line.questions,
                line.candidates,
                part(Some(line.accuracy)),
                part(Some(line.majority)),
                part(line.blind),
                part(Some(line.open)),
                part(line.decoded),
                line.closest,
            )?;
        }
        writeln!(f, "{:<21} {:>6} {:>5}", "mean of families", part(Some(self.mean)), part(Some(self.majority_mean)))?;
        if let Some((recall, pool)) = self.retrieval {
            writeln!(f, "caption to clip, first of {pool}: {}", part(Some(recall)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        let texts = ["left", "right", "up"].map(String::from).to_vec();
        Answers { texts, rows: vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.8, 0.6]] }
    }

    #[test]
    fn the_nearest_and_the_closest_two() {
        let answers = answers();
        assert_eq!(answers.nearest(&[0.1, 0.9]), "right");
        let (cosine, pair) = answers.closest();
        assert!((cosine - 0.8).abs() < 1e-6);
        assert_eq!(pair, ("left".to_owned(), "up".to_owned()));
        assert_eq!(answers.only(&["up".to_owned()]).rows, vec![vec![0.8, 0.6]]);
    }

    #[test]
    fn spans_cover_everything_and_none_is_empty() {
        assert_eq!(spans(5, 2), vec![0..2, 2..5]);
        assert_eq!(spans(1, 4), vec![0..1]);
        assert!(spans(0, 4).is_empty());
    }
}
