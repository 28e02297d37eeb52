//! Signals: which end a process, which is an order to reload, and that no other ends it.
//!
//! The default action of most signals is the end, at once: a terminal that is closed (SIGHUP), logrotate (SIGHUP), Ctrl-\ (SIGQUIT), a timer that somebody's
//! supervisor left behind (SIGALRM). A node that ends so hands nothing over and says nothing. So each that can be heard is: those that mean an end let the
//! node leave in good order, SIGHUP opens the log anew, and the others are told in the log and do nothing. Those by which a fault of the program itself
//! shows are `last_word`'s, and SIGKILL and SIGSTOP are nobody's.

use std::future::poll_fn;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::telemetry::LogHandle;

/// What a signal is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Leave in good order; the second one ends at once.
    End,
    /// Open the log anew.
    Reload,
    /// Nothing.
    None,
}

/// The signals that are heard, with their names. SIGPIPE is ignored by the standard library; SIGCHLD, SIGCONT, SIGURG and SIGWINCH end nothing, and
/// SIGTSTP, SIGTTIN and SIGTTOU only stop a process.
const HEARD: &[(libc::c_int, &str, Meaning)] = &[
    (libc::SIGTERM, "SIGTERM", Meaning::End),
    (libc::SIGINT, "SIGINT", Meaning::End),
    (libc::SIGQUIT, "SIGQUIT", Meaning::End),
    (libc::SIGPWR, "SIGPWR", Meaning::End),   // the power is about to go
    (libc::SIGXCPU, "SIGXCPU", Meaning::End), // at the hard limit SIGKILL follows
    (libc::SIGHUP, "SIGHUP", Meaning::Reload),
    (libc::SIGUSR1, "SIGUSR1", Meaning::None),
    (libc::SIGUSR2, "SIGUSR2", Meaning::None),
    (libc::SIGALRM, "SIGALRM", Meaning::None),
    (libc::SIGVTALRM, "SIGVTALRM", Meaning::None),
    (libc::SIGPROF, "SIGPROF", Meaning::None),
    (libc::SIGIO, "SIGIO", Meaning::None),
    (libc::SIGSTKFLT, "SIGSTKFLT", Meaning::None),
    (libc::SIGXFSZ, "SIGXFSZ", Meaning::None), // the write that is too long fails, and that is told
];

/// All of them, heard from the moment this was made.
pub(super) struct Signals {
    heard: Vec<(String, Meaning, Signal)>,
    log: LogHandle,
}

impl Signals {
    /// # Errors
    /// The operating system refused; for the operator.
    pub(super) fn listen(log: LogHandle) -> Result<Signals, String> {
        let named = HEARD.iter().map(|(number, name, meaning)| (*number, (*name).to_owned(), *meaning));
        let realtime = (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .map(|n| (n, format!("SIGRTMIN+{}", n - libc::SIGRTMIN()), Meaning::None));
        let heard = named.chain(realtime).map(|(number, name, meaning)| {
            let signal = signal(SignalKind::from_raw(number));
            let signal = signal.map_err(|error| format!("cannot listen for signal {name}: {error}"))?;
            Ok((name, meaning, signal))
        });
        Ok(Signals { heard: heard.collect::<Result<_, String>>()?, log })
    }

    /// Waits for one that means an end, and names it; does meanwhile what others ask for.
    pub(super) async fn end(&mut self) -> String {
        loop {
            let (name, meaning) = poll_fn(|cx| {
                let came = self.heard.iter_mut().find_map(|(name, meaning, signal)| {
                    signal.poll_recv(cx).is_ready().then(|| (name.clone(), *meaning))
                });
                came.map_or(Poll::Pending, Poll::Ready)
            })
            .await;
            match meaning {
                Meaning::End => return name,
                Meaning::Reload => self.log.reopen(&name),
                Meaning::None => {
                    tracing::warn!(
                        "{name} has no meaning here and changes nothing; SIGTERM ends a node, SIGHUP opens its log file anew"
                    );
                }
            }
        }
    }
}
