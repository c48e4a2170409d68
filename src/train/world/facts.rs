//! What is true of a clip, family by family. A fact is only stated where it is well defined: the named
//! object is the only one of that name, nothing about the asked property changes, margins are clear.

use super::family::{COLOUR_COUNTS, COUNTS, Family, POSITIONS, RELATIONS, STILL};
use super::palette::{Colour, Direction, Pairs, Shape, Size};
use super::scenario::{Event, Object, Scenario};
use rand::Rng;
use rand::seq::IndexedRandom;

/// An answer, and the words that the question puts in its gaps.
pub(super) struct Fact {
    pub answer: String,
    pub slots: [String; 2],
}

fn fact(answer: &str, slot: impl Into<String>) -> Fact {
    Fact { answer: answer.to_owned(), slots: [slot.into(), String::new()] }
}

/// Which properties name an object.
#[derive(Clone, Copy)]
struct Naming {
    colour: bool,
    shape: bool,
    size: bool,
}

const fn by(colour: bool, shape: bool, size: bool) -> Naming {
    Naming { colour, shape, size }
}

/// The usual ways to name an object, the plainest thrice as likely.
const NAMINGS: [Naming; 5] = [
    by(true, true, false),
    by(true, true, false),
    by(true, true, false),
    by(false, true, false),
    by(true, false, false),
];
const NAMINGS_COLOURLESS: [Naming; 5] = [
    by(false, true, false),
    by(false, true, false),
    by(false, true, false),
    by(false, true, true),
    by(false, false, true),
];
const NAMINGS_SHAPELESS: [Naming; 5] = [
    by(true, false, false),
    by(true, false, false),
    by(true, false, false),
    by(true, false, true),
    by(false, false, true),
];

impl Scenario {
    /// Every fact of a family about this clip, each question's wording of objects drawn at random.
    pub(super) fn facts(&self, family: Family, rng: &mut impl Rng) -> Vec<Fact> {
        match family {
            Family::Colour => {
                self.each(rng, &NAMINGS_COLOURLESS, |_, object| object.turns.is_none().then(|| object.colour.name()))
            }
            Family::Shape => self.each(rng, &NAMINGS_SHAPELESS, |_, object| Some(object.shape.name())),
            Family::Size => self.each(rng, &NAMINGS, |_, object| object.keeps_size().then(|| object.size.name())),
            Family::Count => self.count(),
            Family::CountColour => self.count_colour(),
            Family::Existence => self.existence(rng),
            Family::Motion => self.each(rng, &NAMINGS, Self::motion_of),
            Family::Position => self.each(rng, &NAMINGS, |_, object| position_of(object)),
            Family::Background => vec![fact(self.background.pattern.name(), "")],
            Family::Largest => self.largest(rng),
            Family::Event => vec![fact(self.event.phrase(), "")],
            Family::Actor => self.actor(),
            Family::Relation => self.relation(rng),
            Family::Describe => vec![fact(&self.caption(), "")],
        }
    }

    /// One fact for every object that has an answer and a name of its own.
    fn each<R: Rng>(
        &self,
        rng: &mut R,
        namings: &[Naming],
        answer: impl Fn(&Self, &Object) -> Option<&'static str>,
    ) -> Vec<Fact> {
        let objects = self.objects.iter();
        objects
            .filter_map(|object| {
                let answer = answer(self, object)?;
                Some(fact(answer, self.refer(object, namings, rng)?))
            })
            .collect()
    }

    /// A name that fits this object alone, "large red circle"; `None` where no tried naming does.
    fn refer(&self, object: &Object, namings: &[Naming], rng: &mut impl Rng) -> Option<String> {
        let unique = |naming: &&Naming| {
            let vague = naming.colour && object.turns.is_some() || naming.size && !object.keeps_size();
            !vague && self.objects.iter().filter(|other| naming.fits(object, other)).count() == 1
        };
        let fitting: Vec<&Naming> = namings.iter().filter(unique).collect();
        let naming = fitting.choose(rng)?;
        let size = naming.size.then(|| size_word(object.size, rng));
        let colour = naming.colour.then(|| object.colour.name());
        let noun = if naming.shape { object.shape.name() } else { noun(rng) };
        Some([size, colour, Some(noun)].into_iter().flatten().collect::<Vec<_>>().join(" "))
    }

