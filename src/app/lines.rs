//! Lines of the log on their way out: a bounded queue, and the one thread that writes.
//!
//! Whoever reads stderr may stop: a log driver that is stuck, a terminal that is held. A write to it then lasts for ever, so no thread that does
//! anything else may make one. What finds [`LOG_BYTES_MAX`] waiting is dropped and counted, and the log says so as soon as it is read again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

use crate::base::limits::LOG_BYTES_MAX;

/// The log as all threads see it.
#[derive(Default)]
pub struct Lines {
    queue: Mutex<VecDeque<Item>>,
    /// Something is to be done, or everything is done.
    changed: Condvar,
    /// Bytes that were not written yet, those that are being written included.
    waiting: AtomicUsize,
    /// Lines that nobody will ever see.
    dropped: Arc<AtomicU64>,
    /// Where lines go, for a last word.
    descriptor: AtomicI32,
}

/// What the thread is to do.
enum Item {
    Line(Vec<u8>),
    /// Open the file anew.
    Reopen,
}

/// Where lines go.
pub enum Sink {
    Stderr,
    /// A file that lines are appended to, and its path.
    File(File, PathBuf),
    /// Tests.
    #[cfg(test)]
    Other(Box<dyn Write + Send>),
}

impl Sink {
    /// # Errors
    /// The file cannot be opened; for the operator.
    pub fn open(path: Option<&Path>) -> io::Result<Sink> {
        let Some(path) = path else { return Ok(Sink::Stderr) };
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Sink::File(file, path.to_owned()))
    }

    fn descriptor(&self) -> i32 {
        match self {
            Sink::Stderr => io::stderr().as_raw_fd(),
            Sink::File(file, _) => file.as_raw_fd(),
            #[cfg(test)]
            Sink::Other(_) => -1,
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stderr => io::stderr().write_all(line),
            Sink::File(file, _) => file.write_all(line),
            #[cfg(test)]
            Sink::Other(other) => other.write_all(line),
        }
    }
}

impl Lines {
    /// Starts the thread that writes, for as long as the process lives; `told` is called on it with how many lines were dropped since the last time.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(mut sink: Sink, told: impl Fn(u64) + Send + 'static) -> io::Result<Arc<Lines>> {
        let lines = Arc::new(Lines::default());
        lines.descriptor.store(sink.descriptor(), Ordering::Release);
        let queue = lines.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut said = 0;
            loop {
                for item in queue.take() {
                    let Item::Line(line) = item else {
                        queue.reopen(&mut sink);
                        continue;
                    };
                    if sink.write(&line).is_err() {
                        queue.dropped.fetch_add(1, Ordering::Relaxed); // a terminal that is gone, a disk that is full
                    }
                    queue.waiting.fetch_sub(line.len(), Ordering::Release);
                }
                let dropped = queue.dropped();
                if dropped > said {
                    told(dropped - said);
                    // If nobody reads still, that line is among those that are dropped: it is said again then.
                    said = dropped;
                }
            }
        })?;
        Ok(lines)
    }

    /// Waits for something to do.
    fn take(&self) -> VecDeque<Item> {
        let mut queue = self.queue.lock();
        while queue.is_empty() {
            self.changed.notify_all();
            self.changed.wait(&mut queue);
        }
        std::mem::take(&mut queue)
    }

    fn reopen(&self, sink: &mut Sink) {
        let Sink::File(_, path) = sink else { return };
        match Sink::open(Some(path)) {
            Ok(opened) => {
                self.descriptor.store(opened.descriptor(), Ordering::Release);
                *sink = opened;
            }
            Err(error) => tracing::error!(
                "{}: the log cannot be opened anew, and goes on in the old file: {error}",
                path.display()
            ),
        }
    }

    /// Queues a line, or drops it.
    fn push(&self, line: &[u8]) {
        if self.waiting.load(Ordering::Acquire) + line.len() > LOG_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        self.queue.lock().push_back(Item::Line(line.to_vec()));
        self.changed.notify_all();
    }

    /// Lets the file be opened anew, once what was said before is in the old one.
    pub fn ask_to_reopen(&self) {
        self.queue.lock().push_back(Item::Reopen);
        self.changed.notify_all();
    }

    /// Lines that were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The same, for whoever counts.
    #[must_use]
    pub fn dropped_counter(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// Where lines go.
    #[must_use]
    pub fn descriptor(&self) -> i32 {
        self.descriptor.load(Ordering::Acquire)
    }

    /// Bytes that were not written yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Waits until everything is written, or for so long.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queue = self.queue.lock();
        while self.waiting() > 0 && !self.changed.wait_until(&mut queue, deadline).timed_out() {}
    }
}

/// The way in for one event.
#[derive(Clone)]
pub struct Way(pub Arc<Lines>);

impl Write for Way {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Way {
    type Writer = Way;

    fn make_writer(&'a self) -> Way {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes a line when it is let, and shows it.
    struct Gate(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv(); // an end lets everything through
            let _ = self.1.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_and_what_is_dropped_is_said() {
        let ((open, gate), (shown, seen), (told, said)) = (channel(), channel(), channel());
        let lines = Lines::start(Sink::Other(Box::new(Gate(gate, shown))), move |count| {
            let _ = told.send(count);
        })
        .unwrap();
        let line = [b'x'; 1_024];
        let kept = LOG_BYTES_MAX / line.len();
        // Nobody reads: this would never end.
        for _ in 0..kept + 500 {
            Way(lines.clone()).write_all(&line).unwrap();
        }
        assert_eq!((lines.dropped(), lines.waiting()), (500, LOG_BYTES_MAX));
        drop(open);
        assert!((0..kept).all(|_| seen.recv().is_ok_and(|line| line.len() == 1_024)));
        assert_eq!(said.recv(), Ok(500));
        lines.flush(Duration::from_secs(20));
        assert_eq!(lines.waiting(), 0);
    }

    #[test]
    fn file_is_opened_anew_when_it_was_moved_away() {
        let folder = std::env::temp_dir().join(format!("datakeeper-lines-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, moved) = (folder.join("log"), folder.join("log.1"));
        let lines = Lines::start(Sink::open(Some(&path)).unwrap(), |_| {}).unwrap();
        let mut way = Way(lines.clone());
        way.write_all(b"one\n").unwrap();
        lines.flush(Duration::from_secs(20));
        std::fs::rename(&path, &moved).unwrap();
        way.write_all(b"two\n").unwrap();
        lines.ask_to_reopen();
        lines.flush(Duration::from_secs(20));
        way.write_all(b"three\n").unwrap();
        lines.flush(Duration::from_secs(20));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&moved), read(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
