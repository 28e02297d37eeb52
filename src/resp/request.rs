//! The request parser: arrays of bulk strings and inline commands, resumable at any byte, bounded before allocation.
//!
//! ```text
//!   *3\r\n $3\r\n SET\r\n $3\r\n key\r\n $5\r\n value\r\n          PING\r\n
//!   └count └header└body                                          └inline
//! ```
//!
//! Two ways through: a command that lies whole in the input is read by one loop over the bytes (`whole_arguments`) straight into
//! the batch. Whatever is unusual (cut off, wrong, big) goes to a state machine (`resume`), which remembers argument and offset:
//! no byte of an argument is looked at twice however the input is cut, and of a header line at most the line itself is re-read.
//! The outcome (commands, then error) does not depend on where the input was cut.
//!
//! # Big bulks
//! A bulk of at least `BIG_BULK_BYTES` that is not yet complete ends the batch with [`Need::Bulk`]. Then the bulk's own bytes may
//! leave the stream, as if they had never been in it:
//! ```text
//!            consumed                                   input.len() - have
//!   input:   │ whole commands │ *3..SET..key $1048576\r\n │ first `have` bytes of the bulk │   (always at the end)
//!                                                         └── cut off here, moved to a buffer of the caller's own
//!   caller:  runs the batch, truncates the input by `have`, drains `consumed`,
//!            reads `len - have` further bytes into its own buffer, calls `supply_bulk`, then reads on into the input
//!   input:                    │ *3..SET..key $1048576\r\n │ \r\n ... whatever follows
//! ```
//! A caller that does not want this simply reads on: the parser then copies the bulk once when it is complete. Either way the
//! argument is a `Bytes` of its own ([`super::Args::shared`]).
//!
//! Wordings and rules are those of Redis 7.2 (`networking.c`), with three deviations: the bytes after a bulk and the byte after a
//! count's CR must be what the protocol says (Redis skips them unread); a line's length limit holds wherever the line is cut; all
//! arguments of a command together are limited too. *Not here*: RESP3 types in requests, which Redis does not know either; AUTH.

use std::fmt;

use bytes::Bytes;

use super::batch::{Batch, Span};
use super::{inline, number};
use crate::base::limits::{
    ARGS_MAX, ARGS_MAX_BEFORE_AUTH, BIG_BULK_BYTES, BULK_BYTES_MAX, BULK_BYTES_MAX_BEFORE_AUTH, COMMAND_BYTES_MAX,
    INLINE_BYTES_MAX,
};

/// Commands that one call of `advance` appends at most, so that one batch holds the lock briefly. The rest stays for the next call.
pub const BATCH_COMMANDS_MAX: usize = 1_024;
/// Spans that an idle parser keeps room for.
const SPANS_KEPT: usize = 64;

/// Reads the requests of one connection.
#[derive(Debug)]
pub struct Parser {
    /// Whether the full limits apply; otherwise those before AUTH.
    trusted: bool,
    /// Offset at which to go on, from the first byte of the unfinished command. 0 between commands.
    pos: usize,
    /// Bytes of the line at `pos` that are known to hold no line end.
    searched: usize,
    /// Arguments of the unfinished command that are still to come, the one that `step` is in included. 0 between commands.
    remaining: usize,
    /// Lengths of the unfinished command's arguments so far, summed up. Set when a command is taken over.
    bytes: usize,
    step: Step,
    /// Arguments of the unfinished command; positions are from its first byte, indices are into `shared`.
    spans: Vec<Span>,
    shared: Vec<Bytes>,
    /// The first error: what comes after it has no meaning.
    failed: Option<ProtocolError>,
    /// Steps of the state machine: the measure of "linear".
    #[cfg(test)]
    steps: usize,
}

/// What stands at `pos` inside an unfinished command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A `$<len>` line.
    Header,
    /// A bulk that will be a span of the input, and its CRLF.
    Body { len: usize },
    /// A bulk that will be an allocation of its own.
    Big { len: usize },
    /// The CRLF after a big bulk.
    LineEnd,
}

/// What a call of [`Parser::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of input that belong to whole commands (or are skipped, as empty lines are). Drain them when the batch was executed.
    pub consumed: usize,
    /// What the parser waits for.
    pub need: Need,
}

