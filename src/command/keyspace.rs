//! stub
use crate::command::CommandSpec;
pub const ROWS: &[CommandSpec] = &[];
#[derive(Debug)]
pub struct Walk;
