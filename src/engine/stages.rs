//! A batch's way through the model, stage by stage: what is equal is computed once, and who has left meanwhile is
//! not computed for any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::TextCache;
use super::cost::Passed;
use super::queue::Entry;
use super::request::Timing;
use super::seen;
use super::trail::Stage;
use super::work::{Found, Job, Seen, Text, Then, Work};
use crate::embedding::{Embedding, rank};
use crate::input::{Clip, Tokens};
use crate::model::decoder::{DecodeOptions, TokenSampling};
use crate::model::error::ModelError;
use crate::model::vl_jepa::{self, VlJepa};

/// The model and what it remembers.
pub struct Stages<'a> {
    /// The name under which it is served.
    pub name: &'a Arc<str>,
    /// The model.
    pub model: &'a VlJepa,
    /// What it remembers.
    pub texts: &'a TextCache,
    /// The most that goes through the text encoder at once, tokens.
    pub texts_cost_max: usize,
}

/// A batch on its way.
struct Pass<'a> {
    model: &'a Arc<str>,
    entries: &'a [Entry<Job>],
    found: Vec<Found>,
    /// Equal for jobs whose first embeddings came about in the same way, where they have any.
    origins: Vec<Option<usize>>,
    origins_count: usize,
    passed: Passed,
    timing: Timing,
}

/// What a batch came to.
pub struct Outcome {
    /// One for each job, in their order; that of a job whose caller left is not whole.
    pub found: Vec<Found>,
    /// What passed through each stage.
    pub passed: Passed,
    /// How long each stage took.
    pub timing: Timing,
}

