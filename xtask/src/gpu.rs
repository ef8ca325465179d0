//! `cargo xtask gpu`: what can only be tried on a machine with an NVIDIA GPU.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths::root;
use crate::process::{cargo, run};
use crate::{demo, say};

/// The suite on the first GPU, then the bench, which writes what it measured.
pub(crate) fn all(args: &[&str]) -> Result<()> {
    if !args.is_empty() {
        bail!(
            "gpu takes no arguments; the library is named by CROSSFADE_ORT_LIBRARY, CUDA's folder by CROSSFADE_CUDA_LIB_DIR"
        );
    }
    if std::env::var_os("CUDA_VISIBLE_DEVICES").is_some() {
        bail!(
            "CUDA_VISIBLE_DEVICES changes which GPU is the first, for CUDA and not for nvidia-smi, after which the results are named; \
             unset it"
        );
    }
    let device = device()?;
    let library = library()?;
    say(&format!("on {device}, with {}", library.display()));
    run(cargo(&[
        "test",
        "-p",
        "crossfade-runtimes-ort",
        "--locked",
        "--test",
        "gpu",
    ])
    .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    .env("CROSSFADE_ORT_LIBRARY", &library))?;
    demo::build_release()?;
    let results = root()
        .join("benches/results")
        .join(format!("gpu-{}.json", file_name(&device)));
    run(cargo(&["bench", "-p", "crossfade-benches", "--bench", "gpu"])
        .env("CROSSFADE_GPU", &device)
        // As nvidia-smi and NVML have it.
        .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        .env("CROSSFADE_GPU_RESULTS", &results)
        .env("CROSSFADE_ORT_LIBRARY", &library))?;
    say(&format!("written: {}", results.display()));
    Ok(())
}

/// The name of the first GPU, as its driver says it.
fn device() -> Result<String> {
    let asked = Command::new("nvidia-smi")
        .args(["--query-gpu=name", "--format=csv,noheader", "--id=0"])
        .output();
    let Ok(answer) = asked else {
        bail!("there is no NVIDIA GPU here: `nvidia-smi` cannot be started. Run this on a machine with one");
    };
    if !answer.status.success() {
        bail!(
            "there is no NVIDIA GPU that can be used: `nvidia-smi` says {}",
            String::from_utf8_lossy(&answer.stdout).trim()
        );
    }
    let names = String::from_utf8_lossy(&answer.stdout).into_owned();
    let name = names
        .lines()
        .next()
        .map(str::trim)
        .filter(|name| !name.is_empty());
    name.map(str::to_owned).context("`nvidia-smi` shows no GPU")
}

/// The library of the wheel onnxruntime-gpu.
fn library() -> Result<PathBuf> {
    let named = std::env::var_os("CROSSFADE_ORT_LIBRARY").map(PathBuf::from);
    let library = named.context(
        "name the library of the wheel onnxruntime-gpu: CROSSFADE_ORT_LIBRARY=…/onnxruntime/capi/libonnxruntime.so.1.31.1 \
         (docs/gpu.md says how to get it)",
    )?;
    if !library.is_file() {
        bail!("{} (CROSSFADE_ORT_LIBRARY) is no file", library.display());
    }
    std::path::absolute(&library).with_context(|| format!("{}", library.display()))
}

/// `NVIDIA H200` → `nvidia-h200`.
fn file_name(device: &str) -> String {
    let words = device.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_named_for_the_device() {
        assert_eq!(file_name("NVIDIA H200"), "nvidia-h200");
        assert_eq!(
            file_name("NVIDIA GeForce RTX 4090 (x)"),
            "nvidia-geforce-rtx-4090-x"
        );
    }
}
