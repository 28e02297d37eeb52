//! stub
use crate::command::CommandSpec;
pub const ROWS: &[CommandSpec] = &[];
