//! Charts as PNG: lines over two axes, with marks; nothing but what the commands show.

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
    /// (x, y), in any order; joined in the order given.
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
    pub fn png(&self, _width: u32, _height: u32) -> anyhow::Result<Vec<u8>> {
        unimplemented!("by the branch of the command")
    }
}
