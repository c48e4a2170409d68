//! The generator of clips, questions and answers that the bundled model learns from.
//!
//! A seed gives a [`Scenario`]: objects with their tracks, one event, a background and a light, all in
//! the unit square and in clip time 0..1, so that it renders alike at any size and frame count.
//! Everything asked about it is read from that description, never from pixels, so answers are true by
//! construction. Pure Rust without tensors or image files: the trainer and the demo files both draw from it.

mod caption;
mod facts;
mod family;
mod labels;
mod palette;
mod phrasing;
mod render;
mod scenario;
mod sequel;
mod shapes;
mod shot;
mod stage;
mod stream;
mod view;
mod vocabulary;

pub use family::{Family, Question, majority};
pub use labels::{
    BACKGROUND_CLASSES, COLOUR_CLASSES, COUNT_CLASSES, DenseLabels, EVENT_CLASSES, MOTION_CLASSES, SHAPE_CLASSES,
    SIZE_CLASSES,
};
pub use palette::{Colour, Direction, HELD_OUT_PAIRS, Pairs, Pattern, Shape, Size};
pub use phrasing::Phrasings;
pub use scenario::{Background, Event, Key, Light, Object, Pose, Scenario};
pub use stream::{Annotation, STREAM_MS_MAX, Stream, StreamConfig};
pub use vocabulary::vocabulary;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::RangeInclusive;

/// Objects of a clip, at most.
pub const OBJECTS_MAX: usize = 4;
/// Widths of a drawn frame, pixels.
pub const SIDES: RangeInclusive<usize> = 16..=1024;

/// What the clips of a world look like. Pixel size and token grid are arguments of the calls that need them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Frames a clip, at least 1.
    pub frames: usize,
    /// Objects a clip, within 1..=4. Several events need two objects and then have them.
    pub objects: RangeInclusive<usize>,
    /// Which colour-shape pairs occur.
    pub pairs: Pairs,
    /// Share of clips that are still images (all frames identical, noise included), 0..1.
    pub still_share: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { frames: 8, objects: 1..=4, pairs: Pairs::Train, still_share: 0.2 }
    }
}

/// An endless, seeded supply of clips with everything that can be asked about them.
#[derive(Clone, Debug)]
pub struct World {
    config: Config,
}

impl World {
    /// A world of such clips. Panics where `config` leaves its documented ranges.
    pub fn new(config: Config) -> Self {
        assert!(config.frames >= 1, "a clip has at least one frame");
        assert!(
            *config.objects.start() >= 1 && *config.objects.end() <= OBJECTS_MAX && !config.objects.is_empty(),
            "objects must lie within 1..={OBJECTS_MAX}, got {:?}",
            config.objects
        );
        assert!((0.0..=1.0).contains(&config.still_share));
        Self { config }
    }

    /// The settings of this world.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The clip of a seed; the same seed gives the same clip on every machine.
    pub fn clip(&self, seed: u64) -> Scenario {
        stage::draw(&self.config, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    /// A clip with a question of `family`. For closed families of few answers the answer is drawn first, evenly,
    /// and clips are drawn until one has it: evaluation sets are balanced by construction.
    pub fn clip_for(&self, family: Family, phrasings: Phrasings, seed: u64) -> (Scenario, Question) {
        const DRAWS_MAX: usize = 4_000;
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
        let candidates = family.candidates();
        let wanted =
            (1..=20).contains(&candidates.len()).then(|| candidates[rng.random_range(0..candidates.len())].clone());
        let mut fallback = None;
        for draw in 0.. {
            let scenario = self.clip(rng.random());
            let asked = scenario.question_with(family, phrasings, wanted.as_deref(), &mut rng);
            if let Some(question) = asked {
                return (scenario, question);
            }
            // An answer that this world cannot give (three of a colour among two objects): any answer will do.
            if draw >= DRAWS_MAX / 2 && fallback.is_none() {
                fallback = scenario.question(family, phrasings, &mut rng).map(|question| (scenario, question));
            }
            if draw >= DRAWS_MAX
                && let Some(found) = fallback.take()
            {
                return found;
            }
        }
        unreachable!("the draw has no end")
    }
}

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
