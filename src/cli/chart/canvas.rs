//! The pixels of a chart: text and rectangles through embedded-graphics, which brings letters but no smooth lines; those
//! by coverage, a pixel being covered as far as it lies within a shape's edge.

use std::convert::Infallible;

use embedded_graphics::Pixel;
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::{DrawTarget, OriginDimensions, RgbColor, Size};

/// RGB8, row by row, white at first.
pub(super) struct Canvas {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Canvas {
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, rgb: vec![255; 3 * width as usize * height as usize] }
    }

    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// Lays a colour over it, as much as `mask` covers.
    pub fn paint(&mut self, mask: &Mask, colour: Rgb888) {
        let colour = [colour.r(), colour.g(), colour.b()];
        for (pixel, &cover) in self.rgb.as_chunks_mut::<3>().0.iter_mut().zip(&mask.cover) {
            if cover > 0.0 {
                for (sample, ink) in pixel.iter_mut().zip(colour) {
                    *sample = (f32::from(*sample) * (1.0 - cover) + f32::from(ink) * cover).round() as u8;
                }
            }
        }
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<Pixels: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: Pixels) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            // What lies outside is not drawn.
            let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) else { continue };
            if x < self.width && y < self.height {
                let start = 3 * (y as usize * self.width as usize + x as usize);
                self.rgb[start..start + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

/// The dot of a line, which tells lines apart where colours do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dot {
    Circle,
    Square,
    Diamond,
    Triangle,
}

impl Dot {
    /// Of which line it is.
    pub fn of(line: usize) -> Self {
        [Self::Circle, Self::Square, Self::Diamond, Self::Triangle][line % 4]
    }

    /// How far a place beside its middle lies beyond the edge, pixels; below 0 it lies within.
    fn beyond(self, x: f32, y: f32, radius: f32) -> f32 {
        match self {
            Self::Circle => x.hypot(y) - radius,
            Self::Square => x.abs().max(y.abs()) - radius * 0.9,
            Self::Diamond => (x.abs() + y.abs() - radius * 1.35) * std::f32::consts::FRAC_1_SQRT_2,
            // Its top is up; the two upper edges rise 2 to 1.
            Self::Triangle => {
                let slope = (2.0 * x.abs() - y - 1.3 * radius) / 5f32.sqrt();
                slope.max(y - 0.9 * radius)
            }
        }
    }
}

/// How much of each pixel a line covers, 0 to 1. A place that it crosses twice is covered once.
pub(super) struct Mask {
    width: usize,
    height: usize,
    cover: Vec<f32>,
}

impl Mask {
    pub fn new(width: u32, height: u32) -> Self {
        let (width, height) = (width as usize, height as usize);
        Self { width, height, cover: vec![0.0; width * height] }
    }

    /// A stroke with round ends.
    pub fn stroke(&mut self, from: (f32, f32), to: (f32, f32), radius: f32) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx * dx + dy * dy;
        let low = (from.0.min(to.0), from.1.min(to.1));
        let high = (from.0.max(to.0), from.1.max(to.1));
        self.shade(low, high, radius, |x, y| {
            let (x, y) = (x - from.0, y - from.1);
            let along = if length > 0.0 { ((x * dx + y * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
            (x - along * dx).hypot(y - along * dy) - radius
        });
    }

    /// A dot.
    pub fn dot(&mut self, dot: Dot, at: (f32, f32), radius: f32) {
        self.shade(at, at, 1.5 * radius, |x, y| dot.beyond(x - at.0, y - at.1, radius));
    }

    /// Covers what lies within an edge; `low` and `high` bound the shape but for `margin`.
    fn shade(&mut self, low: (f32, f32), high: (f32, f32), margin: f32, beyond: impl Fn(f32, f32) -> f32) {
        // A cast of a float saturates, so that no place is outside.
        let range = |low: f32, high: f32, side: usize| {
            let (first, end) = ((low - margin - 1.0).floor() as usize, (high + margin + 2.0).ceil() as usize);
            first.min(side)..end.min(side)
        };
        for y in range(low.1, high.1, self.height) {
            for x in range(low.0, high.0, self.width) {
                let cover = (0.5 - beyond(x as f32, y as f32)).clamp(0.0, 1.0);
                let kept = &mut self.cover[y * self.width + x];
                *kept = kept.max(cover);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stroke_covers_its_own_area_once() {
        let mut mask = Mask::new(40, 40);
        mask.stroke((5.0, 20.0), (35.0, 20.0), 2.0);
        mask.stroke((35.0, 20.0), (5.0, 20.0), 2.0);
        let area: f32 = mask.cover.iter().sum();
        let true_area = 30.0 * 4.0 + std::f32::consts::PI * 4.0;
        assert!((area - true_area).abs() < 2.0, "{area} {true_area}");
        assert_eq!((mask.cover[20 * 40 + 20], mask.cover[10 * 40 + 20]), (1.0, 0.0));
    }

    #[test]
    fn dots_are_about_as_large_as_each_other_and_stay_on_the_canvas() {
        for line in 0..4 {
            let mut mask = Mask::new(30, 30);
            mask.dot(Dot::of(line), (15.0, 15.0), 5.0);
            let area: f32 = mask.cover.iter().sum();
            assert!((60.0..100.0).contains(&area), "{:?}: {area}", Dot::of(line));
            mask.dot(Dot::of(line), (-1e9, 1e9), 5.0);
            mask.dot(Dot::of(line), (30.0, -2.0), 5.0);
        }
    }
}
