//! What the shell holds for one connection, in numbers: for CLIENT LIST, and for nothing that is decided.
//!
//! The shell writes them as they change, without the Keeper's lock, and the Keeper reads them when somebody asks. Each is right by itself; two of
//! them may be of different moments.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// See the module.
#[derive(Debug)]
pub struct Figures {
    /// Number of the connection's socket.
    pub(super) fd: i32,
    received: AtomicUsize,
    spare: AtomicUsize,
    unsent: AtomicUsize,
    pieces: AtomicUsize,
}

impl Figures {
    /// Those of a new connection.
    #[must_use]
    pub fn new(fd: i32) -> Figures {
        let [received, spare, unsent, pieces] = [0; 4].map(AtomicUsize::new);
        Figures { fd, received, spare, unsent, pieces }
    }

    /// So many bytes have come that are not executed, and there is room for so many more.
    #[inline]
    pub fn note_input(&self, received: usize, spare: usize) {
        self.received.store(received, Relaxed);
        self.spare.store(spare, Relaxed);
    }

    /// All that has come is executed.
    #[inline]
    pub fn note_executed(&self) {
        self.received.store(0, Relaxed);
    }

    /// So many bytes of replies have not left, in so many pieces.
    #[inline]
    pub fn note_output(&self, unsent: usize, pieces: usize) {
        self.unsent.store(unsent, Relaxed);
        self.pieces.store(pieces, Relaxed);
    }

    /// What [`Figures::note_input`] said has come.
    #[inline]
    #[must_use]
    pub fn received(&self) -> usize {
        self.received.load(Relaxed)
    }

    pub(super) fn input(&self) -> (usize, usize) {
        (self.received.load(Relaxed), self.spare.load(Relaxed))
    }

    pub(super) fn output(&self) -> (usize, usize) {
        (self.unsent.load(Relaxed), self.pieces.load(Relaxed))
    }
}