impl Stages<'_> {
    /// Does all work of a batch.
    pub fn run(&self, entries: &[Entry<Job>]) -> Result<Outcome, ModelError> {
        let mut pass = Pass {
            model: self.name,
            entries,
            found: entries.iter().map(|_| Found::default()).collect(),
            origins: vec![None; entries.len()],
            origins_count: 0,
            passed: Passed::default(),
            timing: Timing::default(),
        };
        self.predict(&mut pass)?;
        pass.take_given();
        self.embed_texts(&mut pass)?;
        self.speak(&mut pass)?;
        let Pass { mut found, passed, timing, .. } = pass;
        found.iter_mut().for_each(|found| found.timing = timing);
        Ok(Outcome { found, passed, timing })
    }

    fn predict<'e>(&self, pass: &mut Pass<'e>) -> Result<(), ModelError> {
        let scenes: Vec<(usize, &Seen, &[Tokens])> = pass.asked().collect();
        if scenes.is_empty() {
            return Ok(());
        }
        let (clips, clip_of) = distinct(scenes.iter().map(|(_, seen, _)| *seen), |a, b| same_clip(a, b));
        let clips: Vec<Arc<Clip>> = clips.into_iter().map(|seen| seen.clip.clone()).collect();
        let visual = pass.timed("vision", |timing| &mut timing.vision, || self.model.see(&clips))?;
        pass.passed.vision += visual.iter().map(|visual| visual.len()).sum::<usize>();
        let scenes: Vec<_> = scenes.into_iter().zip(clip_of).filter(|((at, ..), _)| pass.waits(*at)).collect();
        let questions = |((_, _, questions), clip): &((usize, &Seen, &'e [Tokens]), usize)| {
            let clip = *clip;
            questions.iter().map(move |question| (clip, question))
        };
        let (asked, asked_of) = distinct(scenes.iter().flat_map(questions), |a, b| a.0 == b.0 && a.1.ids == b.1.ids);
        let asked: Vec<_> = asked
            .into_iter()
            .map(|(clip, question)| vl_jepa::Scene { visual: visual[clip].clone(), question: question.clone() })
            .collect();
        let embeddings = pass.timed("predictor", |timing| &mut timing.predictor, || self.model.predict(&asked))?;
        pass.passed.predictor += asked.iter().map(|asked| asked.visual.len() + asked.question.ids.len()).sum::<usize>();
        let mut asked_of = asked_of.into_iter();
        for ((at, _, questions), clip) in scenes {
            let answers: Vec<usize> = asked_of.by_ref().take(questions.len()).collect();
            pass.origins[at] = answers.first().copied();
            pass.found[at].visual_tokens = visual[clip].len();
            pass.found[at].embeddings = answers.into_iter().map(|answer| embeddings[answer].clone()).collect();
        }
        pass.origins_count = embeddings.len();
        Ok(())
    }

    /// Embeds texts and candidates, and ranks the candidates.
    fn embed_texts(&self, pass: &mut Pass) -> Result<(), ModelError> {
        let started = Instant::now();
        let known = self.unknown_embeddings(pass)?;
        let logit_scale = self.model.facts().logit_scale;
        let embedding = |text: &Text| match &text.known {
            Some(embedding) => embedding.clone(),
            None => known[&text.tokens.ids[..]].clone(),
        };
        for (at, job) in pass.wanted() {
            let (texts, found) = (job.work.texts(), &mut pass.found[at]);
            let embeddings = texts.iter().map(embedding);
            match &job.work {
                Work::Texts(_) => found.embeddings = embeddings.map(Arc::unwrap_or_clone).collect(),
                _ if texts.is_empty() => continue,
                _ => {
                    let candidates: Vec<_> = embeddings.collect();
                    let ranked = rank(&found.embeddings[0], &candidates, logit_scale);
                    found.ranked = ranked.expect("one model has one space");
                    found.ranked.sort_by_key(|ranked| ranked.index);
                }
            }
        }
        if pass.wanted().any(|(_, job)| !job.work.texts().is_empty()) {
            pass.told("text", |timing| &mut timing.text, started);
        }
        Ok(())
    }

    /// The embeddings of the texts whose embeddings were not known when they were prepared.
    fn unknown_embeddings<'a>(&self, pass: &mut Pass<'a>) -> Result<HashMap<&'a [u32], Arc<Embedding>>, ModelError> {
        let mut known = HashMap::new();
        let mut missing = HashMap::new();
        for text in pass.wanted().flat_map(|(_, job)| job.work.texts()).filter(|text| text.known.is_none()) {
            match self.texts.meanwhile(&text.tokens.ids) {
                Some(embedding) => drop(known.insert(&text.tokens.ids[..], embedding)),
                None => drop(missing.insert(&text.tokens.ids[..], &text.tokens)),
            }
        }
        let mut missing: Vec<_> = missing.into_values().cloned().collect();
        missing.sort_by(|a, b| a.ids.cmp(&b.ids));
        let mut embedded = HashMap::new();
        for texts in pieces(&missing, |text| text.ids.len(), self.texts_cost_max) {
            // Nobody is left: nobody will look for the rest.
            if pass.wanted().next().is_none() {
                break;
            }
            let embeddings = self.model.embed_text(texts)?;
            pass.passed.text += texts.iter().map(|text| text.ids.len()).sum::<usize>();
            for (text, embedding) in texts.iter().zip(embeddings) {
                let embedding = Arc::new(embedding);
                self.texts.insert(text.ids.clone(), embedding.clone());
                embedded.insert(text.ids.clone(), embedding);
            }
        }
        let texts = pass.entries.iter().flat_map(|entry| entry.work.work.texts()).map(|text| &text.tokens.ids[..]);
        known.extend(texts.filter_map(|ids| Some((ids, embedded.get(ids)?.clone()))));
        Ok(known)
    }

    /// Puts embeddings into words: the greedy ones together, each sampled one alone, for its words must depend on
    /// its own seed and not on who else was asked.
    fn speak(&self, pass: &mut Pass) -> Result<(), ModelError> {
        let spoken = pass.wanted().filter_map(|(at, job)| match job.work.then() {
            Then::Decode(options) => Some((at, pass.origins[at], options)),
            _ => None,
        });
        let spoken: Vec<_> = spoken.collect();
        let same = |a: &(usize, _, &DecodeOptions), b: &(usize, _, &DecodeOptions)| a.1 == b.1 && alike(a.2, b.2);
        let (asked, asked_of) = distinct(spoken.iter().copied(), same);
        let mut words = vec![String::new(); asked.len()];
        let together = |a: &(usize, &DecodeOptions), b: &(usize, &DecodeOptions)| {
            alike(a.1, b.1) && a.1.sampling == TokenSampling::Greedy
        };
        let (groups, group_of) = distinct(asked.iter().map(|(at, _, options)| (*at, *options)), together);
        for (group, (_, options)) in groups.into_iter().enumerate() {
            let members: Vec<usize> = (0..asked.len()).filter(|&member| group_of[member] == group).collect();
            let mut waiting = spoken.iter().zip(&asked_of).filter(|(_, asked)| members.contains(asked));
            if !waiting.any(|((at, ..), _)| pass.waits(*at)) {
                continue;
            }
            let embeddings: Vec<Embedding> =
                members.iter().map(|&member| pass.found[asked[member].0].embeddings[0].clone()).collect();
            let texts =
                pass.timed("decoder", |timing| &mut timing.decoder, || self.model.decode(&embeddings, options))?;
            pass.passed.decoder += options.max_tokens * embeddings.len();
            members.into_iter().zip(texts).for_each(|(member, text)| words[member] = text);
        }
        for ((at, ..), asked) in spoken.into_iter().zip(asked_of) {
            pass.found[at].spoken = Some(words[asked].clone());
        }
        Ok(())
    }
}

