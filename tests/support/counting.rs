//! The server's allocator, counting: what a thread, or the whole process, asked it for, and what it set aside for that.
//!
//! A binary that counts makes it its own: `#[global_allocator] static ALLOCATOR: Counting = Counting;`.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use datakeeper::app::Allocator;
use tikv_jemallocator::usable_size;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Of all threads.
static HANDED_OUT: AtomicU64 = AtomicU64::new(0);

/// See the file.
pub struct Counting;

/// Allocations of this thread so far, those that made one longer or shorter included.
pub fn calls() -> u64 {
    CALLS.get()
}

/// Bytes that the allocator has set aside for this thread's allocations and did not get back on this thread.
pub fn live_bytes() -> i64 {
    LIVE.get()
}

/// Bytes that the allocator has handed out to all threads so far. An allocation that grows counts anew, as its bytes may have to be moved.
pub fn handed_out() -> u64 {
    HANDED_OUT.load(Ordering::Relaxed)
}

fn count(pointer: *mut u8) -> *mut u8 {
    CALLS.set(CALLS.get() + 1);
    // SAFETY: the allocator has just handed it out, or null, for which it says 0.
    let bytes = unsafe { usable_size(pointer) };
    LIVE.set(LIVE.get() + bytes as i64);
    HANDED_OUT.fetch_add(bytes as u64, Ordering::Relaxed);
    pointer
}

/// # Safety
/// `pointer` is alive.
unsafe fn forget(pointer: *mut u8) {
    // SAFETY: it is still the caller's.
    LIVE.set(LIVE.get() - unsafe { usable_size(pointer) } as i64);
}

// SAFETY: every call is passed on to the allocator unchanged; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(unsafe { Allocator.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(unsafe { Allocator.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe {
            forget(pointer);
            Allocator.dealloc(pointer, layout);
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe {
            forget(pointer);
            count(Allocator.realloc(pointer, layout, size))
        }
    }
}
