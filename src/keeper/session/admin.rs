//! The operator's commands: RESET, ADOPT, FORGET, LOWER-PEAK, RAISE-VERSION and SET-CONFIG below DATAKEEPER.
//!
//! Each ends in one compare-and-set and is answered when that is resolved: the connection waits meanwhile, and the command is
//! executed again. Each repeats the cluster's name (`CONFIRM name`), so that no command goes to the wrong cluster by mistake. A
//! command that another node has to execute is refused with that node's address. RESET and ADOPT are elections of this very copy
//! and trust the operator that no other copy serves: nothing here can prove it.

use std::borrow::Cow;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ChangeId, DatasetId, NodeId};
use crate::base::limits::HOLD_MS;
use crate::cluster::config::{ClusterConfig, TotalLoss};
use crate::cluster::coordinator::CoordRequest;
use crate::cluster::registration::NodeRead;
use crate::cluster::role::Role;
use crate::cluster::state::{ClusterState, Member, Why};
use crate::command::{CommandError, SessionCommand};
use crate::keeper::coordination::{InPlace, Pending};
use crate::keeper::{Effect, Keeper, Notice};
use crate::resp::{Args, Reply};

use super::{Answer, Flow, Session};

/// How long an operator's command waits for the coordination service, ms.
const PATIENCE_MS: u64 = 5 * HOLD_MS;
const IN_THE_WAY: &str = "TRYAGAIN another change is under way at this node";
const OVERTAKEN: &str = "TRYAGAIN somebody else made a change first: look at the status, then repeat the command";
const UNRESOLVED: &str = "UNKNOWN the coordination service has not answered: the change may still happen";

type Refused = Cow<'static, str>;

