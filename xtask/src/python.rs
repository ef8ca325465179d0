//! Python virtual environments under target/, one per pinned requirements file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths::target;
use crate::process::{command, run};

/// The interpreter of the virtual environment `name` under target/venv; see [`environment_in`].
pub(crate) fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    environment_in(&target().join("venv").join(name), requirements)
}

/// The interpreter of a virtual environment in `dir` with exactly `requirements` installed; made once, and again when
/// the file changes.
pub(crate) fn environment_in(dir: &Path, requirements: &Path) -> Result<PathBuf> {
    let python = dir.join("bin/python");
    let wanted = fs::read_to_string(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let stamp = dir.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    run(command("python3").args(["-m", "venv"]).arg(dir))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ];
    run(command(&python).args(pip).arg(requirements))?;
    fs::write(&stamp, wanted)?;
    Ok(python)
}
