//! The f32 matrix product, by the `gemm` crate, behind checked views.
//!
//! A [`Matrix`] is a slice with a shape and two steps, so a transpose costs nothing and nobody above this file
//! handles pointers.

use super::tally::{self, Kind};
use super::threads;

/// A matrix over somebody's slice: element (r, c) is `values[r * row_step + c * column_step]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major `rows x columns`. Panics when the slice has another length: our mistake.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a {rows} x {columns} matrix over {} values", values.len());
        Self { values, rows, columns, row_step: columns, column_step: 1 }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The values of a row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = f32> + use<'a> {
        let (values, first, step) = (self.values, row * self.row_step, self.column_step);
        (0..self.columns).map(move |column| values[first + column * step])
    }

    /// The same values, rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
        }
    }
}

/// `out = a * b`, row-major. Panics when the shapes do not fit: our mistake.
pub fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes {k} and {} differ", b.rows);
    assert_eq!(out.len(), m * n, "the product is {m} x {n}, the target has {} values", out.len());
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        out.fill(0.0);
        return;
    }
    tally::count(Kind::F32, 2.0 * m as f64 * n as f64 * k as f64, || multiply(out, a, b));
}

/// [`product`] of shapes that fit, none of them empty.
fn multiply(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let threads = threads::available();
    let parallelism = if threads > 1 && m * n * k >= SPREAD_FROM {
        gemm::Parallelism::Rayon(threads)
    } else {
        gemm::Parallelism::None
    };
    let step = |value: usize| isize::try_from(value).expect("a slice is shorter than isize::MAX");
    // SAFETY: the asserts in product and in Matrix::new keep every index r * row_step + c * column_step inside the three
    // slices; `out` is borrowed exclusively and does not overlap `a` or `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            step(n),
            false,
            a.values.as_ptr(),
            step(a.column_step),
            step(a.row_step),
            b.values.as_ptr(),
            step(b.column_step),
            step(b.row_step),
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Multiplies below which one thread does it alone.
const SPREAD_FROM: usize = 1 << 21;

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * n];
        for r in 0..m {
            for c in 0..n {
                out[r * n + c] = (0..k).map(|i| a[r * k + i] * b[i * n + c]).sum();
            }
        }
        out
    }

    #[test]
    fn equals_the_three_loops_also_transposed() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 9), (4, 2, 0)] {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7 % 13) as f32) - 6.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 5 % 11) as f32) - 5.0).collect();
            let expected = naive(&a, &b, m, n, k);
            let mut out = vec![f32::NAN; m * n];
            product(&mut out, Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            assert_eq!(out, expected);
            let mut turned = vec![0.0; k * n];
            for r in 0..k {
                for c in 0..n {
                    turned[c * k + r] = b[r * n + c];
                }
            }
            out.fill(f32::NAN);
            product(&mut out, Matrix::new(&a, m, k), Matrix::new(&turned, n, k).transposed());
            assert_eq!(out, expected);
        }
    }
}
