//! Draws a scenario at random: looks, places, the event's tracks, background and light. Bad draws (objects
//! on top of each other, a track that does not fit) are thrown away and drawn again.

use super::Config;
use super::palette::{Colour, Direction, HELD_OUT_PAIRS, Pairs, Pattern, Shape, Size};
use super::scenario::{Background, Event, Key, Light, Object, Scenario};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::ops::RangeInclusive;

/// Free room between an object and the picture's edge.
pub(super) const MARGIN: f32 = 0.02;
/// Time of `shown.1` for objects that stay.
pub(super) const FOREVER: f32 = 2.0;
/// How far an object moves.
pub(super) const LENGTHS: RangeInclusive<f32> = 0.32..=0.56;
/// How far from the edge an object that comes in stops, or one that goes out starts, at most.
pub(super) const CROSSING_MAX: f32 = 0.62;
/// Outlines other than the circle touch a little later than their radius says.
pub(super) const TOUCH: f32 = 0.86;
/// Shortest way to a collision, and after it.
pub(super) const RUN_MIN: f32 = 0.16;

/// Draws one clip.
pub fn draw(config: &Config, rng: &mut impl Rng) -> Scenario {
    let still = rng.random_bool(f64::from(config.still_share));
    let event = if still { Event::Nothing } else { draw_event(config, rng) };
    let objects = assemble(config, event, rng);
    Scenario {
        background: draw_background(&objects, rng),
        light: draw_light(rng),
        grain: rng.random(),
        frames: config.frames,
        pairs: config.pairs,
        event,
        still,
        objects,
    }
}

/// Objects that the event happens to, drawn until they fit; fewer where many do not.
pub(super) fn assemble(config: &Config, event: Event, rng: &mut impl Rng) -> Vec<Object> {
    let fewest = event.actors().max(*config.objects.start());
    let mut count = draw_count(config, rng).max(fewest);
    let mut failures = 0;
    loop {
        if let Some(objects) = cast(config, event, count, rng) {
            return objects;
        }
        failures += 1;
        if failures % 60 == 0 && count > fewest {
            count -= 1;
        }
    }
}

/// An event at random, each as often as it is in clips; whether it fits is not asked.
pub(super) fn draw_event(config: &Config, rng: &mut impl Rng) -> Event {
    let way = pick(Direction::ALL, rng);
    let two = *config.objects.end() >= 2;
    let turn = config.pairs != Pairs::HeldOut;
    let table = [
        (7, Event::Nothing, true),
        (28, Event::Moves(way), true),
        (22, Event::Enters(way), true),
        (7, Event::Leaves(way), true),
        (6, Event::Appears, true),
        (6, Event::Disappears, true),
        (6, Event::ChangesColour, turn),
        (5, Event::Grows, true),
        (5, Event::Shrinks, true),
        (6, Event::Collide, two),
        (10, Event::TwoMove, two),
    ];
    let possible: Vec<_> = table.into_iter().filter(|row| row.2).collect();
    possible.choose_weighted(rng, |row| row.0).map_or(Event::Nothing, |row| row.1)
}

/// Mostly two to four objects, so that a question must name the one it means.
fn draw_count(config: &Config, rng: &mut impl Rng) -> usize {
    const WEIGHTS: [u32; 5] = [0, 12, 25, 29, 34];
    let counts: Vec<usize> = config.objects.clone().collect();
    counts.choose_weighted(rng, |count| WEIGHTS[*count]).map_or(*config.objects.end(), |count| *count)
}

pub(super) fn pick<T: Copy>(from: &[T], rng: &mut impl Rng) -> T {
    from[rng.random_range(0..from.len())]
}

/// All objects with their tracks; `None` where this draw does not fit.
fn cast(config: &Config, event: Event, count: usize, rng: &mut impl Rng) -> Option<Vec<Object>> {
    let looks = draw_looks(config.pairs, count, rng)?;
    let mut objects = Vec::with_capacity(count);
    for look in looks {
        objects.push(resting(look, rng));
    }
    direct(config, event, &mut objects, rng)?;
    let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    for (a, b) in pairs {
        let meeting = event == Event::Collide && (a, b) == (0, 1);
        if !meeting && !apart(&objects[a], &objects[b]) {
            return None;
        }
    }
    Some(objects)
}

