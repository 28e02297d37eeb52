//! A follower that answers reads holds exactly what the acknowledged history says at its position: snapshots, skipped entries and
//! partial resyncs add nothing and lose nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use datakeeper::base::clock::Wall;
use datakeeper::base::ids::Offset;
use datakeeper::keeper::Keeper;

use crate::clock::MS;
use crate::coverage::Coverage;
use crate::history::{Held, History};

use super::{PerNode, View};

/// How often the whole store of a follower is compared, ns.
const EVERY: u64 = 400 * MS;

/// When each node was looked at, and whether it could answer reads then.
#[derive(Default)]
pub struct Stores(PerNode<(u64, bool)>);

impl Stores {
    pub fn look(
        &mut self,
        n: usize,
        view: &View<'_>,
        history: &History,
        coverage: &mut Coverage,
    ) -> Result<(), String> {
        let Some(keeper) = view.nodes[n].keeper() else { return Ok(()) };
        let may_read = keeper.replica_may_read();
        let (at, could) = self.0.get(&n).copied().unwrap_or_default();
        if may_read && (view.t >= at + EVERY || !could) {
            self.0.insert(n, (view.t, may_read));
            coverage.hit("store of a follower compared");
            return compare(n, keeper, history, keeper.applied());
        }
        self.0.insert(n, (at, may_read));
        Ok(())
    }
}

/// What a node's store holds.
pub fn contents(keeper: &Keeper) -> BTreeMap<Bytes, Held> {
    let mut found = BTreeMap::new();
    let mut cursor = 0;
    loop {
        cursor = keeper.store().scan(cursor, 1_000, &mut |entry| {
            let value = (Bytes::copy_from_slice(entry.value().as_slice()), entry.expiry());
            found.insert(Bytes::copy_from_slice(entry.key()), value);
        });
        if cursor == 0 {
            return found;
        }
    }
}

/// Compares a node's store with the history at `offset`.
pub fn compare(n: usize, keeper: &Keeper, history: &History, offset: Offset) -> Result<(), String> {
    let (is, must) = (contents(keeper), history.store_at(offset));
    if is == must {
        return Ok(());
    }
    let wrong = must.iter().find(|(k, v)| is.get(*k) != Some(v)).map(|(k, _)| k);
    let key = wrong.or_else(|| is.keys().find(|k| !must.contains_key(*k))).expect("they differ");
    let short = |held: Option<&Held>| {
        held.map(|(v, e)| (String::from_utf8_lossy(&v[..v.len().min(40)]).to_string(), v.len(), *e))
    };
    Err(format!(
        "stores: n{n} at {offset} holds {} keys, must hold {}; {:?} is {:?}, must be {:?}",
        is.len(),
        must.len(),
        String::from_utf8_lossy(key),
        short(is.get(key)),
        short(must.get(key))
    ))
}

/// Judges the answer that a follower gave when it had applied `applied` and its clock for expiry stood at `clock`.
pub fn replica_read(
    n: usize,
    applied: Offset,
    clock: Wall,
    key: &[u8],
    got: Option<Vec<u8>>,
    history: &History,
) -> Result<(), String> {
    if applied > history.end() {
        return Err(format!("stores: n{n} answered a read at {applied}, only {} is acknowledged", history.end()));
    }
    let must = history.at(key, applied).filter(|(_, expiry)| expiry.is_none_or(|e| e > clock)).map(|(v, _)| v);
    if got.as_deref() == must.as_deref() {
        return Ok(());
    }
    let short = |v: Option<&[u8]>| v.map(|v| String::from_utf8_lossy(&v[..v.len().min(40)]).to_string());
    Err(format!(
        "stores: n{n} at {applied} answered {:?} for {:?}, the acknowledged history has {:?}",
        short(got.as_deref()),
        String::from_utf8_lossy(key),
        short(must.as_deref())
    ))
}
