//! What a client program and the test that started it (`tests/clients/main.rs`) tell each other; `python/story.py` says it in words.

use std::fmt::{Debug, Display};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;

/// Between two rounds: enough clients run at once.
const PACE: Duration = Duration::from_millis(10);
/// Rounds that are read back at a time.
const BATCH: usize = 200;

/// A library in one of its ways to be used.
pub trait Client {
    /// Tries everything once; says what is not as it should be.
    fn tour(&mut self);
    /// Writes the keys of a round: one with a command, or two in a pipeline or a transaction, as [`Form`] says.
    ///
    /// # Errors
    /// It was not acknowledged.
    fn write(&mut self, form: Form, keys: &[String], n: u64) -> Result<(), String>;
    /// Reads keys.
    ///
    /// # Errors
    /// They were not read.
    fn mget(&mut self, keys: &[String]) -> Result<Vec<Option<String>>, String>;
    /// What its user has to do after an error.
    fn after(&mut self, error: &str);
}

/// How the keys of a round are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One command.
    Command,
    /// Several, sent together.
    Pipeline,
    /// Several, between MULTI and EXEC.
    Transaction,
}

/// What the program was started with: `plain|cluster|sentinel NAME HOST:PORT...`, behind words of its own.
pub struct Arguments {
    /// How it finds the leader, and what stands before that.
    pub words: Vec<String>,
    /// Its keys begin with it.
    pub name: String,
    /// All nodes.
    pub nodes: Vec<String>,
}

impl Arguments {
    /// Those of this process, with so many words before the name.
    ///
    /// # Panics
    /// If some are missing.
    #[must_use]
    pub fn read(words: usize) -> Arguments {
        let mut all = std::env::args().skip(1);
        let words = all.by_ref().take(words).collect();
        Arguments { words, name: all.next().expect("a name"), nodes: all.collect() }
    }
}

/// Prints a line.
pub fn say(text: impl Display) {
    println!("{text}");
}

/// Says so if something is not as it should be.
pub fn expect<T: PartialEq + Debug>(what: &str, got: T, wanted: T) {
    if got != wanted {
        say(format!("wrong {what}: {got:?}, not {wanted:?}").replace('\n', " "));
    }
}

/// Where `MOVED` sends a plain client.
#[must_use]
pub fn moved_to(error: &str) -> Option<String> {
    let (_, rest) = error.split_once("MOVED")?;
    rest.split_whitespace().find(|word| word.contains(':') && !word.ends_with(':')).map(str::to_string)
}

/// The runtime on which asynchronous clients live.
///
/// # Panics
/// If there is none to be had.
#[must_use]
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// The version of a dependency of these programs.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).expect("a dependency");
    rest.split('"').next().expect("the quote that ends it")
}

/// Runs a client of a library, which is this package, through its story.
pub fn run(library: &str, package: &str, name: &str, connect: impl FnOnce() -> Box<dyn Client>) {
    say(format!("library {library} {}", version(package)));
    let finishing = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&finishing);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::SeqCst);
    });
    let mut client = connect();
    client.tour();
    say("ready");
    let mut acked = Vec::new();
    for n in 1.. {
        if finishing.load(Ordering::SeqCst) {
            break;
        }
        let (form, keys) = round(name, n);
        let done = client.write(form, &keys, n).and_then(|()| {
            acked.push(n);
            say(format!("acked {n}"));
            client.mget(&keys[..1])
        });
        match done {
            Ok(found) if found == [Some(n.to_string())] => {}
            Ok(found) => say(format!("stale a read: {found:?}, not {n}")),
            Err(error) => {
                say(format!("error {n} {error}").replace(['\n', '\r'], " "));
                client.after(&error);
            }
        }
        std::thread::sleep(PACE);
    }
    client.tour();
    for batch in acked.chunks(BATCH) {
        let wanted: Vec<(String, u64)> =
            batch.iter().flat_map(|n| round(name, *n).1.into_iter().map(move |key| (key, *n))).collect();
        let keys: Vec<String> = wanted.iter().map(|(key, _)| key.clone()).collect();
        match client.mget(&keys) {
            Ok(found) => {
                for ((key, n), found) in wanted.iter().zip(found) {
                    expect(&format!("lost {key}"), found, Some(n.to_string()));
                }
            }
            Err(error) => say(format!("wrong end: {error}")),
        }
    }
    say(format!("verified {}", acked.len()));
}

/// How a round is written, and its keys.
fn round(name: &str, n: u64) -> (Form, Vec<String>) {
    let form = match n % 5 {
        0 => Form::Transaction,
        1 => Form::Pipeline,
        _ => Form::Command,
    };
    let parts = if form == Form::Command { 1 } else { 2 };
    (form, (0..parts).map(|part| format!("{{{name}}}:{n}:{part}")).collect())
}
