//! Keyspace notifications: what happens to keys, published at the node where it happens.
//!
//! ```text
//!   mutation ──► store notes it ──► __keyspace@0__:<key>     says the event
//!                                   __keyevent@0__:<event>   says the key
//! ```
//! Events follow from mutations, which every node applies: so whoever listens at a replica is told when the replica has applied it, and nothing
//! is sent over links. A leader tells of nothing that is not acknowledged (`PubSub::held`); what waits there when its leadership ends is told
//! by nobody at this node. As in Redis, notifications are not repeated and may be lost.
//!
//! Which are told is `notify-keyspace-events`, in Redis's letters; by default none, and then a mutation is asked one thing
//! for all who might want to know. A miss (`m`) is told where the read was executed. Not here: the events of types that are not here, whose
//! letters are taken and kept.

use std::fmt::Write;

use crate::base::clock::Now;
use crate::base::ids::{ConnId, Offset};
use crate::store::{Event, Noted};

use super::pubsub::{Kind, Message};
use super::{Acks, Effects, Keeper};

/// Which events are told, and on which channels: `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyEvents(u16);

const KEYSPACE: u16 = 1;
const KEYEVENT: u16 = 1 << 1;
const GENERIC: u16 = 1 << 2;
const STRING: u16 = 1 << 3;
const EXPIRED: u16 = 1 << 8;
const EVICTED: u16 = 1 << 9;
const MISSED: u16 = 1 << 12;
const NEW: u16 = 1 << 13;
/// What `A` stands for: every class but misses and new keys.
const ALL: u16 = 0b1111_1111_1100;

/// The letters in the order in which they are shown.
const LETTERS: [(char, u16); 14] = [
    ('g', GENERIC),
    ('$', STRING),
    ('l', 1 << 4),
    ('s', 1 << 5),
    ('h', 1 << 6),
    ('z', 1 << 7),
    ('x', EXPIRED),
    ('e', EVICTED),
    ('t', 1 << 10),
    ('d', 1 << 11),
    ('K', KEYSPACE),
    ('E', KEYEVENT),
    ('m', MISSED),
    ('n', NEW),
];

impl KeyEvents {
    /// The events that these letters name; `None` if one of them names nothing.
    #[must_use]
    pub fn parse(letters: &str) -> Option<KeyEvents> {
        let class = |letter| match letter {
            'A' => Some(ALL),
            _ => LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, class)| *class),
        };
        letters.chars().map(class).try_fold(0, |all, class| Some(all | class?)).map(KeyEvents)
    }

    fn has(self, class: u16) -> bool {
        self.0 & class != 0
    }

    /// Whether anything is told.
    #[must_use]
    pub fn any(self) -> bool {
        self.has(KEYSPACE | KEYEVENT) && self.0 & !(KEYSPACE | KEYEVENT) != 0
    }

    /// Whether misses are told.
    #[must_use]
    pub fn misses(self) -> bool {
        self.any() && self.has(MISSED)
    }
}

impl std::fmt::Display for KeyEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.0 & ALL == ALL;
        if all {
            f.write_char('A')?;
        }
        let shown = LETTERS.iter().filter(|(_, class)| self.has(*class) && !(all && class & ALL != 0));
        shown.map(|(letter, _)| *letter).try_for_each(|letter| f.write_char(letter))
    }
}

/// The name of an event and its class; for those who set a key with an expiry, another follows.
fn named(event: Event) -> &'static [(u16, &'static str)] {
    match event {
        Event::Set => &[(STRING, "set")],
        Event::SetWithExpiry => &[(STRING, "set"), (GENERIC, "expire")],
        Event::Del => &[(GENERIC, "del")],
        Event::Expired => &[(EXPIRED, "expired")],
        Event::Evicted => &[(EVICTED, "evicted")],
        Event::Expire => &[(GENERIC, "expire")],
        Event::Persist => &[(GENERIC, "persist")],
        Event::Append => &[(STRING, "append")],
        Event::SetRange => &[(STRING, "setrange")],
        Event::IncrBy => &[(STRING, "incrby")],
        Event::IncrByFloat => &[(STRING, "incrbyfloat")],
        Event::RenameFrom => &[(GENERIC, "rename_from")],
        Event::RenameTo => &[(GENERIC, "rename_to")],
        Event::CopyTo => &[(GENERIC, "copy_to")],
        Event::SetBit => &[(STRING, "setbit")],
        Event::Restore => &[(GENERIC, "restore")],
        Event::More | Event::Other(_) => &[],
    }
}

