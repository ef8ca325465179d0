//! A request of the log is answered as it was, or it is said why not.

use std::fs;

use clap::Parser;
use crossfade_inference_log::{
    Batch as LoggedBatch, Keys, Kind, LoggedTensor, Origin, Record, Schema, Schemas, Sealer, Side, Writer,
    schemas_in, segments_in,
};
use crossfade_runtimes_core::{Shape, ShapeSpec, TensorSpec};
use crossfade_runtimes_fake::FakeRuntime;
use tempfile::TempDir;

use super::*;
use crate::config::{Cli, Command, DiffArgs};

/// The model `m`, whose version `n` adds `n`, and a log.
struct World {
    repository: TempDir,
    data: TempDir,
    writer: Writer,
    schema: u16,
}

fn runtimes() -> Arc<Runtimes> {
    let mut runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: Some("/nonexistent/libonnxruntime.so".into()),
        intra_threads: 1,
        cuda_lib_dirs: Vec::new(),
    });
    runtimes.register(Arc::new(FakeRuntime::new()));
    Arc::new(runtimes)
}

impl World {
    fn new() -> Self {
        let repository = tempfile::tempdir().unwrap();
        for version in 1..=2 {
            let folder = repository.path().join(format!("m/{version}"));
            fs::create_dir_all(&folder).unwrap();
            let file = format!("input x FP32 -1,2\noutput y FP32 -1,2\nbatched\nop add {version}\n");
            fs::write(folder.join("model.fake"), file).unwrap();
        }
        let toml = "[model]\nruntime = 'fake'\nfile = 'model.fake'\n";
        fs::write(repository.path().join("m/model.toml"), toml).unwrap();
        let data = tempfile::tempdir().unwrap();
        drop(Sealer::open(data.path(), &Keys::none()).unwrap());
        let column = |name: &str| TensorSpec::new(name, Datatype::Fp32, ShapeSpec::from(&[-1, 2][..]));
        let signature = crossfade_runtimes_core::ModelSignature {
            inputs: vec![column("x")],
            outputs: vec![column("y")],
            batched: true,
            ..Default::default()
        };
        let mut schemas = Schemas::open(&schemas_in(data.path())).unwrap();
        Self {
            schema: schemas.number(&Schema::of(&signature)).unwrap(),
            writer: Writer::open(
                &segments_in(data.path()),
                20 << 20,
                "",
                Uuid::nil(),
                &Keys::none(),
            )
            .unwrap(),
            repository,
            data,
        }
    }

    /// Records that version 1 said so to `x`; returns the id.
    fn answered(&self, x: &[f32], y: &[f32], change: impl FnOnce(&mut Record<'_>)) -> Uuid {
        let id = Uuid::now_v7();
        let (seconds, _) = id.get_timestamp().unwrap().to_unix();
        let digest = digest::of(&self.repository.path().join("m/1")).unwrap();
        let bytes = |values: &[f32]| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let (x, y) = (bytes(x), bytes(y));
        let rows = x.len() as u64 / 8;
        let tensor = |side, bytes| LoggedTensor {
            side,
            column: 0,
            shape: vec![rows, 2],
            bytes,
        };
        let mut kept = crate::recorder::Kept::default();
        let input = Tensor {
            datatype: Datatype::Fp32,
            shape: Shape::from([usize::try_from(rows).unwrap(), 2]),
            data: x.clone().into(),
        };
        kept.asked(&[Some(input)], 1);
        let mut sha256 = [0; 32];
        for (place, byte) in sha256.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digest[2 * place..2 * place + 2], 16).unwrap();
        }
        let mut record = Record {
            request_id: *id.as_bytes(),
            ts_us: i64::try_from(seconds).unwrap() * 1_000_000,
            outcome: "ok",
            stage: "stable",
            rows: u32::try_from(rows).unwrap(),
            in_digest: kept.digest(),
            origin: Origin {
                model: "m",
                version: "1",
                artifact_sha256: Some(sha256),
                ..Origin::default()
            },
            tensors: vec![tensor(Side::Input, &x), tensor(Side::Output, &y)],
            ..Record::default()
        };
        change(&mut record);
        let mut head = Vec::new();
        record.encode(&mut head);
        let mut parts = vec![head.as_slice()];
        parts.extend(record.tensors.iter().map(|tensor| tensor.bytes));
        self.writer.append(Kind::Inference, self.schema, &parts);
        id
    }

    fn flags(&self) -> Vec<String> {
        let path = |folder: &TempDir| folder.path().display().to_string();
        vec![
            "--data-dir".into(),
            path(&self.data),
            "--model-repository".into(),
            path(&self.repository),
        ]
    }

    fn replay(&self, id: Uuid) -> Result<Replayed> {
        let words = ["crossfade".to_owned(), "replay".to_owned(), id.to_string()];
        let parsed = Cli::try_parse_from(words.into_iter().chain(self.flags())).unwrap();
        let Command::Replay(args) = parsed.command else {
            unreachable!("it was asked for")
        };
        Asker::new(&args, runtimes())?.replay(id)
    }

    fn diff_args(&self, more: &[&str]) -> DiffArgs {
        let words = ["crossfade", "diff", "1", "2", "--model", "m"]
            .iter()
            .chain(more)
            .map(|word| (*word).to_owned());
        let parsed = Cli::try_parse_from(words.chain(self.flags())).unwrap();
        let Command::Diff(args) = parsed.command else {
            unreachable!("it was asked for")
        };
        args
    }
}

