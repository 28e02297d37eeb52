//! The nastiest interleavings (PROTOCOL section 14, `i01` … `i24`) and the stories that broke an earlier wording of the rules
//! (section 16, `v1` … `v8`), each by its number, with real Keepers.
//!
//! A test first shows that it got where the danger is: what is in flight, who is frozen, which copy is named. Then it shows
//! what must not come of it. The generic schedule of `tests/sim` may pass through the same places; these say so every time.

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod elections;
mod handovers;
mod leases;
#[cfg(feature = "leave-out-rules")]
mod left_out;
mod loss;
mod names;
mod service;
mod sets;

use datakeeper::cluster::role::Role;
use datakeeper::keeper::KeeperConfig;
use support::world::World;

/// So many nodes in sync, in the order of their numbers; n0 leads, and `k` is `old`.
fn cluster_of(nodes: usize, tune: fn(usize, &mut KeeperConfig)) -> World {
    let mut world = World::new(nodes);
    world.tune = tune;
    for i in 0..nodes {
        world.start(i);
        world.run_until("it is in sync", 1_000, |w| leads(w, 0) && w.in_sync() == i + 1);
    }
    set(&mut world, 0, "k", "old");
    world.run(60);
    world
}

/// Three in sync.
fn cluster() -> World {
    cluster_of(3, |_, _| {})
}

/// An acknowledged write.
fn set(world: &mut World, i: usize, key: &str, value: &str) {
    assert_eq!(world.ask(i, &["SET", key, value]), "+OK\r\n", "{:#?}", world.notices());
}

fn leads(world: &World, i: usize) -> bool {
    world.role(i) == Role::Leader
}

fn epoch(world: &World) -> u64 {
    world.state().epoch.0
}

/// Faults are over: the set becomes whole, and everybody has the value.
fn comes_to_rest(world: &mut World, nodes: usize, key: &str, value: Option<&str>) {
    world.run_until("all in sync again", 5_000, |w| w.in_sync() == nodes && (0..nodes).any(|i| leads(w, i)));
    world.run(120);
    for i in 0..nodes {
        assert_eq!(world.value(i, key).as_deref(), value, "at n{i}");
    }
}