impl Keeper {
    /// Whether anybody wants to know what happens to keys may have changed.
    pub(super) fn settle_notes(&mut self) {
        let events = self.settings().key_events;
        self.tells_misses = events.misses();
        self.store.want_notes(events.any() || self.tracking.clients() > 0);
    }

    /// Tells of what happened to keys since the last call: `by` the commands of that connection, if by any. At the end of each call of the
    /// Keeper, when no session is out.
    #[cold]
    pub(super) fn tell_notes(&mut self, now: Now, by: Option<ConnId>, fx: &mut Effects) {
        let notes = self.store.take_notes();
        let later = self.pubsub.take_noted();
        // What is noted is in the store already, so in no entry behind the end.
        let waits = self.leading.is_some() && self.config.acks == Acks::InSync && self.log.end() > self.acked;
        let need = Some(self.log.end()).filter(|_| waits);
        if self.settings().key_events.any() {
            notes.iter().enumerate().for_each(|(at, noted)| self.notify(now, noted, later(at), need, fx));
        }
        self.invalidate(now, by, &notes, need, fx);
    }

    /// Tells of one note to those whose subscriptions are not `later`.
    fn notify(&mut self, now: Now, noted: &Noted, later: u64, need: Option<Offset>, fx: &mut Effects) {
        if self.pubsub.names(Kind::Channel) + self.pubsub.names(Kind::Pattern) == 0 {
            return;
        }
        match noted {
            Noted::Changed { key, event, created } => {
                if *created {
                    self.notify_of(now, NEW, "new", key, later, need, fx);
                }
                for (class, name) in named(*event) {
                    self.notify_of(now, *class, name, key, later, need, fx);
                }
            }
            Noted::Missed(key) => self.notify_of(now, MISSED, "keymiss", key, later, need, fx),
            Noted::Cleared => {}
        }
    }

    #[allow(clippy::too_many_arguments)] // one note, and what it is told with
    fn notify_of(
        &mut self,
        now: Now,
        class: u16,
        name: &str,
        key: &[u8],
        later: u64,
        need: Option<Offset>,
        fx: &mut Effects,
    ) {
        let wanted = self.settings().key_events;
        if !wanted.has(class) {
            return;
        }
        let of_key = [b"__keyspace@0__:", key].concat();
        let of_event = [b"__keyevent@0__:", name.as_bytes()].concat();
        for (channel, text, told) in
            [(&of_key, name.as_bytes(), wanted.has(KEYSPACE)), (&of_event, key, wanted.has(KEYEVENT))]
        {
            if told {
                self.announce_here(now, &Message::here(channel, text).before(later), need, fx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_redis_and_shown_in_its_order() {
        for (given, shown) in [
            ("", ""),
            ("KEA", "AKE"),
            ("g$lshzxetd", "A"),
            ("Elg", "glE"),
            ("nmKx", "xKmn"),
            ("AnmEK", "AKEmn"),
            ("KKgg", "gK"),
        ] {
            assert_eq!(KeyEvents::parse(given).map(|events| events.to_string()).as_deref(), Some(shown), "{given}");
        }
        for wrong in ["q", "K E", "AKEa"] {
            assert_eq!(KeyEvents::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_is_told_without_a_class_and_a_channel() {
        let any = |letters| KeyEvents::parse(letters).expect("letters").any();
        assert!(!any("") && !any("KE") && !any("A") && any("Kx") && any("Em"));
        assert!(KeyEvents::parse("Em").expect("letters").misses());
        assert!(
            !KeyEvents::parse("m").expect("letters").misses() && !KeyEvents::parse("AKE").expect("letters").misses()
        );
    }
}
