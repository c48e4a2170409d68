//! Charts as PNG: lines over two axes, with marks; nothing but what the commands show.
//!
//! Here is what a chart is and where its parts stand; `scale` is the arithmetic of an axis, `canvas` the pixels.

mod canvas;
mod scale;

use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_9X15, FONT_9X15_BOLD, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::{Point, Size};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use embedded_graphics::{Drawable, draw_target::DrawTarget};

use self::canvas::{Canvas, Dot, Mask};
use self::scale::Span;
use crate::input::{Frame, encode};

/// Widest and highest chart, pixels.
const SIDE_MAX: u32 = 8192;
/// Smallest chart that leaves room for its axes, pixels.
const SIDE_MIN: u32 = 160;

/// Colours that people with any colour vision tell apart (Okabe and Ito, "Color universal design", 2008), the darker ones first.
const COLOURS: [Rgb888; 7] = [
    Rgb888::new(0x00, 0x72, 0xB2),
    Rgb888::new(0xD5, 0x5E, 0x00),
    Rgb888::new(0x00, 0x9E, 0x73),
    Rgb888::new(0xCC, 0x79, 0xA7),
    Rgb888::new(0xE6, 0x9F, 0x00),
    Rgb888::new(0x56, 0xB4, 0xE9),
    Rgb888::new(0x33, 0x33, 0x33),
];
const INK: Rgb888 = Rgb888::new(0x22, 0x22, 0x22);
const SOFT: Rgb888 = Rgb888::new(0x55, 0x55, 0x55);
const GRID: Rgb888 = Rgb888::new(0xE4, 0xE4, 0xE4);
const AXIS: Rgb888 = Rgb888::new(0x88, 0x88, 0x88);
const MARK: Rgb888 = Rgb888::new(0x99, 0x99, 0x99);

/// Half the width of a line, and half that of a dot, pixels.
const LINE_RADIUS: f32 = 1.1;
const DOT_RADIUS: f32 = 4.0;
/// Pixels of a dash and of the gap after it.
const DASH: i32 = 5;
const GAP: i32 = 4;

/// How an axis counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Scale {
    #[default]
    Linear,
    /// Powers of ten; all values above 0.
    Log,
}

/// An axis.
#[derive(Debug, Clone, Default)]
pub(super) struct Axis {
    pub label: String,
    pub scale: Scale,
}

/// A line through points, or the points alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub label: String,
    /// (x, y), in any order; joined in the order given. A point that its axes cannot show interrupts the line.
    pub points: Vec<(f64, f64)>,
    /// Dots at the points.
    pub dots: bool,
}

/// A chart.
#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    /// Where upright dashed lines stand, with what they are.
    pub marks: Vec<f64>,
    pub mark_label: String,
}

impl Chart {
    /// It as PNG of so many pixels.
    pub fn png(&self, width: u32, height: u32) -> anyhow::Result<Vec<u8>> {
        for (name, side) in [("width", width), ("height", height)] {
            let fits = (SIDE_MIN..=SIDE_MAX).contains(&side);
            anyhow::ensure!(fits, "chart {name} is {side}, must be {SIDE_MIN} to {SIDE_MAX} pixels");
        }
        let mut canvas = Canvas::new(width, height);
        Layout::new(self, width as i32, height as i32).draw(&mut canvas);
        Ok(encode::png(&Frame { width, height, rgb: canvas.into_rgb(), pts_ms: 0 })?)
    }

    fn span(&self, axis: &Axis, of: fn(&(f64, f64)) -> f64, marks: &[f64]) -> Span {
        let points = self.lines.iter().flat_map(|line| line.points.iter().map(of));
        Span::around(axis.scale, points.chain(marks.iter().copied()))
    }
}

/// An entry of the legend: what it says, and its line if it is no mark.
struct Entry<'a> {
    label: &'a str,
    line: Option<usize>,
    at: Point,
}

/// Where everything stands.
struct Layout<'a> {
    chart: &'a Chart,
    font: &'a MonoFont<'a>,
    bold: &'a MonoFont<'a>,
    x: Span,
    y: Span,
    x_ticks: Vec<(f64, String)>,
    y_ticks: Vec<(f64, String)>,
    entries: Vec<Entry<'a>>,
    label_at: i32,
    plot: Rectangle,
    size: Size,
}

