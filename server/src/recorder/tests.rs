//! What becomes of records between a request and a file.

use std::fs;

use crossfade_inference_log::{Content, FaultyDisk, Log, Origin, Selection, segments_in};
use crossfade_runtimes_core::{Datatype, ShapeSpec, TensorSpec};

use super::*;

fn config(ack: Ack) -> RecorderConfig {
    RecorderConfig {
        ack,
        sync: Duration::from_millis(5),
        seal_after: Duration::from_secs(3600),
        min_free_bytes: 0,
        payload_max_bytes: 1024,
        ..RecorderConfig::default()
    }
}

/// A request from its beginning to its end; returns whether it is recorded.
fn put(recorder: &Recorder, record: &Record<'_>) -> bool {
    recorder.open_request();
    recorder.record(NO_SCHEMA, record)
}

/// Records, requests that are missing, and what the last mark says.
fn sealed(folder: &Path) -> (u64, u64, crossfade_inference_log::RunMark) {
    let content = Content::read(folder).unwrap();
    let records = content.sealed.iter().map(|sealed| sealed.records).sum();
    let missing = content.sealed.iter().map(|sealed| sealed.missing).sum();
    let mut marks = content.sealed.iter().flat_map(|sealed| &sealed.marks);
    (records, missing, *marks.next_back().unwrap())
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
            assert!(put(&recorder, &record(now())));
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
    drop(Sealer::open(folder.path(), &Keys::none()).unwrap());
    let writer = Writer::open(
        &segments_in(folder.path()),
        SEGMENT_BYTES,
        "",
        Uuid::nil(),
        &Keys::none(),
    )
    .unwrap();
    let mut head = Vec::new();
    record(now()).encode(&mut head);
    assert_eq!(writer.append(Kind::Inference, NO_SCHEMA, &[&head]), Written::Done);
    std::mem::forget(writer);
    let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
    recorder.close();
    let content = Content::read(folder.path()).unwrap();
    assert_eq!(content.sealed.iter().map(|sealed| sealed.records).sum::<u64>(), 1);
}

/// A record that fills a segment with a few thousand of its kind.
fn large(error: &str) -> Record<'_> {
    Record {
        error: Some(error),
        ..record(now())
    }
}

/// A log that may have no second segment.
fn one_segment() -> RecorderConfig {
    RecorderConfig {
        segment_bytes: 20 << 20,
        buffer_bytes: 20 << 20,
        ..config(Ack::Kernel)
    }
}

#[test]
fn what_has_no_room_is_counted_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(folder.path(), &one_segment()).unwrap();
    let error = "x".repeat(4000);
    let mut asked = 0;
    while recorder.lost(Loss::Full) < 5 && asked < 100_000 {
        assert_eq!(
            put(&recorder, &large(&error)),
            recorder.lost(Loss::Full) == 0,
            "{asked}"
        );
        asked += 1;
    }
    // What is large has no room; a gap record has.
    recorder.close();
    let (records, missing, last) = sealed(folder.path());
    assert_eq!(
        (records + missing, missing, recorder.lost(Loss::Full)),
        (asked, 5, 5)
    );
    assert_eq!((last.received, last.lost, last.last), (asked, missing, true));
}

/// Nothing is served unrecorded, if that is wanted: the request waits for room, and is told that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_room_where_it_has_to() {
    let folder = tempfile::tempdir().unwrap();
    let patient = RecorderConfig {
        on_full: OnFull::Block,
        max_wait: Duration::from_millis(50),
        ..one_segment()
    };
    let recorder = Recorder::open(folder.path(), &patient).unwrap();
    assert!(recorder.blocks());
    let error = "x".repeat(4000);
    let mut asked = 0;
    while recorder.room(0).await {
        assert!(put(&recorder, &large(&error)), "{asked}");
        asked += 1;
    }
    assert!(asked > 1000 && recorder.lost(Loss::Full) == 0, "{asked}");
    let closing = recorder.clone();
    tokio::task::spawn_blocking(move || closing.close())
        .await
        .unwrap();
    let (records, missing, _) = sealed(folder.path());
    assert_eq!((records, missing), (asked, 0));
}

