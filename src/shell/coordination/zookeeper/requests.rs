//! Carrying a request out: whatever it takes until its answer is known.
//!
//! Each function here may be abandoned at any await and called again, in this session or another, and then finds out by reading what
//! became of the earlier attempt. What was sent and not answered may still be applied later; all writes name the version they
//! rest on, so a late one either is the one that is wanted or is refused.
//!
//! A compare-and-set (COORDINATION a.3):
//! ```text
//!   write if version = expect ── ok ─────────────────────────────────────────► Won
//!        │ refused, or unknown                       change id is ours ──────► Won
//!        ▼                                          ╱
//!   sync, read ── version moved ───────────────────┤
//!        │                                          ╲ somebody else's ───────► State, Lost
//!        ├─ version = expect, a check was refused ──────────────────────────► State, Lost   (versions never come back)
//!        └─ version = expect, unknown ─► write again
//! ```

use tracing::info;
use zookeeper_client as zk;

use super::super::claim::{Claim, Live, judge, same_process};
use super::CoordError;
use super::session::{Found, Part, Refusal, Session, decode_entry, decode_live, decode_state};
use crate::base::ids::{ChangeId, NodeId};
use crate::cluster::config::ClusterConfig;
use crate::cluster::coordinator::{CasOutcome, CoordEvent, CoordRequest, StateRead};
use crate::cluster::registration::Registration;
use crate::cluster::state::ClusterState;

/// This process's hold on its node's name, over all sessions.
#[derive(Default)]
pub struct Name {
    /// The latest registration that was asked for.
    wanted: Option<Registration>,
    /// When this process's entry was written, if it was confirmed once: the zxid. Of an entry of another process that was written after
    /// it and that the node was told of, once there is one.
    held: Option<i64>,
    /// Whether the node knows that `wanted` is confirmed.
    is_told: bool,
    /// The holder the node was told of, so that it is told once.
    holder_told: Option<String>,
    /// Something changed that the registration rests on.
    look_again: bool,
}

impl Name {
    /// Whether the registration has to be looked at.
    pub fn is_due(&self) -> bool {
        self.look_again && self.wanted.is_some()
    }

    /// The registration may have vanished or been replaced.
    pub fn look_again(&mut self) {
        self.look_again = true;
    }

    /// The same, if that part of the tree is ours.
    pub fn look_again_if(&mut self, part: &Part) {
        if let (Part::Entry(id) | Part::Live(id), Some(me)) = (part, &self.wanted) {
            self.look_again |= *id == me.id;
        }
    }
}

impl Session {
    /// Carries a request out and tells its answer; `false` if it was put off, because something more urgent waits.
    ///
    /// # Errors
    /// The answer is not known yet: call again, in this session or the next.
    pub async fn carry_out(
        &mut self,
        request: &CoordRequest,
        name: &mut Name,
        is_overtaken: &impl Fn() -> bool,
    ) -> Result<bool, CoordError> {
        match request {
            CoordRequest::Register(registration) => {
                if name.wanted.as_ref() != Some(registration) {
                    name.wanted = Some(registration.clone());
                    name.holder_told = None;
                }
                name.is_told = false;
                self.claim(name).await?;
            }
            CoordRequest::Confirm => return self.confirm(is_overtaken).await,
            CoordRequest::Bootstrap { want, config } => self.bootstrap(want, config).await?,
            CoordRequest::Cas { expect, want, nodes } => self.compare_and_set(*expect, want, nodes).await?,
            CoordRequest::SetConfig { id, from, to } => self.set_config(*id, from, to).await?,
        }
        Ok(true)
    }

