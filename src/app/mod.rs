//! The roof: wires the house, decides nothing.
pub mod cli;
pub mod config;
/// Entry point of the binary.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
