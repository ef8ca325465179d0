//! Tests of completion against a model file.

use std::time::Duration;

use crossfade_runtimes_core::{Datatype, Device, TensorSpec};
use proptest::prelude::*;

use super::*;
use crate::config::{On, Optimise, Placement, TimeoutAction, WarmupData, finding, json, pbtxt, toml};
use crate::version::VersionPolicy;

fn spec(name: &str, datatype: Datatype, dims: &[&str]) -> TensorSpec {
    let dims = dims.iter().map(|dim| match dim.parse::<i64>() {
        Ok(size) => usize::try_from(size).map_or(Dim::Any, Dim::Fixed),
        Err(_) => Dim::Named((*dim).into()),
    });
    TensorSpec::new(name, datatype, dims.collect())
}

/// `x: FP32 [N,3]`, `y: BYTES [N]`.
fn batching_model() -> ModelSignature {
    ModelSignature {
        inputs: vec![spec("x", Datatype::Fp32, &["N", "3"])],
        outputs: vec![spec("y", Datatype::Bytes, &["N"])],
        ..ModelSignature::default()
    }
}

fn complete(raw: &RawConfig, signature: &ModelSignature) -> Result<ModelConfig, ConfigError> {
    let label_files = BTreeMap::from([("labels.txt".to_owned(), "cat\ndog\n".to_owned())]);
    raw.complete(&Completion {
        model: "m",
        signature,
        runtime: "ort",
        default_max_batch_size: 32,
        auto_complete: true,
        label_files: &label_files,
    })
}

#[track_caller]
fn good(text: &str, signature: &ModelSignature) -> ModelConfig {
    complete(&pbtxt::read(text.as_bytes()).unwrap(), signature).unwrap()
}

#[track_caller]
fn check_error(text: &str, signature: &ModelSignature, expected: &[&str]) {
    let message = complete(&pbtxt::read(text.as_bytes()).unwrap(), signature)
        .unwrap_err()
        .to_string();
    for part in expected {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_model_without_config_is_completed_and_batches() {
    let config = good("", &batching_model());
    assert_eq!((config.max_batch_size, config.completed), (32, true));
    assert!(config.batching.enabled);
    assert_eq!(config.batching.max_rows, 32);
    let signature = config.signature(&batching_model());
    assert_eq!(
        signature.max_rows, None,
        "the completed limit is for merging, not for one request"
    );
    assert_eq!(
        ModelSignature {
            batched: true,
            ..batching_model()
        },
        signature
    );
    assert_eq!(
        config.to_json(),
        serde_json::json!({
            "name": "m", "platform": "onnxruntime_onnx", "backend": "onnxruntime", "runtime": "",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": 32,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [3],
                "is_shape_tensor": false, "allow_ragged_batch": false, "optional": false, "is_non_linear_format_io": false}],
            "output": [{"name": "y", "data_type": "TYPE_STRING", "dims": [], "label_filename": "",
                "is_shape_tensor": false, "is_non_linear_format_io": false}],
            "batch_input": [], "batch_output": [],
            "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0, "preserve_ordering": false,
                "priority_levels": 0, "default_priority_level": 0, "priority_queue_policy": {}},
            "instance_group": [{"name": "m", "kind": "KIND_CPU", "count": 1, "gpus": [], "secondary_devices": [],
                "profile": [], "passive": false, "host_policy": ""}],
            "default_model_filename": "", "cc_model_filenames": {}, "metric_tags": {},
            "parameters": {"crossfade.completed.max_batch_size": {"string_value": "32"}, "crossfade.completed.instances": {"string_value": "1"}},
            "model_warmup": [],
        })
    );
}

