//! What a model sees of a stream: a few frames that begin anywhere. Windows for training are drawn from a shot or two,
//! not from a whole stream, and more often where something happens than a stream has them.
//!
//! What is said of a window is what should be read while it is the newest one: of two scenes the one that most frames
//! show, of equals the later one; within it what `view` sees.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::family::{Family, Question};
use super::labels::DenseLabels;
use super::phrasing::Phrasings;
use super::scenario::{Event, Scenario};
use super::shot::{Shot, Stretch};
use super::stream::StreamConfig;
use super::view::{Span, View};
use super::{Config, World};

/// Time between two frames of a window, milliseconds.
const FRAME_MS: f32 = 250.0;
/// Share of windows that have a cut in them, and of those in which nothing happens at all.
const KINDS: [f32; 2] = [0.12, 0.18];
/// Share of windows near an event, too far from it to see anything, that are drawn again.
const PASSED_BY: f64 = 0.6;
/// What can be asked of a window in which not everything that is seen can be named.
const OF_EVENTS: [Family; 4] = [Family::Describe, Family::Event, Family::Motion, Family::Actor];

/// A window over a stream.
#[derive(Clone, Debug)]
pub struct Window {
    /// One scene, or two with a cut between them.
    scenes: Vec<Scene>,
    /// Which of them is spoken of.
    main: usize,
    frames: usize,
}

/// Frames of one shot, and what they would show if the whole window were of this shot.
#[derive(Clone, Debug)]
struct Scene {
    shot: Shot,
    span: Span,
    view: View,
    /// The first frame that is not of it.
    end: usize,
}

impl World {
    /// The window of a seed, of as many frames as the world's clips have, at least 2; the same seed gives the same window
    /// on every machine.
    pub fn window(&self, seed: u64) -> Window {
        assert!(self.config().frames >= 2, "a window has two frames at least");
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0077_696e_646f_7773);
        loop {
            let kind: f32 = rng.random();
            let drawn = match () {
                () if kind < KINDS[0] => cut(self.config(), &mut rng),
                () if kind < KINDS[0] + KINDS[1] => within(self.config(), Event::is_hold, &mut rng),
                () => within(self.config(), |event| !event.is_hold(), &mut rng),
            };
            if let Some(window) = drawn {
                return window;
            }
        }
    }
}

/// A window over one shot: inside a hold, or anywhere where it meets an event.
fn within(config: &Config, wanted: impl Fn(Event) -> bool, rng: &mut impl Rng) -> Option<Window> {
    let shot = draw(config, [1, 2], rng);
    let stretches: Vec<&Stretch> = shot.stretches.iter().filter(|stretch| wanted(stretch.event)).collect();
    let stretch = stretches.choose(rng)?;
    let [start, end] = [stretch.start_ms as f32, stretch.end_ms as f32];
    let length = length(config.frames);
    let from = match stretch.event {
        Event::Nothing => rng.random_range(start..=start.max(end - length)),
        _ => rng.random_range(start - length..=end),
    };
    let hold = stretch.event.is_hold();
    let window = Window::of(vec![(shot, from, config.frames)], config.frames)?;
    let passed_by = !hold && window.scenario().event.is_hold();
    (!passed_by || !rng.random_bool(PASSED_BY)).then_some(window)
}

/// A window over the end of one shot and the beginning of another.
fn cut(config: &Config, rng: &mut impl Rng) -> Option<Window> {
    let [before, after] = [[0, 1], [0, 0]].map(|events| draw(config, events, rng));
    let first = rng.random_range(1..config.frames);
    // The cut lies anywhere between two frames.
    let past = FRAME_MS * rng.random_range(0.0..1.0);
    let end = before.length_ms() as f32;
    let from = end - past - FRAME_MS * (first - 1) as f32;
    Window::of(vec![(before, from, first), (after, from - end, config.frames)], config.frames)
}

fn draw(config: &Config, events: [usize; 2], rng: &mut impl Rng) -> Shot {
    let pace = StreamConfig { events, ..StreamConfig::default() };
    Shot::draw(config, &pace, u64::MAX, rng)
}

