//! The server's own id of a request.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

/// A UUIDv7 (RFC 9562 §5.7), made for every request, refused ones included.
///
/// Time and a count order the ids of a process; the random rest tells those of several processes apart. It comes from
/// the operating system once per thread: asking it for every request costs a system call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Uuid);

/// Bits of the count within a millisecond (RFC 9562 §6.2, method 1).
const COUNT_BITS: u32 = 20;

/// Milliseconds and count of the last id. `Relaxed`: it guards no other memory.
static LAST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static RANDOM: Cell<u64> = Cell::new(Uuid::new_v4().as_u64_pair().0);
}

impl RequestId {
    /// A new id, ordered after all earlier ones of this process.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // 44 bits of milliseconds last until the year 2527.
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) << COUNT_BITS;
        let last = LAST
            .fetch_update(Relaxed, Relaxed, |last| Some(now.max(last + 1)))
            .unwrap_or_default();
        let own = now.max(last + 1);
        let (millis, count) = (own >> COUNT_BITS, own & ((1 << COUNT_BITS) - 1));
        // Behind the version 12 bits, behind the variant 62: the count's 20 first, then random ones.
        let [.., high, low] = (count >> 8).to_be_bytes();
        let [b0, b1, b2, b3, b4, b5, b6, b7] = ((count & 0xff) << 54 | random() >> 10).to_be_bytes();
        let tail = [high, low, b0, b1, b2, b3, b4, b5, b6, b7];
        Self(Builder::from_unix_timestamp_millis(millis, &tail).into_uuid())
    }

    /// Its sixteen bytes: what chance draws by for a request without a routing key.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// The next of this thread's random numbers (SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable
/// pseudorandom number generators", 2014).
fn random() -> u64 {
    RANDOM.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_ordered_version_7_and_of_this_time() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let ids: Vec<RequestId> = (0..10_000).map(|_| RequestId::new()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        for id in &ids {
            assert_eq!(
                (id.0.get_version_num(), id.0.get_variant()),
                (7, uuid::Variant::RFC4122)
            );
        }
        let (seconds, _) = ids[0].0.get_timestamp().unwrap().to_unix();
        assert!((before..before + 60).contains(&seconds), "{seconds}");
    }

    #[test]
    fn ids_of_many_threads_are_different() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..5000).map(|_| RequestId::new()).collect::<Vec<_>>()))
            .collect();
        let ids: HashSet<RequestId> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(ids.len(), 20_000);
        let random: HashSet<u64> = ids.iter().map(|id| id.0.as_u64_pair().1 & 0xffff_ffff).collect();
        assert!(random.len() > 19_900, "the end of an id is random");
    }
}
