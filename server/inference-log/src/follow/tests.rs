//! Every record is shown once, however it comes to be read.

use super::*;
use crate::keys::Keys;
use crate::log::tests::{Data, ids};

const NOON: i64 = 1_795_435_200_000_000;

#[test]
fn what_comes_is_shown_once() {
    let data = Data::new();
    data.put(1, NOON, "1");
    let mut follower = Follower::from_now(data.folder.path(), &Keys::none()).unwrap();
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
    let mut follower = Follower::from_now(data.folder.path(), &Keys::none()).unwrap();
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

/// A follower that comes back finds what was recorded, sealed and compacted while it was away, and nothing twice.
#[test]
fn a_cursor_goes_on_where_it_was() {
    let data = Data::new();
    data.put(1, NOON, "1");
    let follower = Follower::from_now(data.folder.path(), &Keys::none()).unwrap();
    data.put(2, NOON, "1");
    let kept = serde_json::to_string(follower.cursor()).unwrap();
    drop(follower);
    data.put(3, NOON, "1");
    data.seal();
    data.put(4, NOON, "1");
    data.seal();
    let mut sealer = crate::seal::Sealer::open(data.folder.path(), &Keys::none()).unwrap();
    assert_eq!(sealer.compact(2, 1 << 20).unwrap(), Some(2));
    data.put(5, NOON, "1");
    let mut follower = Follower::resume(
        data.folder.path(),
        &Keys::none(),
        serde_json::from_str(&kept).unwrap(),
    );
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.extend(ids(&follower.poll().unwrap()));
    }
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5]);
    // In the middle of a segment that is still written to.
    let kept = follower.cursor().clone();
    data.put(6, NOON, "1");
    let mut follower = Follower::resume(data.folder.path(), &Keys::none(), kept);
    assert_eq!(ids(&follower.poll().unwrap()), [6]);
    assert_eq!(ids(&follower.poll().unwrap()), [0; 0]);
}
