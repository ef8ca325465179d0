//! Threads of a process that is killed at any moment lose no record whose append had returned.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crossfade_inference_log::{Appended, Header, Kind, Segment, scan};
use uuid::Uuid;

const ROUNDS: usize = 20;
const THREADS: u8 = 4;
const BYTES: u32 = 12 << 20;
/// Where the child writes; unset in the parent.
const FILE: &str = "CROSSFADE_SEGMENT_KILL_FILE";

/// Payloads of 1 to 3000 bytes that say whose record they are, and which.
fn payload(thread: u8, turn: u64) -> Vec<u8> {
    let length = usize::try_from(9 + turn * 7919 % 3000).unwrap();
    let head = std::iter::once(thread).chain(turn.to_le_bytes());
    head.chain(std::iter::repeat(thread ^ 0x5a))
        .take(length)
        .collect()
}

#[test]
#[ignore = "the child of the other test: it writes until it is killed"]
fn child() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let header = Header {
        id: Uuid::from_u128(0x5e67),
        bytes: BYTES,
        began_us: 0,
        run: Uuid::nil(),
        key: Uuid::nil(),
        replica: [0; 32],
    };
    let segment = Segment::create(Path::new(&path), header, None).unwrap();
    let out = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (segment, out) = (&segment, &out);
            scope.spawn(move || {
                for turn in 0.. {
                    let Appended::At(seq) =
                        segment.append(Kind::Inference, thread, 0, &[&payload(thread, turn)])
                    else {
                        return;
                    };
                    let told = writeln!(out.lock().unwrap(), "acknowledged {seq} {thread} {turn}");
                    if told.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Lets a child append `count` records or more, kills it, and returns those that it acknowledged: number, thread, turn.
fn killed_after(path: &Path, count: usize) -> Vec<(u64, u8, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // A last line that the kill cut short is no acknowledgement.
        if let Some((_, said)) = line.split_once("acknowledged ")
            && let [seq, thread, turn] = said.split(' ').collect::<Vec<_>>()[..]
            && let (Ok(seq), Ok(thread), Ok(turn)) = (seq.parse(), thread.parse(), turn.parse())
        {
            acknowledged.push((seq, thread, turn));
        }
        if acknowledged.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= count, "{acknowledged:?}");
    // The last line may be a part of a longer one.
    acknowledged.truncate(count);
    acknowledged
}

#[test]
fn acknowledged_records_survive_kill() {
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.seg");
        let acknowledged = killed_after(&path, 1 + round * 37 % 500);
        let bytes = std::fs::read(&path).unwrap();
        let found = scan::scan(&bytes).unwrap();
        for frame in &found.frames {
            let turn = u64::from_le_bytes(frame.payload[1..9].try_into().unwrap());
            assert_eq!(frame.payload, payload(frame.flags, turn), "round {round}: torn");
        }
        for (seq, thread, turn) in acknowledged {
            let frame = found.frames.iter().find(|frame| frame.seq == seq);
            let frame = frame.unwrap_or_else(|| panic!("round {round}: record {seq} is lost"));
            assert_eq!(frame.payload, payload(thread, turn), "round {round}");
        }
    }
}
