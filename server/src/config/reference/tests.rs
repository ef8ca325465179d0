use super::*;

/// Names in backticks after "expected", out of the refusal of a key that does not exist.
fn accepted(text: &str) -> Vec<String> {
    let refusal = RawConfig::parse(text).unwrap_err();
    let line = refusal
        .lines()
        .find(|line| line.contains("unknown field `nonsense`"))
        .unwrap_or_default();
    let expected = line.split_once("expected").map_or("", |(_, expected)| expected);
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_flag_of_serve_is_in_the_reference_and_every_flag_there_exists() {
    let flags = serve_flags();
    let exist: Vec<&str> = flags
        .iter()
        .filter_map(Arg::get_long)
        .filter(|flag| *flag != "version")
        .collect();
    let listed: Vec<&str> = SERVER.iter().flat_map(|key| key.flags).copied().collect();
    for flag in &exist {
        assert_eq!(
            listed.iter().filter(|known| *known == flag).count(),
            1,
            "--{flag}: add it to SERVER, once"
        );
    }
    for flag in &listed {
        assert!(
            exist.contains(flag),
            "--{flag} is in SERVER and not on the command line"
        );
    }
}

#[test]
fn every_flag_has_a_variable_and_a_meaning() {
    for arg in serve_flags()
        .iter()
        .filter(|arg| arg.get_long() != Some("version"))
    {
        assert!(
            arg.get_env().is_some(),
            "{} has no environment variable",
            dashed(arg)
        );
        assert!(!help(arg).is_empty(), "{} has no help", dashed(arg));
    }
}

#[test]
fn every_key_of_the_file_is_in_the_reference() {
    let top = accepted("nonsense = 1");
    assert!(top.len() > 5, "the refusal lists the keys: {top:?}");
    let mut left: Vec<String> = top.into_iter().filter(|key| key != "model").collect();
    while let Some(key) = left.pop() {
        if SERVER.iter().any(|known| known.key == key) {
            continue;
        }
        // A table, or one of several.
        let mut inner = accepted(&format!("[{key}]\nnonsense = 1"));
        inner.extend(accepted(&format!("[[{key}]]\nnonsense = 1")));
        assert!(!inner.is_empty(), "`{key}`: add it to SERVER");
        left.extend(inner.into_iter().map(|inner| format!("{key}.{inner}")));
    }
}

#[test]
fn every_key_in_the_reference_is_one_of_the_file() {
    for key in SERVER.iter().map(|key| key.key).filter(|key| !key.is_empty()) {
        let text = if key == "model.NAME" {
            "[model.NAME]".to_owned()
        } else {
            format!("{key} = {{}}")
        };
        // A wrong value is refused in other words than an unknown key.
        if let Err(refusal) = RawConfig::parse(&text) {
            assert!(
                !refusal.contains("unknown field"),
                "`{key}` is no key of crossfade.toml:\n{refusal}"
            );
        }
    }
}

#[test]
fn the_page_has_a_row_per_key_with_default_flag_and_variable() {
    let page = markdown();
    for line in [
        "| `exit_timeout` | `\"30s\"` | `--exit-timeout-secs` | `CROSSFADE_EXIT_TIMEOUT_SECS` |",
        "| `repository.mode` | `\"none\"` | `--model-control-mode` | `CROSSFADE_MODEL_CONTROL_MODE` | When models are loaded",
        "| `http.listen` | `\"127.0.0.1:8000\"` | `--http-address` `--http-port` |",
        "| `limits.max_request_bytes` | `268_435_456` |  |  | Largest request",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}

#[test]
fn numbers_are_grouped_by_three() {
    for (value, expected) in [
        (0, "`0`"),
        (999, "`999`"),
        (1000, "`1_000`"),
        (4_294_967_296_usize, "`4_294_967_296`"),
    ] {
        assert_eq!(number(value), expected);
    }
}