#[test]
fn only_a_shared_first_dimension_is_a_batch() {
    let check = |inputs: &[&[&str]], outputs: &[&[&str]], batched: bool| {
        let tensors = |prefix: &str, shapes: &[&[&str]]| {
            shapes
                .iter()
                .enumerate()
                .map(|(k, dims)| spec(&format!("{prefix}{k}"), Datatype::Fp32, dims))
                .collect()
        };
        let signature = ModelSignature {
            inputs: tensors("x", inputs),
            outputs: tensors("y", outputs),
            ..ModelSignature::default()
        };
        let config = good("", &signature);
        assert_eq!(config.max_batch_size > 0, batched, "{signature:?}");
        assert_eq!(config.signature(&signature).inputs, signature.inputs);
        assert_eq!(config.signature(&signature).outputs, signature.outputs);
    };
    check(&[&["N", "3"], &["-1"]], &[&["N"]], true);
    check(&[&["N", "3"], &["M", "3"]], &[&["N"]], false);
    check(&[&["N", "3"]], &[&["K"]], false);
    check(&[&["N"]], &[&[]], false);
    check(&[&["4"]], &[&["-1"]], false);
    check(&[], &[&["-1"]], false);
}

#[test]
fn explicit_batch_sizes_are_respected() {
    let zero = good("max_batch_size: 0", &batching_model());
    assert_eq!(
        (zero.max_batch_size, zero.completed, zero.batching.enabled),
        (0, false, false)
    );
    assert!(!zero.signature(&batching_model()).batched);
    let eight = good("max_batch_size: 8", &batching_model());
    assert!(
        eight.batching.enabled,
        "above 1 without a scheduler turns batching on"
    );
    assert_eq!(eight.signature(&batching_model()).max_rows, Some(8));
    let one = good("max_batch_size: 1", &batching_model());
    assert!(!one.batching.enabled);
    assert_eq!(one.batching.max_rows, 0);
    // Full shapes were written for max_batch_size 0.
    let full = good("input { name: 'x' dims: [-1, 3] }", &batching_model());
    assert_eq!(full.max_batch_size, 0);
    assert!(good("input { name: 'x' dims: 3 }", &batching_model()).completed);
    check_error("max_batch_size: -1", &batching_model(), &["must not be negative"]);
    let fixed = ModelSignature {
        inputs: vec![spec("x", Datatype::Fp32, &["1", "3"])],
        ..batching_model()
    };
    check_error(
        "max_batch_size: 4",
        &fixed,
        &["input `x`", "fixed dimension 0", "max_batch_size: 0"],
    );
}

#[test]
fn a_mismatch_names_both_sides_and_what_to_write() {
    let model = batching_model();
    check_error(
        "input { name: 'x' data_type: TYPE_FP16 }",
        &model,
        &["TYPE_FP16", "TYPE_FP32", "write `data_type: TYPE_FP32`"],
    );
    check_error(
        "max_batch_size: 4 input { name: 'x' dims: [-1, 3] }",
        &model,
        &["dims [-1,3]", "the model file says [3]", "write `dims: [3]`"],
    );
    check_error(
        "max_batch_size: 0 input { name: 'x' dims: [3] }",
        &model,
        &["[-1,3]", "above 0"],
    );
    check_error("input { name: 'x' dims: [4] }", &model, &["dims [4]", "[3]"]);
    check_error(
        "input { name: 'X1' }",
        &model,
        &["input `X1`", "its inputs are `x`"],
    );
    check_error(
        "output { name: 'yy' }",
        &model,
        &["output `yy`", "did you mean `y`?"],
    );
    check_error(
        "input { name: 'x' } input { name: 'x' }",
        &model,
        &["given twice"],
    );
    check_error("input { name: 'x' optional: true }", &model, &["it is required"]);
    check_error("input { name: 'x' dims: [-2] }", &model, &["got -2"]);
    check_error("name: 'other'", &model, &["`other`", "write `m`"]);
    let two = ModelSignature {
        inputs: vec![
            spec("x", Datatype::Fp32, &["N"]),
            spec("z", Datatype::Fp32, &["N"]),
        ],
        ..model
    };
    check_error("input { name: 'x' }", &two, &["input `z`", "it is required"]);
}

#[test]
fn outputs_may_be_left_out_and_tensors_keep_the_models_order() {
    let model = ModelSignature {
        inputs: vec![
            spec("a", Datatype::Fp32, &["N"]),
            spec("b", Datatype::Fp32, &["N"]),
        ],
        outputs: vec![
            spec("p", Datatype::Fp32, &["N"]),
            spec("q", Datatype::Int64, &["N"]),
        ],
        ..ModelSignature::default()
    };
    let config = good(
        "input [{ name: 'b' }, { name: 'a' }] output { name: 'q' }",
        &model,
    );
    let names = |tensors: &[ConfigTensor]| {
        tensors
            .iter()
            .map(|tensor| tensor.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&config.inputs), ["a", "b"]);
    assert_eq!(names(&config.outputs), ["q"]);
    assert_eq!(config.signature(&model).outputs.len(), 1);
}

