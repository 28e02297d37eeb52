//! `server`: one node in the foreground.

use std::process::ExitCode;

use super::config::Config;

/// Runs one node until it is told to stop.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    tracing::error!(node = %config.node_name, "server: not wired");
    ExitCode::FAILURE
}
