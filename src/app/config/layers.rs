//! Layers of settings, and the reader that turns what the layers gave into checked values.
//!
//! A later layer hides an earlier one: defaults, the file, the environment, the flags. Every value remembers its [`Source`], so
//! that a complaint names where the value was written and not only the key. Complaints are collected, never thrown: an
//! operator sees all of them at once. YAML is read as a plain tree, because a derived deserializer stops at its first error.
//!
//! Not here: which keys exist and what they mean (the parent module).

use std::collections::BTreeMap;
use std::fmt;

use serde_yaml::Value;

/// A file with more of them is refused unread.
const BRACKETS_MAX: usize = 1_000;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A configuration file, by the name it was opened with.
    File(String),
    /// An environment variable.
    Env(&'static str),
    /// A flag, as it was typed; a secret's value is hidden.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(name) => f.write_str(name),
            Source::Env(name) => write!(f, "environment {name}"),
            Source::Flag(typed) => f.write_str(typed),
        }
    }
}

/// One thing that is wrong with the configuration. Only the operator can act on it; the process exits with code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A file could not be read.
    Unreadable {
        /// Its path.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// The file is not YAML, or not a map of keys; or a `--set` has no `=`.
    Syntax {
        /// Where.
        source: Source,
        /// What is wrong there.
        reason: String,
    },
    /// A key that does not exist.
    UnknownKey {
        /// Where.
        source: Source,
        /// Full path of the key.
        key: String,
        /// The known key or section that is most like it, if one is like it at all.
        nearest: Option<&'static str>,
    },
    /// A secret in a flag, which every user of the machine can see in the list of processes.
    SecretInFlag {
        /// The flag, the value hidden.
        source: Source,
        /// Where it can be given instead.
        instead: String,
    },
    /// A value of the wrong type, form or range.
    BadValue {
        /// Where.
        source: Source,
        /// Full path of the key.
        key: String,
        /// The value as it was written; hidden for secrets.
        value: String,
        /// Type, form and range that would do.
        wanted: String,
    },
    /// Values that are right alone and wrong together.
    Conflict {
        /// Where the values were written; empty if all are defaults.
        sources: Vec<Source>,
        /// The keys, the values and the rule.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, reason } => write!(f, "{path}: cannot be read: {reason}"),
            ConfigError::Syntax { source, reason } => write!(f, "{source}: {reason}"),
            ConfigError::UnknownKey { source, key, nearest } => {
                write!(f, "{source}: {key}: there is no such key")?;
                nearest.map_or(Ok(()), |nearest| write!(f, "; did you mean {nearest}?"))
            }
            ConfigError::SecretInFlag { source, instead } => {
                write!(f, "{source}: a secret in a flag shows in the list of processes; use {instead}")
            }
            ConfigError::BadValue { source, key, value, wanted } => {
                write!(f, "{source}: {key}: {value}: want {wanted}")
            }
            ConfigError::Conflict { sources, reason } => {
                for (i, source) in sources.iter().enumerate() {
                    write!(f, "{}{source}", if i == 0 { "" } else { ", " })?;
                }
                write!(f, "{}{reason}", if sources.is_empty() { "" } else { ": " })
            }
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the layers and then of the keys. Never empty as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// A value as a layer gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// From a file: has a type.
    Yaml(Value),
    /// From a flag or the environment: has none, the key decides.
    Typed(String),
}

impl Given {
    /// The value as text; a YAML number or boolean is not text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Given::Yaml(value) => value.as_str(),
            Given::Typed(text) => Some(text),
        }
    }

    /// The value as a whole number.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Given::Yaml(value) => value.as_u64(),
            Given::Typed(text) => text.parse().ok(),
        }
    }

    /// The value as a whole number, which may be negative.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Given::Yaml(value) => value.as_i64(),
            Given::Typed(text) => text.parse().ok(),
        }
    }

    /// The value as yes or no.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self {
            Given::Yaml(value) => value.as_bool(),
            Given::Typed(text) => text.parse().ok(),
        }
    }

    /// The value as a number of bytes: a whole number, or one with a unit as in `64MB` (10^6) or `1GiB` (2^30).
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.number().or_else(|| size(self.text()?))
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Yaml(Value::Mapping(_)) => f.write_str("a map of keys"),
            Given::Yaml(Value::Sequence(_)) => f.write_str("a list"),
            Given::Yaml(Value::String(text)) | Given::Typed(text) => write!(f, "{text:?}"),
            Given::Yaml(value) => f.write_str(serde_yaml::to_string(value).unwrap_or_default().trim_end()),
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Full path, as in `replication.lease_ms`.
    pub path: &'static str,
    /// Its value is shown to nobody.
    pub secret: bool,
}

