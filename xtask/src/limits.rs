//! `cargo xtask limits`: overload, loading beside serving, many connections, large tensors, and what else has a bound.

use anyhow::Result;

use crate::paths::root;
use crate::peers;
use crate::process::run;

/// Prepares what `cargo xtask peers` prepares, then runs the scenarios named in `args`, or all.
pub(crate) fn measure(args: &[&str]) -> Result<()> {
    let prepared = peers::prepare()?;
    run(prepared
        .driver("benches/limits/run.py")
        .arg("--models")
        .arg(prepared.place.join("models"))
        .arg("--out")
        .arg(root().join("benches/results/limits.json"))
        .args(args))
}
