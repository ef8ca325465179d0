//! `cargo xtask build --cuda`: a server whose candle has kernels for NVIDIA GPUs, from packages alone.
//!
//! The compiler of the kernels and the headers come as Python packages; no GPU and no driver is needed to build. The result
//! links CUDA's libraries, and starts only where they are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths::target;
use crate::process::{cargo, command, run};
use crate::say;

/// What the kernels are compiled with (docs/gpu.md); versions that go together.
const PACKAGES: [&str; 6] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-curand==10.4.0.35",
];

/// The GPUs that the kernels are for, where CUDA_COMPUTE_CAP does not say: Hopper.
const CAPABILITY: &str = "90";

/// Builds it; `args` is `--cuda`.
pub(crate) fn build(args: &[&str]) -> Result<()> {
    if args != ["--cuda"] {
        bail!("build takes --cuda; the usual build is `cargo build --release`");
    }
    let toolkit = toolkit()?;
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| CAPABILITY.to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [toolkit.join("bin")]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let mut build = cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "crossfade-server",
        "--features",
        "cuda",
    ]);
    for name in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
        build.env(name, &toolkit);
    }
    let place = target().join("cuda");
    run(build
        .env("PATH", std::env::join_paths(folders)?)
        .env("CUDA_COMPUTE_CAP", &capability)
        .env(
            "RUSTFLAGS",
            format!("-L native={}", toolkit.join("lib").display()),
        )
        .env("CARGO_TARGET_DIR", &place))?;
    say(&format!(
        "{} computes candle's models on GPUs of compute capability {capability}",
        place.join("release/crossfade").display()
    ));
    Ok(())
}

/// The folder of CUDA's compiler, headers and libraries; unpacked once.
fn toolkit() -> Result<PathBuf> {
    let place = target().join("cuda-toolkit");
    let toolkit = place.join("nvidia/cu13");
    if toolkit.join("bin/nvcc").is_file() {
        return Ok(toolkit);
    }
    let wheels = place.join("wheels");
    run(command("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ])
        .arg(&wheels)
        .args(PACKAGES))?;
    for wheel in fs::read_dir(&wheels)? {
        run(command("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(wheel?.path())
            .arg(&place))?;
    }
    executable(&toolkit)?;
    // The linker asks for names without a version.
    let lib = toolkit.join("lib");
    for file in fs::read_dir(&lib)? {
        let file = file?.file_name();
        let name = file.to_string_lossy();
        if let Some((stem, _)) = name.split_once(".so.") {
            let plain = lib.join(format!("{stem}.so"));
            if !plain.exists() {
                std::os::unix::fs::symlink(&file, &plain)?;
            }
        }
    }
    Ok(toolkit)
}

/// Unpacked files have lost their mode.
fn executable(toolkit: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for folder in ["bin", "nvvm/bin"] {
        let folder = toolkit.join(folder);
        for file in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
            fs::set_permissions(file?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}
