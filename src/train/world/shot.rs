//! One shot of a stream: a scene that holds still, has an event, holds again. The tracks of its objects go over the
//! whole shot, in milliseconds from its beginning, so what an event changed stays changed; any part of it, seen as a
//! clip of its own, is `view`'s work.

use super::palette::{Colour, Pairs, Shape, Size};
use super::scenario::{Background, Event, Key, Light, Object};
use super::sequel::{Scene, Sequel};
use super::stage::{self, FOREVER};
use super::stream::StreamConfig;
use super::{Config, render};
use rand::Rng;

/// A shot as a description; it begins and ends with a hold.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Everything that is ever there, topmost first; times are milliseconds from the shot's beginning.
    pub objects: Vec<Object>,
    /// Holds and events by turns, without gaps.
    pub stretches: Vec<Stretch>,
    /// What lies behind.
    pub background: Background,
    /// How it is lit.
    pub light: Light,
    /// Seed of the noise and of the background's irregularity.
    pub grain: u64,
    /// The pairs of its world.
    pub pairs: Pairs,
}

/// Part of a shot in which one thing happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// Its beginning, milliseconds from the shot's.
    pub start_ms: u64,
    /// Its end.
    pub end_ms: u64,
    /// What happens; [`Event::Nothing`] in a hold.
    pub event: Event,
    /// Which objects take part.
    pub actors: Vec<usize>,
}

impl Shot {
    /// A shot of at most `left_ms`, which is at least the shortest hold. No event is cut off by that end, and no rest is
    /// left that is too short for another hold: the last hold is shorter or longer where it must be.
    pub fn draw(config: &Config, pace: &StreamConfig, left_ms: u64, rng: &mut impl Rng) -> Self {
        let mut objects = stage::assemble(config, Event::Nothing, rng);
        objects.iter_mut().for_each(|object| object.shown = (f32::NEG_INFINITY, f32::INFINITY));
        let mut script = Script { objects, stretches: Vec::new() };
        script.hold(rng.random_range(pace.hold_ms[0]..=pace.hold_ms[1]));
        for _ in 0..rng.random_range(pace.events[0]..=pace.events[1]) {
            let length = rng.random_range(pace.event_ms[0]..=pace.event_ms[1]);
            if script.end() + length > left_ms {
                break;
            }
            let Some(sequel) = script.next(config, rng) else { break };
            script.play(sequel, length);
            script.hold(rng.random_range(pace.hold_ms[0]..=pace.hold_ms[1]));
        }
        script.end_at(left_ms, pace.hold_ms[0]);
        let Script { objects, stretches } = script;
        Self {
            background: stage::draw_background(&objects, rng),
            light: stage::draw_light(rng),
            grain: rng.random(),
            pairs: config.pairs,
            objects,
            stretches,
        }
    }

    /// Its length, milliseconds.
    pub fn length_ms(&self) -> u64 {
        self.stretches.last().map_or(0, |last| last.end_ms)
    }

    /// Who draws its frames, at times in milliseconds from its beginning.
    pub fn painter(&self, size: usize) -> render::Painter<'_> {
        render::Painter::new(&self.objects, &self.background, &self.light, self.grain, size)
    }
}

/// A shot while it is written.
struct Script {
    objects: Vec<Object>,
    stretches: Vec<Stretch>,
}

impl Script {
    fn end(&self) -> u64 {
        self.stretches.last().map_or(0, |last| last.end_ms)
    }

    fn hold(&mut self, length: u64) {
        let start_ms = self.end();
        let (event, actors) = (Event::Nothing, Vec::new());
        self.stretches.push(Stretch { start_ms, end_ms: start_ms + length, event, actors });
    }

    /// What can happen to what is there now.
    fn next(&self, config: &Config, rng: &mut impl Rng) -> Option<Sequel> {
        let there = self.there();
        let now = self.end() as f32;
        let objects: Vec<Object> = there.iter().map(|&index| self.objects[index].at_rest(now)).collect();
        let turned: Vec<bool> = there.iter().map(|&index| self.objects[index].turns.is_some()).collect();
        let taken: Vec<_> = self.objects.iter().flat_map(Object::looks).collect();
        Scene { config, objects: &objects, turned: &turned, taken: &taken }.next(rng)
    }

    /// The objects that are in the picture at the end of what is written.
    fn there(&self) -> Vec<usize> {
        let now = self.end() as f32;
        let inside = |object: &Object| {
            let place = object.place(now);
            now < object.shown.1 && [place.x, place.y].iter().all(|at| (0.0..=1.0).contains(at))
        };
        (0..self.objects.len()).filter(|&index| inside(&self.objects[index])).collect()
    }

    /// Adds the event's tracks to those of the shot.
    fn play(&mut self, sequel: Sequel, length: u64) {
        let mut known = self.there();
        let start_ms = self.end();
        let at = |time: f32| start_ms as f32 + time * length as f32;
        for (index, object) in sequel.objects.into_iter().enumerate() {
            let keys = object.track.iter().map(|key| Key { time: at(key.time), ..*key });
            let turns = object.turns.map(|(time, colour, paint)| (at(time), colour, paint));
            let gone = if object.shown.1 < FOREVER { at(object.shown.1) } else { f32::INFINITY };
            if index == known.len() {
                let come = if object.shown.0 > 0.0 { at(object.shown.0) } else { f32::NEG_INFINITY };
                known.push(self.objects.len());
                self.objects.push(Object { track: keys.collect(), shown: (come, gone), turns, ..object });
            } else if sequel.actors.contains(&index) {
                let whole = &mut self.objects[known[index]];
                whole.track.extend(keys);
                whole.shown.1 = gone;
                whole.turns = whole.turns.or(turns);
            }
        }
        let actors = sequel.actors.iter().map(|&actor| known[actor]).collect();
        self.stretches.push(Stretch { start_ms, end_ms: start_ms + length, event: sequel.event, actors });
    }

    /// Lets the last hold end at `left_ms` where it goes on for longer, or where less than `least` would be left.
    fn end_at(&mut self, left_ms: u64, least: u64) {
        if self.end() + least <= left_ms {
            return;
        }
        if let Some(last) = self.stretches.last_mut() {
            last.end_ms = left_ms;
        }
        self.stretches.retain(|stretch| stretch.start_ms < stretch.end_ms);
    }
}

impl Object {
    /// It, as it is at `time`, at rest for a whole clip.
    fn at_rest(&self, time: f32) -> Self {
        let place = Key { time: 0.0, ..self.place(time) };
        let (colour, paint) = self.paint_at(time);
        let (size, shown) = (Size::of_radius(place.radius), (0.0, FOREVER));
        Self { colour, paint, size, track: vec![place], shown, turns: None, ..self.clone() }
    }

    /// What it looks like at some time.
    fn looks(&self) -> impl Iterator<Item = (Colour, Shape)> + use<> {
        let shape = self.shape;
        [Some(self.colour), self.turns.map(|turn| turn.1)].into_iter().flatten().map(move |colour| (colour, shape))
    }
}
