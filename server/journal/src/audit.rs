//! The audit: each mutating call is one record, refused calls included.
//!
//! Records lie in a [`Series`]; the journal's hash of a record is the audit's, because both are
//! sha256(previous ‖ payload) and the payload is the record's canonical JSON. Taking records off the end leaves a valid
//! chain: that is seen only against a head that was kept elsewhere, so sign heads and export them.

pub mod canonical;
mod number;

pub mod timestamp;

mod record;

mod chain;

pub mod export;

mod signed;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::hash::Head;
use crate::header::Purpose;
use crate::journal::Cut;
use crate::keys::{PublicKey, SigningKey};
use crate::series::{self, Series};
use crate::snapshot;

use chain::Chain;
pub use record::{AuditProblem, AuditRecord, Event};
pub use signed::SignedHead;
pub use timestamp::Timestamp;

/// Where the last signed head is kept, below the audit's folder.
const HEAD_FILE: &str = "head";

/// How an audit is kept.
#[derive(Debug)]
pub struct AuditOptions {
    /// A file of this size is followed by a new one.
    pub max_file_bytes: u64,
    /// Signs the head after so many records.
    pub sign_every: NonZeroU64,
    /// What signs it; without a key no head is signed.
    pub key: Option<SigningKey>,
}

/// An audit open for writing.
#[derive(Debug)]
pub struct Audit {
    folder: PathBuf,
    series: Series,
    options: AuditOptions,
    signed: Option<SignedHead>,
}

impl Audit {
    /// Opens the audit in `folder`, or begins it. Returns what was cut off its end, if a crash had torn it.
    ///
    /// Errors: as [`Series::open`]; [`Error::Audit`] if a record at or before the signed head beside it is missing,
    /// is another one, or is no audit record.
    /// Cost: two passes over all files.
    pub fn open(folder: &Path, options: AuditOptions) -> Result<(Self, Option<Cut>), Error> {
        Self::open_reading(folder, options, |_| {})
    }

    /// As [`Audit::open`], which reads every record in order: `each` sees them too.
    pub fn open_reading(
        folder: &Path,
        options: AuditOptions,
        each: impl FnMut(&AuditRecord),
    ) -> Result<(Self, Option<Cut>), Error> {
        let (series, cut) = Series::open(folder, Purpose::Audit, options.max_file_bytes)?;
        let signed = read_signed(folder)?;
        let known = signed
            .as_ref()
            .map(|signed| believed(folder, signed))
            .transpose()?;
        verify_reading(folder, known, each)?;
        let audit = Self {
            folder: folder.to_path_buf(),
            series,
            options,
            signed,
        };
        Ok((audit, cut))
    }

    /// Appends a record of `event`, and returns once it would survive a loss of power.
    ///
    /// Errors: as [`Series::append`]; [`Error::Audit`] if a value in `event` has no canonical spelling, and then
    /// nothing was written.
    pub fn append(&mut self, event: Event) -> Result<AuditRecord, Error> {
        let head = self.series.head();
        let (record, body) = AuditRecord::following(&head, event).map_err(|problem| Error::Audit {
            path: self.series.path().to_path_buf(),
            seq: head.seq.saturating_add(1),
            line: 1,
            problem,
        })?;
        self.series.append(body.as_bytes())?;
        Ok(record)
    }

    /// Signs the head if `sign_every` records came since the last signed one, and keeps it beside the records.
    ///
    /// The caller hands it on to where this machine's administrator cannot change it. It is apart from
    /// [`Audit::append`], because its failure says nothing about a record.
    ///
    /// Errors: [`Error::Io`]; then it is due again.
    pub fn sign_if_due(&mut self) -> Result<Option<SignedHead>, Error> {
        let signed = self.signed.map_or(0, |signed| signed.seq);
        let since = self.head().seq.saturating_sub(signed);
        match &self.options.key {
            Some(key) if since >= self.options.sign_every.get() => {
                let signed = SignedHead::sign(self.head(), key);
                let path = self.folder.join(HEAD_FILE);
                let text =
                    serde_json::to_vec(&signed).map_err(|error| Error::io(&path, "write", error.into()))?;
                snapshot::replace(&path, &text)?;
                self.signed = Some(signed);
                Ok(Some(signed))
            }
            _ => Ok(None),
        }
    }

    /// The last record's place.
    pub fn head(&self) -> Head {
        self.series.head()
    }

    /// The last head that was signed.
    pub fn signed_head(&self) -> Option<SignedHead> {
        self.signed
    }
}

/// The records of the audit in `folder` that follow number `after`, in order, each verified.
///
/// Errors: as [`series::records`] and of its items; [`Error::Audit`] for a record that is no audit record.
pub fn records(
    folder: &Path,
    after: u64,
) -> Result<impl Iterator<Item = Result<AuditRecord, Error>> + use<>, Error> {
    let path = folder.to_path_buf();
    let records = series::records(folder, Purpose::Audit, after)?;
    Ok(records.enumerate().map(move |(index, record)| {
        let record = record?;
        let seq = record.seq;
        AuditRecord::from_payload(&record.payload, record.hash).map_err(|problem| Error::Audit {
            path: path.clone(),
            seq,
            line: index as u64 + 1,
            problem,
        })
    }))
}

/// Checks the whole audit in `folder`, and returns the place of its last record.
///
/// `expected` is a head that was kept elsewhere; without it a missing end goes unseen. While a server writes, the last
/// record may be there in part, which is reported as [`crate::Problem::Short`]: verify an export then.
///
/// Errors: [`Error::Broken`], [`Error::Base`], [`Error::Header`] for a damaged file, [`Error::Audit`] for a record that
/// does not say what its place says, or for a missing end; each names the first bad record. [`Error::Io`].
pub fn verify(folder: &Path, expected: Option<Head>) -> Result<Head, Error> {
    verify_reading(folder, expected, |_| {})
}

/// As [`verify`]; `each` sees every record that is as it must be, in order.
fn verify_reading(
    folder: &Path,
    expected: Option<Head>,
    mut each: impl FnMut(&AuditRecord),
) -> Result<Head, Error> {
    let at = |problem, seq| Error::Audit {
        path: folder.to_path_buf(),
        seq,
        line: seq,
        problem,
    };
    let mut chain = Chain::new(Head::EMPTY, expected).map_err(|problem| at(problem, 0))?;
    for record in records(folder, 0)? {
        let next = chain.head().seq.saturating_add(1);
        let record = record?;
        chain.accept(&record).map_err(|problem| at(problem, next))?;
        each(&record);
    }
    let next = chain.head().seq.saturating_add(1);
    chain.finish().map_err(|problem| at(problem, next))?;
    Ok(chain.head())
}

/// The signed head that lies beside the records, if there is one.
///
/// Errors: [`Error::Snapshot`] if it is damaged, [`Error::Io`].
pub fn read_signed(folder: &Path) -> Result<Option<SignedHead>, Error> {
    let path = folder.join(HEAD_FILE);
    let Some(text) = snapshot::read(&path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|_| Error::Snapshot {
            path,
            problem: "it holds no signed head",
        })
}

/// The head beside the records, if its own key has signed it. Keys change, so which one is asked by who verifies.
fn believed(folder: &Path, signed: &SignedHead) -> Result<Head, Error> {
    let own: [PublicKey; 1] = [signed.key];
    signed.verify(&own).map_err(|problem| Error::Audit {
        path: folder.join(HEAD_FILE),
        seq: signed.seq,
        line: 1,
        problem,
    })
}

#[cfg(test)]
mod tests;
