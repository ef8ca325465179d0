//! `cargo xtask rollout-statistics`: the simulations behind releases, as a page, and their formulas checked by others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::paths::root;
use crate::process::{cargo, command};
use crate::{python, say};

const PAGE: &str = "benches/results/rollout-statistics.md";
const REFERENCE: &str = "server/statistics/reference";

/// The tables of the page: their rows' name, a title, and what the columns are.
const TABLES: [(&str, &str, &str); 4] = [
    (
        "type_one",
        "How often a version that is as good is sent back (2 000 paths each, α = .01; accepted up to .0167)",
        "| case | share sent back |\n|---|---|\n",
    ),
    (
        "naive",
        "The same, counted as one should not: why the rules of counting are what they are",
        "| case | share sent back |\n|---|---|\n",
    ),
    (
        "power",
        "How often and how soon a worse version is sent back (1 000 runs each, a look every 50 requests, α = .01)",
        "| error rate | w | found | design | median canary requests | design |\n|---|---|---|---|---|---|\n",
    ),
    (
        "passing",
        "Canary units until two equal versions are shown to be equal (1 000 runs each, α = .05)",
        "| error rate | margin | w | median | exact |\n|---|---|---|---|---|\n",
    ),
];

/// Runs the simulations, has their formulas checked, and writes the page.
pub(crate) fn write() -> Result<()> {
    let rows = simulated()?;
    let checked = checked(&rows)?;
    let mut page = String::from(
        "# Statistics of releases, simulated\n\nWritten by `cargo xtask rollout-statistics`: the simulations in \
         `server/statistics/tests/simulations`, whose seeds are fixed (`SplitMix64`, one stream per run), so that a second run \
         writes the same page. What the numbers mean for users is in [docs/statistics.md](../../docs/statistics.md).\n",
    );
    for (name, title, head) in TABLES {
        let of = rows
            .get(name)
            .with_context(|| format!("no row of table `{name}`"))?;
        write!(page, "\n## {title}\n\n{head}")?;
        for cells in of {
            writeln!(page, "| {} |", cells.join(" | "))?;
        }
    }
    write!(
        page,
        "\n## The formulas, by other means\n\n`{REFERENCE}/check.py`: log E by quadrature at 60 digits (mpmath), the anytime upper \
         bound by root finding (scipy), at seeded random counts up to 10⁵; tolerance 1e-8.\n\n| formula | values | largest \
         difference |\n|---|---|---|\n"
    )?;
    for cells in checked {
        writeln!(page, "| {} |", cells.join(" | "))?;
    }
    std::fs::write(root().join(PAGE), page)?;
    say(&format!("written: {PAGE}"));
    Ok(())
}

/// The rows that the simulations print, by table, sorted.
fn simulated() -> Result<BTreeMap<String, Vec<Vec<String>>>> {
    say("simulating; this takes a minute or two");
    let mut run = cargo(&[
        "test",
        "--quiet",
        "--package",
        "crossfade-statistics",
        "--test",
        "simulations",
    ]);
    let run = run.args(["--", "--nocapture", "--test-threads", "1"]);
    let done = run
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !done.status.success() {
        bail!("the simulations failed ({})", done.status);
    }
    let mut rows = BTreeMap::<String, Vec<Vec<String>>>::new();
    for line in String::from_utf8(done.stdout)?.lines() {
        // The test runner's own marks may stand before a row.
        let mut cells = line.split('\t').map(str::to_owned);
        if let (Some(name), true) = (cells.next(), line.contains('\t')) {
            let name = name.trim_start_matches(['.', ' ']).to_owned();
            rows.entry(name).or_default().push(cells.collect());
        }
    }
    Ok(rows)
}

/// What the check says: formula, number of values, largest difference.
fn checked(rows: &BTreeMap<String, Vec<Vec<String>>>) -> Result<Vec<Vec<String>>> {
    let reference = root().join(REFERENCE);
    let python = python::environment("statistics", &reference.join("requirements.txt"))?;
    let mut check = command(python)
        .arg(reference.join("check.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the check")?;
    let mut input = check.stdin.take().context("the check's input was piped")?;
    for name in ["log_e", "upper"] {
        for cells in rows.get(name).with_context(|| format!("no value of `{name}`"))? {
            writeln!(input, "{name}\t{}", cells.join("\t"))?;
        }
    }
    drop(input);
    let done = check.wait_with_output()?;
    if !done.status.success() {
        bail!("the formulas and the check differ; the values are above");
    }
    let text = String::from_utf8(done.stdout)?;
    Ok(text
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect())
}
