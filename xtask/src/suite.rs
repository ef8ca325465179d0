//! Every test there is.

use std::fs;
use std::path::{Path, PathBuf};

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
    let own = |file: &str| {
        let rest = file
            .strip_prefix("test_")
            .and_then(|file| file.strip_prefix(name)?.strip_suffix(".py"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let mut tests = Vec::new();
    for entry in fs::read_dir(root().join(CLIENTS))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(own) {
            tests.push(entry.path());
        }
    }
    tests.sort();
    match tests.is_empty() {
        true => bail!("there is no test_{name}.py in {CLIENTS}"),
        false => Ok(tests),
    }
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
    run(cargo(&["bench", "-p", "crossfade-benches"]).env("CROSSFADE_ORT_LIBRARY", &library))
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

fn client_names() -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(root().join(CLIENTS))?
        .filter_map(|entry| client_name(&entry.ok()?.path()))
        .collect();
    names.sort();
    if names.is_empty() {
        bail!("no client tests in {CLIENTS}");
    }
    Ok(names)
}

fn client_name(path: &Path) -> Option<String> {
    let stem = path.file_name()?.to_str()?;
    Some(stem.strip_prefix("test_")?.strip_suffix(".py")?.to_owned())
}
