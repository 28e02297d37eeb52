//! Replies of one connection on their way out: in order, some held until the Keeper releases their number.
//!
//! The Keeper numbers what must wait for acknowledgements; what has no number waits only for what stands before it. Bounded
//! by the connection, which stops reading at `OUTPUT_BYTES_PAUSE`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffers::Buffers;
use crate::resp::Output;

/// Pieces given to one system call at most.
const SLICES_MAX: usize = 32;

/// The replies that have not left yet.
#[derive(Default)]
pub(super) struct Unsent {
    /// Number under which it is held (0: none), and the replies of one batch.
    queue: VecDeque<(u64, Output)>,
    /// Bytes of the first that have left.
    sent: usize,
    /// Bytes of all that have not.
    bytes: usize,
}

impl Unsent {
    /// Appends the replies of one batch, held under `seq` if there is one. Empty ones come back into `buffers`.
    pub(super) fn push(&mut self, seq: Option<u64>, output: Output, buffers: &mut Buffers) {
        if output.is_empty() {
            buffers.take_output(output);
            return;
        }
        self.bytes += output.len();
        self.queue.push_back((seq.unwrap_or(0), output));
    }

    /// Bytes that have not left yet.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether something may leave when numbers up to `released` are released.
    pub(super) fn may_leave(&self, released: u64) -> bool {
        self.queue.front().is_some_and(|(seq, _)| *seq <= released)
    }

    /// Writes what may leave with one system call. Ready(Ok) after any progress.
    ///
    /// # Errors
    /// The socket's; the connection is over.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncWrite + Unpin),
        released: u64,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        let mut sent = self.sent;
        let leaving = self.queue.iter().take_while(|(seq, _)| *seq <= released);
        let pieces = leaving.flat_map(|(_, output)| output.pieces_from(std::mem::take(&mut sent)));
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let written = match count {
            1 => ready!(Pin::new(socket).poll_write(cx, &slices[0]))?,
            _ => ready!(Pin::new(socket).poll_write_vectored(cx, &slices[..count]))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.left(written, buffers);
        Poll::Ready(Ok(()))
    }

    /// That many more bytes have left.
    fn left(&mut self, written: usize, buffers: &mut Buffers) {
        self.bytes -= written;
        self.sent += written;
        while let Some((_, output)) = self.queue.front() {
            if self.sent < output.len() {
                return;
            }
            self.sent -= output.len();
            if let Some((_, output)) = self.queue.pop_front() {
                buffers.take_output(output);
            }
        }
        if self.queue.capacity() > 64 {
            self.queue.shrink_to(8);
        }
    }
}
