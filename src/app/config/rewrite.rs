//! Changes values in a configuration file and leaves everything else in it as it is: comments, order, blank lines, spelling.
//!
//! Lines are edited, because no YAML library keeps comments. What came of that is read back: unless it means exactly what the file meant
//! before, but for the new values, nothing is written. So a form of YAML that is not known here costs an error, never a setting.
//! The file is replaced as a whole: written beside it, synced, renamed.
//!
//! Not here: values over several lines, and sections in braces over several lines; both are refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_yaml::{Mapping, Value};

/// Writes these values, each under the path of its key, into the file.
///
/// # Errors
/// Why the file is as it was; for the operator.
pub fn rewrite(file: &Path, values: &[(&'static str, String)]) -> Result<(), String> {
    let of_file = |error: io::Error| format!("{}: {error}", file.display());
    let old = std::fs::read_to_string(file).map_err(of_file)?;
    let mut text = old.clone();
    for (path, value) in values {
        text = edit(&text, path, &typed(value)).map_err(|why| format!("{}: {path}: {why}", file.display()))?;
    }
    if text == old { Ok(()) } else { replace(file, &text).map_err(of_file) }
}

/// A number where it looks like one.
fn typed(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
}

/// Puts a new file in the place of the old one, or leaves that.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // What a symbolic link points to is replaced, not the link.
    let file = std::fs::canonicalize(file)?;
    let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let beside = directory.join(format!(".{}.{}", name.display(), std::process::id()));
    let write = || {
        // It may hold secrets: nobody else reads it before it has the old one's permissions.
        let mut new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        new.set_permissions(std::fs::metadata(&file)?.permissions())?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&beside, &file)?;
        File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| _ = std::fs::remove_file(&beside))
}

/// The text with another value under `path`.
fn edit(text: &str, path: &str, value: &Value) -> Result<String, String> {
    let parse = |text: &str| match serde_yaml::from_str(text) {
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(Value::Mapping(map)) => Ok(map),
        Ok(_) => Err("the file is no map of keys".to_string()),
        Err(error) => Err(format!("the file is not readable as YAML: {error}")),
    };
    let mut wanted = parse(text)?;
    let (section, name) = match path.split_once('.') {
        // A path may also stand in the file as it is.
        Some((section, name)) if !wanted.contains_key(path) => (Some(section), name),
        _ => (None, path),
    };
    match section {
        None => _ = wanted.insert(path.into(), value.clone()),
        Some(section) => {
            let inner = wanted.entry(section.into()).or_insert(Value::Null);
            if *inner == Value::Null {
                *inner = Mapping::new().into();
            }
            inner.as_mapping_mut().ok_or("its section is no map of keys")?.insert(name.into(), value.clone());
        }
    }
    let edited = edit_lines(text, section, name, value, &wanted)?;
    let got = parse(&edited).ok();
    if got.as_ref() == Some(&wanted) {
        Ok(edited)
    } else {
        Err("it is written in a way that cannot be edited here".into())
    }
}

/// The edit itself, as far as its form is known; the caller looks at what came of it.
fn edit_lines(
    text: &str,
    section: Option<&str>,
    name: &str,
    value: &Value,
    wanted: &Mapping,
) -> Result<String, String> {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    let value = scalar(value)?;
    let at_top =
        |key: &str| lines.iter().position(|line| key_of(line).is_some_and(|(indent, k, _)| indent == 0 && k == key));
    match section {
        None => match at_top(name) {
            Some(at) => set_value(&mut lines[at], &value),
            None => lines.push(format!("{name}: {value}")),
        },
        Some(section) => match at_top(section) {
            None => lines.extend([format!("{section}:"), format!("  {name}: {value}")]),
            Some(at) => {
                let (_, _, rest) = key_of(&lines[at]).expect("it was found by its key");
                let (held, _) = split_comment(&lines[at][rest..]);
                if held.trim().starts_with('{') {
                    let map = wanted[section].as_mapping().expect("the caller made it one");
                    let items = map.iter().map(|(key, value)| Ok(format!("{}: {}", scalar(key)?, scalar(value)?)));
                    let items = items.collect::<Result<Vec<_>, String>>()?;
                    set_value(&mut lines[at], &format!("{{{}}}", items.join(", ")));
                } else {
                    set_value(&mut lines[at], "");
                    set_in_block(&mut lines, at, name, &value);
                }
            }
        },
    }
    let mut edited = lines.join(end);
    edited.push_str(end);
    Ok(edited)
}

/// Sets a key of the section that begins at line `head`.
fn set_in_block(lines: &mut Vec<String>, head: usize, name: &str, value: &str) {
    let (mut indent, mut last) = (None, head);
    for (at, line) in lines.iter_mut().enumerate().skip(head + 1) {
        let Some((depth, key, _)) = key_of(line) else { continue };
        if depth == 0 {
            break;
        }
        if depth == *indent.get_or_insert(depth) && key == name {
            return set_value(line, value);
        }
        last = at;
    }
    lines.insert(last + 1, format!("{}{name}: {value}", " ".repeat(indent.unwrap_or(2))));
}

