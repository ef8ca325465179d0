//! The server as a whole: CPU per request beside bare echoes of the same bodies, and rows per second beside an
//! in-process loop over the same runtime. Run by `cargo xtask bench`; prints tables in Markdown.
//!
//! Each figure is measured round by round in turn (server, echo, server, echo, …), so that the machine's other
//! work falls on both; medians are printed. CPU is the server process's own, from outside.

#[path = "serve/clients.rs"]
mod clients;
#[path = "serve/echo.rs"]
mod echo;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossfade_benches::Process;
use crossfade_runtimes::{RuntimeChoice, Runtimes, RuntimesOptions};
use crossfade_runtimes_conformance::onnx::{ModelBuilder, named};
use crossfade_runtimes_core::{
    AlignedBuffer, Datatype, Dim, InstanceOptions, ModelSource, Outputs, TensorView,
};

use clients::Client;

/// Floats per row of the model: 4 KB bodies.
const WIDTH: usize = 1024;
/// One measurement of one cell.
const ROUND: Duration = Duration::from_secs(2);
/// Measurements per cell, of each side.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match args.get(1).map(String::as_str) {
        Some("--echo-grpc") => runtime.block_on(echo::grpc()),
        Some("--echo-http") => runtime.block_on(echo::http()),
        _ => measure(&runtime),
    }
}

#[expect(clippy::print_stdout, reason = "the bench's result")]
fn say(line: &str) {
    println!("{line}");
}

fn measure(runtime: &tokio::runtime::Runtime) -> Result<()> {
    let (directory, data) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let model = directory.path().join("identity/1/model.onnx");
    // The bare echo records nothing.
    let config = data.path().join("crossfade.toml");
    std::fs::write(&config, "[log]\nenabled = false\n")?;
    ModelBuilder::new()
        .input("x", Datatype::Fp32, [named("N"), Dim::Fixed(WIDTH)])
        .output("y", Datatype::Fp32, [named("N"), Dim::Fixed(WIDTH)])
        .node("Identity", ["x"], ["y"])
        .write(&model)?;
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
                "--admin-port",
                "0",
                "--model-repository",
            ])
            .arg(directory.path())
            .arg("--data-dir")
            .arg(data.path())
            .arg("--config")
            .arg(&config),
    )?;
    let own = std::env::current_exe()?;
    let echo_grpc = Process::start(Command::new(&own).arg("--echo-grpc"))?;
    let echo_http = Process::start(Command::new(&own).arg("--echo-http"))?;
    runtime.block_on(clients::ready(&server.address("http")?))?;

    say(
        "| protocol, body 4 KB | in flight | crossfade µs CPU / request | bare echo µs | ratio | requests/s | p50 µs | p99 µs | bare p50 µs | ratio |",
    );
    say("|---|---|---|---|---|---|---|---|---|---|");
    for (name, client, ours, echo, key) in [
        (
            "gRPC",
            Client::grpc as fn(&str, usize) -> Client,
            &server,
            &echo_grpc,
            "grpc",
        ),
        ("HTTP binary", Client::http, &server, &echo_http, "http"),
    ] {
        for in_flight in [1, 8, 64] {
            let mut sides = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (side, process) in [(0, ours), (1, echo)] {
                    let client = client(&process.address(key)?, WIDTH);
                    let before = process.cpu()?;
                    let load = runtime.block_on(client.closed_loop(in_flight, ROUND))?;
                    let cpu = process.cpu()? - before;
                    let per_request = cpu.as_secs_f64() * 1e6 / load.requests as f64;
                    let rate = load.requests as f64 / ROUND.as_secs_f64();
                    sides[side].push((per_request, rate, load.p50, load.p99));
                }
            }
            let median = |side: usize, of: fn(&(f64, f64, f64, f64)) -> f64| {
                let mut values: Vec<f64> = sides[side].iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let (ours, echo) = (median(0, |m| m.0), median(1, |m| m.0));
            let (p50, bare_p50) = (median(0, |m| m.2), median(1, |m| m.2));
            let p99 = median(0, |m| m.3);
            say(&format!(
                "| {name} | {in_flight} | {ours:.1} | {echo:.1} | {:.2} | {:.0} | {p50:.0} | {p99:.0} | {bare_p50:.0} | {:.2} |",
                ours / echo,
                median(0, |m| m.1),
                p50 / bare_p50,
            ));
        }
    }
    in_process(&model)
}

/// Rows per second of a loop in this process over the same runtime, one thread, for the record.
fn in_process(model: &Path) -> Result<()> {
    let library = std::env::var_os("CROSSFADE_ORT_LIBRARY").map(PathBuf::from);
    let runtimes = Runtimes::open(&RuntimesOptions {
        ort_library: library,
        intra_threads: 1,
        cuda_lib_dirs: Vec::new(),
    });
    let runtime = runtimes.get(&RuntimeChoice::Ort, model)?;
    let loaded = runtime.load(&ModelSource {
        path: model.to_owned(),
        ..ModelSource::default()
    })?;
    let mut instance = loaded.instantiate(&InstanceOptions::default())?;
    say("\n| rows per run, in process | rows/s |\n|---|---|");
    for rows in [1usize, 8, 32] {
        let data = AlignedBuffer::zeroed(rows * WIDTH * 4);
        let shape = [rows, WIDTH];
        let start = Instant::now();
        let mut runs = 0u32;
        while start.elapsed() < ROUND {
            let view = TensorView {
                datatype: Datatype::Fp32,
                shape: &shape,
                data: data.as_slice(),
            };
            let mut outputs = Outputs::all(1);
            instance.run(&[Some(view)], &mut outputs)?;
            runs += 1;
        }
        let rate = f64::from(runs) * rows as f64 / start.elapsed().as_secs_f64();
        say(&format!("| {rows} | {rate:.0} |"));
    }
    Ok(())
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
    let binary = release.join("crossfade");
    anyhow::ensure!(
        binary.exists(),
        "{} is not there; run `cargo build --release -p crossfade-server`",
        binary.display()
    );
    Ok(binary)
}
