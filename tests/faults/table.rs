//! All verdicts, one line per fault.

use std::fmt;
use std::time::Duration;

use crate::trial::Verdict;

/// Lines of a broken promise's story that are printed.
const LINES_SHOWN: usize = 10;

/// What is printed in the end.
#[derive(Default)]
pub struct Table {
    rows: Vec<(&'static str, Vec<Verdict>)>,
}

impl Table {
    /// What came of all runs of one fault.
    pub fn add(&mut self, name: &'static str, verdicts: Vec<Verdict>) {
        self.rows.push((name, verdicts));
    }

    /// # Panics
    /// If a promise was broken.
    pub fn assert_clean(&self) {
        let mut text = String::new();
        for (name, verdicts) in &self.rows {
            for (round, verdict) in verdicts.iter().enumerate() {
                for what in [&verdict.lost, &verdict.broken, &verdict.stale, &verdict.differences] {
                    for line in what.iter().take(LINES_SHOWN) {
                        text += &format!("{name} {}: {line}\n", round + 1);
                    }
                }
            }
        }
        assert!(text.is_empty(), "promises were broken:\n{text}");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "runs",
            "lost",
            "not lin.",
            "stale",
            "first write: median",
            "p99",
            "max",
            "pause: median",
            "max",
            "identical",
        ];
        let widths = [5, 5, 9, 6, 20, 9, 9, 14, 9, 10];
        let mut line = |name: &str, cells: &[String]| {
            let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
            writeln!(f, "{name:<26}{}", cells.collect::<String>())
        };
        line("fault", &head.map(String::from))?;
        for (name, verdicts) in &self.rows {
            let sum = |count: fn(&Verdict) -> usize| verdicts.iter().map(count).sum::<usize>().to_string();
            let times = |time: fn(&Verdict) -> Duration| {
                let mut all: Vec<Duration> = verdicts.iter().map(time).collect();
                all.sort();
                let ms = |time: Option<&Duration>| time.map_or("-".to_string(), |t| format!("{} ms", t.as_millis()));
                [ms(all.get(all.len() / 2)), ms(all.get((all.len() * 99).div_ceil(100) - 1)), ms(all.last())]
            };
            let [first, first_p99, first_max] = times(|v| v.first_write);
            let [pause, _, pause_max] = times(|v| v.pause);
            let same = verdicts.iter().all(|v| v.differences.is_empty());
            let cells = [
                verdicts.len().to_string(),
                sum(|v| v.lost.len()),
                sum(|v| v.broken.len()),
                sum(|v| v.stale.len()),
                first,
                first_p99,
                first_max,
                pause,
                pause_max,
                if same { "yes" } else { "NO" }.to_string(),
            ];
            line(name, &cells)?;
        }
        Ok(())
    }
}
