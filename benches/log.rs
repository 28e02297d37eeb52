//! Question: what does the replication log add to a SET of 16 + 100 bytes: at the leader, when a tick's block is sealed, when a
//! link looks its block up, and at the replica, which checks, keeps and applies what the leader made?
//!
//! Bound, on the back of an envelope: an entry is 133 bytes (12 head, 5 of Put's own, 16 + 100), copied twice from cache to cache,
//! so 20 to 40 ns at the leader, and the CRC-32 of those bytes at some 10 GB/s adds 15 ns when the block is sealed. A backlog of
//! 64 MiB in blocks of one tick (8 writes) is 64 thousand blocks: a binary search of 16 steps, the last ones out of cache, is 100 to
//! 300 ns, once per block and link. The replica reads each entry twice (checked, then applied: 20 to 40 ns each) and pays for
//! the store as the leader does, with the same prefetch (`benches/store`): 60 ns in cache, 130 ns from DRAM.
//!
//! Run: `cargo bench --bench log` (about half a minute).
//!
//! A surprise would be: appending dearer than 60 ns on a quiet machine; a block of one entry above 300 ns; a lookup above 1 µs; a replica that
//! is slower per entry than a leader executes the SET (about 300 ns and up, parsing included): it would fall behind for ever.

mod support;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use datakeeper::base::clock::Wall;
use datakeeper::base::ids::{Epoch, Offset, Position};
use datakeeper::base::jitter::Jitter;
use datakeeper::base::limits::PREFETCH_GROUP;
use datakeeper::base::segments::Segments;
use datakeeper::replication::log::{Entry, Log, entries};
use datakeeper::store::{Store, mutations};
use support::{VALUE, filled, key, put};

const EPOCH: Epoch = Epoch(1);
const CLOCK: Wall = Wall(1_700_000_000_000);
/// `replication.backlog_bytes` as it is by default.
const BACKLOG_BYTES: usize = 64 << 20;
/// Writes of one tick with few busy clients, and with many or with pipelines.
const TICKS: [u32; 3] = [1, 8, 64];

#[global_allocator]
static ALLOCATOR: datakeeper::app::Allocator = datakeeper::app::Allocator;

/// Keys made ahead, because making one costs more than the log does; a power of two that fits the second cache.
const KEYS: usize = 4_096;

fn keys() -> Vec<[u8; 16]> {
    (0..KEYS as u64).map(key).collect()
}

/// What the leader does per SET: encode the mutation, make an entry of it.
fn append(log: &mut Log, scratch: &mut Segments, key: &[u8]) -> Offset {
    put(key, &VALUE).encode(scratch);
    log.append(EPOCH, CLOCK, scratch)
}

/// A log with a full backlog in blocks of `tick` entries.
fn backlog(tick: u32) -> Log {
    let (mut log, mut scratch) = (Log::new(Position::default()), Segments::new());
    while log.bytes() < BACKLOG_BYTES {
        (0..tick).for_each(|i| {
            append(&mut log, &mut scratch, &key(u64::from(i)));
        });
        log.seal();
    }
    log
}

/// The leader's side: entries are appended, and each tick's worth is sealed; the backlog is trimmed as in steady state.
fn leader(c: &mut Criterion) {
    let keys = keys();
    let mut group = c.benchmark_group("log/leader");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |b| {
        let (mut scratch, mut number) = (Segments::new(), 0_usize);
        b.iter(|| {
            number += 1;
            scratch.clear();
            put(&keys[number % KEYS], &VALUE).encode(&mut scratch);
            black_box(scratch.len())
        });
    });
    group.bench_function("encode_and_append", |b| {
        let (mut log, mut scratch, mut number) = (backlog(64), Segments::new(), 0_usize);
        b.iter(|| {
            number += 1;
            let end = append(&mut log, &mut scratch, &keys[number % KEYS]);
            // Blocks close by themselves when they fill a frame; trimming keeps the memory of this loop bounded.
            log.trim(BACKLOG_BYTES, end);
            end
        });
    });
    for tick in TICKS {
        group.throughput(Throughput::Elements(u64::from(tick)));
        group.bench_function(format!("encode_append_and_seal/{tick}"), |b| {
            let (mut log, mut scratch, mut number) = (backlog(tick), Segments::new(), 0_usize);
            b.iter(|| {
                for _ in 0..tick {
                    number += 1;
                    append(&mut log, &mut scratch, &keys[number % KEYS]);
                }
                log.seal();
                log.trim(BACKLOG_BYTES, log.end());
            });
        });
    }
    group.finish();
}

