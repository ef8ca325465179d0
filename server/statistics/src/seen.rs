//! Keys that have had their event: each counts once per check and release.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::random::mix;

/// How many keys are remembered exactly.
const EXACT: usize = 1 << 20;
/// Size of the filter that takes over: 2²⁵ bits, 4 MiB.
const BITS: u64 = 64 * WORDS as u64;
const WORDS: usize = 1 << 19;
/// Bits per key; with them 0.02 % of new keys are taken for seen at 2²⁰ keys, 2.4 % at four times as many.
const PROBES: u64 = 4;
/// Makes the filter's hash another one than that which routed the key.
const SEED: u64 = 0x5EE2_0F1A_7C3B_9D46;

/// A set of 64-bit hashes of keys: exact up to 2²⁰, then a Bloom filter (Bloom 1970).
///
/// A key that the filter wrongly takes for seen is dropped whatever its arm, so what is counted stays fair. An
/// ordered set and not a hash table, so that a snapshot of the same keys is the same bytes. Memory: at most about
/// 20 MB while exact, 4 MiB afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct SeenKeys(Set);

#[derive(Debug, Clone, PartialEq)]
enum Set {
    Exact(BTreeSet<u64>),
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    words: Vec<u64>,
    /// Keys that were new when they came.
    keys: u64,
}

/// How the set is written down.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Written {
    Exact(BTreeSet<u64>),
    Filter { keys: u64, words: Vec<u64> },
}

impl SeenKeys {
    /// No key has been seen.
    pub fn new() -> Self {
        SeenKeys(Set::Exact(BTreeSet::new()))
    }

    /// Notes a key; true if it is new.
    ///
    /// Cost: below a microsecond; the one key that makes the set a filter takes some tens of milliseconds.
    pub fn insert(&mut self, key: u64) -> bool {
        let Set::Exact(keys) = &mut self.0 else {
            return self.filter_insert(key);
        };
        if keys.len() < EXACT {
            return keys.insert(key);
        }
        if keys.contains(&key) {
            return false;
        }
        let mut filter = Filter::new();
        for &key in keys.iter() {
            filter.insert(key);
        }
        filter.keys = EXACT as u64;
        self.0 = Set::Filter(filter);
        self.filter_insert(key)
    }

    /// Whether a key was seen; above 2²⁰ keys sometimes true for one that was not.
    pub fn contains(&self, key: u64) -> bool {
        match &self.0 {
            Set::Exact(keys) => keys.contains(&key),
            Set::Filter(filter) => probes(key).all(|bit| filter.has(bit)),
        }
    }

    /// How many keys were new when they came.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Set::Exact(keys) => keys.len() as u64,
            Set::Filter(filter) => filter.keys,
        }
    }

    /// Whether none has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn filter_insert(&mut self, key: u64) -> bool {
        match &mut self.0 {
            Set::Exact(keys) => keys.insert(key),
            Set::Filter(filter) => filter.insert(key),
        }
    }
}

impl Default for SeenKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    fn new() -> Self {
        Filter {
            words: vec![0; WORDS],
            keys: 0,
        }
    }

    fn has(&self, (word, bit): (usize, u64)) -> bool {
        self.words.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn insert(&mut self, key: u64) -> bool {
        let mut new = false;
        for (word, bit) in probes(key) {
            if let Some(bits) = self.words.get_mut(word) {
                new |= *bits & bit == 0;
                *bits |= bit;
            }
        }
        self.keys += u64::from(new);
        new
    }
}

/// Word and bit of each probe: double hashing (Kirsch & Mitzenmacher 2006).
fn probes(key: u64) -> impl Iterator<Item = (usize, u64)> {
    let first = mix(key ^ SEED);
    let step = mix(first) | 1;
    (0..PROBES).map(move |probe| {
        let position = first.wrapping_add(probe.wrapping_mul(step)) % BITS;
        let word = usize::try_from(position / 64).unwrap_or_default();
        (word, 1 << (position % 64))
    })
}

impl From<SeenKeys> for Written {
    fn from(seen: SeenKeys) -> Self {
        match seen.0 {
            Set::Exact(keys) => Written::Exact(keys),
            Set::Filter(Filter { words, keys }) => Written::Filter { keys, words },
        }
    }
}

impl TryFrom<Written> for SeenKeys {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Exact(keys) if keys.len() > EXACT => {
                Err(format!("{} exact keys; at most {EXACT} are kept", keys.len()))
            }
            Written::Exact(keys) => Ok(SeenKeys(Set::Exact(keys))),
            Written::Filter { words, .. } if words.len() != WORDS => {
                Err(format!("a filter of {} words; expected {WORDS}", words.len()))
            }
            Written::Filter { keys, words } => Ok(SeenKeys(Set::Filter(Filter { words, keys }))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    #[test]
    fn a_key_is_new_once() {
        let mut seen = SeenKeys::new();
        assert!(seen.is_empty());
        assert!(seen.insert(7) && !seen.insert(7) && seen.insert(8));
        assert!(seen.contains(7) && !seen.contains(9));
        assert_eq!(seen.len(), 2);
    }

    /// Past the exact set nothing seen is forgotten, and few new keys are taken for seen, from either half of the
    /// hash's range alike.
    #[test]
    fn filter_forgets_nothing_and_is_fair() {
        let mut random = SplitMix64::new(3);
        let keys: Vec<u64> = (0..EXACT + 1000).map(|_| random.next()).collect();
        let mut seen = SeenKeys::new();
        for &key in &keys {
            seen.insert(key);
        }
        assert!(matches!(seen.0, Set::Filter(_)));
        assert!(keys.iter().all(|&key| seen.contains(key)));
        assert!(!seen.clone().insert(keys[0]));
        let wrong = |half: u64| {
            let mut random = SplitMix64::new(4);
            let taken = (0..200_000).filter(|_| seen.contains((random.next() >> 1) | (half << 63)));
            taken.count()
        };
        // 200 000 · 1.9e-4 = 38 are expected; 5σ is 31.
        assert!(
            (7..=69).contains(&wrong(0)) && (7..=69).contains(&wrong(1)),
            "{} {}",
            wrong(0),
            wrong(1)
        );
        let text = serde_json::to_string(&seen).expect("it is plain data");
        assert!(serde_json::from_str::<SeenKeys>(&text).is_ok_and(|read| read == seen));
    }

    #[test]
    fn snapshots_are_checked() {
        let read = |text: &str| serde_json::from_str::<SeenKeys>(text);
        assert!(read(r#"{"exact":[3,1]}"#).is_ok_and(|seen| seen.contains(3) && seen.len() == 2));
        assert!(read(r#"{"filter":{"keys":1,"words":[0]}}"#).is_err());
        assert!(read(r#"{"other":[]}"#).is_err());
    }
}
