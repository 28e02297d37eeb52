//! Question: what does it cost to change a value where it stands: in place, to another size, at its end, in its middle, or only its expiry?
//!
//! Back of the envelope: all of it is one key in cache, whose finding (`find`) is SipHash and two or three lines: 30 ns, part of every figure. In place, a value of 100
//! bytes is one copy and the header's fields more: 20 ns. Another size class is an allocation, a copy and a release: 40 ns. Above 4 KiB a value has an allocation of its own: a copy at 10 to 20 GB/s
//! if it comes as bytes, a count if it comes as an allocation of its own, whatever its length. What is appended costs what is appended, as spare room grows with
//! the value; so does what is written into the middle, as long as nobody shares the value.
//!
//! Run: `cargo bench --bench entry` (about half a minute).
//!
//! It would surprise us if: a value in place cost more than finding it and 40 ns; 1 MiB that is handed over cost more than 200 ns, or 10 bytes written into it twice as much
//! as into 100 (then somebody copies it).

mod support;

use std::hint::black_box;

use bytes::Bytes;
use criterion::BenchmarkId;
use datakeeper::base::clock::Wall;
use datakeeper::store::{Event, Mutation, Store, ValueRef};
use support::{empty, filled, key, put};

#[global_allocator]
static ALLOCATOR: datakeeper::app::Allocator = datakeeper::app::Allocator;

const KEYS: u64 = 100;

fn set_range(store: &mut Store, at: usize, length_after: usize) {
    let (at, length_after) = (at as u64, length_after as u64);
    let bytes = black_box(&[8; 10]);
    store.apply(&Mutation::Splice { key: &key(7), at, bytes, length_after, event: Event::SetRange });
}

fn main() {
    let mut criterion = support::brief();
    let mut group = criterion.benchmark_group("entry");
    let key = key(7);
    let filler = vec![7; 1 << 20];

    let store = filled(KEYS, &filler[..100]);
    group.bench_function("find", |b| {
        b.iter(|| store.get(store.hash(black_box(&key)), &key).map(|entry| entry.value().len()))
    });
    for length in [8, 100, 1_000, 16 << 10] {
        let mut store = filled(KEYS, &filler[..length]);
        group.bench_function(BenchmarkId::new("in_place", length), |b| {
            b.iter(|| store.apply(black_box(&put(&key, &filler[..length]))));
        });
    }
    for (small, large) in [(100, 200), (1_000, 2_000), (4_000, 8_000)] {
        let (mut store, mut odd) = (filled(KEYS, &filler[..small]), false);
        group.bench_function(BenchmarkId::new("other_size", format!("{small}-{large}")), |b| {
            b.iter(|| {
                odd = !odd;
                store.apply(black_box(&put(&key, &filler[..if odd { large } else { small }])));
            });
        });
    }
    let (mut store, big) = (empty(), Bytes::from(filler.clone()));
    group.bench_function(BenchmarkId::new("handed_over", big.len()), |b| {
        b.iter(|| {
            let value = ValueRef::Shared(black_box(&big).clone());
            store.apply(&Mutation::Put { key: &key, value, expiry: None, event: Event::Set });
        });
    });
    for length in [100, 1 << 20] {
        let mut store = filled(KEYS, &filler[..length]);
        group.bench_function(BenchmarkId::new("into_the_middle", length), |b| {
            b.iter(|| set_range(&mut store, length / 2, length));
        });
    }
    let (mut store, mut length) = (empty(), 0);
    group.bench_function("append", |b| {
        b.iter(|| {
            set_range(&mut store, length, length + 10);
            length = (length + 10) % (64 << 20);
            if length == 0 {
                store = empty();
            }
        });
    });
    let (mut store, mut odd) = (filled(KEYS, &filler[..100]), false);
    group.bench_function("expiry_on_and_off", |b| {
        b.iter(|| {
            odd = !odd;
            store.apply(&Mutation::SetExpiry { key: &key, expiry: odd.then_some(Wall(1)), event: Event::Expire });
        });
    });
    let mut store = filled(KEYS, &filler[..100]);
    group.bench_function("made_and_deleted", |b| {
        b.iter(|| {
            store.apply(black_box(&put(b"another of these", &filler[..100])));
            store.apply(&Mutation::Delete { key: b"another of these", event: Event::Del });
        });
    });
    group.finish();
    criterion.final_summary();
}