impl Keeper {
    /// Executes one of them, or goes on waiting for it.
    pub(super) fn operate(
        &mut self,
        now: Now,
        session: &mut Session,
        command: SessionCommand,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Answer {
        let Some(id) = session.change else {
            let id = self.begin(now, command, args)?;
            session.change = Some(id);
            let until = now.boot.plus_ms(PATIENCE_MS);
            session.wait_until = Some(until);
            return Ok(Flow::Block { until });
        };
        let until = session.wait_until.unwrap_or(Boot(0));
        let won = match self.resolved.filter(|(resolved, _)| *resolved == id) {
            Some((_, won)) => won,
            None if now.boot < until => return Ok(Flow::Block { until }),
            None => {
                session.change = None;
                return Err(UNRESOLVED.into());
            }
        };
        session.change = None;
        if !won {
            return Err(OVERTAKEN.into());
        }
        reply.simple("OK");
        Ok(Flow::Done)
    }

    fn begin(&mut self, now: Now, command: SessionCommand, args: &Args<'_>) -> Result<ChangeId, Refused> {
        let n = args.len();
        let confirmed = args.get(n - 2).eq_ignore_ascii_case(b"CONFIRM");
        if !confirmed || args.get(n - 1) != self.config.cluster.as_bytes() {
            return Err(format!("ERR confirm with the cluster's name: CONFIRM {}", self.config.cluster).into());
        }
        if !self.coordinator_up {
            return Err("TRYAGAIN this node has no contact to the coordination service".into());
        }
        if self.pending.is_some() {
            return Err(IN_THE_WAY.into());
        }
        match command {
            SessionCommand::AdminReset => self.begin_reset(now),
            SessionCommand::AdminAdopt => self.begin_adopt(now, args),
            SessionCommand::AdminForget => {
                let node = node_name(args.get(2))?;
                self.change_as_leader(now, |state, change| state.forget(&node, change))
            }
            SessionCommand::AdminLowerPeak => {
                let to = std::str::from_utf8(args.get(2)).ok().and_then(|text| text.parse().ok());
                let to = to.ok_or_else(|| CommandError::NotInteger.to_string())?;
                self.change_as_leader(now, |state, change| state.lower_peak(to, change))
            }
            SessionCommand::AdminRaiseVersion => {
                let counts = |n: &&NodeRead| {
                    let named = |m: &Member| m.id == n.registration.id && m.copy == n.registration.copy;
                    n.live.is_some() || self.known.as_ref().is_some_and(|k| k.state.in_sync.iter().any(named))
                };
                let able: Vec<(NodeId, u32)> = self
                    .nodes
                    .iter()
                    .filter(counts)
                    .map(|n| (n.registration.id.clone(), n.registration.speaks))
                    .collect();
                self.change_as_leader(now, |state, change| {
                    state.raise_version(able.iter().map(|(id, speaks)| (id, *speaks)), change)
                })
            }
            _ => self.begin_set_config(args),
        }
    }

    /// No leader is in sight: only then an operator may name one.
    fn without_leader(&self, now: Now) -> Result<&ClusterState, Refused> {
        if self.leading.is_some() {
            return Err("ERR this node leads: there is nothing to repair".into());
        }
        let Some(known) = &self.known else {
            return Err("ERR no /state is known here: a new cluster is founded by itself, see `bootstrap`".into());
        };
        if self.leader_is_confirmed(now) || now.boot < self.pulse.lock().promised() {
            return Err(format!("ERR {} leads: there is nothing to repair", known.state.leader.id).into());
        }
        Ok(&known.state)
    }

    /// Total loss as the operator declares it: this empty copy starts over.
    fn begin_reset(&mut self, now: Now) -> Result<ChangeId, Refused> {
        let state = self.without_leader(now)?.clone();
        if self.dataset.is_some() {
            let text = format!(
                "ERR this node holds data up to {}: adopt goes on with it; a node that was restarted empty can reset",
                self.log.last()
            );
            return Err(text.into());
        }
        if self.role != Role::Joining || !self.is_registered() || self.halted.is_some() {
            return Err(IN_THE_WAY.into());
        }
        let lives = |m: &&Member| self.nodes.iter().any(|n| n.registration.id == m.id && n.live == Some(m.copy));
        let live: Vec<&str> = state.in_sync.iter().filter(lives).map(|m| m.id.as_str()).collect();
        if !live.is_empty() {
            let text = format!(
                "ERR the directory shows {} live with a copy that is in sync, whose data would be given up: stop it first",
                live.join(", ")
            );
            return Err(text.into());
        }
        self.tell_operators(format!(
            "reset by an operator: dataset {} IS GIVEN UP, starting over empty",
            state.dataset
        ));
        let change = self.change(now, Why::Reset);
        let mut want = state.reset(&self.me, DatasetId(self.rng.next_u128()), change);
        want.decided = want.epoch;
        Ok(self.take_over(now, want))
    }

    /// Goes on with what this copy holds. `/state` is made anew if it was deleted, and overwritten if a newcomer made it anew.
    fn begin_adopt(&mut self, now: Now, args: &Args<'_>) -> Result<ChangeId, Refused> {
        let node = node_name(args.get(2))?;
        if node != self.me.id {
            let at = self.nodes.iter().find(|n| n.registration.id == node).map(|n| &n.registration.client_addr);
            let Some(at) = at else { return Err(format!("ERR no node {node} is registered").into()) };
            return Err(format!("ERR this is {}: run it at {node}, --connect {at}", self.me.id).into());
        }
        let state = self.without_leader(now)?.clone();
        if self.dataset != Some(state.dataset) || self.is_half_received() {
            return Err("ERR this node holds no whole copy of the cluster's data".into());
        }
        if let Some(holder) = self.name_holder.as_ref().filter(|_| !self.is_registered()) {
            return Err(format!("ERR another process is registered as {node}: stop it first ({holder})").into());
        }
        if self.wipe_due.is_some() || !self.is_registered() {
            return Err(IN_THE_WAY.into());
        }
        let found = self.in_place.clone().filter(|_| self.halted.is_some());
        if self.halted.as_ref().is_some_and(|h| !h.adoptable) {
            return Err("ERR this node is halted for a reason that adopt does not mend: see its log".into());
        }
        if let Some(InPlace::Other { state: other, .. }) = &found {
            // Whoever made it may serve, and may have been written to.
            let live = |m: &&Member| self.nodes.iter().any(|n| n.registration.id == m.id && n.live == Some(m.copy));
            if let Some(m) = other.in_sync.iter().find(live) {
                let text = format!(
                    "ERR /state now belongs to {} (epoch {}), which is live: stop it first; what was written there is given up",
                    m.id, other.epoch
                );
                return Err(text.into());
            }
        }
        self.tell_operators(format!(
            "adopted by an operator: going on with what {} holds, up to {}; LATER WRITES ARE GIVEN UP",
            self.me.id,
            self.log.last()
        ));
        let change = self.change(now, Why::Adopt);
        let seen = match &found {
            Some(InPlace::Other { state: other, .. }) => self.highest.max(other.epoch),
            Some(InPlace::Nothing) | None => self.highest,
        };
        let want = state.adopt(&self.me, seen, change);
        let id = want.change.id;
        match found {
            None => return Ok(self.take_over(now, want)),
            // A halted node is frozen already, and stays halted unless this is won.
            Some(InPlace::Nothing) => {
                self.pending = Some(Pending { want: want.clone(), leads: true, since: now.boot });
                let config = self.shared.clone();
                self.deferred.push(Effect::coord(CoordRequest::Bootstrap { want, config }));
            }
            Some(InPlace::Other { version, .. }) => {
                let mut fx = std::mem::take(&mut self.deferred);
                self.cas_at(now, version, want, true, Vec::new(), &mut fx);
                self.deferred = fx;
            }
        }
        Ok(id)
    }

    /// Freezes (R4) and asks for a leadership that the operator vouches for.
    fn take_over(&mut self, now: Now, want: ClusterState) -> ChangeId {
        let id = want.change.id;
        let mut fx = std::mem::take(&mut self.deferred);
        self.freeze(&mut fx);
        self.cas(now, want, true, &mut fx);
        self.deferred = fx;
        id
    }

    fn change_as_leader(
        &mut self,
        now: Now,
        to: impl FnOnce(&ClusterState, crate::cluster::state::Change) -> Result<ClusterState, String>,
    ) -> Result<ChangeId, Refused> {
        if self.role != Role::Leader {
            let leader = self.known_leader().filter(|_| self.leader_is_confirmed(now));
            return Err(match (leader, self.leader_client_addr()) {
                (Some(leader), Some(at)) => format!("ERR {} leads: run it there, --connect {at}", leader.id),
                _ => "ERR no leader is confirmed: it has to be there for this command".to_string(),
            }
            .into());
        }
        let change = self.change(now, Why::Settings);
        let id = change.id;
        let want = to(&self.known.as_ref().expect("a leader knows the state").state, change)?;
        let mut fx = std::mem::take(&mut self.deferred);
        self.cas(now, want, false, &mut fx);
        self.deferred = fx;
        Ok(id)
    }

    fn begin_set_config(&mut self, args: &Args<'_>) -> Result<ChangeId, Refused> {
        let pairs = args.len() - 4;
        if !pairs.is_multiple_of(2) {
            return Err("ERR want KEY VALUE [KEY VALUE ...] CONFIRM CLUSTER".into());
        }
        if self.shared.total_loss == TotalLoss::Other {
            return Err("ERR /config holds a setting of a later version: run it at a node of that version".into());
        }
        let mut to = serde_json::to_value(&self.shared).expect("settings are plain values");
        for i in (2..2 + pairs).step_by(2) {
            let key = String::from_utf8_lossy(args.get(i)).into_owned();
            let text = String::from_utf8_lossy(args.get(i + 1)).into_owned();
            let known = to.as_object().map(|keys| keys.keys().cloned().collect::<Vec<_>>().join(", "));
            let name = key.strip_prefix("replication.").unwrap_or(&key);
            let Some(value) = to.get_mut(name) else {
                return Err(format!("ERR no cluster-wide key {key}: want one of {}", known.unwrap_or_default()).into());
            };
            *value = text.parse::<u64>().map_or_else(|_| text.into(), Into::into);
        }
        let to: ClusterConfig = serde_json::from_value(to).map_err(|e| format!("ERR {e}"))?;
        to.check().map_err(|reason| format!("ERR {reason}"))?;
        let id = ChangeId(self.rng.next_u128());
        let from = self.config_found.clone().unwrap_or_else(|| self.shared.clone());
        self.deferred.push(Effect::coord(CoordRequest::SetConfig { id, from, to }));
        Ok(id)
    }

    fn tell_operators(&mut self, text: String) {
        self.deferred.push(Notice::error(text));
    }
}

fn node_name(text: &[u8]) -> Result<NodeId, Refused> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| "ERR no such node name".into())
}
