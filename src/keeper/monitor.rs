//! MONITOR: a connection that is shown every command that this node executes.
//!
//! A line per command, in the order in which they end, behind the commands of a transaction its EXEC. Not shown, as in Redis: commands of
//! operators (flag `admin`), AUTH and QUIT; and of HELLO the password. An argument is cut at [`MONITORED_ARG_BYTES_MAX`]. What was executed is
//! shown even if its reply still waits for acknowledgements, and the time is that of the batch, in whole milliseconds.
//!
//! Lines wait and are bounded as published messages are (`pubsub`). While nobody monitors, a command costs nothing for it: that somebody
//! does is one of the reasons for which each is measured by itself (`calls`), and lines are made there.

use std::fmt::Write;

use bytes::Bytes;

use crate::base::clock::Now;
use crate::base::ids::ConnId;
use crate::base::limits::MONITORED_ARG_BYTES_MAX;
use crate::command::{CommandSpec, Flag};
use crate::resp::{Args, Reply};

use super::Keeper;
use super::session::{Answer, Flow, Session};
use super::slowlog::is_secret;

impl Keeper {
    pub(super) fn monitor(&mut self, conn: ConnId, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        session.monitors = true;
        self.monitors.insert(conn);
        self.look_for_slow();
        reply.ok();
        Ok(Flow::Done)
    }

    /// The connection is shown nothing any more.
    pub(super) fn stop_monitoring(&mut self, conn: ConnId, session: &mut Session) {
        if std::mem::take(&mut session.monitors) {
            self.monitors.remove(&conn);
            self.look_for_slow();
        }
    }

    /// Shows a command that was executed to all who monitor.
    #[cold]
    pub(super) fn show_monitors(&mut self, now: Now, session: &Session, spec: &CommandSpec, args: &Args<'_>) {
        if spec.flags.has(Flag::Admin) || spec.flags.has(Flag::SkipMonitor) || matches!(spec.name, "auth" | "quit") {
            return;
        }
        let line: Bytes = line(now, &session.addr, spec, args).into();
        let mut fx = std::mem::take(&mut self.deferred);
        for conn in self.monitors.clone() {
            self.deliver(now.boot, conn, line.clone(), &mut fx);
        }
        self.deferred = fx;
    }
}

/// The line for one command.
fn line(now: Now, addr: &str, spec: &CommandSpec, args: &Args<'_>) -> String {
    let (s, ms) = (now.wall.0 / 1_000, now.wall.0 % 1_000);
    let mut line = format!("+{s}.{ms:03}000 [0 {addr}]");
    for at in 0..args.len() {
        line.push_str(" \"");
        if is_secret(spec, args, at) {
            line.push_str("(redacted)");
        } else {
            let arg = args.get(at);
            quote(&arg[..arg.len().min(MONITORED_ARG_BYTES_MAX)], &mut line);
            if arg.len() > MONITORED_ARG_BYTES_MAX {
                write!(line, "... ({} more bytes)", arg.len() - MONITORED_ARG_BYTES_MAX)
                    .expect("a String takes any text");
            }
        }
        line.push('"');
    }
    line.push_str("\r\n");
    line
}

/// Bytes as a quoted text shows them.
fn quote(bytes: &[u8], line: &mut String) {
    for byte in bytes {
        match byte {
            b'\\' | b'"' => line.extend(['\\', char::from(*byte)]),
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            7 => line.push_str("\\a"),
            8 => line.push_str("\\b"),
            b' '..=b'~' => line.push(char::from(*byte)),
            _ => write!(line, "\\x{byte:02x}").expect("a String takes any text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Boot, Wall};
    use crate::command::resolve;
    use crate::resp::Batch;

    fn shown(words: &[&[u8]]) -> String {
        let mut batch = Batch::new();
        batch.push_command(words);
        let args = batch.args(0, &[]);
        line(Now { boot: Boot(0), wall: Wall(7_012) }, "a:1", resolve(&args).expect("a command"), &args)
    }

    #[test]
    fn line_has_time_client_and_quoted_words() {
        let got = shown(&[b"sEt", b"a \"b\\", b"\x00\xff\r\n\t\x07\x08~"]);
        assert_eq!(got, "+7.012000 [0 a:1] \"sEt\" \"a \\\"b\\\\\" \"\\x00\\xff\\r\\n\\t\\a\\b~\"\r\n");
    }

    #[test]
    fn long_arguments_are_cut_and_passwords_hidden() {
        let long = vec![b'x'; MONITORED_ARG_BYTES_MAX + 5];
        let got = shown(&[b"ECHO", &long]);
        assert!(got.ends_with("x... (5 more bytes)\"\r\n"));
        let got = shown(&[b"HELLO", b"3", b"AUTH", b"default", b"sesame"]);
        assert_eq!(got, "+7.012000 [0 a:1] \"HELLO\" \"3\" \"AUTH\" \"(redacted)\" \"(redacted)\"\r\n");
    }
}
