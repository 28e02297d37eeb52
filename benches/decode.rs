//! Question: what do the two ends of a command cost by themselves, reading `SET key16 value100` and writing its reply?
//!
//! Back of the envelope: the command is 144 bytes of which 25 are structure. Branches are predicted; what remains is one chain,
//! because each argument's place depends on the length before it: load, up to three digits, add, thrice: ~35 cycles, so 10-15 ns
//! at 3 GHz plus under 10 ns per call, whatever the value's length. No allocation (the batch is reused). A bulk reply is its head
//! (~5 ns) and one copy. For scale: in one run, 12 ns per command at depth 16 against 98 ns of
//! redis-protocol's `decode_range`.
//! 50,000 arguments of 16 bytes in 16 KiB pieces: the same ~5 ns per argument, 0.3 ms, whatever the size of the pieces.
//!
//! Run: `cargo bench --bench decode`, on a quiet machine (on a loaded one criterion's wall clock is worthless).
//!
//! It would surprise us if: ns per command rose with the pipeline's depth (then the batch reallocates); the 1 MiB value cost several
//! times the small one (then someone copies); 1 KiB pieces cost several times what 16 KiB pieces cost (then something is quadratic).

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datakeeper::resp::{Batch, Need, Output, Parser, Protocol, Reply};

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut stream = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        stream.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        stream.extend_from_slice(arg);
        stream.extend_from_slice(b"\r\n");
    }
    stream
}

fn pipelines(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse SET key16 value100");
    for depth in [1, 16, 64] {
        let stream = command(&[b"SET", b"key:000000012345", &[b'v'; 100]]).repeat(depth);
        let (mut parser, mut batch) = (Parser::new(), Batch::new());
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(BenchmarkId::from_parameter(depth), |b| {
            b.iter(|| {
                batch.clear();
                let progress = parser.advance(black_box(&stream), &mut batch).unwrap();
                black_box(batch.args(batch.len() - 1, &stream).get(2));
                assert_eq!(progress.consumed, stream.len());
            });
        });
    }
    group.finish();
}

fn big_bulk(c: &mut Criterion) {
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    let stream = command(&[b"SET", b"key:000000012345", &value]);
    let header = stream.len() - value.len() - 2;
    // What the input holds once the bulk has left it: the header line, then the bulk's CRLF.
    let rest = [&stream[..header], b"\r\n"].concat();
    let (mut parser, mut batch) = (Parser::new(), Batch::new());
    c.bench_function("parse SET key16 value1MiB, bulk taken out", |b| {
        b.iter(|| {
            batch.clear();
            let progress = parser.advance(black_box(&stream[..header]), &mut batch).unwrap();
            assert_eq!(progress.need, Need::Bulk { len: value.len(), have: 0 });
            parser.supply_bulk(value.clone());
            parser.advance(black_box(&rest), &mut batch).unwrap();
            assert_eq!(batch.args(0, &rest).shared(2).map(Bytes::len), Some(1 << 20));
        });
    });
}

fn many_arguments(c: &mut Criterion) {
    const ARGS: usize = 50_000;
    let stream = command(&vec![&b"0123456789abcdef"[..]; ARGS]);
    let mut group = c.benchmark_group("parse 50000 arguments in pieces");
    group.throughput(Throughput::Elements(ARGS as u64));
    for piece in [1 << 10, 16 << 10, 256 << 10] {
        let (mut parser, mut batch) = (Parser::new(), Batch::new());
        group.bench_function(BenchmarkId::from_parameter(piece), |b| {
            b.iter(|| {
                batch.clear();
                for end in (piece..stream.len()).step_by(piece).chain([stream.len()]) {
                    parser.advance(black_box(&stream[..end]), &mut batch).unwrap();
                }
                assert_eq!(batch.args(0, &stream).len(), ARGS);
            });
        });
    }
    group.finish();
}

type Write = fn(&mut Reply<'_>, &Bytes);

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("reply");
    let big = Bytes::from(vec![b'v'; 1 << 20]);
    let cases: [(&str, Write); 9] = [
        ("ok", |reply, _| reply.ok()),
        ("integer", |reply, _| reply.integer(black_box(123_456))),
        ("bulk of 100", |reply, _| reply.bulk(black_box(&[b'v'; 100]))),
        ("null", |reply, _| reply.null()),
        ("error", |reply, _| reply.error(black_box("ERR value is not an integer or out of range"))),
        ("array of 10 bulks of 100", |reply, _| {
            reply.array(10);
            (0..10).for_each(|_| reply.bulk(black_box(&[b'v'; 100])));
        }),
        ("map of 5", |reply, _| {
            reply.map(5);
            (0..5).for_each(|n| {
                reply.bulk(black_box(b"field"));
                reply.integer(n);
            });
        }),
        ("double", |reply, _| reply.double(black_box(3.25))),
        ("shared 1 MiB", |reply, big| reply.shared(big)),
    ];
    for (name, write) in cases {
        let mut out = Output::new();
        group.throughput(Throughput::Elements(64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let mut reply = Reply::new(&mut out, black_box(Protocol::Resp2));
                for _ in 0..64 {
                    write(&mut reply, &big);
                }
                black_box(out.len());
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1_000)).sample_size(20);
    targets = pipelines, big_bulk, many_arguments, replies
}
criterion_main!(benches);
