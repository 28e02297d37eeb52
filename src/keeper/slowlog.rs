//! The slow log: which commands of this node took long, and how long.
//!
//! As in Redis, arguments are cut ([`SLOW_ARGS_MAX`], [`SLOW_ARG_BYTES_MAX`]), a command that waited shows the time of its execution alone, and
//! the log is the node's own: it is neither replicated nor kept over a restart. What commands take is measured in `calls`; in a
//! pipeline of quick commands each has an even share of the time of its run, unless `slowlog-log-slower-than` is below a millisecond.

use std::collections::VecDeque;

use crate::base::clock::Now;
use crate::base::limits::{SLOW_ARG_BYTES_MAX, SLOW_ARGS_MAX};
use crate::command::{CommandSpec, Flag, find_spec, integer};
use crate::resp::{Args, Reply};

use super::Keeper;
use super::session::{Answer, Flow, Session};

/// One slow command.
#[derive(Debug)]
struct Slow {
    id: u64,
    /// When it ended, in Unix seconds.
    at_s: u64,
    micros: u64,
    args: Vec<Box<[u8]>>,
    /// Its client.
    addr: String,
    name: String,
}

/// The latest slow commands, the newest first. Bounded by `slowlog-max-len`.
#[derive(Debug, Default)]
pub(super) struct SlowLog {
    kept: VecDeque<Slow>,
    /// How many there were.
    count: u64,
}

/// Which arguments hold a secret, that nobody may be shown.
pub(super) fn is_secret(spec: &CommandSpec, args: &Args<'_>, at: usize) -> bool {
    let is = |at: usize, word: &[u8]| args.get(at).eq_ignore_ascii_case(word);
    match spec.name {
        "auth" => at > 0,
        "hello" => (3..at).any(|word| is(word, b"auth") && at <= word + 2) || at > 2 && is(2, b"auth") && at <= 4,
        "config|set" => {
            at > 2 && at % 2 == 1 && [&b"requirepass"[..], b"masterauth"].iter().any(|word| is(at - 1, word))
        }
        _ => false,
    }
}

/// The arguments as they are kept.
fn cut(spec: &CommandSpec, args: &Args<'_>) -> Vec<Box<[u8]>> {
    let shown = if args.len() > SLOW_ARGS_MAX { SLOW_ARGS_MAX - 1 } else { args.len() };
    let mut kept: Vec<Box<[u8]>> = Vec::with_capacity(SLOW_ARGS_MAX.min(args.len()));
    for at in 0..shown {
        let arg = args.get(at);
        kept.push(match arg.split_at_checked(SLOW_ARG_BYTES_MAX) {
            _ if is_secret(spec, args, at) => b"(redacted)"[..].into(),
            Some((head, tail)) if !tail.is_empty() => {
                [head, format!("... ({} more bytes)", tail.len()).as_bytes()].concat().into()
            }
            _ => arg.into(),
        });
    }
    if shown < args.len() {
        kept.push(format!("... ({} more arguments)", args.len() - shown).into_bytes().into());
    }
    kept
}

const WRONG_COUNT: &str = "ERR count should be greater than or equal to -1";

impl Keeper {
    /// A command took so long that somebody wants to know.
    #[cold]
    pub(super) fn note_slow(&mut self, now: Now, session: &Session, args: &Args<'_>, nanos: u64) {
        let Ok(spec) = find_spec(args) else { return };
        self.latency.note(now, spec, nanos);
        let micros = nanos / 1_000;
        let wanted = u64::try_from(self.settings().slower_than_us).is_ok_and(|least| micros >= least);
        if !wanted || spec.flags.has(Flag::SkipSlowlog) || self.settings().slowlog_max_len == 0 {
            return;
        }
        self.slowlog.kept.push_front(Slow {
            id: self.slowlog.count,
            at_s: now.wall.0 / 1_000,
            micros,
            args: cut(spec, args),
            addr: session.addr.clone(),
            name: session.name.clone(),
        });
        self.slowlog.count += 1;
        self.slowlog.kept.truncate(self.config.settings.slowlog_max_len);
    }

