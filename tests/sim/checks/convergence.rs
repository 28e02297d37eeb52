//! Invariant 12: once faults are lifted, the cluster finds to itself, and then stays as it is.

use datakeeper::cluster::role::Role;

use crate::clock::MS;
use crate::world::World;

use super::stores;

/// Whether every node is in sync under a ready leader; if not, what is missing.
pub fn missing(world: &World) -> Option<String> {
    let Some((state, _)) = world.service.model.state().state else { return Some("/state is absent".to_string()) };
    let Some(leader) = world.leader() else {
        let roles: Vec<String> = world
            .nodes
            .iter()
            .map(|n| n.keeper().map_or("dead".to_string(), |k| format!("{} at {}", k.role(), k.log().last())))
            .collect();
        return Some(format!("no ready leader of epoch {} ({}): {roles:?}", state.epoch, state.leader.id));
    };
    for (n, node) in world.nodes.iter().enumerate() {
        let Some(keeper) = node.keeper() else { return Some(format!("n{n} is dead")) };
        if !state.names(keeper.me()) {
            return Some(format!("n{n} is {} at {}, not in sync with n{leader}", keeper.role(), keeper.log().last()));
        }
    }
    None
}

/// Lets the healed world run until it is whole, then a while longer: nothing may change any more.
///
/// # Errors
/// It does not become whole in time, or does not stay so, or its stores differ.
pub fn check(world: &mut World) -> Result<(), String> {
    let deadline = world.t + world.setup.heal_phase;
    // A connection that is dead without either side knowing outlives its cause, for as long as a promise and an election take.
    world.run_until(world.t + 2_500 * MS)?;
    while let Some(what) = missing(world) {
        if world.t >= deadline {
            return Err(format!(
                "convergence: not whole {} ms after the faults were lifted: {what}",
                world.setup.heal_phase / MS
            ));
        }
        world.run_until(world.t + 50 * MS)?;
    }
    let epoch = world.service.model.state().state.expect("it is whole").0.epoch;
    world.run_until(world.t + 1_000 * MS)?;
    let now = world.service.model.state().state.expect("it was whole").0.epoch;
    if now != epoch {
        return Err(format!("convergence: epoch {epoch} became {now} without a fault"));
    }
    let leader = world.leader().ok_or("convergence: the leader is gone without a fault")?;
    world.working = false;
    world.run_until(world.t + 1_500 * MS)?;
    let before = world.checks.history.end();
    let asked = world.read_everything(leader);
    world.run_until(world.t + 1_500 * MS)?;
    if let Some(op) = asked.iter().find(|op| world.ops[**op].returned == u64::MAX) {
        return Err(format!("convergence: the last read is not answered: {:?}", world.ops[*op]));
    }
    // Keys go on expiring for a while.
    let deadline = world.t + 3_000 * MS;
    let rests = |world: &World| {
        let end = world.checks.history.end();
        world.nodes.iter().filter_map(|n| n.keeper()).all(|k| k.applied() == end && k.log().end() == end)
    };
    while world.t < deadline && !rests(world) {
        world.run_until(world.t + 5 * MS)?;
    }
    if let Some(what) = missing(world) {
        return Err(format!("convergence: it was whole, and without a fault is not any more: {what}"));
    }
    let history = &world.checks.history;
    let end = history.end();
    assert!(end >= before, "history grows");
    for (n, node) in world.nodes.iter().enumerate() {
        let keeper = node.keeper().expect("it is whole");
        let is_leader = keeper.role() == Role::Leader;
        if (is_leader && keeper.acked() != end) || keeper.applied() != end {
            return Err(format!("convergence: n{n} rests at {}, {end} is acknowledged", keeper.applied()));
        }
        stores::compare(n, keeper, history, end)?;
    }
    Ok(())
}
