//! The roof: wires the house, decides nothing.
//!
//! [`cli`] is what can be typed, [`config`] what a process is told, [`telemetry`] how it logs (`lines`: without waiting), `signals` what it hears, `last_word` what a fault says; [`server`] and [`local`] build
//! nodes, [`status`], [`check_config`], [`import`] and [`admin_client`] are commands that only ask. Exit codes: 0 done, 1 failed, 2 the
//! command line or the configuration is wrong.

pub mod admin_client;
mod allocator;
pub mod check_config;
pub mod cli;
pub mod config;
pub mod import;
mod last_word;
mod lines;
pub mod local;
pub mod server;
mod signals;
pub mod status;
pub mod telemetry;

pub use allocator::Allocator;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use config::{Config, ConfigErrors, Setting, Sources};

use telemetry::LogHandle;

/// Exit code for a wrong command line or configuration.
const EXIT_USAGE: u8 = 2;

/// Entry point of the binary.
#[must_use]
pub fn main() -> ExitCode {
    if cfg!(feature = "leave-out-rules") {
        return complain(
            1,
            "this build can leave out rules that keep data safe (feature leave-out-rules): it is for tests only",
        );
    }
    match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(e) => {
            // Help and version arrive here too; nothing is left to do if even the terminal is gone.
            let _ = e.print();
            if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
        }
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Server(args) => match load(args.config.as_deref(), args.flags.settings(), false) {
            Ok(config) => start(&config, |log| server::run(config.clone(), args.config.clone(), log)),
            Err(code) => code,
        },
        Command::Local(args) => {
            let (options, settings) = match args.split() {
                Ok(split) => split,
                Err(reason) => return complain(EXIT_USAGE, &reason),
            };
            match load(None, settings, true) {
                Ok(config) => start(&config, |log| local::run(options, config.clone(), log)),
                Err(code) => code,
            }
        }
        Command::Status(args) => finish(status::run(&args.connect, args.json)),
        Command::CheckConfig(args) => match load(Some(&args.config), args.flags.settings(), false) {
            Ok(config) => finish(Ok(check_config::describe(&config))),
            Err(code) => code,
        },
        Command::Import(args) => finish(import::run(&args)),
        Command::Handover(args) => finish(admin_client::hand_over(&args)),
        Command::Admin(args) => finish(admin_client::run(args)),
    }
}

/// Reads the configuration, or prints everything that is wrong with it.
fn load(file: Option<&Path>, settings: Vec<Setting>, local: bool) -> Result<Config, ExitCode> {
    let config = Sources::gather(file, settings, local).and_then(|sources| Config::resolve(&sources));
    config.map_err(|ConfigErrors(errors)| {
        for error in &errors {
            complain(EXIT_USAGE, &error.to_string());
        }
        ExitCode::from(EXIT_USAGE)
    })
}

/// Starts the log, warns about what is probably not meant, and runs nodes until they end.
fn start(config: &Config, nodes: impl FnOnce(LogHandle) -> ExitCode) -> ExitCode {
    let log = match telemetry::init(&config.log) {
        Ok(log) => log,
        Err(reason) => return complain(1, &reason),
    };
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let code = nodes(log.clone());
    log.flush();
    code
}

/// Prints the answer of a command that asks, or why there is none.
fn finish(answer: Result<String, String>) -> ExitCode {
    match answer {
        Ok(text) => {
            // A reader that went away (`| head`) has what it wanted.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(reason) => complain(1, &reason),
    }
}

/// Says why on stderr; not if nobody reads that, which must not keep a process from ending.
fn complain(code: u8, reason: &str) -> ExitCode {
    last_word::say_on_stderr(&format!("error: {reason}\n"));
    ExitCode::from(code)
}

/// A runtime of this one thread, for the commands that ask.
///
/// # Errors
/// The operating system refused it; for the operator.
fn ask<T>(question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("cannot start: {e}"))?.block_on(question)
}
