//! The rules of the house, as a test: which floor may import which, what the pure floors may not name, where `unsafe` may
//! stand, that every file says what it is for, and that no file names a machine's own paths.
//!
//! It reads source text, not a syntax tree: comments, strings and test code are blanked first, then words and paths are looked
//! at. That is enough for code that `rustfmt` has formatted, and it needs no dependency. Each check is a function from text to
//! offences, so that the tests at the end can show each of them failing. The idea is TigerBeetle's `tidy.zig`.
//!
//! Not here: line lengths (rustfmt), and what the compiler or clippy already say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each floor may import beside itself: prefixes of paths below `crate::`. The roof (`app`) may import everything.
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("store", &["base"]),
    ("resp", &["base"]),
    ("command", &["base", "store", "resp"]),
    ("cluster", &["base", "store"]),
    ("replication", &["base", "store", "cluster"]),
    ("keeper", &["base", "store", "resp", "command", "cluster", "replication"]),
    ("shell", &["base", "resp", "cluster", "replication::wire", "replication::pulse", "keeper"]),
];

/// The floors without I/O, clock, randomness, threads, `async` and global state.
const PURE: &[&str] = &["base", "store", "resp", "command", "cluster", "replication", "keeper"];

/// Paths below `std::` that a pure floor must not name, and why.
const IMPURE_STD: &[(&str, &str)] = &[
    ("net", "sockets belong to the shell"),
    ("fs", "files belong to the roof"),
    ("env", "settings come in as values"),
    ("process", "processes belong to the roof"),
    ("io::stdin", "terminals belong to the roof"),
    ("io::stdout", "terminals belong to the roof"),
    ("io::stderr", "terminals belong to the roof"),
    ("thread", "threads belong to the shell"),
    ("time::Instant", "time comes in as a value"),
    ("time::SystemTime", "time comes in as a value"),
    ("sync::LazyLock", "no global state"),
    ("sync::OnceLock", "no global state"),
    ("cell::OnceCell", "no global state"),
    ("collections::HashMap", "its order is random; take a BTreeMap or hashbrown with the store's hash"),
    ("collections::HashSet", "its order is random; take a BTreeSet or hashbrown with the store's hash"),
    ("collections::hash_map", "its order is random; take a BTreeMap or hashbrown with the store's hash"),
    ("hash::RandomState", "randomness comes in as a value"),
];

/// Words that a pure floor must not name, and why.
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("tokio", "tasks belong to the shell"),
    ("tokio_util", "tasks belong to the shell"),
    ("axum", "HTTP belongs to the shell"),
    ("socket2", "sockets belong to the shell"),
    ("zookeeper_client", "coordination belongs to the shell"),
    ("libc", "the operating system belongs to the shell"),
    ("async", "nothing waits here"),
    ("await", "nothing waits here"),
    ("Instant", "time comes in as a value"),
    ("SystemTime", "time comes in as a value"),
    ("rand", "randomness comes in as a value"),
    ("getrandom", "randomness comes in as a value"),
    ("RandomState", "randomness comes in as a value"),
    ("thread_local", "no global state"),
    ("LazyLock", "no global state"),
    ("OnceLock", "no global state"),
    ("tracing", "the shell logs what the Keeper notices"),
    ("println", "the shell logs what the Keeper notices"),
    ("eprintln", "the shell logs what the Keeper notices"),
    ("dbg", "the shell logs what the Keeper notices"),
];

/// Types that make a `static` a global variable.
const CELLS: &[&str] =
    &["Cell", "RefCell", "UnsafeCell", "Mutex", "RwLock", "OnceCell", "OnceLock", "LazyLock", "Atomic"];

/// Files below `src` that may hold `unsafe`, each with its reason.
const UNSAFE: &[&str] = &[
    "src/store/entry.rs",   // one allocation per entry
    "src/app/allocator.rs", // an allocator has unsafe functions
    "src/shell/clock.rs",   // clock_gettime(CLOCK_BOOTTIME)
    "src/app/last_word.rs", // signal handlers
];

/// Texts that only mean something on one machine or inside one network.
const MACHINE: &[&str] =
    &["/work/", "/root/", "/home/", "sparse+http", "replace-with", "//registry.", "//proxy.", "//mirror."];

/// One breach of a rule: file and line, and what is wrong there.
type Offence = String;

