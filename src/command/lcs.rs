//! LCS: the longest common subsequence of two values.
//!
//! The work is the product of their lengths, so it runs in slices on the values as they were when it began:
//! ```text
//!   Fill: row by row, lengths of the last row and one bit per cell ──► Trace: backwards along the bits ──► reply
//! ```
//! The bit says whether the cell above is the longer one; that is all that the way back asks for, and a thirty-second of the usual table.
//! Among subsequences of equal length the way back takes the one that Redis takes.

use bytes::Bytes;

use crate::base::limits::VALUE_BYTES_MAX;
use crate::command::CommandError;
use crate::command::context::{Ctx, Done, Sliced, kept_value};
use crate::command::number::integer;
use crate::command::spec::Flag::Readonly;
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::command::string::string;
use crate::resp::{Args, Reply};

pub(super) const ROWS: &[CommandSpec] = &[CommandSpec::data("lcs", -3, lcs)
    .args("key1 key2 [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]")
    .flags(&[Readonly])
    .keys(Keys::two(KeyUse::Read, KeyUse::Read))
    .sliced()
    .doc(Group::String, "7.0.0", "Returns the longest common subsequence of two values.")];

/// Cells filled, or steps taken back, in one slice: about 2 ms.
const CELLS_PER_SLICE: usize = 1 << 19;
/// Bytes that Redis would need for each cell; its limit is kept.
const REDIS_CELL_BYTES: u64 = 4;

/// The work on two values between two of its slices.
#[derive(Debug)]
pub(super) struct Lcs {
    one: Bytes,
    two: Bytes,
    /// Cells done, row by row; a row belongs to a byte of `one`.
    filled: usize,
    /// The last row: what is left of `filled` is new, what is right of it belongs to the row before.
    row: Vec<u32>,
    /// What stood above the last cell.
    diagonal: u32,
    /// For each cell whether that above is longer than that on the left.
    above: Vec<u64>,
    /// Where the way back is: bytes before it in both values. `None` while filling.
    back: Option<(usize, usize)>,
    /// The subsequence from its end.
    found: Vec<u8>,
    /// The common run that the way back is in.
    run: Option<Run>,
    runs: Vec<Run>,
}

/// Bytes that are alike, by where they begin.
#[derive(Clone, Copy, Debug)]
struct Run {
    one: usize,
    two: usize,
    len: usize,
}

#[derive(Default)]
struct Options {
    len: bool,
    idx: bool,
    with_match_len: bool,
    min_match_len: i64,
}

impl Options {
    fn parse(args: &Args<'_>) -> Result<Options, CommandError> {
        let mut options = Options::default();
        let mut i = 3;
        while i < args.len() {
            let word = args.get(i);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            match () {
                () if is(b"IDX") => options.idx = true,
                () if is(b"LEN") => options.len = true,
                () if is(b"WITHMATCHLEN") => options.with_match_len = true,
                () if is(b"MINMATCHLEN") && i + 1 < args.len() => {
                    i += 1;
                    options.min_match_len = integer(args.get(i))?;
                }
                () => return Err(CommandError::Syntax),
            }
            i += 1;
        }
        if options.len && options.idx { Err(CommandError::LcsLenAndIdx) } else { Ok(options) }
    }
}

fn lcs(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let options = Options::parse(args)?;
    let mut lcs = match ctx.slice.under_way.take() {
        Some(Sliced::Lcs(lcs)) => lcs,
        _ => {
            let (one, two) = (bytes_of(ctx, args, 1)?, bytes_of(ctx, args, 2)?);
            Box::new(Lcs::new(one, two)?)
        }
    };
    if lcs.step(!options.len) == Done::More {
        ctx.slice.under_way = Some(Sliced::Lcs(lcs));
        return Ok(Done::More);
    }
    lcs.reply(&options, &mut ctx.reply);
    Ok(Done::Done)
}