impl<'a> Layout<'a> {
    fn new(chart: &'a Chart, width: i32, height: i32) -> Self {
        let (font, bold) = match height {
            ..300 => (&FONT_6X10, &FONT_6X10),
            300..900 => (&FONT_9X15, &FONT_9X15_BOLD),
            _ => (&FONT_10X20, &FONT_10X20),
        };
        let (glyph, row) = (glyph_width(font), font.character_size.height as i32 + 6);
        let (x, y) = (chart.span(&chart.x, |p| p.0, &chart.marks), chart.span(&chart.y, |p| p.1, &[]));
        let y_ticks = y.ticks((height / (3 * row)).clamp(2, 10) as usize);
        let widest = y_ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(1) as i32;
        let (left, right) = (glyph * widest + 2 * glyph, width - 3 * glyph);
        let x_ticks = x.ticks(((right - left) / (glyph * 9)).clamp(2, 12) as usize);
        let mut top = row / 2 + if chart.title.is_empty() { 0 } else { row };
        let (mut entries, mut at) = (Vec::new(), left);
        let marked = !chart.mark_label.is_empty() && !chart.marks.is_empty();
        let lines = chart.lines.iter().enumerate().map(|(index, line)| (&*line.label, Some(index)));
        for (label, line) in lines.chain(marked.then_some((&*chart.mark_label, None))) {
            let wide = glyph * (label.chars().count() as i32 + 7);
            if label.is_empty() {
                continue;
            }
            if at > left && at + wide > right {
                (at, top) = (left, top + row);
            }
            entries.push(Entry { label, line, at: Point::new(at, top) });
            at += wide;
        }
        top += if entries.is_empty() { 0 } else { row };
        let label_at = top;
        top += if chart.y.label.is_empty() { row / 2 } else { row };
        let bottom = height - row * if chart.x.label.is_empty() { 1 } else { 2 } - row / 3;
        // A legend of many rows leaves at least a strip.
        let plot_top = top.min(bottom - row);
        let size = Size::new((right - left).max(1) as u32, (bottom - plot_top).max(1) as u32);
        let plot = Rectangle::new(Point::new(left, plot_top), size);
        let size = Size::new(width as u32, height as u32);
        Self { chart, font, bold, x, y, x_ticks, y_ticks, entries, label_at, plot, size }
    }

    fn draw(&self, canvas: &mut Canvas) {
        self.draw_grid(canvas);
        self.draw_marks(canvas);
        for (index, line) in self.chart.lines.iter().enumerate() {
            self.draw_line(canvas, line, index);
        }
        for entry in &self.entries {
            self.draw_entry(canvas, entry);
        }
    }

    /// The pixel of a point, if the axes can show it.
    fn place(&self, (x, y): (f64, f64)) -> Option<(f32, f32)> {
        let (left, top) = (f64::from(self.plot.top_left.x), f64::from(self.plot.top_left.y));
        let (width, height) = (f64::from(self.plot.size.width), f64::from(self.plot.size.height));
        let (x, y) = (self.x.share(x)?, self.y.share(y)?);
        Some(((left + x * width) as f32, (top + (1.0 - y) * height) as f32))
    }

    fn draw_grid(&self, canvas: &mut Canvas) {
        let (corner, size) = (self.plot.top_left, self.plot.size);
        let (right, bottom) = (corner.x + size.width as i32, corner.y + size.height as i32);
        let glyph = glyph_width(self.font);
        let upright = |at: f64| corner.x + (at * f64::from(size.width)).round() as i32;
        let level = |at: f64| bottom - (at * f64::from(size.height)).round() as i32;
        for (at, label) in &self.y_ticks {
            fill(canvas, Point::new(corner.x, level(*at)), Size::new(size.width, 1), GRID);
            let place = Point::new(corner.x - glyph / 2 - 2, level(*at));
            self.text(canvas, label, place, (Alignment::Right, Baseline::Middle), SOFT);
        }
        for (at, label) in &self.x_ticks {
            fill(canvas, Point::new(upright(*at), corner.y), Size::new(1, size.height + 4), GRID);
            self.text(canvas, label, Point::new(upright(*at), bottom + 6), (Alignment::Center, Baseline::Top), SOFT);
        }
        fill(canvas, Point::new(corner.x, bottom), Size::new(size.width, 1), AXIS);
        fill(canvas, corner, Size::new(1, size.height), AXIS);
        let across = (self.size.width as i32 - glyph) / glyph;
        let title = shortened(&self.chart.title, across);
        let style = MonoTextStyle::new(self.bold, INK);
        let heading = Point::new(corner.x, self.font.character_size.height as i32 / 2);
        let plain = TextStyleBuilder::new().baseline(Baseline::Top).build();
        infallible(Text::with_text_style(&title, heading, style, plain).draw(canvas));
        let label = shortened(&self.chart.y.label, across);
        self.text(canvas, &label, Point::new(glyph, self.label_at), (Alignment::Left, Baseline::Top), INK);
        let label = shortened(&self.chart.x.label, across);
        let place = Point::new((corner.x + right) / 2, self.size.height as i32 - 6);
        self.text(canvas, &label, place, (Alignment::Center, Baseline::Bottom), INK);
    }

