//! What becomes of segments.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::*;
use crate::frame::FRAME_HEAD_BYTES;
use crate::header::HEADER_BYTES;
use crate::keys::Keys;
use crate::manifest::Content;
use crate::record::{LoggedTensor, Origin, Side};
use crate::schema::{Column, Schema};
use crate::writer::{Writer, Written};

/// Noon on 2026-11-23.
const NOON: i64 = 1_795_435_200_000_000;
const BYTES: u32 = 12 << 20;

/// A data folder with a schema: `age` FP32 `[-1, 1]` in, `score` FP32 `[-1, 1]` and `all` INT32 `[-1, 2, -1]` out.
struct Data {
    folder: TempDir,
    writer: Writer,
    schema: u16,
}

fn data() -> Data {
    let folder = tempfile::tempdir().unwrap();
    drop(Sealer::open(folder.path(), &Keys::none()).unwrap());
    let column = |name: &str, datatype: &str, shape: &[i64]| Column {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        policy: None,
    };
    let schema = Schema {
        batched: true,
        inputs: vec![column("age", "FP32", &[-1, 1])],
        outputs: vec![
            column("score", "FP32", &[-1, 1]),
            column("all", "INT32", &[-1, 2, -1]),
        ],
    };
    let mut schemas = Schemas::open(&schemas_in(folder.path())).unwrap();
    let number = schemas.number(&schema).unwrap();
    assert_eq!(schemas.number(&schema).unwrap(), number, "the same one");
    Data {
        writer: Writer::open(
            &segments_in(folder.path()),
            BYTES,
            "here",
            Uuid::from_u128(6),
            &Keys::none(),
        )
        .unwrap(),
        folder,
        schema: number,
    }
}

