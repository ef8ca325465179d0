//! Loading and warm-up at the lowest scheduling priority, so that requests do not notice.

/// Lowers the calling thread for as long as it lives.
pub(crate) fn lower() {
    if let Err(error) = rustix::process::nice(19) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Runs `work` on a thread of its own at the lowest priority and waits for it.
///
/// A thread of its own, because a priority once lowered cannot be raised again without privileges, and because
/// threads started by a lowered one inherit its priority: what serves requests must not be started in here.
pub(super) fn lowered<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, || {
                lower();
                work()
            })?;
        Ok(thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