/// What comes as fast as it can finds room again and again, because a segment that is full is followed by another one at once.
#[test]
fn the_next_segment_is_there_when_one_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let slow = RecorderConfig {
        // Not the clock prepares segments.
        sync: Duration::from_secs(3600),
        segment_bytes: 20 << 20,
        on_full: OnFull::Block,
        max_wait: Duration::from_secs(60),
        ..config(Ack::Kernel)
    };
    let recorder = Recorder::open(folder.path(), &slow).unwrap();
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let error = "x".repeat(4000);
    for asked in 0..20_000 {
        assert!(waiting.block_on(recorder.room(0)), "{asked}");
        assert!(put(&recorder, &large(&error)), "{asked}");
    }
    recorder.close();
    assert_eq!(sealed(folder.path()).0, 20_000);
}

#[test]
fn a_disk_that_is_nearly_full_has_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let low = RecorderConfig {
        min_free_bytes: u64::MAX,
        segment_bytes: 20 << 20,
        ..config(Ack::Kernel)
    };
    let recorder = Recorder::open(folder.path(), &low).unwrap();
    let error = "x".repeat(4000);
    let mut asked = 0;
    while put(&recorder, &large(&error)) {
        asked += 1;
    }
    assert!(asked > 1000, "{asked}");
    // The next one is prepared by another thread, which may get its turn later.
    let began = Instant::now();
    while recorder.counts().failures.load(Relaxed) == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing says why");
        std::thread::yield_now();
    }
    recorder.close();
    assert_eq!(sealed(folder.path()).1, 1);
}

/// Whoever was cut off is missing, and the log says so.
#[test]
fn a_request_that_never_ends_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
    assert!(put(&recorder, &record(now())));
    recorder.open_request();
    recorder.close();
    let (records, missing, last) = sealed(folder.path());
    assert_eq!((records, missing), (1, 1));
    assert_eq!((last.received, last.lost, last.last), (2, 1, false));
    let verified = crossfade_inference_log::verify(folder.path(), &Keys::none()).unwrap();
    assert_eq!((verified.damaged.len(), verified.missing), (0, 1));
    assert!(
        !recorder.record(NO_SCHEMA, &record(now())),
        "it is counted already"
    );
}

#[test]
fn what_sampling_leaves_out_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let half = RecorderConfig {
        rate: 0.5,
        ..config(Ack::Kernel)
    };
    let recorder = Recorder::open(folder.path(), &half).unwrap();
    for id in 0..1000u128 {
        recorder.open_request();
        let id = id.to_be_bytes();
        match recorder.draw(&id, None, false) {
            Some(sampling_p) => {
                let record = Record {
                    sampling_p,
                    ..record(now())
                };
                assert!(sampling_p == 0.5 && recorder.record(NO_SCHEMA, &record));
            }
            None => recorder.leave_out(),
        }
    }
    recorder.close();
    let (records, missing, last) = sealed(folder.path());
    assert_eq!(
        (records + last.sampled_out, missing, last.received),
        (1000, 0, 1000)
    );
    // Four standard deviations.
    assert!((437..563).contains(&records), "{records}");
    let verified = crossfade_inference_log::verify(folder.path(), &Keys::none()).unwrap();
    assert!(verified.damaged.is_empty(), "{:?}", verified.damaged);
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
        assert!(put(&recorder, &record(now())));
        let before = recorder.syncs.load(SeqCst);
        assert!(recorder.acknowledged().await);
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
        assert!(put(&recorder, &record(now() - age * day)));
    }
    recorder.close();
    let of = |retention: u64, max_bytes: u64, wanted: u64, may_go: fn(&str) -> bool| {
        let config = RecorderConfig {
            retention: Duration::from_secs(retention * 86_400),
            max_bytes,
            ..config(Ack::Kernel)
        };
        let mut held = files::Held::new(
            folder.path(),
            Sealer::open(folder.path(), &Keys::none()).unwrap(),
            &config,
        );
        held.sweep(0, wanted, may_go).unwrap();
        let content = Content::read(folder.path()).unwrap();
        for file in content.files.values() {
            assert!(folder.path().join(&file.path).is_file(), "{}", file.path);
        }
        content.files.len()
    };
    let held = |retention, max_bytes, wanted| of(retention, max_bytes, wanted, |_| true);
    assert_eq!(held(100, 1 << 30, 0), 4);
    assert_eq!(of(0, 0, 1 << 40, |_| false), 4, "someone waits for them");
    assert_eq!(held(7, 1 << 30, 0), 3);
    assert_eq!(held(7, 1 << 30, 1), 2, "room is made on the disk");
    let largest = Content::read(folder.path()).unwrap();
    let largest = largest.files.values().map(|file| file.bytes).max().unwrap();
    assert_eq!(held(7, largest, 0), 1, "the youngest stays");
    let dates = fs::read_dir(folder.path().join("log/model=m/version=1")).unwrap();
    assert_eq!(dates.count(), 1);
    assert_eq!(held(7, 0, 0), 0);
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
            ..Default::default()
        }
    };
    let mut before = None;
    for _ in 0..2 {
        let recorder = Recorder::open(folder.path(), &config(Ack::Memory)).unwrap();
        let numbers = ["a", "b", "a"].map(|name| recorder.schema(&signature(name), None));
        assert!(numbers[0] == numbers[2] && numbers[0] != numbers[1] && !numbers.contains(&NO_SCHEMA));
        assert_eq!(*before.get_or_insert(numbers), numbers);
        recorder.close();
    }
}

