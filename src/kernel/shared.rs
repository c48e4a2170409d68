//! A slice that several threads fill at once, each its own ranges.
//!
//! The jobs of a product own rectangles of a row-major matrix, which no safe split of a slice can express without a
//! list of every row's parts.

use std::marker::PhantomData;
use std::ops::Range;

/// Lends disjoint ranges of a slice to several threads.
pub(super) struct Shared<'a, T> {
    first: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it lends nothing but &mut [T] of ranges that the callers of range() keep apart, which is sending parts of a
// &mut [T] to other threads: sound for T: Send.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice for as long as parts of it are lent.
    pub(super) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { first: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The place of an element.
    #[inline(always)]
    pub(super) fn pointer(&self, index: usize) -> *mut T {
        self.first.wrapping_add(index)
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two ranges that are lent at the same time overlap.
    ///
    /// # Panics
    /// If the range leaves the slice.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} leaves a slice of {}", self.len);
        // SAFETY: the range lies within the slice, whose only borrower self is; the caller keeps the ranges apart.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}

/// Bytes in a line of the caches.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks for some elements to be brought into the nearest cache. The pointer need not be valid.
#[inline(always)]
pub(super) fn prefetch<T>(first: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..count * size_of::<T>()).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and may be of any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.cast::<i8>().wrapping_add(offset)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_the_slice() {
        let mut values = [1, 2, 3, 4];
        let shared = Shared::new(&mut values);
        // SAFETY: 0..2 and 2..4 do not overlap.
        let (left, right) = unsafe { (shared.range(0..2), shared.range(2..4)) };
        left.swap_with_slice(right);
        assert_eq!(values, [3, 4, 1, 2]);
    }

    #[test]
    #[should_panic(expected = "leaves a slice of 4")]
    fn a_range_outside_is_refused() {
        let mut values = [0; 4];
        // SAFETY: a single range overlaps with none.
        unsafe { Shared::new(&mut values).range(3..5) };
    }
}
