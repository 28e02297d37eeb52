//! Sessions: what the Keeper knows of each client connection, and the commands that need one.
//!
//! The shell owns sockets and bytes; here is the rest: protocol, name, whether the password was shown, what is held or waits.

use std::collections::BTreeMap;

use crate::base::clock::{Boot, Now, Wall};
use crate::base::ids::{ConnId, Offset};
use crate::base::limits::CLIENTS_MAX;
use crate::command::SliceState;
use crate::resp::Protocol;

use super::Keeper;

/// One client connection.
#[derive(Debug)]
pub(super) struct Session {
    /// Number for CLIENT ID; never used twice.
    pub id: u64,
    /// The client's address, `host:port`.
    pub addr: String,
    /// The address it connected to.
    pub local_addr: String,
    /// When it connected.
    pub since: Boot,
    /// When it connected, for people.
    pub since_wall: Wall,
    /// When its last batch was executed.
    pub active_at: Boot,
    /// Form of its replies.
    pub protocol: Protocol,
    /// Whether it needs no (further) password.
    pub trusted: bool,
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO LIB-NAME and LIB-VER.
    pub library: (String, String),
    /// READONLY was sent.
    pub readonly: bool,
    /// Name of its last command, for CLIENT LIST.
    pub last_command: &'static str,
    /// Offset of its last write, for WAIT.
    pub last_write: Offset,
    /// Number of its last held replies.
    pub held_seq: u64,
    /// Until when its next command waits.
    pub wait_until: Option<Boot>,
    /// What a command remembers that runs in slices.
    pub slice: SliceState,
}

/// What became of a session command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It is answered.
    Done,
    /// It is not answered: try again when acknowledgements moved, or at this time (it is then answered in any case).
    Block {
        /// Deadline.
        until: Boot,
    },
    /// It is answered, and the connection ends.
    Close,
}

/// All sessions of this process.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    map: BTreeMap<ConnId, Session>,
    /// The one that is being executed: out of the map, still counted.
    out: usize,
    /// Connections ever accepted.
    pub accepted: u64,
}

impl Sessions {
    /// Takes a session out while its commands are executed.
    pub fn take(&mut self, conn: ConnId) -> Option<Session> {
        let session = self.map.remove(&conn)?;
        self.out += 1;
        Some(session)
    }

    /// Puts it back.
    pub fn put_back(&mut self, conn: ConnId, session: Session) {
        self.out -= 1;
        self.map.insert(conn, session);
    }

    /// Connected clients.
    pub fn len(&self) -> usize {
        self.map.len() + self.out
    }

    /// All but the one that is being executed, by number of connection.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.map.values()
    }
}

impl Keeper {
    /// A client connected. `false`: there are [`CLIENTS_MAX`] already, the connection has to be closed.
    pub fn client_connected(&mut self, now: Now, conn: ConnId, addr: String, local_addr: String) -> bool {
        if self.sessions.len() >= CLIENTS_MAX || self.stopping {
            return false;
        }
        self.sessions.accepted += 1;
        let session = Session {
            id: self.sessions.accepted,
            addr,
            local_addr,
            since: now.boot,
            since_wall: now.wall,
            active_at: now.boot,
            protocol: Protocol::Resp2,
            trusted: self.config.password.is_none(),
            name: String::new(),
            library: (String::new(), String::new()),
            readonly: false,
            last_command: "NULL",
            last_write: Offset::ZERO,
            held_seq: 0,
            wait_until: None,
            slice: SliceState::default(),
        };
        self.sessions.map.insert(conn, session);
        true
    }

    /// A client's connection is closed; whatever waited for it is forgotten.
    pub fn client_gone(&mut self, conn: ConnId) {
        self.sessions.map.remove(&conn);
        self.waiting.remove(&conn);
        self.blocked.remove(&conn);
        self.holds.forget(conn);
    }

    /// Whether this client has shown the password, or needs none.
    #[must_use]
    pub fn is_trusted(&self, conn: ConnId) -> bool {
        self.sessions.map.get(&conn).is_some_and(|s| s.trusted)
    }
}
impl Keeper {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn session_command(
        &mut self,
        _now: Now,
        _conn: ConnId,
        session: &mut Session,
        command: crate::command::SessionCommand,
        _args: &crate::resp::Args<'_>,
        out: &mut crate::resp::Output,
        _fx: &mut super::Effects,
    ) -> Flow {
        match command {
            crate::command::SessionCommand::Ping => crate::resp::Reply::new(out, session.protocol).simple("PONG"),
            other => crate::resp::Reply::new(out, session.protocol).error(&format!("ERR {other:?}")),
        }
        Flow::Done
    }
}
