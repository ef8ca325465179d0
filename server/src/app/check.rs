//! `crossfade check`.

use std::process::ExitCode;

use crate::config::CheckArgs;

/// to come
pub(super) fn run(_args: &CheckArgs) -> ExitCode {
    ExitCode::FAILURE
}
