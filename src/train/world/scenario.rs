//! A clip as a description: what is in it, where, when. Units: picture widths (0..1, y down) and clip time
//! (0 = first frame, 1 = last). Drawing it at random is `stage`'s work, pixels are `render`'s, questions `facts`'.

use super::palette::{Colour, Direction, Pairs, Pattern, Shape, Size};

/// One object over the whole clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its colour, at the start where it changes.
    pub colour: Colour,
    /// Its outline.
    pub shape: Shape,
    /// Its size, at the start where it grows or shrinks.
    pub size: Size,
    /// Its own shade of its colour, RGB 0..255.
    pub paint: [f32; 3],
    /// Rotation in radians, small.
    pub tilt: f32,
    /// Where it is, linear between the keys and still outside them; at least one.
    pub track: Vec<Key>,
    /// From when to when it exists, `[from, to)`; `to` is above 1 where it stays.
    pub shown: (f32, f32),
    /// When it turns into which colour and shade.
    pub turns: Option<(f32, Colour, [f32; 3])>,
}

/// A point of an object's track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Clip time.
    pub time: f32,
    /// Centre, picture widths from the left.
    pub x: f32,
    /// Centre, picture widths from the top.
    pub y: f32,
    /// Half the diameter, picture widths.
    pub radius: f32,
}

/// An object at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Centre, picture widths from the left.
    pub x: f32,
    /// Centre, picture widths from the top.
    pub y: f32,
    /// Half the diameter, picture widths.
    pub radius: f32,
    /// The colour now.
    pub colour: Colour,
    /// The shade now, RGB 0..255.
    pub paint: [f32; 3],
}

impl Object {
    /// Where and what it is at `time`; `None` while it does not exist. It may lie outside the picture.
    pub fn at(&self, time: f32) -> Option<Pose> {
        if time < self.shown.0 || time >= self.shown.1 {
            return None;
        }
        let key = self.place(time);
        let (colour, paint) = self.paint_at(time);
        Some(Pose { x: key.x, y: key.y, radius: key.radius, colour, paint })
    }

    /// Where it would be at `time`, whether it exists then or not.
    pub(super) fn place(&self, time: f32) -> Key {
        let after = self.track.iter().position(|key| key.time >= time);
        let key = match after {
            Some(0) => self.track[0],
            Some(next) => self.track[next - 1].towards(self.track[next], time),
            None => self.track[self.track.len() - 1],
        };
        Key { time, ..key }
    }

    /// Its colour and shade at `time`.
    pub(super) fn paint_at(&self, time: f32) -> (Colour, [f32; 3]) {
        match self.turns {
            Some((when, colour, paint)) if time >= when => (colour, paint),
            _ => (self.colour, self.paint),
        }
    }

    /// Whether nothing about it changes in the whole clip.
    pub fn is_constant(&self) -> bool {
        self.track.len() == 1 && self.is_always_shown() && self.turns.is_none()
    }

    /// Whether it exists from the first frame to the last (it may still lie outside the picture).
    pub fn is_always_shown(&self) -> bool {
        self.shown.0 <= 0.0 && self.shown.1 > 1.0
    }

    /// Whether its size never changes.
    pub fn keeps_size(&self) -> bool {
        self.track.iter().all(|key| key.radius == self.track[0].radius)
    }

    /// Whether it ever has this colour.
    pub fn has_colour(&self, colour: Colour) -> bool {
        self.colour == colour || self.turns.is_some_and(|(_, turned, _)| turned == colour)
    }
}

impl Key {
    fn towards(self, next: Self, time: f32) -> Self {
        let share = ((time - self.time) / (next.time - self.time).max(f32::EPSILON)).clamp(0.0, 1.0);
        let mix = |from: f32, to: f32| from + (to - from) * share;
        Self { time, x: mix(self.x, next.x), y: mix(self.y, next.y), radius: mix(self.radius, next.radius) }
    }
}

/// What happens in a clip. The direction is the one of the movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Every object is still.
    Nothing,
    /// One object moves.
    Moves(Direction),
    /// One object comes in over the edge.
    Enters(Direction),
    /// One object goes out over the edge.
    Leaves(Direction),
    /// One object is suddenly there.
    Appears,
    /// One object is suddenly gone.
    Disappears,
    /// One object takes another colour.
    ChangesColour,
    /// One small object becomes large.
    Grows,
    /// One large object becomes small.
    Shrinks,
    /// Two objects meet.
    Collide,
    /// Two objects move and do not meet.
    TwoMove,
}

impl Event {
    /// The answers to "what happens?", in the order of [`index`](Self::index). All ways out are one answer.
    pub const PHRASES: [&'static str; 17] = [
        "nothing happens",
        "an object moves left",
        "an object moves right",
        "an object moves up",
        "an object moves down",
        "an object enters from the right",
        "an object enters from the left",
        "an object enters from the bottom",
        "an object enters from the top",
        "an object leaves",
        "an object appears",
        "an object disappears",
        "an object changes colour",
        "an object grows",
        "an object shrinks",
        "two objects collide",
        "two objects move",
    ];

    /// Its class index, from 0.
    pub fn index(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Moves(direction) => 1 + direction.index(),
            Self::Enters(direction) => 5 + direction.index(),
            Self::Leaves(_) => 9,
            Self::Appears => 10,
            Self::Disappears => 11,
            Self::ChangesColour => 12,
            Self::Grows => 13,
            Self::Shrinks => 14,
            Self::Collide => 15,
            Self::TwoMove => 16,
        }
    }

    /// The answer to "what happens?".
    pub fn phrase(self) -> &'static str {
        Self::PHRASES[self.index()]
    }

    /// How many objects take part.
    pub fn actors(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Collide | Self::TwoMove => 2,
            _ => 1,
        }
    }
}

/// What lies behind the objects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Background {
    /// Its kind.
    pub pattern: Pattern,
    /// The main shade, RGB 0..255.
    pub first: [f32; 3],
    /// The other shade (equal to the first where plain).
    pub second: [f32; 3],
    /// Direction of stripes, gradient and lattice, radians.
    pub angle: f32,
    /// Length of one repetition, picture widths.
    pub period: f32,
    /// Offset of the pattern, in periods.
    pub phase: f32,
}

/// How the scene is lit and filmed, alike in all frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Light {
    /// Factor a channel: brightness and a slight tint.
    pub gain: [f32; 3],
    /// Added to every channel, 0..255 scale.
    pub offset: f32,
    /// Standard deviation of the pixel noise, 0..255 scale.
    pub noise: f32,
}

/// Everything about one clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The objects, topmost first; the event's actors come first.
    pub objects: Vec<Object>,
    /// What happens.
    pub event: Event,
    /// What lies behind.
    pub background: Background,
    /// How it is lit.
    pub light: Light,
    /// Frames of the clip.
    pub frames: usize,
    /// A still image: every frame is the same, noise included.
    pub still: bool,
    /// Seed of the noise and of the background's irregularity.
    pub grain: u64,
    /// The pairs of its world; questions name no others where it trains.
    pub pairs: Pairs,
}

impl Scenario {
    /// The objects that take part in the event.
    pub fn actors(&self) -> &[Object] {
        &self.objects[..self.event.actors()]
    }

    /// Clip time of a frame.
    pub fn time(&self, frame: usize) -> f32 {
        if self.still || self.frames < 2 { 0.0 } else { frame as f32 / (self.frames - 1) as f32 }
    }
}