fn refused(replayed: Result<Replayed>) -> String {
    format!("{:#}", replayed.unwrap_err())
}

#[test]
fn a_request_is_answered_as_it_was_or_how_not_is_said() {
    let world = World::new();
    let same = world.answered(&[1.0, 2.0], &[2.0, 3.0], |_| {});
    let other = world.answered(&[1.0, 2.0], &[2.0, 3.5], |_| {});
    let replayed = world.replay(same).unwrap();
    assert_eq!(replayed.differences, [""; 0], "{}", replayed.about);
    let replayed = world.replay(other).unwrap();
    let [difference] = replayed.differences.as_slice() else {
        panic!("{replayed:?}")
    };
    assert!(difference.starts_with("y: 1 of 2 numbers differ"), "{difference}");
    assert!(difference.ends_with("number 1 was 3.5, and is 3"), "{difference}");
    // The files of version 1, wherever they are now.
    fs::rename(
        world.repository.path().join("m/1"),
        world.repository.path().join("m/7"),
    )
    .unwrap();
    assert!(world.replay(same).unwrap().differences.is_empty());
}

#[test]
fn what_cannot_be_replayed_says_why() {
    let world = World::new();
    let unknown = refused(world.replay(Uuid::now_v7()));
    assert!(unknown.contains("not in this log"), "{unknown}");
    let failed = world.answered(&[1.0, 2.0], &[], |record| {
        record.outcome = "internal";
        record.error = Some("it broke");
    });
    let failed = refused(world.replay(failed));
    assert!(failed.contains("internal: it broke"), "{failed}");
    let bare = world.answered(&[1.0, 2.0], &[2.0, 3.0], |record| record.tensors.clear());
    let bare = refused(world.replay(bare));
    assert!(
        bare.contains("input `x`") && bare.contains("payload.max_bytes"),
        "{bare}"
    );
    let unanswered = world.answered(&[1.0, 2.0], &[2.0, 3.0], |record| drop(record.tensors.pop()));
    let unanswered = refused(world.replay(unanswered));
    assert!(unanswered.contains("its answer"), "{unanswered}");
    let forged = world.answered(&[1.0, 2.0], &[2.0, 3.0], |record| {
        record.in_digest = Some([1; 16])
    });
    let forged = refused(world.replay(forged));
    assert!(forged.contains("digest"), "{forged}");
    let request = world.answered(&[1.0, 2.0], &[2.0, 3.0], |_| {});
    fs::write(world.repository.path().join("m/1/more"), "").unwrap();
    let changed = refused(world.replay(request));
    assert!(changed.contains("is made of"), "{changed}");
    fs::remove_dir_all(world.repository.path().join("m/1")).unwrap();
    let gone = refused(world.replay(request));
    assert!(gone.contains("is not there any more"), "{gone}");
}

