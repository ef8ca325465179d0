//! Ed25519 keys (RFC 8032) and what is signed with them.
//!
//! Private keys come from PEM files, as `openssl genpkey -algorithm ed25519` writes them; public keys are 64 hexadecimal
//! digits, or PEM, as `openssl pkey -pubout` writes it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::header::array;
use crate::hex::hex_text;

/// What stands before the 32 bytes of the key in its SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What stands before the 32 bytes of the seed in its PrivateKeyInfo (RFC 8410 §7, version 1).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A key that others check signatures with, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(
    /// The point, encoded as RFC 8032 §5.1.2 says.
    pub [u8; 32],
);

hex_text!(PublicKey);

/// A signature, written as 128 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(
    /// R ‖ S of RFC 8032 §5.1.6.
    pub [u8; 64],
);

hex_text!(Signature);

/// A key to sign with. It is never printed.
pub struct SigningKey(Ed25519KeyPair);

/// Text or bytes that hold no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block of this label, or not base64 in it.
    #[error("no PEM block `{0}`")]
    Pem(&'static str),
    /// A key of another kind, or damaged.
    #[error("not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`")]
    Kind,
    /// A new key needs what the system does not give.
    #[error("the system gives no random numbers")]
    Random,
}

/// Makes a key: PKCS#8 in PEM, as [`SigningKey::from_pem`] and `openssl` read it.
///
/// Errors: [`KeyError::Random`].
pub fn new_pem() -> Result<String, KeyError> {
    let mut der = [0; 48];
    der[..16].copy_from_slice(&PKCS8_PREFIX);
    SystemRandom::new()
        .fill(&mut der[16..])
        .map_err(|_| KeyError::Random)?;
    Ok(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(der)
    ))
}

impl SigningKey {
    /// Reads an unencrypted PKCS#8 key in PEM.
    ///
    /// Errors: [`KeyError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_pkcs8(&pem(text, "PRIVATE KEY")?)
    }

    /// Reads an unencrypted PKCS#8 key in PEM, or a seed as 64 hexadecimal digits.
    ///
    /// Errors: [`KeyError`].
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        match crate::hex::read(text.trim()) {
            Ok(seed) => Self::from_seed(&seed),
            Err(_) => Self::from_pem(text),
        }
    }

    /// Reads an unencrypted PKCS#8 key, with or without its public key.
    ///
    /// Errors: [`KeyError::Kind`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
        pair.map(Self).map_err(|_| KeyError::Kind)
    }

    /// The key of this seed (RFC 8032 §5.1.5).
    ///
    /// Errors: [`KeyError::Kind`], which no seed of 32 bytes gives.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        pair.map(Self).map_err(|_| KeyError::Kind)
    }

    /// The key to check its signatures with.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(array(self.0.public_key().as_ref()))
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(array(self.0.sign(message).as_ref()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public_key())
    }
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in PEM.
    ///
    /// Errors: [`KeyError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem(text, "PUBLIC KEY")?;
        match der.strip_prefix(&SPKI_PREFIX) {
            Some(key) if key.len() == 32 => Ok(Self(array(key))),
            _ => Err(KeyError::Kind),
        }
    }

    /// Whether `signature` is this key's, of `message`.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, &signature.0).is_ok()
    }
}

/// The bytes of the first PEM block of this label (RFC 7468).
fn pem(text: &str, label: &'static str) -> Result<Vec<u8>, KeyError> {
    let inner = text
        .split_once(&format!("-----BEGIN {label}-----"))
        .and_then(|(_, rest)| rest.split_once(&format!("-----END {label}-----")))
        .ok_or(KeyError::Pem(label))?
        .0;
    let joined: String = inner.split_ascii_whitespace().collect();
    STANDARD.decode(joined).map_err(|_| KeyError::Pem(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 §7.1, test 2.
    const SEED: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
    /// RFC 8410 §10.3 and §10.1.
    const PRIVATE_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn signatures_are_those_of_the_rfc() {
        let key = SigningKey::from_seed(&crate::hex::read(SEED).unwrap()).unwrap();
        assert_eq!(key.public_key().to_string(), PUBLIC);
        assert_eq!(key.sign(&[0x72]).to_string(), SIGNATURE);
        assert!(key.public_key().verifies(&[0x72], &SIGNATURE.parse().unwrap()));
        assert!(!key.public_key().verifies(&[0x73], &SIGNATURE.parse().unwrap()));
        assert!(!PublicKey([1; 32]).verifies(&[0x72], &SIGNATURE.parse().unwrap()));
    }

    #[test]
    fn both_halves_of_a_pair_are_read_from_pem() {
        let key = SigningKey::from_pem(PRIVATE_PEM).unwrap();
        assert_eq!(Ok(key.public_key()), PublicKey::from_pem(PUBLIC_PEM));
        assert!(
            !format!("{key:?}").contains("d4ee72db"),
            "the seed is not printed"
        );
    }

    #[test]
    fn a_key_is_read_from_pem_or_from_the_digits_of_its_seed() {
        let key = SigningKey::from_text(&format!("{SEED}\n")).unwrap();
        assert_eq!(key.public_key().to_string(), PUBLIC);
        assert!(SigningKey::from_text(PRIVATE_PEM).is_ok());
        assert!(SigningKey::from_text(&SEED[2..]).is_err());
    }

    #[test]
    fn new_keys_are_read_again_and_differ() {
        let keys = [new_pem().unwrap(), new_pem().unwrap()];
        let public = keys.map(|pem| SigningKey::from_pem(&pem).unwrap().public_key());
        assert_ne!(public[0], public[1]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let none = SigningKey::from_pem(PUBLIC_PEM).map(|key| key.public_key());
        assert_eq!(none, Err(KeyError::Pem("PRIVATE KEY")));
        let kind = PRIVATE_PEM.replace("BQYDK2Vw", "BQYDK2Vx");
        let other = SigningKey::from_pem(&kind).map(|key| key.public_key());
        assert_eq!(other, Err(KeyError::Kind));
        assert_eq!(
            PublicKey::from_pem("-----BEGIN PUBLIC KEY-----"),
            Err(KeyError::Pem("PUBLIC KEY"))
        );
    }
}