    /// How many objects: only where all are there from first to last.
    fn count(&self) -> Vec<Fact> {
        let inside = |object: &Object| {
            let within = |at: f32| (0.0..=1.0).contains(&at);
            object.is_always_shown() && object.track.iter().all(|key| within(key.x) && within(key.y))
        };
        let answer = COUNTS[self.objects.len() - 1];
        if self.objects.iter().all(inside) { vec![fact(answer, "")] } else { Vec::new() }
    }

    /// How many of every colour; colours that change would leave it open.
    fn count_colour(&self) -> Vec<Fact> {
        let fleeting =
            |object: &&Object| !object.is_always_shown() || matches!(self.event, Event::Enters(_) | Event::Leaves(_));
        if self.objects.iter().any(|object| object.turns.is_some())
            || self.objects.iter().any(|object| fleeting(&object))
        {
            return Vec::new();
        }
        let number = |colour: Colour| self.objects.iter().filter(|object| object.colour == colour).count();
        Colour::ALL.iter().filter_map(|colour| Some(fact(COLOUR_COUNTS.get(number(*colour))?, colour.name()))).collect()
    }

    /// For every object one thing that is there and one that is not, mostly nearly there.
    fn existence(&self, rng: &mut impl Rng) -> Vec<Fact> {
        let mut facts = Vec::new();
        for object in self.objects.iter().filter(|object| object.turns.is_none()) {
            let naming = NAMINGS[rng.random_range(0..NAMINGS.len())];
            let absent =
                (0..20).map(|_| self.nearly(object, rng)).find(|(colour, shape)| self.lacks(naming, *colour, *shape));
            let Some((colour, shape)) = absent else { continue };
            facts.push(fact("yes", indefinite(naming, object.colour, object.shape, rng)));
            facts.push(fact("no", indefinite(naming, colour, shape, rng)));
        }
        facts
    }

    /// A colour and a shape close to this object: its colour, its shape, or those of another object.
    fn nearly(&self, object: &Object, rng: &mut impl Rng) -> (Colour, Shape) {
        let colour = Colour::ALL[rng.random_range(0..Colour::ALL.len())];
        let shape = Shape::ALL[rng.random_range(0..Shape::ALL.len())];
        let other = &self.objects[rng.random_range(0..self.objects.len())];
        match rng.random_range(0..5) {
            0 => (object.colour, shape),
            1 => (colour, object.shape),
            2 => (object.colour, other.shape),
            3 => (other.colour, object.shape),
            _ => (colour, shape),
        }
    }

    fn lacks(&self, naming: Naming, colour: Colour, shape: Shape) -> bool {
        let matches =
            |object: &Object| (!naming.colour || object.has_colour(colour)) && (!naming.shape || object.shape == shape);
        let speakable = self.pairs == Pairs::HeldOut || self.pairs.allows(colour, shape);
        speakable && !self.objects.iter().any(matches)
    }

