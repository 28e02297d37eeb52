//! `local`: a whole cluster in one process.

use std::process::ExitCode;

use super::cli::LocalOptions;
use super::config::Config;

/// Runs the nodes until the process is told to stop.
#[must_use]
pub fn run(options: LocalOptions, config: Config) -> ExitCode {
    tracing::error!(nodes = options.nodes, cluster = config.cluster, "local: not wired");
    ExitCode::FAILURE
}