/// From the first frame to the last.
fn length(frames: usize) -> f32 {
    FRAME_MS * (frames - 1) as f32
}

impl Event {
    fn is_hold(self) -> bool {
        self == Self::Nothing
    }
}

impl Window {
    /// A window over shots, each with the window's beginning in its time and the first frame that is not of it.
    fn of(shots: Vec<(Shot, f32, usize)>, frames: usize) -> Option<Self> {
        let mut scenes: Vec<Scene> = Vec::with_capacity(shots.len());
        for (shot, from, end) in shots {
            let span = Span { from, to: from + length(frames), frames };
            scenes.push(Scene { view: shot.view(span)?, shot, span, end });
        }
        let halves = scenes.first().is_some_and(|first| 2 * first.end <= frames);
        Some(Self { main: usize::from(halves && scenes.len() > 1), scenes, frames })
    }

    /// What is said of it, as a clip of its own.
    pub fn scenario(&self) -> &Scenario {
        &self.scenes[self.main].view.scenario
    }

    /// Whether it shows one scene, of which every object that is seen can be spoken.
    pub fn is_clear(&self) -> bool {
        self.scenes.len() == 1 && self.scenes[0].view.clear
    }

    /// At most `count` different questions: what happens, a description, and others, families by weight.
    pub fn questions(
        &self,
        count: usize,
        weights: &[(Family, f32)],
        phrasings: Phrasings,
        rng: &mut impl Rng,
    ) -> Vec<Question> {
        let clip = self.scenario();
        let always = [Family::Describe, Family::Event];
        let wanted = |family: &Family| weights.iter().any(|(known, weight)| known == family && *weight > 0.0);
        let ask = |family: &Family, rng: &mut _| clip.question_with(*family, phrasings, None, rng);
        let mut asked: Vec<Question> =
            always.iter().filter(|family| wanted(family)).filter_map(|family| ask(family, rng)).take(count).collect();
        let open = |family: &Family| !always.contains(family) && (self.is_clear() || OF_EVENTS.contains(family));
        let rest: Vec<_> = weights.iter().copied().filter(|(family, _)| open(family)).collect();
        asked.extend(clip.questions(count - asked.len(), &rest, phrasings, rng));
        asked
    }

    /// The frames, each `size * size` RGB8 pixels, rows from the top.
    pub fn render(&self, size: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::with_capacity(self.frames);
        for scene in &self.scenes {
            let mut painter = scene.shot.painter(size);
            for frame in frames.len()..scene.end {
                frames.push(painter.frame(scene.span.from + FRAME_MS * frame as f32, frame as u64));
            }
        }
        frames
    }

