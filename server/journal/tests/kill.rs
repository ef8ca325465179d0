//! A writer that is killed at any moment loses no record that it acknowledged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crossfade_journal::{Journal, Purpose, Reader, snapshot};

const ROUNDS: u64 = 20;
/// Where the child writes; unset in the parent.
const FOLDER: &str = "CROSSFADE_JOURNAL_KILL_FOLDER";

/// Payloads of 1 to 5000 bytes that say which record they are.
fn payload(seq: u64) -> Vec<u8> {
    let length = usize::try_from(1 + seq * 7919 % 5000).unwrap();
    seq.to_le_bytes().into_iter().cycle().take(length).collect()
}

#[test]
#[ignore = "the child of the other test: it writes until it is killed"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let (mut journal, _) = Journal::open(&folder.join("log"), Purpose::Rollout).unwrap();
    let mut out = std::io::stdout();
    loop {
        let seq = journal.append(&payload(journal.head().seq + 1)).unwrap().seq;
        snapshot::replace(&folder.join("last"), &seq.to_le_bytes()).unwrap();
        if writeln!(out, "acknowledged {seq}")
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Lets a child append `count` records or more, kills it, and returns the last one it acknowledged.
fn killed_after(folder: &Path, count: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The first one stands behind what the test harness says on the same line.
        let line = line.unwrap();
        if let Some((_, seq)) = line.split_once("acknowledged ") {
            acknowledged.push(seq.parse::<u64>().unwrap());
        }
        if acknowledged.len() as u64 == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() as u64 >= count, "{acknowledged:?}");
    acknowledged.pop().unwrap()
}

#[test]
fn acknowledged_records_survive_kill() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("log");
    let mut before = 0;
    for round in 0..ROUNDS {
        let acknowledged = killed_after(folder.path(), 1 + round * 5 % 13);
        let (journal, _) = Journal::open(&path, Purpose::Rollout).unwrap();
        let head = journal.head();
        assert!(head.seq >= acknowledged && acknowledged > before, "round {round}");
        for record in Reader::open(&path).unwrap() {
            let record = record.unwrap();
            assert_eq!(record.payload, payload(record.seq), "round {round}");
        }
        let last = snapshot::read(&folder.path().join("last")).unwrap().unwrap();
        let last = u64::from_le_bytes(last.try_into().unwrap());
        assert!(acknowledged <= last && last <= head.seq, "round {round}");
        before = head.seq;
    }
}
