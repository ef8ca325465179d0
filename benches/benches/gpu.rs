//! A model on a GPU: its results, what batches and instances are worth there, and the server beside a loop in process.
//!
//! Run by `cargo xtask gpu` on a machine with one; without, it says so and measures nothing. Prints what it finds, and writes
//! it as JSON where `CROSSFADE_GPU_RESULTS` says.

#[path = "serve/clients.rs"]
mod clients;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossfade_benches::Process;
use crossfade_runtimes::{RuntimeChoice, Runtimes, RuntimesOptions};
use crossfade_runtimes_conformance::onnx::{ModelBuilder, Value, named};
use crossfade_runtimes_conformance::tensors::{tensor, to_f64};
use crossfade_runtimes_core::{
    AlignedBuffer, Datatype, Device, Dim, Instance, InstanceOptions, Model, ModelSource, OutputSlot, Outputs,
    Runtime, Shape, TensorView,
};
use serde_json::{Value as Json, json};

use clients::Client;

/// Floats per row: 4 KB each way.
const WIDTH: usize = 1024;
/// Matrices of `WIDTH²`, so that a run computes as well as it copies.
const LAYERS: usize = 4;
/// So many that computing takes long beside the host's copies.
const DEEP: usize = 64;
/// One measurement.
const ROUND: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let Some(device) = std::env::var_os("CROSSFADE_GPU") else {
        say(
            "no GPU is named (CROSSFADE_GPU): nothing is measured; run `cargo xtask gpu` on a machine with one",
        );
        return Ok(());
    };
    let results = measure(&device.to_string_lossy())?;
    let text = serde_json::to_string_pretty(&results)?;
    say(&text);
    if let Some(path) = std::env::var_os("CROSSFADE_GPU_RESULTS") {
        std::fs::write(path, text + "\n")?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the bench's result")]
fn say(line: &str) {
    println!("{line}");
}

fn measure(device: &str) -> Result<Json> {
    let (folder, aside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let single = folder.path().join("identity/1/model.onnx");
    let double = aside.path().join("model.onnx");
    let deep = aside.path().join("deep.onnx");
    layers(Datatype::Fp32, LAYERS).write(&single)?;
    layers(Datatype::Fp64, LAYERS).write(&double)?;
    layers(Datatype::Fp32, DEEP).write(&deep)?;
    let folders = std::env::var("CROSSFADE_CUDA_LIB_DIR").unwrap_or_default();
    let folders = folders.split(',').filter(|folder| !folder.is_empty());
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: std::env::var_os("CROSSFADE_ORT_LIBRARY").map(PathBuf::from),
        intra_threads: 0,
        cuda_lib_dirs: folders.map(PathBuf::from).collect(),
    });
    let runtime = runtimes.get(&RuntimeChoice::Ort, &single)?;
    let gpus = runtime.gpus().context("there is no GPU to measure on")?;
    let on_gpu = load(&*runtime, &single, Device::Cuda(0))?;
    let on_cpu = load(&*runtime, &double, Device::Cpu)?;
    let worst = difference(&*on_gpu, &*on_cpu)?;
    // Simulated, FP32 is off by 3 · 10⁻⁹ here, and ten bits of mantissa by 5 · 10⁻⁶.
    anyhow::ensure!(worst < 1e-7, "the GPU's results are off by {worst}");
    let curve = curve(&*on_gpu)?;
    let shallow = overlap(&*on_gpu)?;
    let on_gpu_deep = load(&*runtime, &deep, Device::Cuda(0))?;
    let overlap = json!({ "layers_4": shallow, "layers_64": overlap(&*on_gpu_deep)? });
    drop(on_gpu_deep);
    let bytes: Vec<u64> = on_gpu.devices().iter().map(|there| there.bytes).collect();
    drop((on_gpu, on_cpu));
    Ok(json!({
        "device": device,
        "devices": gpus,
        "onnxruntime": runtime.version(),
        "model": { "layers": LAYERS, "width": WIDTH, "datatype": "FP32" },
        "largest_difference_from_fp64_on_cpu": worst,
        "device_bytes_of_a_model_and_its_instances": bytes,
        "batch_sizes_in_process": curve,
        "instances_in_process": overlap,
        "served": served(folder.path(), &single, &*runtime)?,
    }))
}

