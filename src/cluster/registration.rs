//! The content of `/nodes/<id>`: where a node is reached, which copy it holds, and which copies of that name are gone for certain.

use serde::{Deserialize, Serialize};

use crate::base::ids::{CopyId, DatasetId, NodeId, RunId};

/// Copies remembered as gone, the latest ones: an older one counts as one that may be alive.
pub const GONE_MAX: usize = 64;

/// Where a process runs, as its operating system says: enough to tell whether another process of its name can still be alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Random number of the machine's present start.
    pub boot_id: String,
    /// Number of the network namespace: bound addresses are unique within one.
    pub network: u64,
    /// Identity of the machine over its starts; none in a container, whose image may bring one that others have, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// What is bound for clients; not what is advertised, which others may advertise as well.
    pub client_bound: String,
    /// What is bound for replication links.
    pub repl_bound: String,
}

impl Host {
    /// Whether a process on that host is gone for certain, because one on this host holds the very addresses that it had bound.
    #[must_use]
    pub fn took_addresses_of(&self, former: &Host) -> bool {
        (&self.boot_id, self.network, &self.client_bound, &self.repl_bound)
            == (&former.boot_id, former.network, &former.client_bound, &former.repl_bound)
    }

    /// Whether a process on that host is gone for certain, because its machine was started again since.
    #[must_use]
    pub fn started_again_since(&self, former: &Host) -> bool {
        self.machine_id.is_some() && self.machine_id == former.machine_id && self.boot_id != former.boot_id
    }
}

/// One node's entry in the directory; moves only forward, by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub id: NodeId,
    /// The copy it holds. Confirmed here before the first hello that carries it.
    pub copy: CopyId,
    /// `host:port` for clients and redirects, exactly as configured.
    pub client_addr: String,
    /// `host:port` for replication links.
    pub repl_addr: String,
    /// `host:port` at which it is a Sentinel and nothing else; none if there is no such port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_addr: Option<String>,
    /// Order among nodes when nothing else decides; the lower first.
    #[serde(default)]
    pub rank: u32,
    /// Dataset that the copy belongs to; none before the first.
    pub dataset: Option<DatasetId>,
    /// Whether the copy holds no data. Turns false before the first byte of data is taken in.
    pub empty: bool,
    /// Version of the program.
    pub version: String,
    /// The newest cluster version that it knows.
    #[serde(default = "super::version::first")]
    pub speaks: u32,
    /// Start of the process, Unix ms; for people only.
    pub started_ms: u64,
    /// The process that wrote this; none from a version that had no such number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Where it runs; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// The process has ended in good order: its copy is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Earlier copies under this name that are gone for certain: given up by their own process, or held by one that recorded its end, or
    /// whose successor had proof ([`Host`]). The latest [`GONE_MAX`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<CopyId>,
}

impl Registration {
    /// What this process writes in place of `former`: the same, and what is known of the copies before its own.
    #[must_use]
    pub fn in_place_of(&self, former: Option<&Registration>) -> Registration {
        let mut next = self.clone();
        let Some(former) = former else { return next };
        next.gone.clone_from(&former.gone);
        let proven = |(new, old): (&Host, &Host)| new.took_addresses_of(old) || new.started_again_since(old);
        let is_gone = former.run.is_some() && former.run == self.run
            || former.ended
            || self.host.as_ref().zip(former.host.as_ref()).is_some_and(proven);
        if former.copy != self.copy && is_gone && !next.gone.contains(&former.copy) {
            next.gone.push(former.copy);
            next.gone.drain(..next.gone.len().saturating_sub(GONE_MAX));
        }
        next
    }
}

/// A directory entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRead {
    /// What the node wrote.
    pub registration: Registration,
    /// Version of the entry, for checks in a later transaction.
    pub version: i32,
    /// The copy that the node's live entry names; none if the node is not live.
    pub live: Option<CopyId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(boot: &str, port: u16, machine: Option<&str>) -> Host {
        Host {
            boot_id: boot.to_string(),
            network: 1,
            machine_id: machine.map(str::to_string),
            client_bound: format!("10.0.0.1:{port}"),
            repl_bound: format!("10.0.0.1:1{port}"),
        }
    }

    fn registration(copy: u128, run: u128, host: Option<Host>) -> Registration {
        Registration {
            id: "n1".parse().unwrap(),
            copy: CopyId(copy),
            client_addr: "h:1".to_string(),
            repl_addr: "h:2".to_string(),
            sentinel_addr: None,
            rank: 0,
            dataset: None,
            empty: true,
            version: "0".to_string(),
            speaks: 1,
            started_ms: 0,
            run: Some(RunId(run)),
            host,
            ended: false,
            gone: Vec::new(),
        }
    }

    #[test]
    fn a_successor_proves_a_death_by_the_bound_addresses_or_by_the_machines_new_start_alone() {
        let old = registration(1, 1, Some(host("b1", 1, Some("m"))));
        let gone = |new: Host| registration(2, 2, Some(new)).in_place_of(Some(&old)).gone;
        assert_eq!(gone(host("b1", 1, None)), [CopyId(1)], "the same addresses on the same machine");
        assert_eq!(gone(host("b2", 7, Some("m"))), [CopyId(1)], "the machine was started again");
        assert_eq!(gone(host("b2", 1, None)), [], "a container elsewhere with the same addresses");
        assert_eq!(gone(host("b1", 7, Some("m"))), [], "another process on the same machine");
        assert_eq!(gone(Host { network: 2, ..host("b1", 1, None) }), [], "another network on the same machine");
        assert_eq!(registration(2, 2, None).in_place_of(Some(&old)).gone, []);
    }

    #[test]
    fn a_recorded_end_and_a_copy_given_up_by_its_own_process_are_proofs_and_stay_known() {
        let ended = Registration { ended: true, ..registration(1, 1, None) };
        let second = registration(2, 2, None).in_place_of(Some(&ended));
        let given_up = registration(3, 2, None).in_place_of(Some(&second));
        assert_eq!(given_up.gone, [CopyId(1), CopyId(2)]);
        let unproven = registration(4, 4, None).in_place_of(Some(&given_up));
        assert_eq!(unproven.gone, [CopyId(1), CopyId(2)], "what became of 3 is not known");
        assert_eq!(unproven.in_place_of(Some(&unproven)), unproven);
    }

    #[test]
    fn the_oldest_of_very_many_copies_is_forgotten_and_so_counts_as_one_that_may_live() {
        let mut entry = registration(0, 1, None);
        for copy in 1..=100 {
            entry = registration(copy, 1, None).in_place_of(Some(&entry));
        }
        assert_eq!((entry.gone.len(), entry.gone.contains(&CopyId(0))), (GONE_MAX, false));
    }

    #[test]
    fn an_entry_of_a_version_without_these_fields_is_read() {
        let text = format!(
            r#"{{"id":"n1","copy":"{}","client_addr":"h:1","repl_addr":"h:2","dataset":null,"empty":true,"version":"0","started_ms":5}}"#,
            CopyId(1)
        );
        let read: Registration = serde_json::from_str(&text).unwrap();
        assert_eq!((read.run, read.host, read.ended, read.gone.len()), (None, None, false, 0));
    }
}