fn offence(file: &str, line: usize, what: &str) -> Offence {
    format!("{file}:{line}: {what}")
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading source text

/// The text with comments, string and character literals blanked; lines and columns stay where they were.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out: Vec<char> = Vec::with_capacity(chars.len());
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let word_before = i > 0 && is_word(at(i - 1));
        let end = match at(i) {
            '/' if at(i + 1) == '/' => (i..chars.len()).find(|&j| at(j) == '\n').unwrap_or(chars.len()),
            '/' if at(i + 1) == '*' => end_of_block_comment(&chars, i),
            '"' => end_of_string(&chars, i),
            'b' | 'c' if !word_before && at(i + 1) == '"' => end_of_string(&chars, i + 1),
            'b' if !word_before && at(i + 1) == '\'' => end_of_char(&chars, i + 1).unwrap_or(i),
            'r' | 'b' | 'c' if !word_before => end_of_raw_string(&chars, i).unwrap_or(i),
            '\'' => end_of_char(&chars, i).unwrap_or(i),
            _ => i,
        };
        if end == i {
            out.push(at(i));
            i += 1;
        } else {
            out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out.into_iter().collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#`, and the same after `b` or `c`; none if something else begins here.
fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let r = if chars[start] == 'r' { start } else { start + 1 };
    let hashes = chars.get(r + 1..)?.iter().take_while(|c| **c == '#').count();
    if chars.get(r) != Some(&'r') || chars.get(r + 1 + hashes) != Some(&'"') {
        return None;
    }
    let body = r + 2 + hashes;
    let closes = |i: &usize| chars[*i] == '"' && chars[*i + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((body..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes))
}

/// A character literal; none if the quote begins a lifetime.
fn end_of_char(chars: &[char], quote: usize) -> Option<usize> {
    match chars.get(quote + 1)? {
        '\\' => (quote + 3..chars.len()).find(|&i| chars[i] == '\'').map(|i| i + 1),
        _ => (chars.get(quote + 2) == Some(&'\'')).then_some(quote + 3),
    }
}

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// The code with every item under `#[cfg(test)]` blanked; expects comments and strings to be blank already.
fn without_tests(code: &str) -> String {
    let mut out = code.to_string();
    let mut from = 0;
    while let Some(start) = out[from..].find(TEST_ATTRIBUTE).map(|i| i + from) {
        let end = end_of_item(&out, start + TEST_ATTRIBUTE.len());
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        from = start + blank.len();
        out.replace_range(start..end, &blank);
    }
    out
}

/// Behind the `;` or the closing brace with which the item that begins at `start` ends.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0_i32;
    for (i, c) in code[start..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' if depth <= 1 => return start + i + usize::from(depth == 1),
            '}' => depth -= 1,
            ';' if depth == 0 => return start + i + 1,
            _ => {}
        }
    }
    code.len()
}

/// Names of the modules that are declared under `#[cfg(test)]` and live in files of their own.
fn test_modules(code: &str) -> Vec<String> {
    let items = code.match_indices(TEST_ATTRIBUTE).map(|(at, found)| {
        let start = at + found.len();
        &code[start..end_of_item(code, start)]
    });
    let declared =
        items.filter_map(|item| item.trim().trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    declared.map(|name| name.trim().to_string()).collect()
}

/// Every word of the code, with its byte position.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + code[from..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |length| start + length);
        from = end;
        Some((start, &code[start..end]))
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// All paths that begin with the word `root` and `::`, braces of `use` expanded, without the root; with their positions.
fn paths_below(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let rest = &code[at + word.len()..];
        if word == root && rest.starts_with("::") {
            let mut paths = Vec::new();
            use_tree(&rest[2..], "", &mut paths);
            found.extend(paths.into_iter().map(|path| (at, path)));
        }
    }
    found
}

/// Reads one path or tree of paths; answers what follows it.
fn use_tree<'a>(text: &'a str, prefix: &str, out: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            match rest.chars().next() {
                None => return rest,
                Some('}') => return &rest[1..],
                Some(',') => rest = &rest[1..],
                Some(_) => {
                    let before = rest.len();
                    rest = use_tree(rest, prefix, out);
                    if rest.len() == before {
                        rest = &rest[1..];
                    }
                }
            }
        }
    }
    let length = if text.starts_with('*') { 1 } else { text.find(|c| !is_word(c)).unwrap_or(text.len()) };
    let (name, rest) = text.split_at(length);
    let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}::{name}") };
    if let Some(deeper) = rest.strip_prefix("::")
        && deeper.trim_start().starts_with(|c: char| is_word(c) || c == '{' || c == '*')
    {
        return use_tree(deeper, &path, out);
    }
    if !name.is_empty() {
        out.push(path);
    }
    rest.strip_prefix(" as ").map_or(rest, |alias| alias.trim_start_matches(is_word))
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The floor that a file belongs to; none for the roof and the two roots.
fn floor_of(file: &str) -> Option<&str> {
    let (floor, _) = file.strip_prefix("src/")?.split_once('/')?;
    (floor != "app").then_some(floor)
}

