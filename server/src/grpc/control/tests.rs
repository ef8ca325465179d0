//! Translations that are more than a copy of fields.

use bytes::Bytes;
use pb::ModelRepositoryParameter;
use serde_json::json;

use super::*;

#[test]
fn configuration_json_becomes_its_message() {
    let config = json!({
        "name": "m",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, -1]}],
        "output": [{"name": "y", "data_type": "TYPE_STRING", "dims": [1], "label_filename": "l.txt"}],
        "instance_group": [{"kind": "KIND_GPU", "count": 2, "gpus": [0]}],
        "dynamic_batching": {
            "max_queue_delay_microseconds": 9_007_199_254_740_993_u64,
            "priority_queue_policy": {"1": {"timeout_action": "DELAY", "max_queue_size": 4}}
        },
        "parameters": {"k": {"string_value": "v"}},
        "optimization": {"graph": {"level": -1}},
        "model_transaction_policy": {"decoupled": false},
        "something_new": 1
    });
    let config = model_config::from_json(config).unwrap();
    assert_eq!((config.name.as_str(), config.max_batch_size), ("m", 8));
    assert_eq!(config.input[0].data_type(), pb::DataType::TypeFp32);
    assert_eq!(config.input[0].dims, [3, -1]);
    assert_eq!(config.output[0].data_type(), pb::DataType::TypeString);
    assert_eq!(config.output[0].label_filename, "l.txt");
    assert_eq!(
        config.instance_group[0].kind(),
        pb::model_instance_group::Kind::Gpu
    );
    assert_eq!(config.parameters["k"].string_value, "v");
    assert_eq!(config.optimization.unwrap().graph.unwrap().level, -1);
    let Some(pb::model_config::SchedulingChoice::DynamicBatching(batching)) = config.scheduling_choice else {
        panic!("no dynamic batching");
    };
    assert_eq!(batching.max_queue_delay_microseconds, 9_007_199_254_740_993);
    assert_eq!(batching.priority_queue_policy[&1].max_queue_size, 4);
    assert!(config.version_policy.is_some());
}

#[test]
fn a_configuration_of_wrong_types_is_an_internal_error() {
    let refusal = model_config::from_json(json!({"max_batch_size": "many"})).unwrap_err();
    assert_eq!(refusal.status, Status::Internal);
}

fn load(pairs: Vec<(&str, LoadChoice)>) -> Result<LoadParameters, Refusal> {
    load_parameters(
        pairs
            .into_iter()
            .map(|(key, choice)| {
                (
                    key.to_owned(),
                    ModelRepositoryParameter {
                        parameter_choice: Some(choice),
                    },
                )
            })
            .collect(),
    )
}

#[test]
fn load_parameters_are_known_by_name_and_type() {
    let loaded = load(vec![
        ("config", LoadChoice::StringParam("{}".into())),
        (
            "file:1/model.onnx",
            LoadChoice::BytesParam(Bytes::from_static(b"onnx")),
        ),
        ("labels", LoadChoice::StringParam("{\"a\":1}".into())),
    ])
    .unwrap();
    assert_eq!(loaded.config.as_deref(), Some("{}"));
    assert_eq!(loaded.labels.as_deref(), Some("{\"a\":1}"));
    assert_eq!(
        loaded.files,
        BTreeMap::from([("1/model.onnx".to_owned(), b"onnx".to_vec())])
    );

    for (key, choice) in [
        ("config", LoadChoice::BoolParam(true)),
        ("file:1/model.onnx", LoadChoice::StringParam("b25ueA==".into())),
        ("cofnig", LoadChoice::StringParam("{}".into())),
    ] {
        let refusal = load(vec![(key, choice)]).unwrap_err();
        assert_eq!(refusal.status, Status::InvalidInput);
        assert!(refusal.message.contains(&format!("`{key}`")), "{refusal}");
    }
}

#[test]
fn log_settings_keep_their_types() {
    use log_settings_response::setting_value::ParameterChoice as Choice;
    let check = |value, expected| assert_eq!(log_setting(value).parameter_choice, Some(expected));
    check(Parameter::Bool(true), Choice::BoolParam(true));
    check(Parameter::Uint(3), Choice::Uint32Param(3));
    check(Parameter::Int(-3), Choice::StringParam("-3".into()));
    check(
        Parameter::String("default".into()),
        Choice::StringParam("default".into()),
    );
}
