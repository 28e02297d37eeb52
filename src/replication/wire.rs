//! Frames between nodes.
//!
//! ```text
//!        0         1      2       3          4            8          12            12+H
//! ┌──────┬─────────┬──────┬───────┬──────────┬────────────┬──────────┬─────────────┬───────────┐
//! │ len  │ version │ kind │ flags │ H (u8)   │ crc of the │ crc of   │ header      │ body      │
//! │ u32  │  u8     │  u8  │  u8   │          │ rest of it │ the body │ H bytes, LE │           │
//! └──────┴─────────┴──────┴───────┴──────────┴────────────┴──────────┴─────────────┴───────────┘
//!  big endian: the length-delimited codec's prefix; it counts everything after itself
//! ```
//! The first checksum covers bytes 0–3 and everything from byte 8 to the end of the header, the second the body, so that a
//! block's checksum is computed once and shared by all links. Both are CRC-32 (IEEE). Every header begins with the sender's
//! epoch. A message longer than [`FRAME_BYTES_MAX`] goes in parts: the header is repeated, [`FIRST`] and [`LAST`] mark the
//! ends. Handshake bodies are JSON: rare, and open to new fields; everything else is binary.
//!
//! Link: dialer → `open`; acceptor → `challenge`; dialer → `hello`; acceptor → `welcome` | `refused`; dialer → `accept`; then
//! `append`, `chunk`, `resign` one way and `ack`, `ask`, `stale` the other, and `publish` both ways between nodes that know it. Pulse: dialer → `pulse hello`; acceptor → `beat`; dialer → `echo`.
//! A shared secret is proven by HMAC-SHA-256 over both nonces, in `hello` and in `welcome`; it is never sent.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::base::clock::Wall;
use crate::base::ids::{CopyId, DatasetId, Epoch, HashKey, NodeId, Offset, Position};
use crate::base::limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX, MESSAGE_BYTES_MAX, OFFSET_MAX};

/// Wire version of this build; peers of another version are refused by name.
pub const VERSION: u8 = 1;
/// Flag of a message's first (or only) part.
pub const FIRST: u8 = 1;
/// Flag of a message's last (or only) part.
pub const LAST: u8 = 2;
/// Flag of the last chunk of a snapshot.
pub const END: u8 = 4;
/// Flag of an append whose sender was certain, by its lease, that nobody else led when it was sent: `acked` covers everything that was
/// acknowledged by then. Whoever does not know the flag ignores it.
pub const SURE: u8 = 8;
/// The word in `features` of who takes `publish` frames; nobody else is sent any.
pub const PUBLISH: &str = "publish";
/// The word of a build with the feature `next-version`.
pub const NOVELTY: &str = "novelty";

const FIXED: usize = 12;

/// Why a frame was not accepted. Who acts on it: the link is closed, and dialled again after a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError(pub String);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WireError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, WireError> {
    Err(WireError(text.into()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Open = 1,
    PulseHello,
    Challenge,
    Hello,
    Welcome,
    Refused,
    Accept,
    Append,
    Chunk,
    Ack,
    Stale,
    Beat,
    Echo,
    Resign,
    Ask,
    Publish,
    /// Of the next version.
    Novelty,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [
            Open, PulseHello, Challenge, Hello, Welcome, Refused, Accept, Append, Chunk, Ack, Stale, Beat, Echo,
            Resign, Ask, Publish,
        ]
        .into_iter()
        .chain(cfg!(feature = "next-version").then_some(Novelty))
        .find(|k| *k as u8 == byte)
    }
}

/// What a follower says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Cluster name.
    pub cluster: String,
    /// Group number.
    pub group: u16,
    /// Dataset of the copy; none if it holds nothing.
    pub dataset: Option<DatasetId>,
    /// The node.
    pub node: NodeId,
    /// The copy it holds; registered before this is sent.
    pub copy: CopyId,
    /// Epoch → first offset, of the retained log.
    pub epochs: Vec<(Epoch, Offset)>,
    /// Last entry of the log.
    pub last: Position,
    /// Up to where its store has taken effects in that cannot be undone.
    pub executed: Offset,
    /// Highest epoch it has seen.
    pub highest: Epoch,
    /// Its challenge to the leader, hex.
    pub nonce: String,
    /// Its answer to the leader's challenge, hex; empty without a secret.
    pub proof: String,
    /// What it can do beyond version 1; unknown words are ignored.
    #[serde(default)]
    pub features: Vec<String>,
    /// The newest cluster version that it knows.
    #[serde(default = "first_version")]
    pub speaks: u32,
}

