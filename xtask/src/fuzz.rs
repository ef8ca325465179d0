//! `cargo xtask fuzz`: every fuzz target for a while.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::paths::root;
use crate::process::{cargo, run, succeeds};

/// The version of cargo-fuzz the targets build with.
const CARGO_FUZZ: &str = "0.13.1";

/// Runs the named targets (default: all) for SECONDS each (default 600); a finding is an error.
pub(crate) fn run_targets(seconds: u64, names: &[&str]) -> Result<()> {
    if !succeeds(&mut cargo(&["fuzz", "--version"])) {
        run(&mut cargo(&[
            "install",
            "cargo-fuzz",
            "--locked",
            "--version",
            CARGO_FUZZ,
        ]))?;
    }
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|known| known == *name)) {
        bail!("no fuzz target `{unknown}`; there are {}", all.join(", "));
    }
    for target in all
        .iter()
        .filter(|target| names.is_empty() || names.contains(&target.as_str()))
    {
        // New finds go into the first folder, which git ignores; the committed seeds are only read.
        let corpus = root().join("server/fuzz/corpus").join(target);
        let seeds = root().join("server/fuzz/seeds").join(target);
        fs::create_dir_all(&corpus)?;
        // The stable toolchain builds libFuzzer's instrumentation when told that it may.
        run(cargo(&[
            "fuzz",
            "run",
            "--fuzz-dir",
            "server/fuzz",
            "--sanitizer",
            "none",
            target,
        ])
        .args([&corpus, &seeds])
        .args([
            "--",
            &format!("-max_total_time={seconds}"),
            "-timeout=10",
            "-rss_limit_mb=4096",
        ])
        .env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}

/// Parses `[SECONDS] [TARGET ...]`.
pub(crate) fn run_args(args: &[&str]) -> Result<()> {
    match args.split_first() {
        Some((first, rest)) if first.starts_with(|c: char| c.is_ascii_digit()) => run_targets(
            first
                .parse()
                .with_context(|| format!("`{first}` is no number of seconds"))?,
            rest,
        ),
        _ => run_targets(600, args),
    }
}

fn targets() -> Result<Vec<String>> {
    let dir = root().join("server/fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
