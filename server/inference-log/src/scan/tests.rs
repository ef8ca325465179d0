use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::frame::LENGTH_AT;
use crate::segment::{Appended, Segment};

const BYTES: u32 = 12 << 20;

/// A segment with these payloads, as it lies on disk.
fn written(payloads: &[Vec<u8>]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let header = Header {
        id: Uuid::from_u128(0x0102_0304),
        bytes: BYTES,
        began_us: 1,
        run: Uuid::nil(),
        key: Uuid::nil(),
        replica: [0; 32],
    };
    let segment = Segment::create(&folder.path().join("s.seg"), header, None).unwrap();
    for (seq, payload) in (0..).zip(payloads) {
        assert_eq!(
            segment.append(Kind::Inference, 0, 0, &[payload]),
            Appended::At(seq)
        );
    }
    let mut bytes = std::fs::read(segment.path()).unwrap();
    // Zeros to the end are as good as a few of them.
    let written: usize = payloads.iter().map(|payload| framed(payload.len())).sum();
    bytes.truncate(HEADER_BYTES + written + 64);
    bytes
}

fn numbers(scan: &Scan<'_>) -> Vec<u64> {
    scan.frames.iter().map(|frame| frame.seq).collect()
}

#[test]
fn a_record_that_was_never_finished_is_a_hole() {
    let mut bytes = written(&[vec![1; 10], vec![2; 100], vec![3; 10]]);
    let second = scan(&bytes).unwrap().frames[1].offset;
    bytes[second + LENGTH_AT..][..4].fill(0);
    let found = scan(&bytes).unwrap();
    assert_eq!(numbers(&found), [0, 2]);
    let hole = Hole {
        offset: second,
        seq: 1,
        records: Some(1),
        is_changed: false,
    };
    assert_eq!(found.holes, [hole]);
    // One whose range was taken, and nothing written to it.
    bytes[second..second + framed(100)].fill(0);
    assert_eq!(scan(&bytes).unwrap().holes, [hole]);
}

#[test]
fn an_unfinished_record_at_the_end_is_a_hole_of_unknown_size() {
    let mut bytes = written(&[vec![1; 10], vec![2; 10]]);
    let second = scan(&bytes).unwrap().frames[1].offset;
    bytes[second + LENGTH_AT..][..4].fill(0);
    let found = scan(&bytes).unwrap();
    assert_eq!(numbers(&found), [0]);
    assert_eq!(
        found.holes,
        [Hole {
            offset: second,
            seq: 1,
            records: None,
            is_changed: false,
        }]
    );
    assert_eq!(found.end, second);
}

#[test]
fn a_payload_that_looks_like_a_record_is_none() {
    let inner = written(&[vec![9; 40]]);
    let forged = scan(&inner).unwrap().frames[0].offset;
    let forged = inner[forged..forged + framed(40)].to_vec();
    // Under the id of another segment, where the outer record is damaged, so that it is looked into.
    let mut bytes = written(&[forged, vec![1; 8]]);
    let mut header = Header::decode(&bytes).unwrap();
    header.id = Uuid::from_u128(0xffff);
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    assert_eq!(numbers(&scan(&bytes).unwrap()), Vec::<u64>::new());
}

#[test]
fn what_is_no_segment_is_refused() {
    assert_eq!(scan(b"short"), Err(HeaderProblem::Short(5)));
    assert_eq!(scan(&[0; HEADER_BYTES]), Err(HeaderProblem::Magic));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A file that was cut anywhere holds the records before the cut, and no other.
    #[test]
    fn a_cut_takes_only_what_is_behind_it(sizes in prop::collection::vec(1_usize..300, 1..20), cut in any::<prop::sample::Index>()) {
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
        let bytes = written(&payloads);
        let whole = scan(&bytes).unwrap();
        let cut = HEADER_BYTES + cut.index(whole.end - HEADER_BYTES + 1);
        let found = scan(&bytes[..cut]).unwrap();
        let kept = whole.frames.iter().filter(|frame| frame.offset + FRAME_HEAD_BYTES + frame.payload.len() <= cut);
        let kept: Vec<u64> = kept.map(|frame| frame.seq).collect();
        prop_assert_eq!(numbers(&found), kept);
    }

    /// A changed byte takes the record that it is in, and no other; in the zeros between them, none.
    #[test]
    fn a_changed_byte_takes_its_own_record(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..20),
        place in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = written(&payloads);
        let whole = scan(&bytes).unwrap();
        let records: Vec<(u64, usize, usize)> = whole.frames.iter()
            .map(|frame| (frame.seq, frame.offset, frame.offset + FRAME_HEAD_BYTES + frame.payload.len()))
            .collect();
        let at = HEADER_BYTES + place.index(whole.end - HEADER_BYTES);
        bytes[at] ^= 1 << bit;
        let found = scan(&bytes).unwrap();
        let kept: Vec<u64> = records.iter()
            .filter(|(_, from, to)| !(*from..*to).contains(&at))
            .map(|(seq, ..)| *seq)
            .collect();
        prop_assert_eq!(numbers(&found), kept);
    }

    /// Whatever the bytes behind the header are, reading them ends, and finds no record.
    #[test]
    fn noise_holds_no_record(noise in prop::collection::vec(any::<u8>(), 0..5000)) {
        let mut bytes = written(&[])[..HEADER_BYTES].to_vec();
        bytes.extend(noise);
        prop_assert_eq!(numbers(&scan(&bytes).unwrap()), Vec::<u64>::new());
    }
}

/// A byte that was flipped is told from a record that was never finished, wherever it is.
#[test]
fn a_record_that_was_changed_is_told_from_one_that_was_never_finished() {
    let bytes = written(&[vec![1; 10], vec![2; 100], vec![3; 10]]);
    let second = scan(&bytes).unwrap().frames[1].offset;
    for at in second..second + FRAME_HEAD_BYTES + 100 {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        let holes = scan(&changed).unwrap().holes;
        assert!(holes.len() == 1 && holes[0].is_changed, "byte {at}: {holes:?}");
    }
}
