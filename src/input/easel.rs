//! Clips in the making: frames come as they are decoded, each goes to its places in every clip that looks at it.
//!
//! A frame is scaled the moment it comes, so a clip in the making holds no more than the finished one. Clips that
//! overlap are open at the same time; they are given away in order.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use ndarray::Array4;

use super::{Clip, Frame, InputError, Preprocessor};

/// All clips that are made of one footage.
pub struct Easel<'a> {
    preprocessor: &'a Preprocessor,
    levels: [[f32; 256]; 3],
    /// For each clip, which frames it looks at.
    plans: Vec<Vec<usize>>,
    /// (frame, clip), sorted: where each frame goes.
    uses: Vec<(usize, usize)>,
    /// (height, width) of all clips, by the first frame that came.
    target: Option<(usize, usize)>,
    /// Those that are begun, from clip number `next` on.
    open: VecDeque<Canvas>,
    next: usize,
    /// What they take together, for whoever counts it.
    pub held_bytes: Rc<Cell<u64>>,
}

/// One frame's RGB8 pixels, row by row -> its samples [3, height, width], each by its channel's levels.
pub(super) fn paint(rgb: &[u8], levels: &[[f32; 256]; 3], samples: &mut [f32]) {
    let planes = samples.chunks_exact_mut((rgb.len() / 3).max(1));
    for ((channel, plane), levels) in planes.enumerate().zip(levels) {
        for (sample, &level) in plane.iter_mut().zip(rgb.iter().skip(channel).step_by(3)) {
            *sample = levels[usize::from(level)];
        }
    }
}

/// One clip, with frames that are still missing.
#[derive(Debug, Default)]
struct Canvas {
    samples: Vec<f32>,
    missing: usize,
}

impl<'a> Easel<'a> {
    /// For clips of these frames; every plan has one at least.
    pub fn new(preprocessor: &'a Preprocessor, plans: Vec<Vec<usize>>) -> Self {
        let mut uses: Vec<(usize, usize)> =
            plans.iter().enumerate().flat_map(|(clip, plan)| plan.iter().map(move |&at| (at, clip))).collect();
        uses.sort_unstable();
        uses.dedup();
        let (levels, open) = (preprocessor.levels(), VecDeque::new());
        Self { preprocessor, levels, plans, uses, target: None, open, next: 0, held_bytes: Rc::default() }
    }

    /// All frames that are looked at, ascending.
    pub fn wanted(&self) -> Vec<usize> {
        let mut wanted: Vec<usize> = self.uses.iter().map(|&(at, _)| at).collect();
        wanted.dedup();
        wanted
    }

    /// Lays frame number `at` into its places.
    pub fn lay(&mut self, at: usize, frame: &Frame) -> Result<(), InputError> {
        let (height, width) = match self.target {
            Some(target) => target,
            None => *self.target.insert(self.preprocessor.target(frame)?),
        };
        let rgb = self.preprocessor.fit(frame, (height, width))?;
        let area = height * width;
        let first = self.uses.partition_point(|&(used, _)| used < at);
        let clips: Vec<usize> =
            self.uses[first..].iter().take_while(|&&(used, _)| used == at).map(|&(_, clip)| clip).collect();
        for clip in clips {
            while self.next + self.open.len() <= clip {
                self.open.push_back(Canvas::default());
            }
            let (plan, canvas) = (&self.plans[clip], &mut self.open[clip - self.next]);
            if canvas.samples.is_empty() {
                *canvas = Canvas { samples: vec![0.0; plan.len() * 3 * area], missing: plan.len() };
                self.held_bytes.set(self.held_bytes.get() + size_of_val(&canvas.samples[..]) as u64);
            }
            let mut laid: Option<usize> = None;
            for (place, _) in plan.iter().enumerate().filter(|&(_, &planned)| planned == at) {
                match laid {
                    Some(laid) => canvas.samples.copy_within(laid * 3 * area..(laid + 1) * 3 * area, place * 3 * area),
                    None => {
                        paint(&rgb, &self.levels, &mut canvas.samples[place * 3 * area..(place + 1) * 3 * area]);
                        laid = Some(place);
                    }
                }
                canvas.missing -= 1;
            }
        }
        Ok(())
    }

    /// The next clip, if it is whole, and its number.
    pub fn finished(&mut self) -> Option<(usize, Clip)> {
        let whole = self.open.front().is_some_and(|canvas| canvas.missing == 0 && !canvas.samples.is_empty());
        let canvas = if whole { self.open.pop_front()? } else { return None };
        let (number, frames) = (self.next, self.plans[self.next].len());
        self.next += 1;
        self.held_bytes.set(self.held_bytes.get() - size_of_val(&canvas.samples[..]) as u64);
        let (height, width) = self.target.expect("set by the first frame");
        let pixels = Array4::from_shape_vec((frames, 3, height, width), canvas.samples)
            .expect("made as large as its frames together");
        Some((number, Clip { pixels, frames_decoded: frames, frames_used: frames }))
    }
}
