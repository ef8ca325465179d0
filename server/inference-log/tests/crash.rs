//! A process that is killed at any moment loses no record whose append had returned, and leaves nothing twice.
//!
//! A child writes, seals, compacts and removes at once, and says which records are appended. It is killed after some time, or kills
//! itself in one of the places where that could hurt. Then its folder is read as it is, recovered as the next start does, and read
//! again. `cargo xtask crash` runs more rounds than the test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use crossfade_inference_log::{
    Keys, Kind, Log, LogError, Mark, Origin, Record, Sealer, Selection, Writer, Written, segments_in, verify,
};
use uuid::Uuid;

/// Rounds unless told otherwise.
const ROUNDS: u64 = 24;
const ROUNDS_VARIABLE: &str = "CROSSFADE_CRASH_ROUNDS";
/// Where the child writes; unset in the parent.
const FOLDER: &str = "CROSSFADE_CRASH_FOLDER";
const KILL_AT: &str = "CROSSFADE_KILL_AT";
const THREADS: u64 = 3;
const BYTES: u32 = 12 << 20;
/// Rounds in one folder: each begins with what the one before left.
const TOGETHER: u64 = 4;
/// Where the child kills itself, and how often it comes there: often, seldom.
const PLACES: [(&str, u64); 12] = [
    ("reserved", 1000),
    ("filled", 1000),
    ("published", 1000),
    ("allocated", 8),
    ("written", 12),
    ("sealed", 6),
    ("listed", 6),
    ("compacted", 2),
    ("superseded", 2),
    ("removed", 2),
    ("erased", 2),
    ("", 1),
];

/// One of no model that is looked for: its files may be removed.
const JUNK: &str = "junk";
/// Whom half of those records are about, until they are erased.
const SUBJECT: [u8; 16] = [0xa1; 16];

fn record(id: Uuid, model: &'static str) -> Vec<u8> {
    let record = Record {
        request_id: *id.as_bytes(),
        ts_us: 1_795_435_200_000_000,
        outcome: "ok",
        subject_key: (model == JUNK && id.as_bytes()[15].is_multiple_of(2)).then_some(SUBJECT),
        origin: Origin {
            model,
            version: "1",
            ..Origin::default()
        },
        ..Record::default()
    };
    let mut head = Vec::new();
    record.encode(&mut head);
    head
}

/// Seals what an earlier process left, as the server does when it starts.
fn recovered(folder: &Path) -> Sealer {
    let mut sealer = Sealer::open(folder, &Keys::none()).unwrap();
    for path in sealer.found().unwrap() {
        sealer.seal(&path).unwrap();
    }
    sealer
}

#[test]
#[ignore = "the child of the other test: it writes until it is killed"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let mut sealer = recovered(&folder);
    let run = Uuid::now_v7();
    let writer = Writer::open(&segments_in(&folder), BYTES, "", run, &Keys::none()).unwrap();
    let (received, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    let out = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (writer, out, received, lost) = (&writer, &out, &received, &lost);
            scope.spawn(move || {
                loop {
                    let id = Uuid::now_v7();
                    let is_junk = thread == 0;
                    let payload = record(id, if is_junk { JUNK } else { "m" });
                    let written = writer.append(Kind::Inference, 0, &[&payload]);
                    if !matches!(written, Written::Done | Written::Next) {
                        lost.fetch_add(1, SeqCst);
                    } else if !is_junk && writeln!(out.lock().unwrap(), "acknowledged {id}").is_err() {
                        return;
                    }
                    received.fetch_add(1, SeqCst);
                    // As many requests as a server has, and not as fast as memory.
                    std::thread::park_timeout(Duration::from_micros(20));
                }
            });
        }
        for turn in 0_u64.. {
            writer.prepare().unwrap();
            let mark = Mark {
                run,
                received: received.load(SeqCst),
                sampled_out: 0,
                lost: lost.load(SeqCst),
                last: false,
            };
            writer.append(Kind::Mark, 0, &[&mark.encode()]);
            writer.sync().unwrap();
            writer.rotate();
            for segment in writer.take_full() {
                let path = segment.path().to_owned();
                drop(segment);
                sealer.seal(&path).unwrap();
            }
            if turn % 3 == 2 {
                sealer.compact(2, 1 << 30).unwrap();
            }
            if turn % 5 == 4 {
                sealer.erase(SUBJECT).unwrap();
            } else if turn % 4 == 3 {
                let files = sealer.manifest().content().files.keys();
                let junk = files.filter(|file| file.starts_with("log/model=junk/")).cloned();
                let junk: Vec<String> = junk.collect();
                sealer.remove(junk, "retention").unwrap();
            }
        }
    });
}