/// An object of this colour and shape that is at rest somewhere in the picture.
pub(super) fn resting((colour, shape): (Colour, Shape), rng: &mut impl Rng) -> Object {
    // Large ones fit less often, so more of them are tried.
    let size = if rng.random_bool(0.58) { Size::Large } else { Size::Small };
    Object {
        paint: shade(colour, rng),
        tilt: rng.random_range(-0.16..=0.16),
        track: vec![rest(rng.random_range(size.diameters()) / 2.0, rng)],
        shown: (0.0, FOREVER),
        turns: None,
        colour,
        shape,
        size,
    }
}

/// Colours and shapes, no two objects alike. Mostly all different; else some share a colour or a shape.
fn draw_looks(pairs: Pairs, count: usize, rng: &mut impl Rng) -> Option<Vec<(Colour, Shape)>> {
    if pairs == Pairs::HeldOut {
        let mut looks = HELD_OUT_PAIRS.to_vec();
        looks.shuffle(rng);
        looks.truncate(count);
        return Some(looks);
    }
    let (mut colours, mut shapes) = (Colour::ALL.to_vec(), Shape::ALL.to_vec());
    colours.shuffle(rng);
    shapes.shuffle(rng);
    let shared = rng.random_range(2..=3.max(count)).min(count).min(3);
    match rng.random_range(0..100) {
        0..30 => (1..shared).for_each(|other| colours[other] = colours[0]),
        30..45 => (1..shared).for_each(|other| shapes[other] = shapes[0]),
        _ => {}
    }
    let mut looks: Vec<_> = colours.into_iter().zip(shapes).take(count).collect();
    looks.shuffle(rng);
    let allowed = looks.iter().all(|(colour, shape)| pairs.allows(*colour, *shape));
    allowed.then_some(looks)
}

/// A little off the pure paint, as pigments are.
pub(super) fn shade(colour: Colour, rng: &mut impl Rng) -> [f32; 3] {
    colour.paint().map(|channel| channel + rng.random_range(-14.0..=14.0))
}

/// A place to stay; now and then the middle, which even draws would seldom give.
fn rest(radius: f32, rng: &mut impl Rng) -> Key {
    let middle = rng.random_bool(0.16);
    let mut coordinate = || {
        if middle { rng.random_range(0.42..=0.58) } else { rng.random_range(radius + MARGIN..=1.0 - radius - MARGIN) }
    };
    Key { time: 0.0, x: coordinate(), y: coordinate(), radius }
}

/// Gives the actors, which are the first objects, the tracks of the event.
fn direct(config: &Config, event: Event, objects: &mut [Object], rng: &mut impl Rng) -> Option<()> {
    match event {
        Event::Nothing => {}
        Event::Moves(way) => objects[0].track = travel(way, objects[0].track[0].radius, rng)?,
        Event::TwoMove => {
            for object in &mut objects[..2] {
                object.track = travel(pick(Direction::ALL, rng), object.track[0].radius, rng)?;
            }
        }
        Event::Enters(way) => objects[0].track = cross_edge(way, true, objects[0].track[0].radius, rng),
        Event::Leaves(way) => objects[0].track = cross_edge(way, false, objects[0].track[0].radius, rng),
        Event::Appears => objects[0].shown.0 = rng.random_range(0.3..=0.62),
        Event::Disappears => objects[0].shown.1 = rng.random_range(0.38..=0.7),
        Event::ChangesColour => objects[0].turns = Some(turn(config.pairs, objects, 0, rng)?),
        Event::Grows => resize(&mut objects[0], Size::Small, Size::Large, rng)?,
        Event::Shrinks => resize(&mut objects[0], Size::Large, Size::Small, rng)?,
        Event::Collide => {
            let [a, b] = &mut objects[..2] else { return None };
            collide(a, b, rng)?;
        }
    }
    Some(())
}

