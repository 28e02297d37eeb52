//! What clients saw at the leader is what one sequential store could have answered, each operation at some moment between its
//! request and its reply; one without a reply may have happened at any later moment, or never.
//!
//! Registers: the search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of visited
//! configurations. Counters and lists are simpler: an answer says how many came before.
//!
//! The simulator judges its clients with it, and the tests with real processes theirs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use datakeeper::base::jitter::Jitter;

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// SET, alone or as part of MSET.
    Set(Vec<u8>),
    /// SET with PX: the value may vanish by itself.
    SetPx(Vec<u8>),
    /// GET.
    Get,
    /// DEL.
    Del,
    /// INCR.
    Incr,
    /// APPEND.
    Append(Vec<u8>),
    /// FLUSHALL, as each key sees it.
    Flush,
}

/// What it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing (yet): it may have happened, or may still.
    Unknown,
    /// It was not executed.
    Refused,
    /// A replica answered: not part of the history of the leader.
    ByReplica,
    /// +OK.
    Done,
    /// A value, or none.
    Value(Option<Vec<u8>>),
    /// A number.
    Number(i64),
}

/// One operation on one key.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    pub key: Vec<u8>,
    pub call: Call,
    /// Moment at which it was sent.
    pub invoked: u64,
    /// Moment at which its reply arrived; `u64::MAX` without one.
    pub returned: u64,
    pub answer: Answer,
}

/// Configurations visited before the search is given up.
const VISITS_MAX: usize = 1_000_000;

fn of_key<'a>(ops: &'a [Op], key: &str) -> impl Iterator<Item = &'a Op> {
    let key = key.as_bytes().to_vec();
    ops.iter().filter(move |op| op.key == key && !matches!(op.answer, Answer::Refused | Answer::ByReplica))
}

/// A register's state: which value, and whether it may vanish by itself.
type State = Option<(usize, bool)>;

/// What an operation does to a register, values by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Set(usize, bool),
    /// The value that was read.
    Get(Option<usize>),
    /// Whether there was one; `None`: not known, or not to be relied on.
    Del(Option<bool>),
}

struct Step<'a> {
    op: &'a Op,
    act: Act,
    mark: u128,
}

fn apply(state: State, act: Act) -> Option<State> {
    match (act, state) {
        (Act::Set(value, expires), _) => Some(Some((value, expires))),
        (Act::Get(Some(v)), Some((value, _))) if v == value => Some(state),
        (Act::Get(None), None | Some((_, true))) => Some(None),
        (Act::Get(_), _) => None,
        (Act::Del(None), _) => Some(None),
        (Act::Del(Some(true)), Some(_)) => Some(None),
        (Act::Del(Some(false)), None | Some((_, true))) => Some(None),
        (Act::Del(Some(_)), _) => None,
    }
}

/// Judges what was done to one key that was set, read and deleted.
///
/// # Errors
/// The operations that no order explains.
pub fn register(key: &str, ops: &[Op]) -> Result<(), String> {
    let mut numbers: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let seen: BTreeSet<&[u8]> = of_key(ops, key)
        .filter_map(|op| if let Answer::Value(Some(v)) = &op.answer { Some(&v[..]) } else { None })
        .collect();
    let is_open = |op: &Op| op.returned == u64::MAX;
    // A write of unknown outcome whose value nobody saw can be left out, if nothing else tells of it.
    let unseen = |op: &Op| is_open(op) && matches!(&op.call, Call::Set(v) | Call::SetPx(v) if !seen.contains(&v[..]));
    let vague = of_key(ops, key).any(unseen);
    let mut marks = Jitter::new(1);
    let (mut known, mut open) = (Vec::new(), Vec::new());
    for op in of_key(ops, key) {
        let mut number = |v: &Vec<u8>| {
            let next = numbers.len();
            *numbers.entry(v.clone()).or_insert(next)
        };
        let act = match (&op.call, &op.answer) {
            _ if unseen(op) => continue,
            (Call::Set(v), _) => Act::Set(number(v), false),
            (Call::SetPx(v), _) => Act::Set(number(v), true),
            (Call::Get, Answer::Value(v)) => Act::Get(v.as_ref().map(&mut number)),
            (Call::Get, _) => continue,
            (Call::Del, Answer::Number(n)) if !vague => Act::Del(Some(*n == 1)),
            (Call::Del | Call::Flush, _) => Act::Del(None),
            (Call::Incr | Call::Append(_), _) => unreachable!("not a register's"),
        };
        let step = Step { op, act, mark: marks.next_u128() };
        if is_open(op) { open.push(step) } else { known.push(step) }
    }
    known.sort_by_key(|s| s.op.invoked);
    search(key, &known, &open)
}

