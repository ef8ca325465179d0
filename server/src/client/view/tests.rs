use serde_json::{Value, json};

use super::*;

fn release(state: Value, report: Value) -> Release {
    serde_json::from_value(json!({
        "id": "r1", "model": "digits", "version": 2, "champion": 1, "state": state, "percent": 10.0,
        "actor": "ann", "created": 1000, "report": report,
        "rules": {
            "steps": [{ "percent": 10.0, "min_s": 60.0, "max_s": 1800.0, "min_units": 100 }], "bake_s": 3600.0,
            "checks": [{ "metric": "errors", "critical": true, "abs_ok": 0.005 }],
        },
        "a key of a newer server": true,
    }))
    .unwrap()
}

fn look(outcome: &str, log_e: f64) -> Value {
    json!({
        "verdict": "continue", "stage": { "stage": "canary", "step": 0 },
        "served": "41500ms", "units": 64,
        "requests": { "canary": 70, "control": 630 },
        "checks": [{
            "metric": "errors", "outcome": outcome, "events": { "canary": 3, "control": 12 }, "units": 64,
            "log_e": log_e, "fails_at": 5.3, "log_e_pass": 0.0, "passes_at": 3.0, "upper": 0.041, "psi": null,
            "distance": null,
        }],
    })
}

fn text(release: &Release) -> String {
    card(release, 1090)
        .iter()
        .map(|line| format!("{}\n", line.text))
        .collect()
}

#[test]
fn a_card_says_where_it_stands_and_what_is_missing() {
    let shown = text(&release(
        json!({ "state": "canary", "step": 0 }),
        look("open", 2.65),
    ));
    for part in [
        "digits  version 2, beside 1: canary, step 1 of 1\n",
        "[##······················] 10 %",
        "42s of at least 1m, at most 30m · 64 of at least 100 units (70 requests, 630 beside it)",
        "  errors              3 of 64        12      2.65 [############············] 5.30",
        "missing  36 units\n           19s\n           errors: may be as bad as 4.1 %, has to be below 0.50 %, or no",
        "r1, begun by ann 1m 30s ago",
    ] {
        assert!(shown.contains(part), "{part}\nis not in\n{shown}");
    }
    assert!(!shown.contains("baseline"), "{shown}");
}

#[test]
fn what_is_not_compared_is_said() {
    let mut running = release(json!({ "state": "canary", "step": 0 }), look("open", 2.65));
    running.baseline_failure = Some("no memory".to_owned());
    let shown = text(&running);
    let said = "baseline none, so that latencies are not compared: no memory\n";
    assert!(shown.contains(said), "{shown}");
}

#[test]
fn what_has_ended_says_why_and_not_what_is_missing() {
    let mut ended = release(
        json!({ "state": "rolled_back", "reason": "hard_trigger" }),
        look("failed", 9.0),
    );
    ended.why = Some("errors: Failed".to_owned());
    let shown = text(&ended);
    assert!(
        shown.starts_with("digits  version 2, beside 1: rolled back (hard trigger)\n"),
        "{shown}"
    );
    assert!(
        shown.contains("why      errors: Failed") && !shown.contains("missing"),
        "{shown}"
    );
    assert_eq!(
        summary(&ended),
        "digits version 2: rolled back (hard trigger): errors: Failed"
    );
}

#[test]
fn who_has_to_agree_is_said_while_it_waits() {
    let mut waiting = release(
        json!({ "state": "awaiting_approval", "next": "promoting" }),
        Value::Null,
    );
    let agreement = json!({ "quorum": 2, "counted": ["ann"], "missing": 1, "given": ["ann", "bob"] });
    waiting.approval = serde_json::from_value(agreement).unwrap();
    let shown = text(&waiting);
    assert!(
        shown.starts_with("digits  version 2, beside 1: awaiting approval before promoting\n"),
        "{shown}"
    );
    assert!(
        shown.contains("missing  1 of 2 approvals: ann agreed\n"),
        "{shown}"
    );
}

#[test]
fn a_version_that_was_replaced_is_not_called_live() {
    let mut replaced = release(json!({ "state": "live" }), Value::Null);
    replaced.live = Some(2);
    assert!(text(&replaced).contains("beside 1: live\n"));
    replaced.live = Some(1);
    let shown = text(&replaced);
    assert!(
        shown.contains("beside 1: was live, and version 1 is now\n"),
        "{shown}"
    );
    assert!(!shown.contains("100 %"), "{shown}");
}

#[test]
fn a_summary_is_one_line_with_the_numbers() {
    let release = release(json!({ "state": "canary", "step": 0 }), look("open", -1.0));
    assert_eq!(
        summary(&release),
        "digits version 2: canary, step 1 of 1, 10 % of the requests, 64 units in 42s, errors 3/12 ln E -1.00"
    );
}

#[test]
fn moves_say_when_who_and_why() {
    let event = Told {
        model: "digits".into(),
        version: 2,
        release: Some("r1".into()),
        event: "failed".into(),
        to: Some("rolling_back".into()),
        actor: "ann".into(),
        why: Some("slow".into()),
        at: 86_400 + 3600 + 62,
    };
    let line = told(&event);
    assert_eq!(
        line.text,
        "01:01:02 UTC  digits version 2  failed → rolling back  by ann  slow"
    );
    assert_eq!(line.tone, Tone::Bad);
}

#[test]
fn spans_shares_and_bars_are_short() {
    let check = |seconds: f64, expected: &str| assert_eq!(span(seconds), expected, "{seconds}");
    check(0.0, "0s");
    check(0.2, "under 1s");
    check(41.5, "42s");
    check(60.0, "1m");
    check(3_725.0, "1h 2m");
    check(90_000.0, "1d 1h");
    check(f64::NAN, "0s");
    assert_eq!(
        (percent(0.5).as_str(), percent(0.041).as_str()),
        ("50 %", "4.1 %")
    );
    assert_eq!(number(12.50), "12.5");
    assert_eq!(bar(-3.0), "·".repeat(24));
    assert_eq!(bar(f64::NAN), "·".repeat(24));
    assert_eq!(bar(7.0), "#".repeat(24));
}

#[test]
fn lines_are_cut_to_the_terminal_before_they_are_painted() {
    let line = Line::new("→ abcdef".to_owned(), Tone::Bad);
    assert_eq!(line.painted(3, true), "\x1b[31m→ a\x1b[0m");
    assert_eq!(line.painted(80, false), "→ abcdef");
}
