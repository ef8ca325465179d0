//! `crossfade config effective MODEL`: the rules of a model's releases, with all that the preset of its tier adds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use crossfade_models::config::{RawConfig as ModelFile, toml};
use crossfade_models::layout::ConfigFiles;
use crossfade_rollout::Policy;

use crate::config::EffectiveArgs;
use crate::config::file::RawConfig;

/// Prints the rules as JSON.
pub(super) fn run(args: &EffectiveArgs) -> Result<()> {
    say(&effective(args)?);
    Ok(())
}

fn effective(args: &EffectiveArgs) -> Result<String> {
    let policy = policy_of(&args.model, &args.model_repository, args.config.as_deref())?;
    Ok(serde_json::to_string_pretty(&policy)?)
}

/// The rules of a model's releases, as its files and a configuration file say.
///
/// * `repositories`: none: those of the configuration file
/// * `config`: none: the file that `crossfade serve` would read
pub(crate) fn policy_of(model: &str, repositories: &[PathBuf], config: Option<&Path>) -> Result<Policy> {
    let server = RawConfig::read_named(config)?;
    let repositories = match repositories {
        [] => &server.repository.paths,
        named => named,
    };
    let Some(folder) = repositories
        .iter()
        .map(|path| path.join(model))
        .find(|path| path.is_dir())
    else {
        bail!("model `{model}` is in no repository; name its repository with --model-repository");
    };
    let files = ConfigFiles::read(&folder, None).with_context(|| format!("model `{model}`"))?;
    let over = match server.model.get(model) {
        Some(table) => {
            toml::from_table(table.clone()).with_context(|| format!("configuration file: [model.{model}]"))?
        }
        None => ModelFile::default(),
    };
    let policy = ModelFile::merge(over, files.merged()).policy();
    policy.with_context(|| format!("model `{model}`"))
}

#[expect(clippy::print_stdout, reason = "the rules are the command's output")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a tier asks for and is not built yet, left out.
    const WITHOUT: &str = "[[rollout.check]]\nmetric = 'output'\nenabled = false\n";

    fn of(text: &str) -> Result<String> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir(root.path().join("m"))?;
        std::fs::write(root.path().join("m/model.toml"), text)?;
        effective(&EffectiveArgs {
            model: "m".into(),
            model_repository: vec![root.path().to_owned()],
            config: None,
        })
    }

    #[test]
    fn the_preset_is_printed_with_what_the_file_changes() {
        let text = of(&format!(
            "[model]\nrisk = 'low'\n[rollout]\nkeep_warm = 2\n{WITHOUT}"
        ))
        .unwrap();
        let policy: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "risk": "low", "on_new_version": "canary", "route_key": [], "alpha": 0.01, "alpha_pass": 0.05,
            "keep_warm": 2, "bake": "0us", "on_inconclusive": "hold", "invalid_output": "fail", "strict": false, "hard_limit": null,
            "warmup": 1000, "shadow": null, "decision": null,
            "gates": {
                "signature": "recorded", "quality": null, "trend": null, "slices": false, "performance": null,
                "golden": { "file": "golden", "max_abs_diff": 0.0001, "max_rel_diff": null, "interval": null },
            },
            "steps": [{ "percent": 10.0, "min": "1m", "max": "30m", "min_units": 100 }],
            "checks": [
                { "metric": "errors", "test": "events", "tolerance": 1.0, "margin": 2.0, "abs_ok": 0.005, "critical": true },
                { "metric": "latency", "test": "exceed", "tolerance": 1.5, "margin": 2.0, "abs_ok": 0.03, "slack": "100us", "critical": true },
            ],
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(policy.get(key), Some(value), "{key} of\n{text}");
        }
    }

    #[test]
    fn tiers_that_ask_for_more_than_there_is_are_refused_by_name() {
        let check = |text: &str, expected: &str| {
            let error = format!("{:#}", of(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        };
        assert!(
            of("[model]\nrisk = 'low'\n").is_ok(),
            "the lowest one is all there"
        );
        let data = "[gates.quality]\ndata = 'val.parquet'\n[gates.performance]\nmax_p99 = '1s'\n";
        let decision = "[decision]\noutput = 'y'\nkind = 'argmax'\n";
        let medium = of(&format!("[model]\nrisk = 'medium'\n{data}{decision}"));
        assert!(medium.is_ok(), "the one between is complete: {medium:?}");
        check(
            &format!("[model]\nrisk = 'high'\n{data}{decision}"),
            "gates.signature",
        );
    }
}
