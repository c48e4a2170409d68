//! Part of a shot as a clip of its own: what a window over it shows, and what can be said of that.
//!
//! The rule of what happens in a window: an event counts where its deed can be seen in the window's own frames, however
//! little of it; a part that goes on too briefly to be seen is a hold. What is left of an event is what is seen of it:
//! who is wholly in the picture in the first frame and goes on "moves", whatever it did before; two that have parted
//! already "move". Of two deeds in one window that counts of which there is more, and of equals the later one.

use super::OBJECTS_MAX;
use super::palette::{Direction, Size};
use super::scenario::{Event, Key, Object, Scenario};
use super::shot::{Shot, Stretch};

/// Frames in which something must be seen to be there, and before and after something that changes at once.
const SEEN_FRAMES: f32 = 2.0;
/// Shortest visible way, picture widths.
const MOVED_MIN: f32 = 0.1;
/// The same before a collision and after it, where two objects touch in between.
const RUN_MIN: f32 = 0.04;
/// Smallest visible growth of a radius, picture widths.
const GROWN_MIN: f32 = 0.03;
/// Nearer to the edge than this share of its radius an object's centre makes it one that is cut by the edge.
const CUT_SHARE: f32 = 0.5;

/// A window over a shot.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What it shows, in clip time from its first frame to its last one.
    pub scenario: Scenario,
    /// Whether everything that has a pixel in it is also in the scenario.
    pub clear: bool,
}

/// A span of a shot, `[from, to]` in milliseconds from the shot's beginning, of which `frames` are looked at, the first
/// and the last included. It may reach beyond the shot, which then goes on as it begins and ends: at rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Time of the first frame.
    pub from: f32,
    /// Time of the last frame; later.
    pub to: f32,
    /// Frames, at least 2.
    pub frames: usize,
}

impl Shot {
    /// What a window shows. `None` where more objects are seen than a clip may have, or none.
    pub fn view(&self, span: Span) -> Option<View> {
        let over = |stretch: &Stretch| {
            let from = span.from.max(stretch.start_ms as f32);
            span.to.min(stretch.end_ms as f32) - from
        };
        let met = self.stretches.iter().filter(|stretch| over(stretch) > 0.0);
        let seen = met.filter_map(|stretch| Some((over(stretch), self.deed(stretch, span)?)));
        // The last of equals is taken.
        let most = seen.max_by(|(a, _), (b, _)| a.total_cmp(b));
        let (event, actors) = most.map_or((Event::Nothing, Vec::new()), |(_, deed)| deed);
        self.scene(event, &actors, span)
    }

    /// A whole stretch as a clip. `None` as [`view`](Self::view).
    pub fn stretch(&self, stretch: &Stretch) -> Option<View> {
        const FRAMES: usize = 8;
        let span = Span { from: stretch.start_ms as f32, to: stretch.end_ms as f32, frames: FRAMES };
        self.scene(stretch.event, &stretch.actors, span)
    }

    /// The event with its actors, and everything else that is seen.
    fn scene(&self, event: Event, actors: &[usize], span: Span) -> Option<View> {
        let mut clear = true;
        let mut objects: Vec<Object> = actors.iter().map(|&actor| self.objects[actor].within(span)).collect();
        for (index, object) in self.objects.iter().enumerate() {
            let object = object.within(span);
            let frames = object.frames_inside(span.frames);
            let there = frames >= SEEN_FRAMES as usize;
            clear &= there || !object.has_pixels(span.frames);
            clear &= object.turns.is_none() || event == Event::ChangesColour;
            if there && !actors.contains(&index) {
                objects.push(object);
            }
        }
        let scenario = Scenario {
            background: self.background,
            light: self.light,
            grain: self.grain,
            frames: span.frames,
            pairs: self.pairs,
            event,
            still: false,
            objects,
        };
        (1..=OBJECTS_MAX).contains(&scenario.objects.len()).then_some(View { scenario, clear })
    }

