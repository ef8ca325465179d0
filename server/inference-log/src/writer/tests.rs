//! From one segment to the next.

use std::collections::BTreeSet;

use super::*;
use crate::frame::MAX_PAYLOAD_BYTES;
use crate::keys::Keys;
use crate::scan::scan;

const BYTES: u32 = 12 << 20;

fn writer(folder: &Path) -> Writer {
    Writer::open(
        folder,
        BYTES,
        "a replica whose name is much too long for a header",
        Uuid::nil(),
        &Keys::none(),
    )
    .unwrap()
}

fn payloads(paths: impl IntoIterator<Item = PathBuf>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = std::fs::read(path).unwrap();
        let found = scan(&bytes).unwrap();
        assert!(found.holes.is_empty());
        all.extend(found.frames.iter().map(|frame| frame.payload.to_vec()));
    }
    all
}

fn paths(segments: Vec<Arc<Segment>>) -> Vec<PathBuf> {
    segments.iter().map(|segment| segment.path().to_owned()).collect()
}

#[test]
fn records_go_on_in_the_next_segment_once_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let large = vec![1; MAX_PAYLOAD_BYTES];
    assert_eq!(writer.append(Kind::Inference, 0, &[&large]), Written::Done);
    assert_eq!(writer.append(Kind::Inference, 0, &[&large]), Written::Full);
    assert_eq!(
        writer.append(Kind::Inference, 0, &[&[1; 8]]),
        Written::Done,
        "there is room for it"
    );
    assert!(!writer.has_room(large.len()) && writer.has_room(8));
    writer.prepare().unwrap();
    assert!(writer.is_prepared() && writer.has_room(large.len()));
    assert!(writer.take_full().is_empty());
    assert_eq!(writer.append(Kind::Inference, 0, &[&large]), Written::Next);
    assert!(!writer.is_prepared() && !writer.has_room(large.len()));
    assert_eq!(
        writer.append(Kind::Inference, 0, &[&[0; MAX_PAYLOAD_BYTES], &[1]]),
        Written::Size
    );
    let full = writer.take_full();
    assert_eq!(full.len(), 1);
    assert!(writer.take_full().is_empty());
    let left = writer.end();
    assert_eq!((payloads(paths(full)).len(), payloads(paths(left)).len()), (2, 1));
    assert_eq!(
        writer.append(Kind::Inference, 0, &[&[1]]),
        Written::Full,
        "it has ended"
    );
}

#[test]
fn nothing_is_rotated_that_is_empty_and_nothing_prepared_stays() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    writer.prepare().unwrap();
    writer.prepare().unwrap();
    writer.rotate();
    assert!(writer.take_full().is_empty());
    writer.append(Kind::Mark, 0, &[&[1]]);
    writer.rotate();
    assert_eq!(writer.take_full().len(), 1);
    assert_eq!(writer.segments(), 1);
    writer.prepare().unwrap();
    writer.sync().unwrap();
    let left = writer.end();
    assert_eq!(left.len(), 1);
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 2, "the first and the second one");
}

#[test]
fn threads_lose_nothing_while_segments_change() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    const THREADS: u64 = 3;
    const EACH: u64 = 200;
    let mut full = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let writer = &writer;
                scope.spawn(move || {
                    let filler = vec![0; 100_000];
                    for turn in 0..EACH {
                        let own = (thread * EACH + turn).to_le_bytes();
                        while writer.append(Kind::Inference, 0, &[&own, &filler]) == Written::Full {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            writer.prepare().unwrap();
            full.extend(writer.take_full());
            std::thread::yield_now();
        }
    });
    full.extend(writer.end());
    assert!(full.len() > 3, "{} segments", full.len());
    let found = payloads(paths(full));
    let all: BTreeSet<Vec<u8>> = found.iter().map(|payload| payload[..8].to_vec()).collect();
    assert_eq!(
        (found.len() as u64, all.len() as u64),
        (THREADS * EACH, THREADS * EACH)
    );
}
