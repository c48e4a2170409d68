//! The question families: names, closed answer lists, and how a clip's facts become balanced questions.
//! What is true of a clip stands in `facts`, how it is worded in `phrasing`.

use super::palette::{Colour, Direction, Pattern, Shape, Size};
use super::phrasing::{self, Phrasings};
use super::scenario::{Event, Scenario};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::collections::BTreeMap;

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// What colour is the circle?
    Colour,
    /// What shape is the red object?
    Shape,
    /// How large is the red circle?
    Size,
    /// How many objects are there?
    Count,
    /// How many red objects are there?
    CountColour,
    /// Is there a blue square?
    Existence,
    /// Which way does the red circle move?
    Motion,
    /// Where is the red circle?
    Position,
    /// What is the background like?
    Background,
    /// Which object is the largest, or the smallest?
    Largest,
    /// What happens?
    Event,
    /// Which object moves?
    Actor,
    /// Where is the red circle relative to the blue square?
    Relation,
    /// Describe the clip.
    Describe,
}

/// A question about a clip with its one right answer, both in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its kind.
    pub family: Family,
    /// What is asked.
    pub question: String,
    /// The right answer.
    pub answer: String,
}

/// The answer about things that stay where they are.
pub(super) const STILL: &str = "it does not move";
/// Answers to how many objects there are.
pub(super) const COUNTS: [&str; 4] = ["one", "two", "three", "four"];
/// Answers to how many objects of a colour there are.
pub(super) const COLOUR_COUNTS: [&str; 4] = ["none", "one", "two", "three"];
/// Answers to where an object is.
pub(super) const POSITIONS: [&str; 5] = ["top left", "top right", "bottom left", "bottom right", "centre"];
/// Answers to where an object is relative to another.
pub(super) const RELATIONS: [&str; 4] = ["left of it", "right of it", "above it", "below it"];

impl Family {
    /// Every family.
    pub const ALL: &'static [Self] = &[
        Self::Colour,
        Self::Shape,
        Self::Size,
        Self::Count,
        Self::CountColour,
        Self::Existence,
        Self::Motion,
        Self::Position,
        Self::Background,
        Self::Largest,
        Self::Event,
        Self::Actor,
        Self::Relation,
        Self::Describe,
    ];

    /// Its name in tables and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Count => "count",
            Self::CountColour => "count_colour",
            Self::Existence => "existence",
            Self::Motion => "motion",
            Self::Position => "position",
            Self::Background => "background",
            Self::Largest => "largest",
            Self::Event => "event",
            Self::Actor => "actor",
            Self::Relation => "relation",
            Self::Describe => "describe",
        }
    }

    /// The family of a [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|family| family.name() == name)
    }

    /// Every answer of the family; empty for the open set of descriptions.
    pub fn candidates(self) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Colour => Colour::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            Self::Shape => Shape::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            Self::Size => Size::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            Self::Background => Pattern::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            Self::Count => owned(&COUNTS),
            Self::CountColour => owned(&COLOUR_COUNTS),
            Self::Existence => owned(&["yes", "no"]),
            Self::Motion => Direction::ALL.iter().map(|way| way.name().to_owned()).chain([STILL.to_owned()]).collect(),
            Self::Position => owned(&POSITIONS),
            Self::Relation => owned(&RELATIONS),
            Self::Event => owned(&Event::PHRASES),
            Self::Largest | Self::Actor => Colour::ALL
                .iter()
                .flat_map(|colour| Shape::ALL.iter().map(move |shape| (colour.name(), shape.name())))
                .map(|(colour, shape)| format!("the {colour} {shape}"))
                .collect(),
            Self::Describe => Vec::new(),
        }
    }

    /// Share of the true questions with this answer that are asked, so that a family's answers come out
    /// about even. Tuned on the world's own draws; a test prints the outcome and bounds it.
    fn kept(self, answer: &str) -> f64 {
        match (self, answer) {
            (Self::Size, "small") => 0.55,
            (Self::Count, "one") => 0.85,
            (Self::Count, "two") => 0.42,
            (Self::Count, "three") => 0.4,
            (Self::CountColour, "none") => 0.04,
            (Self::CountColour, "one") => 0.12,
            (Self::Motion, STILL) => 0.09,
            (Self::Position, "centre") => 0.8,
            (Self::Event, "nothing happens") => 0.2,
            (Self::Event, "two objects move") => 0.55,
            _ => 1.0,
        }
    }
}

impl Scenario {
    /// One question of `family`; `None` where none is well defined (or balance drops those there are).
    pub fn question(&self, family: Family, phrasings: Phrasings, rng: &mut impl Rng) -> Option<Question> {
        self.balanced(family, phrasings, rng).pop()
    }

    /// One question of `family` with this answer (any, where `None`), whatever balance says.
    pub(super) fn question_with(
        &self,
        family: Family,
        phrasings: Phrasings,
        answer: Option<&str>,
        rng: &mut impl Rng,
    ) -> Option<Question> {
        let facts = self.facts(family, rng);
        let fitting: Vec<_> =
            facts.into_iter().filter(|fact| answer.is_none_or(|answer| fact.answer == answer)).collect();
        let fact = fitting.choose(rng)?;
        let question = phrasing::ask(family, phrasings, &fact.slots, rng);
        Some(Question { family, question, answer: fact.answer.clone() })
    }

    /// At most `count` different questions, families drawn by weight; fewer where the clip has no more.
    pub fn questions(
        &self,
        count: usize,
        weights: &[(Family, f32)],
        phrasings: Phrasings,
        rng: &mut impl Rng,
    ) -> Vec<Question> {
        let mut pools: Vec<(f32, Vec<Question>)> = weights
            .iter()
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(family, weight)| (*weight, self.balanced(*family, phrasings, rng)))
            .collect();
        let mut asked = Vec::with_capacity(count);
        while asked.len() < count {
            pools.retain(|(_, pool)| !pool.is_empty());
            let indices: Vec<usize> = (0..pools.len()).collect();
            let Ok(index) = indices.choose_weighted(rng, |index| pools[*index].0) else {
                break;
            };
            asked.extend(pools[*index].1.pop());
        }
        asked
    }

    /// The clip's questions of a family in random order, thinned so that answers come out even.
    fn balanced(&self, family: Family, phrasings: Phrasings, rng: &mut impl Rng) -> Vec<Question> {
        let mut facts = self.facts(family, rng);
        facts.retain(|fact| rng.random_bool(family.kept(&fact.answer)));
        facts.shuffle(rng);
        facts
            .into_iter()
            .map(|fact| Question {
                family,
                question: phrasing::ask(family, phrasings, &fact.slots, rng),
                answer: fact.answer,
            })
            .collect()
    }
}

/// The most frequent answer and its share: what always saying the same would score. `None` without answers.
pub fn majority<'a>(answers: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, f32)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_default() += 1;
    }
    let total: usize = counts.values().sum();
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(answer, count)| (answer, count as f32 / total as f32))
}