    /// What can be seen of a stretch's event.
    fn deed(&self, stretch: &Stretch, span: Span) -> Option<(Event, Vec<usize>)> {
        let one = *stretch.actors.first()?;
        let first = self.objects[one].within(span);
        let alone = |event: Event| Some((event, vec![one]));
        match stretch.event {
            Event::Nothing => None,
            Event::Moves(way) | Event::Enters(way) | Event::Leaves(way) => alone(first.passage(way, span.frames)?),
            Event::Appears => alone(stretch.event).filter(|_| is_seen_change(first.shown.0, span.frames)),
            Event::Disappears => alone(stretch.event).filter(|_| is_seen_change(first.shown.1, span.frames)),
            Event::ChangesColour => {
                alone(stretch.event).filter(|_| first.turns.is_some_and(|turn| is_seen_change(turn.0, span.frames)))
            }
            Event::Grows | Event::Shrinks => {
                let growth = first.track[first.track.len() - 1].radius - first.track[0].radius;
                alone(stretch.event).filter(|_| growth.abs() >= GROWN_MIN)
            }
            Event::Collide | Event::TwoMove => {
                let other = *stretch.actors.get(1)?;
                let both = [&first, &self.objects[other].within(span)];
                self.two(stretch, span, both).map(|(event, lone)| match lone {
                    Some(which) => (event, vec![stretch.actors[which]]),
                    None => (event, stretch.actors.clone()),
                })
            }
        }
    }

    /// Two that move: what is seen, and which of the two where one alone is seen to move.
    fn two(&self, stretch: &Stretch, span: Span, both: [&Object; 2]) -> Option<(Event, Option<usize>)> {
        let moved = both.map(|object| step(object, 0.0, 1.0));
        if stretch.event == Event::Collide {
            let [start, end] = [stretch.start_ms, stretch.end_ms].map(|at| at as f32);
            let keys = self.objects[stretch.actors[0]].track.iter();
            let meet = keys.map(|key| key.time).find(|time| start < *time && *time < end);
            let meet = meet.map(|time| (time - span.from) / (span.to - span.from));
            let far = |from: f32, to: f32| both.iter().any(|object| length(step(object, from, to)) >= RUN_MIN);
            if meet.is_some_and(|at| is_seen_change(at, span.frames) && far(0.0, at) && far(at, 1.0)) {
                return Some((Event::Collide, None));
            }
        }
        match moved.map(|step| length(step) >= MOVED_MIN) {
            [true, true] => Some((Event::TwoMove, None)),
            [false, false] => None,
            [left, _] => {
                let which = usize::from(!left);
                let (dx, dy) = moved[which];
                Some((Event::Moves(Direction::of_step(dx, dy)), Some(which)))
            }
        }
    }
}

impl Object {
    /// It within a span, in clip time: the track of that span alone, its first colour and size.
    fn within(&self, span: Span) -> Self {
        let clip_time = |at: f32| (at - span.from) / (span.to - span.from);
        let inner = self.track.iter().filter(|key| span.from < key.time && key.time < span.to);
        let ends = [self.place(span.from), self.place(span.to)];
        let keys = ends[..1].iter().chain(inner).chain(&ends[1..]);
        let mut track: Vec<Key> = keys.map(|key| Key { time: clip_time(key.time), ..*key }).collect();
        let rests = |key: &Key| (key.x, key.y, key.radius) == (track[0].x, track[0].y, track[0].radius);
        if track.iter().all(rests) {
            track.truncate(1);
        }
        let (colour, paint) = self.paint_at(span.from);
        let turns = self.turns.map(|(time, colour, paint)| (clip_time(time), colour, paint));
        Self {
            colour,
            paint,
            size: Size::of_radius(track[0].radius),
            shown: (clip_time(self.shown.0), clip_time(self.shown.1)),
            turns: turns.filter(|turn| 0.0 < turn.0 && turn.0 <= 1.0),
            track,
            ..self.clone()
        }
    }

    /// In how many frames its centre is in the picture.
    fn frames_inside(&self, frames: usize) -> usize {
        self.frames_where(frames, |at| [at.x, at.y].iter().all(|at| (0.0..=1.0).contains(at)))
    }

    /// Whether it has a pixel in any frame. No outline lies farther than 1.15 radii from the centre.
    fn has_pixels(&self, frames: usize) -> bool {
        let near = |at: f32, reach: f32| -reach < at && at < 1.0 + reach;
        let touches = |at: &super::scenario::Pose| [at.x, at.y].iter().all(|c| near(*c, 1.15 * at.radius));
        self.frames_where(frames, touches) > 0
    }