fn first_version() -> u32 {
    1
}

/// How the follower is brought up to date. Gated: a leader uses a mode that version 1 does not have only if the hello's features name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Its log is a prefix of the leader's: entries follow after its last.
    #[cfg_attr(feature = "next-version", serde(alias = "novelty"))]
    Stream,
    /// It drops every entry after this offset; then entries follow.
    Truncate(Offset),
    /// It holds nothing: chunks and entries follow; the log begins after this position.
    Full(Position),
}

/// The leader takes the follower on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Dataset it will hold.
    pub dataset: DatasetId,
    /// Hash key of the dataset, hex.
    pub hash_key: String,
    /// What follows.
    pub mode: Mode,
    /// Token for the pulse connection, hex.
    pub token: String,
    /// The leader's answer to the follower's challenge, hex.
    pub proof: String,
    /// Keys in the leader's store, for progress of a full resync.
    pub keys: u64,
    /// The leader reads without leases for as long as it leads this epoch (`read_mode: confirm`): no promise needs to be kept.
    #[serde(default)]
    pub confirms: bool,
    /// What the leader can do beyond version 1; unknown words are ignored.
    #[serde(default)]
    pub features: Vec<String>,
}

/// Why a hello was not accepted. Open: what is not known is [`Reason::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// This node does not lead, or leads a lower epoch.
    NotLeader,
    /// Another cluster or group.
    WrongCluster,
    /// The secret's proof is wrong or missing.
    WrongSecret,
    /// The copy cannot be continued: it has to be given up for a new one.
    FullResyncNeeded,
    /// The copy cannot be continued and is still named: it is being un-named, ask again.
    StillNamed,
    /// It has to wait before it is filled: the load has outrun it. Ask again.
    Later,
    /// Its program is too old for its cluster.
    TooOld,
    /// A reason of a later version. Ask again.
    Other,
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Reason, D::Error> {
        Ok(match String::deserialize(d)?.as_str() {
            "not_leader" => Reason::NotLeader,
            "wrong_cluster" => Reason::WrongCluster,
            "wrong_secret" => Reason::WrongSecret,
            "full_resync_needed" => Reason::FullResyncNeeded,
            "still_named" => Reason::StillNamed,
            "later" => Reason::Later,
            "too_old" => Reason::TooOld,
            _ => Reason::Other,
        })
    }
}

/// Answer to a hello that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For the program.
    pub reason: Reason,
    /// For the log.
    pub text: String,
}

/// Entries, or none: a heartbeat that carries the commit position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendHead {
    /// Epoch of the leader that sends.
    pub epoch: Epoch,
    /// Epoch in which these entries were appended.
    pub entry_epoch: Epoch,
    /// Epoch of the entry before the first one.
    pub prev_epoch: Epoch,
    /// Offset of the first entry; for a heartbeat, of the next one.
    pub first: Offset,
    /// Number of entries.
    pub count: u32,
    /// Up to where replicas may apply.
    pub acked: Offset,
    /// The leader's boot clock at sending, ns.
    pub sent_at: u64,
    /// The leader's clock for expiry.
    pub clock: Wall,
    /// Bytes of the whole message.
    pub total: u64,
}

/// A piece of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkHead {
    /// Epoch of the leader that sends.
    pub epoch: Epoch,
    /// First hash of the range.
    pub from: u64,
    /// First hash after the range; meaningless with [`END`].
    pub upto: u64,
    /// The leader's log end when the range was read.
    pub as_of: Offset,
    /// Keys in it.
    pub keys: u32,
    /// Up to where replicas may apply.
    pub acked: Offset,
    /// The leader's boot clock at sending, ns.
    pub sent_at: u64,
    /// Its clock for expiry when the range was read.
    pub clock: Wall,
    /// Bytes of the whole message.
    pub total: u64,
}

