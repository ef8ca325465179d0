//! What the README's commands call: `cargo xtask demo | test | …`.

mod checks;
mod cuda;
mod demo;
mod fuzz;
mod gpu;
mod limits;
mod minilm;
mod onnxruntime;
mod paths;
mod peers;
mod process;
mod python;
mod statistics;
mod suite;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo rollout build in release and watch a good version and four bad ones being released under load
  demo embeddings [QUESTION ...]
               build in release, serve MiniLM with its real weights, search this project's guide by meaning
  demo [--once] [--port-base N]
               build in release, serve models/zoo, send one request through each protocol, keep serving
               (--once: stop after the answers, on free ports)
  test         everything: set-up, Rust tests, tests with real clients
  rust-tests   the Rust tests alone
  clients [NAME ...]
               the tests with real clients alone (needs no setup; builds in release)
  check        fmt, clippy, docs and cargo-deny, as CI runs them
  onnxruntime  fetch ONNX Runtime's shared library into the cache under target/ and put it beside the release binary
  docs         write the generated pages under docs/
  loom         the model-checked tests of the batcher's queue
  crash [ROUNDS]
               kill a process that writes the inference log, at random and in every place where it could hurt (default 220 rounds)
  nodes        the ONNX project's backend node tests, through the server
  fuzz [SECONDS] [TARGET ...]
               run every fuzz target (default 600 seconds each)
  build --cuda a server whose candle computes on NVIDIA GPUs, under target/cuda (half an hour); ONNX Runtime's needs no build of
               its own
  bench        the benches; results go to standard output
  encoders     candle beside ONNX Runtime on MiniLM, and what padding costs in batches of mixed lengths
  gpu          on a machine with an NVIDIA GPU: the suite and the bench on it, with the ONNX Runtime that CROSSFADE_ORT_LIBRARY
               names; writes benches/results/gpu-DEVICE.json
  peers [--quick] [PEER ...]
               the same models and load on crossfade and on other servers in turn, which are installed under target/;
               without --quick and names, writes benches/results and docs/benchmarks.md
  peers text [--quick]
               texts of mixed lengths through /v1/embeddings, on crossfade and on FastAPI with ONNX Runtime; writes
               benches/results/text.json
  limits [SCENARIO ...]
               overload, bursts, loading, swapping and shadowing beside serving, many connections, large tensors, start, the
               runtime's ceiling; writes benches/results/limits.json
  log-cost     what the inference log adds to a request, by itself and to a server under load; bytes of records, rows sealed
  rollout-statistics
               simulate the statistics of releases, check their formulas with mpmath and scipy; writes benches/results
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let result = match args.first().map(String::as_str) {
        Some("demo") => demo::run(&rest),
        Some("test") => suite::all(),
        Some("rust-tests") => suite::rust(),
        Some("clients") => suite::clients(&rest),
        Some("check") => checks::all(),
        Some("onnxruntime") => {
            onnxruntime::fetch().map(|path| say(&format!("ONNX Runtime is at {}", path.display())))
        }
        Some("docs") => suite::write_docs(),
        Some("loom") => suite::loom(),
        Some("crash") => suite::crash(&rest),
        Some("nodes") => suite::nodes(&rest),
        Some("fuzz") => fuzz::run_args(&rest),
        Some("build") => cuda::build(&rest),
        Some("bench") => suite::benches(),
        Some("encoders") => minilm::encoders(),
        Some("gpu") => gpu::all(&rest),
        Some("peers") if rest.first() == Some(&"text") => peers::text(&rest[1..]),
        Some("peers") => peers::compare(&rest),
        Some("limits") => limits::measure(&rest),
        Some("log-cost") => suite::log_cost().and_then(|()| limits::measure(&["--rounds", "6", "recording"])),
        Some("rollout-statistics") => statistics::write(),
        Some("help" | "--help" | "-h") => {
            say(USAGE);
            Ok(())
        }
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells the person at the terminal.
#[expect(clippy::print_stdout, reason = "a command line tool talks to its user")]
fn say(text: &str) {
    println!("{text}");
}
