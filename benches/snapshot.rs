//! Question: what does a full resync cost per key of 16 + 100 bytes: at the leader, which reads its store range by range between its clients'
//! commands, and at the replica, which checks and applies what comes?
//!
//! Back of the envelope: a chunk walks whole segments in the order of hashes. From DRAM each entry is a miss, but their addresses stand side by side in
//! the table, so that several are in flight: 30 to 60 ns. Then it is encoded (124 bytes: 15 ns) and its checksum made (12 ns at 10 GB/s). A chunk of 128 KiB
//! is some 1,050 keys of three or four segments: 0.1 ms of the Keeper's lock. The replica checks an entry (10 ns) and inserts it. As hashes come in
//! order, the segments that it fills are in cache, and none is split, because the number of keys was announced: what remains is an allocation in fresh
//! memory and SipHash, 100 to 150 ns.
//!
//! Run: `cargo bench --bench snapshot` (about half a minute).
//!
//! Known: with a table that is not told how many keys there will be, applying takes twice as long, of 10,000 keys as of a million. In the order of hashes
//! a split puts everything into one half, and is soon to be done again.
//!
//! It would surprise us if: a chunk took more than 0.3 ms; whether an entry counts, which is a search among the ranges that have come, took 200 ns.

mod support;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use datakeeper::base::clock::Boot;
use datakeeper::base::ids::Offset;
use datakeeper::base::jitter::Jitter;
use datakeeper::base::segments::Segments;
use datakeeper::replication::snapshot::Intake;
use datakeeper::store::{Store, mutations};
use support::{VALUE, empty, filled};

#[global_allocator]
static ALLOCATOR: datakeeper::app::Allocator = datakeeper::app::Allocator;

/// As the leader makes them.
const CHUNK_BYTES: usize = 128 << 10;
const SIZES: [(&str, u64); 2] = [("10K", 10_000), ("1M", 1_000_000)];

/// The leader's part for one chunk, its checksum included; where the next begins.
fn write(store: &Store, from: u64, take: &mut impl FnMut(Vec<Bytes>)) -> Option<u64> {
    let mut out = Segments::new();
    let chunk = store.chunk(from, CHUNK_BYTES, &mut out);
    let parts = out.take_parts(&[]);
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    black_box(crc.finalize());
    take(parts);
    chunk.upto
}

fn write_all(store: &Store, mut take: impl FnMut(Vec<Bytes>)) {
    let mut from = Some(0);
    while let Some(start) = from {
        from = write(store, start, &mut take);
    }
}

fn leader(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot/write");
    for (name, keys) in SIZES {
        let store = filled(keys, &VALUE);
        group.throughput(Throughput::Elements(keys));
        group.bench_function(BenchmarkId::new("all", name), |b| b.iter(|| write_all(&store, drop)));
        let mut jitter = Jitter::new(1);
        group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
        group.bench_function(BenchmarkId::new("chunk", name), |b| {
            // Not from the last segments, whose chunks are short.
            b.iter(|| write(&store, jitter.below(u64::MAX / 8 * 7), &mut drop));
        });
    }
    group.finish();
}

fn replica(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot/read");
    for (name, keys) in SIZES {
        let mut bodies = Vec::new();
        write_all(&filled(keys, &VALUE), |parts| bodies.push(Bytes::from(parts.concat())));
        group.throughput(Throughput::Elements(keys));
        let check = |body: &Bytes| assert!(mutations(body).all(|mutation| mutation.is_ok()));
        group.bench_function(BenchmarkId::new("check", name), |b| b.iter(|| bodies.iter().for_each(check)));
        group.bench_function(BenchmarkId::new("check_and_apply", name), |b| {
            let read = |mut store: Store| {
                store.expect(keys);
                for body in &bodies {
                    check(body);
                    mutations(body).for_each(|mutation| store.apply(&mutation.expect("checked")));
                }
                store.expect_no_more();
                store // its end is not part of it
            };
            b.iter_batched(empty, read, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// Whether the entries that come beside the chunks count.
fn intake(c: &mut Criterion) {
    let store = filled(1_000_000, &VALUE);
    let mut intake = Intake::new(1_000_000, Boot(0));
    while let (Some(from), chunks) = (intake.next(), intake.keys) {
        intake.add(from, write(&store, from, &mut drop), Offset(10 * chunks)).expect("in order");
        intake.keys += 1;
    }
    let (mut jitter, chunks) = (Jitter::new(1), intake.keys);
    c.bench_function(&format!("snapshot/entry_counts/{chunks}_chunks"), |b| {
        b.iter(|| intake.counts(jitter.below(u64::MAX), Offset(jitter.below(10 * chunks))));
    });
}

fn main() {
    let mut criterion = support::brief();
    leader(&mut criterion);
    replica(&mut criterion);
    intake(&mut criterion);
    criterion.final_summary();
}
