//! The subcommands that read results, and the capacity search that makes them: arguments, and what is done with them.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::sweep::Sweep;

pub use capacity::SearchArgs;
pub use compare::CompareArgs;
pub use csv::CsvArgs;
pub use report::ReportArgs;
pub use sweep::SweepArgs;

mod capacity;
mod compare;
mod csv;
mod report;
mod sweep;

/// How a command ended, when it did what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against going on: exit code 0.
    Passed,
    /// What was to hold does not: exit code 1.
    Failed,
}

/// Reads result files, each under its own name.
fn read(paths: &[PathBuf]) -> Result<Vec<(String, Sweep)>> {
    paths
        .iter()
        .map(|path| Ok((name(path), Sweep::read(path)?)))
        .collect()
}

/// What a result is called in tables: its file without folder and `.json`.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    name.strip_suffix(".json").unwrap_or(&name).to_owned()
}

/// Writes `text` to `path`, or to the standard output without one.
fn write(text: &str, path: Option<&Path>) -> Result<()> {
    match path {
        Some(path) => fs::write(path, text)
            .with_context(|| format!("{} cannot be written; is its folder there?", path.display())),
        None => io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .context("the standard output is closed"),
    }
}

/// Reads a share: `2%` or `0.02`.
fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&(value / scale)) => Ok(value / scale),
        _ => Err(format!("`{text}` is not a share: write 2% or 0.02")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_or_fractions() {
        assert_eq!(
            (share("2%"), share("0.5"), share("100 %")),
            (Ok(0.02), Ok(0.5), Ok(1.0))
        );
        for text in ["", "2", "-1%", "x%"] {
            assert!(share(text).unwrap_err().contains("write 2%"), "{text}");
        }
    }

    #[test]
    fn results_are_named_by_their_file() {
        assert_eq!(name(Path::new("a/b/before.json")), "before");
        assert_eq!(name(Path::new("other.txt")), "other.txt");
    }
}