/// What ran together runs together again, each member at its place; where one is missing that is said.
#[test]
fn a_batch_is_put_together_again() {
    let world = World::new();
    let member = |index: u16, x: &[f32], y: &[f32]| {
        world.answered(x, y, |record| {
            record.batch = Some(LoggedBatch {
                id: 5,
                rows: 4,
                index,
            });
        })
    };
    let last = member(2, &[7.0, 8.0], &[8.0, 9.0]);
    let first = member(0, &[1.0, 2.0], &[2.0, 3.0]);
    let alone = world.replay(first).unwrap();
    assert!(
        alone.differences.is_empty() && alone.about.contains("of which 2 are in the log"),
        "{alone:?}"
    );
    let middle = member(1, &[3.0, 4.0, 5.0, 6.0], &[4.0, 5.0, 6.0, 7.0]);
    for id in [first, middle, last] {
        let replayed = world.replay(id).unwrap();
        assert!(replayed.differences.is_empty(), "{replayed:?}");
        assert!(
            replayed.about.contains("in its batch of 3 requests, 4 rows"),
            "{replayed:?}"
        );
    }
}

#[test]
fn two_versions_differ_by_what_they_say() {
    let world = World::new();
    world.answered(&[1.0, 2.0], &[2.0, 3.0], |_| {});
    let request = world.answered(&[3.0, 4.0], &[4.0, 5.0], |_| {});
    world.answered(&[5.0, 6.0], &[6.0, 7.0], |record| record.tensors.clear());
    world.answered(&[5.0, 6.0], &[6.0, 7.0], |record| record.stage = "shadow");
    let found = crate::app::diff::diff(&world.diff_args(&[]), runtimes()).unwrap();
    let text = serde_json::to_value(&found).unwrap();
    assert_eq!(
        (&text["requests"], &text["left_out"]),
        (&2.into(), &1.into()),
        "{text}"
    );
    assert_eq!((&text["flips"], &text["forms"]), (&2.into(), &0.into()), "{text}");
    assert_eq!(
        (&text["max_abs_diff"], &text["mean_abs_diff"]),
        (&1.0.into(), &1.0.into()),
        "{text}"
    );
    let newest = crate::app::diff::diff(&world.diff_args(&["--limit", "1"]), runtimes()).unwrap();
    assert_eq!(serde_json::to_value(&newest).unwrap()["requests"], 1);
    let _ = request;
    let same = crate::app::diff::diff(
        &DiffArgs {
            other: 1,
            ..world.diff_args(&[])
        },
        runtimes(),
    )
    .unwrap();
    assert_eq!(serde_json::to_value(&same).unwrap()["flips"], 0);
}

#[test]
fn numbers_that_are_near_are_the_same_where_that_is_wanted() {
    let tensor = |values: &[f32]| Tensor {
        datatype: Datatype::Fp32,
        shape: Shape::from([values.len()]),
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    };
    let next = f32::from_bits(1.0_f32.to_bits() + 2);
    assert!(differs(&tensor(&[1.0]), Some(&tensor(&[next])), 1).is_some());
    assert_eq!(differs(&tensor(&[1.0]), Some(&tensor(&[next])), 2), None);
    // Over zero: the least numbers of both signs are two apart, and both zeros are one number.
    let least = f32::from_bits(1);
    assert_eq!(differs(&tensor(&[least]), Some(&tensor(&[-least])), 2), None);
    assert!(differs(&tensor(&[least]), Some(&tensor(&[-least])), 1).is_some());
    assert_eq!(differs(&tensor(&[0.0]), Some(&tensor(&[-0.0])), 0), None);
    assert!(differs(&tensor(&[1.0]), None, 9).is_some());
    assert!(differs(&tensor(&[1.0]), Some(&tensor(&[1.0, 2.0])), 9).is_some());
}