    /// Brings the own entry and live entry to what is wanted, or finds that the name is somebody else's. The judgement always
    /// rests on a read after a `sync`: an old view of the own entry would look like a foreign one.
    pub async fn claim(&mut self, name: &mut Name) -> Result<(), CoordError> {
        let Some(me) = name.wanted.clone() else { return Ok(()) };
        loop {
            self.sync().await?;
            let found = self.get(&self.paths.node(&me.id)).await?;
            let found_live = self.get(&self.paths.live(&me.id)).await?;
            let owner = found_live.as_ref().map(|(_, stat)| stat.ephemeral_owner);
            let is_own = owner == Some(self.id().0);
            // What nobody can read was written by nobody whom we know: it is replaced as soon as nobody is live under the name.
            let entry = found.as_ref().and_then(|found| decode_entry(&me.id, found).ok());
            let live = match found_live.as_ref().map(|(bytes, _)| decode_live(&me.id, bytes)).transpose() {
                Ok(live) => live,
                Err(_) if is_own => None,
                Err(reason) => {
                    name.look_again = false;
                    self.tell_holder(name, reason);
                    return Ok(());
                }
            };
            let registration = entry.as_ref().map(|(registration, _)| registration);
            let zxid = found.as_ref().map_or(0, |(_, stat)| stat.mzxid);
            let written = registration.map(|registration| (registration, zxid));
            match judge(&me, name.held, written, live.as_ref().map(|live| (live, is_own))) {
                Claim::Settled => {
                    name.held = Some(zxid);
                    name.look_again = false;
                    name.holder_told = None;
                    if !std::mem::replace(&mut name.is_told, true) {
                        info!(copy = %me.copy, empty = me.empty, "registered");
                        self.tell(CoordEvent::Registered { copy: me.copy, empty: me.empty });
                    }
                    return Ok(());
                }
                Claim::Write => {
                    name.is_told = false;
                    self.write_registration(&me, &found, &found_live, registration, is_own).await?;
                }
                Claim::Wait { holder } => {
                    name.look_again = false;
                    self.tell_holder(name, holder);
                    return Ok(());
                }
                Claim::Taken { holder } => {
                    // `/state` first: perhaps all of this was set back, and then that is what has to be said.
                    self.confirm(&|| false).await?;
                    name.held = Some(zxid);
                    self.tell(CoordEvent::NameTaken { holder });
                }
            }
        }
    }

    fn tell_holder(&self, name: &mut Name, holder: String) {
        if name.holder_told.as_ref() != Some(&holder) {
            name.holder_told = Some(holder.clone());
            self.tell(CoordEvent::NameAwaited { holder });
        }
    }

    /// Notes in the directory that this process ends in good order, so that its copy counts as gone. What stands there of another process
    /// stays.
    ///
    /// # Errors
    /// The outcome is unknown, or the session is over: then nothing is noted, and others have to find out.
    pub async fn record_end(&self, name: &Name) -> Result<(), CoordError> {
        let Some(me) = name.wanted.as_ref().filter(|_| name.held.is_some()) else { return Ok(()) };
        let path = self.paths.node(&me.id);
        let Some(found) = self.get(&path).await? else { return Ok(()) };
        let Ok((mut entry, version)) = decode_entry(&me.id, &found) else { return Ok(()) };
        if same_process(&entry, me) {
            entry.ended = true;
            let bytes = serde_json::to_vec(&entry).expect("a registration has only string keys");
            let _changed_meanwhile = self.op(&path, self.client.set_data(&path, &bytes, Some(version))).await?;
        }
        Ok(())
    }

    /// Entry and live entry in one transaction, on the versions that were read.
    async fn write_registration(
        &self,
        me: &Registration,
        entry: &Found,
        live: &Found,
        old: Option<&Registration>,
        is_own: bool,
    ) -> Result<(), CoordError> {
        let (path, live_path) = (self.paths.node(&me.id), self.paths.live(&me.id));
        let me = &me.in_place_of(old);
        let bytes = serde_json::to_vec(me).expect("a registration has only string keys");
        let live_bytes = serde_json::to_vec(&Live::of(me)).expect("a live entry has only string keys");
        let ephemeral = zk::CreateMode::Ephemeral.with_acls(self.acls);
        let mut writer = self.client.new_multi_writer();
        let built = match entry {
            None => writer.add_create(&path, &bytes, &zk::CreateMode::Persistent.with_acls(self.acls)),
            Some((_, stat)) if old == Some(me) => writer.add_check_version(&path, stat.version),
            Some((_, stat)) => writer.add_set_data(&path, &bytes, Some(stat.version)),
        }
        .and_then(|()| match live {
            None => writer.add_create(&live_path, &live_bytes, &ephemeral),
            Some((_, stat)) if is_own => writer.add_set_data(&live_path, &live_bytes, Some(stat.version)),
            Some((_, stat)) => writer
                .add_delete(&live_path, Some(stat.version))
                .and_then(|()| writer.add_create(&live_path, &live_bytes, &ephemeral)),
        });
        built.map_err(|e| CoordError::Unknown(format!("{path}: {e}")))?;
        match self.multi(&path, writer).await? {
            Ok(()) => Ok(()),
            Err((_, Refusal::NoNode)) if entry.is_none() => {
                Err(CoordError::SessionOver(format!("{path}: its directory is gone")))
            }
            Err((_, refusal)) => Err(CoordError::Unknown(format!("{path}: changed meanwhile ({refusal:?})"))),
        }
    }

    async fn confirm(&mut self, is_overtaken: &impl Fn() -> bool) -> Result<bool, CoordError> {
        self.sync().await?;
        let state = decode_state(self.get(&self.paths.state()).await?);
        let Some(directory) = self.read_directory(is_overtaken).await? else { return Ok(false) };
        self.tell(match state {
            Ok(CoordEvent::State(read)) => CoordEvent::State(StateRead { confirmed: true, ..read }),
            Ok(event) => event,
            Err(reason) => CoordEvent::Unreadable { reason },
        });
        self.tell(directory);
        Ok(true)
    }

