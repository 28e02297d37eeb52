//! Links: handshakes, frames in, bytes out.
//!
//! Bytes out are pulled: whoever has something for a link marks it and emits one [`Effect::WakeLink`]; the link's writer then
//! asks [`Keeper::poll_link`] until it is idle. So one turn of the runtime makes one write per link, whatever happened in it,
//! and a slow peer costs no memory: what it has not taken stays in the log.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{CopyId, Epoch, LinkId, Offset};
use crate::base::limits::{
    FRAME_BYTES_MAX, HELLO_MS, LINK_BYTES_PER_TURN, OFFSET_MAX, PUBLISHED_BYTES_MAX, PUBLISHED_BYTES_PER_TURN,
    STRANGERS_MAX,
};
use crate::base::rules::Rule;
use crate::base::segments::Segments;
use crate::cluster::state::Member;
use crate::cluster::version::{NEWEST, too_old};
use crate::replication::log::Log;
use crate::replication::resync::{Resync, View, decide};
use crate::replication::wire::{
    self, AppendHead, Assembler, ChunkHead, END, FIRST, Frame, Hello, LAST, Mode, NOVELTY, PUBLISH, PublishHead,
    Reason, Refused, SURE, Welcome, WireError,
};

use super::leading::Follower;
use super::{Effect, Effects, Keeper, Notice, ReadMode};

/// What a link's writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPoll {
    /// Wait for the next wake.
    Idle,
    /// Write these bytes, then ask again.
    More,
    /// The link is unknown: close the socket.
    Gone,
}

/// One replication connection, in either direction.
#[derive(Debug)]
pub(super) struct Link {
    /// Set for links that were accepted: what will be asked of the other side.
    accepted: Option<Accepted>,
    outbox: VecDeque<Bytes>,
    woken: bool,
    ack_due: bool,
    /// Randomness for our side of the handshake.
    nonce: [u8; 16],
    /// The other side's challenge; hello is sent once this copy is registered.
    challenge: Option<[u8; 16]>,
    assembler: Assembler,
    stream: Option<Stream>,
    published: Published,
    /// The leader at the other side knows what the next version has.
    pub novel: bool,
    /// A refused follower asks again on a new link; this one closes once the refusal is out.
    closing: bool,
}

#[derive(Debug)]
pub(super) struct Accepted {
    token: u128,
    /// The other side has not said who it is, and has until then for it.
    hello_by: Option<Boot>,
}

impl Link {
    /// Until when a stranger may stay: the other side of an accepted link that said no hello yet.
    fn stranger_until(&self) -> Option<Boot> {
        self.accepted.as_ref()?.hello_by
    }

    /// Whether data flows out on it.
    fn is_open(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.open)
    }

    /// Whether nothing waits to be sent on it but what comes from the log.
    pub fn is_silent(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether it leads to a follower that takes what is published.
    pub fn takes_published(&self) -> bool {
        self.published.understood && self.is_open()
    }
}

/// What is published over one link.
#[derive(Debug, Default)]
struct Published {
    /// The other side said that it knows these frames.
    understood: bool,
    /// Whole frames that were not sent yet, and their bytes.
    frames: VecDeque<Bytes>,
    bytes: usize,
    assembler: Assembler,
}

/// The leader's side of a link on which data flows.
#[derive(Debug)]
struct Stream {
    copy: CopyId,
    /// Whether the follower has said that it is ready for data.
    open: bool,
    /// Next entry to send.
    next: Offset,
    /// A message of which parts are still to be sent.
    parts: Option<Parts>,
    /// First hash of the next chunk; `None` when there are none (left).
    chunk_from: Option<u64>,
    acked_sent: Offset,
    sent_at: Boot,
}

#[derive(Debug)]
enum Head {
    Append(AppendHead),
    Chunk(ChunkHead, bool),
}

#[derive(Debug)]
struct Parts {
    head: Head,
    pieces: VecDeque<Bytes>,
    left: usize,
    first: bool,
    crc: Option<u32>,
    /// Last entry in it, for entries.
    last: Option<Offset>,
}

