//! Places in which the crash test kills the process. Without the feature `kill-points` there are none.

#[cfg(feature = "kill-points")]
mod points {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// `PLACE:COUNT`: the process is killed when it comes to the place for the count-th time.
    const VARIABLE: &str = "CROSSFADE_KILL_AT";

    static ASKED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (place, count) = text.split_once(':')?;
        Some((place.to_owned(), count.parse().ok()?))
    });
    static CAME: AtomicU64 = AtomicU64::new(0);

    /// Kills the process, if this is where it is to be killed.
    pub(crate) fn at(place: &str) {
        if let Some((asked, count)) = &*ASKED
            && asked == place
            && CAME.fetch_add(1, Relaxed) + 1 == *count
        {
            // As `kill -9` does: no destructor, no buffer.
            let _killed =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

#[cfg(feature = "kill-points")]
pub(crate) use points::at;

/// Does nothing.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub(crate) fn at(_place: &str) {}
