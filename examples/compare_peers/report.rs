//! What was measured, as tables on the screen, as JSON and as plots.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

/// One server under one load: a figure for each round.
pub struct Row {
    pub part: String,
    pub label: String,
    pub server: String,
    /// Rounds in which other processes took little.
    pub calm: usize,
    /// Rounds in all; the figures are of the calm ones if those are three or more.
    pub rounds: usize,
    pub cpu_ns: Vec<f64>,
    pub per_second: Vec<f64>,
    pub busy: Vec<f64>,
    pub p50_us: Vec<f64>,
    pub p99_us: Vec<f64>,
    pub p999_us: Vec<f64>,
}

/// A table without rounds: title, columns, and for each server its figures.
struct Table {
    part: String,
    title: String,
    columns: Vec<String>,
    lines: Vec<(String, Vec<f64>)>,
}

impl Table {
    /// For each column the bars of all servers, the longest of which has the greatest figure.
    fn plot(&self) -> String {
        const STEP: usize = 18;
        let height = self.columns.len() * (self.lines.len() * STEP + 30) + 20;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>{}</title>\n<rect width=\"720\" height=\"{height}\" fill=\"white\"/>\n",
            self.title
        );
        let mut y = 20;
        for (i, column) in self.columns.iter().enumerate() {
            let _ = writeln!(svg, "<text x=\"10\" y=\"{y}\">{}: {column}</text>", self.part);
            let most = self.lines.iter().map(|(_, figures)| figures[i]).fold(0.0, f64::max);
            for (server, figures) in self.lines.iter().filter(|(_, figures)| !figures[i].is_nan()) {
                y += STEP;
                let (bar_y, width) = (y - 12, (figures[i].max(0.0) / most.max(f64::MIN_POSITIVE)) * 400.0);
                let _ = writeln!(
                    svg,
                    "<text x=\"194\" y=\"{y}\" text-anchor=\"end\">{server}</text>\
                     <rect x=\"200\" y=\"{bar_y}\" width=\"{width:.1}\" height=\"14\" fill=\"#4a7ab5\"/>\
                     <text x=\"{:.1}\" y=\"{y}\">{:.2}</text>",
                    width + 206.0,
                    figures[i]
                );
            }
            y += 30;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

pub struct Report {
    rows: Vec<Row>,
    tables: Vec<Table>,
}

/// A figure, or a dash if there is none.
fn figure(value: f64, digits: usize) -> String {
    if value.is_nan() { "–".to_string() } else { format!("{value:.digits$}") }
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The middle of each column of rounds.
pub fn medians(rounds: &[Vec<f64>]) -> Vec<f64> {
    let columns = rounds.first().map_or(0, Vec::len);
    (0..columns).map(|i| median(&rounds.iter().map(|round| round[i]).collect::<Vec<_>>())).collect()
}

/// Ours to theirs, round by round: the median, the least and the greatest.
fn ratio(ours: &[f64], theirs: &[f64]) -> [f64; 3] {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    let ends = ratios.iter().fold((f64::MAX, f64::MIN), |(least, most), r| (least.min(*r), most.max(*r)));
    [median(&ratios), ends.0, ends.1]
}

impl Report {
    pub fn new() -> Report {
        println!(
            "| load | server | CPU ns/op | ratio (range) | ops/s | ratio | busy | p50 µs | p99 µs | p99.9 µs | p99 ratio | calm |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        Report { rows: Vec::new(), tables: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the rows of the last load; the first of them is ours, and the ratios are ours to that server.
    pub fn print_last(&self, servers: usize) {
        let rows = &self.rows[self.rows.len() - servers..];
        let ours = &rows[0];
        for (i, row) in rows.iter().enumerate() {
            let [cpu, least, most] = ratio(&ours.cpu_ns, &row.cpu_ns);
            let [speed, ..] = ratio(&ours.per_second, &row.per_second);
            let [p99, ..] = ratio(&ours.p99_us, &row.p99_us);
            let ratios = match i {
                0 => [String::new(), String::new(), String::new()],
                _ => [format!("{cpu:.2} ({least:.2}–{most:.2})"), format!("{speed:.2}"), figure(p99, 2)],
            };
            println!(
                "| {} | {} | {:.0} | {} | {:.0} | {} | {:.2} | {} | {} | {} | {} | {}/{} |",
                row.label,
                row.server,
                median(&row.cpu_ns),
                ratios[0],
                median(&row.per_second),
                ratios[1],
                median(&row.busy),
                figure(median(&row.p50_us), 0),
                figure(median(&row.p99_us), 0),
                figure(median(&row.p999_us), 0),
                ratios[2],
                row.calm,
                row.rounds,
            );
        }
    }

    /// Adds and prints a table.
    pub fn table(&mut self, part: &str, title: &str, columns: &[&str], lines: Vec<(String, Vec<f64>)>) {
        println!("\n{title}\n\n| server | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
        for (server, figures) in &lines {
            let figures: Vec<String> = figures.iter().map(|f| figure(*f, 2)).collect();
            println!("| {server} | {} |", figures.join(" | "));
        }
        println!();
        let columns = columns.iter().map(ToString::to_string).collect();
        self.tables.push(Table { part: part.to_string(), title: title.to_string(), columns, lines });
    }

    /// `results.json`, and a plot of the ratios of CPU for each part.
    pub fn write(&self, out: &Path) -> io::Result<()> {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "part": row.part, "load": row.label, "server": row.server, "calm_rounds": row.calm, "rounds_in_all": row.rounds,
                    "cpu_ns_per_op": row.cpu_ns, "ops_per_second": row.per_second, "busy": row.busy,
                    "p50_us": row.p50_us, "p99_us": row.p99_us, "p999_us": row.p999_us,
                })
            })
            .collect();
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|t| json!({ "part": t.part, "title": t.title, "columns": t.columns, "lines": t.lines }))
            .collect();
        let all = serde_json::to_string_pretty(&json!({ "rounds": rows, "tables": tables }))?;
        fs::write(out.join("results.json"), all)?;
        let mut parts: Vec<&str> = self.rows.iter().map(|row| row.part.as_str()).collect();
        parts.dedup();
        for part in parts {
            fs::write(out.join(format!("{part}.svg")), self.plot(part))?;
        }
        for (i, table) in self.tables.iter().enumerate() {
            let nth = self.tables[..i].iter().filter(|other| other.part == table.part).count();
            let name = if nth == 0 { table.part.clone() } else { format!("{}-{}", table.part, nth + 1) };
            fs::write(out.join(format!("{name}.svg")), table.plot())?;
        }
        Ok(())
    }

    /// Bars of the median ratio of CPU per operation, ours to each peer, with the range; the line is where both are equal.
    fn plot(&self, part: &str) -> String {
        const LEFT: f64 = 290.0;
        const UNIT: f64 = 300.0;
        const STEP: usize = 20;
        let mut bars = Vec::new();
        let mut ours: Option<&Row> = None;
        for row in self.rows.iter().filter(|row| row.part == part) {
            match ours.filter(|ours| ours.label == row.label) {
                None => ours = Some(row),
                Some(ours) => bars.push((format!("{} / {}", row.label, row.server), ratio(&ours.cpu_ns, &row.cpu_ns))),
            }
        }
        let height = STEP * bars.len() + 50;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"720\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\">CPU per operation, DataKeeper to peer: {part}; less is better</text>\n"
        );
        for (i, (label, [middle, least, most])) in bars.iter().enumerate() {
            let y = 32 + i * STEP;
            let x = |ratio: f64| LEFT + UNIT * ratio.min(1.4);
            let (left, text_y, middle_y) = (LEFT - 6.0, y + 12, y + 7);
            let (width, from, upto) = (x(*middle) - LEFT, x(*least), x(*most));
            let _ = writeln!(
                svg,
                "<text x=\"{left:.0}\" y=\"{text_y}\" text-anchor=\"end\">{label}</text>\
                 <rect x=\"{LEFT:.0}\" y=\"{y}\" width=\"{width:.1}\" height=\"14\" fill=\"#4a7ab5\"/>\
                 <line x1=\"{from:.1}\" x2=\"{upto:.1}\" y1=\"{middle_y}\" y2=\"{middle_y}\" stroke=\"black\"/>\
                 <text x=\"{:.1}\" y=\"{text_y}\">{middle:.2}</text>",
                upto + 6.0,
            );
        }
        let (one, bottom) = (LEFT + UNIT, height - 14);
        let _ = writeln!(svg, "<line x1=\"{one}\" x2=\"{one}\" y1=\"28\" y2=\"{bottom}\" stroke=\"#b33\"/>\n</svg>");
        svg
    }
}
