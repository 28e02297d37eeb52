//! What a command refuses, in Redis's words.
//!
//! Deterministic: the same command on the same data gives the same error on every node, so an error is a reply and never an
//! incident. Only errors that quote the client own memory.

use std::borrow::Cow;
use std::fmt;

/// Why a command was refused. Its text is the error line without the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No such command; the complete text, which quotes what the client sent.
    Unknown(Box<str>),
    /// Too few or too many arguments for the command of that name.
    WrongArity(&'static str),
    /// A command about several databases, of that name in capitals.
    OneDatabase(&'static str),
    /// An option that the command does not know, or that excludes another.
    Syntax,
    /// The key holds a value of another type.
    WrongType,
    /// An argument or a value had to be a 64-bit integer.
    NotInteger,
    /// An argument or a value had to be a number.
    NotFloat,
    /// INCRBYFLOAT's result is not finite.
    NotFinite,
    /// The result of an increment does not fit 64 bits.
    IncrementOverflow,
    /// The negated decrement does not fit 64 bits.
    DecrementOverflow,
    /// An expiry that is not positive or too far away, for the command of that name.
    InvalidExpiry(&'static str),
    /// NX together with XX, GT or LT.
    ExpireNxConflict,
    /// GT together with LT.
    ExpireGtLtConflict,
    /// An option of EXPIRE that nobody knows; the complete text.
    ExpireOption(Box<str>),
    /// SCAN's cursor is not a number.
    InvalidCursor,
    /// SETRANGE's offset is negative.
    OffsetOutOfRange,
    /// The value would grow beyond the longest allowed.
    ValueTooLong,
    /// A bit beyond the longest value, or a place that is no number.
    BitOffset,
    /// SETBIT of something that is neither 0 nor 1.
    NotBit,
    /// BITPOS of something that is neither 0 nor 1.
    SearchedBit,
    /// BITOP NOT of several keys.
    BitopNot,
    /// BITFIELD with a type that is none.
    FieldType,
    /// BITFIELD OVERFLOW with a word that is none.
    OverflowType,
    /// BITFIELD_RO with a step that writes.
    FieldReadOnly,
    /// LCS with LEN and IDX.
    LcsLenAndIdx,
    /// LCS of values that are too long together.
    LcsTooLong,
    /// RESTORE onto a key that exists.
    BusyKey,
    /// RESTORE with a negative time to live.
    NegativeTtl,
    /// RESTORE with a negative IDLETIME.
    NegativeIdleTime,
    /// RESTORE with a FREQ beyond a byte.
    FrequencyOutOfRange,
    /// RESTORE of something that does not end in its checksum.
    PayloadSum,
    /// RESTORE of something that is no string.
    PayloadFormat,
    /// RENAME of a key that does not exist.
    NoSuchKey,
    /// COPY of a key onto itself.
    SameObject,
    /// COPY into another database.
    InvalidDatabase,
    /// A number that had to fit 32 bits.
    NotIn32Bits,
    /// OBJECT FREQ: accesses are not counted.
    NoFrequency,
    /// OBJECT IDLETIME: times of access are not kept.
    NoIdleTime,
    /// CLUSTER COUNTKEYSINSLOT of a slot that does not exist.
    InvalidSlot,
    /// CLUSTER GETKEYSINSLOT of a slot that does not exist, or of a negative number of keys.
    InvalidSlotOrCount,
    /// COMMAND GETKEYS of a command that does not exist.
    InvalidCommand,
    /// COMMAND GETKEYS of a command without keys.
    NoKeys,
    /// COMMAND GETKEYS of a command with the wrong number of arguments.
    InvalidArgumentCount,
}

impl CommandError {
    /// The error line without the leading `-`. Only the texts that name a command allocate.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            CommandError::Unknown(text) | CommandError::ExpireOption(text) => text,
            CommandError::WrongArity(name) => {
                return Cow::Owned(format!("ERR wrong number of arguments for '{name}' command"));
            }
            CommandError::OneDatabase(name) => {
                return Cow::Owned(format!("ERR {name} is not allowed in cluster mode"));
            }
            CommandError::InvalidExpiry(name) => {
                return Cow::Owned(format!("ERR invalid expire time in '{name}' command"));
            }
            CommandError::Syntax => "ERR syntax error",
            CommandError::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            CommandError::NotInteger => "ERR value is not an integer or out of range",
            CommandError::NotFloat => "ERR value is not a valid float",
            CommandError::NotFinite => "ERR increment would produce NaN or Infinity",
            CommandError::IncrementOverflow => "ERR increment or decrement would overflow",
            CommandError::DecrementOverflow => "ERR decrement would overflow",
            CommandError::ExpireNxConflict => "ERR NX and XX, GT or LT options at the same time are not compatible",
            CommandError::ExpireGtLtConflict => "ERR GT and LT options at the same time are not compatible",
            CommandError::InvalidCursor => "ERR invalid cursor",
            CommandError::OffsetOutOfRange => "ERR offset is out of range",
            CommandError::ValueTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            CommandError::BitOffset => "ERR bit offset is not an integer or out of range",
            CommandError::NotBit => "ERR bit is not an integer or out of range",
            CommandError::SearchedBit => "ERR The bit argument must be 1 or 0.",
            CommandError::BitopNot => "ERR BITOP NOT must be called with a single source key.",
            CommandError::FieldType => {
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
            }
            CommandError::OverflowType => "ERR Invalid OVERFLOW type specified",
            CommandError::FieldReadOnly => "ERR BITFIELD_RO only supports the GET subcommand",
            CommandError::LcsLenAndIdx => "ERR If you want both the length and indexes, please just use IDX.",
            CommandError::LcsTooLong => "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
            CommandError::BusyKey => "BUSYKEY Target key name already exists.",
            CommandError::NegativeTtl => "ERR Invalid TTL value, must be >= 0",
            CommandError::NegativeIdleTime => "ERR Invalid IDLETIME value, must be >= 0",
            CommandError::FrequencyOutOfRange => "ERR Invalid FREQ value, must be >= 0 and <= 255",
            CommandError::PayloadSum => "ERR DUMP payload version or checksum are wrong",
            CommandError::PayloadFormat => "ERR Bad data format",
            CommandError::NoSuchKey => "ERR no such key",
            CommandError::SameObject => "ERR source and destination objects are the same",
            CommandError::InvalidDatabase => "ERR DB index is out of range",
            CommandError::NotIn32Bits => "ERR value is out of range, value must between -2147483648 and 2147483647",
            CommandError::NoFrequency => {
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
                 between policies at runtime LRU and LFU data will take some time to adjust."
            }
            CommandError::NoIdleTime => {
                "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between \
                 policies at runtime LRU and LFU data will take some time to adjust."
            }
            CommandError::InvalidSlot => "ERR Invalid slot",
            CommandError::InvalidSlotOrCount => "ERR Invalid slot or number of keys",
            CommandError::InvalidCommand => "ERR Invalid command specified",
            CommandError::NoKeys => "ERR The command has no key arguments",
            CommandError::InvalidArgumentCount => "ERR Invalid number of arguments specified for command",
        })
    }

    /// `name` with `args` after it is no command.
    #[must_use]
    pub fn unknown_command<'a>(name: &[u8], args: impl Iterator<Item = &'a [u8]>) -> CommandError {
        let mut shown = Vec::new();
        for arg in args {
            if shown.len() >= QUOTED_BYTES_MAX {
                break;
            }
            let room = QUOTED_BYTES_MAX - shown.len();
            shown.push(b'\'');
            shown.extend_from_slice(quoted(arg, room));
            shown.extend_from_slice(b"' ");
        }
        let (name, shown) = (quoted(name, QUOTED_BYTES_MAX), shown.as_slice());
        let text = [b"ERR unknown command '", name, b"', with args beginning with: ", shown].concat();
        CommandError::Unknown(one_line(&text))
    }

    /// `sub` is no subcommand of `container`, which is spelled as the client spelled it.
    pub(super) fn unknown_subcommand(container: &[u8], sub: &[u8]) -> CommandError {
        let (sub, container) = (quoted(sub, QUOTED_BYTES_MAX), container.to_ascii_uppercase());
        let text = [b"ERR unknown subcommand '", sub, b"'. Try ", container.as_slice(), b" HELP."].concat();
        CommandError::Unknown(one_line(&text))
    }

    /// A subcommand was given more arguments than it takes; Redis says that only of some.
    #[must_use]
    pub fn unknown_use(container: &[u8], sub: &[u8]) -> CommandError {
        let (sub, container) = (quoted(sub, QUOTED_BYTES_MAX), container.to_ascii_uppercase());
        let head: &[u8] = b"ERR unknown subcommand or wrong number of arguments for '";
        let text = [head, sub, b"'. Try ", container.as_slice(), b" HELP."].concat();
        CommandError::Unknown(one_line(&text))
    }

    /// EXPIRE's option `option` is none.
    pub(super) fn expire_option(option: &[u8]) -> CommandError {
        let text = [b"ERR Unsupported option ", quoted(option, QUOTED_BYTES_MAX)].concat();
        CommandError::ExpireOption(one_line(&text))
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for CommandError {}

/// How much of what the client sent an error quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 128;

/// At most `room` bytes, and none from the first NUL on, as C prints them.
fn quoted(text: &[u8], room: usize) -> &[u8] {
    let text = &text[..text.len().min(room)];
    &text[..text.iter().position(|&byte| byte == 0).unwrap_or(text.len())]
}

/// A line break inside an error line would end it: spaces stand in, and at the end it is left out.
fn one_line(text: &[u8]) -> Box<str> {
    String::from_utf8_lossy(text).trim_end_matches(['\r', '\n']).replace(['\r', '\n'], " ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_command_quotes_at_most_128_bytes_of_arguments() {
        let (long, next) = (vec![b'x'; 126], b"yyy".as_slice());
        let error = CommandError::unknown_command(b"foo", [long.as_slice(), next].into_iter());
        let want = format!("ERR unknown command 'foo', with args beginning with: '{}' ", "x".repeat(126));
        assert_eq!(
            error.to_string(),
            want,
            "the quotes and the blank count, so 129 bytes are shown and the next is left out"
        );

        let error = CommandError::unknown_command(&[b'f'; 200], [b"a\r\nb".as_slice(), b"c\0d"].into_iter());
        assert_eq!(
            error.to_string(),
            format!("ERR unknown command '{}', with args beginning with: 'a  b' 'c' ", "f".repeat(128))
        );
    }

    #[test]
    fn errors_stay_small_enough_to_return_by_value() {
        assert!(std::mem::size_of::<CommandError>() <= 24);
    }
}
