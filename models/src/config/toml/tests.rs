//! Tests of the reader of model.toml.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const FULL: &str = r#"
[model]
runtime = "tract"
file = "other.onnx"
parameters = { enable_mem_arena = "0", intra_op_thread_count = 2 }
[[input]]
name = "text"
datatype = "BYTES"
shape = [1]
[[output]]
name = "scores"
datatype = "FP32"
shape = [3]
labels = "labels.txt"
[batching]
max_rows = 32
max_delay = "5ms"
max_queue = 256
timeout = "200ms"
timeout_action = "delay"
[instances]
count = 2
device = "cuda:1"
fallback = "cpu"
optimise = "latency"
[versions]
latest = 2
[labels]
stable = 1
[warmup]
data = "random"
rows = 4
"#;

#[test]
fn every_key_of_the_sample_reads() {
    let raw = read(FULL).unwrap();
    assert_eq!(
        Value::Object(raw.fields),
        json!({
            "default_model_filename": "other.onnx",
            "parameters": {"enable_mem_arena": {"string_value": "0"}, "intra_op_thread_count": {"string_value": "2"}},
            "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}],
            "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [3], "label_filename": "labels.txt"}],
            "max_batch_size": 32,
            "dynamic_batching": {
                "max_queue_delay_microseconds": 5000,
                "default_queue_policy": {
                    "max_queue_size": 256, "default_timeout_microseconds": 200_000, "timeout_action": "DELAY"
                }
            },
            "version_policy": {"latest": {"num_versions": 2}},
        })
    );
    assert_eq!(
        raw.own,
        OwnKeys {
            release: Table::new(),
            runtime: Some(RuntimeChoice::Tract),
            instance_count: Some(2),
            device: Some(DeviceChoice::Cuda(Some(1))),
            fallback_cpu: Some(true),
            learn_rows: None,
            optimise: Some(Optimise::Latency),
            warmup_data: Some(WarmupData::Random),
            warmup_rows: Some(4),
            labels: Some(BTreeMap::from([("stable".to_owned(), 1)])),
        }
    );
}

#[test]
fn an_empty_batching_table_turns_batching_on() {
    assert_eq!(
        Value::Object(read("[batching]").unwrap().fields),
        json!({"dynamic_batching": {}})
    );
}

#[test]
fn the_servers_file_has_the_same_keys_with_the_prefix_removed() {
    let table: Table = "runtime = 'ort'\nbatching.max_delay = '5ms'".parse().unwrap();
    let raw = from_table(table).unwrap();
    assert_eq!(raw.own.runtime, Some(RuntimeChoice::Ort));
    assert_eq!(
        Value::Object(raw.fields),
        json!({"dynamic_batching": {"max_queue_delay_microseconds": 5000}})
    );
}

#[test]
fn mistakes_are_named() {
    let check = |text: &str, expected: &str| {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(
        "[batching]\nmax_dealy = '1ms'",
        "[batching]: unknown field `max_dealy`; did you mean `max_delay`?",
    );
    check(
        "[batchng]",
        "top level: unknown field `batchng`; did you mean `batching`?",
    );
    check(
        "[[input]]\nname = 'x'\nlabels = 'l'",
        "[input[0]]: unknown field `labels`",
    );
    check("[[input]]\nshape = [1]", "`name` is missing");
    check(
        "[[output]]\nname = 'x'\ndatatype = 'fp32'",
        "did you mean \"FP32\"?",
    );
    check("[batching]\nmax_delay = 5", "expected a string");
    check("[batching]\nmax_delay = '5'", "a number and a unit");
    check("[batching]\nmax_rows = -1", "non-negative");
    check("[versions]\nlatest = 0", "exactly one of");
    check("[versions]\nlatest = 1\nall = true", "exactly one of");
    check("[labels]\n7 = 1", "a label is not empty and not a number");
    check("[labels]\nstable = 0", "positive version number");
    check(
        "[model]\nruntime = 'onnx'",
        "expected one of auto, ort, tract, candle, fake",
    );
    check("[instances]\ndevice = 'cuda:x'", "cuda:0");
    check("[model\n", "line 1");
}

#[test]
fn keys_of_later_milestones_are_refused_by_name() {
    for text in ["[log]\nrate = 1.0", "[model]\nsource = 'x'"] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains("not supported yet"), "{message}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "([a-z]{1,8}|model|batching|[=.\\[\\]\"'{}, \n#-]|[0-9]{1,4}){0,60}") {
        let _outcome = read(&text);
    }
}