    fn draw_marks(&self, canvas: &mut Canvas) {
        let (corner, size) = (self.plot.top_left, self.plot.size);
        let mut columns: Vec<i32> = self
            .chart
            .marks
            .iter()
            .filter_map(|&x| self.x.share(x))
            .map(|at| corner.x + (at * f64::from(size.width)).round() as i32)
            .collect();
        columns.sort_unstable();
        columns.dedup();
        for column in columns {
            for top in (0..size.height as i32).step_by((DASH + GAP) as usize) {
                let dash = DASH.min(size.height as i32 - top) as u32;
                fill(canvas, Point::new(column, corner.y + top), Size::new(1, dash), MARK);
            }
        }
    }

    fn draw_line(&self, canvas: &mut Canvas, line: &Line, index: usize) {
        let mut mask = Mask::new(self.size.width, self.size.height);
        let mut before = None;
        for point in &line.points {
            let here = self.place(*point);
            if let (Some(from), Some(to)) = (before, here) {
                mask.stroke(from, to, LINE_RADIUS);
            }
            if let Some(place) = here {
                // A point whose neighbours cannot be shown would else not be seen.
                match line.dots {
                    true => mask.dot(Dot::of(index), place, DOT_RADIUS),
                    false if before.is_none() => mask.dot(Dot::Circle, place, LINE_RADIUS),
                    false => {}
                }
            }
            before = here;
        }
        canvas.paint(&mask, colour(index));
    }

    fn draw_entry(&self, canvas: &mut Canvas, entry: &Entry) {
        let glyph = glyph_width(self.font);
        let middle = entry.at.y + self.font.character_size.height as i32 / 2;
        let (from, to) = (entry.at.x, entry.at.x + 3 * glyph);
        match entry.line {
            Some(index) => {
                let mut mask = Mask::new(self.size.width, self.size.height);
                mask.stroke((from as f32, middle as f32), (to as f32, middle as f32), LINE_RADIUS);
                if self.chart.lines[index].dots {
                    mask.dot(Dot::of(index), ((from + to) as f32 / 2.0, middle as f32), DOT_RADIUS);
                }
                canvas.paint(&mask, colour(index));
            }
            None => {
                let top = Point::new((from + to) / 2, entry.at.y);
                fill(canvas, top, Size::new(1, DASH as u32), MARK);
                fill(canvas, top + Point::new(0, DASH + GAP), Size::new(1, DASH as u32), MARK);
            }
        }
        let room = (self.size.width as i32 - to) / glyph - 1;
        let place = Point::new(to + glyph, middle);
        self.text(canvas, &shortened(entry.label, room), place, (Alignment::Left, Baseline::Middle), INK);
    }

    fn text(&self, canvas: &mut Canvas, text: &str, at: Point, (side, line): (Alignment, Baseline), ink: Rgb888) {
        let style = TextStyleBuilder::new().alignment(side).baseline(line).build();
        infallible(Text::with_text_style(text, at, MonoTextStyle::new(self.font, ink), style).draw(canvas));
    }
}

/// Of one line, or of the one that many have gone before.
fn colour(index: usize) -> Rgb888 {
    COLOURS[index % COLOURS.len()]
}

fn glyph_width(font: &MonoFont) -> i32 {
    (font.character_size.width + font.character_spacing) as i32
}