/// Another colour for an object, which none of them has; `None` where this draw does not fit.
pub(super) fn turn(
    pairs: Pairs,
    objects: &[Object],
    index: usize,
    rng: &mut impl Rng,
) -> Option<(f32, Colour, [f32; 3])> {
    let colour = pick(Colour::ALL, rng);
    if objects.iter().any(|object| object.colour == colour) || !pairs.allows(colour, objects[index].shape) {
        return None;
    }
    Some((rng.random_range(0.38..=0.62), colour, shade(colour, rng)))
}

/// A straight way of clearly visible speed inside the picture.
fn travel(way: Direction, radius: f32, rng: &mut impl Rng) -> Option<Vec<Key>> {
    let (low, high) = (radius + MARGIN, 1.0 - radius - MARGIN);
    let length = rng.random_range(LENGTHS);
    if low + length > high {
        return None;
    }
    let start = rng.random_range(low..=high - length);
    let across = rng.random_range(low..=high);
    Some(course(way, radius, (start, length), across, rng))
}

/// The same from a given start: (along, length), across.
pub(super) fn course(
    way: Direction,
    radius: f32,
    (start, length): (f32, f32),
    across: f32,
    rng: &mut impl Rng,
) -> Vec<Key> {
    let (low, high) = (radius + MARGIN, 1.0 - radius - MARGIN);
    let drift = (across + rng.random_range(-0.06..=0.06)).clamp(low, high);
    let whole = rng.random_bool(0.6);
    let (from, to) = if whole { (0.0, 1.0) } else { (rng.random_range(0.0..=0.3), rng.random_range(0.7..=1.0)) };
    keys(way, radius, [(from, start, across), (to, start + length, drift)])
}

/// A way from outside the picture to well inside, or back out.
pub(super) fn cross_edge(way: Direction, inwards: bool, radius: f32, rng: &mut impl Rng) -> Vec<Key> {
    let inside = rng.random_range(radius + 0.06..=CROSSING_MAX);
    let across = rng.random_range(radius + MARGIN..=1.0 - radius - MARGIN);
    crossing(way, inwards, radius, (inside, across), rng)
}

/// The same to or from a given place: (distance from the crossed edge, across).
pub(super) fn crossing(
    way: Direction,
    inwards: bool,
    radius: f32,
    (inside, across): (f32, f32),
    rng: &mut impl Rng,
) -> Vec<Key> {
    let outside = -1.15 * radius - MARGIN;
    let from = rng.random_range(0.1..=0.4);
    let to = from + rng.random_range(0.36..=0.52);
    let ends = if inwards { (outside, inside) } else { (1.0 - inside, 1.0 - outside) };
    keys(way, radius, [(from, ends.0, across), (to, ends.1, across)])
}

pub(super) fn keys<const N: usize>(way: Direction, radius: f32, points: [(f32, f32, f32); N]) -> Vec<Key> {
    let key = |(time, along, across)| {
        let (x, y) = way.point(along, across);
        Key { time, x, y, radius }
    };
    points.into_iter().map(key).collect()
}

fn resize(object: &mut Object, from: Size, to: Size, rng: &mut impl Rng) -> Option<()> {
    let mut begin = rest(rng.random_range(Size::Large.diameters()) / 2.0, rng);
    begin.radius = rng.random_range(from.diameters()) / 2.0;
    object.size = from;
    object.track = swell(begin, to, rng);
    Some(())
}

/// From what it is at `begin` to a size.
pub(super) fn swell(mut begin: Key, to: Size, rng: &mut impl Rng) -> Vec<Key> {
    begin.time = rng.random_range(0.05..=0.3);
    let mut end = begin;
    end.radius = rng.random_range(to.diameters()) / 2.0;
    end.time = rng.random_range(0.65..=0.95);
    vec![begin, end]
}

