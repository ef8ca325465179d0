//! Deeds: what is done to the server during a run, and when.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::control::{Control, Parameters};
use crate::duration;

/// How a deed is written.
const EXPECTED: &str = "expected `swap MODEL 1->2 every 5s`, `label MODEL NAME 1->2 every 5s`, `load MODEL at 3s`, \
                        `unload MODEL at 5s` or `run COMMAND at 2s`";

/// Something to do, once or again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// What.
    pub action: Action,
    /// When, from the end of the warm-up.
    pub when: When,
}

/// What can be done to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Load the model with each of the versions in turn: the second first, since the first is what is served.
    Swap {
        /// The model.
        model: String,
        /// Versions, at least two.
        versions: Vec<u64>,
    },
    /// Move a label to each of the versions in turn, the second first.
    Label {
        /// The model.
        model: String,
        /// The label.
        label: String,
        /// Versions, at least two.
        versions: Vec<u64>,
    },
    /// Load, or load again, a model as its files say.
    Load(String),
    /// Unload a model.
    Unload(String),
    /// Run a command in a shell; it must succeed.
    Run(String),
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Once, this long after the end of the warm-up.
    At(Duration),
    /// Again and again, for the first time after one period.
    Every(Duration),
}

impl Deed {
    /// Reads one deed as `--during` takes it; without a time it is done after a third of the run.
    ///
    /// Errors: if it is not one; the message says what is expected.
    pub fn parse(text: &str, run: Duration) -> Result<Self> {
        let expected = || format!("during `{text}`: {EXPECTED}");
        let words: Vec<&str> = text.split_whitespace().collect();
        let (words, when) = match words.as_slice() {
            [words @ .., "every", period] => (
                words,
                When::Every(duration::parse(period).with_context(expected)?),
            ),
            [words @ .., "at", time] => (words, When::At(duration::parse(time).with_context(expected)?)),
            words => (words, When::At(run / 3)),
        };
        if when == When::Every(Duration::ZERO) {
            bail!("during `{text}`: the period is zero");
        }
        if matches!(when, When::At(time) | When::Every(time) if time >= run) {
            bail!(
                "during `{text}`: that is after the end of the run, which lasts {run:?}; make it longer with --duration"
            );
        }
        let action = match words {
            ["swap", model, versions] => Action::Swap {
                model: (*model).to_owned(),
                versions: turns(versions).with_context(expected)?,
            },
            ["label", model, label, versions] => Action::Label {
                model: (*model).to_owned(),
                label: (*label).to_owned(),
                versions: turns(versions).with_context(expected)?,
            },
            ["load", model] => Action::Load((*model).to_owned()),
            ["unload", model] => Action::Unload((*model).to_owned()),
            ["run", command @ ..] if !command.is_empty() => Action::Run(command.join(" ")),
            _ => bail!(expected()),
        };
        Ok(Self { action, when })
    }

    /// The times at which it is done in a run of length `run`, with how often it was done before.
    pub fn times(&self, run: Duration) -> Vec<(Duration, usize)> {
        match self.when {
            When::At(time) => vec![(time, 0)],
            When::Every(period) => (1..)
                .map(|number| period.saturating_mul(number))
                .take_while(|time| *time < run)
                .zip(0..)
                .collect(),
        }
    }
}

/// `1->2->3` or `1<->2`: versions that take turns.
fn turns(text: &str) -> Option<Vec<u64>> {
    let versions: Option<Vec<u64>> = text
        .split("->")
        .map(|version| version.trim_end_matches('<').parse().ok())
        .collect();
    versions.filter(|versions| versions.len() >= 2)
}

impl Action {
    /// What it does the `number`-th time, in words.
    pub fn describe(&self, number: usize) -> String {
        match self {
            Self::Swap { model, versions } => format!("swap {model} to {}", turn(versions, number)),
            Self::Label {
                model,
                label,
                versions,
            } => format!("label {model} {label} to {}", turn(versions, number)),
            Self::Load(model) => format!("load {model}"),
            Self::Unload(model) => format!("unload {model}"),
            Self::Run(command) => format!("run {command}"),
        }
    }

    /// Brings the server to where the first time starts from: a swap from 1 to 2 needs 1 to be served.
    ///
    /// Errors: as [`Self::perform`].
    pub async fn prepare(&self, control: &Control) -> Result<()> {
        match self {
            Self::Swap { versions, .. } | Self::Label { versions, .. } => {
                let last = versions.len() - 1;
                let prepared = self.perform(control, last).await;
                prepared.with_context(|| format!("before the run: {}", self.describe(last)))
            }
            Self::Load(_) | Self::Unload(_) | Self::Run(_) => Ok(()),
        }
    }

    /// Does it for the `number`-th time.
    ///
    /// Errors: if the server refuses, with its reason, or the command fails.
    pub async fn perform(&self, control: &Control, number: usize) -> Result<()> {
        match self {
            Self::Swap { model, versions } => {
                // The configuration that is in force, with another choice of versions: nothing else changes.
                let mut config = control.config(model).await?;
                config["version_policy"] = json!({ "specific": { "versions": [turn(versions, number)] } });
                if let Some(config) = config.as_object_mut() {
                    config.remove("versionPolicy");
                }
                let parameters = Parameters::from([("config".to_owned(), config.to_string())]);
                control.load(model, &parameters).await
            }
            Self::Label {
                model,
                label,
                versions,
            } => {
                let labels = json!({ label: turn(versions, number) }).to_string();
                control
                    .load(model, &Parameters::from([("labels".to_owned(), labels)]))
                    .await
            }
            Self::Load(model) => control.load(model, &Parameters::new()).await,
            Self::Unload(model) => control.unload(model).await,
            Self::Run(command) => {
                let status = tokio::process::Command::new("sh")
                    .args(["-c", command])
                    .stdin(std::process::Stdio::null())
                    .stdout(std::process::Stdio::null())
                    .status()
                    .await
                    .context("no shell")?;
                if !status.success() {
                    bail!("`{command}` ended with {status}");
                }
                Ok(())
            }
        }
    }
}

/// The version of the `number`-th turn: the second first.
fn turn(versions: &[u64], number: usize) -> u64 {
    versions[(number + 1) % versions.len()]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Action, Deed, When};

    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn a_swap_goes_to_the_other_version_first_and_back() {
        let deed = Deed::parse("swap digits 1->2 every 3s", TEN).unwrap();
        assert_eq!(
            deed.action,
            Action::Swap {
                model: "digits".to_owned(),
                versions: vec![1, 2]
            }
        );
        let times: Vec<u64> = deed.times(TEN).iter().map(|(time, _)| time.as_secs()).collect();
        assert_eq!(times, [3, 6, 9]);
        let words: Vec<String> = (0..3).map(|number| deed.action.describe(number)).collect();
        assert_eq!(
            words,
            ["swap digits to 2", "swap digits to 1", "swap digits to 2"]
        );
    }

    #[test]
    fn a_command_keeps_its_words() {
        let deed = Deed::parse("run touch /tmp/x at 500ms", TEN).unwrap();
        assert_eq!(
            deed,
            Deed {
                action: Action::Run("touch /tmp/x".to_owned()),
                when: When::At(Duration::from_millis(500)),
            }
        );
    }

    #[test]
    fn what_is_no_deed_is_refused_with_examples() {
        for text in [
            "",
            "swap digits",
            "swap digits 1 every 5s",
            "swap digits 1->2 every 0s",
            "explode",
            "load m at x",
        ] {
            let message = format!("{:#}", Deed::parse(text, TEN).unwrap_err());
            assert!(message.contains("during `"), "{text}: {message}");
        }
    }
}