    fn motion_of(&self, object: &Object) -> Option<&'static str> {
        if object.is_constant() {
            return Some(STILL);
        }
        let moves = matches!(self.event, Event::Moves(_) | Event::Enters(_) | Event::Leaves(_) | Event::TwoMove);
        let (first, last) = (object.track.first()?, object.track.last()?);
        let (dx, dy) = (last.x - first.x, last.y - first.y);
        moves.then(|| Direction::of_step(dx, dy).name())
    }

    /// The largest where one alone is large, the smallest where one alone is small.
    fn largest(&self, rng: &mut impl Rng) -> Vec<Fact> {
        if !self.objects.iter().all(Object::keeps_size) || self.objects.len() < 2 {
            return Vec::new();
        }
        let asked = [(Size::Large, ["largest", "biggest"]), (Size::Small, ["smallest", "littlest"])];
        let alone = asked.into_iter().filter_map(|(size, words)| {
            let mut of_size = self.objects.iter().filter(|object| object.size == size);
            let found = of_size.next().filter(|object| object.turns.is_none())?;
            let word = words[usize::from(rng.random_bool(0.3))];
            of_size.next().is_none().then(|| fact(&the(found), word))
        });
        alone.collect()
    }

    fn actor(&self) -> Vec<Fact> {
        let verb = match self.event {
            Event::Nothing | Event::Collide | Event::TwoMove => return Vec::new(),
            Event::Moves(_) => "moves",
            Event::Enters(_) => "enters",
            Event::Leaves(_) => "leaves",
            Event::Appears => "appears",
            Event::Disappears => "disappears",
            Event::ChangesColour => "changes colour",
            Event::Grows => "grows",
            Event::Shrinks => "shrinks",
        };
        vec![fact(&the(&self.objects[0]), verb)]
    }

    fn relation(&self, rng: &mut impl Rng) -> Vec<Fact> {
        let mut facts = Vec::new();
        for a in &self.objects {
            for b in self.objects.iter().filter(|b| !std::ptr::eq(a, *b)) {
                let Some(answer) = relation_of(a, b) else { continue };
                let names = (self.refer(a, &NAMINGS, rng), self.refer(b, &NAMINGS, rng));
                if let (Some(a), Some(b)) = names {
                    facts.push(Fact { answer: answer.to_owned(), slots: [a, b] });
                }
            }
        }
        facts
    }
}

impl Naming {
    /// Whether this naming of `object` also fits `other` at any time.
    fn fits(self, object: &Object, other: &Object) -> bool {
        (!self.colour || other.has_colour(object.colour))
            && (!self.shape || other.shape == object.shape)
            && (!self.size || other.size == object.size || !other.keeps_size())
    }
}

/// "the red circle"
fn the(object: &Object) -> String {
    format!("the {} {}", object.colour.name(), object.shape.name())
}

/// "a red circle", "an orange thing"
fn indefinite(naming: Naming, colour: Colour, shape: Shape, rng: &mut impl Rng) -> String {
    let noun = if naming.shape { shape.name() } else { noun(rng) };
    let words = if naming.colour { format!("{} {noun}", colour.name()) } else { noun.to_owned() };
    super::caption::with_article(&words)
}

fn noun(rng: &mut impl Rng) -> &'static str {
    ["object", "object", "thing", "shape"][rng.random_range(0..4)]
}

fn size_word(size: Size, rng: &mut impl Rng) -> &'static str {
    match (size, rng.random_bool(0.25)) {
        (Size::Large, true) => "big",
        (Size::Small, true) => "little",
        (_, false) => size.name(),
    }
}

/// Where a still object is, with a margin between the places.
fn position_of(object: &Object) -> Option<&'static str> {
    const MIDDLE: f32 = 0.1;
    const CORNER: f32 = 0.15;
    let (dx, dy) = (object.track[0].x - 0.5, object.track[0].y - 0.5);
    let place = match (dx.abs(), dy.abs()) {
        (x, y) if x < MIDDLE && y < MIDDLE => 4,
        (x, y) if x > CORNER && y > CORNER => 2 * usize::from(dy > 0.0) + usize::from(dx > 0.0),
        _ => return None,
    };
    object.is_constant().then(|| POSITIONS[place])
}

/// Where still `a` is relative to still `b`, where one axis clearly rules.
fn relation_of(a: &Object, b: &Object) -> Option<&'static str> {
    const GAP: f32 = 0.2;
    const RULE: f32 = 1.8;
    let (dx, dy) = (a.track[0].x - b.track[0].x, a.track[0].y - b.track[0].y);
    let side = match (dx.abs(), dy.abs()) {
        (x, y) if x > GAP && x > RULE * y => usize::from(dx > 0.0),
        (x, y) if y > GAP && y > RULE * x => 2 + usize::from(dy > 0.0),
        _ => return None,
    };
    (a.is_constant() && b.is_constant()).then(|| RELATIONS[side])
}
