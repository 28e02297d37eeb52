//! Identifiers: newtypes for numbers and names that could be swapped by mistake.
//!
//! The 128-bit ids ([`CopyId`], [`RunId`], [`DatasetId`], [`ChangeId`]) travel as 32 lower-case hex digits in every text form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Number of one leadership, granted by the coordinator. Zero means "none seen yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Number of an entry in the log; the first entry is 1, so 0 means "before every entry".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// Position before the first entry.
    pub const ZERO: Offset = Offset(0);

    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// What identifies an entry inside a dataset: the epoch in which it was appended, and its offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Epoch in which the entry was appended.
    pub epoch: Epoch,
    /// Its number in the log.
    pub offset: Offset,
}

/// Number of a group (a slot range with one leader and one log). Today there is only group 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u16);

/// One client connection of this process; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// One replication connection of this process, in either direction; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    )*};
}
display_number!(Epoch, Offset, GroupId, ConnId, LinkId);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// Name of a node: unique in its cluster, stable over restarts. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// Longest node name, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;

impl NodeId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = String;

    /// # Errors
    /// The name is empty, longer than [`NODE_NAME_BYTES_MAX`], or holds anything but ASCII letters, digits, `-`, `_`, `.`.
    fn from_str(name: &str) -> Result<NodeId, String> {
        let fits = (1..=NODE_NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.');
        if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            Ok(NodeId(name.into()))
        } else {
            Err(format!("node name {name:?}: want 1..={NODE_NAME_BYTES_MAX} of A-Z a-z 0-9 - _ . and no leading dot"))
        }
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<NodeId, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<$name, String> {
                let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let value = if hex { u128::from_str_radix(text, 16).ok() } else { None };
                value.map($name).ok_or_else(|| format!("{text:?} is not 32 hex digits"))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
hex_id!(
    /// One in-memory data set in one process life: new at every process start and at every wipe.
    CopyId
);
hex_id!(
    /// One process life of a node: no two processes have the same.
    RunId
);
hex_id!(
    /// Identity of the data: new at bootstrap and at each reset to empty.
    DatasetId
);
hex_id!(
    /// Identity of one intended change of `/state`, by which a compare-and-set of unknown outcome is resolved.
    ChangeId
);

/// Secret key of the keyspace's hash. Belongs to the dataset, so that cursors and snapshot ranges mean the same on every node.
/// Never printed: [`fmt::Debug`] hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_id_reads_back_what_it_prints() {
        let id = CopyId(0x00c9_u128 << 100 | 7);
        assert_eq!(id.to_string().parse::<CopyId>(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        assert!("+0000000000000000000000000000001".parse::<CopyId>().is_err());
    }

    #[test]
    fn node_name_refuses_what_a_znode_path_could_not_hold() {
        for bad in ["", "a/b", "..", "n 1", &"x".repeat(65)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("n1-a_b.c".parse::<NodeId>().unwrap().as_str(), "n1-a_b.c");
    }
}
