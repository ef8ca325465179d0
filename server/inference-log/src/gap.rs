//! What is missing, said in the log itself.

use serde::{Deserialize, Serialize};

/// Requests of which there is no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// When the first of them ended, microseconds since 1970.
    pub from_us: i64,
    /// When the last of them did.
    pub to_us: i64,
    /// How many.
    pub count: u64,
    /// Why: `full`, `size`, `stopped`; `unfinished`, where a process was killed while it wrote; `changed`, where a record is not what was
    /// written, and `unreadable`, where it is of another release.
    pub reason: String,
    /// Of this model, where they are all of one.
    pub model: Option<String>,
}

impl Gap {
    /// The payload of its record.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a payload; `None` for one that is no gap.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}
