//! The allocator of the binary, and of tests and benches that count or time memory: jemalloc with size classes in steps of 8 bytes.
//!
//! With these (`.cargo/config.toml`) a request for 24, 40 or 56 bytes may be answered by an address that is no multiple of 16, and the crate passes on no
//! alignment up to 16. So a request is made as long as a multiple of its alignment, and the class of such a length keeps it.

use std::alloc::{GlobalAlloc, Layout};

use tikv_jemallocator::Jemalloc;

/// See the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

// SAFETY: every call is passed on. The layout is made longer by the same amount each time, and is never shorter than what was asked for.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { Jemalloc.alloc(layout.pad_to_align()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { Jemalloc.alloc_zeroed(layout.pad_to_align()) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { Jemalloc.dealloc(pointer, layout.pad_to_align()) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // No overflow: the caller vouches that the new size, rounded up to the alignment, is below `isize::MAX`.
        unsafe { Jemalloc.realloc(pointer, layout.pad_to_align(), size.next_multiple_of(layout.align())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_aligned_is() {
        for align in [1, 2, 4, 8, 16, 32, 64] {
            for size in [8, 17, 24, 33, 40, 52, 56, 100] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // Several at once: one by itself may be aligned by chance.
                let all: Vec<_> = (0..8).map(|_| unsafe { Allocator.alloc(layout) }).collect();
                for &pointer in &all {
                    assert_eq!(pointer as usize % align, 0, "{size} bytes at {align}");
                    let grown = unsafe { Allocator.realloc(pointer, layout, size + 16) };
                    assert_eq!(grown as usize % align, 0, "{size} bytes and 16 more at {align}");
                    unsafe { Allocator.dealloc(grown, Layout::from_size_align(size + 16, align).unwrap()) };
                }
            }
        }
    }
}
