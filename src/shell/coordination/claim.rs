//! Who may hold a node's name: the rules of `/nodes/<id>` and `/nodes/<id>/live` (PROTOCOL section 2), as one pure function.
//!
//! A *process* is known by its start time and its two addresses; its copy changes, these do not. A process *held* the name once
//! its registration was confirmed.
//!
//! ```text
//!                     entry of another process            live entry
//!   held              any                                 any                         Taken: somebody came after us, we go
//!   never held        none, or of an earlier process      none, or of a dead session  Write: the name is free
//!   never held        any                                 names our very addresses    Write: we bound them, so its process is gone
//!   never held        any                                 names other addresses       Wait: somebody may be alive there
//! ```
//! Start times only tell processes apart; their order decides nothing, so that a clock that was set back cannot lock a node out
//! of its own name. Two machines that advertise one loopback address look like one machine here: the newcomer takes the name, and
//! the older process finds it taken and goes.

use serde::{Deserialize, Serialize};

use crate::base::ids::CopyId;
use crate::cluster::registration::Registration;

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
        }
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
    /// Another process took the name after this one had it: this one has to go.
    Taken {
        /// Who, for the message.
        holder: String,
    },
}

/// Whether two registrations were written by one process.
#[must_use]
pub fn same_process(a: &Registration, b: &Registration) -> bool {
    (a.started_ms, &a.client_addr, &a.repl_addr) == (b.started_ms, &b.client_addr, &b.repl_addr)
}

/// Judges a claim. `held`: this process was registered before. `live`: the live entry, and whether the session that asks owns it.
#[must_use]
pub fn judge(me: &Registration, held: bool, entry: Option<&Registration>, live: Option<(&Live, bool)>) -> Claim {
    if let Some(other) = entry.filter(|e| held && !same_process(e, me)) {
        return Claim::Taken { holder: describe(&Live::of(other)) };
    }
    match live {
        Some((l, _)) if (&l.client_addr, &l.repl_addr) != (&me.client_addr, &me.repl_addr) => {
            Claim::Wait { holder: describe(l) }
        }
        Some((l, true)) if entry == Some(me) && *l == Live::of(me) => Claim::Settled,
        _ => Claim::Write,
    }
}

fn describe(holder: &Live) -> String {
    let Live { copy, client_addr, repl_addr, started_ms } = holder;
    format!("clients {client_addr}, replication {repl_addr}, started at {started_ms} ms, copy {copy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(port: u16, copy: u128, started_ms: u64) -> Registration {
        Registration {
            id: "n1".parse().unwrap(),
            copy: CopyId(copy),
            client_addr: format!("h:{port}"),
            repl_addr: format!("h:1{port}"),
            sentinel_addr: None,
            rank: 0,
            dataset: None,
            empty: true,
            version: "0".to_string(),
            started_ms,
        }
    }

    #[test]
    fn first_start_writes_and_then_is_settled_only_in_the_session_that_owns_the_live_entry() {
        let me = registration(1, 1, 5);
        assert_eq!(judge(&me, false, None, None), Claim::Write);
        assert_eq!(judge(&me, true, Some(&me), Some((&Live::of(&me), true))), Claim::Settled);
        assert_eq!(judge(&me, true, Some(&me), Some((&Live::of(&me), false))), Claim::Write);
    }

    #[test]
    fn a_new_copy_or_flag_of_the_same_process_is_written() {
        let me = registration(1, 1, 5);
        for next in [Registration { copy: CopyId(2), ..me.clone() }, Registration { empty: false, ..me.clone() }] {
            assert_eq!(judge(&next, true, Some(&me), Some((&Live::of(&me), true))), Claim::Write);
        }
    }

    #[test]
    fn restart_on_the_same_addresses_replaces_its_predecessor_even_if_the_clock_was_set_back() {
        let (old, new) = (registration(1, 1, 9_000), registration(1, 2, 5));
        assert_eq!(judge(&new, false, Some(&old), Some((&Live::of(&old), false))), Claim::Write);
        assert_eq!(judge(&new, false, Some(&old), None), Claim::Write);
    }

    #[test]
    fn newcomer_on_other_addresses_waits_for_the_living_one_and_names_it() {
        let (old, new) = (registration(1, 1, 5), registration(2, 2, 6));
        match judge(&new, false, Some(&old), Some((&Live::of(&old), false))) {
            Claim::Wait { holder } => assert!(holder.contains("h:1,"), "{holder}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(judge(&new, false, Some(&old), None), Claim::Write);
    }

    #[test]
    fn a_process_that_had_the_name_and_finds_another_there_has_to_go_whoever_started_first() {
        for started_ms in [1, 9_000] {
            let (me, other) = (registration(1, 1, 5), registration(1, 2, started_ms));
            assert!(matches!(judge(&me, true, Some(&other), None), Claim::Taken { .. }));
            assert!(matches!(judge(&me, true, Some(&other), Some((&Live::of(&other), false))), Claim::Taken { .. }));
        }
    }
}