/// What the parser waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No command is unfinished. If `consumed` is less than the input, the batch is full: execute it and call `advance` again.
    Nothing,
    /// At least so many further bytes of input.
    More(usize),
    /// A big bulk of `len` bytes, of which the last `have` bytes of the input are the beginning (`have < len`). See the module's text.
    Bulk {
        /// Length of the bulk in bytes, without its CRLF.
        len: usize,
        /// Bytes of it that are in the input, at its end.
        have: usize,
    },
}

/// What is wrong with a request; the text that goes after `-ERR Protocol error: `, after which the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(String);

impl Default for Parser {
    fn default() -> Parser {
        Parser::new()
    }
}

impl Parser {
    /// A parser at the beginning of a connection, with the full limits: where a password is set, `set_trusted(false)` comes next.
    #[must_use]
    pub fn new() -> Parser {
        Parser {
            trusted: true,
            pos: 0,
            searched: 0,
            remaining: 0,
            bytes: 0,
            step: Step::Header,
            spans: Vec::new(),
            shared: Vec::new(),
            failed: None,
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Chooses the limits: `false` before AUTH succeeded. While untrusted a batch holds one command, so that what follows an AUTH
    /// in the same packet is read with the limits that it brought.
    pub fn set_trusted(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// Bytes held for the unfinished command, apart from the caller's input.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
            + self.shared.capacity() * size_of::<Bytes>()
            + self.shared.iter().map(Bytes::len).sum::<usize>()
    }

    /// Appends the whole commands in `input` to `batch`, their positions counted from the beginning of `input`.
    ///
    /// `input` begins at the first byte that earlier calls did not consume: bytes of an unfinished command stay in front.
    /// At most [`BATCH_COMMANDS_MAX`] commands are appended.
    ///
    /// # Errors
    /// The client broke the protocol. The commands before that are in `batch` and count: execute them, send the error, close. The
    /// parser gives the same error from then on.
    ///
    /// # Panics
    /// `input` is shorter than what was left unconsumed (the caller lost bytes).
    pub fn advance(&mut self, input: &[u8], batch: &mut Batch) -> Result<Progress, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // Spans count in 32 bits. An unfinished command is far below 4 GiB, so a longer input yields whole commands first.
        let input = &input[..input.len().min(u32::MAX as usize)];
        let result = self.commands(input, batch);
        if let Err(error) = &result {
            batch.drop_unfinished();
            self.failed = Some(error.clone());
        }
        result
    }

    /// Hands over the big bulk that [`Need::Bulk`] asked for. The input has lost the bulk's bytes; the next `advance` finds the
    /// bulk's CRLF where they were.
    ///
    /// # Panics
    /// No bulk was asked for, or one of another length: the stream would be read out of step.
    pub fn supply_bulk(&mut self, bulk: Bytes) {
        assert_eq!(self.step, Step::Big { len: bulk.len() }, "supplied a bulk that the parser did not ask for");
        self.push_big(bulk);
    }

    fn commands(&mut self, input: &[u8], batch: &mut Batch) -> Result<Progress, ProtocolError> {
        let commands_max = batch.len() + if self.trusted { BATCH_COMMANDS_MAX } else { 1 };
        let mut start = 0;
        if self.remaining > 0 {
            if let Some(need) = self.resume(input)? {
                return Ok(Progress { consumed: 0, need });
            }
            start = self.hand_over(0, batch);
        }
        while start < input.len() && batch.len() < commands_max {
            if input[start] != b'*' {
                match self.inline(&input[start..], batch)? {
                    Some(used) => start += used,
                    None => return Ok(Progress { consumed: start, need: Need::More(1) }),
                }
                continue;
            }
            let Some((count, after)) = self.count(input, start)? else {
                return Ok(Progress { consumed: start, need: Need::More(1) });
            };
            let mut whole = Whole { pos: after, remaining: count, bytes: 0 };
            whole_arguments(input, &mut whole, self.whole_bytes_max(), &mut batch.spans);
            if whole.remaining == 0 && whole.bytes <= COMMAND_BYTES_MAX {
                if count > 0 {
                    batch.finish();
                }
                start = whole.pos;
                continue;
            }
            self.take_over(start, whole, batch);
            if let Some(need) = self.resume(&input[start..])? {
                return Ok(Progress { consumed: start, need });
            }
            start += self.hand_over(start, batch);
        }
        Ok(Progress { consumed: start, need: Need::Nothing })
    }

    /// Reads the `*<count>` line at `start`: the count and where the line ends; `None` if the line is cut off. A count of zero or
    /// less is 0: Redis skips such a command without a word.
    #[inline]
    fn count(&mut self, input: &[u8], start: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
        let (count, after) = match short_number(input, start + 1) {
            Some((n, after)) => (n as i64, after),
            None => match self.number_line(&input[start..], "mbulk count", "multibulk")? {
                Some((n, used)) => (n, start + used),
                None => return Ok(None),
            },
        };
        self.searched = 0;
        if count > ARGS_MAX as i64 {
            return fail("invalid multibulk length");
        }
        if !self.trusted && count > ARGS_MAX_BEFORE_AUTH as i64 {
            return fail("unauthenticated multibulk length");
        }
        Ok(Some((count.max(0) as usize, after)))
    }

    /// Longest bulk that `whole_arguments` may read by itself: below the big ones, and within the limit.
    fn whole_bytes_max(&self) -> usize {
        if self.trusted { BIG_BULK_BYTES - 1 } else { BULK_BYTES_MAX_BEFORE_AUTH.min(BIG_BULK_BYTES - 1) }
    }

    /// Makes the command at `start`, whose first arguments are the last spans of `batch`, the unfinished one.
    fn take_over(&mut self, start: usize, whole: Whole, batch: &mut Batch) {
        self.pos = whole.pos - start;
        self.remaining = whole.remaining;
        self.bytes = whole.bytes;
        self.step = Step::Header;
        self.spans.extend(batch.unfinished().iter().map(|span| span.seen_from(start)));
        batch.drop_unfinished();
    }

    /// Moves the finished command to `batch`, where the command begins at `start` of the input; returns the bytes it took.
    fn hand_over(&mut self, start: usize, batch: &mut Batch) -> usize {
        let shared = batch.shared.len();
        batch.spans.extend(self.spans.drain(..).map(|span| span.moved(start, shared)));
        batch.shared.append(&mut self.shared);
        batch.finish();
        self.spans.shrink_to(SPANS_KEPT);
        self.shared = Vec::new();
        std::mem::take(&mut self.pos)
    }

    /// Reads on in the unfinished command, which begins with `input`; `None` when it is whole.
    fn resume(&mut self, input: &[u8]) -> Result<Option<Need>, ProtocolError> {
        assert!(input.len() >= self.pos, "bytes of an unfinished command were lost");
        loop {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            let here = input.len() - self.pos;
            match self.step {
                Step::Header if self.remaining == 0 => {
                    self.bytes_within_limit()?;
                    return Ok(None);
                }
                Step::Header => match self.header(input)? {
                    Some(len) => self.step = if len < BIG_BULK_BYTES { Step::Body { len } } else { Step::Big { len } },
                    None => return Ok(Some(Need::More(1))),
                },
                Step::Body { len } if here < len + 2 => return Ok(Some(Need::More(len + 2 - here))),
                Step::Body { len } => {
                    self.spans.push(Span::input(self.pos, len));
                    self.pos += len;
                    self.line_end(input)?;
                }
                Step::Big { len } if here < len => return Ok(Some(Need::Bulk { len, have: here })),
                Step::Big { len } => {
                    self.push_big(Bytes::copy_from_slice(&input[self.pos..self.pos + len]));
                    self.pos += len;
                }
                Step::LineEnd if here < 2 => return Ok(Some(Need::More(2 - here))),
                Step::LineEnd => self.line_end(input)?,
            }
        }
    }

    /// Reads the `$<len>` line at `pos`; `None` if it is cut off.
    fn header(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        match input.get(self.pos) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return fail(format!("expected '$', got '{}'", other.escape_ascii())),
        }
        let (len, used) = match short_number(input, self.pos + 1) {
            Some((n, after)) => (n as i64, after - self.pos),
            None => match self.number_line(&input[self.pos..], "bulk count", "bulk")? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        self.searched = 0;
        let len = match usize::try_from(len) {
            Ok(len) if len <= BULK_BYTES_MAX => len,
            _ => return fail("invalid bulk length"),
        };
        if !self.trusted && len > BULK_BYTES_MAX_BEFORE_AUTH {
            return fail("unauthenticated bulk length");
        }
        self.pos += used;
        self.bytes += len;
        self.bytes_within_limit()?;
        Ok(Some(len))
    }

    fn bytes_within_limit(&self) -> Result<(), ProtocolError> {
        if self.bytes > COMMAND_BYTES_MAX {
            return fail(format!("too many bytes in one command, at most {COMMAND_BYTES_MAX}"));
        }
        Ok(())
    }

    /// Steps over the CRLF that ends an argument; both bytes are there.
    fn line_end(&mut self, input: &[u8]) -> Result<(), ProtocolError> {
        if input[self.pos..self.pos + 2] != *b"\r\n" {
            return fail("expected CRLF after bulk");
        }
        self.pos += 2;
        self.remaining -= 1;
        self.step = Step::Header;
        Ok(())
    }

    fn push_big(&mut self, bulk: Bytes) {
        self.spans.push(Span::shared(self.shared.len(), bulk.len()));
        self.shared.push(bulk);
        self.step = Step::LineEnd;
    }

    /// Reads a line of a type byte and a number: the number and the line's length; `None` if it is cut off.
    fn number_line(&mut self, line: &[u8], count: &str, length: &str) -> Result<Option<(i64, usize)>, ProtocolError> {
        let end = line[self.searched..].iter().position(|&b| b == b'\r').map(|at| self.searched + at);
        if end.unwrap_or(line.len()) > INLINE_BYTES_MAX {
            return fail(format!("too big {count} string"));
        }
        let Some(end) = end.filter(|end| end + 1 < line.len()) else {
            self.searched = end.unwrap_or(line.len());
            return Ok(None);
        };
        match number::parse_i64(&line[1..end]) {
            Some(n) if line[end + 1] == b'\n' => Ok(Some((n, end + 2))),
            _ => fail(format!("invalid {length} length")),
        }
    }

    /// Reads the inline command at the beginning of `rest` into `batch`: the bytes it took; `None` if it is cut off. An empty line
    /// is no command.
    fn inline(&mut self, rest: &[u8], batch: &mut Batch) -> Result<Option<usize>, ProtocolError> {
        let end = rest[self.searched..].iter().position(|&b| b == b'\n').map(|at| self.searched + at);
        if end.unwrap_or(rest.len()) > INLINE_BYTES_MAX {
            return fail("too big inline request");
        }
        let Some(end) = end else {
            self.searched = rest.len();
            return Ok(None);
        };
        self.searched = 0;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        if inline::split(line, batch).is_err() {
            return fail("unbalanced quotes in request");
        }
        if !batch.unfinished().is_empty() {
            batch.finish();
        }
        Ok(Some(end + 1))
    }
}

/// How far `whole_arguments` came in one command.
struct Whole {
    /// Offset in the input.
    pos: usize,
    /// Arguments still to come.
    remaining: usize,
    /// Lengths of the arguments read, summed up.
    bytes: usize,
}

/// The hot loop: appends the arguments that lie whole in `input` and have at most `len_max` bytes. Stops in front of the first
/// that is anything else, without a judgement.
///
/// Inlined by force, it and `short_number`: 12 ns per SET instead of 16, as the compiler leaves calls in between otherwise.
#[inline(always)]
fn whole_arguments(input: &[u8], at: &mut Whole, len_max: usize, spans: &mut Vec<Span>) {
    while at.remaining > 0 {
        if input.get(at.pos) != Some(&b'$') {
            return;
        }
        let Some((len, body)) = short_number(input, at.pos + 1) else {
            return;
        };
        let end = body + len;
        if len > len_max || input.get(end..end + 2) != Some(b"\r\n") {
            return;
        }
        spans.push(Span::input(body, len));
        at.pos = end + 2;
        at.remaining -= 1;
        at.bytes += len;
    }
}

/// Reads a plain number of at most ten digits and its CRLF at `at`: the number and what follows the line. `None` for everything
/// else, be it wrong, cut off or merely unusual.
#[inline(always)]
fn short_number(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut n = usize::from(input.get(at)?.wrapping_sub(b'0'));
    if n > 9 {
        return None;
    }
    for i in at + 1..at + 11 {
        let byte = *input.get(i)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return if byte == b'\r' && *input.get(i + 1)? == b'\n' { Some((n, i + 2)) } else { None };
        }
        if n == 0 {
            return None; // a leading zero
        }
        n = n * 10 + usize::from(digit);
    }
    None
}