#[test]
fn scalars_and_reshapes() {
    let model = ModelSignature {
        inputs: vec![spec("x", Datatype::Fp32, &[])],
        outputs: vec![spec("y", Datatype::Fp32, &["-1", "4"])],
        ..ModelSignature::default()
    };
    let plain = good("input { name: 'x' dims: [] }", &model);
    assert_eq!(plain.signature(&model).inputs[0].shape, ShapeSpec::default());
    let config = good(
        "input { name: 'x' dims: [1] reshape { shape: [] } } output { name: 'y' dims: [-1, 2, 2] reshape { shape: [-1, 4] } }",
        &model,
    );
    let signature = config.signature(&model);
    assert_eq!(signature.inputs[0].shape.wire(), [1]);
    assert_eq!(signature.inputs[0].reshape.as_ref().unwrap().wire(), [0i64; 0]);
    assert_eq!(signature.outputs[0].reshape.as_ref().unwrap().wire(), [-1, 4]);
    check_error(
        "input { name: 'x' dims: [2] reshape { shape: [] } }",
        &model,
        &["same number of elements"],
    );
}

#[test]
fn batched_reshapes_include_the_batch() {
    let model = ModelSignature {
        inputs: vec![spec("x", Datatype::Fp32, &["N"])],
        ..batching_model()
    };
    let config = good(
        "max_batch_size: 4 input { name: 'x' dims: [1] reshape { shape: [] } }",
        &model,
    );
    let input = &config.signature(&model).inputs[0];
    assert_eq!(input.shape.wire(), [-1, 1]);
    assert_eq!(input.reshape.as_ref().unwrap().wire(), [-1]);
}

#[test]
fn the_scheduler_is_read_whole() {
    let config = good(
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [8, 4] max_queue_delay_microseconds: 100 preserve_ordering: true
           priority_levels: 2 default_priority_level: 2
           default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 max_queue_size: 7 }
           priority_queue_policy { key: 1 value { allow_timeout_override: true } } }",
        &batching_model(),
    );
    let batching = &config.batching;
    assert_eq!(batching.preferred_rows, [4, 8]);
    assert_eq!(batching.max_delay, Duration::from_micros(100));
    assert!(batching.preserve_ordering);
    assert_eq!((batching.priority_levels, batching.default_priority), (2, 2));
    let low = batching.queue_of(2);
    assert_eq!(
        (low.timeout_action, low.timeout, low.max_size),
        (TimeoutAction::Delay, Some(Duration::from_micros(5)), Some(7))
    );
    let high = batching.queue_of(1);
    assert_eq!(
        (high.timeout_action, high.timeout, high.max_size),
        (TimeoutAction::Reject, None, None)
    );
    let model = batching_model();
    check_error(
        "max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }",
        &model,
        &["from 1 to max_batch_size (4), got 5"],
    );
    check_error(
        "dynamic_batching { priority_levels: 2 }",
        &model,
        &["default_priority_level", "from 1 to priority_levels (2), got 0"],
    );
    check_error(
        "dynamic_batching { priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 value {} } }",
        &model,
        &["priority_queue_policy", "got 2"],
    );
}

#[test]
fn instances_come_from_groups_and_from_our_own_table() {
    let model = batching_model();
    let config = good("instance_group [ { count: 2 kind: KIND_CPU }, { } ]", &model);
    assert_eq!(
        (config.instances.count, config.instances.on_cpu()),
        (Some(3), true)
    );
    assert_eq!(good("", &model).instances.count, None);
    check_error(
        "instance_group { passive: true }",
        &model,
        &["instance_group.passive"],
    );
    check_error("instance_group { count: -1 }", &model, &["must not be negative"]);
    let own = toml::read("[instances]\ncount = 4\noptimise = 'latency'").unwrap();
    let group = pbtxt::read(b"instance_group { kind: KIND_CPU count: 9 }").unwrap();
    let config = complete(&RawConfig::merge(own, group), &model).unwrap();
    assert_eq!(
        (config.instances.count, config.instances.optimise),
        (Some(4), Optimise::Latency)
    );
}

