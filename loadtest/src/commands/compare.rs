//! `compare A.json B.json`: what changed, and whether it exceeds the noise.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{Verdict, read, share, write};
use crate::compare::{CompareOptions, compare};
use crate::result::RunResult;

/// Compares two sides and says of each figure whether its change exceeds the noise.
///
/// Give several runs a side, separated by commas and measured in turns (A, B, A, B, …): with three or more the noise is
/// what differs from run to run, with fewer only what differs from second to second.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Results of the first side: A1.json,A2.json,A3.json
    #[arg(value_delimiter = ',', required = true, num_args = 1, value_name = "A.json")]
    pub a: Vec<PathBuf>,
    /// Results of the second side: B1.json,B2.json,B3.json
    #[arg(value_delimiter = ',', required = true, num_args = 1, value_name = "B.json")]
    pub b: Vec<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 if a figure of B is worse than that of A, beyond the noise.
    #[arg(long)]
    pub fail_if_worse: bool,
    /// Changes up to this are not worth a word, whatever the noise.
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    pub tolerance: f64,
    /// How often chance alone is to stay within the noise.
    #[arg(long, value_name = "SHARE", default_value = "99%", value_parser = share)]
    pub confidence: f64,
}

impl CompareArgs {
    /// Prints the comparison.
    ///
    /// Errors: if a file cannot be read or holds several runs.
    pub fn run(&self) -> Result<Verdict> {
        if !(0.5..1.0).contains(&self.confidence) {
            bail!(
                "--confidence {} is out of range: give 50% or more, and less than 100%",
                self.confidence
            );
        }
        let options = CompareOptions {
            confidence: self.confidence,
            tolerance: self.tolerance,
        };
        let comparison = compare(&single_runs(&self.a)?, &single_runs(&self.b)?, options)?;
        let text = if self.json {
            serde_json::to_string_pretty(&comparison)?
        } else {
            comparison.to_string()
        };
        write(&format!("{text}\n"), None)?;
        let failed = self.fail_if_worse && comparison.is_worse();
        Ok(if failed { Verdict::Failed } else { Verdict::Passed })
    }
}

/// The runs of one side. The runs of a sweep differ in their load: together they are no side.
fn single_runs(paths: &[PathBuf]) -> Result<Vec<RunResult>> {
    let mut runs = Vec::new();
    for (name, mut sweep) in read(paths)? {
        match (sweep.runs.pop(), sweep.runs.len()) {
            (Some(run), 0) => runs.push(run),
            (_, more) => {
                bail!("{name} holds {more} other runs: compare takes files of single runs, one per `run`")
            }
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::result::fixtures;
    use crate::sweep::Sweep;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CompareArgs,
    }

    fn parse(line: &[&str]) -> CompareArgs {
        Line::try_parse_from([&["compare"], line].concat()).unwrap().args
    }

    #[test]
    fn sides_are_lists_separated_by_commas() {
        let args = parse(&[
            "a1.json,a2.json",
            "b.json",
            "--tolerance",
            "2%",
            "--fail-if-worse",
        ]);
        assert_eq!(
            (args.a.len(), args.b.len(), args.tolerance, args.fail_if_worse),
            (2, 1, 0.02, true)
        );
    }

    #[test]
    fn worse_fails_only_when_asked_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, latency_us: u64| {
            let path = folder.path().join(name);
            fs::write(
                &path,
                serde_json::to_string(&fixtures::run(100.0, &[latency_us; 100])).unwrap(),
            )
            .unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (fast, slow) = (file("fast.json", 1_000), file("slow.json", 2_000));
        assert_eq!(parse(&[&fast, &slow]).run().unwrap(), Verdict::Passed);
        assert_eq!(
            parse(&[&fast, &slow, "--fail-if-worse"]).run().unwrap(),
            Verdict::Failed
        );
        assert_eq!(
            parse(&[&slow, &fast, "--fail-if-worse", "--json"]).run().unwrap(),
            Verdict::Passed
        );
        assert_eq!(
            parse(&[&fast, &fast, "--fail-if-worse"]).run().unwrap(),
            Verdict::Passed
        );
    }

    #[test]
    fn a_sweep_is_no_side() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sweep.json");
        let runs = vec![fixtures::run(1.0, &[1]), fixtures::run(2.0, &[1])];
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
        let error = single_runs(&[path]).unwrap_err().to_string();
        assert!(error.contains("sweep holds 1 other run"), "{error}");
    }

    #[test]
    fn certainty_is_refused() {
        let error = parse(&["a", "b", "--confidence", "100%"])
            .run()
            .unwrap_err()
            .to_string();
        assert!(error.contains("less than 100%"), "{error}");
    }
}
