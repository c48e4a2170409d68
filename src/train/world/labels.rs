//! Dense labels: for every visual token what lies on it, for every clip what it is as a whole. They stand
//! for the paper's pretrained vision encoder: an encoder that learns them first can then learn to answer.

use super::palette::{Colour, Direction, Pattern, Shape, Size};
use super::scenario::{Event, Pose, Scenario};
use super::shapes;

/// Classes of [`DenseLabels::colour`]: none, then [`Colour::ALL`].
pub const COLOUR_CLASSES: usize = 1 + Colour::ALL.len();
/// Classes of [`DenseLabels::shape`]: none, then [`Shape::ALL`].
pub const SHAPE_CLASSES: usize = 1 + Shape::ALL.len();
/// Classes of [`DenseLabels::motion`]: none, still, left, right, up, down.
pub const MOTION_CLASSES: usize = 6;
/// Classes of [`DenseLabels::size`]: none, then [`Size::ALL`].
pub const SIZE_CLASSES: usize = 1 + Size::ALL.len();
/// Classes of [`DenseLabels::background`]: [`Pattern::ALL`].
pub const BACKGROUND_CLASSES: usize = Pattern::ALL.len();
/// Classes of [`DenseLabels::count`]: one to four objects.
pub const COUNT_CLASSES: usize = 4;
/// Classes of [`DenseLabels::event`]: [`Event::PHRASES`].
pub const EVENT_CLASSES: usize = Event::PHRASES.len();

/// Class indices; token vectors are ordered by time, then row, then column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenseLabels {
    /// Colour of the object on each token; 0 = no object.
    pub colour: Vec<u8>,
    /// Its shape; 0 = no object.
    pub shape: Vec<u8>,
    /// Its motion between the token's two frames; 0 = no object, 1 = still.
    pub motion: Vec<u8>,
    /// Its size at this moment; 0 = no object.
    pub size: Vec<u8>,
    /// Kind of background.
    pub background: u8,
    /// Objects of the clip, less one.
    pub count: u8,
    /// What happens.
    pub event: u8,
}

/// Samples a cell and axis: 36 points a cell and frame decide who covers it.
const SAMPLES: usize = 6;
/// An object holds a token from this share of the cell on,
const CELL_SHARE: f32 = 0.18;
/// or from this share of its own visible surface on (a small object on a corner of four cells).
const OBJECT_SHARE: f32 = 0.2;
/// Slowest visible motion, picture widths a frame of an eight-frame clip.
const SPEED_MIN: f32 = 0.012;

impl Scenario {
    /// Labels of tokens of two frames each on a grid of `grid * grid` cells.
    pub fn labels(&self, grid: usize) -> DenseLabels {
        let steps = self.frames.div_ceil(2);
        let tokens = steps * grid * grid;
        let mut labels = DenseLabels {
            colour: Vec::with_capacity(tokens),
            shape: Vec::with_capacity(tokens),
            motion: Vec::with_capacity(tokens),
            size: Vec::with_capacity(tokens),
            background: self.background.pattern.index() as u8,
            count: (self.objects.len() - 1) as u8,
            event: self.event.index() as u8,
        };
        for step in 0..steps {
            let times = [2 * step, (2 * step + 1).min(self.frames - 1)].map(|frame| self.time(frame));
            self.label_step(times, grid, &mut labels);
        }
        labels
    }

    fn label_step(&self, times: [f32; 2], grid: usize, labels: &mut DenseLabels) {
        let covered = self.cover(times, grid);
        for cell in 0..grid * grid {
            let best = (0..self.objects.len())
                .filter(|object| covered[*object][cell] > 0.0)
                .max_by(|a, b| covered[*a][cell].total_cmp(&covered[*b][cell]));
            let holder = best.filter(|object| {
                let share = covered[*object][cell];
                let whole: f32 = covered[*object].iter().sum();
                share >= CELL_SHARE || share >= OBJECT_SHARE * whole
            });
            let seen = holder.and_then(|index| Some((index, self.pose(index, times)?)));
            labels.colour.push(seen.map_or(0, |(_, pose)| 1 + pose.colour.index() as u8));
            labels.size.push(seen.map_or(0, |(_, pose)| 1 + Size::of_radius(pose.radius).index() as u8));
            labels.shape.push(seen.map_or(0, |(index, _)| 1 + self.objects[index].shape.index() as u8));
            labels.motion.push(seen.map_or(0, |(index, _)| self.motion(index, times)));
        }
    }

    /// Visible share of every cell that each object covers, mean of the two frames: `[object][cell]`.
    fn cover(&self, times: [f32; 2], grid: usize) -> Vec<Vec<f32>> {
        let fine = grid * SAMPLES;
        let mut covered = vec![vec![0.0; grid * grid]; self.objects.len()];
        for time in times {
            let mut taken = vec![false; fine * fine];
            for (object, covered) in self.objects.iter().zip(&mut covered) {
                let Some(pose) = object.at(time) else { continue };
                let bound = |at: f32| (at * fine as f32).clamp(0.0, fine as f32) as usize;
                let reach = 1.2 * pose.radius;
                for row in bound(pose.y - reach)..bound(pose.y + reach + 1.0 / fine as f32) {
                    for column in bound(pose.x - reach)..bound(pose.x + reach + 1.0 / fine as f32) {
                        let (x, y) = ((column as f32 + 0.5) / fine as f32, (row as f32 + 0.5) / fine as f32);
                        let inside = shapes::distance_at(object.shape, object.tilt, &pose, x, y) < 0.0;
                        if inside && !std::mem::replace(&mut taken[row * fine + column], true) {
                            let cell = row / SAMPLES * grid + column / SAMPLES;
                            covered[cell] += 0.5 / (SAMPLES * SAMPLES) as f32;
                        }
                    }
                }
            }
        }
        covered
    }

    fn pose(&self, index: usize, times: [f32; 2]) -> Option<Pose> {
        let object = &self.objects[index];
        object.at(times[1]).or_else(|| object.at(times[0]))
    }

    fn motion(&self, index: usize, times: [f32; 2]) -> u8 {
        let object = &self.objects[index];
        let (Some(from), Some(to)) = (object.at(times[0]), object.at(times[1])) else {
            return 1;
        };
        let (dx, dy) = (to.x - from.x, to.y - from.y);
        let frames_of_eight = (times[1] - times[0]) * 7.0;
        if dx.hypot(dy) < SPEED_MIN * frames_of_eight || frames_of_eight == 0.0 {
            return 1;
        }
        2 + Direction::of_step(dx, dy).index() as u8
    }
}
