//! Who gets which version: a pure draw from the release, the purpose and the key (rollout.md §2).
//!
//! Replicas agree without talking to each other, and a key that is in at 1 % stays in at 5 %. What the numbers are
//! must never change within a release: the tests hold some of them.

use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

mod table;

pub use table::{Drawn, RouteReason, Rule, Traffic};

/// What a draw is for; the draws of one key for different purposes say nothing about each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Which version answers.
    Route,
    /// Whether the inference log keeps it.
    Log,
    /// Whether it is copied to the candidate.
    Shadow,
    /// Whether a monitor that is behind looks at it.
    Monitor,
}

impl Purpose {
    fn bytes(self) -> &'static [u8] {
        match self {
            Purpose::Route => b"route",
            Purpose::Log => b"log",
            Purpose::Shadow => b"shadow",
            Purpose::Monitor => b"monitor",
        }
    }
}

/// What makes the draws of one release different from those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salt([u8; 8]);

impl Salt {
    /// The first eight bytes of sha256 of the release's id.
    pub fn of(release: &str) -> Self {
        let digest = Sha256::digest(release.as_bytes());
        let mut salt = [0; 8];
        for (to, from) in salt.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
        Salt(salt)
    }

    /// The draw of a key: xxh3 of purpose, salt and key, one after the other.
    ///
    /// * `key`: the routing key, or the request's id where there is none
    ///
    /// Cost: no allocation up to 240 bytes of key.
    pub fn draw(self, purpose: Purpose, key: &[u8]) -> u64 {
        const ROOM: usize = 256;
        let parts = [purpose.bytes(), &self.0, key];
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut room = [0; ROOM];
        let Some(used) = room.get_mut(..length) else {
            return XxHash3_64::oneshot(&parts.concat());
        };
        for (to, from) in used.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        XxHash3_64::oneshot(used)
    }
}

/// A share of all draws: those below a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Portion(u128);

impl Portion {
    /// `⌊percent / 100 · 2⁶⁴⌋` of the draws; what is not a number, or below zero, is nothing, and above 100 is all.
    pub fn percent(percent: f64) -> Self {
        let whole = 18_446_744_073_709_551_616.0_f64;
        let threshold = (percent / 100.0 * whole).floor().clamp(0.0, whole);
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and 2⁶⁴ fits")]
        #[expect(
            clippy::cast_sign_loss,
            reason = "it was clamped; NaN becomes zero, which is meant"
        )]
        Portion(threshold as u128)
    }

    /// Whether a draw is among them.
    pub fn holds(self, draw: u64) -> bool {
        u128::from(draw) < self.0
    }

    /// Whether a draw is among the last ones, as many. They stay among the last as the portion grows, as its own stay in it: what was
    /// seen of keys before is alike on both sides.
    pub fn mirrors(self, draw: u64) -> bool {
        u128::from(draw) >= (1 << 64) - self.0
    }

    /// Whether it is less than a half, and not nothing.
    pub fn is_minority(self) -> bool {
        self.0 > 0 && self.0 < 1 << 63
    }
}

#[cfg(test)]
mod tests;
