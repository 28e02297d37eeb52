//! The content of `/state`: who leads, who is in sync, and the only transitions between such states.
//!
//! A state is changed by compare-and-set alone; every transition below is a pure function from the state that was read to the
//! state to be written, so that the version named by the compare-and-set is the version the decision was made on (rules R2,
//! R5, R6, R8 of the protocol). Unknown fields of the JSON are kept when a state is rewritten, for rolling upgrades.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::version::NEWEST;
use crate::base::ids::{ChangeId, CopyId, DatasetId, Epoch, NodeId};

/// Version of the JSON layout that this build writes.
pub const FORMAT: u32 = 1;

/// A member of the in-sync set: a copy, and the node that holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// The copy it held when it was named.
    pub copy: CopyId,
}

/// Why a state was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// First state of a cluster.
    Bootstrap,
    /// A replica took over.
    Elect,
    /// Members that fell silent were taken out.
    Shrink,
    /// A learner that caught up was taken in.
    Expand,
    /// The leader handed over.
    Handover,
    /// Start over empty after total loss.
    Reset,
    /// An operator named a copy to go on with.
    Adopt,
    /// A setting that counts in `/state` was copied into it, or a copy was un-named.
    Settings,
    /// A reason of a later version.
    Other,
}

/// A word that is not known is no obstacle: the reason is for people.
impl<'de> Deserialize<'de> for Why {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Why, D::Error> {
        let known = [
            ("bootstrap", Why::Bootstrap),
            ("elect", Why::Elect),
            ("shrink", Why::Shrink),
            ("expand", Why::Expand),
            ("handover", Why::Handover),
            ("reset", Why::Reset),
            ("adopt", Why::Adopt),
            ("settings", Why::Settings),
        ];
        let word = String::deserialize(d)?;
        Ok(known.into_iter().find(|(w, _)| *w == word).map_or(Why::Other, |(_, why)| why))
    }
}

/// Who wrote a state, why, and the token by which a write of unknown outcome is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Random, new for every intended change.
    pub id: ChangeId,
    /// The writer.
    pub by: NodeId,
    /// Its reason.
    pub why: Why,
    /// The writer's Unix time in ms; for people only.
    pub at_ms: u64,
}

/// Fewest members, leader included, that may accept writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinInSync {
    /// Half the largest in-sync set that the cluster has had, rounded up.
    Auto,
    /// Exactly this many; at least 1.
    Count(u32),
}

impl Serialize for MinInSync {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            MinInSync::Auto => s.serialize_str("auto"),
            MinInSync::Count(n) => s.serialize_u32(*n),
        }
    }
}

impl<'de> Deserialize<'de> for MinInSync {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<MinInSync, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(d)? {
            Raw::Text(t) if t == "auto" => Ok(MinInSync::Auto),
            Raw::Number(n) if (1..=1_000).contains(&n) => Ok(MinInSync::Count(n as u32)),
            _ => Err(serde::de::Error::custom("want \"auto\" or a number in 1..=1000")),
        }
    }
}

