//! Who may hold a node's name: the rules of `/nodes/<id>` and `/nodes/<id>/live` (PROTOCOL section 2), as one pure function.
//!
//! A process is known by its number ([`RunId`]); its copy changes, this does not. A process *held* the name once its registration
//! was confirmed; it remembers when (the zxid of its entry).
//!
//! ```text
//!   entry                                             live entry
//!   of another process, written after we held it      any                                  Taken: somebody came after us
//!   any other, and an older one of another process    none, or our own                     Write: the name is free, or ours
//!     (somebody has set the directory back)           never held, and it had bound the     Write: its process is gone
//!                                                     addresses that we have bound
//!                                                     anything else                        Wait: somebody may be alive there
//! ```
//! Start times say nothing, so that a clock that was set back cannot lock a node out of its own name; nor do advertised addresses: two
//! machines may advertise one.

use serde::{Deserialize, Serialize};

use crate::base::ids::{CopyId, RunId};
use crate::cluster::registration::{Host, Registration};

/// Content of `/nodes/<id>/live`: names the copy, and enough of the process to tell whether it can be alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The copy that the node holds.
    pub copy: CopyId,
    /// As in [`Registration`].
    pub client_addr: String,
    /// As in [`Registration`].
    pub repl_addr: String,
    /// As in [`Registration`].
    pub started_ms: u64,
    /// As in [`Registration`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// As in [`Registration`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
}

impl Live {
    /// The live entry that belongs to a registration.
    #[must_use]
    pub fn of(registration: &Registration) -> Live {
        Live {
            copy: registration.copy,
            client_addr: registration.client_addr.clone(),
            repl_addr: registration.repl_addr.clone(),
            started_ms: registration.started_ms,
            run: registration.run,
            host: registration.host.clone(),
        }
    }

    /// Whether a process that asks for the name holds the addresses of the one that wrote this, which is gone then.
    fn is_succeeded_by(&self, me: &Registration) -> bool {
        me.host.as_ref().zip(self.host.as_ref()).is_some_and(|(new, old)| new.took_addresses_of(old))
    }
}

/// What a process may do about its registration, given what stands in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Entry and live entry are as wanted already.
    Settled,
    /// Write both, in one transaction on the versions that were read.
    Write,
    /// Another process may be alive under this name; look again when its live entry is gone.
    Wait {
        /// Who, for the message.
        holder: String,
    },
    /// Another process took the name after this one had it.
    Taken {
        /// Who, for the message.
        holder: String,
    },
}

/// Whether two registrations were written by one process.
#[must_use]
pub fn same_process(a: &Registration, b: &Registration) -> bool {
    a.run.is_some() && a.run == b.run
}

/// Judges a claim. `held`: the zxid of this process's entry when it was confirmed last, if it ever was; that of a later entry which it was
/// told of. `entry`: what stands there, and its zxid. `live`: the live entry, and whether the session that asks owns it.
#[must_use]
pub fn judge(
    me: &Registration,
    held: Option<i64>,
    entry: Option<(&Registration, i64)>,
    live: Option<(&Live, bool)>,
) -> Claim {
    if let (Some(held), Some((other, at))) = (held, entry)
        && at > held
        && !same_process(other, me)
    {
        return Claim::Taken { holder: describe(&Live::of(other)) };
    }
    let entry = entry.map(|(entry, _)| entry);
    match live {
        Some((l, _)) if l.run != me.run && (held.is_some() || !l.is_succeeded_by(me)) => {
            Claim::Wait { holder: describe(l) }
        }
        Some((l, true)) if entry.is_some_and(|e| *e == me.in_place_of(Some(e))) && *l == Live::of(me) => Claim::Settled,
        _ => Claim::Write,
    }
}