impl Keeper {
    pub(super) fn new_link(&mut self, nonce: [u8; 16], accepted: Option<Accepted>) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let link = Link {
            outbox: VecDeque::new(),
            woken: false,
            ack_due: false,
            nonce,
            accepted,
            challenge: None,
            assembler: Assembler::default(),
            stream: None,
            published: Published::default(),
            novel: false,
            closing: false,
        };
        self.links.insert(id, link);
        id
    }

    /// A connection was accepted whose first frame asked for a link; `nonce` and `token` are from the operating system. Poll the
    /// link at once: its challenge waits. One stranger too many takes the place of the one that has waited longest.
    pub fn link_accepted(&mut self, now: Now, nonce: [u8; 16], token: u128, fx: &mut Effects) -> LinkId {
        if self.strangers().count() >= STRANGERS_MAX
            && let Some((oldest, _)) = self.oldest_stranger()
        {
            self.close_stranger(now, oldest, "too many links of which nobody said who it is", fx);
        }
        let id = self.new_link(nonce, Some(Accepted { token, hello_by: Some(now.boot.plus_ms(HELLO_MS)) }));
        let link = self.links.get_mut(&id).expect("just made");
        link.outbox.push_back(wire::challenge(&nonce));
        id
    }

    /// Accepted links on which no hello was said, and until when it may come; those that wait longest first.
    fn strangers(&self) -> impl Iterator<Item = (LinkId, Boot)> {
        self.links.iter().filter_map(|(id, link)| Some((*id, link.stranger_until()?)))
    }

    /// When the next stranger has to go.
    pub(super) fn stranger_until(&self) -> Option<Boot> {
        self.oldest_stranger().map(|(_, until)| until)
    }

    fn oldest_stranger(&self) -> Option<(LinkId, Boot)> {
        self.strangers().next()
    }

    /// Closes the links whose time to say hello is over.
    pub(super) fn close_strangers(&mut self, now: Now, fx: &mut Effects) {
        while let Some((link, _)) = self.oldest_stranger().filter(|(_, until)| now.boot >= *until) {
            self.close_stranger(now, link, "nobody said who it is", fx);
        }
    }

    fn close_stranger(&mut self, now: Now, link: LinkId, why: &str, fx: &mut Effects) {
        if self.told.is_news(now.boot, why) {
            fx.push(Notice::warn(format!("closing link {link}: {why}")));
        }
        self.hang_up(link, fx);
    }

    pub(super) fn on_link_up(&mut self, link: LinkId, nonce: [u8; 16]) {
        if let Some(l) = self.links.get_mut(&link) {
            l.nonce = nonce;
        }
    }

    pub(super) fn on_link_down(&mut self, now: Now, link: LinkId, reason: &str, fx: &mut Effects) {
        if self.links.remove(&link).is_none() {
            return;
        }
        if self.following.as_ref().is_some_and(|f| f.link == Some(link)) {
            self.on_leader_link_down(now, reason, fx);
        }
        self.follower_link_down(now, link);
    }

    /// Whether data flows out on this link.
    pub(super) fn is_open(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(Link::is_open)
    }

    /// Closes a link from this side.
    pub(super) fn hang_up(&mut self, link: LinkId, fx: &mut Effects) {
        if self.links.remove(&link).is_some() {
            fx.push(Effect::Hangup(link));
        }
    }

    pub(super) fn send(&mut self, link: LinkId, frame: Bytes, fx: &mut Effects) {
        if let Some(l) = self.links.get_mut(&link) {
            l.outbox.push_back(frame);
            wake(link, l, fx);
        }
    }

    pub(super) fn ack_due(&mut self, link: LinkId, fx: &mut Effects) {
        if let Some(l) = self.links.get_mut(&link) {
            l.ack_due = true;
            wake(link, l, fx);
        }
    }

    /// Whether the directory shows that node with that copy: nobody else is taken in.
    pub(super) fn is_in_directory(&self, member: &Member) -> bool {
        self.nodes.iter().any(|n| n.registration.id == member.id && n.registration.copy == member.copy)
    }

    /// Puts a message, as frames, behind the others that wait for a link; `false` if too much waits there.
    pub(super) fn send_published(&mut self, link: LinkId, frames: &[Bytes], fx: &mut Effects) -> bool {
        let Some(l) = self.links.get_mut(&link).filter(|l| l.published.understood) else { return false };
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        if l.published.bytes + bytes > PUBLISHED_BYTES_MAX && l.published.bytes > 0 {
            return false;
        }
        l.published.bytes += bytes;
        l.published.frames.extend(frames.iter().cloned());
        wake(link, l, fx);
        true
    }

    /// Whether what is published may come on this link: from the leader that is followed, or from a follower.
    fn may_publish(&self, link: LinkId) -> bool {
        let leads = self.following.as_ref().is_some_and(|f| f.accepted && f.link == Some(link));
        leads || self.leading.is_some() && self.is_open(link)
    }

    /// Wakes every link on which entries flow out.
    pub(super) fn wake_followers(&mut self, fx: &mut Effects) {
        for (id, link) in self.links.iter_mut().filter(|(_, l)| l.is_open()) {
            wake(*id, link, fx);
        }
    }

    pub(super) fn on_frame(&mut self, now: Now, link: LinkId, frame: &Bytes, fx: &mut Effects) {
        if !self.links.contains_key(&link) {
            return;
        }
        let done = wire::decode(frame).and_then(|frame| self.take_frame(now, link, frame, fx));
        if let Err(error) = done {
            fx.push(Notice::warn(format!("closing link {link}: {error}")));
            self.hang_up(link, fx);
            if self.following.as_ref().is_some_and(|f| f.link == Some(link)) {
                self.on_leader_link_down(now, &error.to_string(), fx);
            }
            self.follower_link_down(now, link);
        }
    }

    fn take_frame(&mut self, now: Now, link: LinkId, frame: Frame, fx: &mut Effects) -> Result<(), WireError> {
        match self.links.get(&link) {
            Some(l) if l.accepted.is_some() => self.take_from_follower(now, link, frame, fx),
            Some(_) => self.take_from_leader(now, link, frame, fx),
            None => Ok(()),
        }
    }

    /// A frame on a link that was accepted. Until the other side has said who it is, and that is believed, it is not heard: whatever a
    /// stranger says costs its link, and nothing else.
    fn take_from_follower(&mut self, now: Now, link: LinkId, frame: Frame, fx: &mut Effects) -> Result<(), WireError> {
        let (is_stranger, open) = match self.links.get(&link) {
            // It was refused, and will hear of it.
            Some(l) if l.closing => return Ok(()),
            Some(l) => (l.stranger_until().is_some(), l.stream.as_ref().map(|s| s.open)),
            None => return Ok(()),
        };
        match frame {
            Frame::Hello(hello) if is_stranger => {
                if let Some(accepted) = self.links.get_mut(&link).and_then(|l| l.accepted.as_mut()) {
                    accepted.hello_by = None;
                }
                self.on_hello(now, link, &hello, fx);
            }
            Frame::Hello(_) => return Err(WireError("a second hello".to_string())),
            frame if is_stranger => return Err(unexpected("before the hello", &frame)),
            Frame::Accept(epoch) if open == Some(false) => self.on_accept(now, link, epoch, fx),
            frame if open != Some(true) => return Err(unexpected("before the accept", &frame)),
            Frame::Publish(flags, head, body) => self.take_published(now, link, flags, &head, body, fx)?,
            Frame::Ask(epoch, wish) => {
                if self.leading.as_ref().is_some_and(|l| l.epoch == epoch) {
                    self.on_ask(now, link, wish, fx);
                }
            }
            Frame::Ack(ack) => self.on_ack(now, link, &ack, fx),
            Frame::Stale(epoch) => {
                // Never believed from a link: `/state` has to confirm it.
                if epoch > self.highest {
                    self.confirm(fx);
                }
            }
            frame => return Err(unexpected("after the accept", &frame)),
        }
        Ok(())
    }

    /// A frame on a link that was dialled.
    fn take_from_leader(&mut self, now: Now, link: LinkId, frame: Frame, fx: &mut Effects) -> Result<(), WireError> {
        let Some(l) = self.links.get_mut(&link) else { return Ok(()) };
        let is_challenged = l.challenge.is_some();
        match frame {
            Frame::Challenge(nonce) if !is_challenged => {
                l.challenge = Some(nonce);
                self.say_hello(link, fx);
            }
            Frame::Challenge(_) => return Err(WireError("a second challenge".to_string())),
            frame if !is_challenged => return Err(unexpected("before the challenge", &frame)),
            Frame::Welcome(epoch, w) => {
                self.check_welcome(link, &w)?;
                self.on_welcome(now, link, epoch, &w, fx)?;
            }
            Frame::Refused(highest, r) => self.on_refused(now, link, highest, &r, fx),
            Frame::Append(flags, head, body) => {
                let body = l.assembler.join(flags, head.total, body)?;
                self.on_append(now, link, &head, flags & SURE != 0, body, fx)?;
            }
            Frame::Chunk(flags, head, body) => {
                let body = l.assembler.join(flags, head.total, body)?;
                self.on_chunk(now, link, &head, flags & END != 0, body, fx)?;
            }
            Frame::Publish(flags, head, body) => self.take_published(now, link, flags, &head, body, fx)?,
            Frame::Resign(resign) => self.on_resign(now, link, &resign, fx),
            frame => return Err(unexpected("after the challenge", &frame)),
        }
        Ok(())
    }

    /// (A part of) something published.
    fn take_published(
        &mut self,
        now: Now,
        link: LinkId,
        flags: u8,
        head: &PublishHead,
        body: Bytes,
        fx: &mut Effects,
    ) -> Result<(), WireError> {
        if !self.may_publish(link) {
            return Err(WireError("something published by a node that neither leads nor follows here".to_string()));
        }
        let Some(l) = self.links.get_mut(&link) else { return Ok(()) };
        match l.published.assembler.join(flags, head.total, body)? {
            Some(body) => self.on_published(now, link, head, &body, fx),
            None => Ok(()),
        }
    }

    fn say_hello(&mut self, link: LinkId, fx: &mut Effects) {
        let secret = self.config.secret.as_deref();
        let Some((l, challenge)) = self.links.get(&link).and_then(|l| Some((l, l.challenge?))) else { return };
        let hello = Hello {
            cluster: self.config.cluster.clone(),
            group: 0,
            dataset: self.dataset,
            node: self.me.id.clone(),
            copy: self.me.copy,
            epochs: self.log.epochs().to_vec(),
            last: self.log.last(),
            executed: self.executed(),
            highest: self.highest,
            nonce: wire::hex(&l.nonce),
            proof: wire::proof(secret, "hello", &challenge, &l.nonce),
            features: features(),
            speaks: NEWEST,
        };
        self.send(link, wire::hello(&hello), fx);
    }

    fn check_welcome(&mut self, link: LinkId, w: &Welcome) -> Result<(), WireError> {
        let Some(l) = self.links.get_mut(&link) else { return Err(WireError("a welcome on no link".to_string())) };
        l.published.understood = knows_publish(&w.features);
        let challenge = l.challenge.unwrap_or_default();
        let wanted = wire::proof(self.config.secret.as_deref(), "welcome", &l.nonce, &challenge);
        if wire::same_proof(&wanted, &w.proof) {
            l.novel = w.features.iter().any(|word| word == NOVELTY);
            return Ok(());
        }
        Err(WireError("the leader does not know replication.secret".to_string()))
    }

    /// A follower introduces itself.
    fn on_hello(&mut self, now: Now, link: LinkId, hello: &Hello, fx: &mut Effects) {
        match self.judge(now, link, hello, fx) {
            Ok(()) => {}
            Err(refused) => {
                let text = format!("refused {} (copy {}): {}", hello.node, hello.copy, refused.text);
                if refused.reason != Reason::NotLeader && self.told.is_news(now.boot, &text) {
                    fx.push(Notice::warn(text));
                }
                self.send(link, wire::refused(self.highest, &refused), fx);
                if let Some(l) = self.links.get_mut(&link) {
                    l.closing = true;
                }
            }
        }
    }

    fn judge(&mut self, now: Now, link: LinkId, hello: &Hello, fx: &mut Effects) -> Result<(), Refused> {
        let refuse = |reason, text: String| Err(Refused { reason, text });
        if hello.cluster != self.config.cluster || hello.group != 0 {
            return refuse(Reason::WrongCluster, format!("this is cluster {:?}, group 0", self.config.cluster));
        }
        let secret = self.config.secret.as_deref();
        let Some((mine, token)) = self.links.get(&link).and_then(|l| Some((l.nonce, l.accepted.as_ref()?.token)))
        else {
            return refuse(Reason::NotLeader, "a hello on a link that is gone".to_string());
        };
        let theirs = wire::unhex16(&hello.nonce).unwrap_or_default();
        if !wire::same_proof(&wire::proof(secret, "hello", &mine, &theirs), &hello.proof) {
            return refuse(Reason::WrongSecret, "replication.secret differs".to_string());
        }
        if hello.highest > self.highest && hello.dataset.is_some() && hello.dataset == self.dataset {
            self.confirm(fx);
            return refuse(Reason::NotLeader, format!("epoch {} is not known here yet", hello.highest));
        }
        let is_registered = self.is_in_directory(&Member { id: hello.node.clone(), copy: hello.copy });
        let (Some(leading), Some(dataset), Some(known)) = (&mut self.leading, self.dataset, &self.known) else {
            return refuse(Reason::NotLeader, "this node does not lead".to_string());
        };
        if hello.speaks < known.state.cluster_version {
            return refuse(Reason::TooOld, too_old(hello.node.as_str(), known.state.cluster_version, hello.speaks));
        }
        let epoch = leading.epoch;
        let mode = if hello.dataset.is_none() {
            if !leading.ready && !self.config.rules.leaves_out(Rule::ExpandAfterBarrier) {
                let reason = if cfg!(feature = "next-version") { Reason::Other } else { Reason::NotLeader };
                return refuse(reason, "this leader is not ready yet".to_string());
            }
            if !is_registered {
                // The directory may just not have told yet: it asks again soon.
                return refuse(Reason::Later, "the directory does not show this copy (yet)".to_string());
            }
            // Who waits to end until somebody is filled makes nobody wait for it, and holds writes back.
            let waits = |(_, until): &&(u32, Boot)| now.boot < *until && !self.leaving;
            if let Some((times, _)) = leading.outrun.get(&hello.node).filter(waits) {
                let text = format!("the load has outrun it {times} times since it was in sync: it has to wait");
                return refuse(Reason::Later, text);
            }
            Mode::Full(self.log.last())
        } else {
            check_history(hello).map_err(|text| Refused { reason: Reason::NotLeader, text })?;
            let mine = View { epochs: self.log.epochs(), last: self.log.last() };
            let theirs = View { epochs: &hello.epochs, last: hello.last };
            let decision = if hello.dataset == Some(dataset) {
                decide(mine, self.log.base().offset, theirs, hello.executed)
            } else {
                Resync::Full
            };
            match decision {
                Resync::Stream => Mode::Stream,
                Resync::Truncate(to) => Mode::Truncate(to),
                Resync::Full => {
                    self.stats.partial_syncs_refused += 1;
                    let text = format!(
                        "{} cannot be continued: leader {} after {}",
                        hello.last,
                        self.log.last(),
                        self.log.base()
                    );
                    let pending = self.pending.as_ref().map(|p| &p.want);
                    let states = [Some(&known.state), pending];
                    let named = |s: &&crate::cluster::state::ClusterState| {
                        s.in_sync.iter().chain(&s.fallback).any(|m| m.copy == hello.copy)
                    };
                    if states.into_iter().flatten().any(|s| named(&s)) {
                        leading.unname.insert(hello.copy);
                        return refuse(Reason::StillNamed, text);
                    }
                    return refuse(Reason::FullResyncNeeded, text);
                }
            }
        };
        let next = match mode {
            Mode::Stream => hello.last.offset.next(),
            Mode::Truncate(to) => to.next(),
            Mode::Full(base) => base.offset.next(),
        };
        let full = matches!(mode, Mode::Full(_));
        match full {
            true => self.stats.full_syncs_served += 1,
            false => self.stats.partial_syncs += 1,
        }
        self.in_company = true;
        let follower =
            leading.followers.entry(hello.copy).or_insert_with(|| Follower::new(hello.node.clone(), now.boot));
        let former = follower.link.replace(link);
        // Newest wins: a link that serves an older copy of the same node belongs to a process that is gone.
        let older = leading.followers.iter().filter(|(c, f)| **c != hello.copy && f.node == hello.node);
        let replaced: Vec<LinkId> = older.filter_map(|(_, f)| f.link).chain(former).filter(|id| *id != link).collect();
        let follower = leading.followers.get_mut(&hello.copy).expect("just made");
        follower.closed_at = None;
        follower.unheard = false;
        follower.heard = now.boot;
        follower.floor = hello.executed;
        follower.whole = !full;
        follower.chunks_since = full.then_some(now.boot);
        follower.may_succeed = false;
        follower.marks.clear();
        self.pulse.lock().expect(token, hello.copy);
        fx.push(Notice::info(format!(
            "{} (copy {}) at {} joins: {}",
            hello.node,
            hello.copy,
            hello.last,
            match mode {
                Mode::Stream => "partial resync, nothing to cut".to_string(),
                Mode::Truncate(to) => format!("partial resync, cut back to {to}"),
                Mode::Full(base) => format!("full resync from {base}"),
            }
        )));
        let welcome = Welcome {
            dataset,
            hash_key: wire::hex(&self.store.hash_key().0),
            mode,
            token: format!("{token:032x}"),
            proof: wire::proof(secret, "welcome", &theirs, &mine),
            keys: self.store.len() as u64,
            confirms: self.config.read_mode == ReadMode::Confirm,
            features: features(),
        };
        for former in replaced {
            self.hang_up(former, fx);
            self.follower_link_down(now, former);
        }
        let Some(l) = self.links.get_mut(&link) else {
            return refuse(Reason::NotLeader, "the link is gone".to_string());
        };
        l.published.understood = knows_publish(&hello.features);
        l.stream = Some(Stream {
            copy: hello.copy,
            open: false,
            next,
            parts: None,
            chunk_from: full.then_some(0),
            acked_sent: Offset::ZERO,
            sent_at: Boot(0),
        });
        self.send(link, wire::welcome(epoch, &welcome, &hello.features), fx);
        Ok(())
    }

    /// The follower has registered what it will hold.
    fn on_accept(&mut self, now: Now, link: LinkId, epoch: Epoch, fx: &mut Effects) {
        let current = self.leading.as_ref().is_some_and(|l| l.epoch == epoch);
        let Some(l) = self.links.get_mut(&link).filter(|_| current) else { return };
        if let Some(stream) = &mut l.stream {
            stream.open = true;
            wake(link, l, fx);
        }
        let f = self.leading.as_mut().and_then(|l| l.followers.values_mut().find(|f| f.link == Some(link)));
        if let Some(f) = f {
            f.heard = now.boot;
        }
    }

    fn on_refused(&mut self, now: Now, link: LinkId, highest: Epoch, refused: &Refused, fx: &mut Effects) {
        let Some(f) = self.following.as_mut().filter(|f| f.link == Some(link)) else { return };
        let (leader, epoch) = (f.leader.id.clone(), f.epoch);
        f.lost &= refused.reason == Reason::NotLeader;
        f.refuses = matches!(refused.reason, Reason::WrongCluster | Reason::WrongSecret | Reason::TooOld);
        self.hang_up(link, fx);
        self.on_leader_link_down(now, &refused.text, fx);
        match refused.reason {
            Reason::FullResyncNeeded if highest == epoch => self.plan_wipe(now, &refused.text, fx),
            Reason::FullResyncNeeded | Reason::NotLeader => {
                if highest > self.highest {
                    self.confirm(fx);
                }
            }
            Reason::StillNamed | Reason::Later | Reason::Other => {}
            Reason::WrongCluster | Reason::WrongSecret | Reason::TooOld => {
                let text = format!("leader {leader} refuses this node: {}", refused.text);
                if self.told.is_news(now.boot, &text) {
                    fx.push(Notice::error(text));
                }
            }
        }
    }

    /// Bytes that the writer of `link` shall write now, length prefixes included; bounded per call.
    pub fn poll_link(&mut self, now: Now, link: LinkId, out: &mut Vec<Bytes>) -> LinkPoll {
        let ack = self.links.get(&link).filter(|l| l.ack_due).and_then(|_| self.current_ack());
        let Some(l) = self.links.get_mut(&link) else { return LinkPoll::Gone };
        l.woken = false;
        out.extend(l.outbox.drain(..));
        if std::mem::take(&mut l.ack_due) {
            out.extend(ack.map(|a| wire::ack(&a)));
        }
        if l.closing {
            self.links.remove(&link);
            return LinkPoll::Gone;
        }
        let more = l.published.send(out);
        if l.is_open() && self.leading.is_some() {
            let mut stream = l.stream.take().expect("just seen");
            let (poll, sent) = self.pump(now, &mut stream, out);
            self.stats.link_bytes += sent as u64;
            if poll == LinkPoll::Gone {
                // The backlog no longer reaches back to what the follower needs next: it resyncs fully on a new link.
                self.links.remove(&link);
                self.note_outrun(now, stream.copy);
                self.follower_link_down(now, link);
            } else if let Some(l) = self.links.get_mut(&link) {
                l.stream = Some(stream);
            }
            return if more && poll == LinkPoll::Idle { LinkPoll::More } else { poll };
        }
        if more { LinkPoll::More } else { LinkPoll::Idle }
    }

    /// Entries, chunks, or a heartbeat; returns the bytes put out.
    fn pump(&mut self, now: Now, stream: &mut Stream, out: &mut Vec<Bytes>) -> (LinkPoll, usize) {
        let mut budget = LINK_BYTES_PER_TURN;
        let mut sent = 0;
        // Before it has acknowledged anything in its own epoch a leader does not know all that was acknowledged before.
        let knows_all = self.leading.as_ref().is_some_and(|l| self.acked >= l.barrier)
            || self.config.rules.leaves_out(Rule::VouchOnceAcked);
        let sure = self.is_sure_leader(now) && knows_all && self.config.read_mode == ReadMode::Lease;
        while sent < budget {
            if let Some(parts) = &mut stream.parts {
                sent += send_part(now, self.acked, sure, parts, out);
                stream.sent_at = now.boot;
                stream.acked_sent = self.acked;
                let leading = self.leading.as_mut().expect("pump is the leader's");
                let named = |k: &super::Known| k.state.in_sync.iter().any(|m| m.copy == stream.copy);
                // A heartbeat moves nothing.
                let moves = parts.last.is_some() || matches!(parts.head, Head::Chunk(..));
                if moves && self.known.as_ref().is_some_and(named) {
                    leading.progress = now.boot;
                }
                if parts.left == 0 {
                    let last = parts.last;
                    stream.parts = None;
                    if let (Some(last), Some(f)) = (last, leading.followers.get_mut(&stream.copy)) {
                        f.marks.push_back((last, now.boot));
                    }
                }
                continue;
            }
            let entries_wait = stream.next <= self.log.end();
            // A learner that is so far behind that the backlog may soon not reach back to it gets entries alone.
            let behind = || self.log.bytes_after(Offset(stream.next.0 - 1)) > self.config.backlog_bytes / 2;
            // Before a node that was told to end the fill has most of each turn.
            let entries_first = if self.leaving { LINK_BYTES_PER_TURN / 8 } else { LINK_BYTES_PER_TURN / 2 };
            if stream.chunk_from.is_some() && (!entries_wait || sent >= entries_first && !behind()) {
                self.next_chunk(stream);
                // One chunk per turn keeps the hold of the lock short; entries have half of each turn, so neither starves.
                budget = budget.min(sent + 1);
            } else if entries_wait {
                if !self.next_block(stream) {
                    return (LinkPoll::Gone, sent);
                }
            } else {
                // Half a period: the timer that brought us here does not know what was sent in between.
                let beat = now.boot.ms_since(stream.sent_at) * 2 >= self.shared.heartbeat_ms;
                let asked = self.leading.as_ref().map_or(Boot(0), |l| l.round_at);
                let round = asked > Boot(0) && stream.sent_at <= asked && now.boot > asked;
                if beat || round || stream.acked_sent < self.acked {
                    stream.parts = Some(self.heartbeat(stream));
                    continue;
                }
                return (LinkPoll::Idle, sent);
            }
        }
        (LinkPoll::More, sent)
    }

    fn head_at(&self, first: Offset) -> AppendHead {
        AppendHead {
            epoch: self.leading.as_ref().expect("pump is the leader's").epoch,
            entry_epoch: Epoch(0),
            prev_epoch: self.log.epoch_of(Offset(first.0 - 1)).unwrap_or(self.log.base().epoch),
            first,
            count: 0,
            acked: self.acked,
            sent_at: 0,
            clock: self.clock,
            total: 0,
        }
    }

    fn heartbeat(&self, stream: &Stream) -> Parts {
        let head = Head::Append(self.head_at(stream.next));
        Parts { head, pieces: VecDeque::new(), left: 0, first: true, crc: Some(0), last: None }
    }

    /// Takes up the block with the next entry; `false` if the backlog does not reach back to it.
    fn next_block(&mut self, stream: &mut Stream) -> bool {
        self.log.seal();
        let Some(block) = self.log.block_to_send(stream.next).cloned() else { return false };
        let mut head = self.head_at(block.first);
        head.entry_epoch = block.epoch;
        head.count = block.count;
        head.total = block.bytes as u64;
        let last = block.last();
        stream.next = last.next();
        stream.parts = Some(Parts {
            head: Head::Append(head),
            pieces: block.pieces.into(),
            left: block.bytes,
            first: true,
            crc: block.crc,
            last: Some(last),
        });
        true
    }

    /// Reads the next chunk of the snapshot.
    fn next_chunk(&mut self, stream: &mut Stream) {
        let from = stream.chunk_from.take().expect("asked only while chunks are left");
        let mut segments = Segments::new();
        let chunk = self.store.chunk(from, self.config.chunk_bytes, &mut segments);
        let bytes = segments.len();
        let leading = self.leading.as_mut().expect("pump is the leader's");
        let head = ChunkHead {
            epoch: leading.epoch,
            from,
            upto: chunk.upto.unwrap_or(0),
            as_of: self.log.end(),
            keys: chunk.keys as u32,
            clock: self.clock,
            total: bytes as u64,
            ..ChunkHead::default()
        };
        if let Some(f) = leading.followers.get_mut(&stream.copy) {
            f.chunk_keys += chunk.keys as u64;
            f.chunk_bytes += bytes as u64;
            f.floor = f.floor.max(head.as_of);
        }
        stream.chunk_from = chunk.upto;
        stream.parts = Some(Parts {
            head: Head::Chunk(head, chunk.upto.is_none()),
            pieces: segments.take_parts(&[]).into(),
            left: bytes,
            first: true,
            crc: None,
            last: None,
        });
    }

    /// Where the log stands, for the simulator's checks.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }
}

