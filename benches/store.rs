//! Question: what does one operation on the store cost, from cache and from DRAM, alone and in batches with prefetch?
//!
//! Bound, on the back of an envelope: SipHash of a 16-byte key is 10 ns. A key in cache is then two cache lines of tags and slots, one
//! of the entry: 20 to 30 ns. Out of cache each of the two dependent misses (group, entry) is 100 to 200 ns when they stand alone; sixteen
//! or more in flight divide that by five to ten. A segment of 416 entries splits in 15 to 40 µs, the directory of 16 M keys copies
//! in 100 µs.
//!
//! Run: `cargo bench --bench store` (about a minute); `DATAKEEPER_BENCH_KEYS=16000000` for the table of stalls and bytes at another size.
//!
//! A surprise would be: a batch of 64 on 1 M keys that is not at least twice as fast as single gets; a miss dearer than a hit; a worst
//! insertion above 200 µs of CPU on a quiet machine; more than 69 bytes per key for 16 + 32.

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use datakeeper::base::jitter::Jitter;
use datakeeper::store::{Event, KeyHash, Mutation, Store};
use support::{VALUE, empty, filled, key, put};

const GROUP: usize = datakeeper::base::limits::PREFETCH_GROUP;

#[global_allocator]
static ALLOCATOR: datakeeper::app::Allocator = datakeeper::app::Allocator;

/// Keys of one batch, drawn from `from..from + range`.
fn draw(jitter: &mut Jitter, size: usize, from: u64, range: u64) -> Vec<[u8; 16]> {
    (0..size).map(|_| key(from + jitter.below(range))).collect()
}

/// The two passes of PERFORMANCE.md 4, in groups.
fn two_passes(store: &mut Store, keys: &[[u8; 16]], mut execute: impl FnMut(&mut Store, KeyHash, &[u8; 16])) {
    let mut hashes = [KeyHash(0); GROUP];
    for group in keys.chunks(GROUP) {
        for (h, key) in hashes.iter_mut().zip(group) {
            *h = store.hash(key);
            store.touch(*h);
        }
        for h in &hashes[..group.len()] {
            store.touch_entry(*h);
        }
        for (h, key) in hashes.iter().zip(group) {
            execute(store, *h, key);
        }
    }
}

/// A batch as the server runs it: a single command goes straight to its execution.
fn batch_of(store: &mut Store, keys: &[[u8; 16]], mut execute: impl FnMut(&mut Store, KeyHash, &[u8; 16])) {
    match keys {
        [key] => {
            let h = store.hash(key);
            execute(store, h, key);
        }
        keys => two_passes(store, keys, execute),
    }
}

fn get(store: &mut Store, h: KeyHash, key: &[u8; 16]) {
    black_box(store.get(h, key).map(|entry| entry.value().as_slice().first().copied()));
}

fn set(store: &mut Store, h: KeyHash, key: &[u8; 16]) {
    store.apply_hashed(h, &put(key, &VALUE));
}

/// A value of another size class than the one before it.
fn resize(store: &mut Store, h: KeyHash, key: &[u8; 16]) {
    let length = store.get(h, key).map_or(0, |entry| entry.value().len());
    store.apply_hashed(h, &put(key, &VALUE[..if length == VALUE.len() { 50 } else { VALUE.len() }]));
}

fn del(store: &mut Store, h: KeyHash, key: &[u8; 16]) {
    store.apply_hashed(h, &Mutation::Delete { key, event: Event::Del });
}

fn operations(c: &mut Criterion) {
    for (name, keys) in [("1K", 1_000), ("1M", 1_000_000)] {
        let mut store = filled(keys, &VALUE);
        let mut jitter = Jitter::new(1);
        let mut group = c.benchmark_group(format!("store/{name}"));
        for size in [1, 16, 64] {
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(format!("get_hit/{size}"), |b| {
                b.iter_batched(
                    || draw(&mut jitter, size, 0, keys),
                    |batch| batch_of(&mut store, &batch, get),
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(format!("get_miss/{size}"), |b| {
                b.iter_batched(
                    || draw(&mut jitter, size, keys, keys),
                    |batch| batch_of(&mut store, &batch, get),
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(format!("set_overwrite/{size}"), |b| {
                b.iter_batched(
                    || draw(&mut jitter, size, 0, keys),
                    |batch| batch_of(&mut store, &batch, set),
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(format!("set_other_size/{size}"), |b| {
                b.iter_batched(
                    || draw(&mut jitter, size, 0, keys),
                    |batch| batch_of(&mut store, &batch, resize),
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(format!("set_new_and_del/{size}"), |b| {
                b.iter_batched(
                    || draw(&mut jitter, size, keys, keys),
                    |batch| {
                        batch_of(&mut store, &batch, set);
                        batch_of(&mut store, &batch, del);
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

/// CPU time of this thread, so that neighbours on the machine do not show up as stalls.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to for the whole call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "the clock of the thread is always there");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Worst single insertion and bytes per key while the store grows to `total` keys with 32-byte values.
fn growth_table(total: u64) {
    println!(
        "\ngrowing to {total} keys, 16 + 32 bytes: insertions in CPU µs (clock included), mean in ns (p99.9: what a split typically costs)"
    );
    println!("{:>12} {:>10} {:>10} {:>10} {:>10} {:>10}", "keys", "worst", "p99.999", "p99.9", "mean", "bytes/key");
    let mut store = empty();
    let mut number = 0;
    let mut limit = total / 64;
    let mut bytes_per_key = Vec::new();
    while limit <= total {
        let mut times = Vec::with_capacity((limit - number) as usize);
        let started = Instant::now();
        while number < limit {
            let key = key(number);
            let before = cpu();
            store.apply(&put(&key, &VALUE[..32]));
            times.push(cpu() - before);
            number += 1;
            if number % (total / 64) == 0 {
                bytes_per_key.push((number, store.used_memory() as f64 / number as f64));
            }
        }
        let mean = started.elapsed().as_nanos() as f64 / times.len() as f64;
        times.sort_unstable();
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let (rare, split) =
            (times[times.len() - 1 - times.len() / 100_000], times[times.len() - 1 - times.len() / 1_000]);
        let bytes = store.used_memory() as f64 / number as f64;
        let worst = micros(times[times.len() - 1]);
        let (rare, split) = (micros(rare), micros(split));
        println!("{number:>12} {worst:>10.1} {rare:>10.1} {split:>10.1} {mean:>10.0} {bytes:>10.1}");
        limit *= 2;
    }
    let octave: Vec<f64> = bytes_per_key.iter().filter(|(n, _)| *n * 2 > total).map(|(_, bytes)| *bytes).collect();
    println!("bytes per key, mean over the last doubling: {:.1}", octave.iter().sum::<f64>() / octave.len() as f64);
}

fn main() {
    let mut criterion = support::brief();
    operations(&mut criterion);
    criterion.final_summary();
    let keys = std::env::var("DATAKEEPER_BENCH_KEYS").ok().and_then(|text| text.parse().ok());
    growth_table(keys.unwrap_or(2_000_000));
}
