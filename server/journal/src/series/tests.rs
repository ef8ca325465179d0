use tempfile::TempDir;

use super::*;
use crate::frame::Problem;

fn open(folder: &Path) -> Series {
    let (series, cut) = Series::open(folder, Purpose::Audit, 400).unwrap();
    assert_eq!(cut, None);
    series
}

/// Twenty records in files of at most four, in two sittings.
fn twenty() -> (TempDir, PathBuf) {
    let outer = TempDir::new().unwrap();
    let folder = outer.path().join("audit");
    for _ in 0..2 {
        let mut series = open(&folder);
        for _ in 0..10 {
            let payload = format!("record {}", series.head().seq + 1);
            series.append(payload.as_bytes()).unwrap();
        }
    }
    (outer, folder)
}

fn read(folder: &Path, after: u64) -> Vec<u64> {
    let records = records(folder, Purpose::Audit, after).unwrap();
    records
        .map(|record| {
            let record = record.unwrap();
            assert_eq!(record.payload, format!("record {}", record.seq).as_bytes());
            record.seq
        })
        .collect()
}

#[test]
fn one_chain_runs_through_bounded_files() {
    let (_outer, folder) = twenty();
    let files = files(&folder).unwrap();
    assert_eq!(files.len(), 5);
    assert!(files[1].ends_with("00000000000000000005.journal"));
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 500);
    }
    assert_eq!(verify(&folder, Purpose::Audit).unwrap(), open(&folder).head());
    for after in [0, 1, 3, 4, 5, 19, 20, 21, u64::MAX] {
        let expected: Vec<u64> = (after.saturating_add(1)..=20).collect();
        assert_eq!(read(&folder, after), expected, "after {after}");
    }
}

#[test]
fn a_missing_or_exchanged_file_is_found() {
    for lost in 0..4 {
        let (_outer, folder) = twenty();
        let file = files(&folder).unwrap()[lost].clone();
        fs::remove_file(file).unwrap();
        let error = verify(&folder, Purpose::Audit).unwrap_err();
        assert!(matches!(error, Error::Base { .. }), "{error}");
        let read = records(&folder, Purpose::Audit, 0).unwrap().last().unwrap();
        // A stream may begin anywhere, so a missing beginning is for its reader to judge.
        assert_eq!(matches!(read, Err(Error::Base { .. })), lost > 0, "{read:?}");
        let error = Series::open(&folder, Purpose::Audit, 400).unwrap_err();
        assert!(matches!(error, Error::Base { .. }), "{error}");
    }
}

#[test]
fn a_torn_end_is_cut_off_the_last_file_only() {
    let (_outer, folder) = twenty();
    let files = files(&folder).unwrap();
    let tear = |path: &Path| {
        let size = fs::metadata(path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(size - 1).unwrap();
    };
    tear(&files[4]);
    let (mut series, cut) = Series::open(&folder, Purpose::Audit, 400).unwrap();
    assert_eq!((series.head().seq, cut.is_some()), (19, true));
    series.append(b"record 20").unwrap();
    drop(series);
    assert_eq!(read(&folder, 0).len(), 20);
    tear(&files[1]);
    let error = Series::open(&folder, Purpose::Audit, 400).unwrap_err();
    assert!(
        matches!(&error, Error::Broken { path, seq: 8, problem: Problem::Short { missing: 1 }, .. } if *path == files[1]),
        "{error}"
    );
}

#[test]
fn a_file_that_was_only_begun_goes_on() {
    for length in [0, 10, 71, 72] {
        let (_outer, folder) = twenty();
        let next = file(&folder, open(&folder).head());
        let series = open(&folder);
        let (journal, _) = Journal::open_after(&next, Purpose::Audit, series.head()).unwrap();
        drop((series, journal));
        let begun = fs::OpenOptions::new().write(true).open(&next).unwrap();
        begun.set_len(length).unwrap();
        let mut series = open(&folder);
        assert_eq!((series.head().seq, series.path()), (20, &*next));
        series.append(b"record 21").unwrap();
        drop(series);
        assert_eq!(read(&folder, 18), [19, 20, 21]);
    }
}

#[test]
fn a_second_writer_is_refused_before_and_after_a_rotation() {
    let outer = TempDir::new().unwrap();
    let folder = outer.path().join("audit");
    let mut series = open(&folder);
    for _ in 0..6 {
        let second = Series::open(&folder, Purpose::Audit, 400);
        assert!(matches!(second, Err(Error::Locked { .. })));
        series.append(b"x").unwrap();
    }
}
