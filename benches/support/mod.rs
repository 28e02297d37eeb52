//! Keys, values, stores and the length of a measurement that several benches share.
#![allow(dead_code)]

use std::time::Duration;

use criterion::Criterion;
use datakeeper::base::ids::HashKey;
use datakeeper::store::{Event, Mutation, Store, ValueRef};

pub const VALUE: [u8; 100] = [7; 100];

/// A key of 16 bytes.
pub fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    for (at, byte) in key[4..].iter_mut().enumerate() {
        *byte = b'0' + (number / 10_u64.pow(11 - at as u32) % 10) as u8;
    }
    key
}

pub fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Mutation<'a> {
    Mutation::Put { key, value: ValueRef::Slice(value), expiry: None, event: Event::Set }
}

pub fn empty() -> Store {
    Store::new(HashKey(*b"a secret of ours"))
}

/// A store of so many keys with this value.
pub fn filled(keys: u64, value: &[u8]) -> Store {
    let mut store = empty();
    (0..keys).for_each(|number| store.apply(&put(&key(number), value)));
    store
}

/// A second for each figure: enough to tell parts apart, and the whole of `cargo bench` ends in minutes.
pub fn brief() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .sample_size(20)
        .configure_from_args()
}
