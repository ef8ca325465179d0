//! Rules of the house that no compiler knows: who depends on whom, generated pages are current, files say what they own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Folders that hold nothing of ours.
const NOT_OURS: [&str; 4] = [".git", "target", "__pycache__", "node_modules"];

const METRICS_INTRODUCTION: &str = "\
<!-- Made by `cargo xtask docs` from server/src/metrics/names.rs; a test compares it with the code. -->

# Metrics

`GET /metrics` on the metrics listener (port 8002 by default), in Prometheus' text format. What to do with them is in
[observability](observability.md).

Series of a model carry the labels `model` and `version`. `crossfade_stage_duration_seconds` adds `stage`: `decode`,
`queue`, `gather`, `compute`, `scatter`, `encode` and `total`. `crossfade_requests_total` adds `protocol` (`grpc`,
`grpc_stream`, `http`) and `status`: `ok`, or the name of a row in the table of [errors](protocols.md#6-errors).
`nv_inference_request_failure` adds `reason`. `crossfade_model_memory_bytes` and `crossfade_model_instances` add `device`:
`cpu`, `cuda:0`. Series of [GPUs](gpu.md) carry `gpu_uuid` alone, and are there where NVIDIA's driver is. Requests that name no known model count under `model=\"\"`. A version's
series appear with its first request and go when it is unloaded; loaded again, its counters continue.

";

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("the server's folder stands in the repository")
        .to_path_buf()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the repository below `folder`, relative to the root.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root().join(folder)).expect("a folder of the checkout can be listed") {
        let entry = entry.expect("a folder of the checkout can be listed");
        let path = folder.join(entry.file_name());
        let kind = entry.file_type().expect("the system knows what it lists");
        if kind.is_dir() && !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            files(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(Path::new(""), &mut found);
    assert!(found.len() > 50, "the repository has files: {found:?}");
    found
}

/// `(used, user, in tests and benches only)`, by folder.
type Edge = (String, String, bool);

/// `runtimes/{ort,tract}, models` → `runtimes/ort`, `runtimes/tract`, `models`.
fn expand(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut done = Vec::new();
    let mut rest = text.trim();
    while let Some(at) = rest.find([',', '{']) {
        let (before, after) = rest.split_at(at);
        names.iter_mut().for_each(|name| name.push_str(before.trim()));
        rest = &after[1..];
        if after.starts_with('{') {
            let (inner, outer) = rest.split_once('}').expect("a brace is closed");
            let ends: Vec<&str> = inner.split(',').map(str::trim).collect();
            names = names
                .iter()
                .flat_map(|name| ends.iter().map(move |end| format!("{name}{end}")))
                .collect();
            rest = outer;
        } else {
            done.append(&mut std::mem::replace(&mut names, vec![String::new()]));
        }
    }
    names.iter_mut().for_each(|name| name.push_str(rest.trim()));
    done.append(&mut names);
    done
}

/// The edges that ARCHITECTURE.md allows: the first block under its heading.
fn allowed(page: &str) -> BTreeSet<Edge> {
    let (_, section) = page
        .split_once("## Who may depend on whom")
        .expect("ARCHITECTURE.md has the section");
    let block = section.split("```").nth(1).expect("the section has a block");
    let mut tests_only = false;
    let mut edges = BTreeSet::new();
    for line in block.lines().skip(1) {
        match line.split_once("◄─") {
            Some((used, _)) if used.trim() == "used" => {}
            Some((used, users)) => {
                for (used, user) in expand(used)
                    .iter()
                    .flat_map(|used| expand(users).into_iter().map(move |user| (used, user)))
                {
                    edges.insert((used.clone(), user, tests_only));
                }
            }
            None => tests_only |= line.trim() == "in tests and benches only",
        }
    }
    edges
}

/// The edges between members of the workspace, as cargo sees them.
fn actual() -> BTreeSet<Edge> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--no-deps"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let folder = |path: &str| {
        let path = Path::new(path)
            .strip_prefix(metadata["workspace_root"].as_str().unwrap())
            .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut edges = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let user = folder(
            package["manifest_path"]
                .as_str()
                .unwrap()
                .strip_suffix("/Cargo.toml")
                .unwrap(),
        );
        for dependency in package["dependencies"].as_array().unwrap() {
            if let Some(path) = dependency["path"].as_str() {
                // Tests may switch on features of their own crate.
                if folder(path) != user {
                    edges.insert((folder(path), user.clone(), dependency["kind"] == "dev"));
                }
            }
        }
    }
    edges
}

