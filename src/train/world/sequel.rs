//! What can happen next to objects that are where they are: the events of `stage`, going on from a scene at rest.
//!
//! `stage` places objects as an event wants them; here the places are given, so an event may not fit. Times are clip
//! time, 0 where the event's stretch begins and 1 where it ends, at which everything rests again.

use super::Config;
use super::palette::{Colour, Direction, Pairs, Shape, Size};
use super::scenario::{Event, Key, Object};
use super::stage::{self, CROSSING_MAX, LENGTHS, MARGIN, RUN_MIN, TOUCH, pick};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::ops::RangeInclusive;

// A window may be shorter than the stretch. These times are later than a clip's at the beginning and earlier at the end, so
// that seven tenths of a stretch show the deed, whichever they are.

/// When something changes at once.
const INSTANTS: RangeInclusive<f32> = 0.42..=0.58;
/// When something begins to cross the edge, and how long it takes.
const CROSSINGS: [RangeInclusive<f32>; 2] = [0.28..=0.32, 0.36..=0.4];
/// When two meet, and how long they go on after that.
const MEETINGS: (RangeInclusive<f32>, f32) = (0.42..=0.5, 0.35);

/// Steepest way of a collision: the shorter side of the step over the longer one, about 20 degrees.
const SLANT_MAX: f32 = 0.36;
/// Draws of an event before a scene counts as one in which nothing more can happen.
const DRAWS_MAX: usize = 200;

/// What happens next.
pub struct Sequel {
    /// It; never [`Event::Nothing`].
    pub event: Event,
    /// The scene while it happens: the objects in the order in which they were given, then one that comes, if one does.
    pub objects: Vec<Object>,
    /// Which of them take part.
    pub actors: Vec<usize>,
}

/// What the objects of a scene are, and what they may become.
pub struct Scene<'a> {
    /// What the world allows.
    pub config: &'a Config,
    /// The objects, all at rest.
    pub objects: &'a [Object],
    /// Which of them have changed their colour once already, which is as often as an object does.
    pub turned: &'a [bool],
    /// Looks that nothing new may have.
    pub taken: &'a [(Colour, Shape)],
}

impl Scene<'_> {
    /// An event that fits, drawn as often as clips have it; `None` where none was found.
    pub fn next(&self, rng: &mut impl Rng) -> Option<Sequel> {
        (0..DRAWS_MAX).find_map(|_| {
            let event = stage::draw_event(self.config, rng);
            let sequel = self.try_event(event, rng)?;
            sequel.is_clear().then_some(sequel)
        })
    }

    /// One draw of an event; whether objects come too close is not asked yet.
    fn try_event(&self, event: Event, rng: &mut impl Rng) -> Option<Sequel> {
        let mut order: Vec<usize> = (0..self.objects.len()).collect();
        order.shuffle(rng);
        let mut objects = self.objects.to_vec();
        let (first, second) = (*order.first()?, order.get(1).copied());
        let actors = match event {
            Event::Nothing => return None,
            Event::Enters(_) | Event::Appears => {
                objects.push(self.newcomer(event, rng)?);
                vec![objects.len() - 1]
            }
            Event::Moves(way) => {
                objects[first].track = walk(way, rest(&objects[first]), rng)?;
                vec![first]
            }
            Event::TwoMove => {
                let both = vec![first, second?];
                for &actor in &both {
                    objects[actor].track = walk(pick(Direction::ALL, rng), rest(&objects[actor]), rng)?;
                }
                both
            }
            Event::Leaves(way) => {
                objects[self.dispensable(first)?].track = exit(way, rest(&objects[first]), rng)?;
                vec![first]
            }
            Event::Disappears => {
                objects[self.dispensable(first)?].shown.1 = rng.random_range(INSTANTS);
                vec![first]
            }
            Event::ChangesColour => {
                let turn = stage::turn(self.config.pairs, self.objects, first, rng)?;
                if self.turned[first] || self.taken.contains(&(turn.1, objects[first].shape)) {
                    return None;
                }
                objects[first].turns = Some((rng.random_range(INSTANTS), turn.1, turn.2));
                vec![first]
            }
            Event::Grows => {
                objects[first].track = resize(rest(&objects[first]), [Size::Small, Size::Large], rng)?;
                vec![first]
            }
            Event::Shrinks => {
                objects[first].track = resize(rest(&objects[first]), [Size::Large, Size::Small], rng)?;
                vec![first]
            }
            Event::Collide => {
                let second = second?;
                let tracks = collide(rest(&objects[first]), rest(&objects[second]), rng)?;
                [objects[first].track, objects[second].track] = tracks;
                vec![first, second]
            }
        };
        Some(Sequel { event, objects, actors })
    }

    /// The index again, where the scene still has objects enough without it.
    fn dispensable(&self, index: usize) -> Option<usize> {
        (self.objects.len() > *self.config.objects.start()).then_some(index)
    }

    /// An object that comes, where there is room for one more.
    fn newcomer(&self, event: Event, rng: &mut impl Rng) -> Option<Object> {
        if self.objects.len() >= *self.config.objects.end() {
            return None;
        }
        let free = |look: &(Colour, Shape)| self.allows(*look) && !self.taken.contains(look);
        let looks: Vec<_> = Colour::ALL.iter().flat_map(|c| Shape::ALL.iter().map(|s| (*c, *s))).filter(free).collect();
        let mut object = stage::resting(*looks.choose(rng)?, rng);
        match event {
            Event::Enters(way) => {
                object.track = stage::cross_edge(way, true, object.track[0].radius, rng);
                timed(&mut object.track, rng);
            }
            _ => object.shown.0 = rng.random_range(INSTANTS),
        }
        Some(object)
    }

    fn allows(&self, (colour, shape): (Colour, Shape)) -> bool {
        Pairs::allows(self.config.pairs, colour, shape)
    }
}