/// The value of the key in argument `i`, empty if there is none; a big one is shared.
fn bytes_of(ctx: &mut Ctx<'_, '_>, args: &Args<'_>, i: usize) -> Result<Bytes, CommandError> {
    let key = args.get(i);
    let hash = if i == 1 { ctx.hash_first(key) } else { ctx.store.hash(key) };
    let bytes = ctx.read(hash, key, |entry, _| {
        string(entry.value())?;
        Ok(kept_value(entry.value()))
    });
    Ok(bytes.transpose()?.unwrap_or_default())
}

impl Lcs {
    fn new(one: Bytes, two: Bytes) -> Result<Lcs, CommandError> {
        let cells = (one.len() as u64 + 1) * (two.len() as u64 + 1);
        if cells.saturating_mul(REDIS_CELL_BYTES) > VALUE_BYTES_MAX as u64 {
            return Err(CommandError::LcsTooLong);
        }
        let (row, above) = (vec![0; two.len() + 1], vec![0; (one.len() * two.len()).div_ceil(64)]);
        let (found, runs) = (Vec::new(), Vec::new());
        Ok(Lcs { one, two, filled: 0, row, diagonal: 0, above, back: None, found, run: None, runs })
    }

    /// One slice of the work; `wanted`: not only the length is asked for.
    fn step(&mut self, wanted: bool) -> Done {
        let Some(back) = self.back else {
            self.fill();
            let full = self.filled == self.one.len() * self.two.len();
            self.back = full.then_some((self.one.len(), self.two.len()));
            return if full && !wanted { Done::Done } else { Done::More };
        };
        let end = self.trace(back);
        self.back = Some(end);
        if end.0 == 0 || end.1 == 0 { Done::Done } else { Done::More }
    }

    fn fill(&mut self) {
        let width = self.two.len();
        let end = (self.filled + CELLS_PER_SLICE).min(self.one.len() * width);
        while self.filled < end {
            let (line, from) = (self.filled / width, self.filled % width);
            let upto = width.min(from + end - self.filled);
            let byte = self.one[line];
            if from == 0 {
                self.diagonal = 0;
            }
            for at in from..upto {
                let (left, above) = (self.row[at], self.row[at + 1]);
                self.row[at + 1] = if self.two[at] == byte { self.diagonal + 1 } else { left.max(above) };
                self.diagonal = above;
                let cell = line * width + at;
                self.above[cell / 64] |= u64::from(above > left) << (cell % 64);
            }
            self.filled += upto - from;
        }
    }

    fn trace(&mut self, (mut one, mut two): (usize, usize)) -> (usize, usize) {
        for _ in 0..CELLS_PER_SLICE {
            if one == 0 || two == 0 {
                break;
            }
            if self.one[one - 1] == self.two[two - 1] {
                (one, two) = (one - 1, two - 1);
                self.found.push(self.one[one]);
                let len = self.run.map_or(0, |run| run.len) + 1;
                self.run = Some(Run { one, two, len });
                if one > 0 && two > 0 {
                    continue;
                }
            } else {
                let cell = (one - 1) * self.two.len() + two - 1;
                if self.above[cell / 64] >> (cell % 64) & 1 == 1 { one -= 1 } else { two -= 1 }
            }
            self.runs.extend(self.run.take());
        }
        (one, two)
    }

    fn reply(mut self: Box<Self>, options: &Options, reply: &mut Reply<'_>) {
        let length = self.row.last().copied().unwrap_or(0).into();
        if options.idx {
            self.runs.retain(|run| run.len as i64 >= options.min_match_len);
            reply.map(2);
            reply.bulk(b"matches");
            reply.array(self.runs.len());
            for run in &self.runs {
                reply.array(2 + usize::from(options.with_match_len));
                for from in [run.one, run.two] {
                    reply.array(2);
                    reply.integer(from as i64);
                    reply.integer((from + run.len - 1) as i64);
                }
                if options.with_match_len {
                    reply.integer(run.len as i64);
                }
            }
            reply.bulk(b"len");
            reply.integer(length);
        } else if options.len {
            reply.integer(length);
        } else {
            self.found.reverse();
            reply.bulk(&self.found);
        }
    }
}
