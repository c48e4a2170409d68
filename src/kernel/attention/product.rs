//! Small matrix products over strided views: a head's scores, its mixed values, and their gradients.
//!
//! They are too small for a general product's packing to pay: a few dozen rows and columns, one call for each head of
//! each block. One loop serves every vector width through [`Lanes`]; a tile of 4 rows by 2 vectors stays in registers.

use super::lanes::{Baseline, Lanes};
use crate::kernel::wide::{Width, width};

/// A matrix without a shape: element (r, c) is `values[r * row + c * column]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub values: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// A product whose bounds were checked.
#[derive(Clone, Copy)]
struct Product<'a> {
    out: *mut f32,
    a: View<'a>,
    b: View<'a>,
    /// Rows, columns, inner size.
    shape: (usize, usize, usize),
    add: bool,
}

/// `out[m, n] (+)= a[m, k] * b[k, n]`; `out` is dense with rows of n, the rows of `b` are contiguous.
pub(super) fn small_product(out: &mut [f32], a: View<'_>, b: View<'_>, shape: (usize, usize, usize), add: bool) {
    let (m, n, k) = shape;
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() >= m * n && b.column == 1, "a target of {} values for {m} x {n}", out.len());
    if k == 0 {
        if !add {
            out[..m * n].fill(0.0);
        }
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.column < a.values.len(), "a is too short");
    assert!((k - 1) * b.row + n <= b.values.len(), "b is too short");
    let product = Product { out: out.as_mut_ptr(), a, b, shape, add };
    match width() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: width() detected AVX-512; the asserts above bound every index of the product.
        Width::Avx512 => unsafe { avx512(product) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: width() detected AVX2 and FMA; the asserts above bound every index of the product.
        Width::Avx2 => unsafe { avx2(product) },
        // SAFETY: every chip of the architecture has these vectors; the asserts above bound every index of the product.
        Width::Baseline => unsafe { run::<Baseline>(product) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512(product: Product<'_>) {
    // SAFETY: the caller bounded the product.
    unsafe { run::<std::arch::x86_64::__m512>(product) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(product: Product<'_>) {
    // SAFETY: the caller bounded the product.
    unsafe { run::<std::arch::x86_64::__m256>(product) }
}

/// # Safety
/// The instruction set of `L` is there and the product's bounds were checked.
#[inline(always)]
unsafe fn run<L: Lanes>(product: Product<'_>) {
    let (m, n, _) = product.shape;
    let mut r = 0;
    while r < m {
        // SAFETY: r + rows <= m and each tile stays below n columns.
        unsafe {
            if r + 4 <= m {
                line::<L, 4>(product, r, n);
                r += 4;
            } else {
                line::<L, 1>(product, r, n);
                r += 1;
            }
        }
    }
}

/// R rows from `r`, all columns.
///
/// # Safety
/// As for [`run`], and `r + R` is at most the product's rows.
#[inline(always)]
unsafe fn line<L: Lanes, const R: usize>(product: Product<'_>, r: usize, n: usize) {
    let mut c = 0;
    // SAFETY: every tile begins where enough columns are left.
    unsafe {
        while c + 2 * L::WIDTH <= n {
            tile::<L, R, 2>(product, r, c);
            c += 2 * L::WIDTH;
        }
        while c + L::WIDTH <= n {
            tile::<L, R, 1>(product, r, c);
            c += L::WIDTH;
        }
        while c < n {
            tile::<f32, R, 1>(product, r, c);
            c += 1;
        }
    }
}

/// R rows by C vectors from (r, c), the whole inner size in registers.
///
/// # Safety
/// As for [`run`], and the tile lies inside the product.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const C: usize>(product: Product<'_>, r: usize, c: usize) {
    let Product { out, a, b, shape: (_, n, k), add } = product;
    // SAFETY: the caller vouches for the tile; every index is below those that small_product asserted.
    unsafe {
        let mut sums = [[L::splat(0.0); C]; R];
        let (mut left, mut right) = (a.values.as_ptr().add(r * a.row), b.values.as_ptr().add(c));
        for _ in 0..k {
            let mut values = [L::splat(0.0); C];
            for (index, value) in values.iter_mut().enumerate() {
                *value = L::load(right.add(index * L::WIDTH));
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(*left.wrapping_add(index * a.row));
                for (sum, &value) in sums.iter_mut().zip(&values) {
                    *sum = sum.add_product(factor, value);
                }
            }
            left = left.wrapping_add(a.column);
            right = right.wrapping_add(b.row);
        }
        for (index, sums) in sums.iter().enumerate() {
            for (column, &sum) in sums.iter().enumerate() {
                let place = out.add((r + index) * n + c + column * L::WIDTH);
                (if add { L::load(place).plus(sum) } else { sum }).store(place);
            }
        }
    }
}
