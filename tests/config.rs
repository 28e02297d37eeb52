//! The configuration through the binary: exit codes, what goes to which stream, and that secrets stay out of both.
//!
//! Layers, ranges and wording are tested under the code (`src/app/config`); here it is what an operator's script sees.

use std::process::{Command, Output};

fn datakeeper(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datakeeper"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

#[test]
fn check_config_answers_on_stdout_with_exit_code_0() {
    let output = datakeeper(&["check-config", "config.yml", "--node-name", "n1", "--set", "log.level=warn"], &[]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let answer: serde_yaml::Value = serde_yaml::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["node_name"], &answer["log"]["level"]), (&"n1".into(), &"warn".into()));
}

#[test]
fn wrong_settings_end_every_command_with_all_errors_and_exit_code_2() {
    let wrong = ["--set", "replication.lease_ms=9", "--set", "lisen=1"];
    for command in [&["check-config", "config.yml"][..], &["server", "config.yml"], &["server"], &["local"]] {
        let output = datakeeper(&[command, &wrong].concat(), &[]);
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{command:?}: {stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{command:?}: {stderr}");
        assert_eq!(lines[0], "error: --set lisen=1: lisen: there is no such key; did you mean listen?");
        assert!(lines[1].starts_with("error: --set replication.lease_ms=9: replication: heartbeat_ms 50"), "{stderr}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for command in ["check-config", "server"] {
        let output = datakeeper(&[command, "no-such.yml"], &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).starts_with("error: no-such.yml: cannot be read: "), "{}", text(&output.stderr));
    }
}

#[test]
fn secrets_of_the_environment_are_taken_and_not_shown() {
    let secrets = [
        ("DATAKEEPER_AUTH_PASSWORD", "hush"),
        ("DATAKEEPER_REPLICATION_SECRET", "hush"),
        ("DATAKEEPER_ZOOKEEPER_AUTH", "digest:user:hush"),
    ];
    let output = datakeeper(&["check-config", "config.yml"], &secrets);
    let shown = text(&output.stdout);
    assert_eq!(shown.matches(": set, not shown").count(), 3, "{shown}");
    assert!(!shown.contains("hush"), "{shown}");
    let output = datakeeper(&["check-config", "config.yml"], &[("DATAKEEPER_ZOOKEEPER_AUTH", "hush")]);
    let complaint = text(&output.stderr);
    assert!(complaint.contains("DATAKEEPER_ZOOKEEPER_AUTH: zookeeper.auth: (hidden): want"), "{complaint}");
    assert_eq!((output.status.code(), complaint.contains("hush")), (Some(2), false));
}

#[test]
fn commands_that_ask_say_whom_they_could_not_reach() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in [&["status", "--connect", &port][..], &["admin", "crash", "n1", "--connect", &port]] {
        let output = datakeeper(command, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).starts_with(&format!("error: {port}: ")), "{}", text(&output.stderr));
    }
}
