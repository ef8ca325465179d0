//! `report R.json… -o report.html`: one page of any results.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Verdict, read, write};
use crate::report;

/// Writes one HTML page of results: plots and tables, nothing fetched from elsewhere, no script.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Results of runs or of capacity searches.
    #[arg(required = true, value_name = "R.json")]
    pub results: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
}

impl ReportArgs {
    /// Writes the page.
    ///
    /// Errors: if a result cannot be read or the page cannot be written.
    pub fn run(&self) -> Result<Verdict> {
        write(&report::page(&read(&self.results)?)?, Some(&self.output))?;
        Ok(Verdict::Passed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::result::fixtures;

    #[test]
    fn a_page_names_each_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let results = ["before.json", "after.json"].map(|name| folder.path().join(name));
        for path in &results {
            fs::write(
                path,
                serde_json::to_string(&fixtures::run(100.0, &[1_000; 100])).unwrap(),
            )
            .unwrap();
        }
        let output = folder.path().join("page.html");
        ReportArgs {
            results: results.into(),
            output: output.clone(),
        }
        .run()
        .unwrap();
        let page = fs::read_to_string(output).unwrap();
        assert!(page.contains("<summary>before</summary>") && page.contains("<summary>after</summary>"));
    }
}
