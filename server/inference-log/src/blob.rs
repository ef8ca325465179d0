//! Records whose tensors are too large for a segment: each once more in a Parquet file of its own, with all of its tensors.
//!
//! ```text
//! blob/date=YYYY-MM-DD/<request id>.parquet
//! ```
//!
//! A file per request, and none that several share: so it goes with the request when a person is erased or the day is over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use crossfade_journal::storage::create_folder;
use parquet::arrow::ProjectionMask;
use uuid::Uuid;

use crate::error::LogError;
use crate::keys::Keys;
use crate::log::Log;
use crate::record::Record;
use crate::schema::Schemas;
use crate::seal::{date, schemas_in};
use crate::table::{Row, grouped};
use crate::table_file::{self, SUBJECT};
use crate::writer::DAY;

/// Where they are in a data folder.
pub const BLOBS: &str = "blob";
/// The column with the place of a record's file.
const REFERENCE: &str = "blob_ref";

/// The place of a record's file in a data folder.
///
/// * `ts_us`: when the request came
pub fn blob_place(request_id: [u8; 16], ts_us: i64) -> String {
    format!(
        "{BLOBS}/date={}/{}.parquet",
        date(ts_us),
        Uuid::from_bytes(request_id)
    )
}

/// Writes the file of a record, which says where it is. A loss of power may lose it.
///
/// * `payload`: the record with all of its tensors
///
/// Errors: the system's; a payload that is none, or says no place.
pub fn write_blob(
    data_dir: &Path,
    keys: &Keys,
    schema: u16,
    payload: &[u8],
    replica: &str,
) -> Result<(), LogError> {
    let wrong = |why: &str| LogError::Manifest(format!("a record that is to be a file: {why}"));
    let record = Record::decode(payload).map_err(|problem| wrong(&problem.to_string()))?;
    let place = record
        .blob_ref
        .ok_or_else(|| wrong("it does not say where"))?
        .to_owned();
    let schemas_at = schemas_in(data_dir);
    let schemas = Schemas::open(&schemas_at).map_err(LogError::io(&schemas_at, "reading the schemas"))?;
    let row = Row {
        record,
        segment: Uuid::nil(),
        seq: 0,
        schema,
    };
    let groups = grouped(vec![row], &schemas, replica)?;
    let path = data_dir.join(place);
    let folder = path.parent().unwrap_or(data_dir);
    create_folder(folder).map_err(LogError::io(folder, "creating it"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let key = keys.current(now.as_secs() / DAY)?;
    let new = path.with_extension("new");
    for group in &groups {
        table_file::write(&new, &group.table, key.as_deref())?;
    }
    fs::rename(&new, &path).map_err(LogError::io(&path, "putting it in its place"))
}

impl Log {
    /// The same rows, those that have a file of their own as that file has them. Where it is gone they stay as they are.
    ///
    /// Errors: a file that cannot be read.
    pub fn whole(&self, tables: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, LogError> {
        let mut whole = Vec::new();
        for table in tables {
            let references = references(&table, |_| true);
            if references.is_empty() {
                whole.push(table);
                continue;
            }
            for row in 0..table.num_rows() {
                let own = table.slice(row, 1);
                let file = references.iter().find(|(of, _)| *of == row);
                whole.push(match file {
                    Some((_, place)) => self.blob(place)?.unwrap_or(own),
                    None => own,
                });
            }
        }
        Ok(whole)
    }

    fn blob(&self, place: &str) -> Result<Option<RecordBatch>, LogError> {
        let mut tables = match table_file::reader(&self.data_dir().join(place), self.keys()) {
            Err(LogError::Changed(_)) => return Ok(None),
            file => file?.build()?,
        };
        Ok(tables.next().transpose()?)
    }
}

/// The rows of a table that have a file of their own, and where.
fn references(table: &RecordBatch, is_meant: impl Fn(usize) -> bool) -> Vec<(usize, String)> {
    let places = table
        .column_by_name(REFERENCE)
        .and_then(|column| column.as_string_opt::<i32>());
    let rows = places
        .into_iter()
        .flat_map(|places| (0..places.len()).map(move |row| (row, places)));
    rows.filter(|(row, places)| places.is_valid(*row) && is_meant(*row))
        // Below the folder of such files, whatever a table says.
        .filter(|(row, places)| is_place(places.value(*row)))
        .map(|(row, places)| (row, places.value(row).to_owned()))
        .collect()
}

fn is_place(place: &str) -> bool {
    let below = place.strip_prefix(BLOBS).and_then(|rest| rest.strip_prefix('/'));
    below.is_some_and(|below| below.split('/').all(|part| !part.is_empty() && part != ".."))
}

/// Removes the files of records about a person that a file of the log has.
pub(crate) fn remove_about(
    data_dir: &Path,
    file: &Path,
    keys: &Keys,
    subject: &[u8; 16],
) -> Result<(), LogError> {
    let reader = table_file::reader(file, keys)?;
    let fields = reader.schema().fields().iter().enumerate();
    let roots = fields.filter(|(_, field)| [SUBJECT, REFERENCE].contains(&field.name().as_str()));
    let roots: Vec<usize> = roots.map(|(root, _)| root).collect();
    let mask = ProjectionMask::roots(reader.parquet_schema(), roots);
    for table in reader.with_projection(mask).build()? {
        let table = table?;
        let keys = table
            .column_by_name(SUBJECT)
            .and_then(|column| column.as_fixed_size_binary_opt());
        let is = |row: usize| keys.is_some_and(|keys| keys.is_valid(row) && keys.value(row) == subject);
        for (_, place) in references(&table, is) {
            let path = data_dir.join(place);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(LogError::io(&path, "removing it")(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The days of a data folder that have such files: their folders, and the bytes in each.
///
/// Errors: the system's.
pub fn blob_days(data_dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut days = Vec::new();
    let entries = match fs::read_dir(data_dir.join(BLOBS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(days),
        entries => entries?,
    };
    for entry in entries {
        let folder = entry?.path();
        let mut bytes = 0;
        for file in fs::read_dir(&folder)? {
            // It may go while it is looked at.
            bytes += file?.metadata().map_or(0, |about| about.len());
        }
        days.push((folder, bytes));
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Selection;
    use crate::log::tests::Data;
    use crate::record::{LoggedTensor, Origin, Side};
    use crate::schema::{Column, Schema};
    use crate::seal::Sealer;

    const NOON: i64 = 1_795_435_200_000_000;

    #[test]
    fn a_place_is_below_the_folder_of_such_files() {
        assert!(is_place(&blob_place([7; 16], NOON)));
        for wrong in [
            "",
            "blob",
            "log/x",
            "blob/../log/x",
            "/blob/x",
            "blob//x",
            "x/blob",
        ] {
            assert!(!is_place(wrong), "{wrong}");
        }
    }

    /// A row with large tensors is read whole, and its file goes with the person.
    #[test]
    fn a_large_record_has_a_file_of_its_own() {
        let data = Data::new();
        let folder = data.folder.path();
        let column = Column {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![-1, 500],
            policy: None,
        };
        let schema = Schema {
            batched: true,
            inputs: vec![column],
            outputs: Vec::new(),
        };
        let number = Schemas::open(&schemas_in(folder))
            .unwrap()
            .number(&schema)
            .unwrap();
        let place = blob_place([1; 16], NOON);
        let bytes = vec![0_u8; 2000];
        let large = Record {
            request_id: [1; 16],
            ts_us: NOON,
            outcome: "ok",
            subject_key: Some([7; 16]),
            blob_ref: Some(&place),
            origin: Origin {
                model: "m",
                version: "1",
                ..Origin::default()
            },
            tensors: vec![LoggedTensor {
                side: Side::Input,
                column: 0,
                shape: vec![1, 500],
                bytes: &bytes,
            }],
            ..Record::default()
        };
        let mut whole = Vec::new();
        large.encode(&mut whole);
        whole.extend(&bytes);
        write_blob(folder, &data.keys, number, &whole, "here").unwrap();
        let mut bare = Vec::new();
        Record {
            tensors: Vec::new(),
            ..large.clone()
        }
        .encode(&mut bare);
        data.writer
            .append(crate::frame::Kind::Inference, number, &[&bare]);
        data.put(2, NOON, "1");
        data.seal();
        let read = || {
            let log = Log::open(folder, &data.keys).unwrap();
            let found = log
                .find(&Selection::default(), &["request_id"], |_, _| true)
                .unwrap();
            log.whole(found).unwrap()
        };
        let values = |tables: &[RecordBatch]| -> Vec<usize> {
            let of = |table: &RecordBatch| {
                let lists = table.column_by_name("in.x")?.as_list_opt::<i32>()?.clone();
                lists.is_valid(0).then(|| lists.value(0).len())
            };
            tables.iter().filter_map(of).collect()
        };
        assert_eq!(read().iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        assert_eq!(values(&read()), [500]);
        let days = blob_days(folder).unwrap();
        assert!(days.len() == 1 && days[0].1 > 0 && days[0].0.ends_with("date=2026-11-23"));
        Sealer::open(folder, &data.keys).unwrap().erase([7; 16]).unwrap();
        assert!(!folder.join(&place).exists());
        assert_eq!(read().iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    }
}
