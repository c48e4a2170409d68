//! Long streams: shot after shot, each a scene that holds still, has events at irregular times, and holds again; cuts in
//! between. What can be said about every moment is known.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::World;
use super::render::Painter;
use super::scenario::Event;
use super::shot::Shot;

/// What streams look like. Every pair is a smallest and a largest value, both possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamConfig {
    /// Length, milliseconds, at least the shortest hold.
    pub duration_ms: [u64; 2],
    /// Frames a second, above 0.
    pub fps: f32,
    /// Shortest and longest time in which nothing happens, milliseconds, at least 1. The end of the stream may cut the
    /// last hold short, or lengthen it where nothing more fits.
    pub hold_ms: [u64; 2],
    /// Shortest and longest event, milliseconds, at least 1.
    pub event_ms: [u64; 2],
    /// Fewest and most events of a shot; fewer where nothing more can happen in a scene, or the stream ends.
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

/// Longest stream, milliseconds: a day. Times stay exact in the numbers that tracks are made of far beyond a shot.
pub const STREAM_MS_MAX: u64 = 86_400_000;

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
    /// What is drawn, each with its beginning, milliseconds.
    shots: Vec<(u64, Shot)>,
}

impl StreamConfig {
    /// Panics where a value leaves its documented range.
    pub(super) fn assert_sound(&self) {
        for (name, [least, most]) in
            [("duration_ms", self.duration_ms), ("hold_ms", self.hold_ms), ("event_ms", self.event_ms)]
        {
            assert!(
                (1..=STREAM_MS_MAX).contains(&least) && least <= most && most <= STREAM_MS_MAX,
                "{name} is {least} to {most}, must lie within 1 to {STREAM_MS_MAX}"
            );
        }
        assert!(self.events[0] <= self.events[1], "events is {:?}, must be fewest and most", self.events);
        assert!(self.fps.is_finite() && self.fps > 0.0, "fps is {}, must be above 0", self.fps);
        assert!(
            self.duration_ms[0] >= self.hold_ms[0],
            "duration_ms is {} or more, must be at least hold_ms, {}",
            self.duration_ms[0],
            self.hold_ms[0]
        );
    }
}

impl World {
    /// The stream of a seed; the same seed gives the same stream on every machine. Panics where `config` leaves its
    /// documented ranges.
    pub fn stream(&self, seed: u64, config: &StreamConfig) -> Stream {
        config.assert_sound();
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0073_7472_6561_6d73);
        let duration_ms = rng.random_range(config.duration_ms[0]..=config.duration_ms[1]);
        let mut stream = Stream { fps: config.fps, duration_ms, annotations: Vec::new(), shots: Vec::new() };
        let mut start_ms = 0;
        while start_ms < duration_ms {
            let shot = Shot::draw(self.config(), config, duration_ms - start_ms, &mut rng);
            let Some(said) = annotations(&shot, start_ms) else { continue };
            stream.annotations.extend(said);
            let length_ms = shot.length_ms();
            stream.shots.push((start_ms, shot));
            start_ms += length_ms;
        }
        stream
    }
}

/// What is true of a shot that begins at `start_ms`.
fn annotations(shot: &Shot, start_ms: u64) -> Option<Vec<Annotation>> {
    let said = shot.stretches.iter().map(|stretch| {
        Some(Annotation {
            start_ms: start_ms + stretch.start_ms,
            end_ms: start_ms + stretch.end_ms,
            event: stretch.event,
            caption: shot.stretch(stretch)?.scenario.caption(),
            cut: start_ms > 0 && stretch.start_ms == 0,
        })
    });
    said.collect()
}

impl Stream {
    /// Frames in all.
    pub fn frames_len(&self) -> usize {
        (self.duration_ms as f64 * f64::from(self.fps) / 1000.0).ceil() as usize
    }

    /// When frame `index` is filmed, milliseconds.
    pub fn frame_ms(&self, index: usize) -> f64 {
        index as f64 * 1000.0 / f64::from(self.fps)
    }

    /// What is true at a time; `None` from the end on.
    pub fn at(&self, time_ms: f64) -> Option<&Annotation> {
        self.annotations.get(self.annotations.partition_point(|said| said.end_ms as f64 <= time_ms))
    }

    /// Its shots, each with its beginning, milliseconds.
    #[cfg(test)]
    pub(super) fn shots(&self) -> impl Iterator<Item = &(u64, Shot)> {
        self.shots.iter()
    }

    /// All frames in order, each `side * side` RGB8 pixels, rows from the top, drawn as they are asked for: one shot's
    /// background is all that is held. A frame's noise is its own, as a camera's is; some shots have none.
    pub fn frames(&self, side: usize) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        let mut shots = self.shots.iter();
        let mut now: Option<(f64, u64, Painter)> = None;
        (0..self.frames_len()).map_while(move |index| {
            let time = self.frame_ms(index);
            while now.as_ref().is_none_or(|(end, ..)| *end <= time) {
                let (start, shot) = shots.next()?;
                now = Some(((start + shot.length_ms()) as f64, *start, shot.painter(side)));
            }
            let (_, start, painter) = now.as_mut()?;
            Some(painter.frame((time - *start as f64) as f32, index as u64))
        })
    }
}