/// What was published to a channel. The body is the channel, then the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishHead {
    /// Epoch of the sender, or of its leader.
    pub epoch: Epoch,
    /// It is a shard channel.
    pub sharded: bool,
    /// Bytes of the channel.
    pub channel: u32,
    /// Bytes of both.
    pub total: u64,
}

/// A follower's cumulative acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Epoch it follows.
    pub epoch: Epoch,
    /// Its copy.
    pub copy: CopyId,
    /// Up to where its log is known to equal the leader's, in this epoch. Never its log end.
    pub matched: Offset,
    /// Up to where its store is.
    pub applied: Offset,
    /// The leader's clock that it last received, ns.
    pub sent_at: u64,
    /// How long it promised not to stand, ms.
    pub promise_ms: u32,
    /// The highest clock for expiry that it has heard from a leader or used itself: should it lead, it begins no lower.
    pub clock: Wall,
    /// Whether the last chunk of its snapshot has arrived, or there was none.
    pub whole: bool,
}

/// A heartbeat on the pulse connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Epoch of the leader.
    pub epoch: Epoch,
    /// Its boot clock at sending, ns.
    pub sent_at: u64,
    /// Its wall clock, and by how much that is ahead of the clock for expiry, ms; an older version does not say.
    pub wall: Option<(Wall, i64)>,
}

/// The answer to a [`Beat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Epoch it follows.
    pub epoch: Epoch,
    /// Its copy.
    pub copy: CopyId,
    /// The beat's clock, ns.
    pub sent_at: u64,
    /// How long it promised not to stand, ms.
    pub promise_ms: u32,
    /// Its wall clock; an older version does not say.
    pub wall: Option<Wall>,
}

/// The leader hands over to the follower that it sends this to: from here on it answers nothing in this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resign {
    /// Its epoch.
    pub epoch: Epoch,
    /// The end of its log. Unless it leaves the set, every member of it has confirmed that.
    pub last: Position,
    /// Whether it leaves the in-sync set: its process ends, or it can no longer lead.
    pub leaving: bool,
}

/// What a follower asks its leader for, or offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wish {
    /// To be taken out of the in-sync set: its process ends.
    Leave = 1,
    /// To be handed the leadership.
    Lead,
    /// To succeed a leader that loses the coordination service: this node has contact to it.
    Succeed,
    /// Not that any more.
    Decline,
    /// Something that this build does not know, and does not do.
    Other,
}

/// A decoded frame. `Append`, `Chunk` and `Publish` are single parts: [`Assembler`] joins them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of a link.
    Open,
    /// First frame of a pulse connection.
    PulseHello(u128),
    /// The acceptor's challenge.
    Challenge([u8; 16]),
    /// See [`Hello`].
    Hello(Box<Hello>),
    /// See [`Welcome`].
    Welcome(Epoch, Box<Welcome>),
    /// See [`Refused`]; the epoch is the highest that the refusing node has seen.
    Refused(Epoch, Refused),
    /// The follower has registered what it will hold: data may flow.
    Accept(Epoch),
    /// See [`AppendHead`].
    Append(u8, AppendHead, Bytes),
    /// See [`ChunkHead`].
    Chunk(u8, ChunkHead, Bytes),
    /// See [`Ack`].
    Ack(Ack),
    /// The sender has seen this higher epoch.
    Stale(Epoch),
    /// See [`Beat`].
    Beat(Beat),
    /// See [`Echo`].
    Echo(Echo),
    /// See [`Resign`].
    Resign(Resign),
    /// A follower of this epoch asks for something.
    Ask(Epoch, Wish),
    /// See [`PublishHead`].
    Publish(u8, PublishHead, Bytes),
}

impl Frame {
    /// What it is called in error texts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Frame::Open => "open",
            Frame::PulseHello(_) => "pulse hello",
            Frame::Challenge(_) => "challenge",
            Frame::Hello(_) => "hello",
            Frame::Welcome(..) => "welcome",
            Frame::Refused(..) => "refused",
            Frame::Accept(_) => "accept",
            Frame::Append(..) => "append",
            Frame::Chunk(..) => "chunk",
            Frame::Ack(_) => "ack",
            Frame::Stale(_) => "stale",
            Frame::Beat(_) => "beat",
            Frame::Echo(_) => "echo",
            Frame::Resign(_) => "resign",
            Frame::Ask(..) => "ask",
            Frame::Publish(..) => "publish",
        }
    }
}