    /// Both nodes in one transaction, so that the settings are those of the node that won.
    async fn bootstrap(&self, want: &ClusterState, config: &ClusterConfig) -> Result<(), CoordError> {
        let (path, config_path) = (self.paths.state(), self.paths.config());
        let settings = serde_json::to_vec(config).expect("the settings have only string keys");
        let options = zk::CreateMode::Persistent.with_acls(self.acls);
        loop {
            self.sync().await?;
            let found = self.get(&path).await?;
            if found.is_some() {
                self.tell_outcome(want.change.id, found);
                return Ok(());
            }
            let mut writer = self.client.new_multi_writer();
            let mut built = writer.add_create(&path, &want.encode(), &options);
            if self.get(&config_path).await?.is_none() {
                built = built.and_then(|()| writer.add_create(&config_path, &settings, &options));
            }
            built.map_err(|e| CoordError::Unknown(format!("{path}: {e}")))?;
            if let Err((_, Refusal::NoNode)) = self.multi(&path, writer).await? {
                return Err(CoordError::SessionOver(format!("{path}: its directory is gone")));
            }
            // Written or refused: the next read tells which.
        }
    }

    /// An earlier attempt that was not answered is found by its content: whoever wrote it, it is what was wanted.
    async fn set_config(&self, id: ChangeId, from: &ClusterConfig, to: &ClusterConfig) -> Result<(), CoordError> {
        let path = self.paths.config();
        let bytes = serde_json::to_vec(to).expect("the settings have only string keys");
        let outcome = loop {
            self.sync().await?;
            let found = self.get(&path).await?;
            let there = found.as_ref().and_then(|(bytes, _)| serde_json::from_slice::<ClusterConfig>(bytes).ok());
            match (found, there) {
                (Some((_, stat)), Some(there)) if there == *to => break CasOutcome::Won(stat.version),
                (Some((_, stat)), Some(there)) if there == *from => {
                    let _written_or_refused =
                        self.op(&path, self.client.set_data(&path, &bytes, Some(stat.version))).await?;
                }
                _ => break CasOutcome::Lost,
            }
        };
        self.tell(CoordEvent::Resolved { id, outcome });
        Ok(())
    }

    async fn compare_and_set(
        &self,
        expect: i32,
        want: &ClusterState,
        checks: &[(NodeId, i32)],
    ) -> Result<(), CoordError> {
        let path = self.paths.state();
        let bytes = want.encode();
        let id = want.change.id;
        let written = if checks.is_empty() {
            let written = self.op(&path, self.client.set_data(&path, &bytes, Some(expect))).await;
            written.map(|answer| answer.map(|stat| stat.version).map_err(|_| 0))
        } else {
            let mut writer = self.client.new_multi_writer();
            let mut built = writer.add_set_data(&path, &bytes, Some(expect));
            for (node, version) in checks {
                built = built.and_then(|()| writer.add_check_version(&self.paths.node(node), *version));
            }
            built.map_err(|e| CoordError::Unknown(format!("{path}: {e}")))?;
            self.multi(&path, writer).await.map(|answer| answer.map(|()| expect + 1).map_err(|(index, _)| index))
        };
        let check_refused = match written {
            Ok(Ok(version)) => {
                self.tell(CoordEvent::Resolved { id, outcome: CasOutcome::Won(version) });
                return Ok(());
            }
            Ok(Err(index)) => index > 0,
            Err(CoordError::Unknown(_)) => false,
            Err(over) => return Err(over),
        };
        self.sync().await?;
        let found = self.get(&path).await?;
        if found.as_ref().is_some_and(|(_, stat)| stat.version == expect) && !check_refused {
            return Err(CoordError::Unknown(format!("{path}: not changed yet")));
        }
        self.tell_outcome(id, found);
        Ok(())
    }

    /// Tells how a change ended that can no longer happen, by what is there now.
    fn tell_outcome(&self, id: ChangeId, found: Found) {
        let version = found.as_ref().map_or(0, |(_, stat)| stat.version);
        let outcome = match decode_state(found) {
            Ok(CoordEvent::State(read)) if read.state.as_ref().is_some_and(|(state, _)| state.change.id == id) => {
                CasOutcome::Won(version)
            }
            Ok(event) => {
                self.tell(event);
                CasOutcome::Lost
            }
            // What we write is readable, so it is not ours.
            Err(reason) => {
                self.tell(CoordEvent::Unreadable { reason });
                CasOutcome::Lost
            }
        };
        self.tell(CoordEvent::Resolved { id, outcome });
    }
}