/// The layers laid over each other, then read key by key.
///
/// A method that reads a key answers the default where the value was refused, so that reading goes on and finds the other
/// errors too; [`Reader::finish`] decides.
pub struct Reader {
    keys: &'static [Key],
    given: BTreeMap<&'static str, (Source, Given)>,
    refused: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

impl Reader {
    /// No layer yet: every key has its default.
    #[must_use]
    pub fn new(keys: &'static [Key]) -> Reader {
        Reader { keys, given: BTreeMap::new(), refused: Vec::new(), errors: Vec::new() }
    }

    /// Lays a file's text over what is there. A key without a value (`key:` or `key: null`) has its default.
    pub fn lay_file(&mut self, name: &str, text: &str) {
        let source = Source::File(name.to_string());
        // The parser's time grows with the square of the depth.
        if text.bytes().filter(|b| matches!(b, b'[' | b'{')).count() > BRACKETS_MAX {
            let reason = format!("more than {BRACKETS_MAX} brackets: this is no configuration");
            return self.errors.push(ConfigError::Syntax { source, reason });
        }
        match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Null) => {}
            Ok(Value::Mapping(map)) => self.lay_map(&source, "", map),
            Ok(_) => self.errors.push(ConfigError::Syntax { source, reason: "want a map of keys and values".into() }),
            Err(e) => self.errors.push(ConfigError::Syntax { source, reason: format!("not readable as YAML: {e}") }),
        }
    }

    fn lay_map(&mut self, source: &Source, prefix: &str, map: serde_yaml::Mapping) {
        for (name, value) in map {
            let name = match &name {
                Value::String(name) => name.clone(),
                other => Given::Yaml(other.clone()).to_string(),
            };
            let path = format!("{prefix}{name}");
            let section = format!("{path}.");
            if let Some(key) = self.keys.iter().find(|key| key.path == path) {
                if value == Value::Null {
                    continue;
                }
                if let Some((earlier, _)) = self.given.insert(key.path, (source.clone(), Given::Yaml(value)))
                    && earlier == *source
                {
                    let reason = format!("{path} is given twice");
                    self.errors.push(ConfigError::Syntax { source: source.clone(), reason });
                }
            } else if self.keys.iter().any(|key| key.path.starts_with(&section)) {
                match value {
                    Value::Mapping(inner) => self.lay_map(source, &section, inner),
                    Value::Null => {}
                    other => self.errors.push(ConfigError::BadValue {
                        source: source.clone(),
                        key: path,
                        value: Given::Yaml(other).to_string(),
                        wanted: "a map of keys".into(),
                    }),
                }
            } else {
                self.unknown(source.clone(), path);
            }
        }
    }

    /// Lays one untyped value over what is there.
    pub fn lay(&mut self, source: Source, path: &str, value: String) {
        match self.keys.iter().find(|key| key.path == path) {
            Some(key) => {
                self.given.insert(key.path, (source, Given::Typed(value)));
            }
            None => self.unknown(source, path.to_string()),
        }
    }

    fn unknown(&mut self, source: Source, key: String) {
        let nearest = nearest(&key, self.keys);
        self.errors.push(ConfigError::UnknownKey { source, key, nearest });
    }

    /// Adds an error found elsewhere.
    pub fn complain(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// Adds a rule that several keys break together. Named are the places in the latest layer that wrote one of them: what
    /// was right before that layer came is not to blame.
    pub fn conflict(&mut self, keys: &[&str], reason: String) {
        let latest = keys.iter().filter_map(|key| self.layer(key)).max();
        let blamed = keys.iter().filter(|key| latest.is_some() && self.layer(key) == latest);
        let sources = blamed.filter_map(|key| match self.given.get(key)? {
            (Source::File(name), _) => Some(Source::File(format!("{name}: {key}"))),
            (other, _) => Some(other.clone()),
        });
        let sources = sources.collect();
        self.errors.push(ConfigError::Conflict { sources, reason });
    }

    /// Whether a layer gave the key a value, good or not.
    #[must_use]
    pub fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// The number of the layer that gave the key its value; later layers have higher ones, and no layer is least.
    #[must_use]
    pub fn layer(&self, key: &str) -> Option<u8> {
        self.given.get(key).map(|(source, _)| match source {
            Source::File(_) => 0,
            Source::Env(_) => 1,
            Source::Flag(_) => 2,
        })
    }

    /// Whether any of these keys had a value that was refused, so that a rule over them says nothing new.
    #[must_use]
    pub fn any_refused(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.refused.contains(key))
    }

    /// What a layer gave, good or not; for a reason that depends on it.
    #[must_use]
    pub fn value(&self, path: &str) -> Option<&Given> {
        self.given.get(path).map(|(_, given)| given)
    }

    /// Reads a key: `parse` answers none for a value that does not fit `wanted`.
    ///
    /// # Panics
    /// If the key is not among the known ones: a defect of the caller.
    pub fn read<T>(
        &mut self,
        path: &'static str,
        wanted: &str,
        default: T,
        parse: impl FnOnce(&Given) -> Option<T>,
    ) -> T {
        let key = self.keys.iter().find(|key| key.path == path);
        let secret = key.expect("only known keys are read").secret;
        let Some((source, given)) = self.given.get(path) else { return default };
        if let Some(value) = parse(given) {
            return value;
        }
        self.errors.push(ConfigError::BadValue {
            source: source.clone(),
            key: path.to_string(),
            value: if secret { "(hidden)".into() } else { given.to_string() },
            wanted: wanted.to_string(),
        });
        self.refused.push(path);
        default
    }

    /// Reads a whole number within a range.
    pub fn number(&mut self, path: &'static str, range: std::ops::RangeInclusive<u64>, default: u64) -> u64 {
        let wanted = format!("a whole number in {}..={}", range.start(), range.end());
        self.read(path, &wanted, default, |given| given.number().filter(|n| range.contains(n)))
    }

    /// Reads a number of bytes within a range.
    pub fn bytes(&mut self, path: &'static str, range: std::ops::RangeInclusive<u64>, default: u64) -> u64 {
        let wanted = format!("bytes in {}..={}, plain or as in 64MB, 1GiB", range.start(), range.end());
        self.read(path, &wanted, default, |given| given.size().filter(|n| range.contains(n)))
    }

    /// Reads one of several words.
    pub fn choice<T: Copy>(&mut self, path: &'static str, words: &[(&str, T)], default: T) -> T {
        let offered = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" | ");
        self.read(path, &offered, default, |given| {
            let word = given.text()?;
            words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
        })
    }

    /// The value, if nothing was refused anywhere.
    ///
    /// # Errors
    /// All that was refused.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() { Ok(value) } else { Err(ConfigErrors(self.errors)) }
    }
}