struct Frame {
    /// What may come next: index, and whether it is an open one.
    choices: Vec<(usize, bool)>,
    tried: usize,
    state: State,
    low: usize,
}

fn search(key: &str, known: &[Step<'_>], open: &[Step<'_>]) -> Result<(), String> {
    let mut done = vec![false; known.len()];
    let mut open_done = vec![false; open.len()];
    let mut visited: HashSet<(u128, State)> = HashSet::new();
    let mut marks = 0u128;
    let (mut best, mut best_low) = (0, 0);
    let mut count = 0;
    let choices = |done: &[bool], open_done: &[bool], low: usize| {
        let mut found = Vec::new();
        let mut first_return = u64::MAX;
        for (i, step) in known.iter().enumerate().skip(low) {
            if step.op.invoked > first_return {
                break;
            }
            if !done[i] {
                first_return = first_return.min(step.op.returned);
                found.push((i, false));
            }
        }
        found.retain(|(i, _)| known[*i].op.invoked < first_return);
        let mut deleted = false;
        for (i, step) in open.iter().enumerate() {
            // Of those that do the same, the first will do.
            let deletes = matches!(step.act, Act::Del(_));
            if !open_done[i] && step.op.invoked < first_return && !(deletes && deleted) {
                found.push((i, true));
                deleted |= deletes;
            }
        }
        found
    };
    let mut stack = vec![Frame { choices: choices(&done, &open_done, 0), tried: 0, state: None, low: 0 }];
    let mut path: Vec<(usize, bool)> = Vec::new();
    while count < known.len() {
        let Some(frame) = stack.last_mut() else {
            return Err(story(key, known, open, best, best_low));
        };
        let Some((i, is_open)) = frame.choices.get(frame.tried).copied() else {
            stack.pop();
            if let Some((i, is_open)) = path.pop() {
                marks ^= if is_open { open[i].mark } else { known[i].mark };
                if is_open {
                    open_done[i] = false;
                } else {
                    done[i] = false;
                    count -= 1;
                }
            }
            continue;
        };
        frame.tried += 1;
        let step = if is_open { &open[i] } else { &known[i] };
        let Some(state) = apply(frame.state, step.act) else { continue };
        if !visited.insert((marks ^ step.mark, state)) {
            continue;
        }
        if visited.len() > VISITS_MAX {
            return Err(format!("linearizable: {key}: undecided after {VISITS_MAX} configurations"));
        }
        let mut low = frame.low;
        marks ^= step.mark;
        if is_open {
            open_done[i] = true;
        } else {
            done[i] = true;
            count += 1;
        }
        while low < known.len() && done[low] {
            low += 1;
        }
        if count > best {
            (best, best_low) = (count, low);
        }
        path.push((i, is_open));
        let choices = choices(&done, &open_done, low);
        stack.push(Frame { choices, tried: 0, state, low });
    }
    Ok(())
}

/// The operations around the place where no order was found.
fn story(key: &str, known: &[Step<'_>], open: &[Step<'_>], best: usize, low: usize) -> String {
    let mut text = format!(
        "linearizable: no order of the operations on {key} explains the answers; {best} of {} fit, then:\n",
        known.len()
    );
    let near = known.iter().skip(low.saturating_sub(12)).take(28);
    for step in near {
        text += &line(step);
    }
    text += "without a reply:\n";
    for step in open {
        text += &line(step);
    }
    text
}

fn line(step: &Step<'_>) -> String {
    let Op { client, call, invoked, returned, answer, .. } = step.op;
    let short = |text: String| text.chars().take(120).collect::<String>();
    let name = |v: &Vec<u8>| short(String::from_utf8_lossy(v).to_string());
    let call = match call {
        Call::Set(v) => format!("SET {}", name(v)),
        Call::SetPx(v) => format!("SET {} PX", name(v)),
        other => short(format!("{other:?}")),
    };
    let answer = match answer {
        Answer::Value(v) => v.as_ref().map_or("none".to_string(), name),
        other => short(format!("{other:?}")),
    };
    let until = if *returned == u64::MAX { "..".to_string() } else { returned.to_string() };
    format!("  {invoked:>8} to {until:>8}  client {client}: {call} -> {answer}\n")
}