/// What an incoming connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A replication link.
    Link,
    /// A pulse connection with this token.
    Pulse(u128),
}

fn head(kind: Kind, flags: u8, header: &[u8], body_crc: u32, body_len: usize) -> Bytes {
    assert!(header.len() <= usize::from(u8::MAX) && FIXED + header.len() <= FRAME_HEADER_BYTES_MAX);
    assert!(body_len <= FRAME_BYTES_MAX, "a frame's body is at most {FRAME_BYTES_MAX} bytes");
    let mut out = BytesMut::with_capacity(4 + FIXED + header.len());
    out.put_u32((FIXED + header.len() + body_len) as u32);
    out.put_slice(&[VERSION, kind as u8, flags, header.len() as u8]);
    out.put_u32_le(0);
    out.put_u32_le(body_crc);
    out.put_slice(header);
    let crc = head_crc(&out[4..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out.freeze()
}

fn head_crc(frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..4]);
    crc.update(&frame[8..]);
    crc.finalize()
}

fn small(kind: Kind, epoch: Epoch, header: &[u8], body: &[u8]) -> Bytes {
    let mut head_bytes = epoch.0.to_le_bytes().to_vec();
    head_bytes.extend_from_slice(header);
    let head = head(kind, FIRST | LAST, &head_bytes, crc32fast::hash(body), body.len());
    if body.is_empty() {
        return head;
    }
    let mut out = BytesMut::from(&head[..]);
    out.put_slice(body);
    out.freeze()
}

fn json<T: Serialize>(kind: Kind, epoch: Epoch, value: &T) -> Bytes {
    small(kind, epoch, &[], &serde_json::to_vec(value).expect("handshakes have only string keys"))
}

/// First frame of a link, with its length prefix, as everything that encodes here.
#[must_use]
pub fn link_open() -> Bytes {
    small(Kind::Open, Epoch(0), &[], &[])
}

/// First frame of a pulse connection.
#[must_use]
pub fn pulse_hello(token: u128) -> Bytes {
    small(Kind::PulseHello, Epoch(0), &token.to_le_bytes(), &[])
}

/// The acceptor's challenge.
#[must_use]
pub fn challenge(nonce: &[u8; 16]) -> Bytes {
    small(Kind::Challenge, Epoch(0), nonce, &[])
}

/// A hello.
#[must_use]
pub fn hello(hello: &Hello) -> Bytes {
    json(Kind::Hello, hello.highest, hello)
}

/// A welcome. `peer`: the features that the hello named.
#[must_use]
pub fn welcome(epoch: Epoch, welcome: &Welcome, peer: &[String]) -> Bytes {
    if cfg!(feature = "next-version") && welcome.mode == Mode::Stream && peer.iter().any(|word| word == NOVELTY) {
        let mut gated = serde_json::to_value(welcome).expect("handshakes have only string keys");
        gated["mode"] = NOVELTY.into();
        return json(Kind::Welcome, epoch, &gated);
    }
    json(Kind::Welcome, epoch, welcome)
}

/// A refusal.
#[must_use]
pub fn refused(highest: Epoch, refused: &Refused) -> Bytes {
    json(Kind::Refused, highest, refused)
}

/// The follower is ready for data.
#[must_use]
pub fn accept(epoch: Epoch) -> Bytes {
    small(Kind::Accept, epoch, &[], &[])
}

/// The sender has seen `epoch`, which is higher than what it was sent.
#[must_use]
pub fn stale(epoch: Epoch) -> Bytes {
    small(Kind::Stale, epoch, &[], &[])
}

/// An acknowledgement.
#[must_use]
pub fn ack(ack: &Ack) -> Bytes {
    let mut h = Vec::with_capacity(56);
    h.put_u128_le(ack.copy.0);
    for n in [ack.matched.0, ack.applied.0, ack.sent_at, ack.clock.0] {
        h.put_u64_le(n);
    }
    h.put_u32_le(ack.promise_ms);
    h.put_u8(u8::from(ack.whole));
    small(Kind::Ack, ack.epoch, &h, &[])
}