/// `tanh(… tanh(x · w₀) …) · wₙ`, with the same weights in any precision.
fn layers(datatype: Datatype, count: usize) -> ModelBuilder {
    let dims = || [named("N"), Dim::Fixed(WIDTH)];
    let mut model = ModelBuilder::new().input("x", datatype, dims());
    let mut from = "x".to_owned();
    for layer in 0..count {
        let (w, product) = (format!("w{layer}"), format!("p{layer}"));
        let to = if layer + 1 == count {
            "y".to_owned()
        } else {
            format!("x{layer}")
        };
        let weight = tensor(
            datatype,
            [WIDTH, WIDTH],
            bytes(datatype, WIDTH * WIDTH, layer + 1),
        );
        model = model
            .initializer(&w, Value::new(weight))
            .node("MatMul", [&*from, &*w], [&*product])
            .node("Tanh", [&*product], [&*to]);
        from = to;
    }
    model.output("y", datatype, dims())
}

/// Numbers from −1/32 to 1/32 that look like chance and are the same in any precision.
fn bytes(datatype: Datatype, count: usize, seed: usize) -> Vec<u8> {
    let mut state = u32::try_from(seed).unwrap_or(1);
    let mut data = Vec::new();
    for _ in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = ((state >> 16) as f32 / 65_536.0 - 0.5) / 16.0;
        match datatype {
            Datatype::Fp64 => data.extend(f64::from(value).to_le_bytes()),
            _ => data.extend(value.to_le_bytes()),
        }
    }
    data
}

fn load(runtime: &dyn Runtime, path: &Path, device: Device) -> Result<Box<dyn Model>> {
    Ok(runtime.load(&ModelSource {
        path: path.to_owned(),
        devices: vec![device],
        ..ModelSource::default()
    })?)
}

fn run(instance: &mut dyn Instance, datatype: Datatype, rows: usize, data: &[u8]) -> Result<Vec<f64>> {
    let shape = [rows, WIDTH];
    let view = TensorView {
        datatype,
        shape: &shape,
        data,
    };
    let mut outputs = Outputs::new(vec![OutputSlot::new(true, Some(Shape::from(shape)))]);
    instance.run(&[Some(view)], &mut outputs)?;
    let output = outputs.into_tensors().remove(0).context("one output")?;
    Ok(to_f64(&output))
}

/// The largest difference of any element.
fn difference(on_gpu: &dyn Model, on_cpu: &dyn Model) -> Result<f64> {
    let device = Device::Cuda(0);
    let mut gpu = on_gpu.instantiate(&InstanceOptions { device })?;
    let mut cpu = on_cpu.instantiate(&InstanceOptions::default())?;
    let rows = 64;
    let of = |datatype| AlignedBuffer::from(&*bytes(datatype, rows * WIDTH, 99));
    let got = run(&mut *gpu, Datatype::Fp32, rows, of(Datatype::Fp32).as_slice())?;
    let expected = run(&mut *cpu, Datatype::Fp64, rows, of(Datatype::Fp64).as_slice())?;
    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    Ok(differences.fold(0.0, f64::max))
}

/// Runs per second of one instance, copies and all.
fn rate(instance: &mut dyn Instance, rows: usize) -> Result<f64> {
    rate_from(instance, rows, &Barrier::new(1))
}

/// The same, from when everyone is ready.
fn rate_from(instance: &mut dyn Instance, rows: usize, ready: &Barrier) -> Result<f64> {
    let data = AlignedBuffer::zeroed(rows * WIDTH * 4);
    let shape = [rows, WIDTH];
    let mut once = || -> Result<()> {
        let view = TensorView {
            datatype: Datatype::Fp32,
            shape: &shape,
            data: data.as_slice(),
        };
        let mut outputs = Outputs::new(vec![OutputSlot::new(true, Some(Shape::from(shape)))]);
        Ok(instance.run(&[Some(view)], &mut outputs)?)
    };
    // The first runs of a shape allocate and choose kernels.
    let warm = (0..5).try_for_each(|_| once());
    ready.wait();
    warm?;
    let (start, mut runs) = (Instant::now(), 0u32);
    while start.elapsed() < ROUND {
        once()?;
        runs += 1;
    }
    Ok(f64::from(runs) / start.elapsed().as_secs_f64())
}

/// What a batch of each size costs.
fn curve(model: &dyn Model) -> Result<Vec<Json>> {
    let device = Device::Cuda(0);
    let mut instance = model.instantiate(&InstanceOptions { device })?;
    let mut points = Vec::new();
    for rows in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
        let runs = rate(&mut *instance, rows)?;
        points.push(json!({ "rows": rows, "us_per_run": 1e6 / runs, "rows_per_s": runs * rows as f64 }));
    }
    Ok(points)
}