/// The truth about a group, as `/state` holds it.
///
/// Invariants, checked by [`ClusterState::decode`]: the leader is in `in_sync`; no node appears twice in `in_sync`;
/// `peak_in_sync >= in_sync.len()`; `epoch >= 1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Layout version, [`FORMAT`].
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Version of which everybody may use everything: see [`super::version`].
    #[serde(default = "super::version::first")]
    pub cluster_version: u32,
    /// Identity of the data.
    pub dataset: DatasetId,
    /// Number of the present leadership. Grows by exactly 1 with each election.
    pub epoch: Epoch,
    /// The leader of `epoch`.
    pub leader: Member,
    /// Copies that hold every acknowledged write, in order of candidacy.
    pub in_sync: Vec<Member>,
    /// The write that made this state.
    pub change: Change,
    /// Epoch in which an operator last decided with which data to go on (adopt, reset); 0: never. Nodes that know no later epoch believe it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub decided: Epoch,
    /// The setting that counts.
    pub min_in_sync: MinInSync,
    /// Largest in-sync set that the cluster has had; only an operator lowers it.
    pub peak_in_sync: u32,
    /// Complete copies that were taken out while the set was too small to accept writes.
    #[serde(default)]
    pub fallback: Vec<Member>,
    /// Node id → its copy last named in `in_sync` under this dataset.
    #[serde(default)]
    pub holders: BTreeMap<NodeId, CopyId>,
    /// How often the cluster started over empty.
    #[serde(default)]
    pub resets: u64,
    /// Fields of a later version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl ClusterState {
    /// Reads the bytes of `/state`.
    ///
    /// # Errors
    /// Says which rule the content breaks; the caller cannot go on with such a state and must not overwrite it.
    pub fn decode(bytes: &[u8]) -> Result<ClusterState, String> {
        let state: ClusterState = serde_json::from_slice(bytes).map_err(|e| format!("/state is not readable: {e}"))?;
        let complaint = if state.format > FORMAT {
            format!("format {} is newer than this build's {FORMAT}", state.format)
        } else if state.epoch == Epoch(0) {
            "epoch 0".to_string()
        } else if !state.names(&state.leader) {
            format!("leader {} is not in in_sync", state.leader.id)
        } else if (1..state.in_sync.len()).any(|i| state.in_sync[..i].iter().any(|m| m.id == state.in_sync[i].id)) {
            "a node appears twice in in_sync".to_string()
        } else if (state.peak_in_sync as usize) < state.in_sync.len() {
            format!("peak_in_sync {} is below the set's size", state.peak_in_sync)
        } else {
            return Ok(state);
        };
        Err(format!("/state contradicts itself: {complaint}"))
    }

    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut json = serde_json::to_value(self).expect("a cluster state has only string keys");
        if cfg!(feature = "next-version") {
            json["novelty"] = Value::from(1);
            json["change"]["why"] = Value::from("novelty");
        }
        serde_json::to_vec(&json).expect("a cluster state has only string keys")
    }

    /// Whether exactly this copy is in the in-sync set.
    #[must_use]
    pub fn names(&self, member: &Member) -> bool {
        self.in_sync.contains(member)
    }

    /// The member of the in-sync set on that node, whichever its copy.
    #[must_use]
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        self.in_sync.iter().find(|m| m.id == *id)
    }

    /// Place in the order of candidacy; `None` for a copy outside the set.
    #[must_use]
    pub fn rank(&self, member: &Member) -> Option<usize> {
        self.in_sync.iter().position(|m| m == member)
    }

    /// Fewest members that may accept writes.
    #[must_use]
    pub fn min_required(&self) -> usize {
        match self.min_in_sync {
            MinInSync::Auto => self.peak_in_sync.div_ceil(2) as usize,
            MinInSync::Count(n) => n as usize,
        }
    }

    /// Whether the set is large enough to accept writes.
    #[must_use]
    pub fn may_commit(&self) -> bool {
        self.in_sync.len() >= self.min_required()
    }

    /// First state of a cluster: one member, which leads epoch 1.
    #[must_use]
    pub fn bootstrap(cluster: &str, dataset: DatasetId, me: Member, min: MinInSync, change: Change) -> ClusterState {
        ClusterState {
            format: FORMAT,
            cluster: cluster.to_string(),
            cluster_version: NEWEST,
            dataset,
            epoch: Epoch(1),
            leader: me.clone(),
            in_sync: vec![me.clone()],
            change,
            decided: Epoch(0),
            min_in_sync: min,
            peak_in_sync: 1,
            fallback: Vec::new(),
            holders: BTreeMap::from([(me.id, me.copy)]),
            resets: 0,
            unknown: Map::new(),
        }
    }

    /// R6: `me`, a member, takes over with epoch + 1; the old leader leaves the set unless it is `me`.
    ///
    /// # Panics
    /// If `me` is not in the set (R5): the caller has to look before it stands.
    #[must_use]
    pub fn elect(&self, me: &Member, change: Change) -> ClusterState {
        let checked = !cfg!(feature = "leave-out-rules");
        assert!(!checked || self.names(me), "only a copy in the in-sync set may elect itself");
        let rest = self.in_sync.iter().filter(|m| *m != me && **m != self.leader);
        let set = std::iter::once(me).chain(rest).cloned().collect();
        let mut next = self.with_set(set, change);
        next.epoch = Epoch(self.epoch.0 + 1);
        next.leader = me.clone();
        next
    }

    /// R6 in a handover: as [`ClusterState::elect`], but the old leader stays in the set, last in the order of candidacy. Only for
    /// a member that holds exactly what the old leader held when it resigned, all of it acknowledged.
    ///
    /// # Panics
    /// If `me` is not in the set (R5).
    #[must_use]
    pub fn hand_over(&self, me: &Member, change: Change) -> ClusterState {
        let mut next = self.elect(me, change);
        if *me != self.leader {
            next.in_sync.push(self.leader.clone());
            next.fallback.clone_from(&self.fallback);
        }
        next
    }

    /// Every copy in the set is gone for certain: `me`, a complete copy on the fallback list, takes over alone. What else is on the
    /// list stays there while the set is too small: nothing is acknowledged meanwhile.
    ///
    /// # Panics
    /// If `me` is not on the list: the caller has to look before it stands.
    #[must_use]
    pub fn elect_fallback(&self, me: &Member, change: Change) -> ClusterState {
        assert!(self.fallback.contains(me), "only a copy on the fallback list takes over when the set is gone");
        let mut next = self.elect_alone(me, change);
        if !next.may_commit() {
            next.fallback = self.fallback.iter().filter(|m| *m != me).cloned().collect();
        }
        next
    }

    /// An operator names the copy to go on with: it leads alone, with what it holds, in an epoch after `highest`, which is the highest that
    /// it has seen. The peak and the holders stay.
    #[must_use]
    pub fn adopt(&self, me: &Member, highest: Epoch, change: Change) -> ClusterState {
        let mut next = self.elect_alone(me, change);
        next.epoch = Epoch(self.epoch.max(highest).0 + 1);
        next.decided = next.epoch;
        next
    }

    fn elect_alone(&self, me: &Member, change: Change) -> ClusterState {
        let mut next = self.with_set(vec![me.clone()], change);
        next.epoch = Epoch(self.epoch.0 + 1);
        next.leader = me.clone();
        next.fallback.clear();
        next
    }

    /// The leader takes those copies out. Returns `None` if none of them is in, or one is the leader.
    #[must_use]
    pub fn shrink(&self, out: &[CopyId], change: Change) -> Option<ClusterState> {
        if out.contains(&self.leader.copy) {
            return None;
        }
        let set: Vec<Member> = self.in_sync.iter().filter(|m| !out.contains(&m.copy)).cloned().collect();
        (set.len() < self.in_sync.len()).then(|| self.with_set(set, change))
    }

    /// R8: the leader takes a learner in, in place of an older copy of the same node. `None` if it is in already, or if it
    /// would replace the leader.
    #[must_use]
    pub fn expand(&self, member: &Member, change: Change) -> Option<ClusterState> {
        if self.names(member) || member.id == self.leader.id {
            return None;
        }
        let mut set: Vec<Member> = self.in_sync.iter().filter(|m| m.id != member.id).cloned().collect();
        set.push(member.clone());
        Some(self.with_set(set, change))
    }

    /// The leader takes a copy off the fallback list, because it has to resync fully. `None` if it is not on it.
    #[must_use]
    pub fn unname_fallback(&self, copy: CopyId, change: Change) -> Option<ClusterState> {
        if !self.fallback.iter().any(|m| m.copy == copy) {
            return None;
        }
        let mut next = self.clone();
        next.fallback.retain(|m| m.copy != copy);
        next.change = change;
        Some(next)
    }

    /// The leader copies the operator's `min_in_sync` in. `None` if it is the same already.
    #[must_use]
    pub fn with_min_in_sync(&self, min: MinInSync, change: Change) -> Option<ClusterState> {
        if self.min_in_sync == min {
            return None;
        }
        let mut next = self.clone();
        next.min_in_sync = min;
        next.change = change;
        if next.may_commit() {
            next.fallback.clear();
        }
        Some(next)
    }

    /// An operator knows that a node never comes back with what it held: nobody waits for its copy any more.
    ///
    /// # Errors
    /// The node is in the in-sync set, or no copy of it counts; for the operator.
    pub fn forget(&self, node: &NodeId, change: Change) -> Result<ClusterState, String> {
        if self.member(node).is_some() {
            return Err(format!("ERR {node} is in the in-sync set: stop it first"));
        }
        if !self.counted_copies().any(|(id, _)| id == node) {
            return Err(format!("ERR no copy of {node} counts: there is nothing to forget"));
        }
        let mut next = self.clone();
        next.holders.remove(node);
        next.fallback.retain(|m| m.id != *node);
        next.change = change;
        Ok(next)
    }

    /// An operator makes the cluster smaller for good.
    ///
    /// # Errors
    /// The number is below the present size, or not below the peak; for the operator.
    pub fn lower_peak(&self, to: u32, change: Change) -> Result<ClusterState, String> {
        let (size, peak) = (self.in_sync.len() as u32, self.peak_in_sync);
        if to < size || to >= peak {
            return Err(format!("ERR {to}: want a peak of at least {size}, the present size, and below {peak}"));
        }
        let mut next = self.clone();
        next.peak_in_sync = to;
        next.change = change;
        if next.may_commit() {
            next.fallback.clear();
        }
        Ok(next)
    }

    /// An operator lets everybody use what the next version knows. `able`: each node that counts, and the newest version that it knows.
    ///
    /// # Errors
    /// There is nothing to raise, or a node cannot do it; for the operator.
    pub fn raise_version<'a>(
        &self,
        able: impl Iterator<Item = (&'a NodeId, u32)>,
        change: Change,
    ) -> Result<ClusterState, String> {
        let to = self.cluster_version + 1;
        if to > NEWEST {
            return Err(format!(
                "ERR the cluster uses version {}, the newest that its leader knows",
                self.cluster_version
            ));
        }
        let mut unable = able.filter(|(_, speaks)| *speaks < to).peekable();
        if unable.peek().is_some() {
            let nodes: Vec<String> = unable.map(|(id, speaks)| format!("{id} ({speaks})")).collect();
            return Err(format!(
                "ERR cluster version {to} is not known to {}: install a later version of the program there first",
                nodes.join(", ")
            ));
        }
        let mut next = self.clone();
        next.cluster_version = to;
        next.change = change;
        Ok(next)
    }

    /// Total loss: `me`, which holds nothing, starts over with a new dataset. The peak stays, so that the cluster is not
    /// content with fewer members than it had.
    #[must_use]
    pub fn reset(&self, me: &Member, dataset: DatasetId, change: Change) -> ClusterState {
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0 + 1);
        next.dataset = dataset;
        next.leader = me.clone();
        next.in_sync = vec![me.clone()];
        next.fallback = Vec::new();
        next.holders = BTreeMap::from([(me.id.clone(), me.copy)]);
        next.resets += 1;
        next.change = change;
        next
    }

    /// Every copy that may still hold acknowledged data, as far as this state knows.
    pub fn counted_copies(&self) -> impl Iterator<Item = (&NodeId, CopyId)> {
        let named = self.in_sync.iter().chain(&self.fallback).map(|m| (&m.id, m.copy));
        named.chain(self.holders.iter().map(|(id, copy)| (id, *copy)))
    }

    /// Same epoch and leader, another set: keeps the peak, the holders and the fallback list true.
    fn with_set(&self, set: Vec<Member>, change: Change) -> ClusterState {
        let mut next = self.clone();
        let removed: Vec<Member> =
            self.in_sync.iter().filter(|old| !set.iter().any(|m| m.id == old.id)).cloned().collect();
        next.peak_in_sync = self.peak_in_sync.max(set.len() as u32);
        for m in &set {
            next.holders.insert(m.id.clone(), m.copy);
        }
        next.in_sync = set;
        next.change = change;
        if next.may_commit() {
            next.fallback.clear();
        } else {
            for member in removed {
                next.fallback.retain(|m| m.id != member.id);
                next.fallback.push(member);
            }
            let in_sync = &next.in_sync;
            next.fallback.retain(|f| !in_sync.iter().any(|m| m.copy == f.copy));
        }
        next
    }
}