/// A heartbeat on the pulse connection.
#[must_use]
pub fn beat(beat: &Beat) -> Bytes {
    let mut h = Vec::with_capacity(24);
    h.put_u64_le(beat.sent_at);
    if let Some((wall, ahead_ms)) = beat.wall {
        h.put_u64_le(wall.0);
        h.put_i64_le(ahead_ms);
    }
    small(Kind::Beat, beat.epoch, &h, &[])
}

/// Its echo.
#[must_use]
pub fn echo(echo: &Echo) -> Bytes {
    let mut h = Vec::with_capacity(36);
    h.put_u128_le(echo.copy.0);
    h.put_u64_le(echo.sent_at);
    h.put_u32_le(echo.promise_ms);
    if let Some(wall) = echo.wall {
        h.put_u64_le(wall.0);
    }
    small(Kind::Echo, echo.epoch, &h, &[])
}

/// The leader hands over.
#[must_use]
pub fn resign(r: &Resign) -> Bytes {
    let mut h = Vec::with_capacity(17);
    h.put_u64_le(r.last.epoch.0);
    h.put_u64_le(r.last.offset.0);
    h.put_u8(u8::from(r.leaving));
    small(Kind::Resign, r.epoch, &h, &[])
}

/// A follower asks for something.
#[must_use]
pub fn ask(epoch: Epoch, wish: Wish) -> Bytes {
    small(Kind::Ask, epoch, &[wish as u8], &[])
}

/// A frame of a kind that version 1 does not have, from a follower.
#[must_use]
pub fn novelty(epoch: Epoch) -> Bytes {
    small(Kind::Novelty, epoch, &[], &[])
}

/// The frame head of (a part of) an append; the body follows as it is.
#[must_use]
pub fn append_head(flags: u8, a: &AppendHead, body_crc: u32, body_len: usize) -> Bytes {
    let mut h = [0u8; 68];
    let mut w = &mut h[..];
    for n in [a.epoch.0, a.entry_epoch.0, a.prev_epoch.0, a.first.0] {
        w.put_u64_le(n);
    }
    w.put_u32_le(a.count);
    for n in [a.acked.0, a.sent_at, a.clock.0, a.total] {
        w.put_u64_le(n);
    }
    head(Kind::Append, flags, &h, body_crc, body_len)
}

/// The frame head of (a part of) a chunk; the body follows as it is.
#[must_use]
pub fn chunk_head(flags: u8, c: &ChunkHead, body_crc: u32, body_len: usize) -> Bytes {
    let mut h = [0u8; 68];
    let mut w = &mut h[..];
    for n in [c.epoch.0, c.from, c.upto, c.as_of.0] {
        w.put_u64_le(n);
    }
    w.put_u32_le(c.keys);
    for n in [c.acked.0, c.sent_at, c.clock.0, c.total] {
        w.put_u64_le(n);
    }
    head(Kind::Chunk, flags, &h, body_crc, body_len)
}

/// What was published, as whole frames.
///
/// # Panics
/// The channel is 4 GiB long, or longer: the parser takes none of that size.
#[must_use]
pub fn publish(epoch: Epoch, sharded: bool, channel: &[u8], message: &[u8]) -> Vec<Bytes> {
    let body = [channel, message].concat();
    let mut h = Vec::with_capacity(21);
    h.put_u64_le(epoch.0);
    h.put_u8(u8::from(sharded));
    h.put_u32_le(u32::try_from(channel.len()).expect("a channel fits a bulk"));
    h.put_u64_le(body.len() as u64);
    let parts = body.len().div_ceil(FRAME_BYTES_MAX).max(1);
    let frame = |i: usize| {
        let part = &body[i * FRAME_BYTES_MAX..body.len().min((i + 1) * FRAME_BYTES_MAX)];
        let flags = if i == 0 { FIRST } else { 0 };
        let flags = if i + 1 == parts { flags | LAST } else { flags };
        let mut out = BytesMut::from(&head(Kind::Publish, flags, &h, crc32fast::hash(part), part.len())[..]);
        out.put_slice(part);
        out.freeze()
    };
    (0..parts).map(frame).collect()
}