fn describe(holder: &Live) -> String {
    let Live { copy, client_addr, repl_addr, started_ms, .. } = holder;
    format!("clients {client_addr}, replication {repl_addr}, started at {started_ms} ms, copy {copy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(port: u16) -> Host {
        Host {
            boot_id: "b".to_string(),
            network: 1,
            machine_id: None,
            client_bound: format!("h:{port}"),
            repl_bound: format!("h:1{port}"),
        }
    }

    fn registration(port: u16, copy: u128, run: u128) -> Registration {
        Registration {
            id: "n1".parse().unwrap(),
            copy: CopyId(copy),
            client_addr: "advertised:1".to_string(),
            repl_addr: "advertised:2".to_string(),
            sentinel_addr: None,
            rank: 0,
            dataset: None,
            empty: true,
            version: "0".to_string(),
            speaks: 1,
            started_ms: 0,
            run: Some(RunId(run)),
            host: Some(host(port)),
            ended: false,
            gone: Vec::new(),
        }
    }

    #[test]
    fn first_start_writes_and_then_is_settled_only_in_the_session_that_owns_the_live_entry() {
        let me = registration(1, 1, 5);
        assert_eq!(judge(&me, None, None, None), Claim::Write);
        assert_eq!(judge(&me, Some(1), Some((&me, 1)), Some((&Live::of(&me), true))), Claim::Settled);
        assert_eq!(judge(&me, Some(1), Some((&me, 1)), Some((&Live::of(&me), false))), Claim::Write);
    }

    #[test]
    fn a_new_copy_or_flag_of_the_same_process_is_written() {
        let me = registration(1, 1, 5);
        for next in [Registration { copy: CopyId(2), ..me.clone() }, Registration { empty: false, ..me.clone() }] {
            assert_eq!(judge(&next, Some(1), Some((&me, 1)), Some((&Live::of(&me), true))), Claim::Write);
        }
    }

    #[test]
    fn a_restart_on_the_addresses_that_its_predecessor_had_bound_replaces_it_at_once() {
        let (old, new) = (registration(1, 1, 5), registration(1, 2, 6));
        assert_eq!(judge(&new, None, Some((&old, 1)), Some((&Live::of(&old), false))), Claim::Write);
        assert_eq!(judge(&new, None, Some((&old, 1)), None), Claim::Write);
    }

    #[test]
    fn who_only_advertises_the_addresses_of_the_living_waits_and_names_it() {
        let old = registration(1, 1, 5);
        let elsewhere = Host { network: 2, ..host(1) };
        let other_machine = Host { boot_id: "c".to_string(), ..host(1) };
        for mine in [Some(host(2)), Some(elsewhere), Some(other_machine), None] {
            let new = Registration { host: mine, ..registration(2, 2, 6) };
            match judge(&new, None, Some((&old, 1)), Some((&Live::of(&old), false))) {
                Claim::Wait { holder } => assert!(holder.contains("advertised:1,"), "{holder}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(judge(&new, None, Some((&old, 1)), None), Claim::Write, "its session is over");
        }
    }

    #[test]
    fn an_entry_of_a_version_that_named_no_host_is_waited_for() {
        let (old, new) = (Registration { run: None, host: None, ..registration(1, 1, 5) }, registration(1, 2, 6));
        assert!(matches!(judge(&new, None, Some((&old, 1)), Some((&Live::of(&old), false))), Claim::Wait { .. }));
    }

    #[test]
    fn a_process_that_had_the_name_finds_it_taken_by_a_later_entry_only() {
        let (me, other) = (registration(1, 1, 5), registration(2, 2, 6));
        assert!(matches!(judge(&me, Some(7), Some((&other, 8)), None), Claim::Taken { .. }));
        assert!(matches!(
            judge(&me, Some(7), Some((&other, 8)), Some((&Live::of(&other), false))),
            Claim::Taken { .. }
        ));
        // The directory was set back: what stands there is of a predecessor.
        assert_eq!(judge(&me, Some(7), Some((&other, 3)), None), Claim::Write);
        assert!(matches!(judge(&me, Some(7), Some((&other, 3)), Some((&Live::of(&other), false))), Claim::Wait { .. }));
    }
}
