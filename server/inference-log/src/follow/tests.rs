//! Every record is shown once, however it comes to be read.

use super::*;
use crate::log::tests::{Data, ids};

const NOON: i64 = 1_795_435_200_000_000;

#[test]
fn what_comes_is_shown_once() {
    let data = Data::new();
    data.put(1, NOON, "1");
    let mut follower = Follower::from_now(data.folder.path()).unwrap();
    assert_eq!(ids(&follower.poll().unwrap()), [0; 0]);
    data.put(2, NOON, "1");
    data.put(3, NOON, "2");
    assert_eq!(ids(&follower.poll().unwrap()), [2, 3]);
    // Sealed before it was read.
    data.put(4, NOON, "1");
    data.seal();
    assert_eq!(ids(&follower.poll().unwrap()), [4]);
    data.put(5, NOON, "1");
    assert_eq!(ids(&follower.poll().unwrap()), [5]);
    data.seal();
    assert_eq!(ids(&follower.poll().unwrap()), [0; 0]);
}

/// A record is shown when it is whole, and whatever is large is read in more than one piece.
#[test]
fn large_records_are_shown() {
    let data = Data::new();
    let mut follower = Follower::from_now(data.folder.path()).unwrap();
    let bytes = vec![1; 6 << 20];
    let record = Record {
        tensors: vec![crate::record::LoggedTensor {
            side: crate::record::Side::Input,
            column: 0,
            shape: vec![6 << 20],
            bytes: &bytes,
        }],
        request_id: [9; 16],
        ..Record::default()
    };
    let mut head = Vec::new();
    record.encode(&mut head);
    data.writer
        .append(Kind::Inference, 0, &[&head, record.tensors[0].bytes]);
    data.put(10, NOON, "1");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(ids(&follower.poll().unwrap()));
    }
    assert_eq!(seen, [9, 10]);
}