/// What was taken away is in no byte of any file, and nothing tells what it was.
#[test]
fn what_a_policy_takes_away_reaches_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let spec = |name: &str, datatype| TensorSpec::new(name, datatype, ShapeSpec::from(&[-1, 1][..]));
    let signature = ModelSignature {
        inputs: vec![
            spec("who", Datatype::Bytes),
            spec("note", Datatype::Bytes),
            spec("age", Datatype::Fp32),
        ],
        outputs: vec![spec("score", Datatype::Fp32)],
        batched: true,
        ..Default::default()
    };
    let fields = [
        ("in.who", "hash"),
        ("in.note", "mask"),
        ("in.age", "bucket:10"),
        ("out.score", "drop"),
    ];
    let fields = fields
        .iter()
        .map(|(name, policy)| ((*name).to_owned(), policy.parse().unwrap()));
    let private = RecorderConfig {
        fields: [("m".to_owned(), fields.collect())].into(),
        ..config(Ack::Kernel)
    };
    let recorder = Recorder::open(folder.path(), &private).unwrap();
    let policies = recorder.policies("m", &signature).unwrap();
    let provenance = Arc::new(Provenance {
        recorder: recorder.clone(),
        schema: recorder.schema(&signature, policies.as_ref()),
        policies,
        artifact_sha256: None,
        config_rev: None,
        runtime: "fake",
        device: "cpu".to_owned(),
    });
    let text = |text: &str| {
        let mut data = Vec::new();
        crossfade_runtimes_core::push_element(&mut data, text.as_bytes());
        crossfade_runtimes_core::Tensor {
            datatype: Datatype::Bytes,
            shape: crossfade_runtimes_core::Shape::from([1, 1]),
            data: data.into(),
        }
    };
    let number = |number: f32| crossfade_runtimes_core::Tensor {
        datatype: Datatype::Fp32,
        shape: crossfade_runtimes_core::Shape::from([1, 1]),
        data: number.to_le_bytes().to_vec().into(),
    };
    let headers: HeaderMap = [(
        HeaderName::from_static("x-subject-id"),
        "patient-4711".parse().unwrap(),
    )]
    .into_iter()
    .collect();
    let subject = recorder.subject(&headers);
    assert!(subject.is_some() && subject == recorder.subject(&headers));
    let mut kept = Kept::default();
    let inputs = [
        text("Ann Smith"),
        text("reach me at ann@example.org"),
        number(37.25),
    ];
    kept.asked(&inputs.map(Some), 1);
    kept.answered(&[0], &[number(0.8125)]);
    kept.provenance = Some(provenance.clone());
    kept.redact();
    assert_eq!(kept.digest(), None, "it would tell which of a few inputs it was");
    recorder.open_request();
    let written = Record {
        subject_key: subject,
        in_digest: kept.digest(),
        tensors: kept.tensors(1024),
        ..record(now())
    };
    assert!(recorder.record(provenance.schema, &written));
    let mut searched = 0;
    let mut search = |folder: &Path| {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = fs::read(&path).unwrap();
                searched += 1;
                let secrets: [&[u8]; 5] = [
                    b"Ann Smith",
                    b"ann@example.org",
                    b"patient-4711",
                    &37.25_f32.to_le_bytes(),
                    &0.8125_f32.to_le_bytes(),
                ];
                for secret in secrets {
                    let found = bytes.windows(secret.len()).any(|window| window == secret);
                    assert!(!found, "{} has {}", path.display(), secret.escape_ascii());
                }
            }
        }
    };
    search(folder.path());
    recorder.close();
    search(folder.path());
    assert!(searched >= 6, "{searched}");
    let log = crossfade_inference_log::Log::open(folder.path(), &Keys::none()).unwrap();
    let tables = log
        .newest(&crossfade_inference_log::Selection::default(), 1)
        .unwrap();
    let mut line = Vec::new();
    crossfade_inference_log::write_lines(&tables[0], &mut line).unwrap();
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["in.age"], 30.0);
    assert_eq!(line.get("out.score"), None);
    let key: String = subject
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(line["subject_key"], key);
    let restored = crossfade_inference_log::restored(
        &tables[0],
        0,
        crossfade_inference_log::Side::Input,
        &signature.inputs[2],
    );
    assert_eq!(
        restored,
        crossfade_inference_log::Restored::Redacted("bucket:10".to_owned())
    );
}