impl Sequel {
    /// Whether those who take part keep clear of all others, and of each other unless they shall meet.
    fn is_clear(&self) -> bool {
        self.actors.iter().all(|&actor| {
            let meets = |other: usize| self.event == Event::Collide && self.actors.contains(&other);
            (0..self.objects.len())
                .filter(|&other| other != actor && !meets(other))
                .all(|other| stage::apart(&self.objects[actor], &self.objects[other]))
        })
    }
}

/// Where an object at rest is.
fn rest(object: &Object) -> Key {
    object.track[0]
}

/// A straight way from here, where there is room for one of clearly visible speed.
fn walk(way: Direction, from: Key, rng: &mut impl Rng) -> Option<Vec<Key>> {
    let (along, across) = way.along((from.x, from.y));
    let room = (1.0 - from.radius - MARGIN - along).min(*LENGTHS.end());
    if room < *LENGTHS.start() {
        return None;
    }
    let length = rng.random_range(*LENGTHS.start()..=room);
    Some(from_here(from, stage::course(way, from.radius, (along, length), across, rng)))
}

/// The way out of the picture, where the edge is not too far for the time.
fn exit(way: Direction, from: Key, rng: &mut impl Rng) -> Option<Vec<Key>> {
    let (along, across) = way.along((from.x, from.y));
    let left = 1.0 - along;
    let mut track = stage::crossing(way, false, from.radius, (left, across), rng);
    timed(&mut track, rng);
    (left <= CROSSING_MAX).then(|| from_here(from, track))
}

/// From one size to the other, where it has the one and there is room for the other.
fn resize(from: Key, [before, after]: [Size; 2], rng: &mut impl Rng) -> Option<Vec<Key>> {
    let track = stage::swell(from, after, rng);
    let reach = track[1].radius + MARGIN;
    let inside = [from.x, from.y].iter().all(|at| (reach..=1.0 - reach).contains(at));
    (Size::of_radius(from.radius) == before && inside).then(|| from_here(from, track))
}

/// Two objects that lie nearly beside or above each other meet: both come and bounce back, or the first one comes and
/// pushes the other away.
fn collide(a: Key, b: Key, rng: &mut impl Rng) -> Option<[Vec<Key>; 2]> {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let gap = dx.hypot(dy);
    if dx.abs().min(dy.abs()) > SLANT_MAX * dx.abs().max(dy.abs()) {
        return None;
    }
    let free = gap - TOUCH * (a.radius + b.radius);
    let when = rng.random_range(MEETINGS.0);
    let step = |from: Key, length: f32, time: f32| Key {
        time,
        x: from.x + length * dx / gap,
        y: from.y + length * dy / gap,
        ..from
    };
    let (a_meets, b_meets, a_ends, b_ends) = if rng.random_bool(0.5) {
        if free < 2.0 * RUN_MIN {
            return None;
        }
        let run = rng.random_range(RUN_MIN..=free - RUN_MIN);
        (run, run - free, 0.5 * run, 0.5 * (run - free))
    } else {
        if free < RUN_MIN {
            return None;
        }
        (free, 0.0, free, rng.random_range(RUN_MIN..=*LENGTHS.end()))
    };
    let end = step(b, b_ends, when + MEETINGS.1);
    let reach = b.radius + MARGIN;
    let inside = [end.x, end.y].iter().all(|at| (reach..=1.0 - reach).contains(at));
    let track = |from: Key, meets: f32, ends: f32| {
        vec![Key { time: 0.0, ..from }, step(from, meets, when), step(from, ends, when + MEETINGS.1)]
    };
    inside.then(|| [track(a, a_meets, a_ends), track(b, b_meets, b_ends)])
}

/// Gives a way over the edge its times.
fn timed(track: &mut [Key], rng: &mut impl Rng) {
    let [begins, takes] = CROSSINGS.map(|range| rng.random_range(range));
    if let [first, .., last] = track {
        (first.time, last.time) = (begins, begins + takes);
    }
}

/// The track with exactly the place where the object rests as its beginning.
fn from_here(from: Key, mut track: Vec<Key>) -> Vec<Key> {
    track[0] = Key { time: track[0].time, ..from };
    track
}
