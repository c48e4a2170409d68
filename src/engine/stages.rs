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
use super::work::{Found, Job, Scene, Seen, Text, Then, Work};
use crate::embedding::{Embedding, rank};
use crate::input::Clip;
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
    /// Equal for jobs with equal scenes.
    scenes: Vec<Option<usize>>,
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
            scenes: vec![None; entries.len()],
            passed: Passed::default(),
            timing: Timing::default(),
        };
        self.predict(&mut pass)?;
        self.embed_texts(&mut pass)?;
        self.speak(&mut pass)?;
        let Pass { mut found, passed, timing, .. } = pass;
        found.iter_mut().for_each(|found| found.timing = timing);
        Ok(Outcome { found, passed, timing })
    }

    fn predict(&self, pass: &mut Pass) -> Result<(), ModelError> {
        let scenes: Vec<(usize, &Scene)> = pass.scenes().collect();
        if scenes.is_empty() {
            return Ok(());
        }
        let (clips, clip_of) = distinct(scenes.iter().map(|(_, scene)| &scene.seen), |a, b| same_clip(a, b));
        let clips: Vec<Arc<Clip>> = clips.into_iter().map(|seen| seen.clip.clone()).collect();
        let visual = pass.timed("vision", |timing| &mut timing.vision, || self.model.see(&clips))?;
        pass.passed.vision += visual.iter().map(|visual| visual.len()).sum::<usize>();
        let scenes: Vec<_> = scenes.into_iter().zip(clip_of).filter(|((at, _), _)| pass.waits(*at)).collect();
        let questions = scenes.iter().map(|((_, scene), clip)| (*clip, &scene.question));
        let (asked, asked_of) = distinct(questions, |a, b| a.0 == b.0 && a.1.ids == b.1.ids);
        let asked: Vec<_> = asked
            .into_iter()
            .map(|(clip, question)| vl_jepa::Scene { visual: visual[clip].clone(), question: question.clone() })
            .collect();
        let embeddings = pass.timed("predictor", |timing| &mut timing.predictor, || self.model.predict(&asked))?;
        pass.passed.predictor += asked.iter().map(|asked| asked.visual.len() + asked.question.ids.len()).sum::<usize>();
        for (((at, _), _), scene) in scenes.into_iter().zip(asked_of) {
            pass.scenes[at] = Some(scene);
            pass.found[at].visual_tokens = asked[scene].visual.len();
            pass.found[at].embeddings = vec![embeddings[scene].clone()];
        }
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
                Work::Scene(_) if texts.is_empty() => continue,
                Work::Scene(_) => {
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
        let spoken = pass.scenes().filter_map(|(at, scene)| match &scene.then {
            Then::Decode(options) => Some((at, pass.scenes[at], options)),
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

    /// The scenes among them.
    fn scenes(&self) -> impl Iterator<Item = (usize, &'a Scene)> + use<'a> {
        self.wanted().filter_map(|(at, job)| match &job.work {
            Work::Scene(scene) => Some((at, scene)),
            Work::Texts(_) => None,
        })
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
mod tests {
    use super::*;
    use crate::engine::admission::{Admission, Load};
    use crate::engine::memory::Memory;
    use crate::engine::request::{Call, ClipFacts};
    use crate::input::Frame;
    use crate::model::bundle::Bundle;
    use crate::settings::QueueSettings;
    use tokio::sync::oneshot;

    /// Work, and where its caller waits.
    fn entry(work: Work) -> (Entry<Job>, oneshot::Receiver<Result<Found, crate::engine::EngineError>>) {
        let door = Admission::new(Load { items: 1, cost: 1 }, &QueueSettings::default());
        let call = Call::interactive(Instant::now());
        let permit = Arc::new(door.enter(call.class, Load::one(1)).expect("room"));
        let (reply, waits) = oneshot::channel();
        (Entry { cost: work.cost(), work: Job { work, reply, permit }, arrived: call.deadline, call }, waits)
    }

    fn scene(model: &VlJepa, level: u8, question: &str, then: Then) -> Work {
        let frame = Frame { width: 8, height: 8, rgb: vec![level; 192], pts_ms: 0 };
        let clip = Arc::new(model.preprocessor.clip(&[frame], &Default::default()).expect("a clip"));
        let question = model.tokenize_question(question).expect("tokens");
        let seen =
            Seen { clip, digest: level.into(), tokens: 1, facts: ClipFacts::default(), _memory: Memory::new(0).hold() };
        Work::Scene(Scene { seen, question, then })
    }

    fn speak(sampling: TokenSampling) -> Then {
        Then::Decode(DecodeOptions { max_tokens: 4, sampling })
    }

    #[test]
    fn what_is_equal_is_computed_once_and_what_nobody_waits_for_not_at_all() {
        let model = VlJepa::load(&Bundle::bundled().expect("a bundle")).expect("a model");
        let (texts, name) = (TextCache::new(0, 0), Arc::from("one"));
        let stages = Stages { name: &name, model: &model, texts: &texts, texts_cost_max: 5 };
        let run = |works: Vec<Work>| {
            let (entries, waits): (Vec<_>, Vec<_>) = works.into_iter().map(entry).unzip();
            let outcome = stages.run(&entries).expect("an outcome");
            drop(waits);
            outcome
        };
        let text = |text: &str| Text { tokens: model.tokenize_text(text).expect("tokens"), known: None };
        let sampled = || speak(TokenSampling::TopP { temperature: 2.0, top_p: 1.0, seed: 7 });
        let works = || {
            vec![
                scene(&model, 9, "what is red?", speak(TokenSampling::Greedy)),
                scene(&model, 9, "what is red?", Then::Rank(vec![text("a red circle"), text("a blue circle")])),
                Work::Texts(vec![text("a blue circle"), text("a red circle"), text("a blue circle")]),
                scene(&model, 9, "what is red?", sampled()),
            ]
        };
        let (once, twice) = (run(works()), run(works().into_iter().chain(works()).collect()));
        assert_eq!(once.passed, twice.passed);
        assert!(once.passed.stages().iter().all(|&tokens| tokens > 0), "{:?}", once.passed);
        for (at, found) in twice.found.iter().enumerate() {
            let alone = &once.found[at % 4];
            assert_eq!(
                (&found.spoken, &found.ranked, &found.embeddings),
                (&alone.spoken, &alone.ranked, &alone.embeddings)
            );
        }
        let more = |work| run(works().into_iter().chain([work]).collect()).passed;
        let greedy = || speak(TokenSampling::Greedy);
        let Passed { vision, predictor, decoder, .. } = once.passed;
        let other_clip = more(scene(&model, 8, "what is red?", greedy()));
        assert!(other_clip.vision == 2 * vision && other_clip.predictor == 2 * predictor);
        let other_question = more(scene(&model, 9, "what is blue?", greedy()));
        assert!(other_question.vision == vision && other_question.decoder == decoder + 4);

        let entries: Vec<_> = works().into_iter().map(|work| entry(work).0).collect();
        assert_eq!(stages.run(&entries).expect("nothing").passed, Passed::default(), "all callers have left");
    }

    #[test]
    fn equal_clips_are_seen_once_whatever_their_digests() {
        let seen = |value: f32, digest: u64| {
            let pixels = ndarray::Array4::from_elem((2, 3, 4, 4), value);
            let clip = Arc::new(Clip { pixels, frames_decoded: 2, frames_used: 2 });
            Seen { clip, digest, tokens: 1, facts: ClipFacts::default(), _memory: Memory::new(0).hold() }
        };
        let clips = [seen(1.0, 7), seen(2.0, 8), seen(1.0, 7), seen(2.0, 8), seen(3.0, 7)];
        let (kept, which) = distinct(clips.iter(), |a, b| same_clip(a, b));
        assert_eq!((kept.len(), which), (3, vec![0, 1, 0, 1, 2]), "the last one only has the digest of the first");
    }

    #[test]
    fn pieces_hold_everything_in_order_and_no_more_than_fits() {
        for (items, cost_max, expected) in [
            (vec![3, 3, 3], 6, vec![vec![3, 3], vec![3]]),
            (vec![9, 1, 1], 6, vec![vec![9], vec![1, 1]]),
            (vec![1, 9, 1], 0, vec![vec![1], vec![9], vec![1]]),
            (vec![], 6, vec![]),
        ] {
            assert_eq!(pieces(&items, |&item| item, cost_max), expected);
        }
    }
}
