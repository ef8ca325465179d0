//! Encoders: candle beside ONNX Runtime on the same weights, and what padding costs in batches of mixed lengths.
//!
//! Run by `cargo xtask encoders`, which fetches MiniLM's weights and names their folder (CROSSFADE_MINILM); without it there is
//! nothing to measure. Ratios, measured in turns in one process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossfade_batcher::{Batcher, BatcherOptions, Job, Pending};
use crossfade_runtimes::{RuntimeChoice, Runtimes, RuntimesOptions};
use crossfade_runtimes_core::{
    Datatype, Instance, InstanceOptions, Model, ModelSignature, ModelSource, Outputs, Padding, Shape, Tensor,
};

/// Rounds of each measurement, in turns; the best counts, as the machine has other work.
const ROUNDS: usize = 7;
/// One slice of a round.
const SLICE: Duration = Duration::from_millis(400);
/// Requests of mixed lengths.
const REQUESTS: usize = 400;

fn main() -> Result<()> {
    let Some(folder) = std::env::var_os("CROSSFADE_MINILM").map(PathBuf::from) else {
        say("no weights are named (CROSSFADE_MINILM): nothing is measured; run `cargo xtask encoders`");
        return Ok(());
    };
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: std::env::var_os("CROSSFADE_ORT_LIBRARY").map(PathBuf::from),
        intra_threads: 0,
        cuda_lib_dirs: Vec::new(),
    });
    beside(&runtimes, &folder)?;
    padding(&runtimes, &folder)
}

#[expect(clippy::print_stdout, reason = "the bench's result")]
fn say(line: &str) {
    println!("{line}");
}

fn load(runtimes: &Runtimes, folder: &Path, name: &str, threads: &str) -> Result<Box<dyn Model>> {
    let (choice, file) = match name {
        "candle" => (RuntimeChoice::Candle, "model.safetensors"),
        _ => (RuntimeChoice::Ort, "model.onnx"),
    };
    let path = folder.join(file);
    let runtime = runtimes.get(&choice, &path)?;
    let parameters = [("intra_op_thread_count".to_owned(), threads.to_owned())];
    let source = ModelSource {
        path,
        parameters: parameters.into(),
        ..ModelSource::default()
    };
    runtime
        .load(&source)
        .with_context(|| format!("{name} does not load it"))
}

/// Tokens, all of which count: `[rows, columns]` for each input.
fn tokens(rows: usize, columns: usize, inputs: usize) -> Vec<Tensor> {
    let int64 = |value: &dyn Fn(usize) -> usize| Tensor {
        datatype: Datatype::Int64,
        shape: Shape::from([rows, columns]),
        data: (0..rows * columns)
            .flat_map(|k| (value(k) as u64).to_le_bytes())
            .collect::<Vec<u8>>()
            .into(),
    };
    let all = [int64(&|k| 999 + k * 37 % 20_000), int64(&|_| 1), int64(&|_| 0)];
    all.into_iter().take(inputs).collect()
}

