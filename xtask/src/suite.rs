//! Every test there is.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::paths::{binary, root, target};
use crate::process::{cargo, command, run, succeeds};
use crate::{demo, onnxruntime, python};

/// The tests with real clients: requirements-NAME.txt, and test_NAME.py or several test_NAME_*.py.
const CLIENTS: &str = "server/tests/clients";

/// Set-up, then the sample models' hashes, the Rust tests, the model-checked ones, and the real clients.
pub(crate) fn all() -> Result<()> {
    run(command("python3").arg("models/train/verify.py"))?;
    rust()?;
    loom()?;
    clients(&[])
}

/// The Rust tests.
pub(crate) fn rust() -> Result<()> {
    let library = onnxruntime::fetch()?;
    let mut tests = if succeeds(&mut cargo(&["nextest", "--version"])) {
        cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
    } else {
        cargo(&[
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--all-targets",
        ])
    };
    run(tests.env("CROSSFADE_ORT_LIBRARY", &library))
}

/// The tests with real clients; `only` names some of them.
pub(crate) fn clients(only: &[&str]) -> Result<()> {
    let library = onnxruntime::fetch()?;
    onnxruntime::place(&library, &target().join("release"))?;
    demo::build_release()?;
    let names = client_names()?;
    if let Some(unknown) = only.iter().find(|name| !names.iter().any(|known| known == *name)) {
        bail!("no client test `{unknown}`; there are {}", names.join(", "));
    }
    for name in names
        .iter()
        .filter(|name| only.is_empty() || only.contains(&name.as_str()))
    {
        let requirements = root().join(CLIENTS).join(format!("requirements-{name}.txt"));
        let python = python::environment(name, &requirements)?;
        let tests = client_tests(name)?;
        run(command(python)
            .args(["-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"])
            .args(tests)
            .env("CROSSFADE_BIN", binary())
            .env("CROSSFADE_ORT_LIBRARY", &library)
            .env("CROSSFADE_CACHE", target().join("clients")))?;
    }
    Ok(())
}

/// The test files of a client.
fn client_tests(name: &str) -> Result<Vec<PathBuf>> {
    let mut tests = Vec::new();
    for entry in fs::read_dir(root().join(CLIENTS))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|file| is_of(file, name)) {
            tests.push(entry.path());
        }
    }
    tests.sort();
    Ok(tests)
}

/// The crash test of the inference log; the first argument is how many rounds.
pub(crate) fn crash(args: &[&str]) -> Result<()> {
    let rounds = match args {
        [] => "220",
        [rounds] if rounds.parse::<u64>().is_ok() => rounds,
        _ => bail!("crash takes a number of rounds"),
    };
    run(
        cargo(&["test", "-p", "crossfade-inference-log", "--test", "crash"])
            .env("CROSSFADE_CRASH_ROUNDS", rounds),
    )
}

/// The ONNX project's node tests through the server; arguments go to the script.
pub(crate) fn nodes(args: &[&str]) -> Result<()> {
    let library = onnxruntime::fetch()?;
    onnxruntime::place(&library, &target().join("release"))?;
    demo::build_release()?;
    let requirements = root().join(CLIENTS).join("requirements-onnx_nodes.txt");
    let python = python::environment("onnx_nodes", &requirements)?;
    run(command(python)
        .arg(format!("{CLIENTS}/onnx_nodes.py"))
        .args(args)
        .env("CROSSFADE_BIN", binary())
        .env("CROSSFADE_ORT_LIBRARY", &library))
}

/// Writes the generated pages, which a test compares with the code.
pub(crate) fn write_docs() -> Result<()> {
    let test = [
        "test",
        "-p",
        "crossfade-server",
        "--test",
        "tidy",
        "generated_docs",
    ];
    run(cargo(&test).env("CROSSFADE_WRITE_DOCS", "1"))
}

/// The model-checked tests of the batcher's queue.
pub(crate) fn loom() -> Result<()> {
    run(
        cargo(&["test", "-p", "crossfade-batcher", "--test", "loom", "--release"])
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_TARGET_DIR", target().join("loom")),
    )
}

/// The benches.
pub(crate) fn benches() -> Result<()> {
    let library = onnxruntime::fetch()?;
    // The bench of the whole starts the release binary.
    demo::build_release()?;
    // That of GPUs is for machines with one: `cargo xtask gpu`.
    let benches = ["--bench", "parts", "--bench", "serve", "--bench", "log"];
    let mut bench = cargo(&["bench", "-p", "crossfade-benches"]);
    run(bench.args(benches).env("CROSSFADE_ORT_LIBRARY", &library))
}

/// The bench of the inference log's parts.
pub(crate) fn log_cost() -> Result<()> {
    run(&mut cargo(&[
        "bench",
        "-p",
        "crossfade-benches",
        "--bench",
        "log",
    ]))
}

/// The clients, by their requirements; every test file is that of one.
fn client_names() -> Result<Vec<String>> {
    let files = fs::read_dir(root().join(CLIENTS))?.map(|entry| entry.map(|entry| entry.file_name()));
    let files: Vec<String> = files
        .map(|name| Ok(name?.to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let mut names: Vec<&str> = files
        .iter()
        .filter_map(|file| file.strip_prefix("requirements-")?.strip_suffix(".txt"))
        .collect();
    names.sort_unstable();
    let tests = files
        .iter()
        .filter(|file| file.starts_with("test_") && file.ends_with(".py"));
    if let Some(other) = tests
        .clone()
        .find(|file| !names.iter().any(|name| is_of(file, name)))
    {
        bail!("{CLIENTS}/{other} has no requirements-NAME.txt, and would not run");
    }
    names.retain(|name| tests.clone().any(|file| is_of(file, name)));
    if names.is_empty() {
        bail!("no client tests in {CLIENTS}");
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Whether a test file is that of a client, or one of several.
fn is_of(file: &str, name: &str) -> bool {
    let rest = file
        .strip_prefix("test_")
        .and_then(|file| file.strip_prefix(name)?.strip_suffix(".py"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}