/// Reads numbers off a header; asking for more than is there is an error, never a panic.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.0.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(*head)
            }
            None => wrong("frame header is too short for its kind"),
        }
    }
    /// Whether nothing is left: what a later version has added at the end may be absent.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.take()?))
    }
    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.take()?))
    }
    fn offset(&mut self) -> Result<Offset, WireError> {
        let offset = Offset(self.u64()?);
        if offset > OFFSET_MAX { wrong(format!("offset {offset} is not one of a log")) } else { Ok(offset) }
    }
    fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.take()?))
    }
}

/// Reads one frame, given without its length prefix.
///
/// # Errors
/// Wrong version, unknown kind, a checksum that does not match, a header or body that does not fit its kind.
pub fn decode(frame: &Bytes) -> Result<Frame, WireError> {
    if frame.len() < FIXED {
        return wrong(format!("frame of {} bytes is too short", frame.len()));
    }
    if frame[0] != VERSION {
        return wrong(format!("peer speaks wire version {}, this node {VERSION}", frame[0]));
    }
    let header_end = FIXED + usize::from(frame[3]);
    if frame.len() < header_end || frame.len() - header_end > FRAME_BYTES_MAX {
        return wrong("frame lengths do not add up");
    }
    let stored = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    if head_crc(&frame[..header_end]) != stored(4) {
        return wrong("frame header fails its checksum");
    }
    let body = frame.slice(header_end..);
    if crc32fast::hash(&body) != stored(8) {
        return wrong("frame body fails its checksum");
    }
    let Some(kind) = Kind::of(frame[1]) else { return wrong(format!("unknown frame kind {}", frame[1])) };
    let flags = frame[2];
    let mut r = Reader(&frame[FIXED..header_end]);
    let epoch = Epoch(r.u64()?);
    let text = |e: serde_json::Error| WireError(format!("unreadable handshake: {e}"));
    Ok(match kind {
        Kind::Open => Frame::Open,
        Kind::PulseHello => Frame::PulseHello(r.u128()?),
        Kind::Challenge => Frame::Challenge(r.take()?),
        Kind::Hello => Frame::Hello(serde_json::from_slice(&body).map_err(text)?),
        Kind::Welcome => Frame::Welcome(epoch, serde_json::from_slice(&body).map_err(text)?),
        Kind::Refused => Frame::Refused(epoch, serde_json::from_slice(&body).map_err(text)?),
        Kind::Accept => Frame::Accept(epoch),
        Kind::Append => {
            let head = AppendHead {
                epoch,
                entry_epoch: Epoch(r.u64()?),
                prev_epoch: Epoch(r.u64()?),
                first: r.offset()?,
                count: r.u32()?,
                acked: r.offset()?,
                sent_at: r.u64()?,
                clock: Wall(r.u64()?),
                total: r.u64()?,
            };
            Frame::Append(flags, head, body)
        }
        Kind::Chunk => {
            let head = ChunkHead {
                epoch,
                from: r.u64()?,
                upto: r.u64()?,
                as_of: r.offset()?,
                keys: r.u32()?,
                acked: r.offset()?,
                sent_at: r.u64()?,
                clock: Wall(r.u64()?),
                total: r.u64()?,
            };
            Frame::Chunk(flags, head, body)
        }
        Kind::Ack => Frame::Ack(Ack {
            epoch,
            copy: CopyId(r.u128()?),
            matched: r.offset()?,
            applied: r.offset()?,
            sent_at: r.u64()?,
            clock: Wall(r.u64()?),
            promise_ms: r.u32()?,
            whole: r.take::<1>()? != [0],
        }),
        Kind::Stale => Frame::Stale(epoch),
        Kind::Beat => {
            let sent_at = r.u64()?;
            let wall = if r.is_empty() { None } else { Some((Wall(r.u64()?), i64::from_le_bytes(r.take()?))) };
            Frame::Beat(Beat { epoch, sent_at, wall })
        }
        Kind::Resign => Frame::Resign(Resign {
            epoch,
            last: Position { epoch: Epoch(r.u64()?), offset: r.offset()? },
            leaving: r.take::<1>()? != [0],
        }),
        Kind::Ask => match r.take::<1>()? {
            [1] => Frame::Ask(epoch, Wish::Leave),
            [2] => Frame::Ask(epoch, Wish::Lead),
            [3] => Frame::Ask(epoch, Wish::Succeed),
            [4] => Frame::Ask(epoch, Wish::Decline),
            // Open: a wish of a later version is heard, and not done.
            [_] => Frame::Ask(epoch, Wish::Other),
        },
        // It asks for nothing that anybody does.
        Kind::Novelty => Frame::Ask(epoch, Wish::Other),
        Kind::Publish => {
            let (sharded, channel, total) = (r.take::<1>()? != [0], r.u32()?, r.u64()?);
            Frame::Publish(flags, PublishHead { epoch, sharded, channel, total }, body)
        }
        Kind::Echo => {
            let (copy, sent_at, promise_ms) = (CopyId(r.u128()?), r.u64()?, r.u32()?);
            let wall = if r.is_empty() { None } else { Some(Wall(r.u64()?)) };
            Frame::Echo(Echo { epoch, copy, sent_at, promise_ms, wall })
        }
    })
}