// ---------------------------------------------------------------------------------------------------------------------
// The checks: file name and code without comments, strings and tests in, offences out

fn check_imports(file: &str, code: &str) -> Vec<Offence> {
    let Some(floor) = floor_of(file) else { return Vec::new() };
    let Some((_, allowed)) = FLOORS.iter().find(|(name, _)| *name == floor) else {
        return vec![offence(file, 1, &format!("there is no floor {floor}; name it in tests/tidy.rs"))];
    };
    let mut used = paths_below(code, "crate");
    // `super` climbs from `src/floor/…`: from a file, one step leaves the file's own module.
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    let depth = inner.split('/').count() - usize::from(inner.ends_with("/mod"));
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        let is_start = !code[..at].ends_with(|c: char| is_word(c) || c == ':');
        let rest = &code[at + climb.len()..];
        if is_start && !rest.starts_with("super") {
            let mut paths = Vec::new();
            use_tree(rest, "", &mut paths);
            let outside = |path: &String| FLOORS.iter().any(|(name, _)| is_below(path, name)) || is_below(path, "app");
            used.extend(paths.into_iter().filter(outside).map(|path| (at, path)));
        }
    }
    let is_allowed = |path: &str| is_below(path, floor) || allowed.iter().any(|prefix| is_below(path, prefix));
    used.retain(|(_, path)| !is_allowed(path));
    let what = |path: &str| format!("{floor} may not import {path} (docs/ARCHITECTURE.md)");
    used.iter().map(|(at, path)| offence(file, line_of(code, *at), &what(path))).collect()
}

fn check_purity(file: &str, code: &str) -> Vec<Offence> {
    if !floor_of(file).is_some_and(|floor| PURE.contains(&floor)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, path) in paths_below(code, "std").into_iter().chain(paths_below(code, "core")) {
        for (name, why) in IMPURE_STD {
            if is_below(&path, name) {
                found.push(offence(file, line_of(code, at), &format!("std::{path}: {why}")));
            }
        }
    }
    for (at, word) in words(code) {
        if let Some((_, why)) = IMPURE_WORDS.iter().find(|(name, _)| *name == word) {
            found.push(offence(file, line_of(code, at), &format!("{word}: {why}")));
        }
        let is_lifetime = code[..at].ends_with('\'');
        if word == "static" && !is_lifetime && is_global_variable(&code[at + word.len()..]) {
            found.push(offence(file, line_of(code, at), "a global variable: no global state"));
        }
    }
    found
}

/// Whether what follows the word `static` declares something that can change.
fn is_global_variable(rest: &str) -> bool {
    let declaration = &rest[..rest.find(['=', ';']).unwrap_or(rest.len())];
    let mut parts = words(declaration).map(|(_, word)| word).peekable();
    parts.peek() == Some(&"mut")
        || parts.any(|word| CELLS.iter().any(|cell| word == *cell || word.starts_with("Atomic")))
}

fn check_unsafe(file: &str, code: &str) -> Vec<Offence> {
    if !file.starts_with("src/") || UNSAFE.contains(&file) {
        return Vec::new();
    }
    let found = words(code).filter(|(_, word)| *word == "unsafe");
    found.map(|(at, _)| offence(file, line_of(code, at), "unsafe outside the files that tests/tidy.rs names")).collect()
}

/// Takes the whole text.
fn check_header(file: &str, text: &str) -> Vec<Offence> {
    let says_something = text.lines().next().and_then(|line| line.strip_prefix("//! ")).is_some_and(|l| l.len() > 10);
    if says_something {
        Vec::new()
    } else {
        vec![offence(file, 1, "want a `//!` header that says what the file is for")]
    }
}

/// Takes the whole text of any file.
fn check_machine(file: &str, text: &str) -> Vec<Offence> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for name in MACHINE {
            if line.contains(name) {
                found.push(offence(file, i + 1, &format!("{name} means nothing on another machine")));
            }
        }
    }
    found
}

