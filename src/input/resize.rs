//! Resizing as Pillow does it: two passes over u8, horizontal first, each rounded, with 22-bit coefficients.
//!
//! Own arithmetic and not a crate's for two reasons: published models were fed exactly these pixels, and only
//! the pixels inside the crop are ever computed. That is what keeps a picture of 65535 x 1 as cheap as any
//! other: its resized form would have millions of columns, of which the crop sees a few hundred.

/// A window function, as numbered by Pillow (`resample` of a preprocessor_config.json).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Filter {
    /// 2: a triangle.
    Bilinear,
    /// 3: Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    /// Half the window's width, in source pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Bicubic => 0.0,
        }
    }
}

const BITS: u32 = 22; // 8 for the sample, 2 for a cubic's overshoot and the sign: 32 together
const HALF: i32 = 1 << (BITS - 1);

/// The source pixels that make one target pixel. None make a pixel of the padding, which is then 0.
#[derive(Debug, Clone)]
pub(super) struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn end(&self) -> usize {
        self.first + self.weights.len()
    }

    fn at(filter: Filter, source: usize, target: u64, index: u64) -> Self {
        let scale = source as f64 / target as f64;
        let stretch = scale.max(1.0); // antialias: a window never narrower than a target pixel
        let (centre, support) = ((index as f64 + 0.5) * scale, filter.support() * stretch);
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(source);
        let weights: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - centre + 0.5) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / total * f64::from(1 << BITS)).round() as i32;
        Self { first, weights: weights.iter().map(fixed).collect() }
    }
}

/// The taps of target pixels `start..start + len` when `source` pixels become `target`; those outside of the
/// target are padding.
pub(super) fn taps(filter: Filter, source: usize, target: u64, start: i64, len: usize) -> Vec<Taps> {
    let tap = |index: i64| match u64::try_from(index) {
        Err(_) => Taps { first: 0, weights: Vec::new() },
        Ok(index) if index >= target => Taps { first: source, weights: Vec::new() },
        Ok(index) => Taps::at(filter, source, target, index),
    };
    (start..).take(len).map(tap).collect()
}

fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// One source row through the horizontal pass: `row` [source width, 3] -> `line` [columns, 3].
fn narrow(row: &[[u8; 3]], columns: &[Taps], line: &mut [u8]) {
    for (taps, out) in columns.iter().zip(line.as_chunks_mut().0) {
        let mut sums = [if taps.weights.is_empty() { 0 } else { HALF }; 3];
        for (pixel, weight) in row[taps.first..taps.end()].iter().zip(&taps.weights) {
            for (sum, &sample) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(sample);
            }
        }
        *out = sums.map(rounded);
    }
}

/// RGB rows of `width` pixels -> RGB8 [rows, columns, 3]. Each source row is read once and added to the target
/// rows it belongs to, so that memory is the target's, whatever the source's height.
pub(super) fn resize(rgb: &[u8], width: usize, columns: &[Taps], rows: &[Taps]) -> Vec<u8> {
    let stride = 3 * columns.len();
    let mut sums = vec![HALF; rows.len() * stride];
    let mut line = vec![0; stride];
    let first = rows.iter().map(|taps| taps.first).min().unwrap_or(0);
    let end = rows.iter().map(Taps::end).max().unwrap_or(0);
    for (y, row) in rgb.as_chunks().0.chunks_exact(width).enumerate().take(end).skip(first) {
        let from = rows.partition_point(|taps| taps.end() <= y);
        let until = from + rows[from..].partition_point(|taps| taps.first <= y);
        if from == until {
            continue;
        }
        narrow(row, columns, &mut line);
        for (taps, sums) in rows[from..until].iter().zip(sums[from * stride..].chunks_exact_mut(stride)) {
            let weight = taps.weights[y - taps.first];
            sums.iter_mut().zip(&line).for_each(|(sum, &sample)| *sum += weight * i32::from(sample));
        }
    }
    sums.into_iter().map(rounded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(rgb: &[u8], from: (usize, usize), to: (u64, u64), filter: Filter) -> Vec<u8> {
        let columns = taps(filter, from.0, to.0, 0, to.0 as usize);
        let rows = taps(filter, from.1, to.1, 0, to.1 as usize);
        resize(rgb, from.0, &columns, &rows)
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let rgb: Vec<u8> = (0..5 * 7 * 3).map(|i| (i * 37 % 256) as u8).collect();
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(scaled(&rgb, (5, 7), (5, 7), filter), rgb);
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for (from, to) in [((9, 4), (3, 11)), ((1, 1), (8, 5)), ((64, 3), (1, 1))] {
                let out = scaled(&vec![200; from.0 * from.1 * 3], from, to, filter);
                assert!(out.iter().all(|&sample| sample == 200), "{filter:?} {from:?} {to:?}");
            }
        }
    }

    #[test]
    fn pixels_are_those_of_pillow() {
        // Pillow 13.0: [0, 80, 160, 240] resized to 2 x 1 (BILINEAR) and 3 x 1 (BICUBIC).
        let rgb: Vec<u8> = [0, 80, 160, 240].iter().flat_map(|&sample| [sample; 3]).collect();
        assert_eq!(scaled(&rgb, (4, 1), (2, 1), Filter::Bilinear), [57, 57, 57, 183, 183, 183]);
        assert_eq!(scaled(&rgb, (4, 1), (3, 1), Filter::Bicubic), [15, 15, 15, 120, 120, 120, 225, 225, 225]);
    }

    #[test]
    fn what_lies_outside_is_black() {
        let columns = taps(Filter::Bilinear, 2, 2, -1, 4);
        let rows = taps(Filter::Bilinear, 1, 1, -1, 3);
        let out = resize(&[255; 6], 2, &columns, &rows);
        assert_eq!(out[..12], [0; 12]);
        assert_eq!(out[12..24], [0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0]);
        assert_eq!(out[24..], [0; 12]);
    }

    #[test]
    fn a_window_equals_that_part_of_the_whole() {
        let rgb: Vec<u8> = (0..40 * 30 * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let whole = scaled(&rgb, (40, 30), (23, 17), Filter::Bilinear);
        let part = resize(&rgb, 40, &taps(Filter::Bilinear, 40, 23, 5, 10), &taps(Filter::Bilinear, 30, 17, 4, 9));
        for y in 0..9 {
            assert_eq!(part[y * 30..][..30], whole[((y + 4) * 23 + 5) * 3..][..30]);
        }
    }
}
