//! From luma and chroma to upright RGB.
//!
//! Which matrix and which range a video means stands in its stream or its container; where neither says, BT.601 and
//! limited range are taken, as ffmpeg's scaler does, through which the published encoders' training data went; luma
//! without chroma has the full range there. Each chroma sample holds for its four pixels.

use crate::input::Frame;

/// How the numbers of a picture are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour {
    /// Luma from 0 to 255 instead of 16 to 235.
    pub full_range: bool,
    /// `matrix_coefficients` of ISO/IEC 23091-2.
    pub matrix: u8,
}

impl Colour {
    /// The value of `matrix` that says nothing.
    pub const UNSPECIFIED: u8 = 2;

    /// The weights of red and blue in luma.
    fn weights(self) -> (f64, f64) {
        match self.matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 | 10 => (0.2627, 0.0593),
            _ => (0.299, 0.114),
        }
    }
}

impl Default for Colour {
    fn default() -> Self {
        Self { full_range: false, matrix: Self::UNSPECIFIED }
    }
}

/// A decoded picture: luma, and chroma of half the width and height.
#[derive(Debug, Clone, Copy)]
pub struct Planes<'a> {
    /// Luma and both chromas, row by row.
    pub planes: [&'a [u8]; 3],
    /// Bytes from one row to the next, of luma and of chroma.
    pub strides: [usize; 2],
}

/// The part of a picture that is shown, in luma samples; all even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// The factors of one matrix and range, as integers of 16 bits after the point.
#[derive(Debug, Clone)]
pub struct Conversion {
    luma: i32,
    black: i32,
    red: i32,
    green: [i32; 2],
    blue: i32,
}

const POINT: u32 = 16;

impl Conversion {
    /// For pictures whose numbers mean `colour`; `grey` ones have luma alone.
    pub fn new(colour: Colour, grey: bool) -> Self {
        if grey {
            return Self { luma: 1 << POINT, black: 0, red: 0, green: [0; 2], blue: 0 };
        }
        let (red, blue) = colour.weights();
        let green = 1.0 - red - blue;
        let (luma, chroma, black) = if colour.full_range { (255.0, 255.0, 0) } else { (219.0, 224.0, 16) };
        let factor = |factor: f64, range: f64| (factor * 255.0 / range * f64::from(1 << POINT)).round() as i32;
        Self {
            luma: factor(1.0, luma),
            black,
            red: factor(2.0 * (1.0 - red), chroma),
            green: [2.0 * (1.0 - blue) * blue / green, 2.0 * (1.0 - red) * red / green]
                .map(|each| factor(each, chroma)),
            blue: factor(2.0 * (1.0 - blue), chroma),
        }
    }

    /// The shown part of a picture, RGB8, row by row; none if the planes are too short for it.
    pub fn rgb(&self, picture: &Planes, window: Window) -> Option<Vec<u8>> {
        let Window { left, top, width, height } = window;
        let [luma, blue, red] = picture.planes;
        let row_of = |plane: &'_ [u8], stride: usize, row: usize, from: usize, length: usize| {
            let start = row * stride + from;
            start..start + length.min(plane.len().saturating_sub(start))
        };
        let mut rgb = vec![0; 3 * width * height];
        for (y, row) in rgb.chunks_exact_mut(3 * width).enumerate() {
            let chroma = |plane| row_of(plane, picture.strides[1], (top + y) / 2, left / 2, width / 2);
            let luma = luma.get(row_of(luma, picture.strides[0], top + y, left, width))?.as_chunks::<2>().0;
            let (blue, red) = (blue.get(chroma(blue))?, red.get(chroma(red))?);
            if luma.len().min(blue.len()).min(red.len()) < width / 2 {
                return None;
            }
            let pixels = row.as_chunks_mut::<6>().0.iter_mut();
            for (((pixels, luma), &blue), &red) in pixels.zip(luma).zip(blue).zip(red) {
                *pixels = self.pair(*luma, blue, red);
            }
        }
        Some(rgb)
    }

    /// Two pixels that share their chroma.
    fn pair(&self, luma: [u8; 2], blue: u8, red: u8) -> [u8; 6] {
        let (blue, red) = (i32::from(blue) - 128, i32::from(red) - 128);
        let added = [self.red * red, -(self.green[0] * blue + self.green[1] * red), self.blue * blue];
        let [first, second] = luma.map(|luma| {
            let luma = self.luma * (i32::from(luma) - self.black) + (1 << (POINT - 1));
            added.map(|added| ((luma + added) >> POINT).clamp(0, 255) as u8)
        });
        [first[0], first[1], first[2], second[0], second[1], second[2]]
    }
}

/// How a picture is turned before it is shown: its axes are exchanged first, then flipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    exchanged: bool,
    flipped_across: bool,
    flipped_down: bool,
}

