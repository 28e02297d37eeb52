//! Our request parser and reply writer against redis-protocol, and against themselves under every way of cutting the stream.
//!
//! The oracle decodes whole arrays of bulk strings; on those both must agree, wherever the stream is cut and whether big bulks are
//! taken out of it or left in. On damaged streams the oracle is of no use (it accepts what Redis refuses and recurses without a
//! limit): there the outcome must not depend on the cut, each call must make progress, and memory must stay near what was sent.
//! Seeds are fixed; a failure prints the seed that replays it.

use std::ops::Range;

use bytes::Bytes;
use datakeeper::base::jitter::Jitter;
use datakeeper::base::limits::{BIG_BULK_BYTES, INLINE_BYTES_MAX};
use datakeeper::resp::{Batch, Need, Output, Parser, Protocol, Reply};
use redis_protocol::resp2::types::OwnedFrame as Frame2;
use redis_protocol::resp3::types::OwnedFrame as Frame3;

type Command = Vec<Vec<u8>>;

/// What a stream came to: its commands, then the error, if any.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    commands: Vec<Command>,
    error: Option<String>,
}

/// How the reader behaves.
#[derive(Clone, Copy, Debug)]
enum BigBulks {
    /// Moves each big bulk into a buffer of its own.
    TakeOut,
    /// Simply reads on.
    LeaveIn,
}

/// Pieces so long that the stream comes in one.
const WHOLE: Range<u64> = 1 << 40..(1 << 40) + 1;

/// Reads `stream` in pieces of random length, as a connection does.
fn read(stream: &[u8], pieces: Range<u64>, big_bulks: BigBulks, jitter: &mut Jitter) -> Outcome {
    let (mut parser, mut batch, mut input) = (Parser::new(), Batch::new(), Vec::new());
    let mut outcome = Outcome { commands: Vec::new(), error: None };
    let mut unread = stream;
    loop {
        batch.clear();
        let result = parser.advance(&input, &mut batch);
        for i in 0..batch.len() {
            outcome.commands.push(batch.args(i, &input).iter().map(<[u8]>::to_vec).collect());
        }
        let held = parser.memory() + batch.memory();
        assert!(held <= 4 * stream.len() + 4_096, "{held} bytes held for a stream of {}", stream.len());
        let progress = match result {
            Ok(progress) => progress,
            Err(error) => {
                outcome.error = Some(error.to_string());
                return outcome;
            }
        };
        assert!(progress.consumed <= input.len());
        let take = match (progress.need, big_bulks) {
            (Need::Nothing, _) if progress.consumed < input.len() => {
                assert!(!batch.is_empty() && progress.consumed > 0, "no progress");
                input.drain(..progress.consumed);
                continue;
            }
            (Need::Bulk { len, have }, BigBulks::TakeOut) => {
                assert!(have < len);
                let missing = len - have;
                if missing > unread.len() {
                    return outcome;
                }
                let mut bulk = input.split_off(input.len() - have);
                bulk.extend_from_slice(&unread[..missing]);
                unread = &unread[missing..];
                parser.supply_bulk(Bytes::from(bulk));
                0
            }
            (Need::Nothing | Need::Bulk { .. } | Need::More(_), _) if unread.is_empty() => return outcome,
            (Need::More(missing), _) => {
                assert!(missing > 0);
                piece(&pieces, unread, jitter)
            }
            (Need::Nothing | Need::Bulk { .. }, _) => piece(&pieces, unread, jitter),
        };
        input.drain(..progress.consumed);
        input.extend_from_slice(&unread[..take]);
        unread = &unread[take..];
    }
}

fn piece(pieces: &Range<u64>, unread: &[u8], jitter: &mut Jitter) -> usize {
    let len = pieces.start + jitter.below(pieces.end - pieces.start);
    (len as usize).clamp(1, unread.len())
}

fn random_bytes(len: u64, jitter: &mut Jitter) -> Vec<u8> {
    // Protocol bytes are frequent, so that content looks like structure.
    (0..len)
        .map(|_| match jitter.below(4) {
            0 => b"\r\n$*0123456789\"' "[jitter.below(17) as usize],
            _ => jitter.next_u64() as u8,
        })
        .collect()
}

