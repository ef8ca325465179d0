//! `crossfade rollout plan`: what each step of a model's releases can see, before one begins.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::view::{number, percent, span};
use super::wire::{Server, of};
use super::{ClientError, say};
use crate::app::policy_of;
use crate::config::PlanArgs;
use crate::release::forecast::{self, Traffic};

/// A plan as the server, or this process, makes it.
#[derive(Debug, Deserialize)]
struct Plan {
    model: String,
    rate: f64,
    error_rate: f64,
    #[serde(default)]
    observed_s: Option<f64>,
    #[serde(default)]
    sticky: bool,
    steps: Vec<Step>,
    #[serde(default)]
    bake_s: f64,
}

#[derive(Debug, Deserialize)]
struct Step {
    percent: f64,
    min_s: f64,
    max_s: f64,
    min_units: u64,
    canary_units_at_min: u64,
    canary_units_at_max: u64,
    visible_at_min: Option<f64>,
    visible_at_max: Option<f64>,
    shown_after_s: Option<f64>,
    sight: String,
    #[serde(default)]
    passes_unseen: bool,
}

/// Asks a server, which knows how many requests there are.
pub(super) async fn ask(server: &Server, args: &PlanArgs) -> Result<(), ClientError> {
    let rate = args.rate.map_or_else(String::new, |rate| format!("?rate={rate}"));
    let answer = server.get(&format!("{}/plan{rate}", of(&args.model))).await?;
    show(args, &answer)
}

/// Plans by the rules that a repository holds.
pub(super) fn offline(args: &PlanArgs, repository: &Path) -> Result<(), ClientError> {
    let wrong = |error: String| ClientError::Usage(error);
    let policy = policy_of(&args.model, &[repository.to_owned()], None)
        .map_err(|error| wrong(format!("{error:#}")))?;
    if !policy.is_active() {
        return Err(wrong(format!(
            "versions of `{}` are put in at once; `risk` in its model.toml has them released",
            args.model
        )));
    }
    let traffic = Traffic::given(args.rate.unwrap_or_default());
    let plan = forecast::plan(&args.model, &policy, &traffic).map_err(wrong)?;
    show(args, &plan)
}

fn show(args: &PlanArgs, answer: &Value) -> Result<(), ClientError> {
    if args.json {
        say(&serde_json::to_string_pretty(answer).unwrap_or_default());
        return Ok(());
    }
    let plan: Plan = serde_json::from_value(answer.clone())
        .map_err(|error| ClientError::Unreachable(format!("the server's plan cannot be read: {error}")))?;
    lines(&plan).iter().for_each(|line| say(line));
    Ok(())
}

fn lines(plan: &Plan) -> Vec<String> {
    let units = if plan.sticky { "users" } else { "requests" };
    let source = match plan.observed_s {
        Some(seconds) => format!("as observed over {}", span(seconds)),
        None => "as given".to_owned(),
    };
    let mut lines = vec![format!(
        "{}: {} {units} per second {source}; {} of them are taken to fail",
        plan.model,
        number(plan.rate),
        percent(plan.error_rate)
    )];
    if plan.sticky && plan.observed_s.is_some() {
        lines.push(
            "a user counts once, so that fewer units may come than requests: give --rate for new users"
                .into(),
        );
    }
    lines.push(columns(
        "step",
        "share",
        "least, most time",
        "units by then",
        "error rate found by then",
        "if good, shown after",
        "",
    ));
    let found = |rate: Option<f64>| rate.map_or_else(|| "none".to_owned(), percent);
    for (index, step) in plan.steps.iter().enumerate() {
        lines.push(columns(
            &(index + 1).to_string(),
            &format!("{} %", number(step.percent)),
            &format!("{}, {}", span(step.min_s), span(step.max_s)),
            &format!("{}, {}", step.canary_units_at_min, step.canary_units_at_max),
            &format!("{}, {}", found(step.visible_at_min), found(step.visible_at_max)),
            &step
                .shown_after_s
                .map_or_else(|| "by comparison only".to_owned(), span),
            &verdict(step),
        ));
    }
    if plan.bake_s > 0.0 {
        lines.push(format!("then all requests, watched for {}", span(plan.bake_s)));
    }
    if plan.steps.iter().any(|step| step.sight != "sees") {
        lines.push(
            "a step that cannot see anything is not safe: give it more time (`max`), a larger share, or wait for more \
             traffic"
                .to_owned(),
        );
    }
    lines
}

fn columns(step: &str, share: &str, time: &str, units: &str, found: &str, shown: &str, says: &str) -> String {
    let line = format!("{step:<5}{share:>6}  {time:<18}{units:<16}{found:<26}{shown:<22}{says}");
    line.trim_end().to_owned()
}

fn verdict(step: &Step) -> String {
    let says = match step.sight.as_str() {
        "sees" => "sees".to_owned(),
        "too_few_units" => format!("NOT SAFE: {} units never come", step.min_units),
        _ => "NOT SAFE: not even a version that always fails is found".to_owned(),
    };
    match step.passes_unseen {
        true => format!("{says}, AND PASSES ALL THE SAME"),
        false => says,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_that_sees_nothing_is_never_called_safe() {
        let step = |sight: &str, unseen: bool| {
            json!({
                "percent": 10.0, "min_s": 60.0, "max_s": 1800.0, "min_units": 100, "canary_units_at_min": 60,
                "canary_units_at_max": 1800, "visible_at_min": null, "visible_at_max": 0.012, "shown_after_s": null,
                "sight": sight, "passes_unseen": unseen,
            })
        };
        let shown = |sight, unseen| {
            let plan =
                json!({ "model": "m", "rate": 10.0, "error_rate": 0.001, "steps": [step(sight, unseen)] });
            lines(&serde_json::from_value(plan).unwrap()).join("\n")
        };
        let good = shown("sees", false);
        assert!(
            good.contains("none, 1.2 %") && good.contains("60, 1800"),
            "{good}"
        );
        assert!(!good.contains("safe"), "{good}");
        assert!(shown("too_few_units", false).contains("NOT SAFE: 100 units never come"));
        let blind = shown("blind", true);
        assert!(
            blind.contains("NOT SAFE: not even") && blind.contains("PASSES ALL THE SAME"),
            "{blind}"
        );
    }
}
