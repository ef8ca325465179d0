//! All that was recorded is found, wherever it lies.

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::frame::Kind;
use crate::json::write_lines;
use crate::record::{Origin, Record};
use crate::seal::{Sealer, segments_in};
use crate::writer::{Writer, Written};

/// Noon on 2026-11-23.
const NOON: i64 = 1_795_435_200_000_000;
const DAY: i64 = 86_400_000_000;

pub(crate) struct Data {
    pub(crate) folder: TempDir,
    pub(crate) writer: Writer,
    pub(crate) keys: Keys,
}

impl Data {
    pub(crate) fn new() -> Self {
        Self::with(|_| Keys::none())
    }

    pub(crate) fn with(keys: impl FnOnce(&Path) -> Keys) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys(folder.path());
        drop(Sealer::open(folder.path(), &keys).unwrap());
        let writer = Writer::open(&segments_in(folder.path()), 12 << 20, "here", Uuid::nil(), &keys).unwrap();
        Self { folder, writer, keys }
    }

    pub(crate) fn put(&self, id: u8, ts_us: i64, version: &str) {
        self.put_about(None, id, ts_us, version);
    }

    pub(crate) fn put_about(&self, subject_key: Option<[u8; 16]>, id: u8, ts_us: i64, version: &str) {
        let record = Record {
            subject_key,
            request_id: [id; 16],
            ts_us,
            outcome: "ok",
            origin: Origin {
                model: "m",
                version,
                ..Origin::default()
            },
            ..Record::default()
        };
        let mut head = Vec::new();
        record.encode(&mut head);
        assert!(matches!(
            self.writer.append(Kind::Inference, 0, &[&head]),
            Written::Done | Written::Next
        ));
    }

    /// Begins another segment, and seals those that are full.
    pub(crate) fn seal(&self) {
        self.writer.prepare().unwrap();
        self.writer.rotate();
        let mut sealer = Sealer::open(self.folder.path(), &self.keys).unwrap();
        for segment in self.writer.take_full() {
            sealer.seal(segment.path()).unwrap();
        }
    }
}

pub(crate) fn ids(tables: &[RecordBatch]) -> Vec<u8> {
    let ids = tables.iter().flat_map(|table| {
        let ids = table.column_by_name("request_id").unwrap().as_fixed_size_binary();
        (0..table.num_rows()).map(|row| ids.value(row)[0])
    });
    ids.collect()
}

fn selected(log: &Log, wanted: &Selection) -> Vec<u8> {
    let mut tables = Vec::new();
    log.each(wanted, |table| -> Result<(), LogError> {
        tables.push(table.clone());
        Ok(())
    })
    .unwrap();
    ids(&tables)
}

#[test]
fn what_is_sealed_and_what_is_not_are_one_log() {
    let data = Data::new();
    data.put(1, NOON, "1");
    data.put(2, NOON + DAY, "1");
    data.seal();
    data.put(3, NOON + DAY, "2");
    let log = Log::open(data.folder.path(), &Keys::none()).unwrap();
    let all = Selection::default();
    assert_eq!(selected(&log, &all), [1, 2, 3]);
    let second = Selection {
        version: Some("1".to_owned()),
        since_us: Some(NOON + 1),
        ..all.clone()
    };
    assert_eq!(selected(&log, &second), [2]);
    let first = Selection {
        until_us: Some(NOON + 1),
        ..all.clone()
    };
    assert_eq!(selected(&log, &first), [1]);
    let other = Selection {
        model: Some("other".to_owned()),
        ..all
    };
    assert_eq!(selected(&log, &other), [0; 0]);
    for id in 1..=3 {
        let is = move |table: &RecordBatch, row: usize| ids(&[table.slice(row, 1)]) == [id];
        let found = log.find(&Selection::default(), &["request_id"], is).unwrap();
        assert_eq!(ids(&found), [id]);
        let [table] = found.as_slice() else {
            panic!("{} tables", found.len())
        };
        assert!(table.column_by_name("outcome").is_some(), "all of it is read");
    }
}

/// Whoever reads files with another program finds in them what is not sealed, too, and a table even where there is nothing.
#[test]
fn the_files_hold_all_there_is() {
    let rows = |files: &[Readable]| -> usize {
        let count = |file: &Readable| {
            let file = table_file::reader(&file.path(), &Keys::none()).unwrap();
            usize::try_from(file.metadata().file_metadata().num_rows()).unwrap()
        };
        files.iter().map(count).sum()
    };
    let data = Data::new();
    let [records, gaps, _] = Log::open(data.folder.path(), &Keys::none())
        .unwrap()
        .readable()
        .unwrap();
    assert_eq!(
        (records.len(), rows(&records), gaps.len(), rows(&gaps)),
        (1, 0, 1, 0)
    );
    data.put(1, NOON, "1");
    data.seal();
    data.put(2, NOON, "1");
    let gap = Gap {
        from_us: NOON,
        to_us: NOON,
        count: 7,
        reason: "full".to_owned(),
        model: None,
    };
    data.writer.append(Kind::Gap, 0, &[&gap.encode()]);
    let [records, gaps, _] = Log::open(data.folder.path(), &Keys::none())
        .unwrap()
        .readable()
        .unwrap();
    assert_eq!((rows(&records), rows(&gaps)), (2, 1));
}

#[test]
fn a_line_has_ids_as_people_write_them() {
    let data = Data::new();
    data.put(1, NOON, "1");
    let log = Log::open(data.folder.path(), &Keys::none()).unwrap();
    let mut lines = Vec::new();
    log.each(&Selection::default(), |table| write_lines(table, &mut lines))
        .unwrap();
    let line: serde_json::Value = serde_json::from_slice(&lines).unwrap();
    assert_eq!(line["request_id"], "01010101-0101-0101-0101-010101010101");
    assert_eq!((&line["model"], &line["outcome"]), (&"m".into(), &"ok".into()));
    assert_eq!(line["ts"], "2026-11-23T12:00:00Z");
    assert_eq!(line.get("error"), None);
}
