//! Connections as TCP gives them: bytes arrive in order or not at all, in pieces that nobody chose, late, and sometimes only one
//! side learns that it is over.
//!
//! ```text
//!   writer ──► wire: pieces on their way, then perhaps FIN ──► recv: arrived, not read ──► reader takes whole frames
//!              └────────────── unread bytes: the writer waits when there are too many ───┘
//! ```

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use datakeeper::base::ids::LinkId;

/// What is on its way.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// The writer closed, or its machine answered with a reset.
    Fin,
}

/// What a process does with its end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Accepted; its first frame has not arrived.
    Fresh,
    /// A replication link.
    Link(LinkId),
    /// A pulse connection that a member opened, with its token.
    PulseIn(u128),
    /// A pulse connection that this member opened.
    PulseOut,
}

/// One end.
#[derive(Clone, Debug)]
pub struct End {
    /// Which machine.
    pub node: usize,
    /// Which process on it.
    pub generation: u64,
    /// What for.
    pub seat: Seat,
    /// This side has closed, has been told of the end, or is dead.
    pub closed: bool,
    /// A turn of its writer is scheduled.
    pub write_due: bool,
    /// A turn of its reader is scheduled.
    pub read_due: bool,
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// Arrival time and piece, in order.
    pub wire: VecDeque<(u64, Piece)>,
    /// When the latest of them arrives.
    pub last_at: u64,
    /// An arrival is scheduled.
    pub arrive_due: bool,
    /// Arrived, not read.
    pub recv: BytesMut,
    /// The end arrived.
    pub fin: bool,
    /// Nothing arrives any more, and nobody is told.
    pub hole: bool,
    /// Nothing arrives before this.
    pub stalled_until: u64,
    /// Bytes on the wire and in `recv`.
    pub unread: usize,
}

/// One connection: end 0 dialled, end 1 accepted; way `i` is written by end `i`.
#[derive(Clone, Debug)]
pub struct Conn {
    /// Both ends.
    pub ends: [End; 2],
    /// Both directions.
    pub ways: [Way; 2],
}

impl Conn {
    /// A connection between two processes.
    pub fn new(dialer: (usize, u64), seat: Seat, acceptor: (usize, u64)) -> Conn {
        let end =
            |(node, generation), seat| End { node, generation, seat, closed: false, write_due: false, read_due: false };
        Conn { ends: [end(dialer, seat), end(acceptor, Seat::Fresh)], ways: [Way::default(), Way::default()] }
    }

    /// Takes one whole frame off what end `reader` has received, without its length prefix.
    pub fn take_frame(&mut self, reader: usize) -> Option<Bytes> {
        let way = &mut self.ways[1 - reader];
        let len = u32::from_be_bytes(way.recv.get(..4)?.try_into().expect("four bytes")) as usize;
        if way.recv.len() < 4 + len {
            return None;
        }
        let frame = way.recv.split_to(4 + len).freeze();
        way.unread -= frame.len();
        Some(frame.slice(4..))
    }
}

/// Splits bytes that were written into the frames they hold.
pub fn frames(mut bytes: Bytes) -> Vec<Bytes> {
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        let len = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
        let frame = bytes.split_to(4 + len);
        found.push(frame.slice(4..));
    }
    assert!(bytes.is_empty(), "a writer is given whole frames");
    found
}
