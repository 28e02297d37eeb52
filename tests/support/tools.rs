//! Redis's own tools, as they are installed: redis-cli and redis-benchmark (on Debian: `apt-get install redis-tools`).
//!
//! Where they are missing a test is skipped with a message, unless `DATAKEEPER_REQUIRE_ZOOKEEPER` is set: whoever wants all
//! real processes wants these, too.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

/// What a tool said.
pub struct Said {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Everything, stdout first.
    pub text: String,
}

/// Whether the tools are there; a message if not.
///
/// # Panics
/// If they are not and `DATAKEEPER_REQUIRE_ZOOKEEPER` is set.
#[must_use]
pub fn have_redis_tools() -> bool {
    let there =
        ["redis-cli", "redis-benchmark"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !there {
        let missing = "redis-cli or redis-benchmark is missing (apt-get install redis-tools)";
        assert!(
            std::env::var_os("DATAKEEPER_REQUIRE_ZOOKEEPER").is_none(),
            "DATAKEEPER_REQUIRE_ZOOKEEPER is set, but {missing}"
        );
        eprintln!("SKIPPED: {missing}");
    }
    there
}

/// Runs a tool against a node, feeding it `input`.
///
/// # Panics
/// If it cannot be started.
pub fn run(tool: &str, node: SocketAddr, args: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(tool)
        .args(["-h", &node.ip().to_string(), "-p", &node.port().to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{tool} does not start: {e}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    std::thread::scope(|scope| {
        // A tool that ends early has its say in `text`.
        scope.spawn(move || drop(stdin.write_all(input)));
        said(child.wait_with_output().expect("our child"))
    })
}

/// What a process said, when it has ended.
#[must_use]
pub fn said(output: Output) -> Said {
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Said { code: output.status.code(), text }
}