impl Turn {
    /// By a track's matrix, `[a, b, c, d]` of x' = ax + cy, y' = bx + dy. What is no quarter turn is none.
    pub fn of([a, b, c, d]: [i32; 4]) -> Self {
        match (a, b, c, d) {
            (0, b, c, 0) if b != 0 && c != 0 => Self { exchanged: true, flipped_across: c < 0, flipped_down: b < 0 },
            (a, 0, 0, d) => Self { exchanged: false, flipped_across: a < 0, flipped_down: d < 0 },
            _ => Self::default(),
        }
    }

    /// (width, height) of what is shown.
    pub fn size(self, width: usize, height: usize) -> (usize, usize) {
        if self.exchanged { (height, width) } else { (width, height) }
    }

    /// A picture of `window`'s size as it is shown.
    pub fn frame(self, rgb: Vec<u8>, window: Window, pts_ms: u64) -> Frame {
        let (width, height) = self.size(window.width, window.height);
        let rgb = if self == Self::default() { rgb } else { self.turned(&rgb, window.width, width, height) };
        Frame { width: width as u32, height: height as u32, rgb, pts_ms }
    }

    fn turned(self, rgb: &[u8], row: usize, width: usize, height: usize) -> Vec<u8> {
        let pixels = rgb.as_chunks::<3>().0;
        let flip = |flipped: bool, at: usize, length: usize| if flipped { length - 1 - at } else { at };
        let pixel = |at: usize| {
            let x = flip(self.flipped_across, at % width, width);
            let y = flip(self.flipped_down, at / width, height);
            if self.exchanged { pixels[x * row + y] } else { pixels[y * row + x] }
        };
        (0..width * height).flat_map(pixel).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_colours_they_mean() {
        let of = |full_range, matrix, [y, u, v]: [u8; 3]| {
            Conversion::new(Colour { full_range, matrix }, false).pair([y, y], u, v)[..3].to_vec()
        };
        assert_eq!(of(false, 2, [16, 128, 128]), [0, 0, 0]);
        assert_eq!(of(false, 2, [235, 128, 128]), [255, 255, 255]);
        assert_eq!(of(true, 2, [16, 128, 128]), [16, 16, 16]);
        // Pure red in BT.601 and BT.709.
        assert_eq!(of(false, 6, [81, 90, 240]), [254, 0, 0]);
        assert_eq!(of(false, 1, [63, 102, 240]), [255, 1, 0]);
        assert_eq!(of(true, 1, [54, 99, 255]), [254, 0, 0]);
        assert_eq!(of(false, 2, [255, 255, 255]), [255, 125, 255], "never beyond a byte");
        let grey = Conversion::new(Colour::default(), true).pair([0, 255], 7, 200);
        assert_eq!(grey, [0, 0, 0, 255, 255, 255], "chroma that is not there is not looked at");
    }

    #[test]
    fn only_the_shown_part_is_converted_and_short_planes_are_refused() {
        let luma: Vec<u8> = (0..64).map(|at| 16 + at).collect();
        let chroma = [128; 16];
        let picture = Planes { planes: [&luma, &chroma, &chroma], strides: [8, 4] };
        let conversion = Conversion::new(Colour { full_range: true, ..Colour::default() }, false);
        let rgb = conversion.rgb(&picture, Window { left: 2, top: 4, width: 4, height: 2 }).expect("inside");
        assert_eq!(rgb.iter().step_by(3).copied().collect::<Vec<_>>(), [50, 51, 52, 53, 58, 59, 60, 61]);
        assert_eq!(conversion.rgb(&picture, Window { left: 0, top: 0, width: 8, height: 10 }), None);
        let short = Planes { planes: [&luma, &chroma[..15], &chroma], ..picture };
        assert_eq!(conversion.rgb(&short, Window { left: 0, top: 0, width: 8, height: 8 }), None);
    }

    #[test]
    fn a_picture_is_turned_as_the_matrix_says() {
        let one = 0x1_0000;
        let turned = |matrix| {
            // 1 2 3
            // 4 5 6
            let rgb = (1..=6).flat_map(|level| [level; 3]).collect();
            let frame = Turn::of(matrix).frame(rgb, Window { left: 0, top: 0, width: 3, height: 2 }, 7);
            let levels: Vec<u8> = frame.rgb.iter().step_by(3).copied().collect();
            (frame.width, levels)
        };
        assert_eq!(turned([one, 0, 0, one]), (3, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(turned([0, one, -one, 0]), (2, vec![4, 1, 5, 2, 6, 3]), "a quarter clockwise");
        assert_eq!(turned([0, -one, one, 0]), (2, vec![3, 6, 2, 5, 1, 4]), "a quarter the other way");
        assert_eq!(turned([-one, 0, 0, -one]), (3, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(turned([-one, 0, 0, one]), (3, vec![3, 2, 1, 6, 5, 4]), "a mirror");
        assert_eq!(turned([1, 1, 1, 1]).1, [1, 2, 3, 4, 5, 6], "no quarter turn");
    }
}
