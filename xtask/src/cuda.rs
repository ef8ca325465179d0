//! `cargo xtask build --cuda`: a server whose candle has kernels for NVIDIA GPUs, from packages alone.
//!
//! The compiler of the kernels and the headers come as Python packages; no GPU and no driver is needed to build. The result
//! links CUDA's libraries, and starts only where they are; to link it, libraries of the same names that do nothing will do.

use std::collections::BTreeSet;
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

/// A library that the program is linked with and that no small package has.
struct Stub {
    /// As the linker asks for it.
    name: &'static str,
    /// As the program asks for it when it starts.
    soname: &'static str,
    /// The module of cudarc that declares its functions, and what their names begin with.
    module: &'static str,
    prefix: &'static str,
}

const STUBS: [Stub; 4] = [
    Stub {
        name: "cuda",
        soname: "libcuda.so.1",
        module: "driver",
        prefix: "cu",
    },
    Stub {
        name: "nvrtc",
        soname: "libnvrtc.so.13",
        module: "nvrtc",
        prefix: "nvrtc",
    },
    Stub {
        name: "cublas",
        soname: "libcublas.so.13",
        module: "cublas",
        prefix: "cublas",
    },
    Stub {
        name: "cublasLt",
        soname: "libcublasLt.so.13",
        module: "cublaslt",
        prefix: "cublasLt",
    },
];

/// The GPUs that the kernels are for, where CUDA_COMPUTE_CAP does not say: Hopper.
const CAPABILITY: &str = "90";

/// Builds it; `args` is `--cuda`.
pub(crate) fn build(args: &[&str]) -> Result<()> {
    if args != ["--cuda"] {
        bail!("build takes --cuda; the usual build is `cargo build --release`");
    }
    let toolkit = toolkit()?;
    stubs(&toolkit.join("lib"))?;
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

/// Makes the libraries of [`STUBS`] in `folder`: every function that cudarc declares of each, as the toolkits' own stubs have
/// them.
fn stubs(folder: &Path) -> Result<()> {
    let sources = package("cudarc")?.join("src");
    for stub in &STUBS {
        let file = sources.join(stub.module).join("sys/mod.rs");
        let text = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        let functions = functions(&text, stub.prefix);
        if functions.is_empty() {
            bail!("{} declares no function {}…", file.display(), stub.prefix);
        }
        let code: String = functions
            .iter()
            .map(|function| format!("void {function}(void) {{}}\n"))
            .collect();
        let source = folder.join(format!("{}.c", stub.name));
        fs::write(&source, code)?;
        run(command("cc")
            .args(["-shared", "-fPIC", "-w"])
            .arg(format!("-Wl,-soname,{}", stub.soname))
            .arg("-o")
            .arg(folder.join(format!("lib{}.so", stub.name)))
            .arg(source))?;
    }
    Ok(())
}

/// The functions that a module of bindings declares, each once.
fn functions<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let declared = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub unsafe fn "));
    let names = declared.filter_map(|rest| rest.split('(').next());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// The folder of a package that the workspace depends on.
fn package(name: &str) -> Result<PathBuf> {
    let output = cargo(&["metadata", "--format-version", "1", "--locked"])
        .args([
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
            "--features",
            "crossfade-server/cuda",
        ])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)))?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let found = packages.iter().find(|package| package["name"] == name);
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let folder = manifest.and_then(|manifest| Path::new(manifest).parent());
    folder
        .map(Path::to_owned)
        .with_context(|| format!("the workspace does not depend on {name}"))
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

#[cfg(test)]
mod tests {
    use super::functions;

    #[test]
    fn a_stub_has_the_functions_of_its_library_once() {
        let text = "pub type CUresult = u32;\npub unsafe fn cuInit(flags: u32) -> CUresult {\n    cuInit(flags)\n}\n    \
                    pub unsafe fn cuInit(flags: u32);\npub unsafe fn culib() -> Library {}\npub unsafe fn memcpy(n: usize);\n";
        assert_eq!(
            functions(text, "cu").into_iter().collect::<Vec<_>>(),
            ["cuInit", "culib"]
        );
    }
}