fn fail<T>(text: impl Into<String>) -> Result<T, ProtocolError> {
    Err(ProtocolError(text.into()))
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Args;

    type Commands = Vec<Vec<Vec<u8>>>;

    fn owned(args: Args<'_>) -> Vec<Vec<u8>> {
        args.iter().map(<[u8]>::to_vec).collect()
    }

    /// Runs a whole stream cut into pieces of `step` bytes, as a shell that reads on whatever is asked for.
    fn run(parser: &mut Parser, stream: &[u8], step: usize) -> (Commands, Option<String>) {
        let (mut buffer, mut batch, mut commands) = (Vec::new(), Batch::new(), Vec::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                batch.clear();
                let result = parser.advance(&buffer, &mut batch);
                commands.extend((0..batch.len()).map(|i| owned(batch.args(i, &buffer))));
                match result {
                    Err(error) => return (commands, Some(error.to_string())),
                    Ok(progress) => {
                        buffer.drain(..progress.consumed);
                        if progress.need != Need::Nothing || buffer.is_empty() {
                            break;
                        }
                    }
                }
            }
        }
        (commands, None)
    }

    fn command(args: &[&[u8]]) -> Vec<u8> {
        let mut stream = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            stream.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            stream.extend_from_slice(arg);
            stream.extend_from_slice(b"\r\n");
        }
        stream
    }

    fn error_of(stream: &[u8]) -> Option<String> {
        let whole = run(&mut Parser::new(), stream, usize::MAX);
        assert_eq!(whole, run(&mut Parser::new(), stream, 7), "depends on the cut: {}", stream.escape_ascii());
        whole.1
    }

    #[test]
    fn pipeline_is_read_whole_or_byte_by_byte() {
        let mut stream = command(&[b"SET", b"key", b"va\r\nlue"]);
        stream.extend_from_slice(b"PING\r\n\r\n*0\r\n*-1\r\n  ping 'a b'\n");
        stream.extend(command(&[b"GET", b""]));
        let want: Commands = vec![
            vec![b"SET".to_vec(), b"key".to_vec(), b"va\r\nlue".to_vec()],
            vec![b"PING".to_vec()],
            vec![b"ping".to_vec(), b"a b".to_vec()],
            vec![b"GET".to_vec(), Vec::new()],
        ];
        for step in 1..stream.len() + 1 {
            assert_eq!(run(&mut Parser::new(), &stream, step), (want.clone(), None), "in pieces of {step}");
        }
    }

    #[test]
    fn need_names_the_missing_bytes() {
        let mut parser = Parser::new();
        let mut batch = Batch::new();
        let mut need =
            |input: &[u8]| parser.advance(input, &mut batch).map(|progress| (progress.consumed, progress.need));
        assert_eq!(need(b""), Ok((0, Need::Nothing)));
        assert_eq!(need(b"PING\r\n*1"), Ok((6, Need::More(1))));
        assert_eq!(need(b"*1\r\n$10\r\nabc"), Ok((0, Need::More(9))));
        assert_eq!(need(b"*1\r\n$10\r\nabcdefghij\r"), Ok((0, Need::More(1))));
        assert_eq!(need(b"*1\r\n$10\r\nabcdefghij\r\n*2\r\n"), Ok((21, Need::More(1))));
    }

    #[test]
    fn protocol_errors_have_the_wording_of_redis() {
        let digits = "1".repeat(INLINE_BYTES_MAX + 1);
        let cases: [(String, &str); 24] = [
            ("*x\r\n".into(), "invalid multibulk length"),
            ("*\r\n".into(), "invalid multibulk length"),
            ("*1048577\r\n".into(), "invalid multibulk length"),
            ("*9223372036854775807\r\n".into(), "invalid multibulk length"),
            ("*99999999999999999999\r\n".into(), "invalid multibulk length"),
            ("*01\r\n".into(), "invalid multibulk length"),
            ("*+1\r\n".into(), "invalid multibulk length"),
            ("*1\rx".into(), "invalid multibulk length"),
            ("*1\r\n$x\r\n".into(), "invalid bulk length"),
            ("*1\r\n$\r\n".into(), "invalid bulk length"),
            ("*1\r\n$-1\r\n".into(), "invalid bulk length"),
            ("*1\r\n$536870913\r\n".into(), "invalid bulk length"),
            ("*1\r\n$9223372036854775807\r\n".into(), "invalid bulk length"),
            ("*2\r\n$1\r\na\r\n$ 1\r\na\r\n".into(), "invalid bulk length"),
            ("*1\r\n:1\r\n".into(), "expected '$', got ':'"),
            ("*1\r\n\r\n".into(), "expected '$', got '\\r'"),
            ("*2\r\n$3\r\nfoo\r\n*1\r\n".into(), "expected '$', got '*'"),
            ("*1\r\n$3\r\nfooXY".into(), "expected CRLF after bulk"),
            ("*1\r\n$3\r\nfoobar\r\n".into(), "expected CRLF after bulk"),
            (format!("*{digits}\r\n"), "too big mbulk count string"),
            (format!("*1\r\n${digits}\r\n"), "too big bulk count string"),
            ("a".repeat(INLINE_BYTES_MAX + 1), "too big inline request"),
            (format!("{}\r\n", "a ".repeat(INLINE_BYTES_MAX)), "too big inline request"),
            ("SET k \"v\r\n".into(), "unbalanced quotes in request"),
        ];
        for (stream, error) in cases {
            assert_eq!(error_of(stream.as_bytes()).as_deref(), Some(error), "{:.60}", stream);
        }
    }

    #[test]
    fn commands_before_an_error_count_and_nothing_after_it() {
        let mut parser = Parser::new();
        let (commands, error) = run(&mut parser, b"PING\r\n*1\r\n$1\r\nx\r\n*1\r\n!\r\nPING\r\n", usize::MAX);
        assert_eq!(commands.len(), 2);
        assert_eq!(error.as_deref(), Some("expected '$', got '!'"));
        assert_eq!(run(&mut parser, b"PING\r\n", 1), (Vec::new(), error), "the error was forgotten");
    }

    #[test]
    fn deep_nesting_is_refused_at_once() {
        let mut parser = Parser::new();
        let mut batch = Batch::new();
        let error = parser.advance(&b"*1\r\n".repeat(200_000), &mut batch).unwrap_err();
        assert_eq!(error.to_string(), "expected '$', got '*'");
        assert!(parser.steps <= 1, "it read on for {} steps", parser.steps);
    }

    #[test]
    fn limits_are_tight_before_auth_and_lifted_within_a_packet() {
        let mut parser = Parser::new();
        parser.set_trusted(false);
        let many = command(&[&b"x"[..]; ARGS_MAX_BEFORE_AUTH + 1]);
        let long = command(&[&vec![b'x'; BULK_BYTES_MAX_BEFORE_AUTH + 1]]);
        let fitting = command(&[&vec![b'x'; BULK_BYTES_MAX_BEFORE_AUTH][..]; ARGS_MAX_BEFORE_AUTH]);
        let fresh = |stream: &[u8]| {
            let mut parser = Parser::new();
            parser.set_trusted(false);
            run(&mut parser, stream, usize::MAX).1
        };
        assert_eq!(fresh(&many).as_deref(), Some("unauthenticated multibulk length"));
        assert_eq!(fresh(&long).as_deref(), Some("unauthenticated bulk length"));
        assert_eq!(fresh(&fitting), None);

        let stream = [command(&[b"AUTH", b"secret"]), many].concat();
        let mut batch = Batch::new();
        let first = parser.advance(&stream, &mut batch).unwrap();
        assert_eq!((batch.len(), first.need), (1, Need::Nothing));
        parser.set_trusted(true);
        batch.clear();
        let second = parser.advance(&stream[first.consumed..], &mut batch).unwrap();
        assert_eq!((batch.len(), first.consumed + second.consumed), (1, stream.len()));
    }

    #[test]
    fn batch_is_bounded_and_the_rest_stays() {
        let stream = b"PING\r\n".repeat(BATCH_COMMANDS_MAX + 3);
        let mut batch = Batch::new();
        let progress = Parser::new().advance(&stream, &mut batch).unwrap();
        assert_eq!((batch.len(), progress.consumed), (BATCH_COMMANDS_MAX, 6 * BATCH_COMMANDS_MAX));
        assert_eq!(progress.need, Need::Nothing);
        assert_eq!(run(&mut Parser::new(), &stream, usize::MAX).0.len(), BATCH_COMMANDS_MAX + 3);
    }

    #[test]
    fn big_bulk_leaves_the_stream_and_comes_back_shared() {
        let big = vec![b'v'; BIG_BULK_BYTES + 5];
        let next = command(&[b"GET", b"k"]);
        let stream = [command(&[b"PING"]), command(&[b"SET", b"k", &big, b"NX"]), next].concat();
        let header_end = stream.windows(2).position(|w| w == b"vv").unwrap();
        for have in [0, 1, 1_000, big.len() - 1] {
            let (mut parser, mut batch) = (Parser::new(), Batch::new());
            let mut input = stream[..header_end + have].to_vec();
            let progress = parser.advance(&input, &mut batch).unwrap();
            assert_eq!(progress, Progress { consumed: 14, need: Need::Bulk { len: big.len(), have } });
            assert_eq!(owned(batch.args(0, &input)), [b"PING"]);

            input.truncate(input.len() - have);
            input.drain(..progress.consumed);
            batch.clear();
            let bulk = Bytes::from(big.clone());
            let at = bulk.as_ptr();
            parser.supply_bulk(bulk);
            assert_eq!(parser.advance(&input, &mut batch).unwrap().need, Need::More(2));
            input.extend_from_slice(&stream[header_end + big.len()..]);
            let progress = parser.advance(&input, &mut batch).unwrap();
            assert_eq!(progress, Progress { consumed: input.len(), need: Need::Nothing });
            let args = batch.args(0, &input);
            assert_eq!((args.get(0), args.get(1), args.get(3)), (&b"SET"[..], &b"k"[..], &b"NX"[..]));
            assert_eq!(args.shared(2).map(|bytes| bytes.as_ptr()), Some(at), "the bulk was copied");
            assert_eq!(owned(batch.args(1, &input)), [b"GET".to_vec(), b"k".to_vec()]);
            assert!(parser.memory() < 1_024, "the parser kept {} bytes", parser.memory());
        }
    }

    #[test]
    fn big_bulk_that_is_never_taken_out_is_copied_once() {
        let big = vec![b'v'; 3 * BIG_BULK_BYTES];
        let stream = [command(&[b"MSET", b"a", &big, b"b", &big]), command(&[b"PING"])].concat();
        for step in [1_000, BIG_BULK_BYTES, usize::MAX] {
            let (commands, error) = run(&mut Parser::new(), &stream, step);
            assert_eq!((commands.len(), error), (2, None));
            assert!(commands[0][2] == big && commands[0][4] == big && commands[0][3] == b"b");
        }
        let mut batch = Batch::new();
        Parser::new().advance(&stream, &mut batch).unwrap();
        assert!(batch.args(0, &stream).shared(4).is_some());
    }

    #[test]
    #[should_panic(expected = "did not ask for")]
    fn bulk_of_another_length_is_a_bug_of_the_caller() {
        let mut parser = Parser::new();
        parser.advance(b"*1\r\n$100000\r\n", &mut Batch::new()).unwrap();
        parser.supply_bulk(Bytes::from(vec![0; 99_999]));
    }

    #[test]
    fn bytes_of_one_command_are_bounded_altogether() {
        let (mut parser, mut batch) = (Parser::new(), Batch::new());
        let bulk = Bytes::from(vec![0; BULK_BYTES_MAX]);
        let mut input = b"*4\r\n$3\r\nDEL\r\n".to_vec();
        for _ in 0..COMMAND_BYTES_MAX / BULK_BYTES_MAX - 1 {
            input.extend_from_slice(format!("${BULK_BYTES_MAX}\r\n").as_bytes());
            let need = parser.advance(&input, &mut batch).unwrap().need;
            assert_eq!(need, Need::Bulk { len: BULK_BYTES_MAX, have: 0 });
            parser.supply_bulk(bulk.clone());
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(format!("${BULK_BYTES_MAX}\r\n").as_bytes());
        let error = parser.advance(&input, &mut batch).unwrap_err();
        assert_eq!(error.to_string(), "too many bytes in one command, at most 1073741824");
    }

    #[test]
    fn whole_commands_leave_no_buffer_in_the_parser_and_reuse_the_batch() {
        let stream = command(&[b"SET", b"key", &[b'v'; 100]]).repeat(64);
        let (mut parser, mut batch) = (Parser::new(), Batch::new());
        parser.advance(&stream, &mut batch).unwrap();
        let (memory, at) = (batch.memory(), batch.spans.as_ptr());
        for _ in 0..10 {
            batch.clear();
            assert_eq!(parser.advance(&stream, &mut batch).unwrap().consumed, stream.len());
            assert_eq!((batch.memory(), batch.spans.as_ptr(), parser.memory()), (memory, at, 0));
        }
    }

    #[test]
    fn announced_counts_reserve_nothing() {
        let (mut parser, mut batch) = (Parser::new(), Batch::new());
        parser.advance(b"*1048576\r\n$536870912\r\n", &mut batch).unwrap();
        assert!(parser.memory() + batch.memory() < 1_024, "{} bytes", parser.memory() + batch.memory());
    }

    #[test]
    fn fifty_thousand_arguments_in_small_pieces_take_linear_work() {
        const ARGS: usize = 50_000;
        let stream = command(&vec![&b"0123456789abcdef"[..]; ARGS]);
        for step in [100, 16 << 10] {
            let mut parser = Parser::new();
            let (commands, error) = run(&mut parser, &stream, step);
            assert_eq!((commands.len(), commands[0].len(), error), (1, ARGS, None));
            let pieces = stream.len().div_ceil(step);
            assert!(parser.steps <= 2 * ARGS + 2 * pieces, "{} steps in {pieces} pieces", parser.steps);
        }
    }

    /// Whatever the parser has passed is overwritten before more arrives: if it looked there again, it would find garbage.
    #[test]
    fn no_byte_that_was_passed_is_looked_at_again() {
        let long = vec![b'v'; BIG_BULK_BYTES - 1];
        let args = [&[&b"0123456789abcdef"[..]; 10_000][..], &[&long[..]; 16]].concat();
        let stream = command(&args);
        let mut at = format!("*{}\r\n", args.len()).len();
        let mut lines = vec![(0, at)];
        for arg in &args {
            let header = format!("${}\r\n", arg.len()).len();
            lines.extend([(at, at + header), (at + header + arg.len(), at + header + arg.len() + 2)]);
            at += header + arg.len() + 2;
        }
        for step in [1, 7, 1_000, 16 << 10, 1 << 20] {
            let (mut parser, mut batch, mut input) = (Parser::new(), Batch::new(), Vec::new());
            let (mut line, mut passed) = (0, 0);
            for piece in stream.chunks(step) {
                input.extend_from_slice(piece);
                let progress = parser.advance(&input, &mut batch).unwrap();
                while lines.get(line).is_some_and(|(_, end)| *end <= input.len()) {
                    line += 1;
                }
                // A line that is cut off is read again; inside a bulk everything was passed.
                let next = lines.get(line).map_or(input.len(), |(start, _)| input.len().min(*start));
                if progress.consumed == 0 {
                    input[passed..next].fill(0xff);
                    passed = next;
                }
            }
            assert_eq!(batch.len(), 1, "in pieces of {step}");
            assert!(batch.args(0, &stream).iter().eq(args.iter().copied()), "in pieces of {step}");
        }
    }

    #[test]
    fn endless_line_is_searched_once() {
        for start in ["PING", "*1", "*1\r\n$1"] {
            let mut parser = Parser::new();
            let mut input = start.as_bytes().to_vec();
            let line = input.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            for _ in 0..1_000 {
                input.push(b'1');
                assert_eq!(parser.advance(&input, &mut Batch::new()).unwrap().need, Need::More(1));
                assert_eq!(parser.searched, input.len() - line, "{start}");
            }
        }
    }
}
