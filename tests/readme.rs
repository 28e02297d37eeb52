//! README's table of commands is what the rows say. `BLESS=1 cargo test --test readme` writes it.

use std::fmt::Write as _;
use std::path::Path;

use datakeeper::command::CommandSpec;

const BEGIN: &str = "<!-- The rows of src/command, by `BLESS=1 cargo test --test readme`: -->\n";
const END: &str = "<!-- the end of the rows -->\n";

/// The name, and those of its subcommands.
fn shown(spec: &CommandSpec) -> String {
    let subs: Vec<String> = spec.subs.iter().map(|sub| sub.own_name().to_ascii_uppercase()).collect();
    let name = spec.name.to_ascii_uppercase();
    if subs.is_empty() { name } else { format!("{name} ({})", subs.join(", ")) }
}

/// One line per chapter, in the order of the rows.
fn table() -> String {
    let mut chapters: Vec<(&str, Vec<String>)> = Vec::new();
    for spec in datakeeper::command::all() {
        let name = spec.group.name();
        match chapters.iter_mut().find(|(chapter, _)| *chapter == name) {
            Some((_, commands)) => commands.push(shown(spec)),
            None => chapters.push((name, vec![shown(spec)])),
        }
    }
    let mut table = String::from("| | |\n|---|---|\n");
    for (chapter, commands) in chapters {
        writeln!(table, "| {chapter} | {} |", commands.join(" · ")).unwrap();
    }
    table
}

#[test]
fn the_table_of_commands_is_that_of_the_rows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let from = text.find(BEGIN).expect("README.md says where the table begins") + BEGIN.len();
    let end = text.find(END).expect("README.md says where the table ends");
    let table = table();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, [&text[..from], &table, &text[end..]].concat()).unwrap();
        return;
    }
    let differs = |(held, wanted): &(&str, &str)| held != wanted;
    let lines = text[from..end].lines().zip(table.lines());
    let differing: Vec<String> = lines.filter(differs).map(|(held, wanted)| format!("- {held}\n+ {wanted}")).collect();
    let same = text[from..end] == table;
    assert!(same, "README.md is behind src/command; BLESS=1 cargo test --test readme\n{}", differing.join("\n"));
}