/// Blanks before the key of a line, the key, and where the rest behind its colon begins; none for a line without a key.
fn key_of(line: &str) -> Option<(usize, &str, usize)> {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let text = &line[indent..];
    if text.starts_with('#') || text.starts_with("- ") {
        return None;
    }
    let colon = text
        .match_indices(':')
        .map(|(at, _)| at)
        .find(|at| matches!(text.as_bytes().get(at + 1), None | Some(b' ' | b'\r')))?;
    let key = text[..colon].trim_end();
    let plain = ['"', '\''].iter().find_map(|quote| key.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(key);
    Some((indent, plain, indent + colon + 1))
}

/// What stands before the comment of a line's rest, and the comment with the blanks before it.
fn split_comment(rest: &str) -> (&str, &str) {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in rest.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '#' && before == ' ' => {
                let value = rest[..at].trim_end();
                return rest.split_at(value.len());
            }
            None if matches!(c, '"' | '\'') && matches!(before, ' ' | '{' | ',') => quote = Some(c),
            None => {}
        }
        before = c;
    }
    let value = rest.trim_end();
    rest.split_at(value.len())
}

/// Replaces the value of a line that has a key, and keeps its comment.
fn set_value(line: &mut String, value: &str) {
    let (_, _, rest) = key_of(line).expect("the line has a key");
    let comment = split_comment(&line[rest..]).1.trim_end().to_string();
    line.truncate(rest);
    if !value.is_empty() {
        line.push(' ');
        line.push_str(value);
    }
    line.push_str(&comment);
}

/// A value in one line.
fn scalar(value: &Value) -> Result<String, String> {
    let text = serde_yaml::to_string(value).map_err(|error| error.to_string())?;
    let text = text.trim_end();
    if text.contains('\n') { Err("its section holds a value of several lines".into()) } else { Ok(text.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, path: &str, value: &str) -> Result<String, String> {
        edit(text, path, &typed(value))
    }

    #[test]
    fn only_the_value_changes() {
        let file = "# Ours.\nnode_name: n1\n\nmemory:\n  # How much.\n  max_bytes: 1GiB   # enough\n  eviction: noeviction\n\nlog:\n  level: info\n";
        let want = file.replace("1GiB ", "1000 ");
        assert_eq!(set(file, "memory.max_bytes", "1000"), Ok(want));
        assert_eq!(set(file, "log.level", "debug"), Ok(file.replace("info", "debug")));
        assert_eq!(set(file, "node_name", "n#2"), Ok(file.replace("n1", "n#2")));
        assert_eq!(set(file, "node_name", "7"), Ok(file.replace("n1", "7")));
        assert_eq!(set(file, "log.level", "info"), Ok(file.to_string()));
    }

    #[test]
    fn every_key_of_our_own_file_can_be_set_and_nothing_else_changes() {
        let file = include_str!("../../../config.yml");
        for path in crate::app::config::key_paths().filter(|path| !path.ends_with("_file")) {
            let edited = set(file, path, "1234567").unwrap_or_else(|why| panic!("{path}: {why}"));
            let changed = file.lines().zip(edited.lines()).filter(|(old, new)| old != new).count();
            assert_eq!((file.lines().count(), changed), (edited.lines().count(), 1), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_added_where_it_belongs() {
        for (file, want) in [
            ("", "memory:\n  max_bytes: 5\n"),
            ("cluster: main", "cluster: main\nmemory:\n  max_bytes: 5\n"),
            ("memory:\n\n# Next.\ncluster: main\n", "memory:\n  max_bytes: 5\n\n# Next.\ncluster: main\n"),
            ("memory: ~ # none\n", "memory: # none\n  max_bytes: 5\n"),
            (
                "memory:\n    eviction: noeviction # so\nlog:\n",
                "memory:\n    eviction: noeviction # so\n    max_bytes: 5\nlog:\n",
            ),
            ("memory: {}\n", "memory: {max_bytes: 5}\n"),
            ("memory: {eviction: noeviction} # so\n", "memory: {eviction: noeviction, max_bytes: 5} # so\n"),
            ("memory.max_bytes: 7\n", "memory.max_bytes: 5\n"),
            ("\"memory\":\n  'max_bytes': null\n", "\"memory\":\n  'max_bytes': 5\n"),
            ("memory:\r\n  max_bytes: 7 # x\r\n", "memory:\r\n  max_bytes: 5 # x\r\n"),
            ("---\nauth: {password: \"a # b: c\"}\n", "---\nauth: {password: \"a # b: c\"}\nmemory:\n  max_bytes: 5\n"),
        ] {
            assert_eq!(set(file, "memory.max_bytes", "5").as_deref(), Ok(want), "{file:?}");
        }
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        for file in [
            "memory: {\n  max_bytes: 7\n}\n",
            "memory:\n  max_bytes: |\n    7\n",
            "{memory: {max_bytes: 7}}\n",
            "memory: 7\n",
            "memory: &m {max_bytes: 7}\ncopy: *m\n",
            "cluster: main\n...\n",
            "- memory\n",
            "memory: [\n",
        ] {
            assert!(set(file, "memory.max_bytes", "5").is_err(), "{file:?}: {:?}", set(file, "memory.max_bytes", "5"));
        }
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_keeps_its_permissions_and_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = std::env::temp_dir().join(format!("datakeeper-rewrite-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, link) = (dir.join("config.yml"), dir.join("link.yml"));
        std::fs::write(&file, "memory:\n  max_bytes: 7 # bytes\n").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        rewrite(&link, &[("memory.max_bytes", "8".into()), ("memory.eviction", "noeviction".into())]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "memory:\n  max_bytes: 8 # bytes\n  eviction: noeviction\n");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "nothing is left beside it");
        std::fs::write(&file, "memory: [").unwrap();
        let error = rewrite(&file, &[("memory.max_bytes", "8".into())]).unwrap_err();
        assert!(error.contains("config.yml: memory.max_bytes: the file is not readable as YAML"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_config_set_changes_are_keys_of_the_file() {
        for path in crate::keeper::paths_set_now() {
            assert!(crate::app::config::key_paths().any(|key| key == path), "{path}");
        }
    }
}
