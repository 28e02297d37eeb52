//! Spikes of latency: the commands that took at least `latency-monitor-threshold` milliseconds, in the events that Redis has for them.
//!
//! An event keeps the longest spike of each second, the last 160 of them. The threshold is 0 by default: nothing is noted. Not here: the
//! events of forks, files and memory, none of which Redis's work is done here.

use std::collections::VecDeque;
use std::fmt::Write;

use crate::base::clock::Now;
use crate::command::{CommandSpec, Flag};
use crate::resp::{Args, Reply};

use super::Keeper;
use super::calls::Histogram;
use super::session::{Answer, Flow};

/// Spikes that an event keeps.
const SPIKES_MAX: usize = 160;
/// Width of a drawing, in spikes, and its height.
const COLUMNS: usize = 80;
const ROWS: u64 = 4;

/// The events: one for commands that are fast by their row, one for all others.
const EVENTS: [&str; 2] = ["command", "fast-command"];

#[derive(Clone, Copy, Debug)]
struct Spike {
    /// Unix seconds.
    at_s: u64,
    ms: u64,
}

/// What is kept of an event.
#[derive(Debug, Default)]
struct Event {
    spikes: VecDeque<Spike>,
    max_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Latency {
    events: [Event; EVENTS.len()],
    /// From how long on a command is a spike, if any is.
    pub threshold_ms: Option<u64>,
}

impl Latency {
    /// A command took that long.
    pub fn note(&mut self, now: Now, spec: &CommandSpec, nanos: u64) {
        let (ms, at_s) = (nanos / 1_000_000, now.wall.0 / 1_000);
        if self.threshold_ms.is_none_or(|threshold| ms < threshold) {
            return;
        }
        let event = &mut self.events[usize::from(spec.flags.has(Flag::Fast))];
        event.max_ms = event.max_ms.max(ms);
        match event.spikes.back_mut() {
            Some(last) if last.at_s == at_s => last.ms = last.ms.max(ms),
            _ => event.spikes.push_back(Spike { at_s, ms }),
        }
        if event.spikes.len() > SPIKES_MAX {
            event.spikes.pop_front();
        }
    }

    /// The events that there were, with their last spike.
    fn seen(&self) -> impl Iterator<Item = (&'static str, &Event, Spike)> + Clone {
        let events = EVENTS.into_iter().zip(&self.events);
        events.filter_map(|(name, event)| Some((name, event, *event.spikes.back()?)))
    }

    fn named(&self, name: &[u8]) -> Option<(&'static str, &Event)> {
        self.seen().find(|(known, ..)| known.as_bytes() == name).map(|(name, event, _)| (name, event))
    }
}

impl Keeper {
    pub(super) fn latency_latest(&self, reply: &mut Reply<'_>) -> Answer {
        reply.array(self.latency.seen().count());
        for (name, event, last) in self.latency.seen() {
            reply.array(4);
            reply.bulk(name.as_bytes());
            reply.integer(last.at_s as i64);
            reply.integer(last.ms as i64);
            reply.integer(event.max_ms as i64);
        }
        Ok(Flow::Done)
    }

    pub(super) fn latency_history(&self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let event = self.latency.named(args.get(2)).map(|(_, event)| event);
        reply.array(event.map_or(0, |event| event.spikes.len()));
        for spike in event.iter().flat_map(|event| &event.spikes) {
            reply.array(2);
            reply.integer(spike.at_s as i64);
            reply.integer(spike.ms as i64);
        }
        Ok(Flow::Done)
    }

    pub(super) fn latency_reset(&mut self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let names = args.tail(2);
        let mut forgotten = 0;
        for (name, event) in EVENTS.into_iter().zip(&mut self.latency.events) {
            let meant = names.is_empty() || names.iter().any(|named| named == name.as_bytes());
            if meant && !std::mem::take(event).spikes.is_empty() {
                forgotten += 1;
            }
        }
        reply.integer(forgotten);
        Ok(Flow::Done)
    }

    pub(super) fn latency_graph(&self, now: Now, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let Some((name, event)) = self.latency.named(args.get(2)) else {
            return Err(format!("ERR No samples available for event '{}'", args.get(2).escape_ascii()).into());
        };
        reply.verbatim("txt", drawing(now.wall.0 / 1_000, name, event).as_bytes());
        Ok(Flow::Done)
    }

    pub(super) fn latency_doctor(&self, reply: &mut Reply<'_>) -> Answer {
        reply.verbatim("txt", self.diagnosis().as_bytes());
        Ok(Flow::Done)
    }

    fn diagnosis(&self) -> String {
        let Some(threshold_ms) = self.latency.threshold_ms else {
            return "Nothing is noted: latency-monitor-threshold is 0. CONFIG SET latency-monitor-threshold 100 notes every command of \
                    100 ms and more.\n"
                .to_string();
        };
        if self.latency.seen().next().is_none() {
            return format!("No command has taken {threshold_ms} ms since that is noted.\n");
        }
        let mut text = String::new();
        for (name, event, last) in self.latency.seen() {
            let (count, sum) = (event.spikes.len() as u64, event.spikes.iter().map(|spike| spike.ms).sum::<u64>());
            let span_s = last.at_s - event.spikes.front().map_or(last.at_s, |first| first.at_s);
            let mean = sum / count;
            let strays = event.spikes.iter().map(|spike| spike.ms.abs_diff(mean)).sum::<u64>() / count;
            writeln!(
                text,
                "{name}: {count} seconds with a spike within {span_s} s; mean {mean} ms, mean deviation {strays} ms, \
                 longest ever {} ms.",
                event.max_ms
            )
            .expect("a String takes any text");
        }
        text.push_str(
            "A slow command keeps every other one waiting. SLOWLOG GET names the commands; KEYS, and commands on very many keys or \
             very large values, take long by their nature. If quick commands are slow, the machine is short of processors or swaps.\n",
        );
        text
    }