/// Reads the first frame of an incoming connection.
///
/// # Errors
/// It is neither `open` nor `pulse hello`, or not a frame at all.
pub fn opening(frame: &[u8]) -> Result<Opening, WireError> {
    match decode(&Bytes::copy_from_slice(frame))? {
        Frame::Open => Ok(Opening::Link),
        Frame::PulseHello(token) => Ok(Opening::Pulse(token)),
        _ => wrong("first frame is neither open nor pulse hello"),
    }
}

/// Joins the parts of one message at a time. The buffer grows with what has arrived, never with what was announced.
#[derive(Debug, Default)]
pub struct Assembler {
    buffer: BytesMut,
    open: bool,
}

impl Assembler {
    /// Takes a part in; returns the whole body once the last part is there.
    ///
    /// # Errors
    /// A part without a beginning, a beginning inside a message, or more bytes than `total` or [`MESSAGE_BYTES_MAX`].
    pub fn join(&mut self, flags: u8, total: u64, body: Bytes) -> Result<Option<Bytes>, WireError> {
        let (first, last) = (flags & FIRST != 0, flags & LAST != 0);
        if first == self.open {
            return wrong("parts of a message out of order");
        }
        let size = self.buffer.len() as u64 + body.len() as u64;
        if total > MESSAGE_BYTES_MAX as u64 || size > total || (last && size != total) {
            return wrong(format!("message of {total} bytes, {size} arrived"));
        }
        if first && last {
            return Ok(Some(body));
        }
        self.buffer.extend_from_slice(&body);
        self.open = !last;
        Ok(last.then(|| std::mem::take(&mut self.buffer).freeze()))
    }
}

/// Proof of knowing the secret, for one handshake: HMAC-SHA-256 over who answers and both nonces, hex. Empty without a secret.
#[must_use]
pub fn proof(secret: Option<&[u8]>, who: &str, challenge: &[u8], answer: &[u8]) -> String {
    let Some(secret) = secret else { return String::new() };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(who.as_bytes());
    mac.update(&[0]);
    mac.update(challenge);
    mac.update(answer);
    hex(&mac.finalize().into_bytes())
}

/// Compares two proofs in time that does not depend on where they differ.
#[must_use]
pub fn same_proof(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from_digit(u32::from(d), 16).expect("below 16")).collect()
}

/// Sixteen bytes from 32 hex digits.
///
/// # Errors
/// Anything else.
pub fn unhex16(text: &str) -> Result<[u8; 16], WireError> {
    match text.parse::<CopyId>() {
        Ok(id) => Ok(id.0.to_be_bytes()),
        Err(e) => wrong(e),
    }
}