fn random_command(jitter: &mut Jitter) -> Command {
    let args_max = [2, 5, 40][jitter.below(3) as usize];
    let args = 1 + jitter.below(args_max);
    (0..args)
        .map(|_| {
            let len = match jitter.below(400) {
                0 => BIG_BULK_BYTES as u64 - 2 + jitter.below(5),
                1 => jitter.below(4 * BIG_BULK_BYTES as u64),
                2..20 => jitter.below(5_000),
                20..60 => 0,
                _ => jitter.below(40),
            };
            random_bytes(len, jitter)
        })
        .collect()
}

fn encode(command: &Command, stream: &mut Vec<u8>) {
    stream.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for arg in command {
        stream.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        stream.extend_from_slice(arg);
        stream.extend_from_slice(b"\r\n");
    }
}

/// All frames of the stream as the oracle sees them, as commands.
fn oracle(mut stream: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    while !stream.is_empty() {
        let (frame, used) =
            redis_protocol::resp2::decode::decode(stream).expect("a valid frame").expect("a whole frame");
        let Frame2::Array(args) = frame else { panic!("the oracle sees {frame:?}") };
        let args = args.into_iter().map(|arg| match arg {
            Frame2::BulkString(bytes) => bytes,
            other => panic!("the oracle sees {other:?}"),
        });
        commands.push(args.collect());
        stream = &stream[used..];
    }
    commands
}

#[test]
fn valid_streams_read_as_the_oracle_reads_them_however_they_are_cut() {
    for seed in 0..300 {
        let jitter = &mut Jitter::new(seed);
        let mut stream = Vec::new();
        let commands: Vec<_> = (0..1 + jitter.below(20)).map(|_| random_command(jitter)).collect();
        for command in &commands {
            encode(command, &mut stream);
        }
        let want = Outcome { commands: oracle(&stream), error: None };
        assert!(want.commands == commands, "seed {seed}: the oracle disagrees with the generator");
        for (pieces, big_bulks) in [
            (WHOLE, BigBulks::TakeOut),
            (1..64, BigBulks::TakeOut),
            (1..20_000, BigBulks::TakeOut),
            (1_000..20_000, BigBulks::LeaveIn),
        ] {
            let got = read(&stream, pieces.clone(), big_bulks, jitter);
            assert!(got == want, "seed {seed}, pieces of {pieces:?}, {big_bulks:?}: {:?}", got.error);
        }
    }
}

#[test]
fn one_command_reads_the_same_cut_at_each_two_places() {
    let command: Command = [&b"SET"[..], b"", b"\r\n$1\r\n", b"0123456789ab"].map(<[u8]>::to_vec).to_vec();
    let mut stream = b"\r\nPING 'a'\r\n".to_vec();
    encode(&command, &mut stream);
    let want = [vec![b"PING".to_vec(), b"a".to_vec()], command];
    for first in 0..stream.len() {
        for second in first..stream.len() {
            let (mut parser, mut batch, mut input, mut got) =
                (Parser::new(), Batch::new(), Vec::new(), Vec::<Command>::new());
            for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                input.extend_from_slice(part);
                batch.clear();
                let progress = parser.advance(&input, &mut batch).unwrap();
                got.extend((0..batch.len()).map(|i| batch.args(i, &input).iter().map(<[u8]>::to_vec).collect()));
                input.drain(..progress.consumed);
            }
            assert_eq!(got, want, "cut at {first} and {second}");
        }
    }
}

#[test]
fn damaged_streams_end_the_same_way_however_they_are_cut() {
    let mut errors = std::collections::BTreeSet::new();
    for seed in 0..3_000 {
        let jitter = &mut Jitter::new(1_000_000 + seed);
        let mut stream = Vec::new();
        for _ in 0..1 + jitter.below(6) {
            match jitter.below(8) {
                0 => stream.extend(random_bytes(40, jitter)),
                1 => stream.extend_from_slice(b"set k \"a\\x41 b\" 'c'\r\n"),
                2 if jitter.below(20) == 0 => {
                    stream.extend(vec![b"*$1a"[jitter.below(4) as usize]; INLINE_BYTES_MAX + 2]);
                }
                _ => encode(&random_command(jitter), &mut stream),
            }
        }
        for _ in 0..jitter.below(4) {
            let at = jitter.below(stream.len() as u64) as usize;
            match jitter.below(4) {
                0 => stream[at] = jitter.next_u64() as u8,
                1 => stream[at] = b"\r\n$*0123456789-"[jitter.below(15) as usize],
                2 => drop(stream.remove(at)),
                _ => stream.insert(at, b"\r\n$*019-"[jitter.below(8) as usize]),
            }
            if stream.is_empty() {
                break;
            }
        }
        let whole = read(&stream, WHOLE, BigBulks::LeaveIn, jitter);
        for (pieces, big_bulks) in [(1..50, BigBulks::TakeOut), (1..2_000, BigBulks::LeaveIn)] {
            let got = read(&stream, pieces.clone(), big_bulks, jitter);
            assert!(got == whole, "seed {seed}, pieces of {pieces:?}: {:?}, whole {:?}", got.error, whole.error);
        }
        errors.extend(whole.error);
    }
    // The generator reaches the states that matter, or the test says nothing.
    for wanted in
        ["invalid multibulk length", "invalid bulk length", "expected CRLF after bulk", "unbalanced quotes in request"]
    {
        assert!(errors.contains(wanted), "never seen: {wanted}; seen: {errors:?}");
    }
}

