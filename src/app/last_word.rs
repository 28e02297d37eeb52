//! The last word of a process that a fault ends: one line that names the signal, then the default action.
//!
//! ```text
//!   fault, abort(), kill -SEGV ──► handler: let the log's thread write what waits · write the line · call who listened before · default action · raise
//! ```
//! `unsafe` is here because handlers are installed and called by the C library. A handler may interrupt any code, so it only does what is safe then
//! (signal-safety(7)): it reads atomics, sleeps, polls, writes bytes that lie ready, and raises.

use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};

use libc::{c_int, c_void, siginfo_t};

use super::config::LogFormat;
use super::lines::Lines;

/// Signals by which a fault shows, with what is said.
const FAULTS: [(c_int, &str); 7] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGSYS, "SIGSYS"),
    (libc::SIGTRAP, "SIGTRAP"),
];
/// How often, each 5 ms, it is looked whether the log's thread is done.
const LOOKS: usize = 60;

/// What the handler needs, all of it ready before it is installed.
struct Ready {
    lines: Arc<Lines>,
    words: [Vec<u8>; FAULTS.len()],
    /// Who listened before: the standard library, which tells of a stack that has overflowed. Leaked, and never changed.
    before: [AtomicPtr<libc::sigaction>; FAULTS.len()],
}

static READY: OnceLock<Ready> = OnceLock::new();

/// Lets a fault of this process say what it is, in the log's form.
pub(super) fn listen(lines: Arc<Lines>, format: LogFormat) {
    let words = FAULTS.map(|(_, name)| {
        let text = format!("{name} ends the process at once, without a handover");
        match format {
            LogFormat::Text => format!("ERROR datakeeper: {text}\n").into_bytes(),
            LogFormat::Json => {
                format!("{{\"level\":\"ERROR\",\"message\":\"{text}\",\"target\":\"datakeeper\"}}\n").into_bytes()
            }
        }
    });
    let ready = Ready { lines, words, before: FAULTS.map(|_| AtomicPtr::new(null_mut())) };
    if READY.set(ready).is_err() {
        return; // one log per process
    }
    for (i, (number, _)) in FAULTS.iter().enumerate() {
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_fault;
        // SAFETY: a zeroed sigaction is a valid one (no flags, default action); the handler keeps to signal-safety(7).
        let before = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            let mut before: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(*number, &raw const action, &raw mut before) != 0 {
                continue;
            }
            before
        };
        if let Some(ready) = READY.get() {
            ready.before[i].store(Box::leak(Box::new(before)), Ordering::Release);
        }
    }
}

extern "C" fn on_fault(number: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let at = FAULTS.iter().position(|(fault, _)| *fault == number);
    if let (Some(ready), Some(at)) = (READY.get(), at) {
        let mut looks = 0;
        while ready.lines.waiting() > 0 && looks < LOOKS {
            looks += 1;
            let pause = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            // SAFETY: plain system call on a value of ours.
            unsafe { libc::nanosleep(&raw const pause, null_mut()) };
        }
        say(ready.lines.descriptor(), &ready.words[at]);
        let before = ready.before[at].load(Ordering::Acquire);
        if !before.is_null() {
            // SAFETY: the pointer was leaked by `listen`, so it lives on; what it says of its handler's form is the C library's word.
            unsafe {
                let (handler, flags) = ((*before).sa_sigaction, (*before).sa_flags);
                if handler != libc::SIG_DFL && handler != libc::SIG_IGN && flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = std::mem::transmute(handler);
                    handler(number, info, context);
                }
            }
        }
    }
    // SAFETY: plain system calls. The signal is blocked until the handler returns, and then has its default action.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
}

/// Writes a line, if that does not wait for a reader.
fn say(descriptor: c_int, line: &[u8]) {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // SAFETY: plain system calls on a value and bytes of ours.
    unsafe {
        if libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLOUT != 0 {
            libc::write(descriptor, line.as_ptr().cast(), line.len());
        }
    }
}

/// Writes a line to stderr, if that does not wait for a reader.
pub(super) fn say_on_stderr(line: &str) {
    say(libc::STDERR_FILENO, line.as_bytes());
}
