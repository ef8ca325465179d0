//! What a person has put right of a record. The record stays as it was written; a correction is a file beside the log.

use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::ArrowError;
use uuid::Uuid;

use crate::error::LogError;
use crate::manifest::{Entry, SealedFile};
use crate::seal::Sealer;

/// Where they are in a data folder.
pub(crate) const FOLDER: &str = "correction/";

/// What a person says of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// Of the record.
    pub request_id: [u8; 16],
    /// When it was put right, microseconds since 1970.
    pub ts_us: i64,
    /// Whom both are about.
    pub subject_key: [u8; 16],
    /// What is right, as JSON.
    pub correction: String,
    /// Who wrote it down.
    pub actor: String,
    /// Why.
    pub reason: String,
}

impl Correction {
    /// Corrections as a table.
    pub(crate) fn table(all: &[Self]) -> Result<RecordBatch, ArrowError> {
        let ids = |of: fn(&Self) -> &[u8; 16]| -> Result<ArrayRef, ArrowError> {
            let mut ids = FixedSizeBinaryBuilder::new(16);
            all.iter().try_for_each(|one| ids.append_value(of(one)))?;
            Ok(Arc::new(ids.finish()))
        };
        let texts = |of: fn(&Self) -> &str| -> ArrayRef {
            Arc::new(all.iter().map(|one| Some(of(one))).collect::<StringArray>())
        };
        let times = all.iter().map(|one| Some(one.ts_us));
        let times = times.collect::<TimestampMicrosecondArray>().with_timezone("UTC");
        RecordBatch::try_from_iter([
            ("request_id", ids(|one| &one.request_id)?),
            ("ts", Arc::new(times)),
            ("subject_key", ids(|one| &one.subject_key)?),
            ("correction", texts(|one| &one.correction)),
            ("actor", texts(|one| &one.actor)),
            ("reason", texts(|one| &one.reason)),
        ])
    }
}

impl Sealer {
    /// Writes a correction down; it is on disk when this returns.
    ///
    /// Errors: the system's.
    pub fn correct(&mut self, correction: &Correction) -> Result<SealedFile, LogError> {
        let place = format!("{FOLDER}{}.parquet", Uuid::now_v7());
        let key = self.key(false)?;
        let table = Correction::table(std::slice::from_ref(correction))?;
        let file = self.write(&place, &table, key.as_deref())?;
        self.manifest.append(Entry::Added(file.clone()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::keys::Keys;
    use crate::log::tests::Data;
    use crate::log::{Log, Selection};
    use crate::verify::verify;

    const NOON: i64 = 1_795_435_200_000_000;

    #[test]
    fn a_correction_lies_beside_the_record_and_goes_with_the_person() {
        let data = Data::new();
        let folder = data.folder.path();
        data.put_about(Some([7; 16]), 1, NOON, "1");
        data.put(2, NOON, "1");
        data.seal();
        let mut sealer = Sealer::open(folder, &Keys::none()).unwrap();
        let correction = Correction {
            request_id: [1; 16],
            ts_us: NOON + 1,
            subject_key: [7; 16],
            correction: r#"{"in.age":41}"#.to_owned(),
            actor: "dpo".to_owned(),
            reason: "she has turned 41".to_owned(),
        };
        sealer.correct(&correction).unwrap();
        drop(sealer);
        let mut sealer = Sealer::open(folder, &Keys::none()).unwrap();
        let log = Log::open(folder, &Keys::none()).unwrap();
        let of = |key: u8| Selection {
            subject_key: Some([key; 16]),
            ..Selection::default()
        };
        let rows = |tables: Vec<RecordBatch>| tables.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(rows(log.corrections(&of(7)).unwrap()), 1);
        assert_eq!(rows(log.corrections(&of(8)).unwrap()), 0);
        let others = Selection {
            without: BTreeSet::from([[7; 16]]),
            ..Selection::default()
        };
        let mut left = 0;
        log.each(&others, |table| -> Result<(), LogError> {
            left += table.num_rows();
            Ok(())
        })
        .unwrap();
        assert_eq!(left, 1, "records of the others, those about nobody among them");
        assert_eq!(
            sealer.erase([7; 16]).unwrap().rows,
            2,
            "the record and what was put right of it"
        );
        let log = Log::open(folder, &Keys::none()).unwrap();
        assert_eq!(rows(log.corrections(&Selection::default()).unwrap()), 0);
        let verified = verify(folder, &Keys::none()).unwrap();
        assert_eq!((verified.damaged, verified.missing), (Vec::new(), 0));
    }
}