    /// Labels of tokens of two frames each on a grid of `grid * grid` cells. Tokens of a scene have its labels, those that
    /// a cut goes through and what is said of the whole the labels of the scene that is spoken of.
    pub fn labels(&self, grid: usize) -> DenseLabels {
        let mut labels = self.scenario().labels(grid);
        for (index, scene) in self.scenes.iter().enumerate().filter(|(index, _)| *index != self.main) {
            let begin = if index == 0 { 0 } else { self.scenes[index - 1].end };
            let cells = grid * grid;
            let tokens = begin.div_ceil(2) * cells..scene.end.div_euclid(2) * cells;
            labels.splice(tokens, &scene.view.scenario.labels(grid));
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::world::{OBJECTS_MAX, Phrasings};

    fn windows(count: u64) -> impl Iterator<Item = Window> {
        let world = World::new(Config::default());
        (0..count).map(move |seed| world.window(seed))
    }

    #[test]
    fn a_seed_gives_the_same_window() {
        for (first, second) in windows(30).zip(windows(30)) {
            assert_eq!((first.scenario(), first.is_clear()), (second.scenario(), second.is_clear()));
            assert!(first.render(24) == second.render(24) && first.labels(4) == second.labels(4));
            assert_eq!(first.render(24).len(), 8);
        }
    }

    #[test]
    fn windows_of_every_kind_are_drawn() {
        let mut events = std::collections::BTreeMap::<&str, usize>::new();
        let (mut cuts, mut clear) = (0, 0);
        for window in windows(1500) {
            *events.entry(window.scenario().event.phrase()).or_default() += 1;
            cuts += usize::from(window.scenes.len() == 2);
            clear += usize::from(window.is_clear());
        }
        println!("{cuts} cuts, {clear} clear, {events:?}");
        assert_eq!(events.len(), Event::PHRASES.len(), "{events:?}");
        assert!((150..300).contains(&cuts), "{cuts} cuts");
        assert!((800..1350).contains(&clear), "{clear} clear");
        assert!((600..900).contains(&events["nothing happens"]), "{events:?}");
        assert!(events["two objects collide"] >= 8, "{events:?}");
    }

    #[test]
    fn of_two_scenes_the_longer_one_is_told_and_of_equals_the_later() {
        let mut firsts = std::collections::BTreeSet::new();
        for window in windows(600).filter(|window| window.scenes.len() == 2) {
            let first = window.scenes[0].end;
            firsts.insert(first);
            assert_eq!(window.main, usize::from(first <= 4), "{first} frames before the cut");
            assert!(!window.is_clear());
            // Pixels: the frames of a scene are alike, those on both sides of the cut are not.
            let frames = window.render(32);
            let far = |a: usize, b: usize| {
                frames[a].iter().zip(&frames[b]).map(|(a, b)| f32::from(a.abs_diff(*b))).sum::<f32>() / 3072.0
            };
            let across = far(first - 1, first);
            assert!(first < 2 || far(first - 2, first - 1) < across, "{first} of 8: {across}");
            assert!(first > 6 || far(first, first + 1) < across, "{first} of 8: {across}");
        }
        assert_eq!(firsts, (1..8).collect());
    }

    #[test]
    fn tokens_of_each_scene_have_its_labels() {
        for window in windows(600).filter(|window| window.scenes.len() == 2) {
            let [before, after] = [0, 1].map(|scene| window.scenes[scene].view.scenario.labels(4));
            let (whole, first) = (window.labels(4), window.scenes[0].end);
            assert_eq!(whole.colour.len(), 64);
            assert_eq!(whole.count as usize + 1, window.scenario().objects.len());
            for step in 0..4 {
                let tokens = step * 16..(step + 1) * 16;
                let of = match () {
                    () if 2 * step + 2 <= first => &before,
                    () if 2 * step >= first => &after,
                    () if window.main == 0 => &before,
                    () => &after,
                };
                assert_eq!(whole.shape[tokens.clone()], of.shape[tokens.clone()], "step {step}, cut at {first}");
                assert_eq!(whole.motion[tokens.clone()], of.motion[tokens], "step {step}, cut at {first}");
            }
        }
    }

    #[test]
    fn what_happens_and_a_description_are_always_asked_and_answers_are_of_the_window() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let weights: Vec<_> = Family::ALL.iter().map(|family| (*family, 1.0)).collect();
        for window in windows(300) {
            let asked = window.questions(12, &weights, Phrasings::Train, &mut rng);
            assert!((2..=12).contains(&asked.len()));
            let clip = window.scenario();
            assert!((1..=OBJECTS_MAX).contains(&clip.objects.len()));
            assert_eq!((asked[0].answer.as_str(), asked[1].answer.as_str()), (&*clip.caption(), clip.event.phrase()));
            assert!(window.is_clear() || asked.iter().all(|asked| OF_EVENTS.contains(&asked.family)));
            let few = window.questions(1, &weights, Phrasings::Train, &mut rng);
            assert_eq!(few.len(), 1);
        }
        let lone = [(Family::Motion, 1.0), (Family::Event, 0.0)];
        let window = World::new(Config::default()).window(3);
        let asked = window.questions(12, &lone, Phrasings::Train, &mut rng);
        assert!(asked.iter().all(|asked| asked.family == Family::Motion));
    }
}