#[test]
fn a_placement_is_read_from_our_own_table_groups_and_accelerators() {
    let check = |toml: &str, pbtxt: &str, on: On, per_device: u32| {
        let own = toml::read(toml).unwrap();
        let raw = RawConfig::merge(own, pbtxt::read(pbtxt.as_bytes()).unwrap());
        let expected = Placement {
            on,
            per_device,
            fallback_cpu: toml.contains("fallback"),
        };
        assert_eq!(raw.placement().unwrap(), expected, "{toml} {pbtxt}");
    };
    let every = || On::Gpus(Vec::new());
    check("", "", On::Auto, 1);
    check("", "instance_group { count: 2 }", On::Auto, 2);
    check("", "instance_group { kind: KIND_CPU count: 2 }", On::Cpu, 2);
    check("", "instance_group [ { kind: KIND_CPU }, { } ]", On::Cpu, 2);
    check("", "instance_group { kind: KIND_GPU count: 3 }", every(), 3);
    check(
        "",
        "instance_group { gpus: [1, 0] count: 2 }",
        On::Gpus(vec![1, 1, 0, 0]),
        1,
    );
    check(
        "[instances]\ndevice = 'cuda:1'\ncount = 2",
        "",
        On::Gpus(vec![1]),
        2,
    );
    check("[instances]\ndevice = 'cuda'\nfallback = 'cpu'", "", every(), 1);
    check(
        "[instances]\ndevice = 'cpu'",
        "instance_group { kind: KIND_GPU }",
        On::Cpu,
        1,
    );
    check(
        "[instances]\ncount = 3",
        "instance_group [ { kind: KIND_GPU gpus: 0 }, { kind: KIND_GPU gpus: [0, 1] } ]",
        On::Gpus(vec![0, 1]),
        3,
    );
    let tensorrt =
        "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' } } }";
    check("", tensorrt, every(), 1);
    check("[instances]\ndevice = 'cpu'", tensorrt, On::Cpu, 1);
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let model = batching_model();
    check_error(
        "instance_group [ { kind: KIND_GPU }, { kind: KIND_CPU } ]",
        &model,
        &["groups on GPUs and on the CPU at once"],
    );
    check_error(
        "instance_group [ { kind: KIND_GPU gpus: 0 }, { kind: KIND_GPU } ]",
        &model,
        &["in every group"],
    );
    check_error(
        "instance_group { gpus: -1 }",
        &model,
        &["must not be negative, got -1"],
    );
    check_error("instance_group { gpus: [0, 1] count: 1000 }", &model, &["1024"]);
}