/// An operation's place in the order: after `from` others, and then there are `to`.
struct Place {
    invoked: u64,
    returned: u64,
    from: u64,
    to: u64,
    what: String,
}

/// Whoever began after another had ended comes behind it.
fn in_real_time(key: &str, mut places: Vec<Place>) -> Result<(), String> {
    places.sort_by_key(|p| p.invoked);
    let mut ended: Vec<&Place> = places.iter().filter(|p| p.returned != u64::MAX).collect();
    ended.sort_by_key(|p| p.returned);
    let mut next = 0;
    let mut furthest: Option<&Place> = None;
    for place in &places {
        while let Some(e) = ended.get(next).filter(|e| e.returned < place.invoked) {
            if furthest.is_none_or(|f| e.to > f.to) {
                furthest = Some(e);
            }
            next += 1;
        }
        if let Some(f) = furthest.filter(|f| f.to > place.from) {
            return Err(format!(
                "linearizable: {key}: {} ({} to {}) stands behind {}, {} ({} to {}) had reached {} before",
                place.what, place.invoked, place.returned, place.from, f.what, f.invoked, f.returned, f.to
            ));
        }
    }
    Ok(())
}

/// Judges a key that was incremented and read.
///
/// # Errors
/// What does not fit.
pub fn counter(key: &str, ops: &[Op]) -> Result<(), String> {
    let mut places = Vec::new();
    let mut taken = BTreeSet::new();
    for op in of_key(ops, key) {
        let (from, to) = match (&op.call, &op.answer) {
            (Call::Incr, Answer::Number(n)) => {
                if !taken.insert(*n) {
                    return Err(format!("linearizable: {key}: two increments were answered with {n}"));
                }
                (*n as u64 - 1, *n as u64)
            }
            (Call::Get, Answer::Value(v)) => {
                let n = v.as_ref().map_or(0, |v| String::from_utf8_lossy(v).parse().expect("a number"));
                (n, n)
            }
            _ => continue,
        };
        let begun = of_key(ops, key).filter(|o| o.call == Call::Incr && o.invoked < op.returned).count() as u64;
        if to > begun {
            return Err(format!("linearizable: {key}: {to} was answered after {begun} increments"));
        }
        places.push(Place {
            invoked: op.invoked,
            returned: op.returned,
            from,
            to,
            what: format!("{:?} -> {to}", op.call),
        });
    }
    in_real_time(key, places)
}

/// Judges a key that was appended to and read; `list` is its value in the end.
///
/// # Errors
/// What does not fit.
pub fn appended(key: &str, ops: &[Op], list: &[u8]) -> Result<(), String> {
    let mut ends: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut at = 0;
    for token in list.split_inclusive(|b| *b == b';') {
        at += token.len() as u64;
        if ends.insert(token.to_vec(), at).is_some() {
            return Err(format!("linearizable: {key}: {:?} was appended twice", String::from_utf8_lossy(token)));
        }
    }
    let mut places = Vec::new();
    for op in of_key(ops, key) {
        let what = String::from_utf8_lossy(match &op.call {
            Call::Append(token) => &token[..],
            _ => b"GET",
        })
        .to_string();
        let (from, to) = match (&op.call, &op.answer) {
            (Call::Append(token), Answer::Number(n)) => match ends.get(token) {
                Some(end) if *end == *n as u64 => (end - token.len() as u64, *end),
                other => {
                    let text = format!("{what} was answered with length {n}, in the end it stands at {other:?}");
                    return Err(format!("linearizable: {key}: {text}"));
                }
            },
            (Call::Append(token), _) => match ends.get(token) {
                Some(end) => (end - token.len() as u64, *end),
                None => continue,
            },
            (Call::Get, Answer::Value(v)) => {
                let value = v.as_deref().unwrap_or_default();
                if !list.starts_with(value) {
                    return Err(format!(
                        "linearizable: {key}: a value of {} bytes was read that was lost later",
                        value.len()
                    ));
                }
                (value.len() as u64, value.len() as u64)
            }
            _ => continue,
        };
        places.push(Place { invoked: op.invoked, returned: op.returned, from, to, what });
    }
    in_real_time(key, places)
}
