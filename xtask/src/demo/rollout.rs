//! `cargo xtask demo rollout`: a good version and four bad ones are put beside a model under load; the server finds out
//! which is which.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::clients::{ByVersion, Clients, RATE};
use super::server::Server;
use crate::paths::root;
use crate::say;

/// The rules of the demo: shorter than any that one would use, and without the gate that would keep two of the bad
/// versions from any traffic.
const MODEL: &str = r#"[model]
risk = "low"

[decision]
output = "probabilities"
kind = "argmax"

[rollout]
on_new_version = "hold"
warmup = 300
bake = "3s"

[[rollout.step]]
percent = 10
min = "3s"
min_units = 150

[[rollout.step]]
percent = 50
min = "3s"
min_units = 300

[[rollout.check]]
metric = "errors"
abs_ok = 0.02

[[rollout.check]]
metric = "output"
max_psi = 0.5
critical = true

[gates.golden]
enabled = false
"#;

/// The longest that a release of the demo may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// A version that is put beside the live one.
struct Act {
    folder: &'static str,
    what: &'static str,
    /// How it has to end.
    end: &'static str,
}

const ACTS: [Act; 5] = [
    Act {
        folder: "models/zoo/digits/1",
        what: "a smaller network that reads these images as well",
        end: "live",
    },
    Act {
        folder: "models/faulty/slow",
        what: "takes about fifty times as long",
        end: "rolled_back",
    },
    Act {
        folder: "models/faulty/failing",
        what: "fails on one image in twenty",
        end: "rolled_back",
    },
    Act {
        folder: "models/faulty/shifted",
        what: "sees a three where none is",
        end: "rolled_back",
    },
    Act {
        folder: "models/faulty/nan",
        what: "answers one image in a hundred with NaN",
        end: "rolled_back",
    },
];

/// How an act ended.
struct Ended {
    version: u64,
    state: String,
    why: String,
    took: Duration,
    answers: ByVersion,
}

/// Builds, serves the first version of `digits` to clients, and puts one version after the other beside it.
pub(super) fn show() -> Result<()> {
    super::prepare()?;
    let stage = Stage::set()?;
    let mut server = Server::start(
        &stage.repository,
        &["--model-control-mode", "poll", "--repository-poll-secs", "1"],
        0,
        Some(&stage.log),
    )?;
    server.wait_ready()?;
    let clients = Clients::start(&server.http, &root().join("models/zoo/digits/golden"))?;
    say(&format!(
        "\nVersion 1 of `digits` answers {RATE} requests per second. Five versions are deployed, one after the other. Nobody\n\
         tells the server which are good. What it logs is in {}.",
        stage.log.display()
    ));
    std::thread::park_timeout(Duration::from_secs(2));
    let mut ends = Vec::new();
    for (version, act) in (2..).zip(&ACTS) {
        ends.push(play(&server, &clients, &stage, version, act)?);
    }
    drop(clients);
    say(&summary(&ends));
    say(&trail(&server.admin("/crossfade/v1/audit")?)?);
    for (end, act) in ends.iter().zip(&ACTS) {
        judge(end, act)?;
    }
    server.stop()
}

/// The folder of the demo, gone when the demo is over.
struct Stage {
    folder: PathBuf,
    repository: PathBuf,
    log: PathBuf,
}