// ---------------------------------------------------------------------------------------------------------------------
// The house as it is

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory`, as paths from the root with `/`, in order; build results and hidden directories left out.
fn files(directory: &str) -> Vec<String> {
    fn walk(path: &Path, name: &str, out: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(path) else { return };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for entry in names {
            let inner = path.join(&entry);
            let full = if name.is_empty() { entry.clone() } else { format!("{name}/{entry}") };
            let skipped = full == "target" || full.starts_with(".git") && full != ".gitignore";
            if inner.is_dir() && !skipped {
                walk(&inner, &full, out);
            } else if inner.is_file() && !skipped {
                out.push(full);
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join(directory), directory, &mut out);
    out
}

/// The files of the repository: what git tracks, or all of them where there is no git.
fn tracked_files() -> Vec<String> {
    let git = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    match git {
        Ok(output) if output.status.success() => {
            let names = String::from_utf8(output.stdout).unwrap();
            names.split_terminator('\0').map(str::to_string).collect()
        }
        _ => files(""),
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn rust_files(directories: &[&str]) -> Vec<String> {
    let all = directories.iter().flat_map(|directory| files(directory));
    all.filter(|file| file.ends_with(".rs")).collect()
}

/// The code of a file without comments, strings and tests.
fn pure_code(text: &str) -> String {
    without_tests(&without_comments_and_strings(text))
}

/// Files and directories of modules that are compiled for tests only.
fn test_only(sources: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in sources {
        let home = file.trim_end_matches(".rs");
        let home = ["/mod", "/lib", "/main"].iter().find_map(|end| home.strip_suffix(end)).unwrap_or(home);
        for module in test_modules(&without_comments_and_strings(&read(file))) {
            found.insert(format!("{home}/{module}.rs"));
            found.insert(format!("{home}/{module}/"));
        }
    }
    found
}

fn assert_none(offences: &[Offence]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn floors_import_downwards_and_pure_floors_stay_pure() {
    let sources = rust_files(&["src"]);
    let test_only = test_only(&sources);
    let is_test =
        |file: &str| test_only.iter().any(|name| file == name || name.ends_with('/') && file.starts_with(name));
    let mut offences = Vec::new();
    let mut floors = BTreeSet::new();
    for file in sources.iter().filter(|file| !is_test(file)) {
        let code = pure_code(&read(file));
        floors.extend(floor_of(file).map(str::to_string));
        offences.extend(check_imports(file, &code));
        offences.extend(check_purity(file, &code));
    }
    assert_none(&offences);
    assert_eq!(floors.len(), FLOORS.len(), "a floor was not found, so it was not checked: {floors:?}");
}

#[test]
fn unsafe_stands_only_where_it_is_explained() {
    let offences = rust_files(&["src"])
        .iter()
        .flat_map(|f| check_unsafe(f, &without_comments_and_strings(&read(f))))
        .collect::<Vec<_>>();
    assert_none(&offences);
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = rust_files(&["src", "tests", "benches", "examples"]);
    assert_none(&files.iter().flat_map(|file| check_header(file, &read(file))).collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_machine() {
    let mut offences = Vec::new();
    for file in tracked_files().iter().filter(|file| *file != "tests/tidy.rs") {
        // What is not text (a fuzzing corpus) and what is deleted but still tracked has nothing to say here.
        if let Ok(text) = fs::read_to_string(root().join(file)) {
            offences.extend(check_machine(file, &text));
        }
    }
    assert_none(&offences);
}

// ---------------------------------------------------------------------------------------------------------------------
// Each check can fail

#[test]
fn import_check_finds_every_way_upwards() {
    for (file, code) in [
        ("src/base/ids.rs", "use crate::store::Store;"),
        ("src/store/entry.rs", "use crate::{base::ids, resp::Args};"),
        ("src/resp/mod.rs", "fn f() { crate::store::x() }"),
        ("src/command/string.rs", "use crate::{\n    base::{ids::A, clock as c},\n    keeper as k,\n};"),
        ("src/cluster/state.rs", "use crate::replication::log;"),
        ("src/replication/log.rs", "use super::super::resp::Args;"),
        ("src/replication/mod.rs", "use super::command;"),
        ("src/keeper/session/mod.rs", "use super::super::shell::node;"),
        ("src/keeper/mod.rs", "use crate::app::config::Config;"),
        ("src/shell/link.rs", "use crate::replication::{wire, leader};"),
        ("src/shell/link.rs", "use crate::replication;"),
        ("src/shell/link.rs", "use crate::*;"),
        ("src/attic/mod.rs", ""),
    ] {
        assert_eq!(check_imports(file, code).len(), 1, "{file}: {code}");
    }
    assert_eq!(check_imports("src/base/a.rs", "use crate::{store, resp};\n").len(), 2);
}

#[test]
fn import_check_lets_downwards_pass() {
    for (file, code) in [
        (
            "src/store/entry.rs",
            "use crate::base::ids::{A, B as C}; use super::segment; use crate::store::x; use std::fmt;",
        ),
        ("src/command/string.rs", "use crate::{base::clock::Wall, store::{Entry, Store}, resp::*};"),
        ("src/keeper/session/mod.rs", "use super::super::command::find; use super::admission;"),
        ("src/shell/link.rs", "use crate::replication::wire::{self, Frame}; use super::shellfish;"),
        ("src/app/server.rs", "use crate::keeper::Keeper; use crate::store::Store;"),
        ("src/lib.rs", "pub mod app;"),
    ] {
        assert_none(&check_imports(file, code));
    }
}

#[test]
fn purity_check_finds_every_forbidden_thing() {
    for code in [
        "use std::net::SocketAddr;",
        "use std::{fmt, net};",
        "use std::collections::{BTreeMap, HashMap};",
        "let now = std::time::SystemTime;",
        "use std::thread;",
        "use tokio::sync::mpsc;",
        "async fn f() {}",
        "f().await;",
        "let x = rand::random();",
        "getrandom(&mut b)",
        "static mut COUNT: u64 = 0;",
        "static COUNT: AtomicU64 = AtomicU64::new(0);",
        "pub static CELL: std::sync::Mutex<u8> = M;",
        "thread_local! { }",
        "tracing::info!(x)",
        "std::env::var(x)",
    ] {
        assert!(!check_purity("src/keeper/mod.rs", code).is_empty(), "{code}");
        assert_none(&check_purity("src/shell/mod.rs", code));
    }
}

#[test]
fn purity_check_lets_like_names_pass() {
    for code in [
        "use std::collections::BTreeMap; use std::time::Duration; use std::sync::Arc;",
        "static TABLE: &[CommandSpec] = &[];",
        "fn name(&self) -> &'static str { operand }",
        "fn f(x: &'static mut u8) {}",
        "use hashbrown::HashTable;",
    ] {
        assert_none(&check_purity("src/keeper/mod.rs", code));
    }
}

#[test]
fn comments_strings_and_tests_are_not_looked_at() {
    let text = r##"//! tokio in a header
/* async /* nested */ await */
fn f<'a>(x: &'a str) -> char { let s = "tokio \" async"; let r = r#"rand " tracing"#; let b = b"\"rand"; '"' }
fn g() { let q = '\''; let quote = b'"'; real() }
#[cfg(test)]
mod tests { use tokio::x; fn f() { { rand } } }
#[cfg(test)]
use std::net;
"##;
    let code = pure_code(text);
    assert_none(&check_purity("src/base/x.rs", &code));
    assert!(code.contains("real()") && code.lines().count() == text.lines().count(), "{code}");
    let after = format!("{text}\nuse tokio::net;");
    assert_eq!(
        check_purity("src/base/x.rs", &pure_code(&after)),
        ["src/base/x.rs:10: tokio: tasks belong to the shell"]
    );
}

#[test]
fn modules_for_tests_only_are_recognised() {
    let code =
        "mod a;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub mod oracle;\n#[cfg(test)]\nmod here { mod b; }\nmod c;";
    assert_eq!(test_modules(code), ["tests", "oracle"]);
}

#[test]
fn unsafe_check_finds_the_keyword_and_knows_its_files() {
    assert_eq!(check_unsafe("src/keeper/mod.rs", "fn f() { unsafe { g() } }").len(), 1);
    assert_none(&check_unsafe("src/store/entry.rs", "unsafe { g() }"));
    assert_none(&check_unsafe("src/store/mod.rs", "#![deny(unsafe_code)]"));
    assert_none(&check_unsafe("examples/planted.rs", "unsafe { g() }"));
}

#[test]
fn header_check_wants_a_first_line_that_says_something() {
    for text in ["", "use x;\n//! late", "// not a doc comment", "//!\n//! late", "//! Tests."] {
        assert_eq!(check_header("src/x.rs", text).len(), 1, "{text:?}");
    }
    assert_none(&check_header("src/x.rs", "//! What the file is for.\n"));
}

#[test]
fn machine_check_finds_paths_and_hosts() {
    for text in ["cd /work/x", "a\nHOME=/root/.cargo", "sparse+https://x/", "see https://registry.example.org/y"] {
        assert_eq!(check_machine("README.md", text).len(), 1, "{text:?}");
    }
    assert_none(&check_machine("Cargo.lock", "registry+https://github.com/rust-lang/crates.io-index"));
}
