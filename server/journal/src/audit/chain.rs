//! Whether audit records follow each other, and lead to a head that is known from elsewhere.

use super::record::{AuditProblem, AuditRecord};
use crate::hash::Head;

/// A walk along the chain.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    head: Head,
    expected: Option<Head>,
}

impl Chain {
    /// Begins after the record `after`; the chain has to hold `expected`.
    ///
    /// Errors: [`AuditProblem::Uncovered`], [`AuditProblem::Rewritten`] if `after` already contradicts it.
    pub(crate) fn new(after: Head, expected: Option<Head>) -> Result<Self, AuditProblem> {
        let chain = Self {
            head: after,
            expected,
        };
        match expected {
            Some(expected) if expected.seq < after.seq => Err(AuditProblem::Uncovered(expected.seq)),
            _ => chain.agrees(after).map(|()| chain),
        }
    }

    /// The last record that was accepted.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Takes the next record, whose own hash is verified.
    pub(crate) fn accept(&mut self, record: &AuditRecord) -> Result<(), AuditProblem> {
        if Some(record.seq) != self.head.seq.checked_add(1) {
            return Err(AuditProblem::Sequence(record.seq));
        }
        if record.prev_hash != self.head.hash {
            return Err(AuditProblem::Chain {
                found: record.prev_hash,
                expected: self.head.hash,
            });
        }
        self.agrees(record.head())?;
        self.head = record.head();
        Ok(())
    }

    /// Whether the known head was reached.
    pub(crate) fn finish(&self) -> Result<(), AuditProblem> {
        match self.expected {
            Some(expected) if expected.seq > self.head.seq => Err(AuditProblem::Truncated {
                expected: expected.seq,
                missing: expected.seq - self.head.seq,
            }),
            _ => Ok(()),
        }
    }

    fn agrees(&self, head: Head) -> Result<(), AuditProblem> {
        match self.expected {
            Some(expected) if expected.seq == head.seq && expected.hash != head.hash => {
                Err(AuditProblem::Rewritten {
                    found: head.hash,
                    expected: expected.hash,
                })
            }
            _ => Ok(()),
        }
    }
}
