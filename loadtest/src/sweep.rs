//! A sweep: runs of one plan at several offered loads, and what was concluded from them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::result::{RunResult, SCHEMA};

/// Several runs in the order in which they were made: the JSON file of a capacity search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// The form of this file: [`SCHEMA`], as of a single run.
    pub schema: u32,
    /// What was searched for and found, if this was a search.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// The runs.
    pub runs: Vec<RunResult>,
}

impl Sweep {
    /// Reads the results of one file, of a single run or of several.
    ///
    /// Errors: name the file and say what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .with_context(|| format!("{shown} cannot be read; give a file that `--out` wrote"))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if schema != Some(u64::from(SCHEMA)) {
            let found = schema.map_or_else(|| "none".to_owned(), |schema| schema.to_string());
            bail!(
                "{shown} has schema {found}, this version reads {SCHEMA}; measure again, or use the version that wrote it"
            );
        }
        let sweep = if value.get("runs").is_some() {
            serde_json::from_value(value)
        } else {
            serde_json::from_value::<RunResult>(value).map(Self::from)
        };
        sweep.with_context(|| format!("{shown} is not a result of crossfade-loadtest"))
    }
}

impl From<RunResult> for Sweep {
    fn from(run: RunResult) -> Self {
        Self {
            schema: SCHEMA,
            capacity: None,
            runs: vec![run],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::fixtures;

    fn read(text: &str) -> Result<Sweep> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        fs::write(&path, text).unwrap();
        Sweep::read(&path)
    }

    #[test]
    fn a_single_run_is_a_sweep_of_one() {
        let run = fixtures::run(100.0, &[1_000; 50]);
        let sweep = read(&serde_json::to_string(&run).unwrap()).unwrap();
        assert_eq!((sweep.capacity, sweep.runs), (None, vec![run]));
    }

    #[test]
    fn a_sweep_survives_the_file() {
        let runs = vec![
            fixtures::run(100.0, &[1_000; 50]),
            fixtures::run(200.0, &[2_000; 50]),
        ];
        let sweep = Sweep {
            schema: SCHEMA,
            capacity: None,
            runs,
        };
        assert_eq!(read(&serde_json::to_string(&sweep).unwrap()).unwrap(), sweep);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        for (text, part) in [
            ("{", "is not JSON"),
            ("{}", "schema none"),
            (r#"{"schema":9}"#, "schema 9"),
            (r#"{"schema":1}"#, "is not a result"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(part) && error.contains("r.json"), "{error}");
        }
        assert!(format!("{:#}", Sweep::read(Path::new("absent.json")).unwrap_err()).contains("absent.json"));
    }
}
