//! SHA-256 links: every record's hash covers its payload and, through its predecessor's hash, all before it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex::hex_text;

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(
    /// The digest.
    pub [u8; 32],
);

hex_text!(Hash);

impl Hash {
    /// What the first record of a chain follows: 32 zero bytes.
    pub const ZERO: Self = Self([0; 32]);

    /// sha256(`self` ‖ `payload`): the hash of the record that follows `self`.
    pub fn link(&self, payload: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(self.0);
        digest.update(payload);
        Self(digest.finalize().into())
    }
}

/// The last record of a chain: what a chain is continued from and checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its number, counted from 1; 0 for a chain without records.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// The head of a chain without records.
    pub const EMPTY: Self = Self {
        seq: 0,
        hash: Hash::ZERO,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::NotHex;

    #[test]
    fn a_link_is_the_digest_of_the_previous_hash_and_the_payload() {
        // sha256sum of 32 zero bytes.
        let expected = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
        assert_eq!(Hash::ZERO.link(b"").to_string(), expected);
        assert_eq!(Hash([7; 32]).link(b"ab"), Hash([7; 32]).link(b"ab"));
        assert_ne!(Hash([7; 32]).link(b"ab"), Hash::ZERO.link(b"ab"));
    }

    #[test]
    fn only_one_spelling_is_a_hash() {
        let hash = Hash::ZERO.link(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse::<Hash>(), Err(NotHex(64)));
        assert_eq!(hash.to_string()[1..].parse::<Hash>(), Err(NotHex(64)));
        assert_eq!("é".repeat(32).parse::<Hash>(), Err(NotHex(64)));
    }
}