/// On one line of at most so many characters.
fn shortened(text: &str, characters: i32) -> String {
    let max = characters.max(3) as usize;
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    match line.chars().count() > max {
        true => line.chars().take(max - 2).chain("..".chars()).collect(),
        false => line,
    }
}

fn fill(canvas: &mut Canvas, corner: Point, size: Size, colour: Rgb888) {
    infallible(canvas.fill_solid(&Rectangle::new(corner, size), colour));
}

/// What is drawn into memory cannot fail.
fn infallible<Value>(outcome: Result<Value, std::convert::Infallible>) -> Value {
    match outcome {
        Ok(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use embedded_graphics::prelude::RgbColor;

    use super::*;
    use crate::input::{MediaLimits, decode_media};

    fn decoded(chart: &Chart, width: u32, height: u32) -> Frame {
        let limits = MediaLimits { bytes_max: 1 << 24, pixels_max: 1 << 24, frames_max: 1, decode_bytes_max: 1 << 28 };
        let png = chart.png(width, height).expect("a chart");
        decode_media(&png, &limits).expect("a picture").remove(0)
    }

    fn count(frame: &Frame, colour: Rgb888) -> usize {
        let wanted = [colour.r(), colour.g(), colour.b()];
        frame.rgb.as_chunks::<3>().0.iter().filter(|&&pixel| pixel == wanted).count()
    }

    fn line(points: &[(f64, f64)]) -> Line {
        Line { label: "l".into(), points: points.to_vec(), dots: true }
    }

    #[test]
    fn every_line_has_its_own_colour_and_marks_are_dashed() {
        let slope = |by: f64| (1..=20).map(|x| (f64::from(x), by * f64::from(x))).collect::<Vec<_>>();
        let lines = (1..=5).map(|by| line(&slope(f64::from(by)))).collect();
        let chart = Chart { title: "t".into(), lines, marks: vec![5.0], mark_label: "m".into(), ..Chart::default() };
        let frame = decoded(&chart, 900, 500);
        assert_eq!((frame.width, frame.height), (900, 500));
        for index in 0..5 {
            assert!(count(&frame, colour(index)) > 300, "line {index}: {}", count(&frame, colour(index)));
        }
        assert_eq!(count(&frame, colour(5)), 0);
        let dashes = count(&frame, MARK);
        assert!((100..400).contains(&dashes), "{dashes}");
    }

    #[test]
    fn what_cannot_be_drawn_does_no_harm() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let log = Axis { scale: Scale::Log, label: "x".into() };
        for points in [
            &[][..],
            &[(1.0, 1.0)],
            &[(nan, nan), (inf, -inf)],
            &[(0.0, 0.0), (-1.0, -1.0)],
            &[(f64::MIN_POSITIVE, f64::MAX), (f64::MAX, f64::MIN)],
            &[(1.0, 1.0), (nan, 2.0), (2.0, 1.0 + f64::EPSILON)],
            &[(1e-300, 5e-324), (1e300, 0.0)],
        ] {
            for x in [Axis::default(), log.clone()] {
                for y in [Axis::default(), log.clone()] {
                    let (x, lines) = (x.clone(), vec![line(points), Line::default()]);
                    let chart = Chart { x, y, lines, marks: vec![nan, inf, -1.0], ..Chart::default() };
                    decoded(&chart, 200, 160);
                }
            }
        }
        let many = (0..300).map(|_| line(&[(0.0, 0.0)])).collect();
        decoded(&Chart { lines: many, title: "x\ny".repeat(1000), ..Chart::default() }, 900, 500);
        assert!(Chart::default().png(0, 500).is_err() && Chart::default().png(900, 1 << 20).is_err());
    }

    #[test]
    fn a_point_between_two_that_cannot_be_shown_is_seen() {
        let alone = Line { points: vec![(f64::NAN, 0.0), (1.0, 1.0), (f64::NAN, 0.0)], ..Line::default() };
        let frame = decoded(&Chart { lines: vec![alone], ..Chart::default() }, 300, 200);
        let coloured = frame.rgb.as_chunks::<3>().0.iter().filter(|pixel| pixel[2] > pixel[0].saturating_add(60));
        assert!((1..30).contains(&coloured.count()));
    }
}
