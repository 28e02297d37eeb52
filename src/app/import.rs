//! `import`: copies the strings of a running Redis into a cluster, over the ports that clients use.
//!
//! ```text
//!   source   SCAN ── a page of keys ──► TYPE ── strings ──► PTTL, DUMP ──┐
//!   target                              EXISTS: stays as it is           └──► RESTORE
//!   then once more: every string that the source has is at the target
//! ```
//! Nothing is remembered between runs. What the target has is passed over, so a run that broke off is resumed by the next one. What cannot be
//! copied is counted by its type and named, and then the exit code is 1. Not here: types other than strings, TLS, changes at the source after
//! a key was copied, sources of several shards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::types::BytesFrame;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::codec::Framed;

use super::ask;
use super::cli::ImportArgs;
use super::config::ENV_AUTH_PASSWORD;

/// Environment variable with the password of the source.
pub const ENV_SOURCE_PASSWORD: &str = "DATAKEEPER_SOURCE_PASSWORD";
/// Port of a URL that names none.
const PORT: u16 = 6379;
/// Keys asked of SCAN at a time.
const PAGE: &str = "200";
/// Longest time that one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time that a target that refuses for the moment is asked again, and the pause in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(100));
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Keys that are named of each type that cannot be copied.
const NAMED_MAX: usize = 5;
/// Width of the progress bar.
const BAR: u64 = 40;

/// Copies, and says what became of each key.
///
/// # Errors
/// For the operator: the source or the target does not answer as it should, or not everything is at the target.
pub fn run(args: &ImportArgs) -> Result<String, String> {
    let source = Source::parse(&args.from)?;
    ask(async {
        let from = source.connect().await.map_err(|e| format!("{}: {e}", args.from))?;
        let to = Peer::connect(&args.to, std::env::var(ENV_AUTH_PASSWORD).ok().map(|word| vec![word])).await?;
        let mut import = Import { args, from, to, report: Report::default() };
        let copied = import.all(Pass::Copy).await;
        let done = match copied {
            Ok(()) => import.all(Pass::Verify).await,
            error => error,
        };
        match done {
            Ok(()) => import.report.finish(args),
            Err(e) => Err(format!("{e}\n{}run it again: what is at the target is passed over", import.report.text())),
        }
    })
}

/// Where the keys are.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    address: String,
    user: Option<String>,
    database: u32,
}

impl Source {
    fn parse(url: &str) -> Result<Source, String> {
        let rest = match url.split_once("://") {
            Some(("redis", rest)) => rest,
            Some(("rediss", _)) => return Err(format!("{url}: TLS is not there yet")),
            _ => return Err(format!("{url}: want redis://[USER@]HOST[:PORT][/DB]")),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            // Others can read the command lines of all processes.
            Some((user, _)) if user.contains(':') => {
                return Err(format!(
                    "--from: no password here, please: put it into the environment, {ENV_SOURCE_PASSWORD}"
                ));
            }
            Some((user, rest)) => (Some(user.to_string()), rest),
            None => (None, rest),
        };
        let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if database.is_empty() { Ok(0) } else { database.parse() };
        let database = database.map_err(|_| format!("{url}: a database is a number"))?;
        let has_port = host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && !port.contains(']'));
        let address = if has_port { host.to_string() } else { format!("{host}:{PORT}") };
        Ok(Source { address, user, database })
    }

    async fn connect(&self) -> Result<Peer, String> {
        let password = std::env::var(ENV_SOURCE_PASSWORD).ok();
        let auth = password.map(|password| self.user.iter().cloned().chain([password]).collect());
        let mut peer = Peer::connect(&self.address, auth).await?;
        if self.database != 0 {
            peer.call(&[b"SELECT", self.database.to_string().as_bytes()]).await?;
        }
        Ok(peer)
    }
}

type Request = Vec<Bytes>;

fn request(words: &[&[u8]]) -> Request {
    words.iter().map(|word| Bytes::copy_from_slice(word)).collect()
}

/// One side of the copy.
struct Peer {
    address: String,
    auth: Option<Vec<String>>,
    wire: Framed<TcpStream, Resp2>,
}

impl Peer {
    async fn connect(address: &str, auth: Option<Vec<String>>) -> Result<Peer, String> {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
        let mut peer = Peer { address: address.to_string(), auth, wire: Framed::new(stream, Resp2::default()) };
        if let Some(words) = peer.auth.clone().filter(|words| words.iter().any(|word| !word.is_empty())) {
            let words: Vec<&[u8]> = std::iter::once(&b"AUTH"[..]).chain(words.iter().map(String::as_bytes)).collect();
            peer.call(&words).await?;
        }
        Ok(peer)
    }