/// Lets a child write until it is killed, or kills itself; returns what it acknowledged.
fn killed(folder: &Path, place: Option<(&str, u64)>, after: Duration) -> Vec<Uuid> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env_remove(KILL_AT)
        .stdout(Stdio::piped());
    if let Some((place, count)) = place {
        command.env(KILL_AT, format!("{place}:{count}"));
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (began, mut acknowledged) = (Instant::now(), Vec::new());
    // A place that is not come to must not be waited for.
    let longest = if place.is_some() {
        Duration::from_secs(20)
    } else {
        after
    };
    let mut is_killed = false;
    while let Some(Ok(line)) = lines.next() {
        // A last line that the kill cut short is no acknowledgement.
        if let Some((_, id)) = line.split_once("acknowledged ")
            && id.len() == 36
        {
            acknowledged.push(id.parse().unwrap());
        }
        if !is_killed && began.elapsed() >= longest {
            is_killed = true;
            child.kill().unwrap();
        }
    }
    let ended = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended),
        Some(9),
        "it ended by itself: {ended}"
    );
    assert!(place.is_none() || !is_killed, "{place:?} was not come to");
    acknowledged
}

/// Every id in the log but those that may be removed.
fn logged(folder: &Path) -> Vec<Uuid> {
    let mut ids = Vec::new();
    let wanted = Selection {
        model: Some("m".to_owned()),
        ..Selection::default()
    };
    let log = Log::open(folder, &Keys::none()).unwrap();
    log.each(&wanted, |table| -> Result<(), LogError> {
        let column = table.column_by_name("request_id").unwrap().as_fixed_size_binary();
        ids.extend(column.iter().map(|id| Uuid::from_slice(id.unwrap()).unwrap()));
        Ok(())
    })
    .unwrap();
    ids
}

/// The files below `log`.
fn files(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => drop(into.insert(path)),
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_there_twice() {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<Uuid> = Vec::new();
    for round in 0..rounds {
        if round % TOGETHER == 0 {
            folder = tempfile::tempdir().unwrap();
            acknowledged.clear();
        }
        let (place, often) = PLACES[usize::try_from(round).unwrap() % PLACES.len()];
        let count = 1 + round.wrapping_mul(2_654_435_761) % often;
        let place = (!place.is_empty()).then_some((place, count));
        let after = Duration::from_millis(5 + round * 7919 % 300);
        acknowledged.extend(killed(folder.path(), place, after));
        let told = format!("round {round}: {place:?} {after:?}");

        // As it lies there: all is there, and whoever checks it finds nothing changed.
        let check = |when: &str| {
            let verified = verify(folder.path(), &Keys::none()).unwrap();
            assert!(
                verified.damaged.is_empty(),
                "{told} {when}: {:?}",
                verified.damaged
            );
            let found = logged(folder.path());
            let unique: BTreeSet<Uuid> = found.iter().copied().collect();
            assert_eq!(
                unique.len(),
                found.len(),
                "{told} {when}: something is there twice"
            );
            let lost = acknowledged.iter().filter(|id| !unique.contains(id)).count();
            assert_eq!(lost, 0, "{told} {when}: of {}", acknowledged.len());
        };
        check("as it was left");
        let sealer = recovered(folder.path());
        check("recovered");
        let mut there = BTreeSet::new();
        files(&folder.path().join("log"), &mut there);
        there.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        let named = sealer.manifest().content().files.keys();
        let named: BTreeSet<PathBuf> = named
            .filter(|path| path.starts_with("log/"))
            .map(|path| folder.path().join(path))
            .collect();
        assert_eq!(there, named, "{told}: files that the manifest does not name");
    }
}
