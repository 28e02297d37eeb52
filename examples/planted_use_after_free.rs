//! A planted error: reads an entry-like allocation after it was freed.
//!
//! The memory-checker stage runs this first. If the checker does not report it, its silence about the store's tests means nothing.

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;

fn main() {
    let layout = Layout::from_size_align(64, 8).expect("a valid layout");
    // SAFETY: none for the last read, on purpose: it reads freed memory, and nothing else here depends on what it finds.
    let byte = unsafe {
        let at = black_box(alloc(layout));
        assert!(!at.is_null());
        at.write_bytes(7, 64);
        dealloc(at, layout);
        at.add(8).read_volatile()
    };
    println!("read {} from freed memory", black_box(byte) & 1);
}
