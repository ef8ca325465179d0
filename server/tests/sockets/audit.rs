//! Calls that change the server, as its audit records them.

use crossfade_proto::inference as wire;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{ADD_ONE, Answer, Repository, Server};

const INFER: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;

async fn serving_add() -> Server {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    Server::start(repository).await
}

/// Action, object, outcome and listener of a record.
fn gist(record: &Value) -> [&str; 4] {
    [
        record["action"].as_str().unwrap(),
        record["object"].as_str().unwrap(),
        record["after"]["outcome"].as_str().unwrap(),
        record["evidence"][0]["listener"].as_str().unwrap_or("none"),
    ]
}

fn answered(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_over_http_that_changes_something_is_one_record_and_refused_ones_are_too() {
    let server = serving_add().await;
    for (path, body, status) in [
        ("/v2/repository/models/add/load", "", 200),
        ("/v2/repository/models/absent/load", "", 404),
        ("/v2/repository/models/add/load", "{", 400),
        (
            "/v2/repository/models/add/load",
            r#"{"parameters":{"other":"x"}}"#,
            400,
        ),
        ("/v2/repository/elsewhere/models/add/unload", "", 404),
        ("/v2/repository/models/add/unload", "", 200),
        ("/v2/logging", r#"{"log_verbose_level":1}"#, 200),
        ("/v2/logging", r#"{"log_colour":"red"}"#, 400),
        ("/v2/logging", r#"{"log_info":[]}"#, 400),
        ("/v2/trace/setting", r#"{"trace_level":"OFF"}"#, 200),
        ("/v2/trace/setting", r#"{"trace_level":"TIMESTAMPS"}"#, 501),
        ("/v2/models/absent/trace/setting", r#"{"trace_level":7.5e0}"#, 404),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
    }
    let records = server.audit();
    let expected = [
        ["model.load", "model/add", "accepted", "http"],
        ["model.load", "model/absent", "refused", "http"],
        ["model.load", "model/add", "refused", "http"],
        ["model.load", "model/add", "refused", "http"],
        ["model.unload", "model/elsewhere/add", "refused", "http"],
        ["model.unload", "model/add", "ok", "http"],
        ["settings.log", "log", "ok", "http"],
        ["settings.log", "log", "refused", "http"],
        ["settings.log", "log", "refused", "http"],
        ["settings.trace", "trace", "ok", "http"],
        ["settings.trace", "trace", "refused", "http"],
        ["settings.trace", "trace/absent", "refused", "http"],
    ];
    assert_eq!(records.iter().map(gist).collect::<Vec<_>>(), expected);
    for record in &records {
        assert_eq!(record["actor"], "anonymous", "{record}");
        assert!(
            record["evidence"][0]["peer"]
                .as_str()
                .unwrap()
                .starts_with("127.0.0.1:")
        );
        let refused = record["after"]["outcome"] == "refused";
        assert_eq!(record["after"]["error"].is_string(), refused, "{record}");
    }
    assert_eq!(records[5]["before"], json!({ "versions": [1] }));
    assert_eq!(records[6]["before"]["log_verbose_level"], 0);
    assert_eq!(records[6]["after"]["value"]["log_verbose_level"], 1);
    let scraped = server.scrape().await;
    for line in [
        "crossfade_audit_records_total{action=\"model.load\",outcome=\"accepted\"} 1",
        "crossfade_audit_records_total{action=\"model.load\",outcome=\"refused\"} 3",
        "crossfade_audit_records_total{action=\"settings.log\",outcome=\"ok\"} 1",
    ] {
        assert!(
            scraped.lines().any(|got| got == line),
            "{line} is missing in\n{scraped}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_grpc_are_recorded_alike() {
    let server = serving_add().await;
    let mut client = server.grpc().await;
    let load = |model: &str, key: Option<&str>| {
        let parameter = wire::ModelRepositoryParameter::default();
        wire::RepositoryModelLoadRequest {
            model_name: model.to_owned(),
            parameters: key.map(|key| (key.to_owned(), parameter)).into_iter().collect(),
            ..Default::default()
        }
    };
    client.repository_model_load(load("add", None)).await.unwrap();
    let code = |result: Result<_, tonic::Status>| result.map(|_: tonic::Response<_>| ()).unwrap_err().code();
    assert_eq!(
        code(client.repository_model_load(load("absent", None)).await),
        Code::NotFound
    );
    let nonsense = client.repository_model_load(load("add", Some("nonsense"))).await;
    assert_eq!(code(nonsense), Code::InvalidArgument);
    let unload = wire::RepositoryModelUnloadRequest {
        model_name: "add".to_owned(),
        ..Default::default()
    };
    client.repository_model_unload(unload).await.unwrap();
    let choice = wire::log_settings_request::setting_value::ParameterChoice::Uint32Param(1);
    let setting = wire::log_settings_request::SettingValue {
        parameter_choice: Some(choice),
    };
    let settings = |key: &str| wire::LogSettingsRequest {
        settings: [(key.to_owned(), setting.clone())].into(),
    };
    client.log_settings(settings("log_verbose_level")).await.unwrap();
    client.log_settings(settings("nonsense")).await.unwrap_err();
    client
        .log_settings(wire::LogSettingsRequest::default())
        .await
        .unwrap();

    let records = server.audit();
    let expected = [
        ["model.load", "model/add", "accepted", "grpc"],
        ["model.load", "model/absent", "refused", "grpc"],
        ["model.load", "model/add", "refused", "grpc"],
        ["model.unload", "model/add", "ok", "grpc"],
        ["settings.log", "log", "ok", "grpc"],
        ["settings.log", "log", "refused", "grpc"],
    ];
    assert_eq!(records.iter().map(gist).collect::<Vec<_>>(), expected);
    assert!(records[0]["evidence"][0]["peer"].is_string(), "{}", records[0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_only_read_leave_no_record() {
    let server = serving_add().await;
    answered(&server.get("/v2/logging").await, 200);
    answered(&server.post("/v2/logging", "{}").await, 200);
    answered(&server.get("/v2/trace/setting").await, 200);
    answered(&server.post("/v2/repository/index", "").await, 200);
    answered(&server.post("/v2/models/add/infer", INFER).await, 200);
    answered(&server.get("/v2/repository/models/add/load").await, 405);
    assert_eq!(server.audit(), Vec::<Value>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_accepted_and_fails_is_recorded_as_a_deed_of_the_server() {
    let server = serving_add().await;
    server.repository.add("add", 2, "no model", "");
    answered(&server.post("/v2/repository/models/add/load", "").await, 500);
    let records = server.audit();
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(records[0]["after"]["outcome"], "accepted");
    let failed = &records[1];
    assert_eq!(failed["after"]["outcome"], "failed");
    assert_eq!(failed["actor"], "crossfade");
    assert_eq!(failed["evidence"], json!([{ "seq": 1 }]));
    assert!(
        failed["after"]["error"].as_str().unwrap().contains("version 2"),
        "{failed}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_load_call_are_recorded_by_their_digests() {
    let server = serving_add().await;
    let body = json!({ "parameters": {
        "config": "{\"backend\": \"fake\"}",
        "file:1/model.fake": "YWJj",
    } });
    server
        .post("/v2/repository/models/other/load", body.to_string())
        .await;
    let given = &server.audit()[0]["evidence"][1];
    // sha256sum of abc.
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let file = json!({ "name": "1/model.fake", "bytes": 3, "sha256": digest });
    assert_eq!(given["files"], json!([file]));
    assert_eq!(given["file_count"], 1);
    server.stop().await;
}