/// A stage's place in the timing of its batch.
type Total = fn(&mut Timing) -> &mut Duration;

impl<'a> Pass<'a> {
    fn timed<T>(&mut self, name: &'static str, total: Total, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let outcome = work();
        self.told(name, total, started);
        outcome
    }

    /// Tells the metrics, and all whose work is in the batch, that a stage is over.
    fn told(&mut self, name: &'static str, total: Total, started: Instant) {
        let stage = Stage { name, started, ended: Instant::now() };
        *total(&mut self.timing) += stage.took();
        seen::stage(self.model, name, stage.took());
        self.entries.iter().for_each(|entry| entry.call.trail.passed(stage));
    }

    fn waits(&self, at: usize) -> bool {
        self.entries[at].work.wanted()
    }

    /// The jobs that somebody still waits for; nobody comes back.
    fn wanted(&self) -> impl Iterator<Item = (usize, &'a Job)> + use<'a> {
        self.entries.iter().map(|entry| &entry.work).enumerate().filter(|(_, job)| job.wanted())
    }

    /// The clips among them and what is asked about each.
    fn asked(&self) -> impl Iterator<Item = (usize, &'a Seen, &'a [Tokens])> + use<'a> {
        self.wanted().filter_map(|(at, job)| job.work.asked().map(|(seen, questions)| (at, seen, questions)))
    }

    /// Takes the embeddings that were brought along, behind those that were predicted.
    fn take_given(&mut self) {
        let given = self.wanted().filter_map(|(at, job)| match &job.work {
            Work::Words(words) => Some((at, &words.embedding)),
            _ => None,
        });
        let (at, given): (Vec<usize>, Vec<&Embedding>) = given.unzip();
        let (embeddings, origins) = distinct(given.into_iter(), |a, b| a == b);
        for (at, origin) in at.into_iter().zip(origins) {
            self.origins[at] = Some(self.origins_count + origin);
            self.found[at].embeddings = vec![embeddings[origin].clone()];
        }
        self.origins_count += embeddings.len();
    }
}

/// Runs of neighbours whose cost is at most `cost_max` together; a dearer one is a run of its own.
pub fn pieces<T>(items: &[T], cost: impl Fn(&T) -> usize, cost_max: usize) -> Vec<&[T]> {
    let (mut pieces, mut rest) = (Vec::new(), items);
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = |item: &&T| {
            sum += cost(item);
            sum <= cost_max
        };
        let (piece, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        pieces.push(piece);
        rest = later;
    }
    pieces
}

/// The items that differ, and which of them each one is the same as.
fn distinct<T>(items: impl Iterator<Item = T>, same: impl Fn(&T, &T) -> bool) -> (Vec<T>, Vec<usize>) {
    let mut seen: Vec<T> = Vec::new();
    let which = items
        .map(|item| {
            seen.iter().position(|other| same(other, &item)).unwrap_or_else(|| {
                seen.push(item);
                seen.len() - 1
            })
        })
        .collect();
    (seen, which)
}

fn same_clip(a: &Seen, b: &Seen) -> bool {
    a.digest == b.digest && (Arc::ptr_eq(&a.clip, &b.clip) || a.clip.pixels == b.clip.pixels)
}

fn alike(a: &DecodeOptions, b: &DecodeOptions) -> bool {
    a.max_tokens == b.max_tokens && a.sampling == b.sampling
}

#[cfg(test)]
mod tests;
