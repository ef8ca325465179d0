//! What the inference log costs where nobody else is: a record on a request's thread, by either way to the kernel, and a row sealed.
//!
//! The server appends to a mapping that it shares with the kernel. The other way, a thread that writes what others hand over, is
//! here alone, to be measured beside it.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossfade_inference_log::{
    Column, KEY_BYTES, Keys, Kind, LoggedTensor, Origin, Record, Schema, Schemas, Sealer, Side, WrappingKey,
    Writer, Written, schemas_in, segments_in,
};

const SEGMENT_BYTES: u32 = 64 << 20;
/// Of a segment that is sealed.
const ROWS: u32 = 100_000;

/// A record of a request of one row.
fn record<'a>(input: &'a [u8], output: &'a [u8]) -> Record<'a> {
    let tensor = |side, bytes: &'a [u8]| LoggedTensor {
        side,
        column: 0,
        shape: vec![1, bytes.len() as u64 / 4],
        bytes,
    };
    Record {
        request_id: [7; 16],
        ts_us: 1_795_435_200_000_000,
        ts_mono_ns: 1,
        outcome: "ok",
        status_code: 200,
        protocol: "grpc_v2",
        stage: "stable",
        rows: 1,
        times_us: [Some(10); 7],
        sampling_p: 1.0,
        in_digest: Some([1; 16]),
        route_reason: Some("only"),
        origin: Origin {
            model: "model",
            version: "1",
            artifact_sha256: Some([2; 32]),
            config_rev: Some([3; 32]),
            runtime: Some("ort"),
            device: Some("cpu"),
        },
        tensors: vec![tensor(Side::Input, input), tensor(Side::Output, output)],
        ..Record::default()
    }
}

/// Numbers that do not compress better than measured ones.
fn floats(count: usize, seed: u32) -> Vec<u8> {
    let numbers = (0..count).scan(seed, |state, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(f32::from_bits(*state >> 9 | 0x3f80_0000) - 1.0)
    });
    numbers.flat_map(f32::to_le_bytes).collect()
}

/// Appends a record to the mapping, as a request does; makes room outside of the clock.
fn mapped(folder: &Path, keys: &Keys, iterations: u64) -> Duration {
    let writer = Writer::open(folder, SEGMENT_BYTES, "", uuid(), keys).expect("a segment");
    writer.prepare().expect("another one");
    let (input, output) = (floats(100, 1), floats(2, 2));
    let mut head = Vec::new();
    let mut took = Duration::ZERO;
    let mut began = Instant::now();
    for _ in 0..iterations {
        head.clear();
        let record = record(&input, &output);
        record.encode(&mut head);
        let parts = [head.as_slice(), record.tensors[0].bytes, record.tensors[1].bytes];
        if black_box(writer.append(Kind::Inference, 1, &parts)) == Written::Next {
            took += began.elapsed();
            for segment in writer.take_full() {
                std::fs::remove_file(segment.path()).expect("it is there");
            }
            writer.prepare().expect("another one");
            began = Instant::now();
        }
    }
    took += began.elapsed();
    for segment in writer.end() {
        std::fs::remove_file(segment.path()).expect("it is there");
    }
    took
}

/// A thread that writes what others hand over, 64 KiB at once or what there is after a millisecond.
#[derive(Default)]
struct Handed {
    /// What waits, how many bytes were handed over, how many of those are written, and whether it ends.
    state: Mutex<(Vec<u8>, u64, u64, bool)>,
    changed: Condvar,
}

impl Handed {
    fn write(&self, mut file: File) {
        let mut taken = Vec::new();
        loop {
            let state = self.state.lock().expect("nobody panics");
            let waited = self
                .changed
                .wait_timeout_while(state, Duration::from_millis(1), |state| {
                    state.0.len() < 64 << 10 && !state.3
                });
            let mut state = waited.expect("nobody panics").0;
            let ends = state.3 && state.0.is_empty();
            taken.clear();
            std::mem::swap(&mut taken, &mut state.0);
            drop(state);
            file.write_all(&taken).expect("there is room");
            let mut state = self.state.lock().expect("nobody panics");
            state.2 += taken.len() as u64;
            self.changed.notify_all();
            if ends {
                return;
            }
        }
    }