/// Seconds of the fastest run in a slice.
fn fastest(instance: &mut dyn Instance, inputs: &[Tensor], outputs: usize) -> Result<f64> {
    let views: Vec<_> = inputs.iter().map(|tensor| Some(tensor.view())).collect();
    let (begun, mut best) = (Instant::now(), f64::MAX);
    while begun.elapsed() < SLICE {
        let start = Instant::now();
        instance.run(&views, &mut Outputs::all(outputs))?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// The same batches in both runtimes.
fn beside(runtimes: &Runtimes, folder: &Path) -> Result<()> {
    say(
        "candle beside ONNX Runtime, MiniLM, milliseconds per run and their ratio (below 1: candle is faster)",
    );
    for threads in ["1", "2"] {
        let candle = load(runtimes, folder, "candle", threads)?;
        let ort = load(runtimes, folder, "ort", threads)?;
        let mut instances = [
            candle.instantiate(&InstanceOptions::default())?,
            ort.instantiate(&InstanceOptions::default())?,
        ];
        let counts = [&candle, &ort].map(|model| model.signature().inputs.len());
        for (rows, columns) in [
            (1, 8),
            (1, 32),
            (8, 32),
            (32, 32),
            (1, 128),
            (8, 128),
            (1, 512),
            (4, 512),
        ] {
            let mut best = [f64::MAX; 2];
            for _ in 0..ROUNDS {
                for (k, instance) in instances.iter_mut().enumerate() {
                    let inputs = tokens(rows, columns, counts[k]);
                    best[k] = best[k].min(fastest(&mut **instance, &inputs, 1)?);
                }
            }
            let [candle, ort] = best.map(|seconds| seconds * 1e3);
            say(&format!(
                "{threads} threads, {rows:2} × {columns:3} tokens: candle {candle:7.2}, ort {ort:7.2}, ratio {:.2}",
                candle / ort
            ));
        }
    }
    Ok(())
}

/// Ways of batching the same requests.
const WAYS: [(&str, &str, bool); 3] = [
    ("candle, padding left out", "candle", true),
    ("ort, padding bounded", "ort", true),
    ("ort, padding as it comes", "ort", false),
];

/// Requests of 5 to 256 tokens, all there at once, through batchers that merge them in different ways.
fn padding(runtimes: &Runtimes, folder: &Path) -> Result<()> {
    say(
        "mixed lengths, 5 to 256 tokens, one instance of one thread, tokens per second (padding not counted)",
    );
    let lengths: Vec<usize> = (0..REQUESTS).map(|k| 5 + (k * k * 31 + k * 7) % 252).collect();
    let total: usize = lengths.iter().sum();
    let mut best = [0.0f64; 3];
    for _ in 0..3 {
        for (best, (_, name, bounded)) in best.iter_mut().zip(WAYS) {
            let model: Arc<dyn Model> = load(runtimes, folder, name, "1")?.into();
            let batcher = batcher(model.as_ref(), bounded)?;
            let jobs: Vec<Job> = lengths
                .iter()
                .map(|&length| job(model.signature(), length))
                .collect();
            let start = Instant::now();
            let pending: Vec<Pending> = jobs
                .into_iter()
                .map(|job| batcher.submit(job))
                .collect::<Result<_, _>>()?;
            for pending in pending {
                pending.wait()?;
            }
            *best = best.max(total as f64 / start.elapsed().as_secs_f64());
        }
    }
    for (tokens, (what, ..)) in best.iter().zip(WAYS) {
        say(&format!(
            "{what:26} {tokens:6.0} tokens/s, {:.2} of the first",
            tokens / best[0]
        ));
    }
    Ok(())
}

/// A batcher of up to 2048 elements; unless `bounded`, whatever the padding.
fn batcher(model: &dyn Model, bounded: bool) -> Result<Batcher> {
    let own = model.signature();
    let mut signature = ModelSignature {
        batched: true,
        skips_padding: own.skips_padding || !bounded,
        ..own.clone()
    };
    for spec in signature.inputs.iter_mut().chain(&mut signature.outputs) {
        if spec.shape.get(1).is_some_and(|dim| dim.fixed().is_none()) {
            spec.padding = Some(Padding { dim: 1, fill: 0 });
        }
        spec.optional = false;
    }
    let options = BatcherOptions {
        max_elements: 2048,
        max_queue_requests: REQUESTS,
        ..BatcherOptions::new("minilm/1", 1024)
    };
    let instance = model.instantiate(&InstanceOptions::default())?;
    let factory = Arc::new(|| unreachable!("no instance panics"));
    Ok(Batcher::start(
        Arc::new(signature),
        vec![instance],
        factory,
        options,
        Arc::new(()),
    )?)
}

fn job(signature: &ModelSignature, length: usize) -> Job {
    Job {
        inputs: tokens(1, length, signature.inputs.len())
            .into_iter()
            .map(Some)
            .collect(),
        outputs: vec![0],
        rows: 1,
        priority: 0,
        deadline: None,
        arrived: Instant::now(),
    }
}