/// The hash key in a welcome.
///
/// # Errors
/// It is not 32 hex digits.
pub fn hash_key(welcome: &Welcome) -> Result<HashKey, WireError> {
    unhex16(&welcome.hash_key).map(HashKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::jitter::Jitter;

    fn strip(frame: &Bytes) -> Bytes {
        assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
        frame.slice(4..)
    }

    #[test]
    fn every_frame_reads_back_what_was_written() {
        let a = Ack {
            epoch: Epoch(3),
            copy: CopyId(9),
            matched: Offset(4),
            applied: Offset(2),
            sent_at: 77,
            promise_ms: 500,
            clock: Wall(6),
            whole: true,
        };
        assert_eq!(decode(&strip(&ack(&a))), Ok(Frame::Ack(a)));
        assert_eq!(decode(&strip(&stale(Epoch(8)))), Ok(Frame::Stale(Epoch(8))));
        assert_eq!(opening(&strip(&pulse_hello(5))), Ok(Opening::Pulse(5)));
        assert_eq!(opening(&strip(&link_open())), Ok(Opening::Link));
        let h = AppendHead {
            epoch: Epoch(1),
            first: Offset(6),
            count: 2,
            clock: Wall(8),
            total: 3,
            ..AppendHead::default()
        };
        let mut bytes = BytesMut::from(&append_head(FIRST | LAST, &h, crc32fast::hash(b"abc"), 3)[..]);
        bytes.put_slice(b"abc");
        assert_eq!(decode(&strip(&bytes.freeze())), Ok(Frame::Append(3, h, Bytes::from_static(b"abc"))));
        let h = PublishHead { epoch: Epoch(2), sharded: true, channel: 2, total: 5 };
        let frames = publish(Epoch(2), true, b"ch", b"msg");
        assert_eq!(frames.len(), 1);
        assert_eq!(decode(&strip(&frames[0])), Ok(Frame::Publish(FIRST | LAST, h, Bytes::from_static(b"chmsg"))));
    }

    #[test]
    fn pulses_are_read_with_wall_clocks_and_without_as_an_older_version_sends_them() {
        for wall in [None, Some((Wall(5), -7))] {
            let b = Beat { epoch: Epoch(3), sent_at: 77, wall };
            assert_eq!(decode(&strip(&beat(&b))), Ok(Frame::Beat(b)));
            let wall = wall.map(|w| w.0);
            let e = Echo { epoch: Epoch(3), copy: CopyId(9), sent_at: 77, promise_ms: 500, wall };
            assert_eq!(decode(&strip(&echo(&e))), Ok(Frame::Echo(e)));
        }
    }

    #[test]
    fn big_message_goes_in_parts_that_join() {
        for len in [0, 1, FRAME_BYTES_MAX - 2, FRAME_BYTES_MAX - 1, 3 * FRAME_BYTES_MAX] {
            let message: Vec<u8> = (0..len).map(|i| (i / 3) as u8).collect();
            let mut assembler = Assembler::default();
            let mut joined = None;
            for frame in publish(Epoch(1), false, b"ch", &message) {
                assert!(joined.is_none());
                let Ok(Frame::Publish(flags, head, body)) = decode(&strip(&frame)) else { panic!("{frame:?}") };
                joined = assembler.join(flags, head.total, body).unwrap();
            }
            assert!(joined.unwrap() == [b"ch", &message[..]].concat(), "{len}");
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let e = Echo { epoch: Epoch(3), copy: CopyId(9), sent_at: 77, promise_ms: 500, wall: Some(Wall(5)) };
        let good = strip(&echo(&e));
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(bad)).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut rng = Jitter::new(1);
        for _ in 0..20_000 {
            let len = rng.below(80) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            assert!(decode(&Bytes::from(bytes)).is_err());
        }
    }

    #[test]
    fn parts_join_only_in_order_and_only_up_to_the_announced_size() {
        let mut a = Assembler::default();
        assert!(a.join(LAST, 2, Bytes::from_static(b"x")).is_err());
        assert_eq!(a.join(FIRST, 3, Bytes::from_static(b"ab")), Ok(None));
        assert_eq!(a.join(LAST, 3, Bytes::from_static(b"c")), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(a.join(FIRST, 2, Bytes::from_static(b"a")), Ok(None));
        assert!(a.join(LAST, 2, Bytes::from_static(b"bc")).is_err());
        assert!(Assembler::default().join(FIRST, u64::MAX, Bytes::new()).is_err());
    }

    #[test]
    fn proof_depends_on_secret_side_and_both_nonces() {
        let p = proof(Some(b"s"), "hello", b"1", b"2");
        assert!(same_proof(&p, &proof(Some(b"s"), "hello", b"1", b"2")));
        for other in [
            proof(Some(b"t"), "hello", b"1", b"2"),
            proof(Some(b"s"), "welcome", b"1", b"2"),
            proof(Some(b"s"), "hello", b"3", b"2"),
            proof(None, "hello", b"1", b"2"),
        ] {
            assert!(!same_proof(&p, &other));
        }
    }
}