    /// The settings say from when on a command is slow.
    pub(super) fn look_for_slow(&mut self) {
        let log = u64::try_from(self.settings().slower_than_us).ok().map(|micros| micros.saturating_mul(1_000));
        let spike = Some(self.settings().latency_threshold_ms).filter(|ms| *ms > 0);
        self.latency.threshold_ms = spike;
        let spike = spike.map(|ms| ms.saturating_mul(1_000_000));
        self.calls.look(log.into_iter().chain(spike).min(), !self.monitors.is_empty());
        self.slowlog.kept.truncate(self.config.settings.slowlog_max_len);
    }

    pub(super) fn slowlog_get(&self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let count = match args.len() {
            2 => 10,
            3 => match integer(args.get(2)).ok().filter(|count| *count >= -1).ok_or(WRONG_COUNT)? {
                -1 => usize::MAX,
                count => count as usize,
            },
            _ => return Err(crate::command::CommandError::unknown_use(args.get(0), args.get(1)).to_string().into()),
        };
        let shown = count.min(self.slowlog.kept.len());
        reply.array(shown);
        for slow in self.slowlog.kept.iter().take(shown) {
            reply.array(6);
            reply.integer(slow.id as i64);
            reply.integer(slow.at_s as i64);
            reply.integer(slow.micros as i64);
            reply.array(slow.args.len());
            slow.args.iter().for_each(|arg| reply.bulk(arg));
            reply.bulk(slow.addr.as_bytes());
            reply.bulk(slow.name.as_bytes());
        }
        Ok(Flow::Done)
    }

    pub(super) fn slowlog_len(&self, reply: &mut Reply<'_>) -> Answer {
        reply.integer(self.slowlog.kept.len() as i64);
        Ok(Flow::Done)
    }

    pub(super) fn slowlog_reset(&mut self, reply: &mut Reply<'_>) -> Answer {
        self.slowlog.kept.clear();
        reply.ok();
        Ok(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::resolve;
    use crate::resp::Batch;

    fn kept(words: &[&[u8]]) -> Vec<String> {
        let mut batch = Batch::new();
        batch.push_command(words);
        let args = batch.args(0, &[]);
        let spec = resolve(&args).expect("a command");
        cut(spec, &args).iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }

    #[test]
    fn arguments_are_cut_as_redis_cuts_them() {
        let long = [b'x'; SLOW_ARG_BYTES_MAX + 3];
        let cut = format!("{}... (3 more bytes)", "x".repeat(SLOW_ARG_BYTES_MAX));
        assert_eq!(kept(&[b"SET", &long[3..], &long]), ["SET", &"x".repeat(SLOW_ARG_BYTES_MAX), &cut]);
        assert_eq!(kept(&[&b"DEL"[..]; SLOW_ARGS_MAX]), ["DEL"; SLOW_ARGS_MAX]);
        let many = kept(&[&b"DEL"[..]; SLOW_ARGS_MAX + 1]);
        assert_eq!((many.len(), many[SLOW_ARGS_MAX - 1].as_str()), (SLOW_ARGS_MAX, "... (2 more arguments)"));
    }

    #[test]
    fn secrets_are_not_kept() {
        for (words, secrets) in [
            (&[&b"auth"[..], b"secret"][..], &[1][..]),
            (&[b"AUTH", b"default", b"secret"], &[1, 2]),
            (&[b"HELLO", b"3", b"AUTH", b"default", b"secret", b"SETNAME", b"x"], &[3, 4]),
            (&[b"HELLO", b"3", b"SETNAME", b"x", b"AUTH", b"default", b"secret"], &[5, 6]),
            (&[b"ECHO", b"auth"], &[]),
        ] {
            let kept = kept(words);
            let hidden: Vec<usize> = (0..kept.len()).filter(|at| kept[*at] == "(redacted)").collect();
            assert_eq!(hidden, secrets, "{kept:?}");
        }
    }
}