/// One segment that cannot be sealed keeps no other from it.
#[test]
fn what_cannot_be_sealed_holds_up_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    drop(Sealer::open(folder.path(), &Keys::none()).unwrap());
    // Nobody can read a folder as a file; it is the oldest.
    let stuck = segments_in(folder.path()).join(format!("{}.seg", Uuid::from_u128(1)));
    fs::create_dir(&stuck).unwrap();
    let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
    for _ in 0..10 {
        assert!(put(&recorder, &record(now())));
    }
    recorder.close();
    assert_eq!(sealed(folder.path()).0, 10);
    assert!(recorder.counts().failures.load(Relaxed) > 0 && stuck.is_dir());
}

/// What is too large for a record is left out of it; that the request was there is not.
#[test]
fn a_record_that_is_too_large_does_without_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::open(folder.path(), &config(Ack::Kernel)).unwrap();
    let bytes = vec![0; 9 << 20];
    let large = Record {
        tensors: vec![crossfade_inference_log::LoggedTensor {
            side: crossfade_inference_log::Side::Input,
            column: 0,
            shape: vec![9 << 20],
            bytes: &bytes,
        }],
        ..record(now())
    };
    assert!(put(&recorder, &large));
    recorder.close();
    let (records, missing, last) = sealed(folder.path());
    assert_eq!((records, missing, last.received), (1, 0, 1));
}

/// Which requests are in a log.
fn ids_in(folder: &Path) -> BTreeSet<[u8; 16]> {
    use arrow_array::cast::AsArray;
    let log = Log::open(folder, &Keys::none()).unwrap();
    let mut ids = BTreeSet::new();
    log.each(&Selection::default(), |table| -> Result<(), LogError> {
        let column = table.column_by_name("request_id").unwrap().as_fixed_size_binary();
        ids.extend(
            column
                .iter()
                .flatten()
                .map(|id| <[u8; 16]>::try_from(id).unwrap()),
        );
        Ok(())
    })
    .unwrap();
    ids
}

