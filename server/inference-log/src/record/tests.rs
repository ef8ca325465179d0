//! A record is what was encoded, and nothing else is one.

use proptest::prelude::*;

use super::*;

fn full() -> Record<'static> {
    Record {
        request_id: [7; 16],
        ts_us: 1_790_000_000_000_000,
        ts_mono_ns: 42,
        outcome: "ok",
        status_code: 200,
        protocol: "http",
        stage: "canary",
        rows: 2,
        times_us: [Some(1), None, Some(3), Some(4), Some(5), Some(6), Some(u32::MAX)],
        batch: Some(Batch {
            id: 9,
            rows: 8,
            index: 3,
        }),
        sampling_p: 0.5,
        in_digest: Some([1; 16]),
        trace_id: None,
        shadow_of: Some([2; 16]),
        route_key_hash: Some(u64::MAX),
        route_reason: Some("hash"),
        release_id: None,
        client_request_id: Some("größe"),
        error: None,
        caller: Some("ann"),
        subject_key: Some([4; 16]),
        blob_ref: Some("blob/date=2026-11-23/x.parquet"),
        truncated: Some("left"),
        origin: Origin {
            model: "digits",
            version: "1",
            artifact_sha256: Some([3; 32]),
            config_rev: None,
            runtime: Some("ort"),
            device: Some("cpu"),
        },
        tensors: vec![
            LoggedTensor {
                side: Side::Input,
                column: 0,
                shape: vec![2, 2],
                bytes: &[1, 2, 3, 4],
            },
            LoggedTensor {
                side: Side::Output,
                column: 1,
                shape: vec![],
                bytes: &[],
            },
        ],
    }
}

fn payload(record: &Record<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    record.encode(&mut payload);
    record
        .tensors
        .iter()
        .for_each(|tensor| payload.extend(tensor.bytes));
    payload
}

#[test]
fn a_record_is_read_back() {
    for record in [full(), Record::default()] {
        assert_eq!(Record::decode(&payload(&record)), Ok(record));
    }
}

#[test]
fn a_text_that_is_too_long_is_cut_between_two_characters() {
    let long = "ü".repeat(MAX_TEXT);
    let record = Record {
        error: Some(&long),
        ..full()
    };
    let payload = payload(&record);
    let read = Record::decode(&payload).unwrap();
    assert_eq!(read.error, Some(&long[..MAX_TEXT]));
}

#[test]
fn what_is_no_record_says_why() {
    let payload = payload(&full());
    let mut newer = payload.clone();
    newer[0] = 2;
    assert_eq!(Record::decode(&newer), Err(RecordProblem::Format(2)));
    for end in 0..payload.len() {
        assert!(Record::decode(&payload[..end]).is_err(), "{end} bytes");
    }
    let longer = [payload.as_slice(), &[0]].concat();
    assert_eq!(Record::decode(&longer), Err(RecordProblem::Length));
}

proptest! {
    /// Whatever bytes there are, reading them ends, and what is read is written in the same way.
    #[test]
    fn any_bytes_are_read_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = payload(&full());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(record) = Record::decode(&bytes) {
            let again = payload(&record);
            // Bits of fields that there are not are not written back.
            prop_assert_eq!(Record::decode(&again).map(|record| format!("{record:?}")), Ok(format!("{record:?}")));
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(Record::decode(&bytes));
    }
}
