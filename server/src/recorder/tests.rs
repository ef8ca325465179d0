//! What becomes of records between a request and a file.

use std::fs;

use crossfade_inference_log::{Content, Origin, segments_in};
use crossfade_runtimes_core::{Datatype, ShapeSpec, TensorSpec};

use super::*;

fn config(ack: Ack) -> RecorderConfig {
    RecorderConfig {
        ack,
        sync: Duration::from_millis(5),
        seal_after: Duration::from_secs(3600),
        retention: Duration::from_secs(86_400),
        max_bytes: 1 << 30,
        payload_max_bytes: 1024,
    }
}

fn record(ts_us: i64) -> Record<'static> {
    Record {
        ts_us,
        outcome: "ok",
        protocol: "http_v2",
        stage: "stable",
        sampling_p: 1.0,
        origin: Origin {
            model: "m",
            version: "1",
            ..Origin::default()
        },
        ..Record::default()
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

#[test]
fn what_was_recorded_is_in_files_when_the_log_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    for run in 1..=2 {
        let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
        for _ in 0..10 {
            recorder.record(NO_SCHEMA, &record(now()));
        }
        recorder.close();
        let content = Content::read(folder.path()).unwrap();
        let records: u64 = content.sealed.iter().map(|sealed| sealed.records).sum();
        assert_eq!(records, 10 * run);
        let last = content.sealed.last().unwrap().marks.last().unwrap();
        assert_eq!((last.received, last.lost, last.last), (10, 0, true));
        assert_eq!(recorder.counts().sealed.load(Relaxed), 10);
        assert_eq!(fs::read_dir(segments_in(folder.path())).unwrap().count(), 0);
    }
}

/// What is in a segment when the process is gone is sealed by the next one.
#[test]
fn what_an_earlier_process_left_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    drop(Sealer::open(folder.path()).unwrap());
    let writer = Writer::open(&segments_in(folder.path()), SEGMENT_BYTES, "", Uuid::nil()).unwrap();
    let mut head = Vec::new();
    record(now()).encode(&mut head);
    assert_eq!(writer.append(Kind::Inference, NO_SCHEMA, &[&head]), Written::Done);
    std::mem::forget(writer);
    let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
    recorder.close();
    let content = Content::read(folder.path()).unwrap();
    assert_eq!(content.sealed.iter().map(|sealed| sealed.records).sum::<u64>(), 1);
}

#[test]
fn what_has_no_room_is_counted_and_said() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing prepares the next segment before the log is closed: some records do not fit.
    let late = RecorderConfig {
        sync: Duration::from_secs(3600),
        ..config(Ack::Kernel)
    };
    let recorder = Recorder::open(folder.path(), &late).unwrap();
    let error = "x".repeat(4000);
    let filled = Record {
        error: Some(&error),
        ..record(now())
    };
    let mut asked = 0;
    while recorder.counts().lost() < 5 && asked < 100_000 {
        recorder.record(NO_SCHEMA, &filled);
        asked += 1;
    }
    recorder.close();
    let content = Content::read(folder.path()).unwrap();
    let records: u64 = content.sealed.iter().map(|sealed| sealed.records).sum();
    let missing: u64 = content.sealed.iter().map(|sealed| sealed.missing).sum();
    assert_eq!(
        (records + missing, missing, recorder.counts().lost()),
        (asked, 5, 5)
    );
    let last = content
        .sealed
        .iter()
        .flat_map(|sealed| &sealed.marks)
        .next_back()
        .unwrap();
    assert_eq!((last.received, last.lost), (asked, missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_disk_where_it_has_to() {
    let folder = tempfile::tempdir().unwrap();
    let slow = RecorderConfig {
        sync: Duration::from_secs(3600),
        ..config(Ack::Disk)
    };
    let recorder = Recorder::open(folder.path(), &slow).unwrap();
    for turn in 1..=3 {
        recorder.record(NO_SCHEMA, &record(now()));
        let before = recorder.syncs.load(SeqCst);
        recorder.acknowledged().await;
        assert!(recorder.syncs.load(SeqCst) > before, "sync {turn}");
    }
    let closing = recorder.clone();
    tokio::task::spawn_blocking(move || closing.close())
        .await
        .unwrap();
    // Nobody waits for a log that has ended.
    recorder.acknowledged().await;
}

#[test]
fn files_that_are_too_old_or_too_many_go() {
    let folder = tempfile::tempdir().unwrap();
    let day = 86_400_000_000;
    let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
    for age in [0, 1, 3, 30] {
        recorder.record(NO_SCHEMA, &record(now() - age * day));
    }
    recorder.close();
    let held = |retention: u64, max_bytes: u64| {
        let config = RecorderConfig {
            retention: Duration::from_secs(retention * 86_400),
            max_bytes,
            ..config(Ack::Kernel)
        };
        let mut held = files::Held::new(folder.path(), Sealer::open(folder.path()).unwrap(), &config);
        held.sweep().unwrap();
        let content = Content::read(folder.path()).unwrap();
        for file in content.files.values() {
            assert!(folder.path().join(&file.path).is_file(), "{}", file.path);
        }
        content.files.len()
    };
    assert_eq!(held(100, 1 << 30), 4);
    assert_eq!(held(7, 1 << 30), 3);
    let largest = Content::read(folder.path()).unwrap();
    let largest = largest.files.values().map(|file| file.bytes).max().unwrap();
    assert_eq!(held(7, largest), 1, "the youngest stays");
    let dates = fs::read_dir(folder.path().join("log/model=m/version=1")).unwrap();
    assert_eq!(dates.count(), 1);
    assert_eq!(held(7, 0), 0);
    assert!(!folder.path().join("log/model=m").exists());
}

#[test]
fn signatures_have_numbers_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let signature = |name: &str| {
        let spec = TensorSpec::new(name, Datatype::Fp32, ShapeSpec::from(&[-1, 2][..]));
        ModelSignature {
            inputs: vec![spec.clone()],
            outputs: vec![spec],
            batched: true,
            max_rows: None,
        }
    };
    let mut before = None;
    for _ in 0..2 {
        let recorder = Recorder::open(folder.path(), &config(Ack::Memory)).unwrap();
        let numbers = ["a", "b", "a"].map(|name| recorder.schema(&signature(name)));
        assert!(numbers[0] == numbers[2] && numbers[0] != numbers[1] && !numbers.contains(&NO_SCHEMA));
        assert_eq!(*before.get_or_insert(numbers), numbers);
        recorder.close();
    }
}