impl Published {
    /// Puts what may go in this turn out; whether more waits.
    fn send(&mut self, out: &mut Vec<Bytes>) -> bool {
        let mut room = PUBLISHED_BYTES_PER_TURN;
        while room > 0
            && let Some(frame) = self.frames.pop_front()
        {
            self.bytes -= frame.len();
            room = room.saturating_sub(frame.len());
            out.push(frame);
        }
        !self.frames.is_empty()
    }
}

fn unexpected(when: &str, frame: &Frame) -> WireError {
    WireError(format!("{when} came an unexpected frame: {}", frame.name()))
}

/// Whether what a follower says of its log can be so: epochs and offsets ascend, up to the last entry.
fn check_history(hello: &Hello) -> Result<(), String> {
    let ascends = hello.epochs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
    let starts = hello.epochs.first().is_none_or(|(_, first)| *first > Offset::ZERO);
    let ends = hello.epochs.last().is_none_or(|(_, first)| *first <= hello.last.offset);
    if ascends && starts && ends && hello.last.offset <= OFFSET_MAX && hello.executed <= OFFSET_MAX {
        return Ok(());
    }
    Err(format!("a log that ends at {} cannot have this table of epochs: {:?}", hello.last, hello.epochs)
        .chars()
        .take(200)
        .collect())
}