/// With `disk`, whatever pages the disk has come to when the power goes, every answer that was sent has its record; what the kernel
/// alone had may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_acknowledged_as_on_disk_survives_a_loss_of_power() {
    for round in 0..8_u64 {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::under(folder.path());
        let small = RecorderConfig {
            segment_bytes: 20 << 20,
            sync: Duration::from_secs(3600),
            ..config(Ack::Disk)
        };
        let recorder = Recorder::open(folder.path(), &small).unwrap();
        let sent: Arc<Mutex<BTreeSet<[u8; 16]>>> = Arc::default();
        let recorded = Arc::new(AtomicU64::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..8_u64 {
            let (recorder, sent, recorded) = (recorder.clone(), sent.clone(), recorded.clone());
            clients.spawn(async move {
                for turn in 0..60_u64 {
                    let id = ((u128::from(client) << 64) | (u128::from(turn) + 1)).to_be_bytes();
                    let text = "x".repeat(2000);
                    let record = Record {
                        request_id: id,
                        error: Some(&text),
                        ..record(now())
                    };
                    assert!(put(&recorder, &record));
                    recorded.fetch_add(1, SeqCst);
                    if recorder.acknowledged().await {
                        lock(&sent).insert(id);
                    }
                }
            });
        }
        while recorded.load(SeqCst) < 40 + round * 50 {
            tokio::task::yield_now().await;
        }
        // In this order: what is sent later may be there, too.
        let acknowledged = lock(&sent).clone();
        let after = tempfile::tempdir().unwrap();
        fs::create_dir_all(segments_in(after.path())).unwrap();
        let mut draw = 0x9E37_79B9_7F4A_7C15_u64 ^ round;
        disk.lose_power(&segments_in(after.path()), || {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            draw >> 62 == 0
        })
        .unwrap();
        while clients.join_next().await.is_some() {}
        let there = ids_in(after.path());
        assert!(acknowledged.is_subset(&there), "round {round}");
        // What is left becomes files, and no more than was torn is missing.
        let rows = seal_all(after.path(), &Keys::none()).unwrap();
        assert_eq!(rows, there.len() as u64);
        // What comes to no disk is lost, so that there was something to lose before, too.
        disk.fail(u32::MAX);
        let unsent = [0xFF; 16];
        let last = Record {
            request_id: unsent,
            ..record(now())
        };
        assert!(put(&recorder, &last));
        let after = tempfile::tempdir().unwrap();
        fs::create_dir_all(segments_in(after.path())).unwrap();
        disk.lose_power(&segments_in(after.path()), || false).unwrap();
        let there = ids_in(after.path());
        assert!(
            lock(&sent).is_subset(&there) && !there.contains(&unsent),
            "round {round}"
        );
        disk.fail(0);
        let closing = recorder.clone();
        tokio::task::spawn_blocking(move || closing.close())
            .await
            .unwrap();
    }
}

/// A sync that fails is said to whoever waited for it, the segment takes no more records, and nothing is lost while the process lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_acknowledges_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::under(folder.path());
    let recorder = Recorder::open(folder.path(), &config(Ack::Disk)).unwrap();
    assert!(put(&recorder, &record(now())));
    assert!(recorder.acknowledged().await);
    let failures = recorder.counts().failures.load(Relaxed);
    disk.fail(1);
    assert!(put(&recorder, &record(now())));
    // A sync that the timer began may be the one that fails.
    let was_told = recorder.acknowledged().await;
    assert!(put(&recorder, &record(now())));
    assert!(
        recorder.acknowledged().await,
        "the next segment is on a disk that works"
    );
    assert!(recorder.counts().failures.load(Relaxed) > failures);
    assert!(!was_told || recorder.syncs.load(SeqCst) > 2);
    let closing = recorder.clone();
    tokio::task::spawn_blocking(move || closing.close())
        .await
        .unwrap();
    let (records, missing, last) = sealed(folder.path());
    assert_eq!((records, missing, last.received), (3, 0, 3));
    let verified = crossfade_inference_log::verify(folder.path(), &Keys::none()).unwrap();
    assert!(verified.damaged.is_empty(), "{:?}", verified.damaged);
}
