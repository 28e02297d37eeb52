//! What the log is told: transitions, with positions and reasons.

use std::collections::BTreeMap;
use std::fmt;

use crate::base::clock::Boot;

/// What goes on without a change is told again after this long.
const AGAIN_MS: u64 = 60_000;
/// Different texts that are remembered.
const TEXTS_MAX: usize = 64;

/// How urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A transition.
    Info,
    /// We coped.
    Warn,
    /// A human must look.
    Error,
}

/// Least important line that the log shows. What a line weighs is the business of whoever writes the log; the Keeper keeps the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// A human must look.
    Error,
    /// The node coped.
    Warn,
    /// Transitions: roles, the in-sync set, resyncs, sessions.
    Info,
    /// Connections and decisions.
    Debug,
    /// Everything, libraries included.
    Trace,
}

impl LogLevel {
    /// As the configuration spells them.
    pub const WORDS: &'static [(&'static str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];

    /// As the configuration spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        LogLevel::WORDS.iter().find(|(_, level)| *level == self).map_or("", |(word, _)| word)
    }
}

/// One line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How urgent.
    pub level: Level,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Notice {
    /// A transition.
    pub fn info(text: impl Into<String>) -> super::Effect {
        super::Effect::Notice(Notice { level: Level::Info, text: text.into() })
    }

    /// Something that was coped with.
    pub fn warn(text: impl Into<String>) -> super::Effect {
        super::Effect::Notice(Notice { level: Level::Warn, text: text.into() })
    }

    /// Something that a human must look at.
    pub fn error(text: impl Into<String>) -> super::Effect {
        super::Effect::Notice(Notice { level: Level::Error, text: text.into() })
    }
}

/// Remembers what was told about something that is tried again and again, so that the log shows it once a minute, not at each try.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// When each text was told. At most [`TEXTS_MAX`]; one too many forgets all.
    last: BTreeMap<String, Boot>,
}

impl Told {
    /// Whether this is to be told now; it counts as told then.
    pub fn is_news(&mut self, now: Boot, text: &str) -> bool {
        self.is_due(now, text, AGAIN_MS)
    }

    /// The same for what is told again after that long.
    pub fn is_due(&mut self, now: Boot, text: &str, again_ms: u64) -> bool {
        if self.last.get(text).is_some_and(|at| now.ms_since(*at) < again_ms) {
            return false;
        }
        if self.last.len() >= TEXTS_MAX {
            self.last.clear();
        }
        self.last.insert(text.to_string(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_news_once_a_minute() {
        let mut told = Told::default();
        assert!(told.is_news(Boot(0), "refused n3"));
        assert!(!told.is_news(Boot(0).plus_ms(AGAIN_MS - 1), "refused n3"));
        assert!(told.is_news(Boot(0).plus_ms(AGAIN_MS - 1), "refused n2"));
        assert!(told.is_news(Boot(0).plus_ms(AGAIN_MS), "refused n3"));
    }

    #[test]
    fn texts_that_are_remembered_are_bounded() {
        let mut told = Told::default();
        for i in 0..10_000 {
            assert!(told.is_news(Boot(1), &i.to_string()));
            assert!(told.last.len() <= TEXTS_MAX);
        }
    }
}
