//! Approvals of a release: signatures over what exactly was approved, and whether there are enough of them. Pure.
//!
//! An approval holds for one release, artifact, report and configuration; a change of any of them voids it, because
//! the signature does not match any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::hash::Hash;
use crate::keys::{PublicKey, Signature, SigningKey};

/// What is approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The release.
    pub release_id: String,
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
    /// What is signed: the canonical JSON (RFC 8785) of the four fields.
    pub fn message(&self) -> String {
        // Sorted by name; the hashes and the object itself need no escapes.
        let release = crate::audit::canonical::text(&self.release_id);
        format!(
            r#"{{"artifact_sha256":"{}","config_rev":"{}","release_id":{release},"report_sha256":"{}"}}"#,
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

/// A person who may approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// The name that the audit has; one person may have several keys.
    pub name: String,
    /// The groups that the person belongs to.
    pub groups: BTreeSet<String>,
    /// The key that the person signs with.
    pub key: PublicKey,
}

/// The person whose release it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The name, as approvers have it.
    pub name: String,
    /// The groups that the person belongs to.
    pub groups: BTreeSet<String>,
}

/// What a release needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// How many different persons.
    pub quorum: usize,
    /// Each of these groups has to be among them.
    pub groups: BTreeSet<String>,
    /// The author's own approval does not count.
    pub not_author: bool,
    /// At least one of them is not the author, belongs to a group, and to none of the author's.
    pub independent_group: bool,
}

/// Why an approval does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Nobody who may approve has this key.
    UnknownKey,
    /// It is of another release, artifact, report or configuration, or forged.
    Void,
    /// The person approves the own release.
    Author,
    /// The person has approved already.
    Repeated,
}

/// Whether a release may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The persons whose approval counts.
    pub approved_by: BTreeSet<String>,
    /// How many more persons are needed.
    pub missing: usize,
    /// The required groups that nobody of them belongs to.
    pub missing_groups: BTreeSet<String>,
    /// Somebody outside of the author's groups is needed.
    pub missing_independent: bool,
    /// The approvals that do not count, by their place in the list.
    pub ignored: Vec<(usize, Ignored)>,
}

impl Verdict {
    /// Whether nothing is missing.
    pub fn is_approved(&self) -> bool {
        self.missing == 0 && self.missing_groups.is_empty() && !self.missing_independent
    }
}

/// Decides whether `approvals` of `subject` are enough.
pub fn decide(
    rules: &Rules,
    approvers: &[Approver],
    author: &Author,
    subject: &Subject,
    approvals: &[Approval],
) -> Verdict {
    let mut counted: Vec<&Approver> = Vec::new();
    let mut ignored = Vec::new();
    for (index, approval) in approvals.iter().enumerate() {
        match judge(rules, approvers, author, subject, approval) {
            Ok(approver) if counted.iter().any(|other| other.name == approver.name) => {
                ignored.push((index, Ignored::Repeated));
            }
            Ok(approver) => counted.push(approver),
            Err(reason) => ignored.push((index, reason)),
        }
    }
    let in_group = |group: &String| counted.iter().any(|approver| approver.groups.contains(group));
    let independent = |approver: &&Approver| {
        approver.name != author.name
            && !approver.groups.is_empty()
            && approver.groups.is_disjoint(&author.groups)
    };
    Verdict {
        missing: rules.quorum.saturating_sub(counted.len()),
        missing_groups: rules
            .groups
            .iter()
            .filter(|group| !in_group(group))
            .cloned()
            .collect(),
        missing_independent: rules.independent_group && !counted.iter().any(independent),
        approved_by: counted.iter().map(|approver| approver.name.clone()).collect(),
        ignored,
    }
}

/// Who stands behind an approval, if it may count.
fn judge<'a>(
    rules: &Rules,
    approvers: &'a [Approver],
    author: &Author,
    subject: &Subject,
    approval: &Approval,
) -> Result<&'a Approver, Ignored> {
    let approver = approvers.iter().find(|approver| approver.key == approval.key);
    let approver = approver.ok_or(Ignored::UnknownKey)?;
    if !approval.verifies(subject) {
        return Err(Ignored::Void);
    }
    if rules.not_author && approver.name == author.name {
        return Err(Ignored::Author);
    }
    Ok(approver)
}

#[cfg(test)]
mod tests;