/// The known key or section that is most like `path`: fewest insertions, deletions and replacements, compared as a whole and by the last
/// component, so that a key in the wrong section finds its place. None if more than half of it would have to change.
fn nearest(path: &str, keys: &[Key]) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let cost = |known: &str| distance(path, known).min(distance(&last(path), &last(known)) + 1);
    let sections = keys.iter().filter_map(|key| Some(key.path.rsplit_once('.')?.0));
    let known = keys.iter().map(|key| key.path).chain(sections);
    let (cost, nearest) = known.map(|known| (cost(known), known)).min_by_key(|(cost, _)| *cost)?;
    (2 * cost <= last(path).len()).then_some(nearest)
}

/// Levenshtein distance, one row at a time (Wagner and Fischer, 1974).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[
        Key { path: "listen", secret: false },
        Key { path: "replication.listen", secret: false },
        Key { path: "replication.lease_ms", secret: false },
        Key { path: "auth.password", secret: true },
    ];

    #[test]
    fn distance_counts_single_edits() {
        for (a, b, want) in [("", "abc", 3), ("kitten", "sitting", 3), ("lease_ms", "lease_ms", 0), ("ab", "ba", 2)] {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn nearest_finds_typos_and_misplaced_keys() {
        for (path, want) in [
            ("lisen", "listen"),
            ("replication.leese_ms", "replication.lease_ms"),
            ("lease_ms", "replication.lease_ms"),
            ("replication.password", "auth.password"),
            ("replcation", "replication"),
            ("Auth", "auth"),
        ] {
            assert_eq!(nearest(path, KEYS), Some(want), "{path}");
        }
        for path in ["9", "colour", "x.y", ""] {
            assert_eq!(nearest(path, KEYS), None, "{path}");
        }
    }

    #[test]
    fn sizes_know_decimal_and_binary_units_and_refuse_overflow() {
        for (text, want) in [
            ("64MB", Some(64_000_000)),
            ("1GiB", Some(1 << 30)),
            ("1 gib", Some(1 << 30)),
            ("17", Some(17)),
            ("3b", Some(3)),
            ("1.5GiB", None),
            ("MB", None),
            ("-1MB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(Given::Typed(text.into()).size(), want, "{text}");
        }
        assert_eq!(Given::Yaml(Value::from(17)).size(), Some(17));
    }

    #[test]
    fn later_layers_hide_earlier_ones_and_null_means_default() {
        let mut reader = Reader::new(KEYS);
        reader.lay_file("f.yml", "listen: a\nreplication: {listen: b, lease_ms: null}\n");
        reader.lay(Source::Flag("--listen c".into()), "listen", "c".into());
        let text = |given: &Given| given.text().map(str::to_string);
        assert_eq!(reader.read("listen", "", String::new(), text), "c");
        assert_eq!(reader.read("replication.listen", "", String::new(), text), "b");
        assert!(!reader.is_given("replication.lease_ms"));
        assert_eq!(reader.number("replication.lease_ms", 1..=9, 5), 5);
        assert_eq!(reader.finish(()), Ok(()));
    }

    #[test]
    fn a_refused_secret_is_not_shown() {
        let mut reader = Reader::new(KEYS);
        reader.lay_file("f.yml", "auth: {password: 4711}\n");
        reader.read("auth.password", "text in quotes", String::new(), |given| given.text().map(str::to_string));
        let errors = reader.finish(()).unwrap_err().to_string();
        assert_eq!(errors, "f.yml: auth.password: (hidden): want text in quotes");
    }

    #[test]
    fn every_error_is_kept() {
        let mut reader = Reader::new(KEYS);
        reader.lay_file("f.yml", "lisen: a\nreplication: {lease_ms: soon}\nauth: 7\n9: x\n");
        assert_eq!(reader.number("replication.lease_ms", 1..=9, 5), 5);
        assert!(reader.any_refused(&["replication.lease_ms"]));
        let errors = reader.finish(()).unwrap_err().to_string();
        assert_eq!(
            errors.lines().collect::<Vec<_>>(),
            [
                "f.yml: lisen: there is no such key; did you mean listen?",
                "f.yml: auth: 7: want a map of keys",
                "f.yml: 9: there is no such key",
                "f.yml: replication.lease_ms: \"soon\": want a whole number in 1..=9",
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_map_is_one_error() {
        for text in [
            "- a\n- b\n",
            "just text\n",
            "a: [1\n",
            "listen: a\nlisten: b\n",
            "replication.listen: a\nreplication: {listen: b}\n",
        ] {
            let mut reader = Reader::new(KEYS);
            reader.lay_file("f.yml", text);
            assert_eq!(reader.finish(()).unwrap_err().0.len(), 1, "{text:?}");
        }
    }
}
