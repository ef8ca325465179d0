//! What CI checks besides tests: format, lints, docs, licences and duplicates of dependencies.

use anyhow::Result;

use crate::process::{cargo, run, succeeds};

/// The version of cargo-deny that deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

/// fmt, clippy, docs, cargo-deny.
pub(crate) fn all() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    // No default target: it is run where there is a GPU.
    run(&mut cargo(&[
        "clippy",
        "-p",
        "crossfade-runtimes-ort",
        "--test",
        "gpu",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    run(cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    if !succeeds(&mut cargo(&["deny", "--version"])) {
        run(&mut cargo(&[
            "install",
            "cargo-deny",
            "--locked",
            "--version",
            CARGO_DENY,
        ]))?;
    }
    // It looks at what other systems would build, too, which no build here has fetched.
    run(&mut cargo(&["fetch", "--locked"]))?;
    // Advisories need a database from the network, which is not everywhere to be had; the rest is offline.
    run(&mut cargo(&[
        "deny",
        "--offline",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}
