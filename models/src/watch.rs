//! The thread that looks at the repositories again and again (mode `poll`).

use std::sync::Arc;
use std::time::Duration;

use crate::registry::{Loader, Registry};

/// Polls until the registry stops. Runs on the thread `watch`.
pub(crate) fn run<L: Loader>(registry: &Arc<Registry<L>>, every: Duration) {
    while registry.wait_unless_stopped(every) {
        registry.poll_once();
    }
}
