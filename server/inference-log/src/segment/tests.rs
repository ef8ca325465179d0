use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::scan::scan;

pub(crate) const BYTES: u32 = 16 << 20;

pub(crate) fn header(id: u128) -> Header {
    Header {
        id: Uuid::from_u128(id),
        bytes: BYTES,
        began_us: 0,
        run: Uuid::nil(),
        key: Uuid::nil(),
        replica: [0; 32],
    }
}

fn segment(id: u128) -> (tempfile::TempDir, Segment) {
    let folder = tempfile::tempdir().unwrap();
    let segment = Segment::create(&folder.path().join("s.seg"), header(id), None).unwrap();
    (folder, segment)
}

#[test]
fn records_are_read_back_in_their_order() {
    let (_folder, segment) = segment(1);
    assert_eq!(
        segment.append(Kind::Inference, 3, 7, &[b"one", b"", b" more"]),
        Appended::At(0)
    );
    assert_eq!(segment.append(Kind::Mark, 0, 0, &[b"x"]), Appended::At(1));
    let bytes = std::fs::read(segment.path()).unwrap();
    assert_eq!(bytes.len(), BYTES as usize, "all its place is taken at once");
    let found = scan(&bytes).unwrap();
    assert_eq!(found.header, header(1));
    assert!(found.holes.is_empty(), "{:?}", found.holes);
    let gist: Vec<_> = found
        .frames
        .iter()
        .map(|frame| (frame.seq, frame.kind, frame.flags, frame.schema, &*frame.payload))
        .collect();
    let expected: [(u64, Kind, u8, u16, &[u8]); 2] = [
        (0, Kind::Inference, 3, 7, b"one more"),
        (1, Kind::Mark, 0, 0, b"x"),
    ];
    assert_eq!(gist, expected);
}

#[test]
fn threads_append_at_once_and_nothing_is_lost_or_torn() {
    let (_folder, segment) = segment(2);
    let segment = Arc::new(segment);
    let appended = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..8_u8)
        .map(|thread| {
            let (segment, appended) = (segment.clone(), appended.clone());
            std::thread::spawn(move || {
                for turn in 0..2000_usize {
                    let payload = vec![thread; 1 + turn % 97];
                    match segment.append(Kind::Inference, thread, 0, &[&payload]) {
                        Appended::At(_) => appended.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other:?}"),
                    };
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(segment.is_finished());
    assert_eq!(segment.close(), appended.load(Ordering::Relaxed));
    let bytes = std::fs::read(segment.path()).unwrap();
    let found = scan(&bytes).unwrap();
    assert!(found.holes.is_empty());
    assert_eq!(found.frames.len(), 16_000);
    for (seq, frame) in (0..).zip(&found.frames) {
        assert_eq!(frame.seq, seq, "dense");
        assert!(frame.payload.iter().all(|byte| *byte == frame.flags), "not torn");
    }
}

#[test]
fn a_full_segment_and_a_closed_one_take_nothing_more() {
    let (_folder, segment) = segment(3);
    let large = vec![1; MAX_PAYLOAD_BYTES];
    assert_eq!(segment.append(Kind::Inference, 0, 0, &[&large]), Appended::At(0));
    assert_eq!(segment.append(Kind::Inference, 0, 0, &[&large]), Appended::Full);
    assert_eq!(
        segment.append(Kind::Inference, 0, 0, &[b"small"]),
        Appended::At(1),
        "there is room for it"
    );
    assert_eq!(
        segment.append(Kind::Inference, 0, 0, &[&large, b"!"]),
        Appended::Size
    );
    assert_eq!(segment.append(Kind::Inference, 0, 0, &[]), Appended::Size);
    assert_eq!(segment.close(), 2);
    assert_eq!(segment.append(Kind::Inference, 0, 0, &[b"small"]), Appended::Full);
    assert_eq!((segment.close(), segment.is_finished()), (2, true));
    segment.sync().unwrap();
    let bytes = std::fs::read(segment.path()).unwrap();
    assert_eq!(scan(&bytes).unwrap().frames.len(), 2);
}

#[test]
fn a_segment_that_cannot_be_made_says_why() {
    let (folder, segment) = segment(4);
    let there = Segment::create(segment.path(), header(5), None)
        .map(|_| ())
        .unwrap_err();
    assert!(there.to_string().contains("creating it"), "{there}");
    for bytes in [4096, BYTES + 8, u32::MAX] {
        let wrong = Header { bytes, ..header(6) };
        let error = Segment::create(&folder.path().join("x"), wrong, None)
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(error, SegmentError::Size(_)), "{error}");
    }
}
