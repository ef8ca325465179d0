//! Bearer tokens: the configuration knows their digests, never the tokens.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::Role;

/// A token that is known by its digest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Token {
    /// Who holds it: the audit's actor.
    pub name: String,
    /// sha256 of the token's text.
    pub sha256: [u8; 32],
    /// What its holder may do.
    pub roles: Vec<Role>,
    /// The groups its holder is in.
    pub groups: BTreeSet<String>,
}

/// The token whose text this is. All are compared in whole, so that the time tells nothing about any.
pub(super) fn find<'a>(tokens: &'a [Token], text: &str) -> Option<&'a Token> {
    let given: [u8; 32] = Sha256::digest(text).into();
    let mut found = None;
    for token in tokens {
        let difference = given
            .iter()
            .zip(&token.sha256)
            .fold(0, |difference, (given, known)| difference | (given ^ known));
        if std::hint::black_box(difference) == 0 {
            found = Some(token);
        }
    }
    found
}

/// Reads a digest: 64 lower-case hexadecimal digits.
pub(crate) fn digest(text: &str) -> Option<[u8; 32]> {
    text.parse::<crossfade_journal::Hash>().ok().map(|hash| hash.0)
}