    /// One request; an error of the other side is one here.
    async fn call(&mut self, words: &[&[u8]]) -> Result<BytesFrame, String> {
        let mut replies = self.pipeline(&[request(words)]).await?;
        match replies.remove(0) {
            BytesFrame::Error(text) => Err(format!("{}: {text}", self.address)),
            reply => Ok(reply),
        }
    }

    /// As many replies as requests.
    async fn pipeline(&mut self, requests: &[Request]) -> Result<Vec<BytesFrame>, String> {
        let fail = |address: &str, e: String| format!("{address}: {e}");
        for words in requests {
            let frame = BytesFrame::Array(words.iter().cloned().map(BytesFrame::BulkString).collect());
            self.wire.feed(frame).await.map_err(|e| fail(&self.address, e.to_string()))?;
        }
        SinkExt::<BytesFrame>::flush(&mut self.wire).await.map_err(|e| fail(&self.address, e.to_string()))?;
        let mut replies = Vec::with_capacity(requests.len());
        while replies.len() < requests.len() {
            match timeout(PATIENCE, self.wire.next()).await {
                Ok(Some(Ok(reply))) => replies.push(reply),
                Ok(Some(Err(e))) => return Err(fail(&self.address, e.to_string())),
                Ok(None) => return Err(fail(&self.address, "the connection was closed".into())),
                Err(_) => return Err(fail(&self.address, format!("no answer within {} s", PATIENCE.as_secs()))),
            }
        }
        Ok(replies)
    }

    /// The same at a cluster: goes where it is redirected, and asks again what was refused for the moment.
    async fn insist(&mut self, mut requests: Vec<Request>) -> Result<Vec<BytesFrame>, String> {
        let (deadline, mut redirects) = (Instant::now() + RETRY.0, 0);
        let mut done: Vec<Option<BytesFrame>> = vec![None; requests.len()];
        let mut open: Vec<usize> = (0..requests.len()).collect();
        loop {
            let replies = self.pipeline(&requests).await?;
            let (mut moved, mut again, mut still) = (None, Vec::new(), Vec::new());
            for ((reply, words), at) in replies.into_iter().zip(requests).zip(open) {
                match &reply {
                    BytesFrame::Error(text) if text.starts_with("MOVED ") => {
                        moved = text.rsplit(' ').next().map(str::to_string)
                    }
                    BytesFrame::Error(text) if is_momentary(text) && Instant::now() < deadline => {}
                    BytesFrame::Error(text) if !text.starts_with("BUSYKEY") => {
                        return Err(format!("{}: {text}", self.address));
                    }
                    _ => {
                        done[at] = Some(reply);
                        continue;
                    }
                }
                again.push(words);
                still.push(at);
            }
            if again.is_empty() {
                return Ok(done.into_iter().flatten().collect());
            }
            if let Some(address) = moved {
                redirects += 1;
                if redirects > REDIRECTS_MAX {
                    return Err(format!("{}: redirected again and again, now to {address}", self.address));
                }
                *self = Peer::connect(&address, self.auth.clone()).await?;
            } else {
                sleep(RETRY.1).await;
            }
            (requests, open) = (again, still);
        }
    }
}

/// Errors after which nothing was executed, and which pass.
fn is_momentary(text: &str) -> bool {
    ["LOADING", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"].iter().any(|code| text.starts_with(code))
}

/// What is done with the keys of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Copy,
    Verify,
}

struct Import<'a> {
    args: &'a ImportArgs,
    from: Peer,
    to: Peer,
    report: Report,
}

