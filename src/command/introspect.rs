//! stub
use crate::command::CommandSpec;
pub const ROWS: &[CommandSpec] = &[];
pub(super) const HELP_FLAGS: &[super::Flag] = &[];
pub(super) fn help(_: &mut super::Ctx<'_, '_>, _: &crate::resp::Args<'_>) -> Result<super::Done, super::CommandError> {
    Ok(super::Done::Done)
}
