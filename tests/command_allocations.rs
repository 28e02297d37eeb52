//! The hot path does not allocate: resolving a name, GET, and a SET that fits where the old value was.
//!
//! A counting allocator stands under this binary alone; it counts per thread, so that tests do not see each other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use datakeeper::base::clock::Wall;
use datakeeper::base::ids::HashKey;
use datakeeper::base::jitter::Jitter;
use datakeeper::base::segments::Segments;
use datakeeper::command::{Ctx, Exec, Lookups, SliceState, resolve};
use datakeeper::resp::{Batch, Output, Protocol, Reply};
use datakeeper::store::Store;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of each of these commands, run one after the other with warm buffers.
fn allocations(commands: &[&[&[u8]]]) -> Vec<usize> {
    let mut store = Store::new(HashKey([3; 16]));
    let (mut out, mut log, mut chance) = (Output::new(), Segments::new(), Jitter::new(1));
    log.put_slice(&[0; 4_096]);
    let mut warm = Reply::new(&mut out, Protocol::Resp2);
    warm.bulk(&[0; 4_096]);
    let mut batch = Batch::new();
    commands.iter().for_each(|command| batch.push_command(command));
    let count = |i| {
        out.clear();
        log.clear();
        let args = batch.args(i, b"");
        let mut slice = SliceState::default();
        let before = ALLOCATIONS.get();
        let spec = resolve(&args).expect("a known command");
        let Exec::Data(exec) = spec.exec else { panic!("{} is no data command", spec.name) };
        let mut ctx = Ctx {
            store: &mut store,
            reply: Reply::new(&mut out, Protocol::Resp2),
            log: &mut log,
            clock: Wall(1_000),
            expire: true,
            first_key: None,
            chance: &mut chance,
            slice: &mut slice,
            emitted: 0,
            lookups: Lookups::default(),
            misses: false,
        };
        exec(&mut ctx, &args).expect("it succeeds");
        ALLOCATIONS.get() - before
    };
    (0..commands.len()).map(count).collect()
}

#[test]
fn get_allocates_nothing_and_set_at_most_its_entry() {
    let value: &[u8] = &[b'v'; 100];
    let counts = allocations(&[
        &[b"SET", b"first", value],
        &[b"SET", b"key", value],
        &[b"set", b"key", value],
        &[b"SET", b"key", value, b"EX", b"100"],
        &[b"GET", b"key"],
        &[b"get", b"absent"],
        &[b"INCR", b"n"],
        &[b"TTL", b"key"],
        &[b"EXISTS", b"key", b"n", b"absent"],
        &[b"MGET", b"key", b"n"],
        &[b"GETRANGE", b"key", b"1", b"5"],
        &[b"DEL", b"key"],
    ]);
    // The first key may also grow a table.
    let [_, created, again, timed, reads @ ..] = &counts[..] else { panic!("{counts:?}") };
    assert!(*created <= 1, "a new key takes {created} allocations");
    assert_eq!(*again, 0, "the same size fits where the old value was");
    assert!(*timed <= 1, "an expiry takes {timed} allocations");
    let [get, absent, _incr, ttl, exists, mget, getrange, del] = reads else { panic!("{counts:?}") };
    assert_eq!([*get, *absent, *ttl, *exists, *mget, *getrange], [0; 6], "{counts:?}");
    assert!(*del <= 1, "a delete at most notes that a segment became sparse: {counts:?}");
}