#[test]
fn replies_decode_to_what_was_written() {
    for seed in 0..2_000 {
        let jitter = &mut Jitter::new(2_000_000 + seed);
        let text = random_bytes(jitter.below(50), jitter);
        let number = (jitter.next_u64() >> jitter.below(64)) as i64;
        let double = loop {
            let d = f64::from_bits(jitter.next_u64());
            if !d.is_nan() {
                break d;
            }
        };
        let printed = |d: f64| String::from_utf8(datakeeper::resp::number::double(d).to_vec()).unwrap();
        let write = |protocol| {
            let mut out = Output::new();
            let mut reply = Reply::new(&mut out, protocol);
            reply.array(9);
            reply.bulk(&text);
            reply.integer(number);
            reply.double(double);
            reply.boolean(number % 2 == 0);
            reply.null();
            reply.map(1);
            reply.simple("k");
            reply.shared(&Bytes::from(text.clone()));
            reply.verbatim("txt", &text);
            reply.big_number("123456789012345678901234567890");
            reply.push(0);
            out.to_vec()
        };

        let bulk2 = |bytes: &[u8]| Frame2::BulkString(bytes.to_vec());
        let want = Frame2::Array(vec![
            bulk2(&text),
            Frame2::Integer(number),
            bulk2(printed(double).as_bytes()),
            Frame2::Integer(i64::from(number % 2 == 0)),
            Frame2::Null,
            Frame2::Array(vec![Frame2::SimpleString(b"k".to_vec()), bulk2(&text)]),
            bulk2(&text),
            bulk2(b"123456789012345678901234567890"),
            Frame2::Array(Vec::new()),
        ]);
        let bytes = write(Protocol::Resp2);
        let (frame, used) = redis_protocol::resp2::decode::decode(&bytes).unwrap().unwrap();
        assert_eq!((frame, used), (want, bytes.len()), "seed {seed}");

        let bytes = write(Protocol::Resp3);
        let (frame, used) = redis_protocol::resp3::decode::complete::decode(&bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len(), "seed {seed}");
        let Frame3::Array { data, .. } = frame else { panic!("seed {seed}: {frame:?}") };
        let [bulk, integer, real, truth, null, map, verbatim, big, push] = &data[..] else {
            panic!("seed {seed}: {data:?}")
        };
        assert!(matches!(bulk, Frame3::BlobString { data, .. } if *data == text), "seed {seed}: {bulk:?}");
        assert!(matches!(integer, Frame3::Number { data, .. } if *data == number), "seed {seed}: {integer:?}");
        assert!(matches!(real, Frame3::Double { data, .. } if *data == double), "seed {seed}: {real:?}");
        assert!(matches!(truth, Frame3::Boolean { data, .. } if *data == (number % 2 == 0)), "seed {seed}: {truth:?}");
        assert!(matches!(null, Frame3::Null), "seed {seed}: {null:?}");
        assert!(matches!(map, Frame3::Map { data, .. } if data.len() == 1), "seed {seed}: {map:?}");
        assert!(matches!(verbatim, Frame3::VerbatimString { data, .. } if *data == text), "seed {seed}: {verbatim:?}");
        assert!(matches!(big, Frame3::BigNumber { data, .. } if data.len() == 30), "seed {seed}: {big:?}");
        assert!(matches!(push, Frame3::Push { data, .. } if data.is_empty()), "seed {seed}: {push:?}");
    }
}
