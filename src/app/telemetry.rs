//! Where events go: one line each to stderr or to a file, at the configured level and in the configured form, through a queue (`lines`): who logs never
//! waits.
//!
//! Only DataKeeper itself speaks at `info` and `debug`; libraries are heard from `warn` upwards, and in full at `trace`. The
//! level comes from the configuration alone: an environment variable that changes it would be a second place to look.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use super::config::{Log, LogFormat};
use super::last_word;
use super::lines::{Lines, Sink, Way};
use crate::keeper::LogLevel;
use crate::shell::SetLogLevel;

/// How long the end of the process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of this process, for who changes it.
#[derive(Clone)]
pub struct LogHandle {
    /// Changes what is logged.
    pub set_level: SetLogLevel,
    lines: Arc<Lines>,
    to_file: bool,
}

impl LogHandle {
    /// Opens the log file anew, because `who` asked for it.
    pub fn reopen(&self, who: &str) {
        if self.to_file {
            tracing::info!("{who}: the log file is opened anew");
            self.lines.ask_to_reopen();
            tracing::info!("{who}: this is the log file now");
        } else {
            tracing::info!("{who}: the node goes on; it would open its log file anew, but logs to stderr (log.file)");
        }
    }

    /// Lines that were dropped because nobody read.
    #[must_use]
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.lines.dropped_counter()
    }

    /// Waits for a moment until everything is written.
    pub fn flush(&self) {
        self.lines.flush(LAST_LINES);
    }
}

/// Sends the events of this process to stderr or to the configured file from now on, panics and the last word of a fault included.
///
/// # Errors
/// The file cannot be opened, or events of this process go somewhere already.
pub fn init(log: &Log) -> Result<LogHandle, String> {
    let colours = log.file.is_none() && std::io::stderr().is_terminal();
    let sink = Sink::open(log.file.as_deref()).map_err(|error| {
        let path = log.file.as_deref().unwrap_or(Path::new("")).display();
        format!("log.file: {path}: cannot be written: {error}; name a file in a folder that exists and that this user may write to")
    })?;
    let lines = Lines::start(sink, |dropped| {
        tracing::warn!(
            "{dropped} lines of the log were dropped: they came faster than they were read, or could not be written"
        );
    });
    let lines = lines.map_err(|error| format!("cannot start the log: {error}"))?;
    let (subscriber, set_level) = subscriber(log, Way(lines.clone()), colours);
    subscriber.try_init().map_err(|e| format!("cannot start the log: {e}"))?;
    // The default hook writes to stderr itself, and waits for whoever reads that.
    std::panic::set_hook(Box::new(|panic| tracing::error!(target: "datakeeper", "a thread panicked: {panic}")));
    last_word::listen(lines.clone(), log.format);
    Ok(LogHandle { set_level, lines, to_file: log.file.is_some() })
}

fn subscriber<W>(log: &Log, writer: W, colours: bool) -> (impl Subscriber + Send + Sync + use<W>, SetLogLevel)
where
    W: for<'a> MakeWriter<'a, Writer: Write> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let set_level = Arc::new(move |level| {
        // It fails once nobody writes the log any more.
        let _ = handle.reload(targets(level));
    });
    (tracing_subscriber::registry().with(lines.with_filter(filter)), set_level)
}

fn targets(level: LogLevel) -> Targets {
    let (own, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new().with_target("datakeeper", own).with_default(others)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, _) = subscriber(&Log { level, format, file: None }, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, || {
            let _node = tracing::info_span!("node", id = "n1").entered();
            tracing::info!(epoch = 7, "leader");
            tracing::debug!("detail");
            tracing::info!(target: "some_library", "chatter");
            tracing::warn!(target: "some_library", "trouble");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_are_heard_from_warn_upwards_until_trace() {
        let heard = |level| {
            let text = logged(level, LogFormat::Text);
            ["leader", "detail", "chatter", "trouble"].map(|word| text.contains(word))
        };
        assert_eq!(heard(LogLevel::Error), [false, false, false, false]);
        assert_eq!(heard(LogLevel::Warn), [false, false, false, true]);
        assert_eq!(heard(LogLevel::Info), [true, false, false, true]);
        assert_eq!(heard(LogLevel::Debug), [true, true, false, true]);
        assert_eq!(heard(LogLevel::Trace), [true, true, true, true]);
    }

    #[test]
    fn the_level_changes_what_is_heard_from_then_on() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { level: LogLevel::Warn, format: LogFormat::Text, file: None };
        let (subscriber, set_level) = subscriber(&log, move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, || {
            for (level, word) in [(LogLevel::Warn, "one"), (LogLevel::Debug, "two"), (LogLevel::Error, "three")] {
                set_level(level);
                tracing::debug!("{word}");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(["one", "two", "three"].map(|word| text.contains(word)), [false, true, false], "{text}");
    }

    #[test]
    fn json_is_one_object_per_line_with_the_span_in_it() {
        let text = logged(LogLevel::Info, LogFormat::Json);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["message"], &lines[0]["epoch"]), (&"leader".into(), &7.into()));
        assert_eq!(lines[0]["span"]["id"], "n1");
    }
}
