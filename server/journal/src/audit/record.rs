//! One audit record: who did what to which object and why, with its place in the chain.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::canonical::{NotCanonical, canonical};
use super::timestamp::Timestamp;
use crate::hash::{Hash, Head};

/// What happened, as the caller tells it. A refused call is an event too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub ts: Timestamp,
    /// Who: the name of the token, or `local`.
    pub actor: String,
    /// The role that the actor used.
    pub role: String,
    /// What was done or attempted.
    pub action: String,
    /// To what: a model, a release, a setting.
    pub object: String,
    /// The object before; null if it was not there.
    pub before: Value,
    /// The object after; null if it is gone.
    pub after: Value,
    /// Why, in the actor's words.
    pub reason: String,
    /// What the decision rests on: reports, digests, measurements.
    pub evidence: Vec<Value>,
    /// The configuration in force: sha256 of its canonical form.
    pub config_rev: Hash,
}

/// An event with its place in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// Its number, counted from 1.
    pub seq: u64,
    /// What happened.
    pub event: Event,
    /// The hash of the record before it, or zeros.
    pub prev_hash: Hash,
    /// sha256(`prev_hash` ‖ canonical JSON of the record without `hash`).
    pub hash: Hash,
}

/// What is wrong with an audit record, or with an audit as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditProblem {
    /// The text is not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// A value in it has no canonical spelling.
    #[error(transparent)]
    Value(#[from] NotCanonical),
    /// The text says the same in another spelling.
    #[error("it is not written in canonical JSON (RFC 8785)")]
    Spelling,
    /// The line does not end, or is longer than a record can be.
    #[error("its line does not end, or is too long")]
    Line,
    /// A field is missing, unknown or of the wrong kind.
    #[error("{0}")]
    Field(String),
    /// Another record stands in its place: one was removed, repeated or moved.
    #[error("record {0} stands in its place")]
    Sequence(u64),
    /// The record follows another one than the one before it.
    #[error("it follows {found}, and the record before it is {expected}")]
    Chain {
        /// `prev_hash` as the record has it.
        found: Hash,
        /// The hash of the record before it.
        expected: Hash,
    },
    /// The hash is not that of the record.
    #[error("its hash is {found}, and its content makes {expected}")]
    Hash {
        /// `hash` as the record has it.
        found: Hash,
        /// The hash that its content makes.
        expected: Hash,
    },
    /// The audit ends before a head that is known.
    #[error("it is missing: the audit ends at record {}, and its head was record {expected} once", .expected - .missing)]
    Truncated {
        /// The number of the known head.
        expected: u64,
        /// How many records are missing.
        missing: u64,
    },
    /// The known head is another record of this number: the chain was written anew.
    #[error("its hash is {found}, and was {expected} when the head was taken")]
    Rewritten {
        /// The hash in the audit.
        found: Hash,
        /// The hash of the known head.
        expected: Hash,
    },
    /// The known head is older than the first record that is here.
    #[error("the audit begins after the head that it should be checked against, record {0}")]
    Uncovered(u64),
    /// A signed head whose signature is not that of its key, or whose key is not trusted.
    #[error("the signature of the head is not of a trusted key")]
    Signature,
}

impl AuditRecord {
    /// The record of `event` that follows `head`, and its canonical JSON without `hash`: what a journal stores.
    ///
    /// Errors: a value in `event` that has no canonical spelling.
    pub fn following(head: &Head, event: Event) -> Result<(Self, String), AuditProblem> {
        let mut record = Self {
            seq: head.seq.saturating_add(1),
            event,
            prev_hash: head.hash,
            hash: Hash::ZERO,
        };
        let body = canonical(&Value::Object(record.body()?))?;
        record.hash = record.prev_hash.link(body.as_bytes());
        Ok((record, body))
    }

    /// The record as one line of an export, without the line feed.
    ///
    /// Errors: a value in the event that has no canonical spelling.
    pub fn line(&self) -> Result<String, AuditProblem> {
        let mut members = self.body()?;
        members.insert("hash".to_owned(), Value::String(self.hash.to_string()));
        Ok(canonical(&Value::Object(members))?)
    }

    /// Reads a line of an export, and checks everything that does not need its neighbours.
    ///
    /// Errors: [`AuditProblem`].
    pub fn from_line(line: &[u8]) -> Result<Self, AuditProblem> {
        let mut members = parse(line)?;
        let found = take(&mut members, "hash")?;
        let body = canonical(&Value::Object(members.clone()))?;
        let record = Self::from_body(members, found)?;
        match record.prev_hash.link(body.as_bytes()) {
            expected if expected == found => Ok(record),
            expected => Err(AuditProblem::Hash { found, expected }),
        }
    }

    /// Reads what a journal stores, of the hash that the journal has verified.
    ///
    /// Errors: [`AuditProblem`].
    pub fn from_payload(payload: &[u8], hash: Hash) -> Result<Self, AuditProblem> {
        Self::from_body(parse(payload)?, hash)
    }

    /// The audit's head when this is its last record.
    pub fn head(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash,
        }
    }

    fn from_body(mut members: Map<String, Value>, hash: Hash) -> Result<Self, AuditProblem> {
        Ok(Self {
            seq: take(&mut members, "seq")?,
            prev_hash: take(&mut members, "prev_hash")?,
            event: serde_json::from_value(Value::Object(members)).map_err(field)?,
            hash,
        })
    }

    /// The record without `hash`.
    fn body(&self) -> Result<Map<String, Value>, AuditProblem> {
        let mut members = match serde_json::to_value(&self.event).map_err(field)? {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        members.insert("seq".to_owned(), Value::from(self.seq));
        members.insert("prev_hash".to_owned(), Value::String(self.prev_hash.to_string()));
        Ok(members)
    }
}

/// The members of an object that is written canonically.
fn parse(text: &[u8]) -> Result<Map<String, Value>, AuditProblem> {
    let value: Value = serde_json::from_slice(text).map_err(|error| AuditProblem::Json(error.to_string()))?;
    if canonical(&value)?.as_bytes() != text {
        return Err(AuditProblem::Spelling);
    }
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(AuditProblem::Field("it is not an object".to_owned())),
    }
}

fn take<T: serde::de::DeserializeOwned>(
    members: &mut Map<String, Value>,
    name: &'static str,
) -> Result<T, AuditProblem> {
    let value = members.remove(name);
    let value = value.ok_or_else(|| AuditProblem::Field(format!("missing field `{name}`")))?;
    serde_json::from_value(value).map_err(|error| AuditProblem::Field(format!("`{name}`: {error}")))
}

fn field(error: serde_json::Error) -> AuditProblem {
    AuditProblem::Field(error.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
