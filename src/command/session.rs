//! stub
use crate::command::CommandSpec;
pub const ROWS: &[CommandSpec] = &[];
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    Ping,
}
