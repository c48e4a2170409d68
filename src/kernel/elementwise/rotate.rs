//! Rotary position codes: turning pairs of elements by tabled angles.

use crate::kernel::{threads::for_rows, wide::wide};

/// Which two elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(i, i + width / 2)`: Llama, Gemma.
    Halves,
    /// `(2i, 2i + 1)`: V-JEPA 2. With an odd width the last element stays.
    Neighbours,
}

/// Tables for [`rotate`]: cosine and sine for every row and element of a head, `[rows, width]`.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
    /// Elements of a head.
    pub width: usize,
    /// Which elements turn together.
    pub pairing: Pairing,
}

/// Turns the pairs `(a, b)` of every head: `a' = a cos_a - b sin_a`, `b' = b cos_b + a sin_b`.
///
/// `backwards` applies the transposed map, which is the gradient.
pub fn rotate(x: &[f32], angles: Angles<'_>, row: usize, backwards: bool, out: &mut [f32]) {
    let rows = angles.cos.len() / angles.width;
    assert!(x.len() == out.len() && x.len() == rows * row && row.is_multiple_of(angles.width));
    assert_eq!(angles.cos.len(), angles.sin.len());
    for_rows(out, row, x.len() * 4, |first, out| {
        let lines = out.len() / row;
        let table = first * angles.width..(first + lines) * angles.width;
        let angles = Angles { cos: &angles.cos[table.clone()], sin: &angles.sin[table], ..angles };
        rotate_run(&x[first * row..(first + lines) * row], angles, row, backwards, out);
    });
}

wide! {
    fn rotate_run(x: &[f32], angles: Angles<'_>, row: usize, backwards: bool, out: &mut [f32]) {
        let width = angles.width;
        let tables = angles.cos.chunks_exact(width).zip(angles.sin.chunks_exact(width));
        for ((x, y), (cos, sin)) in x.chunks_exact(row).zip(out.chunks_exact_mut(row)).zip(tables) {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                match angles.pairing {
                    Pairing::Halves => {
                        let half = width / 2;
                        for i in 0..half {
                            (y[i], y[i + half]) =
                                turn((x[i], x[i + half]), (cos[i], cos[i + half]), (sin[i], sin[i + half]), backwards);
                        }
                    }
                    Pairing::Neighbours => {
                        for i in (0..width - width % 2).step_by(2) {
                            (y[i], y[i + 1]) =
                                turn((x[i], x[i + 1]), (cos[i], cos[i + 1]), (sin[i], sin[i + 1]), backwards);
                        }
                        if width % 2 == 1 {
                            y[width - 1] = x[width - 1] * cos[width - 1];
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn((a, b): (f32, f32), cos: (f32, f32), sin: (f32, f32), backwards: bool) -> (f32, f32) {
    if backwards {
        (a * cos.0 + b * sin.1, b * cos.1 - a * sin.0)
    } else {
        (a * cos.0 - b * sin.0, b * cos.1 + a * sin.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_backwards_is_the_transpose() {
        for (pairing, width) in [(Pairing::Halves, 8), (Pairing::Neighbours, 8), (Pairing::Neighbours, 7)] {
            let cos: Vec<f32> = (0..width * 2).map(|i| (i as f32).cos()).collect();
            let sin: Vec<f32> = (0..width * 2).map(|i| (i as f32 * 1.3).sin()).collect();
            let angles = Angles { cos: &cos, sin: &sin, width, pairing };
            let x: Vec<f32> = (0..width * 4).map(|i| (i as f32 * 0.7).sin()).collect();
            let g: Vec<f32> = (0..width * 4).map(|i| (i as f32 * 0.3).cos()).collect();
            let (mut y, mut d) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            rotate(&x, angles, width * 2, false, &mut y);
            rotate(&g, angles, width * 2, true, &mut d);
            assert!((super::super::dot(&y, &g) - super::super::dot(&x, &d)).abs() < 1e-4);
        }
    }
}