    /// Hands a record over; with `kernel`, waits until it is written.
    fn append(&self, parts: &[&[u8]], kernel: bool) {
        let mut state = self.state.lock().expect("nobody panics");
        for part in parts {
            state.0.extend_from_slice(part);
            state.1 += part.len() as u64;
        }
        let mine = state.1;
        if kernel || state.0.len() >= 64 << 10 {
            self.changed.notify_all();
        }
        if kernel {
            drop(self.changed.wait_while(state, |state| state.2 < mine));
        }
    }
}

/// Hands a record over to a thread, as a request would.
fn handed(folder: &Path, iterations: u64, kernel: bool) -> Duration {
    let path = folder.join("handed");
    let file = File::create(&path).expect("a file");
    let handed = Arc::new(Handed::default());
    let writer = handed.clone();
    let thread = std::thread::spawn(move || writer.write(file));
    let (input, output) = (floats(100, 1), floats(2, 2));
    let mut head = Vec::new();
    let began = Instant::now();
    for _ in 0..iterations {
        head.clear();
        let record = record(&input, &output);
        record.encode(&mut head);
        handed.append(&[&head, record.tensors[0].bytes, record.tensors[1].bytes], kernel);
    }
    let took = began.elapsed();
    handed.state.lock().expect("nobody panics").3 = true;
    handed.changed.notify_all();
    thread.join().expect("it ends");
    std::fs::remove_file(path).expect("it is there");
    took
}

fn uuid() -> uuid::Uuid {
    uuid::Uuid::nil()
}

fn append(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = criterion.benchmark_group("log/append 100 FP32");
    group.throughput(Throughput::Elements(1));
    group.bench_function("mapping", |bench| {
        bench.iter_custom(|iterations| mapped(folder.path(), &Keys::none(), iterations))
    });
    let keys = keys(folder.path());
    group.bench_function("mapping, encrypted", |bench| {
        bench.iter_custom(|iterations| mapped(folder.path(), &keys, iterations))
    });
    group.bench_function("thread, in memory", |bench| {
        bench.iter_custom(|iterations| handed(folder.path(), iterations, false));
    });
    group.sample_size(10);
    group.bench_function("thread, in the kernel", |bench| {
        bench.iter_custom(|iterations| handed(folder.path(), iterations, true));
    });
    group.finish();
}

fn keys(data_dir: &Path) -> Keys {
    Keys::open(data_dir, vec![WrappingKey::new([7; KEY_BYTES])]).expect("keys")
}

/// Seals a segment of rows of 20 features.
fn sealed(data_dir: &Path, keys: &Keys) -> Duration {
    let mut sealer = Sealer::open(data_dir, keys).expect("a log");
    let column = |name: &str, width| Column {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![-1, width],
        policy: None,
    };
    let schema = Schema {
        batched: true,
        inputs: vec![column("x", 20)],
        outputs: vec![column("y", 2)],
    };
    let mut schemas = Schemas::open(&schemas_in(data_dir)).expect("schemas");
    let schema = schemas.number(&schema).expect("a number");
    let writer = Writer::open(&segments_in(data_dir), SEGMENT_BYTES, "", uuid(), keys).expect("a segment");
    let mut head = Vec::new();
    for row in 0..ROWS {
        head.clear();
        let (input, output) = (floats(20, row), floats(2, row));
        let record = record(&input, &output);
        record.encode(&mut head);
        writer.append(Kind::Inference, schema, &[&head, &input, &output]);
    }
    let mut took = Duration::ZERO;
    for segment in writer.end() {
        let path = segment.path().to_owned();
        drop(segment);
        let began = Instant::now();
        black_box(sealer.seal(&path).expect("it is sealed"));
        took += began.elapsed();
    }
    took
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/seal 20 FP32");
    group.throughput(Throughput::Elements(ROWS.into()));
    group.sample_size(10);
    for (name, is_encrypted) in [("row", false), ("row, encrypted", true)] {
        group.bench_function(name, |bench| {
            bench.iter_custom(|iterations| {
                let each = (0..iterations).map(|_| {
                    let folder = tempfile::tempdir().expect("a folder");
                    let keys = if is_encrypted {
                        keys(folder.path())
                    } else {
                        Keys::none()
                    };
                    sealed(folder.path(), &keys)
                });
                each.sum()
            });
        });
    }
    group.finish();
}

criterion_group!(log, append, seal);
criterion_main!(log);