fn origin(version: &'static str) -> Origin<'static> {
    Origin {
        model: "a/b",
        version,
        ..Origin::default()
    }
}

impl Data {
    fn append(&self, record: &Record<'_>) {
        let mut head = Vec::new();
        record.encode(&mut head);
        let mut parts = vec![head.as_slice()];
        parts.extend(record.tensors.iter().map(|tensor| tensor.bytes));
        assert_eq!(
            self.writer.append(Kind::Inference, self.schema, &parts),
            Written::Done
        );
    }

    /// A request of `ages`, whose score is half the age.
    fn answer(&self, at: i64, version: &'static str, ages: &[f32]) {
        let bytes =
            |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let age = bytes(&mut ages.iter().copied());
        let score = bytes(&mut ages.iter().map(|age| age / 2.0));
        let all: Vec<u8> = (0_i32..6).flat_map(i32::to_le_bytes).collect();
        let rows = ages.len() as u64;
        let tensor = |side, column, shape: &[u64], bytes| LoggedTensor {
            side,
            column,
            shape: shape.to_vec(),
            bytes,
        };
        self.append(&Record {
            request_id: [u8::try_from(rows).unwrap(); 16],
            ts_us: at,
            outcome: "ok",
            status_code: 200,
            protocol: "http",
            stage: "stable",
            rows: u32::try_from(rows).unwrap(),
            times_us: [Some(1), Some(2), None, Some(4), None, None, Some(7)],
            sampling_p: 1.0,
            origin: origin(version),
            tensors: vec![
                tensor(Side::Input, 0, &[rows, 1], &age),
                tensor(Side::Output, 0, &[rows, 1], &score),
                tensor(Side::Output, 1, &[1, 2, 3], &all),
            ],
            ..Record::default()
        });
    }

    /// Closes what was written and seals it, oldest first.
    fn seal(&self) -> Vec<Outcome> {
        self.writer.end();
        let mut sealer = Sealer::open(self.folder.path(), &Keys::none()).unwrap();
        let found = sealer.found().unwrap();
        found.iter().map(|path| sealer.seal(path).unwrap()).collect()
    }

    fn table(&self, file: &SealedFile) -> RecordBatch {
        let file = File::open(self.folder.path().join(&file.path)).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        let table = reader.next().unwrap().unwrap();
        assert!(reader.next().is_none());
        table
    }
}

fn sealed(outcomes: &[Outcome]) -> &Sealed {
    match outcomes {
        [Outcome::Sealed(sealed)] => sealed,
        others => panic!("{others:?}"),
    }
}

#[test]
fn records_become_a_file_per_version_and_day() {
    let data = data();
    data.answer(NOON + 5, "1", &[40.0]);
    data.answer(NOON, "1", &[20.0, 30.0]);
    data.answer(NOON, "2", &[50.0]);
    data.answer(NOON + 86_400_000_000, "2", &[60.0]);
    let outcomes = data.seal();
    let sealed = sealed(&outcomes);
    let places: Vec<&str> = sealed
        .files
        .iter()
        .map(|file| file.path.rsplit_once('/').unwrap().0)
        .collect();
    assert_eq!(
        places,
        [
            "log/model=a%2Fb/version=1/date=2026-11-23",
            "log/model=a%2Fb/version=2/date=2026-11-23",
            "log/model=a%2Fb/version=2/date=2026-11-24",
        ]
    );
    assert_eq!((sealed.records, sealed.missing), (4, 0));
    let table = data.table(&sealed.files[0]);
    assert_eq!(table.num_rows(), 2);
    let column = |name: &str| {
        table
            .column_by_name(name)
            .unwrap_or_else(|| panic!("no `{name}`"))
    };
    // By time: the request of two rows came first; it has its values in lists.
    let age = column("in.age").as_primitive::<Float32Type>();
    assert!(age.is_null(0) && age.value(1) == 40.0);
    let rows = column("in.age.rows").as_list::<i32>();
    assert_eq!(
        rows.value(0).as_primitive::<Float32Type>().values(),
        &[20.0, 30.0]
    );
    assert!(rows.is_null(1));
    let score = column("out.score").as_primitive::<Float32Type>();
    assert_eq!(score.value(1), 20.0);
    let shape = column("out.all.shape").as_list::<i32>().value(0);
    assert_eq!(
        shape.as_primitive::<arrow_array::types::Int64Type>().values(),
        &[1, 2, 3]
    );
    assert_eq!(column("n_rows").as_primitive::<UInt32Type>().values(), &[2, 1]);
    assert_eq!(column("seq").as_primitive::<UInt64Type>().values(), &[1, 0]);
    assert_eq!(column("total_us").as_primitive::<UInt32Type>().values(), &[7, 7]);
    assert!(column("gather_us").is_null(0) && column("error").is_null(0));
    assert_eq!(column("replica").as_string::<i32>().value(0), "here");
    assert_eq!(column("request_id").as_fixed_size_binary().value(1), [1; 16]);
}

#[test]
fn a_segment_goes_once_it_is_in_the_manifest_and_not_twice() {
    let data = data();
    data.answer(NOON, "1", &[1.0]);
    data.writer.sync().unwrap();
    let path = segments_in(data.folder.path());
    let path = fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    let before = fs::read(&path).unwrap();
    let outcomes = data.seal();
    let first = sealed(&outcomes).clone();
    assert!(!path.exists());
    // Killed between the manifest and the removal.
    fs::write(&path, before).unwrap();
    let mut sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    assert_eq!(sealer.seal(&path).unwrap(), Outcome::Again);
    assert!(!path.exists());
    let content = Content::read(data.folder.path()).unwrap();
    assert_eq!(content.sealed, [first]);
    for file in content.files.values() {
        let bytes = fs::read(data.folder.path().join(&file.path)).unwrap();
        assert_eq!(
            (Hash(Sha256::digest(&bytes).into()), bytes.len() as u64),
            (file.sha256, file.bytes)
        );
    }
}

#[test]
fn what_a_kill_left_is_sealed_and_its_hole_is_a_gap() {
    let data = data();
    for second in 0..3 {
        data.answer(NOON + second, "1", &[1.0]);
    }
    let gap = Gap {
        from_us: NOON,
        to_us: NOON + 9,
        count: 5,
        reason: "full".to_owned(),
        model: Some("a/b".to_owned()),
    };
    data.writer.append(Kind::Gap, 0, &[&gap.encode()]);
    for received in [1, 8] {
        let mark = Mark {
            run: Uuid::from_u128(6),
            received,
            lost: 5,
            ..Mark::default()
        };
        data.writer.append(Kind::Mark, 0, &[&mark.encode()]);
    }
    // The second record was begun and not finished.
    let left = data.writer.end();
    let path = left[0].path().to_owned();
    let mut bytes = fs::read(&path).unwrap();
    let found = scan(&bytes).unwrap();
    let at = found.frames[1].offset;
    assert!(at > HEADER_BYTES);
    bytes[at..at + FRAME_HEAD_BYTES].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut sealer = Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    let outcome = [sealer.seal(&path).unwrap()];
    let sealed = sealed(&outcome);
    assert_eq!((sealed.records, sealed.missing), (2, 6));
    assert_eq!(
        sealed.marks,
        [RunMark {
            run: Uuid::from_u128(6),
            received: 8,
            sampled_out: 0,
            lost: 5,
            last: false
        }]
    );
    let gaps = sealed
        .files
        .iter()
        .find(|file| file.path.starts_with("gap/"))
        .unwrap();
    let table = data.table(gaps);
    assert_eq!(
        table
            .column_by_name("count")
            .unwrap()
            .as_primitive::<UInt64Type>()
            .values(),
        &[5, 1]
    );
    let reasons = table.column_by_name("reason").unwrap().as_string::<i32>();
    assert_eq!([reasons.value(0), reasons.value(1)], ["full", "unfinished"]);
}

#[test]
fn what_was_never_begun_goes_and_what_is_damaged_is_put_aside() {
    let data = data();
    let folder = segments_in(data.folder.path());
    fs::write(folder.join("0.seg"), [0; 8192]).unwrap();
    fs::write(folder.join("0-damaged.seg"), b"something else").unwrap();
    let outcomes = data.seal();
    assert_eq!(
        outcomes,
        [
            Outcome::Aside(folder.join("0-damaged.damaged")),
            Outcome::Empty,
            Outcome::Empty
        ]
    );
    assert_eq!(
        fs::read(folder.join("0-damaged.damaged")).unwrap(),
        b"something else"
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn no_name_leaves_the_folder() {
    for (name, expected) in [
        ("", NOBODY),
        ("..", "%2E%2E"),
        ("a/../b", "a%2F..%2Fb"),
        ("ü=1", "%C3%BC%3D1"),
        ("plain-1.0_x", "plain-1.0_x"),
    ] {
        assert_eq!(named(name), expected);
    }
    assert!(named(&"/".repeat(4096)).len() < 250);
}