impl Stage {
    fn set() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("crossfade-demo-rollout-{}", std::process::id()));
        let stage = Self {
            repository: folder.join("models"),
            log: std::env::temp_dir().join("crossfade-demo-rollout.log"),
            folder,
        };
        let model = stage.repository.join("digits");
        fs::create_dir_all(&model)?;
        fs::write(model.join("model.toml"), MODEL)?;
        stage.put("models/zoo/digits/2", 1)?;
        Ok(stage)
    }

    /// Copies a version beside the repository and renames it into place.
    fn put(&self, folder: &str, version: u64) -> Result<()> {
        let from = root().join(folder).join("model.onnx");
        let copied = self.folder.join("incoming");
        fs::create_dir_all(&copied)?;
        fs::copy(&from, copied.join("model.onnx"))
            .with_context(|| format!("cannot copy {}", from.display()))?;
        fs::rename(copied, self.repository.join("digits").join(version.to_string()))?;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

/// Puts a version beside the live one and watches until its release is over.
fn play(server: &Server, clients: &Clients, stage: &Stage, version: u64, act: &Act) -> Result<Ended> {
    say(&format!("\n── version {version}: {}", act.what));
    clients.take();
    stage.put(act.folder, version)?;
    let began = Instant::now();
    let deploy = json!({ "version": version, "reason": act.what });
    server.tell("/crossfade/v1/models/digits/rollouts", &deploy.to_string())?;
    let mut answers = ByVersion::new();
    let mut shown = String::new();
    loop {
        std::thread::park_timeout(Duration::from_millis(100));
        for (version, more) in clients.take() {
            let of = answers.entry(version).or_default();
            of.good += more.good;
            of.failed += more.failed;
        }
        let releases = server.admin("/crossfade/v1/models/digits/rollouts")?;
        let releases: Value = serde_json::from_str(&releases)?;
        let release = releases["rollouts"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|release| release["version"] == version);
        let took = began.elapsed();
        if let Some(release) = release {
            let state = state(release);
            if state != shown {
                line(&format!("   {:5.1} s  {state}", took.as_secs_f64()), true);
                shown.clone_from(&state);
            }
            if matches!(name(release), "live" | "rolled_back" | "failed") {
                let why = release["why"].as_str().unwrap_or_default().to_owned();
                let state = name(release).to_owned();
                return Ok(Ended {
                    version,
                    state,
                    why,
                    took,
                    answers,
                });
            }
            line(&format!("            {}", numbers(release)), false);
        }
        ensure!(
            took < PATIENCE,
            "the release of version {version} has not ended after {PATIENCE:?}"
        );
    }
}

/// A line that stays, or one that the next takes the place of, where there is a terminal.
fn line(text: &str, stays: bool) {
    let terminal = std::io::stdout().is_terminal();
    let mut out = std::io::stdout();
    let cleared = if terminal { "\r\x1b[K" } else { "" };
    let _shown = match stays {
        true => writeln!(out, "{cleared}{text}"),
        false if terminal => write!(out, "{cleared}{text}").and_then(|()| out.flush()),
        false => Ok(()),
    };
}

fn name(release: &Value) -> &str {
    let state = &release["state"];
    state["state"]
        .as_str()
        .or_else(|| state.as_str())
        .unwrap_or_default()
}

fn state(release: &Value) -> String {
    match name(release) {
        "canary" => format!("canary, {} % of the requests", release["percent"]),
        "baking" => "baking: all requests, the version before stays at hand".to_owned(),
        "rolling_back" => "rolling back: no new request goes to it".to_owned(),
        other => other.replace('_', " "),
    }
}

/// What the checks stand at.
fn numbers(release: &Value) -> String {
    let mut text = String::new();
    for check in release["report"]["checks"].as_array().into_iter().flatten() {
        let (Some(metric), Some(log_e), Some(limit)) = (
            check["metric"].as_str(),
            check["log_e"].as_f64(),
            check["fails_at"].as_f64(),
        ) else {
            continue;
        };
        let events = &check["events"];
        let _written = write!(
            text,
            "{metric}: {} : {} events, evidence {log_e:.1} of {limit:.1}   ",
            events["canary"], events["control"]
        );
    }
    text
}

/// What happened, a line per version.
fn summary(ends: &[Ended]) -> String {
    let mut text = String::from("\nversion  end          seconds  answered  failed: of it  of others  why\n");
    for end in ends {
        let good: u64 = end.answers.values().map(|answers| answers.good).sum();
        let (own, others) = failures(end);
        let _written = writeln!(
            text,
            "{:<8} {:<12} {:>7.1}  {good:>8}  {own:>13}  {others:>9}  {}",
            end.version,
            end.state.replace('_', " "),
            end.took.as_secs_f64(),
            end.why.split(';').next().unwrap_or_default()
        );
    }
    text
}

/// Failed requests that went to the version, and those that went elsewhere.
fn failures(end: &Ended) -> (u64, u64) {
    let own = end
        .answers
        .get(&end.version.to_string())
        .map_or(0, |answers| answers.failed);
    let all: u64 = end.answers.values().map(|answers| answers.failed).sum();
    (own, all - own)
}

/// The audit's records, of JSON Lines.
fn trail(audit: &str) -> Result<String> {
    let mut text = String::from("The audit trail, in one hash chain:\n");
    for line in audit.lines() {
        let record: Value = serde_json::from_str(line).context("the audit is no JSON Lines")?;
        let of = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        writeln!(
            text,
            "{:>5}  {}  {:<9} {:<17} {:<14} {:<9} {}…",
            record["seq"],
            of("ts"),
            of("actor"),
            of("action"),
            of("object"),
            record["after"]["outcome"].as_str().unwrap_or_default(),
            of("hash").get(..12).unwrap_or_default()
        )?;
    }
    Ok(text)
}

/// Whether an act went as it must.
fn judge(end: &Ended, act: &Act) -> Result<()> {
    if end.state != act.end {
        bail!(
            "version {} ended as {}, not as {}: {}",
            end.version,
            end.state,
            act.end,
            end.why
        );
    }
    let (own, others) = failures(end);
    ensure!(
        others == 0,
        "{others} requests failed that the bad version {} had no part in",
        end.version
    );
    ensure!(
        act.end != "live" || own == 0,
        "{own} requests of the good version failed"
    );
    Ok(())
}
