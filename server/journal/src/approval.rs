//! Approvals of a release: signatures over what exactly was approved. Pure.
//!
//! An approval holds for one step of one release, one artifact, report and configuration; a change of any of them voids it, because
//! the signature does not match any more. Whether there are enough of them is decided in `models/rollout`.

use serde::{Deserialize, Serialize};

use crate::hash::Hash;
use crate::keys::{PublicKey, Signature, SigningKey};

/// What is approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The release.
    pub release_id: String,
    /// The step that may follow: one agreement is not one to all of them.
    pub before: String,
    /// The digest of the model's files.
    pub artifact_sha256: Hash,
    /// The digest of the report that the approver read.
    pub report_sha256: Hash,
    /// The configuration in force.
    pub config_rev: Hash,
}

/// One signature over a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Who signed, by key.
    pub key: PublicKey,
    /// The signature over [`Subject::message`].
    pub signature: Signature,
}

impl Subject {
    /// What is signed: the canonical JSON (RFC 8785) of the five fields.
    pub fn message(&self) -> String {
        // Sorted by name; the hashes and the object itself need no escapes.
        let release = crate::audit::canonical::text(&self.release_id);
        let before = crate::audit::canonical::text(&self.before);
        format!(
            r#"{{"artifact_sha256":"{}","before":{before},"config_rev":"{}","release_id":{release},"report_sha256":"{}"}}"#,
            self.artifact_sha256, self.config_rev, self.report_sha256
        )
    }
}

impl Approval {
    /// Approves `subject`.
    pub fn sign(subject: &Subject, key: &SigningKey) -> Self {
        Self {
            key: key.public_key(),
            signature: key.sign(subject.message().as_bytes()),
        }
    }

    /// Whether its key has signed exactly this subject.
    pub fn verifies(&self, subject: &Subject) -> bool {
        self.key.verifies(subject.message().as_bytes(), &self.signature)
    }
}

#[cfg(test)]
mod tests;
