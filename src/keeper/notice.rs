//! What the log is told: transitions, with positions and reasons.

use std::fmt;

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