#[test]
fn accelerators_are_handed_to_the_runtime_that_has_them() {
    let text = "optimization { execution_accelerators { \
        gpu_execution_accelerator { name: 'tensorrt' parameters { key: 'precision_mode' value: 'FP16' } } \
        cpu_execution_accelerator { name: 'openvino' } } }";
    let raw = pbtxt::read(text.as_bytes()).unwrap();
    let accelerator = |name: &str, gpu: bool, parameters: &[(&str, &str)]| Accelerator {
        name: name.to_owned(),
        gpu,
        parameters: parameters
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let expected = [
        accelerator("tensorrt", true, &[("precision_mode", "FP16")]),
        accelerator("openvino", false, &[]),
    ];
    assert_eq!(raw.accelerators().unwrap(), expected);
    assert!(complete(&raw, &batching_model()).is_ok());
    let error = raw
        .complete(&Completion {
            model: "m",
            signature: &batching_model(),
            runtime: "tract",
            default_max_batch_size: 32,
            auto_complete: true,
            label_files: &BTreeMap::new(),
        })
        .unwrap_err();
    assert!(
        error.to_string().contains("runtime `tract` has no accelerators"),
        "{error}"
    );
}

#[test]
fn groups_show_where_instances_are() {
    let model = batching_model();
    let shown = |text: &str, devices: &[Device], instead: Option<&str>| {
        let config = good(text, &model).placed(devices, instead);
        let groups = config.to_json()["instance_group"].clone();
        let of = |group: &Value| {
            let gpus = group["gpus"].as_array().map(|gpus| gpus.len());
            (group["kind"].clone(), gpus, group["count"].clone())
        };
        let groups: Vec<_> = groups.as_array().unwrap().iter().map(of).collect();
        (groups, config.warnings.len())
    };
    let gpus = [0, 1, 0, 1].map(Device::Cuda);
    let (groups, warnings) = shown("", &gpus, None);
    assert_eq!(groups, [(Value::from("KIND_GPU"), Some(2), Value::from(2))]);
    assert_eq!(warnings, 0);
    let uneven = [0, 0, 1].map(Device::Cuda);
    assert_eq!(shown("", &uneven, None).0.len(), 2);
    let (groups, warnings) = shown(
        "instance_group { kind: KIND_GPU count: 2 }",
        &[Device::Cpu],
        Some("no driver"),
    );
    assert_eq!(groups, [(Value::from("KIND_CPU"), Some(0), Value::from(2))]);
    assert_eq!(warnings, 1);
}

#[test]
fn warm_up_samples_fit_the_inputs() {
    let model = batching_model();
    let config = good(
        "max_batch_size: 4 model_warmup { name: 'w' batch_size: 2 count: 3 inputs { key: 'x' value { data_type: TYPE_FP32 dims: 3 random_data: true } } }",
        &model,
    );
    assert_eq!((config.warmup[0].rows, config.warmup[0].count), (2, 3));
    assert_eq!(
        (
            &*config.warmup[0].inputs[0].dims,
            &config.warmup[0].inputs[0].data
        ),
        (&[3][..], &WarmupData::Random)
    );
    let own = complete(&toml::read("[warmup]\nrows = 2").unwrap(), &model).unwrap();
    assert_eq!(
        (own.warmup[0].rows, &own.warmup[0].inputs[0].data),
        (2, &WarmupData::Zero)
    );
    let error = |sample: &str, expected: &str| {
        check_error(
            &format!("max_batch_size: 4 model_warmup {{ {sample} }}"),
            &model,
            &[expected],
        )
    };
    error("batch_size: 5", "from 1 to max_batch_size (4), got 5");
    error("batch_size: 1", "input `x` is missing");
    error("batch_size: 1 inputs { key: 'z' }", "no such input");
    error(
        "batch_size: 1 inputs { key: 'x' value { dims: 4 zero_data: true } }",
        "do not fit",
    );
    error(
        "batch_size: 1 inputs { key: 'x' value { dims: 3 } }",
        "needs one of",
    );
    error(
        "batch_size: 1 inputs { key: 'x' value { dims: 3 input_data_file: '../x' } }",
        "not a relative path",
    );
}

#[test]
fn what_changes_results_is_refused_and_what_tunes_is_echoed() {
    let model = batching_model();
    for (text, field) in [
        ("sequence_batching {}", "sequence_batching"),
        ("ensemble_scheduling {}", "ensemble_scheduling"),
        ("batch_input {}", "batch_input"),
        ("batch_output {}", "batch_output"),
        (
            "input { name: 'x' allow_ragged_batch: true }",
            "allow_ragged_batch",
        ),
        ("input { name: 'x' is_shape_tensor: true }", "is_shape_tensor"),
        (
            "model_operations { op_library_filename: 'x.so' }",
            "model_operations",
        ),
        ("backend: 'python'", "backend: python"),
        ("platform: 'tensorrt_plan'", "platform: tensorrt_plan"),
    ] {
        check_error(text, &model, &[field, "not supported"]);
    }
    check_error("backend: 'onnxruntim'", &model, &["did you mean `onnxruntime`?"]);
    check_error(
        "backend: 'tract' platform: 'onnxruntime_onnx'",
        &model,
        &["different runtimes"],
    );
    let config = good(
        "metric_tags { key: 'a' value: 'b' } optimization { cuda { graphs: true } graph { level: -1 } eager_batching: true } instance_group { host_policy: 'h' }",
        &model,
    );
    assert_eq!(config.warnings.len(), 4, "{:?}", config.warnings);
    assert_eq!(config.graph_level, Some(-1));
    let json = config.to_json();
    assert_eq!(json["optimization"]["cuda"]["graphs"], true);
    assert_eq!(json["metric_tags"]["a"], "b");
}

#[test]
fn labels_are_read_from_their_file() {
    let config = good(
        "output { name: 'y' label_filename: 'labels.txt' }",
        &batching_model(),
    );
    let labels: Vec<&str> = config.outputs[0]
        .labels
        .as_ref()
        .unwrap()
        .iter()
        .map(|label| &**label)
        .collect();
    assert_eq!(labels, ["cat", "dog"]);
    check_error(
        "output { name: 'y' label_filename: 'none.txt' }",
        &batching_model(),
        &["none.txt"],
    );
}

#[test]
fn the_revision_follows_the_configuration_and_not_its_language() {
    let model = batching_model();
    let rev = |raw: RawConfig| complete(&raw, &model).unwrap().config_rev;
    let one = rev(
        pbtxt::read(b"max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 5000 }").unwrap(),
    );
    assert_eq!(one.len(), 64);
    assert_eq!(
        one,
        rev(
            json::read(r#"{"dynamicBatching": {"maxQueueDelayMicroseconds": "5000"}, "maxBatchSize": 4}"#)
                .unwrap()
        )
    );
    assert_eq!(
        one,
        rev(toml::read("[batching]\nmax_rows = 4\nmax_delay = '5ms'").unwrap())
    );
    assert_eq!(
        one,
        rev(toml::read("[batching]\nmax_rows = 4\nmax_delay = '5ms'\n[labels]\nstable = 1").unwrap())
    );
    assert_ne!(
        one,
        rev(toml::read("[batching]\nmax_rows = 4\nmax_delay = '6ms'").unwrap())
    );
}

#[test]
fn the_echoed_config_loads_again_to_the_same() {
    let model = batching_model();
    let config = good(
        "max_batch_size: 4 parameters { key: 'a' value { string_value: 'b' } } dynamic_batching { priority_levels: 1 default_priority_level: 1 }",
        &model,
    );
    let again = complete(&json::read(&config.to_json().to_string()).unwrap(), &model).unwrap();
    assert_eq!(config.to_json(), again.to_json());
    assert_eq!(config.batching, again.batching);
}

#[test]
fn what_the_server_found_out_is_no_wish_when_it_comes_back() {
    let model = batching_model();
    let first = good("", &model);
    assert!(first.completed, "{first:?}");
    let mut shown = first.to_json();
    finding::show(&mut shown, finding::BATCH_CAP_ROWS, "1");
    finding::show(&mut shown, finding::UNMERGED, "rows differ");
    let again = |json: &serde_json::Value| complete(&json::read(&json.to_string()).unwrap(), &model).unwrap();
    let back = again(&shown);
    assert_eq!(
        back.to_json(),
        first.to_json(),
        "completed anew, not taken at its word"
    );
    assert_eq!((back.completed, &back.instances), (true, &first.instances));
    assert!(back.parameters.is_empty(), "{:?}", back.parameters);

    // As clients write it that leave out defaults and write 64-bit integers as text.
    let mut short = shown.clone();
    short["instance_group"] = serde_json::json!([{ "name": "m", "kind": "KIND_CPU", "count": 1 }]);
    short["input"] = serde_json::json!([{ "name": "x", "data_type": "TYPE_FP32", "dims": ["3"] }]);
    assert_eq!(again(&short).instances.count, None);
    assert!(again(&short).completed);

    shown["max_batch_size"] = 8.into();
    shown["instance_group"][0]["count"] = 2.into();
    let changed = again(&shown);
    assert_eq!((changed.max_batch_size, changed.completed), (8, false));
    assert_eq!(changed.instances.count, Some(2));
    assert!(changed.parameters.is_empty(), "{:?}", changed.parameters);
}

#[test]
fn our_own_keys_contradict_tritons_too() {
    let check = |toml: &str, pbtxt: &str, expected: &[&str]| {
        let (toml, pbtxt) = (toml::read(toml).unwrap(), pbtxt::read(pbtxt.as_bytes()).unwrap());
        assert_eq!(toml.contradictions(&pbtxt), expected);
    };
    check("model.runtime = 'tract'", "backend: 'onnxruntime'", &["backend"]);
    check("model.runtime = 'ort'", "platform: 'onnxruntime_onnx'", &[]);
    check("model.runtime = 'tract'", "name: 'm'", &[]);
    check(
        "instances.count = 2",
        "instance_group { count: 3 }",
        &["instance_group.count"],
    );
    check("instances.count = 2", "instance_group [ {}, {} ]", &[]);
    check("[warmup]", "model_warmup { name: 'w' }", &["model_warmup"]);
}

#[test]
fn version_policies_need_positive_numbers() {
    let policy = |text: &str| pbtxt::read(text.as_bytes()).unwrap().version_policy();
    assert_eq!(policy("").unwrap(), VersionPolicy::Latest(1));
    assert_eq!(
        policy("version_policy { latest {} }").unwrap(),
        VersionPolicy::Latest(1)
    );
    assert_eq!(policy("version_policy { all {} }").unwrap(), VersionPolicy::All);
    assert_eq!(
        policy("version_policy { specific { versions: [3, 1] } }").unwrap(),
        VersionPolicy::Specific(vec![3, 1])
    );
    for bad in [
        "latest { num_versions: 0 }",
        "specific {}",
        "specific { versions: [1, 0] }",
        "specific { versions: -1 }",
    ] {
        assert!(policy(&format!("version_policy {{ {bad} }}")).is_err(), "{bad}");
    }
}

#[test]
fn keys_merge_one_by_one_and_lists_as_a_whole() {
    let over = toml::read("[batching]\nmax_delay = '1ms'\n[versions]\nall = true\n[[input]]\nname = 'x'\n[model]\nparameters = { a = '2' }").unwrap();
    let under = pbtxt::read(
        b"max_batch_size: 4 dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 9 } version_policy { latest { num_versions: 3 } }
          input { name: 'z' } parameters { key: 'a' value { string_value: '1' } } parameters { key: 'b' value { string_value: '1' } }",
    )
    .unwrap();
    assert_eq!(
        over.contradictions(&under),
        [
            "dynamic_batching.max_queue_delay_microseconds",
            "input",
            "parameters.a.string_value"
        ]
    );
    let merged = RawConfig::merge(over, under);
    assert_eq!(
        Value::Object(merged.fields),
        json!({
            "max_batch_size": 4,
            "dynamic_batching": {"preferred_batch_size": [2], "max_queue_delay_microseconds": 1000},
            "version_policy": {"all": {}},
            "input": [{"name": "x"}],
            "parameters": {"a": {"string_value": "2"}, "b": {"string_value": "1"}},
        })
    );
}

fn raws() -> impl Strategy<Value = RawConfig> {
    let value = prop_oneof![
        (0..3i64).prop_map(|n| json!({ "max_batch_size": n })),
        (0..3i64).prop_map(|n| json!({ "dynamic_batching": { "max_queue_delay_microseconds": n } })),
        (0..3i64).prop_map(|n| json!({ "dynamic_batching": { "priority_levels": n } })),
        "[ab]".prop_map(|key| json!({ "parameters": { key: { "string_value": "v" } } })),
        Just(json!({ "version_policy": { "all": {} } })),
        (1..3i64).prop_map(|n| json!({ "version_policy": { "latest": { "num_versions": n } } })),
    ];
    let empty = RawConfig::default();
    proptest::collection::vec(value, 0..4).prop_map(move |values| {
        values.into_iter().fold(empty.clone(), |raw, value| {
            RawConfig::merge(json::read(&value.to_string()).unwrap(), raw)
        })
    })
}

proptest! {
    #[test]
    fn merging_is_associative_and_idempotent(a in raws(), b in raws(), c in raws()) {
        let merge = RawConfig::merge;
        prop_assert_eq!(merge(a.clone(), merge(b.clone(), c.clone())), merge(merge(a.clone(), b.clone()), c));
        prop_assert_eq!(merge(a.clone(), a.clone()), a.clone());
        prop_assert_eq!(merge(a.clone(), RawConfig::default()), a.clone());
        let merged = merge(a.clone(), b);
        prop_assert!(a.contradictions(&merged).iter().all(|path| path.starts_with("version_policy")), "what is above wins");
    }
}
