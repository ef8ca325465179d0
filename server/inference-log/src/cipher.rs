//! Records of one segment, encrypted (AES-256-GCM).
//!
//! The nonce is 32 zero bits and the record's number, which no other record of the segment has; the key is the segment's alone.

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use crate::frame::FrameHead;
use crate::keys::{KEY_BYTES, aead};

/// Bytes that a record grows by.
pub(crate) const TAG_BYTES: usize = 16;

/// What the records of a segment are encrypted with.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(aead(key))
    }

    /// Encrypts a payload into `sealed`, which is emptied before; its head is authenticated with it.
    pub(crate) fn seal(&self, head: FrameHead, parts: &[&[u8]], sealed: &mut Vec<u8>) {
        sealed.clear();
        parts.iter().for_each(|part| sealed.extend_from_slice(part));
        self.0
            .seal_in_place_append_tag(nonce(head.seq), Aad::from(head.tail()), sealed)
            .expect("a record is shorter than what AES-GCM may encrypt");
    }

    /// Decrypts a payload; `None` where it is not what was sealed under this head.
    pub(crate) fn open(&self, head: FrameHead, sealed: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let aad = Aad::from(head.tail());
        let length = self.0.open_in_place(nonce(head.seq), aad, &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

fn nonce(seq: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&seq.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}
