//! The program's allocator: jemalloc, and what it is told.
//!
//! It gives back what it holds for nobody, whichever thread used it last: a server that has worked off a burst on twenty
//! threads, all of which now sleep, is as small as before. (mimalloc gives back only what the running thread has left, glibc
//! keeps the end of each thread's heap.) Large pieces lie in large pages, without which weights are read more slowly
//! (docs/KERNELS.md); small ones do not, for one byte in use would keep two megabytes.

use std::alloc::{GlobalAlloc, Layout};

use tikv_jemallocator::Jemalloc;

/// jemalloc reads this by itself, before `main`.
///
/// * `background_thread`: a thread of its own gives memory back; those that answer do not stop for it.
/// * `dirty_decay_ms`: what nobody asks for again within this time goes back; tensors are asked for again within a pass.
/// * `muzzy_decay_ms`: at once for good, so that the system's figures tell the truth.
/// * `oversize_threshold`: the same for pieces of any size; else large ones would come with page faults each time.
// SAFETY: the one symbol of this name, a pointer to text that ends with a zero, as jemalloc's manual asks for.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static WORDS: &[u8; 81] = b"background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:0,oversize_threshold:0\0";

/// What the system calls huge.
const LARGE_PAGE: usize = 2 << 20;

/// A large piece begins where a large page does: else it would have one less, and of four megabytes that is half.
fn placed(layout: Layout) -> Layout {
    if layout.size() < LARGE_PAGE {
        return layout;
    }
    // What is too large for that is too large for the machine.
    layout.align_to(LARGE_PAGE).unwrap_or(layout)
}

/// jemalloc with large pages for large pieces.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

// SAFETY: every call goes to jemalloc with its caller's arguments; advice changes no memory's content.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's word.
        let piece = unsafe { Jemalloc.alloc(placed(layout)) };
        advise(piece, layout.size(), Pages::Large);
        piece
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's word.
        let piece = unsafe { Jemalloc.alloc_zeroed(placed(layout)) };
        advise(piece, layout.size(), Pages::Large);
        piece
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // Small ones may come to lie there.
        advise(piece, layout.size(), Pages::Small);
        // SAFETY: the caller's word.
        unsafe { Jemalloc.dealloc(piece, placed(layout)) };
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        advise(piece, layout.size(), Pages::Small);
        // Of the layout jemalloc reads the alignment alone, which is to be the new piece's.
        let wanted = Layout::from_size_align(size, layout.align()).map_or(layout, placed);
        // SAFETY: the caller's word.
        let moved = unsafe { Jemalloc.realloc(piece, wanted, size) };
        advise(moved, size, Pages::Large);
        moved
    }
}

/// In which pages the system is to keep a piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    Small,
    Large,
}

/// The whole large pages within a piece: where they begin, and how many bytes they are.
fn whole_pages(address: usize, size: usize) -> (usize, usize) {
    let begin = address.next_multiple_of(LARGE_PAGE);
    let end = (address + size) / LARGE_PAGE * LARGE_PAGE;
    (begin, end.saturating_sub(begin))
}

/// Advice that the system may not take changes nothing but speed.
#[inline]
fn advise(piece: *mut u8, size: usize, pages: Pages) {
    if size >= LARGE_PAGE && !piece.is_null() {
        advise_large(piece, size, pages);
    }
}

#[cold]
fn advise_large(piece: *mut u8, size: usize, pages: Pages) {
    let (begin, bytes) = whole_pages(piece.addr(), size);
    if bytes == 0 {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        let advice = if pages == Pages::Large { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: these pages lie within the piece, which is its owner's until this returns; the advice is about how they
        // are mapped, not about what is in them.
        unsafe { libc::madvise(piece.with_addr(begin).cast(), bytes, advice) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (begin, pages);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_within_a_piece_are_advised() {
        for (address, size, pages) in [
            (4 << 20, 2 << 20, (4 << 20, 2 << 20)),
            (4 << 20, (4 << 20) - 1, (4 << 20, 2 << 20)),
            ((4 << 20) + 1, 2 << 20, (6 << 20, 0)),
            ((4 << 20) + 1, 4 << 20, (6 << 20, 2 << 20)),
            ((4 << 20) - 64, (6 << 20) + 64, (4 << 20, 6 << 20)),
        ] {
            assert_eq!(whole_pages(address, size), pages, "{size} bytes at {address}");
        }
    }

    #[test]
    fn pieces_of_all_sizes_keep_what_is_in_them() {
        for size in [1, 100, LARGE_PAGE - 1, LARGE_PAGE, 5 * LARGE_PAGE + 3] {
            let layout = Layout::from_size_align(size, 64).expect("a layout");
            let grown = Layout::from_size_align(3 * size, 64).expect("a layout");
            // SAFETY: each piece is used within its size, and freed once with its layout.
            unsafe {
                let piece = Allocator.alloc_zeroed(layout);
                assert_eq!(piece.addr() % if size < LARGE_PAGE { 64 } else { LARGE_PAGE }, 0);
                assert!(std::slice::from_raw_parts(piece, size).iter().all(|byte| *byte == 0), "{size}");
                piece.write_bytes(7, size);
                let piece = Allocator.realloc(piece, layout, 3 * size);
                assert!(std::slice::from_raw_parts(piece, size).iter().all(|byte| *byte == 7), "{size}");
                Allocator.dealloc(piece, grown);
            }
        }
    }

    #[test]
    fn its_words_end_with_a_zero_and_have_no_other() {
        assert_eq!(WORDS.iter().position(|byte| *byte == 0), Some(WORDS.len() - 1));
    }
}
