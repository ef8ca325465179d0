//! Requests without a record: counted, and said in the log itself as soon as there is room.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossfade_inference_log::Gap;

use super::lock;

/// Why a request has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// There was no room.
    Full,
    /// It is larger than any record may be.
    Size,
    /// The server stopped before it ended.
    Stopped,
}

impl Loss {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::Full, Self::Size, Self::Stopped];

    /// Its name in metrics and gap records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Size => "size",
            Self::Stopped => "stopped",
        }
    }
}

/// The requests that were lost since the server started, and of those what the log does not say yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    counts: [AtomicU64; Loss::ALL.len()],
    unsaid: [Mutex<Option<Gap>>; Loss::ALL.len()],
}

impl Losses {
    /// Counts requests that ended at about `at_us`, microseconds since 1970.
    pub(super) fn add(&self, loss: Loss, count: u64, at_us: i64) {
        if count == 0 {
            return;
        }
        let mut gap = lock(&self.unsaid[loss as usize]);
        let gap = gap.get_or_insert_with(|| Gap {
            from_us: at_us,
            to_us: at_us,
            count: 0,
            reason: loss.name().to_owned(),
            model: None,
        });
        gap.from_us = gap.from_us.min(at_us);
        gap.to_us = gap.to_us.max(at_us);
        gap.count += count;
        self.counts[loss as usize].fetch_add(count, Relaxed);
    }

    /// How many there were for one reason.
    pub(super) fn count(&self, loss: Loss) -> u64 {
        self.counts[loss as usize].load(Relaxed)
    }

    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        Loss::ALL.iter().map(|loss| self.count(*loss)).sum()
    }

    /// Says what was not said yet; what `say` cannot write is kept for the next time.
    pub(super) fn say(&self, say: impl Fn(&Gap) -> bool) {
        for unsaid in &self.unsaid {
            let mut unsaid = lock(unsaid);
            if unsaid.as_ref().is_some_and(&say) {
                *unsaid = None;
            }
        }
    }
}
