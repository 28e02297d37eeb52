//! What leads to one connection from outside its task: its sending side, what has not left, and what the task is told.
//!
//! The postman (`post`) and the task that executes joined batches (`joined`) come here; all of them live on the connection's thread.
//!
//! Not here: reading, and what the task does with the news (`client_conn`).

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

use super::buffers::Buffers;
use super::joined::Returned;
use super::unsent::{SLICES_MAX, Unsent, fill};
use crate::keeper::Figures;
use crate::resp::Output;

/// What a connection's task shares with them.
pub(super) struct Line {
    socket: RefCell<OwnedWriteHalf>,
    /// What others may see of the connection's buffers.
    pub(super) figures: Arc<Figures>,
    pub(super) unsent: RefCell<Unsent>,
    /// The connection has a batch among those that are executed together.
    pub(super) joined: Cell<bool>,
    /// Had one, and has to see to it.
    pub(super) returned: Cell<Option<Box<Returned>>>,
    /// Highest number whose replies may leave.
    pub(super) released: Cell<u64>,
    /// The batch that waited shall go on.
    pub(super) resume: Cell<bool>,
    /// The Keeper has messages for it.
    pub(super) pushed: Cell<bool>,
    /// Close at once.
    pub(super) close: Cell<bool>,
    /// Close as soon as nothing is outstanding.
    pub(super) close_idle: Cell<bool>,
    /// What wakes the connection's task.
    task: RefCell<Option<Waker>>,
}

impl Line {
    pub(super) fn new(socket: OwnedWriteHalf, figures: Arc<Figures>) -> Line {
        Line {
            socket: RefCell::new(socket),
            figures,
            unsent: RefCell::default(),
            joined: Cell::default(),
            returned: Cell::default(),
            released: Cell::default(),
            resume: Cell::default(),
            pushed: Cell::default(),
            close: Cell::default(),
            close_idle: Cell::default(),
            task: RefCell::default(),
        }
    }

    /// Writes replies at once if they may leave and nothing stands before them, which saves a round of readiness. What does not go is queued.
    pub(super) fn send(&self, seq: Option<u64>, output: Output, buffers: &mut Buffers) {
        let mut unsent = self.unsent.borrow_mut();
        if seq.is_none()
            && unsent.is_empty()
            && let Some(written) = self.try_write(&output)
        {
            if written == output.len() {
                buffers.take_output(output);
                return;
            }
            unsent.push_rest(output, written, buffers);
        } else {
            unsent.push(seq, output, buffers);
        }
        self.figures.note_output(unsent.len(), unsent.pieces());
    }

    /// Queues replies behind what has not left.
    pub(super) fn push(&self, seq: Option<u64>, output: Output, buffers: &mut Buffers) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.push(seq, output, buffers);
        self.figures.note_output(unsent.len(), unsent.pieces());
    }

    /// Writes the beginning of `output`; returns how much, or none if nothing goes.
    #[inline]
    fn try_write(&self, output: &Output) -> Option<usize> {
        match output.as_piece() {
            Some(bytes) => self.socket.borrow().try_write(bytes).ok(),
            None => self.try_write_pieces(output),
        }
    }

    /// Apart, lest every small reply pays for the room that its slices take.
    #[inline(never)]
    fn try_write_pieces(&self, output: &Output) -> Option<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = fill(&mut slices, output.pieces());
        if count == 0 { None } else { self.socket.borrow().try_write_vectored(&slices[..count]).ok() }
    }

    /// Writes what may leave of what is queued. Ready(Ok) after any progress.
    ///
    /// # Errors
    /// The socket's; the connection is over.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buffers: &RefCell<Buffers>) -> Poll<io::Result<()>> {
        let (mut socket, mut buffers) = (self.socket.borrow_mut(), buffers.borrow_mut());
        let mut unsent = self.unsent.borrow_mut();
        let written = unsent.poll_write(cx, &mut *socket, self.released.get(), &mut buffers);
        self.figures.note_output(unsent.len(), unsent.pieces());
        written
    }

    /// Ends the sending side.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut *self.socket.borrow_mut()).poll_shutdown(cx)
    }

    /// Whether something of what is queued may leave.
    pub(super) fn may_leave(&self) -> bool {
        self.unsent.borrow().may_leave(self.released.get())
    }

    /// Bytes that have not left.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent.borrow().len()
    }

    /// The joined batch is executed. The connection's task has to see to what is given back, or to close a connection that is idle now.
    pub(super) fn finish_joined(&self, returned: Option<Returned>) {
        self.joined.set(false);
        self.figures.note_executed();
        if returned.is_some() || self.close_idle.get() {
            self.returned.set(returned.map(Box::new));
            self.wake();
        }
    }

    /// Wakes the connection's task.
    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// From now on this wakes the connection's task.
    pub(super) fn register(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        match &*task {
            Some(known) if known.will_wake(waker) => {}
            _ => *task = Some(waker.clone()),
        }
    }
}