/// Whether one instance computes while another copies: rows per second of one and of two, each on a thread and a stream of its
/// own. With few layers the host's copies take the time, with many the device's computing.
fn overlap(model: &dyn Model) -> Result<Vec<Json>> {
    let device = Device::Cuda(0);
    let rows = 2048;
    let mut points = Vec::new();
    for count in [1, 2] {
        let instances: Vec<_> = (0..count)
            .map(|_| model.instantiate(&InstanceOptions { device }))
            .collect::<Result<_, _>>()?;
        let ready = Barrier::new(count);
        let rates = std::thread::scope(|scope| {
            let ready = &ready;
            let threads: Vec<_> = instances
                .into_iter()
                .map(|mut instance| scope.spawn(move || rate_from(&mut *instance, rows, ready)))
                .collect();
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(rate) => rate,
                Err(_) => Err(anyhow::anyhow!("a measuring thread panicked")),
            });
            joined.collect::<Result<Vec<f64>>>()
        })?;
        let all: f64 = rates.iter().sum();
        points.push(json!({ "instances": count, "rows": rows, "rows_per_s": all * rows as f64 }));
    }
    Ok(points)
}

/// Requests of one row through the server, with the share of the time in which the GPU computed, beside a loop in this process.
fn served(repository: &Path, model: &Path, runtime: &dyn Runtime) -> Result<Json> {
    let loaded = load(runtime, model, Device::Cuda(0))?;
    let device = Device::Cuda(0);
    let mut instance = loaded.instantiate(&InstanceOptions { device })?;
    let alone = rate(&mut *instance, 1)?;
    drop((instance, loaded));

    let data = tempfile::tempdir()?;
    let config = data.path().join("crossfade.toml");
    // Requests alone are measured, not what is kept of them.
    std::fs::write(
        &config,
        "[log]\nenabled = false\n[model.identity.instances]\ndevice = \"cuda:0\"\ncount = 2\n",
    )?;
    let server = Process::start(
        Command::new(binary()?)
            .args([
                "serve",
                "--http-port",
                "0",
                "--grpc-port",
                "0",
                "--metrics-port",
                "0",
            ])
            .args(["--admin-port", "0", "--load-model", "identity"])
            .args(["--model-control-mode", "explicit", "--model-repository"])
            .arg(repository)
            .arg("--data-dir")
            .arg(data.path())
            .arg("--config")
            .arg(&config),
    )?;
    let tasks = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    tasks.block_on(clients::ready(&server.address("http")?))?;
    let mut points = Vec::new();
    for (protocol, client, key) in [
        ("grpc", Client::grpc as fn(&str, usize) -> Client, "grpc"),
        ("http", Client::http, "http"),
    ] {
        for in_flight in [1, 8, 64, 256] {
            let client = client(&server.address(key)?, WIDTH);
            let busy = Busy::watch(server.address("metrics")?);
            let load = tasks.block_on(client.closed_loop(in_flight, 3 * ROUND))?;
            points.push(json!({
                "protocol": protocol,
                "in_flight": in_flight,
                "requests_per_s": load.requests as f64 / (3 * ROUND).as_secs_f64(),
                "p50_us": load.p50,
                "p99_us": load.p99,
                "share_of_time_computing": busy.share()?,
            }));
        }
    }
    Ok(json!({ "loop_in_process_requests_per_s": alone, "closed_loops": points }))
}

/// Reads `nv_gpu_utilization` of the server's first GPU once a second.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<f64>>,
}

impl Busy {
    fn watch(metrics: String) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Relaxed) {
                std::thread::park_timeout(Duration::from_secs(1));
                seen.extend(utilization(&metrics));
            }
            seen
        });
        Self { stop, thread }
    }

    /// The largest share seen: the first looks fall into the time before the load. Absent where NVML does not tell it.
    fn share(self) -> Result<Option<f64>> {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        let seen = self.thread.join();
        let seen = seen.map_err(|_| anyhow::anyhow!("the thread that reads metrics panicked"))?;
        Ok(seen.into_iter().reduce(f64::max))
    }
}

fn utilization(metrics: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(metrics).ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("nv_gpu_utilization{"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

/// The release binary, beside this bench's own folder under target/release.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CROSSFADE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let release = own
        .parent()
        .and_then(Path::parent)
        .context("the bench lies in target/release/deps")?;
    Ok(release.join("crossfade"))
}