/// Two objects meet face to face: both come and bounce back, or one comes and pushes the other away.
fn collide(a: &mut Object, b: &mut Object, rng: &mut impl Rng) -> Option<()> {
    let way = pick(Direction::ALL, rng);
    let (near, far) = (a.track[0].radius, b.track[0].radius);
    let contact = rng.random_range(0.36..=0.64);
    let (here, there) = (contact - TOUCH * near, contact + TOUCH * far);
    let (low, high) = (near + MARGIN, 1.0 - far - MARGIN);
    if here - RUN_MIN < low || there + RUN_MIN > high {
        return None;
    }
    let wide = near.max(far) + MARGIN;
    let across = rng.random_range(wide..=1.0 - wide);
    let when = rng.random_range(0.42..=0.6);
    let start = rng.random_range(low..=here - RUN_MIN);
    let other = rng.random_range(there + RUN_MIN..=high);
    let (a_end, b_start, b_end) =
        if rng.random_bool(0.5) { (0.5 * (here + start), other, 0.5 * (there + other)) } else { (here, there, other) };
    a.track = keys(way, near, [(0.0, start, across), (when, here, across), (1.0, a_end, across)]);
    b.track = keys(way, far, [(0.0, b_start, across), (when, there, across), (1.0, b_end, across)]);
    Some(())
}

/// Whether two objects keep clear of each other; one that moves may come closer, but never looks like a collision.
pub(super) fn apart(a: &Object, b: &Object) -> bool {
    const MOMENTS: usize = 16;
    let share = if a.track.len() + b.track.len() > 2 { 0.98 } else { 1.04 };
    (0..=MOMENTS).all(|moment| {
        let time = moment as f32 / MOMENTS as f32;
        match (a.at(time), b.at(time)) {
            (Some(a), Some(b)) => (a.x - b.x).hypot(a.y - b.y) >= share * (a.radius + b.radius),
            _ => true,
        }
    })
}

pub(super) fn draw_background(objects: &[Object], rng: &mut impl Rng) -> Background {
    let pattern = pick(Pattern::ALL, rng);
    let (first, second) = draw_shades(pattern, objects, rng);
    let period = match pattern {
        Pattern::Checkered => rng.random_range(0.26..=0.44),
        Pattern::Spotted => rng.random_range(0.13..=0.19),
        _ => rng.random_range(0.12..=0.24),
    };
    Background {
        pattern,
        first,
        second,
        angle: rng.random_range(0.0..std::f32::consts::TAU),
        period,
        phase: rng.random_range(0.0..1.0),
    }
}

/// Two muted shades, far from every object's colour and visibly apart from each other.
fn draw_shades(pattern: Pattern, objects: &[Object], rng: &mut impl Rng) -> ([f32; 3], [f32; 3]) {
    let colours: Vec<[f32; 3]> =
        objects.iter().flat_map(|object| [Some(object.paint), object.turns.map(|turn| turn.2)]).flatten().collect();
    let apart = match pattern {
        Pattern::Plain => 0.0..1e9,
        Pattern::Gradient => 95.0..220.0,
        _ => 48.0..130.0,
    };
    let mut far = 98.0;
    loop {
        let (low, high) = if rng.random_bool(0.6) { (80.0, 170.0) } else { (8.0, 248.0) };
        let mut muted = || {
            let grey: f32 = rng.random_range(low..=high);
            let chroma = 26.0_f32.min(grey).min(255.0 - grey);
            [0; 3].map(|_| grey + rng.random_range(-chroma..=chroma))
        };
        let (first, second) = (muted(), muted());
        let clear = |shade: &[f32; 3]| colours.iter().all(|colour| gap(colour, shade) > far);
        // Between the ends of a gradient all mixtures occur.
        let middle = [0, 1, 2].map(|channel| 0.5 * (first[channel] + second[channel]));
        if clear(&first) && clear(&second) && clear(&middle) && apart.contains(&gap(&first, &second)) {
            return if pattern == Pattern::Plain { (first, first) } else { (first, second) };
        }
        far *= 0.997;
    }
}

fn gap(a: &[f32; 3], b: &[f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

pub(super) fn draw_light(rng: &mut impl Rng) -> Light {
    let brightness = rng.random_range(0.86..=1.08);
    Light {
        gain: [0; 3].map(|_| brightness * rng.random_range(0.96..=1.04)),
        offset: rng.random_range(-8.0..=12.0),
        noise: if rng.random_bool(0.3) { 0.0 } else { rng.random_range(1.0..=9.0) },
    }
}