/// What this node can do beyond version 1 of the wire.
fn features() -> Vec<String> {
    let mut words = vec![PUBLISH.to_string()];
    if cfg!(feature = "next-version") {
        words.push(NOVELTY.to_string());
    }
    words
}

fn knows_publish(features: &[String]) -> bool {
    features.iter().any(|word| word == PUBLISH)
}

fn wake(id: LinkId, link: &mut Link, fx: &mut Effects) {
    if !std::mem::replace(&mut link.woken, true) {
        fx.push(Effect::WakeLink(id));
    }
}

/// Puts the next part of a message out; returns its bytes.
fn send_part(now: Now, acked: Offset, sure: bool, parts: &mut Parts, out: &mut Vec<Bytes>) -> usize {
    let mut body: Vec<Bytes> = Vec::new();
    let mut room = FRAME_BYTES_MAX;
    while room > 0
        && let Some(front) = parts.pieces.front_mut()
    {
        let take = front.len().min(room);
        body.push(front.split_to(take));
        room -= take;
        if front.is_empty() {
            parts.pieces.pop_front();
        }
    }
    let len = FRAME_BYTES_MAX - room;
    parts.left -= len;
    let crc = parts.crc.unwrap_or_else(|| {
        let mut crc = crc32fast::Hasher::new();
        body.iter().for_each(|piece| crc.update(piece));
        crc.finalize()
    });
    let mut flags = 0;
    if std::mem::take(&mut parts.first) {
        flags |= FIRST;
    }
    if parts.left == 0 {
        flags |= LAST;
    }
    let head = match &mut parts.head {
        Head::Append(h) => {
            (h.sent_at, h.acked) = (now.boot.0, acked);
            wire::append_head(if sure { flags | SURE } else { flags }, h, crc, len)
        }
        Head::Chunk(h, end) => {
            (h.sent_at, h.acked) = (now.boot.0, acked);
            wire::chunk_head(if *end { flags | END } else { flags }, h, crc, len)
        }
    };
    let bytes = head.len() + len;
    out.push(head);
    out.extend(body);
    bytes
}