/// A link's side: the block that holds the next entry, anywhere in the backlog and at its end.
fn link(c: &mut Criterion) {
    let log = backlog(8);
    let mut jitter = Jitter::new(1);
    let mut group = c.benchmark_group("log/link");
    group.throughput(Throughput::Elements(1));
    group.bench_function("block_anywhere", |b| {
        b.iter(|| log.block_at(Offset(1 + jitter.below(log.end().0))).map(|block| block.bytes));
    });
    group
        .bench_function("block_at_the_end", |b| b.iter(|| log.block_at(black_box(log.end())).map(|block| block.bytes)));
    group.finish();
}

/// One block of `tick` Puts of random keys, as it comes off the wire.
fn block(jitter: &mut Jitter, tick: u32, keys: u64) -> Bytes {
    let (mut log, mut scratch) = (Log::new(Position::default()), Segments::new());
    (0..tick).for_each(|_| {
        append(&mut log, &mut scratch, &key(jitter.below(keys)));
    });
    log.seal();
    Bytes::copy_from_slice(&log.block_at(Offset(1)).expect("just sealed").pieces[0])
}

/// As the Keeper does it: what a group of mutations will look at is touched ahead.
fn apply(store: &mut Store, entries: &[Entry]) {
    let mut all = entries.iter().flat_map(|entry| mutations(&entry.mutations)).map(|m| m.expect("checked before"));
    let mut group = Vec::with_capacity(PREFETCH_GROUP);
    loop {
        group.extend(all.by_ref().take(PREFETCH_GROUP).map(|mutation| {
            let hash = store.hash(mutation.key().expect("a Put has a key"));
            store.touch(hash);
            (hash, mutation)
        }));
        if group.is_empty() {
            return;
        }
        group.iter().for_each(|(hash, _)| store.touch_entry(*hash));
        group.drain(..).for_each(|(hash, mutation)| store.apply_hashed(hash, &mutation));
    }
}

/// The replica's side: check every mutation, keep the block, and, once it is acknowledged, apply it.
fn replica(c: &mut Criterion) {
    for (name, keys) in [("1K", 1_000), ("1M", 1_000_000)] {
        let mut store = filled(keys, &VALUE);
        let mut log = Log::new(Position::default());
        let mut jitter = Jitter::new(2);
        let mut group = c.benchmark_group(format!("log/replica/{name}"));
        for tick in TICKS {
            group.throughput(Throughput::Elements(u64::from(tick)));
            group.bench_function(format!("check_append_and_apply/{tick}"), |b| {
                b.iter_batched(
                    || block(&mut jitter, tick, keys),
                    |body| {
                        let first = log.end().next();
                        let all = entries(&body, first, tick).expect("made by a log");
                        assert!(all.iter().flat_map(|entry| mutations(&entry.mutations)).all(|m| m.is_ok()));
                        drop(all);
                        let applied = log.end();
                        log.append_block(EPOCH, first, tick, body);
                        apply(&mut store, &log.entries_after(applied));
                        log.trim(BACKLOG_BYTES, log.end());
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = support::brief();
    leader(&mut criterion);
    link(&mut criterion);
    replica(&mut criterion);
    criterion.final_summary();
}