    fn frames_where(&self, frames: usize, holds: impl Fn(&super::scenario::Pose) -> bool) -> usize {
        let last = (frames - 1).max(1) as f32;
        (0..frames).filter(|&frame| self.at(frame as f32 / last).is_some_and(|pose| holds(&pose))).count()
    }

    /// What is seen of something that crosses the picture or its edge.
    fn passage(&self, way: Direction, frames: usize) -> Option<Event> {
        let there = self.frames_inside(frames) >= SEEN_FRAMES as usize;
        if !there || length(step(self, 0.0, 1.0)) < MOVED_MIN {
            return None;
        }
        let along = |time: f32| {
            let place = self.place(time);
            way.along((place.x, place.y)).0
        };
        let cut = CUT_SHARE * self.track[0].radius;
        Some(match () {
            () if along(0.0) < cut => Event::Enters(way),
            () if along(1.0) > 1.0 - cut => Event::Leaves(way),
            () => Event::Moves(way),
        })
    }
}

/// Whether something that changes at once, at this clip time, is seen long enough before and after.
fn is_seen_change(at: f32, frames: usize) -> bool {
    let frame = 1.0 / (frames - 1).max(1) as f32;
    at > (SEEN_FRAMES - 1.0) * frame && at <= 1.0 - (SEEN_FRAMES - 1.0) * frame
}

/// From where to where it goes between two times.
fn step(object: &Object, from: f32, to: f32) -> (f32, f32) {
    let (from, to) = (object.place(from), object.place(to));
    (to.x - from.x, to.y - from.y)
}

fn length((dx, dy): (f32, f32)) -> f32 {
    dx.hypot(dy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::world::{Colour, Shape};

    /// Something of radius 0.1 that goes right, from one end of a clip to the other.
    fn going(from: f32, to: f32) -> Object {
        let key = |time: f32, x: f32| Key { time, x, y: 0.5, radius: 0.1 };
        let (colour, shape, size, paint) = (Colour::Red, Shape::Circle, Size::Small, Colour::Red.paint());
        let (track, shown) = (vec![key(0.0, from), key(1.0, to)], (0.0, 2.0));
        Object { colour, shape, size, paint, tilt: 0.0, track, shown, turns: None }
    }

    #[test]
    fn who_is_cut_by_the_edge_comes_or_goes() {
        let way = Direction::Right;
        for (from, to, seen) in [
            (0.04, 0.5, Some(Event::Enters(way))),
            (-0.2, 0.2, Some(Event::Enters(way))),
            (0.06, 0.5, Some(Event::Moves(way))),
            (0.5, 0.94, Some(Event::Moves(way))),
            (0.5, 0.96, Some(Event::Leaves(way))),
            (0.6, 1.2, Some(Event::Leaves(way))),
            (0.5, 0.59, None),
            (0.99, 1.2, None),
            (-0.2, 0.01, None),
        ] {
            assert_eq!(going(from, to).passage(way, 8), seen, "from {from} to {to}");
        }
    }

    #[test]
    fn a_change_is_seen_with_two_frames_before_and_two_after() {
        let at = |frame: f32| is_seen_change(frame / 7.0, 8);
        assert!(!at(0.9) && at(1.1) && at(5.9) && !at(6.1));
    }

    #[test]
    fn a_part_of_a_track_goes_from_end_to_end() {
        let mut object = going(0.2, 0.8);
        object.track[1].time = 1000.0;
        object.shown = (f32::NEG_INFINITY, f32::INFINITY);
        object.turns = Some((900.0, Colour::Blue, Colour::Blue.paint()));
        let part = object.within(Span { from: 500.0, to: 1500.0, frames: 5 });
        let places: Vec<(f32, f32)> = part.track.iter().map(|key| (key.time, key.x)).collect();
        assert_eq!(places, [(0.0, 0.5), (0.5, 0.8), (1.0, 0.8)]);
        assert_eq!(part.turns.map(|turn| (turn.0, turn.1)), Some((0.4, Colour::Blue)));
        let rest = object.within(Span { from: 1000.0, to: 2000.0, frames: 5 });
        assert!(rest.is_constant() && rest.colour == Colour::Blue, "{rest:?}");
    }
}
