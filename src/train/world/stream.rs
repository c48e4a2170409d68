//! Long streams: shot after shot, each a scene that holds still, has events at irregular times, and holds again; cuts in
//! between. What can be said about every moment is known.

use super::World;
use super::scenario::Event;

/// What streams look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamConfig {
    /// Length, milliseconds.
    pub duration_ms: [u64; 2],
    /// Frames a second.
    pub fps: f32,
    /// Shortest and longest time in which nothing happens, milliseconds.
    pub hold_ms: [u64; 2],
    /// Shortest and longest event, milliseconds.
    pub event_ms: [u64; 2],
    /// Fewest and most events of a shot.
    pub events: [usize; 2],
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            duration_ms: [180_000, 360_000],
            fps: 4.0,
            hold_ms: [1_500, 12_000],
            event_ms: [1_500, 2_500],
            events: [0, 3],
        }
    }
}

/// What is true of a stretch of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotation {
    /// Its beginning, milliseconds.
    pub start_ms: u64,
    /// Its end, milliseconds.
    pub end_ms: u64,
    /// What happens; [`Event::Nothing`] in a hold.
    pub event: Event,
    /// It in words, as [`Scenario::caption`](super::Scenario::caption) says it.
    pub caption: String,
    /// Whether the stretch begins with a cut.
    pub cut: bool,
}

/// A stream as a description.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Frames a second.
    pub fps: f32,
    /// Length, milliseconds.
    pub duration_ms: u64,
    /// Everything that is true, without gaps, in order.
    pub annotations: Vec<Annotation>,
}

impl World {
    /// The stream of a seed; the same seed gives the same stream on every machine.
    pub fn stream(&self, _seed: u64, _config: &StreamConfig) -> Stream {
        unimplemented!("by the branch of the streams' world")
    }
}

impl Stream {
    /// All frames in order, each `side * side` RGB8 pixels, rows from the top, drawn as they are asked for.
    pub fn frames(&self, _side: usize) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        std::iter::empty()
    }
}
