//! One table of many files.

use arrow_array::types::Float64Type;
use arrow_array::{FixedSizeBinaryArray, Float64Array};

use parquet::arrow::ArrowWriter;

use super::*;
use crate::keys::Keys;
use crate::log::tests::{Data, ids};

const NOON: i64 = 1_795_435_200_000_000;

fn read(path: &Path) -> Vec<RecordBatch> {
    let file = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    file.build().unwrap().map(Result::unwrap).collect()
}

fn feedback(folder: &Path, name: &str, rows: &[(u8, f64)]) {
    let ids = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|(id, _)| [*id; 16])).unwrap();
    let labels: Float64Array = rows.iter().map(|(_, label)| Some(*label)).collect();
    let table = RecordBatch::try_from_iter([
        ("request_id", Arc::new(ids) as ArrayRef),
        ("label", Arc::new(labels) as ArrayRef),
    ]);
    let folder = folder.join("feedback/date=2026-11-24");
    fs::create_dir_all(&folder).unwrap();
    let table = table.unwrap();
    let file = File::create(folder.join(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, table.schema(), None).unwrap();
    writer.write(&table).unwrap();
    writer.close().unwrap();
}

#[test]
fn labels_come_to_their_requests() {
    let data = Data::new();
    data.put(1, NOON, "1");
    data.put(2, NOON, "1");
    data.seal();
    data.put(3, NOON, "1");
    feedback(data.folder.path(), "a.parquet", &[(3, 0.0), (1, 0.25), (9, 9.0)]);
    feedback(data.folder.path(), "b.parquet", &[(3, 1.0)]);
    let log = Log::open(data.folder.path(), &Keys::none()).unwrap();
    let out = data.folder.path().join("set.parquet");
    let labels = Labels::read(data.folder.path()).unwrap();
    assert_eq!(
        export(&log, &Selection::default(), Some(&labels), &out).unwrap(),
        3
    );
    let tables = read(&out);
    assert_eq!(ids(&tables), [1, 2, 3]);
    let found: Vec<Option<f64>> = tables
        .iter()
        .flat_map(|table| {
            table
                .column_by_name("label")
                .unwrap()
                .as_primitive::<Float64Type>()
                .iter()
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, [Some(0.25), None, Some(1.0)]);
    assert!(tables[0].column_by_name("outcome").is_none());
}

#[test]
fn all_columns_are_there_without_labels() {
    let data = Data::new();
    data.put(1, NOON, "1");
    data.seal();
    data.put(2, NOON, "2");
    let log = Log::open(data.folder.path(), &Keys::none()).unwrap();
    let out = data.folder.path().join("all.parquet");
    let second = Selection {
        version: Some("2".to_owned()),
        ..Selection::default()
    };
    assert_eq!(export(&log, &second, None, &out).unwrap(), 1);
    assert_eq!(export(&log, &Selection::default(), None, &out).unwrap(), 2);
    let tables = read(&out);
    assert_eq!(ids(&tables), [1, 2]);
    assert!(tables[0].column_by_name("outcome").is_some());
}
