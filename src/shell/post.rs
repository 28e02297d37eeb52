//! Letters to connections: how any thread reaches a connection that lives on one certain thread.
//!
//! One box per client thread. Whoever puts the first letter into an empty box wakes the thread's postman; later ones of the
//! same tick ride along, so a group acknowledgement costs one wake per thread, however many replies it releases.
//!
//! The box has no bound of its own: a connection causes at most one letter per batch it has held, and stops reading when it
//! holds too much; and one when messages wait for it, until it has fetched them.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use super::client_conn::Worker;
use super::runtime::Arrival;
use crate::base::ids::ConnId;

/// News for one connection, or for all of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letter {
    /// Replies held under numbers up to `seq` may leave.
    Release { conn: ConnId, seq: u64 },
    /// Go on with the batch that had to wait.
    Resume(ConnId),
    /// Messages wait for it.
    Push(ConnId),
    /// Close as soon as nothing is outstanding.
    CloseIdle(ConnId),
    /// Close now, whatever is unsent.
    Close(ConnId),
    /// All of them.
    CloseAll,
}

/// One client thread as the others see it.
pub(super) struct Post {
    letters: Mutex<Vec<Letter>>,
    postman: AtomicWaker,
    /// Sockets on their way to the thread.
    arrivals: UnboundedSender<Arrival>,
    /// Connections that the thread has, those on their way included.
    load: AtomicUsize,
    /// How many it was given so far; makes connection ids.
    given: AtomicU64,
}

impl Post {
    pub(super) fn new(arrivals: UnboundedSender<Arrival>) -> Post {
        Post {
            letters: Mutex::default(),
            postman: AtomicWaker::new(),
            arrivals,
            load: AtomicUsize::new(0),
            given: AtomicU64::new(0),
        }
    }

    /// Puts letters into the box, waking the postman if it was empty.
    pub(super) fn deliver(&self, letters: impl Iterator<Item = Letter>) {
        let mut letters = letters.peekable();
        if letters.peek().is_none() {
            return;
        }
        let mut waiting = self.letters.lock();
        let first = waiting.is_empty();
        waiting.extend(letters);
        drop(waiting);
        if first {
            self.postman.wake();
        }
    }

    /// Sends a socket to the thread.
    pub(super) fn send(&self, arrival: Arrival) {
        self.load.fetch_add(1, Ordering::Relaxed);
        if self.arrivals.send(arrival).is_err() {
            self.load.fetch_sub(1, Ordering::Relaxed); // the thread has ended; the socket closes by itself
        }
    }

    /// A connection of the thread is over.
    pub(super) fn gone(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that the thread has.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// How many connections this thread was given before the one that asks; counts from 0.
    pub(super) fn next_given(&self) -> u64 {
        self.given.fetch_add(1, Ordering::Relaxed)
    }

    /// The thread's postman: hands the letters out for as long as the thread lives.
    pub(super) async fn run(&self, worker: Rc<Worker>) {
        let mut letters = Vec::new();
        loop {
            poll_fn(|cx| {
                self.postman.register(cx.waker());
                std::mem::swap(&mut letters, &mut *self.letters.lock());
                if letters.is_empty() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            for letter in letters.drain(..) {
                worker.hand_out(letter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_the_first_letter_of_an_empty_box_wakes_the_postman() {
        let post = Post::new(tokio::sync::mpsc::unbounded_channel().0);
        let woken = Arc::new(Flag(AtomicBool::new(false)));
        post.postman.register(&woken.clone().into());
        post.deliver(std::iter::empty());
        assert!(!woken.0.load(Ordering::SeqCst), "no letter, no wake");
        post.deliver([Letter::Resume(ConnId(1)), Letter::CloseAll].into_iter());
        assert!(woken.0.swap(false, Ordering::SeqCst));
        post.postman.register(&woken.clone().into());
        post.deliver([Letter::Release { conn: ConnId(1), seq: 7 }].into_iter());
        assert!(!woken.0.load(Ordering::SeqCst), "the postman is on its way already");
        assert_eq!(post.letters.lock().len(), 3);
    }
}