fn is_zero(epoch: &Epoch) -> bool {
    epoch.0 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, copy: u128) -> Member {
        Member { id: name.parse().unwrap(), copy: CopyId(copy) }
    }

    fn change(id: u128, why: Why) -> Change {
        Change { id: ChangeId(id), by: "n1".parse().unwrap(), why, at_ms: 0 }
    }

    fn three() -> ClusterState {
        let one =
            ClusterState::bootstrap("c", DatasetId(9), member("n1", 1), MinInSync::Auto, change(1, Why::Bootstrap));
        let two = one.expand(&member("n2", 2), change(2, Why::Expand)).unwrap();
        two.expand(&member("n3", 3), change(3, Why::Expand)).unwrap()
    }

    #[test]
    fn auto_minimum_is_half_the_peak_rounded_up_and_never_sinks() {
        let state = three();
        assert_eq!((state.peak_in_sync, state.min_required()), (3, 2));
        let alone = state.shrink(&[CopyId(2), CopyId(3)], change(4, Why::Shrink)).unwrap();
        assert_eq!((alone.peak_in_sync, alone.min_required(), alone.may_commit()), (3, 2, false));
    }

    #[test]
    fn election_drops_the_old_leader_and_keeps_it_as_fallback_only_below_the_minimum() {
        let state = three();
        let next = state.elect(&member("n2", 2), change(4, Why::Elect));
        assert_eq!(next.in_sync, [member("n2", 2), member("n3", 3)]);
        assert_eq!((next.epoch, next.fallback.len()), (Epoch(2), 0));
        let last = next.elect(&member("n3", 3), change(5, Why::Elect));
        assert_eq!(last.fallback, [member("n2", 2)]);
        let back = last.expand(&member("n1", 10), change(6, Why::Expand)).unwrap();
        assert!(back.fallback.is_empty());
        assert_eq!(back.holders[&"n1".parse().unwrap()], CopyId(10));
    }

    #[test]
    fn expand_replaces_an_older_copy_of_the_same_node_in_one_change() {
        let next = three().expand(&member("n3", 30), change(4, Why::Expand)).unwrap();
        assert_eq!(next.in_sync, [member("n1", 1), member("n2", 2), member("n3", 30)]);
        assert_eq!(next.peak_in_sync, 3);
    }

    #[test]
    fn an_old_leader_that_is_still_named_may_elect_itself() {
        let next = three().elect(&member("n1", 1), change(4, Why::Elect));
        assert_eq!(next.in_sync.len(), 3);
        assert_eq!(next.leader, member("n1", 1));
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let mut json: Value = serde_json::from_slice(&three().encode()).unwrap();
        json["future"] = Value::from(7);
        let read = ClusterState::decode(&serde_json::to_vec(&json).unwrap()).unwrap();
        let next = read.elect(&member("n2", 2), change(4, Why::Elect));
        let again: Value = serde_json::from_slice(&next.encode()).unwrap();
        assert_eq!(again["future"], 7);
    }

    #[test]
    fn a_reason_of_a_later_version_is_read_and_a_state_without_a_version_is_of_the_first() {
        let mut json: Value = serde_json::from_slice(&three().encode()).unwrap();
        json["change"]["why"] = Value::from("rebalance");
        json.as_object_mut().unwrap().remove("cluster_version");
        let read = ClusterState::decode(&serde_json::to_vec(&json).unwrap()).unwrap();
        assert_eq!((read.change.why, read.cluster_version), (Why::Other, 1));
        let next = read.elect(&member("n2", 2), change(4, Why::Elect));
        assert_eq!(next.epoch, Epoch(2));
    }

    #[test]
    fn the_version_is_raised_by_one_and_only_if_everybody_knows_it() {
        let mut state = three();
        let (n1, n2) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let raise = |state: &ClusterState, able: u32| {
            state.raise_version([(&n1, able), (&n2, able + 1)].into_iter(), change(9, Why::Settings))
        };
        assert!(raise(&state, NEWEST).unwrap_err().contains("the newest that its leader knows"));
        state.cluster_version = NEWEST - 1;
        assert!(raise(&state, NEWEST - 1).unwrap_err().contains("is not known to n1 ("));
        assert_eq!(raise(&state, NEWEST).unwrap().cluster_version, NEWEST);
    }

    #[test]
    fn decode_refuses_a_state_that_contradicts_itself() {
        let mut json: Value = serde_json::from_slice(&three().encode()).unwrap();
        json["leader"]["copy"] = Value::from(CopyId(77).to_string());
        let error = ClusterState::decode(&serde_json::to_vec(&json).unwrap()).unwrap_err();
        assert!(error.contains("leader n1"), "{error}");
    }
}