fn name((used, user, tests_only): &Edge) -> String {
    format!(
        "{used} ◄─ {user}{}",
        if *tests_only {
            " (in tests and benches only)"
        } else {
            ""
        }
    )
}

#[test]
fn crates_depend_on_each_other_as_architecture_md_says() {
    let allowed = allowed(&read(&root().join("ARCHITECTURE.md")));
    let actual = actual();
    let mut wrong = Vec::new();
    for edge in actual.difference(&allowed) {
        wrong.push(format!(
            "{}: not allowed; remove it, or change the architecture",
            name(edge)
        ));
    }
    for edge in allowed.difference(&actual) {
        wrong.push(format!(
            "{}: listed, and no crate has it; remove it from the list",
            name(edge)
        ));
    }
    assert!(
        wrong.is_empty(),
        "ARCHITECTURE.md, who may depend on whom:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_list_of_edges_is_read_with_its_braces() {
    let edge = |used: &str, user: &str, tests: bool| (used.to_owned(), user.to_owned(), tests);
    let page = "## Who may depend on whom\n```text\nused ◄─ by\na/{b, c} ◄─ d, e/{f,g}\nin tests and benches only\nh ◄─ a\n```\n";
    let expected: BTreeSet<Edge> = ["a/b", "a/c"]
        .into_iter()
        .flat_map(|used| ["d", "e/f", "e/g"].map(|user| edge(used, user, false)))
        .chain([edge("h", "a", true)])
        .collect();
    assert_eq!(allowed(page), expected);
}

#[test]
fn generated_docs() {
    let metrics = format!("{METRICS_INTRODUCTION}{}", crossfade_server::metrics::reference());
    let pages = [
        ("docs/metrics.md", metrics),
        (
            "docs/configuration.md",
            crossfade_server::config::reference::markdown(),
        ),
    ];
    let write = std::env::var_os("CROSSFADE_WRITE_DOCS").is_some_and(|value| value == "1");
    for (path, page) in pages {
        let path = root().join(path);
        if write {
            fs::write(&path, page).unwrap();
        } else if read(&path) != page {
            panic!(
                "{} is not what the code says; run `cargo xtask docs`",
                path.display()
            );
        }
    }
}

#[test]
fn every_source_file_says_what_it_owns() {
    // Build scripts and the tests of one module are named for what they are.
    let exempt =
        |path: &Path| [OsStr::new("tests.rs"), OsStr::new("build.rs")].contains(&path.file_name().unwrap());
    let mut wrong = Vec::new();
    for path in all_files()
        .iter()
        .filter(|path| path.extension() == Some(OsStr::new("rs")))
    {
        if path.file_name() == Some(OsStr::new("mod.rs")) {
            wrong.push(format!(
                "{}: name it after its folder, beside the folder",
                path.display()
            ));
        }
        let first = read(&root().join(path))
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        if !exempt(path) && first.strip_prefix("//! ").is_none_or(str::is_empty) {
            wrong.push(format!(
                "{}: its first line is `{first}`, not a `//!` sentence",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_names_a_path_of_this_machine() {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    // A short path such as `/app` would be found in innocent text.
    let machine: Vec<String> = [Some(root()), home]
        .into_iter()
        .flatten()
        .filter(|path| path.components().count() > 2)
        .filter_map(|path| Some(path.to_str()?.to_owned()))
        .collect();
    let mut wrong = Vec::new();
    for path in all_files() {
        // Models and images are not text.
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if let Some(named) = machine.iter().find(|named| line.contains(named.as_str())) {
                wrong.push(format!("{}:{}: names {named}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
