//! Signed heads: who holds one can tell later that records are missing at the end, or that all were written anew.

use serde::{Deserialize, Serialize};

use super::record::AuditProblem;
use crate::hash::{Hash, Head};
use crate::keys::{PublicKey, Signature, SigningKey};

/// A head and a signature over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedHead {
    /// The number of the last record.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// The key that signed.
    pub key: PublicKey,
    /// Its signature over the canonical JSON of `hash` and `seq`.
    pub signature: Signature,
}

impl SignedHead {
    /// Signs `head`.
    pub fn sign(head: Head, key: &SigningKey) -> Self {
        Self {
            seq: head.seq,
            hash: head.hash,
            key: key.public_key(),
            signature: key.sign(message(head).as_bytes()),
        }
    }

    /// The head, if its signature is right and its key among `trusted`.
    ///
    /// Errors: [`AuditProblem::Signature`].
    pub fn verify(&self, trusted: &[PublicKey]) -> Result<Head, AuditProblem> {
        let head = Head {
            seq: self.seq,
            hash: self.hash,
        };
        let holds =
            trusted.contains(&self.key) && self.key.verifies(message(head).as_bytes(), &self.signature);
        holds.then_some(head).ok_or(AuditProblem::Signature)
    }
}

/// Canonical JSON (RFC 8785), for every `seq` that a double holds: up to 2^53.
fn message(head: Head) -> String {
    format!(r#"{{"hash":"{}","seq":{}}}"#, head.hash, head.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        seq: 5,
        hash: Hash([3; 32]),
    };

    #[test]
    fn only_the_signed_head_of_a_trusted_key_is_believed() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let other = SigningKey::from_seed(&[2; 32]).unwrap();
        let signed = SignedHead::sign(HEAD, &key);
        assert_eq!(signed.verify(&[other.public_key(), key.public_key()]), Ok(HEAD));
        assert_eq!(signed.verify(&[other.public_key()]), Err(AuditProblem::Signature));
        for forged in [
            SignedHead { seq: 4, ..signed },
            SignedHead {
                hash: Hash([4; 32]),
                ..signed
            },
            SignedHead {
                key: other.public_key(),
                ..signed
            },
        ] {
            let trusted = [key.public_key(), other.public_key()];
            assert_eq!(
                forged.verify(&trusted),
                Err(AuditProblem::Signature),
                "{forged:?}"
            );
        }
    }

    #[test]
    fn what_is_signed_is_canonical() {
        let value = serde_json::to_value(HEAD).unwrap();
        assert_eq!(super::super::canonical::canonical(&value).unwrap(), message(HEAD));
    }

    #[test]
    fn a_signed_head_is_read_as_it_was_written() {
        let signed = SignedHead::sign(HEAD, &SigningKey::from_seed(&[1; 32]).unwrap());
        let text = serde_json::to_string(&signed).unwrap();
        assert_eq!(serde_json::from_str::<SignedHead>(&text).unwrap(), signed);
    }
}
