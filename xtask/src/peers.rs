//! `cargo xtask peers`: crossfade beside other servers, on the same models, under the same load.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::paths::{binary, root, target};
use crate::process::{cargo, command, run};
use crate::{demo, minilm, onnxruntime, python, say};

/// The driver, and a folder for each peer that PyPI has: `NAME/requirements.txt`, `NAME/serve.py`.
const FOLDER: &str = "benches/peers";
/// The peers with an environment of their own; see [`environment_of`].
const ENVIRONMENTS: [&str; 6] = ["fastapi", "kserve", "litserve", "mlserver", "mosec", "pytriton"];
/// The peer of the texts that needs PyTorch.
const SENTENCE_TRANSFORMERS: &str = "sentence-transformers";
/// The driver's own packages and the models' builder.
const TOOLS: &str = "tools";

/// Texts of mixed lengths: crossfade beside FastAPI's ways of serving a sentence encoder; `args`: the driver's flags.
pub(crate) fn text(args: &[&str]) -> Result<()> {
    let library = onnxruntime::fetch()?;
    onnxruntime::place(&library, &target().join("release"))?;
    demo::build_release()?;
    build_loadtest()?;
    let folder = root().join(FOLDER).join("text");
    let environments = target().join("peers/venv");
    let python = python::environment_in(&environments.join("text"), &folder.join("requirements.txt"))?;
    let mut driver = command(python);
    driver.arg(folder.join("run.py")).args([
        minilm::fetch()?,
        binary(),
        loadtest(),
        root().join("benches/results/text.json"),
    ]);
    if install(SENTENCE_TRANSFORMERS, &folder, &environments) {
        let python = environments.join(SENTENCE_TRANSFORMERS).join("bin/python");
        driver.arg("--python").arg(python);
    }
    run(driver.args(args))
}

/// Prepares binaries, environments and models, then runs the driver with `args`: its flags, and the names of peers.
pub(crate) fn compare(args: &[&str]) -> Result<()> {
    let prepared = prepare()?;
    let environments = prepared.place.join("venv");
    for peer in ENVIRONMENTS.iter().filter(|peer| wanted(peer, args)) {
        install(peer, &root().join(FOLDER), &environments);
    }
    run(prepared
        .driver(&format!("{FOLDER}/run.py"))
        .arg("--target")
        .arg(&prepared.place)
        .args(args))
}

/// What every driver needs.
pub(crate) struct Prepared {
    /// target/peers; `models` in it holds the models.
    pub(crate) place: PathBuf,
    python: PathBuf,
}

/// Builds the server and the load tester in release, and makes the models.
pub(crate) fn prepare() -> Result<Prepared> {
    let library = onnxruntime::fetch()?;
    onnxruntime::place(&library, &target().join("release"))?;
    demo::build_release()?;
    build_loadtest()?;
    let folder = root().join(FOLDER);
    let place = target().join("peers");
    let python = python::environment_in(&place.join("venv").join(TOOLS), &folder.join("requirements.txt"))?;
    run(command(&python)
        .arg(folder.join("models.py"))
        .arg(place.join("models")))?;
    Ok(Prepared { place, python })
}

impl Prepared {
    /// A Python driver below the root, with the programs that it measures.
    pub(crate) fn driver(&self, script: &str) -> Command {
        let mut driver = command(&self.python);
        driver.arg(root().join(script));
        driver.arg("--server").arg(binary());
        driver.arg("--loadtest").arg(loadtest());
        driver
    }
}

fn build_loadtest() -> Result<()> {
    run(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "crossfade-loadtest",
    ]))
}

fn loadtest() -> PathBuf {
    target().join("release/crossfade-loadtest")
}

/// Whether `args` name a peer of this environment, or none at all.
fn wanted(environment: &str, args: &[&str]) -> bool {
    let mut named = args.iter().filter_map(|arg| environment_of(arg)).peekable();
    named.peek().is_none() || named.any(|name| name == environment)
}

/// The environment that a peer runs out of, empty for ourselves; `None` for what names no peer.
fn environment_of(peer: &str) -> Option<&str> {
    match peer {
        "crossfade" => Some(""),
        "triton" => Some("pytriton"),
        "mosec-batching" => Some("mosec"),
        own => ENVIRONMENTS.contains(&own).then_some(own),
    }
}

/// Makes a peer's environment, and says whether it could. One that cannot be had here stops nobody else: the driver finds it
/// missing and writes so into the result.
fn install(peer: &str, folder: &Path, environments: &Path) -> bool {
    let requirements = folder.join(peer).join("requirements.txt");
    let made = python::environment_in(&environments.join(peer), &requirements);
    if let Err(error) = &made {
        say(&format!("{peer} cannot be installed here: {error:#}"));
    }
    made.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_environments_of_the_named_peers_are_made() {
        let check = |args: &[&str], expected: &[&str]| {
            let made: Vec<&str> = ENVIRONMENTS
                .into_iter()
                .filter(|peer| wanted(peer, args))
                .collect();
            assert_eq!(made, expected, "{args:?}");
        };
        check(&["--rounds", "1"], &ENVIRONMENTS);
        check(&["--models", "mlp", "crossfade"], &[]);
        check(&["triton", "mosec-batching"], &["mosec", "pytriton"]);
        check(&["mosec", "fastapi"], &["fastapi", "mosec"]);
    }
}