impl Import<'_> {
    /// Looks at every key of the source.
    async fn all(&mut self, pass: Pass) -> Result<(), String> {
        let total = match self.from.call(&[b"DBSIZE"]).await? {
            BytesFrame::Integer(total) => total.max(0) as u64,
            other => return Err(format!("{}: DBSIZE answered {other:?}", self.from.address)),
        };
        let mut progress = Progress::new(if pass == Pass::Copy { "copied" } else { "verified" }, total);
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let words: [&[u8]; 6] =
                [b"SCAN", &cursor, b"MATCH", self.args.pattern.as_bytes(), b"COUNT", PAGE.as_bytes()];
            let page = self.from.call(&words).await?;
            let (next, keys) =
                read_page(page).ok_or_else(|| format!("{}: SCAN answered no page", self.from.address))?;
            let strings = self.strings(&keys, pass).await?;
            match pass {
                Pass::Copy => self.copy(strings).await?,
                Pass::Verify => self.verify(strings).await?,
            }
            progress.add(keys.len() as u64);
            if next.as_ref() == b"0" {
                progress.end();
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Those of the keys that hold strings; of the others, a note is made.
    async fn strings(&mut self, keys: &[Bytes], pass: Pass) -> Result<Vec<Bytes>, String> {
        let types = self.from.pipeline(&about(&["TYPE"], keys)).await?;
        let mut strings = Vec::new();
        for (key, reply) in keys.iter().zip(types) {
            let name = match reply {
                BytesFrame::SimpleString(name) => String::from_utf8_lossy(&name).into_owned(),
                other => return Err(format!("{}: TYPE answered {other:?}", self.from.address)),
            };
            match (&name[..], pass) {
                ("string", _) => strings.push(key.clone()),
                ("none", Pass::Copy) => self.report.gone += 1,
                ("none", Pass::Verify) => {}
                (_, Pass::Copy) => {}
                // A key may come twice while the source grows; the pass that nothing changes is the better count.
                (_, Pass::Verify) => self.report.refuse(name, key),
            }
        }
        Ok(strings)
    }

    async fn copy(&mut self, keys: Vec<Bytes>) -> Result<(), String> {
        let mut wanted = keys;
        if !self.args.replace {
            let there = self.to.insist(about(&["EXISTS"], &wanted)).await?;
            let mut there = there.iter().map(|reply| *reply == BytesFrame::Integer(1));
            let before = wanted.len();
            wanted.retain(|_| !there.next().unwrap_or(false));
            self.report.there += (before - wanted.len()) as u64;
        }
        let taken = self.from.pipeline(&about(&["PTTL", "DUMP"], &wanted)).await?;
        let mut restores = Vec::new();
        for (key, pair) in wanted.iter().zip(taken.chunks_exact(2)) {
            let (BytesFrame::Integer(left), BytesFrame::BulkString(payload)) = (&pair[0], &pair[1]) else {
                self.report.gone += 1;
                continue;
            };
            let ttl = match *left {
                -2 => {
                    self.report.gone += 1;
                    continue;
                }
                -1 => 0,
                left => left.max(1),
            };
            let ttl = Bytes::from(ttl.to_string());
            let mut words = vec![Bytes::from_static(b"RESTORE"), key.clone(), ttl, payload.clone()];
            words.extend(self.args.replace.then_some(Bytes::from_static(b"REPLACE")));
            restores.push(words);
        }
        for reply in self.to.insist(restores).await? {
            match reply {
                // Somebody else was faster.
                BytesFrame::Error(_) => self.report.there += 1,
                _ => self.report.copied += 1,
            }
        }
        Ok(())
    }

    async fn verify(&mut self, keys: Vec<Bytes>) -> Result<(), String> {
        let there = self.to.insist(about(&["EXISTS"], &keys)).await?;
        let missing =
            keys.iter().zip(there).filter(|(_, reply)| *reply != BytesFrame::Integer(1)).map(|(key, _)| key.clone());
        let missing: Vec<Bytes> = missing.collect();
        self.report.verified += (keys.len() - missing.len()) as u64;
        // What has ended meanwhile is missing at both sides.
        let still = self.from.pipeline(&about(&["EXISTS"], &missing)).await?;
        for (key, _) in missing.iter().zip(still).filter(|(_, reply)| *reply == BytesFrame::Integer(1)) {
            self.report.missing += 1;
            self.report.name_missing(key);
        }
        Ok(())
    }
}

/// Each of the commands for each of the keys.
fn about(commands: &[&str], keys: &[Bytes]) -> Vec<Request> {
    keys.iter().flat_map(|key| commands.iter().map(move |command| request(&[command.as_bytes(), key]))).collect()
}

/// Cursor and keys of SCAN's reply.
fn read_page(reply: BytesFrame) -> Option<(Bytes, Vec<Bytes>)> {
    let BytesFrame::Array(parts) = reply else { return None };
    let Ok([BytesFrame::BulkString(cursor), BytesFrame::Array(keys)]) = <[BytesFrame; 2]>::try_from(parts) else {
        return None;
    };
    let key = |frame| if let BytesFrame::BulkString(key) = frame { Some(key) } else { None };
    Some((cursor, keys.into_iter().map(key).collect::<Option<_>>()?))
}

/// What became of the keys.
#[derive(Debug, Default)]
struct Report {
    copied: u64,
    /// At the target before.
    there: u64,
    /// Ended or deleted while they were looked at.
    gone: u64,
    /// By type: how many, and the first of them.
    refused: BTreeMap<String, (u64, Vec<String>)>,
    verified: u64,
    missing: u64,
    missing_named: Vec<String>,
}

impl Report {
    fn refuse(&mut self, type_name: String, key: &[u8]) {
        let (count, named) = self.refused.entry(type_name).or_default();
        *count += 1;
        if named.len() < NAMED_MAX {
            named.push(key.escape_ascii().to_string());
        }
    }

    fn name_missing(&mut self, key: &[u8]) {
        if self.missing_named.len() < NAMED_MAX {
            self.missing_named.push(key.escape_ascii().to_string());
        }
    }

    fn text(&self) -> String {
        let mut out =
            format!("copied {}, at the target before {}, gone meanwhile {}\n", self.copied, self.there, self.gone);
        let more = |count: u64, named: &[String]| if count > named.len() as u64 { ", …" } else { "" };
        for (type_name, (count, named)) in &self.refused {
            // Writing into a String cannot fail.
            let _ =
                writeln!(out, "NOT copied, of type {type_name}: {count} ({}{})", named.join(", "), more(*count, named));
        }
        if self.missing > 0 {
            let named = &self.missing_named;
            let _ = writeln!(
                out,
                "MISSING at the target: {} ({}{})",
                self.missing,
                named.join(", "),
                more(self.missing, named)
            );
        }
        out
    }

    fn finish(&self, args: &ImportArgs) -> Result<String, String> {
        let text = self.text();
        if self.missing == 0 && self.refused.is_empty() {
            return Ok(format!("{text}verified: all {} keys of {} are at {}\n", self.verified, args.from, args.to));
        }
        Err(format!("not everything is at {}\n{}", args.to, text.trim_end()))
    }
}

/// A bar on a terminal; elsewhere nothing.
struct Progress {
    doing: &'static str,
    total: u64,
    done: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn new(doing: &'static str, total: u64) -> Progress {
        Progress { doing, total, done: 0, shown: None }
    }

    fn add(&mut self, keys: u64) {
        const EVERY: Duration = Duration::from_millis(100);
        self.done += keys;
        if self.shown.is_none_or(|shown| shown.elapsed() >= EVERY) {
            self.show();
        }
    }

    fn show(&mut self) {
        let mut out = std::io::stderr();
        self.shown = Some(Instant::now());
        if out.is_terminal() {
            let filled = (self.done.min(self.total) * BAR).checked_div(self.total).unwrap_or(BAR) as usize;
            let bar = "#".repeat(filled) + &".".repeat(BAR as usize - filled);
            // A terminal that is gone misses nothing.
            let _ = write!(out, "\r[{bar}] {} {} of {} keys", self.doing, self.done, self.total);
        }
    }

    fn end(&mut self) {
        self.show();
        let mut out = std::io::stderr();
        if out.is_terminal() {
            let _ = writeln!(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_urls_without_passwords() {
        let source = |address: &str, user: Option<&str>, database| {
            Ok(Source { address: address.into(), user: user.map(str::to_string), database })
        };
        assert_eq!(Source::parse("redis://h"), source("h:6379", None, 0));
        assert_eq!(Source::parse("redis://h:1/3"), source("h:1", None, 3));
        assert_eq!(Source::parse("redis://ann@h/"), source("h:6379", Some("ann"), 0));
        assert_eq!(Source::parse("redis://[::1]:7/0"), source("[::1]:7", None, 0));
        assert_eq!(Source::parse("redis://[::1]"), source("[::1]:6379", None, 0));
        for (url, why) in [
            ("h:1", "want redis://"),
            ("http://h", "want redis://"),
            ("rediss://h", "TLS"),
            ("redis://:secret@h", ENV_SOURCE_PASSWORD),
            ("redis://ann:secret@h", ENV_SOURCE_PASSWORD),
            ("redis://h/x", "a database is a number"),
        ] {
            let error = Source::parse(url).expect_err(url);
            assert!(error.contains(why) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn what_was_not_copied_is_named_and_fails() {
        let args = ImportArgs { from: "redis://h".into(), to: "t:1".into(), pattern: "*".into(), replace: false };
        let mut report = Report { copied: 3, verified: 3, ..Report::default() };
        assert!(report.finish(&args).expect("everything is there").contains("verified: all 3 keys"));
        (0..7).for_each(|i| report.refuse("hash".into(), format!("h{i}").as_bytes()));
        let text = report.finish(&args).expect_err("hashes are left");
        assert!(text.contains("NOT copied, of type hash: 7 (h0, h1, h2, h3, h4, …)"), "{text}");
    }
}
