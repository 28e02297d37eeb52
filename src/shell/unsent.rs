//! Replies of one connection on their way out: in order, some held until the Keeper releases their number.
//!
//! The Keeper numbers what must wait for acknowledgements; what has no number waits only for what stands before it. Bounded
//! by the connection, which stops reading at `OUTPUT_BYTES_PAUSE` unless the client does not read (`pile`): then by the Keeper. What piles up is kept in
//! as many bytes as it has, or nearly: lent buffers go back.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffers::Buffers;
use crate::base::limits::READ_BYTES_PER_WAKE;
use crate::resp::Output;

/// Pieces given to one system call at most.
pub(super) const SLICES_MAX: usize = 32;

/// With so much in the queue, what comes next is kept in no more bytes than it has.
const COMPACT_FROM: usize = 32 << 10;

/// Sets slices to pieces, as far as either reaches; returns how many.
pub(super) fn fill<'a>(slices: &mut [IoSlice<'a>], pieces: impl Iterator<Item = &'a [u8]>) -> usize {
    slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
}

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
        let much = self.bytes > COMPACT_FROM;
        self.bytes += output.len();
        let seq = seq.unwrap_or(0);
        if !much {
            self.queue.push_back((seq, output));
            return;
        }
        match self.queue.back_mut() {
            Some((last_seq, last)) if *last_seq == seq && last.len() < READ_BYTES_PER_WAKE / 2 => {
                last.append_copy(&output);
                buffers.take_output(output);
            }
            _ if output.is_roomy() => {
                let mut exact = Output::new();
                exact.append_copy(&output);
                self.queue.push_back((seq, exact));
                buffers.take_output(output);
            }
            _ => self.queue.push_back((seq, output)),
        }
    }

    /// Appends replies of which so many bytes have left already; nothing stands before them.
    pub(super) fn push_rest(&mut self, output: Output, written: usize, buffers: &mut Buffers) {
        debug_assert!(self.queue.is_empty() && self.sent == 0, "only the first can have left in part");
        if written == output.len() {
            buffers.take_output(output);
        } else {
            (self.sent, self.bytes) = (written, output.len() - written);
            self.queue.push_back((0, output));
        }
    }

    /// Bytes that have not left yet.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// In how many pieces they are.
    pub(super) fn pieces(&self) -> usize {
        self.queue.len()
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
        let mut sent = self.sent;
        let leaving = self.queue.iter().take_while(|(seq, _)| *seq <= released);
        let pieces = leaving.flat_map(|(_, output)| output.pieces_from(std::mem::take(&mut sent)));
        let count = fill(&mut slices, pieces);
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
        if self.queue.capacity() > 64 && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(2 * self.queue.len().max(8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, then nothing until it is emptied.
    #[derive(Default)]
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn output(text: &str) -> Output {
        let mut output = Output::new();
        output.put_encoded(text.as_bytes());
        output
    }

    fn drain(unsent: &mut Unsent, socket: &mut Narrow, released: u64) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while unsent.may_leave(released) {
            match unsent.poll_write(&mut cx, socket, released, &mut Buffers::default()) {
                Poll::Ready(written) => written.expect("a narrow socket never fails"),
                Poll::Pending => return,
            }
        }
    }

    #[test]
    fn held_reply_keeps_back_what_stands_behind_it_and_nothing_else() {
        let (mut unsent, mut socket) = (Unsent::default(), Narrow { room: 100, ..Narrow::default() });
        let buffers = &mut Buffers::default();
        unsent.push(None, output("a"), buffers);
        unsent.push(Some(7), output("b"), buffers);
        unsent.push(None, output("c"), buffers);
        unsent.push(Some(8), output("d"), buffers);
        drain(&mut unsent, &mut socket, 6);
        assert_eq!((socket.taken.as_slice(), unsent.len()), (&b"a"[..], 3));
        drain(&mut unsent, &mut socket, 7);
        assert_eq!((socket.taken.as_slice(), unsent.len()), (&b"abc"[..], 1));
        drain(&mut unsent, &mut socket, 8);
        assert_eq!((socket.taken.as_slice(), unsent.is_empty()), (&b"abcd"[..], true));
    }

    #[test]
    fn what_piles_up_is_joined_and_takes_no_more_than_it_has() {
        let (mut unsent, mut socket) = (Unsent::default(), Narrow { room: 4 << 20, ..Narrow::default() });
        let buffers = &mut Buffers::default();
        let mut expected = Vec::new();
        for i in 0..200_000 {
            let mut lent = Output::new();
            lent.reserve(1_024);
            lent.put_encoded(format!("+{i}\r\n").as_bytes());
            expected.extend_from_slice(format!("+{i}\r\n").as_bytes());
            unsent.push(None, lent, buffers);
        }
        let kept: usize = unsent.queue.iter().skip(10_000).map(|(_, output)| output.memory()).sum();
        assert!(kept < 3 * unsent.len(), "{kept} bytes are kept for {}", unsent.len());
        drain(&mut unsent, &mut socket, 0);
        assert!(unsent.is_empty() && socket.taken == expected, "bytes were lost, doubled or moved");
        assert!(unsent.queue.capacity() <= 64, "the queue itself is given back");
    }

    #[test]
    fn partial_writes_go_on_where_they_stopped_across_small_and_shared_pieces() {
        let (mut unsent, mut socket) = (Unsent::default(), Narrow::default());
        let buffers = &mut Buffers::default();
        let shared = bytes::Bytes::from(vec![b'x'; 20_000]);
        let mut big = output("head");
        big.put_encoded_shared(&shared);
        big.put_encoded(b"tail");
        let expected = [&b"first"[..], b"head", &shared, b"tail", b"last"].concat();
        unsent.push(None, output("first"), buffers);
        unsent.push(Some(1), big, buffers);
        unsent.push(None, output("last"), buffers);
        while !unsent.is_empty() {
            let before = unsent.len();
            socket.room = 3_001;
            drain(&mut unsent, &mut socket, 1);
            assert!(unsent.len() < before, "stuck with {before} bytes");
        }
        assert!(socket.taken == expected, "bytes were lost, doubled or moved");
    }
}
