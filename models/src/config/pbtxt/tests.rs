//! Tests of the text format's reader.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fields(text: &str) -> serde_json::Value {
    serde_json::Value::Object(read(text.as_bytes()).unwrap().fields)
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    let message = read(text.as_bytes()).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_usual_config_reads() {
    let text = r#"
        # a comment
        name: "digits"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [
          { name: "x", data_type: TYPE_FP32, dims: [ 3, -1 ], format: FORMAT_NCHW }
        ]
        output { name: 'y' data_type: 11; dims: 3 dims: 0x10 reshape { shape: [] } }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
        parameters { key: "a" value { string_value: "1" } }
        parameters: { key: "b", value: < string_value: "x" "y" > }
        parameters [ { key: "a" value: { string_value: "2" } } ]
        version_policy: { latest { num_versions: 2 } }
    "#;
    assert_eq!(
        fields(text),
        json!({
            "name": "digits", "platform": "onnxruntime_onnx", "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, -1], "format": "FORMAT_NCHW"}],
            "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3, 16], "reshape": {"shape": []}}],
            "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
            "dynamic_batching": {"preferred_batch_size": [4, 8], "max_queue_delay_microseconds": 100},
            "parameters": {"a": {"string_value": "2"}, "b": {"string_value": "xy"}},
            "version_policy": {"latest": {"num_versions": 2}},
        })
    );
}

#[test]
fn literals_have_the_forms_of_the_text_format() {
    let text = "name: \"a\\n\\t\\x41\\101\\u00e9\\\\\\'\\uD83D\\uDE00\"";
    assert_eq!(fields(text), json!({"name": "a\n\tAAé\\'😀"}));
    assert_eq!(fields("max_batch_size: 010"), json!({"max_batch_size": 8}));
    assert_eq!(fields("max_batch_size: 0"), json!({"max_batch_size": 0}));
    assert_eq!(fields("max_batch_size: - 3"), json!({"max_batch_size": -3}));
    for (word, value) in [
        ("t", true),
        ("True", true),
        ("1", true),
        ("0", false),
        ("f", false),
    ] {
        let text = format!("model_transaction_policy {{ decoupled: {word} }}");
        assert_eq!(
            fields(&text),
            json!({"model_transaction_policy": {"decoupled": value}})
        );
    }
    assert_eq!(fields("\u{feff}input: []"), json!({"input": []}));
    assert_eq!(
        fields("dynamic_batching { priority_queue_policy { key: 1 value { timeout_action: DELAY } } }"),
        json!({"dynamic_batching": {"priority_queue_policy": {"1": {"timeout_action": "DELAY"}}}})
    );
}

#[test]
fn fields_without_a_schema_are_kept_whole() {
    let text =
        "ensemble_scheduling { step [ { model_name: \"a\" model_version: -1 } ] step { deep { x: true } } }";
    assert_eq!(
        fields(text),
        json!({"ensemble_scheduling": {"step": [{"model_name": "a", "model_version": -1}, {"deep": {"x": true}}]}})
    );
}

#[test]
fn a_trailing_comma_is_a_warning() {
    let config = read(b"input [ { name: \"x\" dims: [1, 2,] }, ]").unwrap();
    assert_eq!(config.warnings().len(), 2, "{:?}", config.warnings());
    assert!(
        config.warnings()[0].contains("line 1, column 32"),
        "{:?}",
        config.warnings()
    );
}

#[test]
fn mistakes_carry_their_place() {
    check_error(
        "name: \"x\"\n  max_batch_sise: 3",
        "line 2, column 3: unknown field `max_batch_sise` in ModelConfig; did you mean `max_batch_size`?",
    );
    check_error("input { name: \"x\" dim: 3 }", "did you mean `dims`?");
    check_error("input { data_type: FP32 }", "did you mean TYPE_FP32?");
    check_error(
        "name: \"a\" name: \"b\"",
        "line 1, column 11: `name` is given twice",
    );
    check_error(
        "dynamic_batching {} sequence_batching {}",
        "`sequence_batching` excludes `dynamic_batching`",
    );
    check_error("version_policy { all {} latest {} }", "excludes");
    check_error(
        "max_batch_size: \"3\"",
        "expected an integer (int32), got a string",
    );
    check_error("max_batch_size: 3000000000", "got 3000000000");
    check_error("max_batch_size: 1.5", "got 1.5");
    check_error("max_batch_size: [1]", "got a list");
    check_error(
        "name: \"abc",
        "line 1, column 7: the string does not end on its line",
    );
    check_error("name: \"\\q\"", "unknown escape");
    check_error("name: \"\\xff\"", "not UTF-8");
    check_error("input {", "`}` is missing");
    check_error("name \"x\"", "expected `:`");
    check_error("input [ {} {} ]", "expected `,` or `]`");
    check_error("parameters { value { } }", "has no key");
    check_error("= 3", "unexpected character '='");
    let message = read(b"name: \"x\"\n\xff").unwrap_err().to_string();
    assert!(
        message.contains("line 2, column 1: the file is not UTF-8"),
        "{message}"
    );
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    check_error(
        &"sequence_batching {".repeat(200_000),
        "nested deeper than 64 levels",
    );
    check_error(
        &format!("input: {}", "[".repeat(200_000)),
        "nested deeper than 64 levels",
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = read(&bytes);
    }

    #[test]
    fn any_words_are_read_or_refused(text in "([a-z_]{1,12}|input|dims|name|[:;,{}<>\\[\\]\"'#\\\\ \n-]|[0-9x.e+-]{1,6}){0,60}") {
        let _outcome = read(text.as_bytes());
    }

    #[test]
    fn every_string_survives_escaping(text in "\\PC{0,40}") {
        let escaped: String = text.bytes().map(|byte| format!("\\{byte:03o}")).collect();
        prop_assert_eq!(fields(&format!("name: \"{escaped}\"")), json!({"name": text}));
    }
}