    pub(super) fn latency_histogram(&self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let names = args.tail(2);
        let wanted = |name: &str| {
            let container = name.split('|').next().unwrap_or(name);
            names.is_empty()
                || names.iter().any(|named| [name, container].iter().any(|n| named.eq_ignore_ascii_case(n.as_bytes())))
        };
        let told = |row: &super::calls::Row| row.histogram.as_ref().map(|histogram| (row.calls, (**histogram).clone()));
        let found: Vec<(&str, u64, Histogram)> = self
            .calls
            .rows()
            .filter(|(spec, _)| wanted(spec.name))
            .filter_map(|(spec, row)| told(row).map(|(calls, histogram)| (spec.name, calls, histogram)))
            .collect();
        reply.map(found.len());
        for (name, calls, histogram) in &found {
            reply.bulk(name.as_bytes());
            reply.map(2);
            reply.bulk(b"calls");
            reply.integer(*calls as i64);
            reply.bulk(b"histogram_usec");
            let doublings = histogram.doublings();
            reply.map(doublings.len());
            for (exponent, count) in doublings {
                // The bound as Redis shows it, whose histogram has steps of 1/128.
                let bound = (1_u64 << exponent) + (1 << (exponent - 7)) - 1;
                reply.integer((bound / 1_000) as i64);
                reply.integer(count as i64);
            }
        }
        Ok(Flow::Done)
    }
}

/// The last spikes of an event as columns, each with its age below it, to be read downwards.
fn drawing(now_s: u64, name: &str, event: &Event) -> String {
    let shown: Vec<Spike> = event.spikes.iter().skip(event.spikes.len().saturating_sub(COLUMNS)).copied().collect();
    let high = shown.iter().map(|spike| spike.ms).max().unwrap_or(0);
    let low = shown.iter().map(|spike| spike.ms).min().unwrap_or(0);
    let mut lines =
        vec![format!("{name} - high {high} ms, low {low} ms (all time high {} ms)", event.max_ms), "-".repeat(COLUMNS)];
    // Two heights per row: a half is drawn as `_`, what is below the top as `|`, the top as `#`.
    let height = |spike: &Spike| match high - low {
        0 => 1,
        range => 1 + (spike.ms - low) * (2 * ROWS - 1) / range,
    };
    for row in (0..ROWS).rev() {
        let mark = |spike: &Spike| match height(spike).saturating_sub(2 * row) {
            0 => ' ',
            1 => '_',
            2 => '#',
            _ => '|',
        };
        lines.push(shown.iter().map(mark).collect());
    }
    let ages: Vec<Vec<char>> =
        shown.iter().map(|spike| age(now_s.saturating_sub(spike.at_s)).chars().collect()).collect();
    lines.push(String::new());
    for i in 0..ages.iter().map(Vec::len).max().unwrap_or(0) {
        lines.push(ages.iter().map(|age| age.get(i).copied().unwrap_or(' ')).collect());
    }
    lines.iter().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// A time in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Boot, Wall};
    use crate::command::find;

    fn at(seconds: u64) -> Now {
        Now { boot: Boot(0), wall: Wall(seconds * 1_000) }
    }

    #[test]
    fn event_keeps_the_longest_spike_of_each_second_and_a_bounded_number() {
        let mut latency = Latency { threshold_ms: Some(5), ..Latency::default() };
        let (keys, get) = (find(b"keys").unwrap(), find(b"get").unwrap());
        for (seconds, ms) in [(1, 4), (1, 7), (1, 9), (1, 8), (2, 5)] {
            latency.note(at(seconds), keys, ms * 1_000_000);
        }
        let told: Vec<_> = latency.named(b"command").unwrap().1.spikes.iter().map(|s| (s.at_s, s.ms)).collect();
        assert_eq!(told, [(1, 9), (2, 5)]);
        assert!(latency.named(b"fast-command").is_none());
        for seconds in 0..1_000 {
            latency.note(at(seconds), get, 6_000_000);
        }
        let fast = latency.named(b"fast-command").unwrap().1;
        assert_eq!((fast.spikes.len(), fast.spikes.back().unwrap().at_s, fast.max_ms), (SPIKES_MAX, 999, 6));
        latency.threshold_ms = None;
        latency.note(at(5_000), get, u64::MAX);
        assert_eq!(latency.named(b"fast-command").unwrap().1.max_ms, 6);
    }

    #[test]
    fn drawing_shows_each_spike_as_high_as_it_was_and_its_age() {
        let mut event = Event { spikes: VecDeque::new(), max_ms: 900 };
        for (ago, ms) in [(7_200, 100), (70, 800), (5, 400), (4, 110)] {
            event.spikes.push_back(Spike { at_s: 10_000 - ago, ms });
        }
        let want = "command - high 800 ms, low 100 ms (all time high 900 ms)\n".to_string()
            + &"-".repeat(COLUMNS)
            + "\n #\n |\n |#\n_||_\n\n2154\nhmss\n";
        assert_eq!(drawing(10_000, "command", &event), want);
    }
}
