//! `csv R.json…`: results for spreadsheets and scripts.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Verdict, read, write};
use crate::csv;
use crate::result::RunResult;

/// Writes results as CSV: a line for all requests, for each model and for each version, or with --series for each second.
#[derive(Debug, Clone, Args)]
pub struct CsvArgs {
    /// Results of runs or of capacity searches.
    #[arg(required = true, value_name = "R.json")]
    pub results: Vec<PathBuf>,
    /// A line per second instead of the summaries.
    #[arg(long)]
    pub series: bool,
    /// Where the lines go, if not to the standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl CsvArgs {
    /// Writes the lines.
    ///
    /// Errors: if a result cannot be read or the lines cannot be written.
    pub fn run(&self) -> Result<Verdict> {
        let results = read(&self.results)?;
        let runs: Vec<(String, &RunResult)> = results
            .iter()
            .flat_map(|(name, sweep)| {
                sweep.runs.iter().zip(1_u32..).map(move |(run, number)| {
                    (
                        if sweep.runs.len() > 1 {
                            format!("{name}#{number}")
                        } else {
                            name.clone()
                        },
                        run,
                    )
                })
            })
            .collect();
        let text = if self.series {
            csv::series(&runs)
        } else {
            csv::summary(&runs)
        };
        write(&text, self.output.as_deref())?;
        Ok(Verdict::Passed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::result::fixtures;
    use crate::sweep::Sweep;

    #[test]
    fn runs_of_a_sweep_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let (path, output) = (folder.path().join("sweep.json"), folder.path().join("out.csv"));
        let runs = vec![fixtures::run(1.0, &[1; 20]), fixtures::run(2.0, &[1; 20])];
        fs::write(
            &path,
            serde_json::to_string(&Sweep {
                schema: 1,
                capacity: None,
                runs,
            })
            .unwrap(),
        )
        .unwrap();
        CsvArgs {
            results: vec![path],
            series: true,
            output: Some(output.clone()),
        }
        .run()
        .unwrap();
        let text = fs::read_to_string(output).unwrap();
        assert_eq!(
            (text.matches("sweep#1,").count(), text.matches("sweep#2,").count()),
            (10, 10)
        );
    }
}
