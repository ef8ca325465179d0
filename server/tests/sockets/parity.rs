//! Each case through both protocols: the same answer, or the same row of the status table and the same message.

use crossfade_proto::inference as wire;
use crossfade_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use crossfade_runtimes_fake::Gate;
use crossfade_server::audit::{Call, Listener};
use crossfade_server::status::Status;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::harness::{ADD_ONE, Repository, Server};

/// Sends one JSON request as gRPC would carry it.
fn to_grpc(model: &str, version: &str, body: &Value) -> wire::ModelInferRequest {
    let parameters = |value: &Value| {
        let entries = value.as_object().into_iter().flatten();
        entries
            .map(|(key, value)| (key.clone(), parameter(value)))
            .collect()
    };
    let inputs = body["inputs"].as_array().unwrap().iter().map(|input| {
        let numbers = |value: &Value| value.as_array().unwrap().clone();
        let data = numbers(&input["data"]);
        let mut contents = wire::InferTensorContents::default();
        match input["datatype"].as_str().unwrap() {
            "FP32" => contents.fp32_contents = data.iter().map(|v| v.as_f64().unwrap() as f32).collect(),
            "FP64" => contents.fp64_contents = data.iter().map(|v| v.as_f64().unwrap()).collect(),
            "INT8" | "INT32" => {
                contents.int_contents = data.iter().map(|v| v.as_i64().unwrap() as i32).collect()
            }
            "BOOL" => contents.bool_contents = data.iter().map(|v| v.as_bool().unwrap()).collect(),
            "BYTES" => {
                contents.bytes_contents = data
                    .iter()
                    .map(|v| v.as_str().unwrap().as_bytes().to_vec().into())
                    .collect();
            }
            _ => {}
        }
        wire::model_infer_request::InferInputTensor {
            name: input["name"].as_str().unwrap().into(),
            datatype: input["datatype"].as_str().unwrap().into(),
            shape: numbers(&input["shape"])
                .iter()
                .map(|dim| dim.as_i64().unwrap())
                .collect(),
            contents: Some(contents),
            ..Default::default()
        }
    });
    let outputs = body["outputs"].as_array().into_iter().flatten().map(|output| {
        wire::model_infer_request::InferRequestedOutputTensor {
            name: output["name"].as_str().unwrap().into(),
            parameters: parameters(&output["parameters"]),
        }
    });
    wire::ModelInferRequest {
        model_name: model.into(),
        model_version: version.into(),
        id: body["id"].as_str().unwrap_or_default().into(),
        parameters: parameters(&body["parameters"]),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        raw_input_contents: vec![],
    }
}

fn parameter(value: &Value) -> wire::InferParameter {
    use wire::infer_parameter::ParameterChoice as Choice;
    let choice = match value {
        Value::Bool(value) => Choice::BoolParam(*value),
        Value::Number(number) => number.as_i64().map_or_else(
            || Choice::DoubleParam(number.as_f64().unwrap()),
            Choice::Int64Param,
        ),
        value => Choice::StringParam(value.as_str().unwrap().into()),
    };
    wire::InferParameter {
        parameter_choice: Some(choice),
    }
}

/// What both protocols are compared by.
#[derive(Debug, PartialEq)]
enum Seen {
    Answer {
        model: String,
        version: String,
        id: String,
        outputs: Vec<(String, String, Vec<i64>, Vec<u8>)>,
    },
    Refusal {
        status: Status,
        message: String,
    },
}

async fn over_grpc(server: &Server, model: &str, version: &str, body: &Value) -> Seen {
    match server
        .grpc()
        .await
        .model_infer(to_grpc(model, version, body))
        .await
    {
        Ok(response) => {
            assert!(response.metadata().contains_key("x-request-id"));
            let answer = response.into_inner();
            assert_eq!(answer.outputs.len(), answer.raw_output_contents.len());
            let outputs = answer.outputs.into_iter().zip(answer.raw_output_contents);
            Seen::Answer {
                model: answer.model_name,
                version: answer.model_version,
                id: answer.id,
                outputs: outputs
                    .map(|(o, raw)| (o.name, o.datatype, o.shape, raw.to_vec()))
                    .collect(),
            }
        }
        Err(error) => {
            assert!(error.metadata().contains_key("x-request-id"), "{error:?}");
            let status = Status::ALL
                .into_iter()
                .find(|status| status.grpc() == error.code())
                .unwrap();
            Seen::Refusal {
                status,
                message: error.message().into(),
            }
        }
    }
}

async fn over_http(server: &Server, model: &str, version: &str, body: &Value) -> Seen {
    let path = match version {
        "" => format!("/v2/models/{model}/infer"),
        version => format!("/v2/models/{model}/versions/{version}/infer"),
    };
    let mut body = body.clone();
    // Binary outputs, so that the bytes can be compared.
    body["parameters"]["binary_data_output"] = json!(true);
    let answer = server.post(&path, body.to_string()).await;
    assert!(answer.headers.contains_key("x-request-id"), "{answer:?}");
    if answer.status != 200 {
        let status = Status::ALL
            .into_iter()
            .find(|status| status.http().as_u16() == answer.status);
        return Seen::Refusal {
            status: status.expect("a row of the table"),
            message: answer.error(),
        };
    }
    let header: usize = match answer.headers.get("inference-header-content-length") {
        Some(length) => length.parse().unwrap(),
        None => answer.body.len(),
    };
    let json: Value = serde_json::from_slice(&answer.body[..header]).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rest = &answer.body[header..];
    let outputs = json["outputs"].as_array().unwrap().iter().map(|output| {
        let size = output["parameters"]["binary_data_size"].as_u64().unwrap() as usize;
        let (raw, tail) = rest.split_at(size);
        rest = tail;
        let shape = output["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dim| dim.as_i64().unwrap())
            .collect();
        (
            text(&output["name"]),
            text(&output["datatype"]),
            shape,
            raw.to_vec(),
        )
    });
    let outputs = outputs.collect();
    assert!(rest.is_empty());
    Seen::Answer {
        model: text(&json["model_name"]),
        version: text(&json["model_version"]),
        id: text(&json["id"]),
        outputs,
    }
}

async fn both(server: &Server, model: &str, version: &str, body: Value) -> Seen {
    let (grpc, http) = tokio::join!(
        over_grpc(server, model, version, &body),
        over_http(server, model, version, &body)
    );
    assert_eq!(grpc, http, "{body}");
    grpc
}

#[track_caller]
fn refused(seen: Seen, expected: Status, part: &str) {
    match seen {
        Seen::Refusal { status, message } => {
            assert_eq!(status, expected, "{message}");
            assert!(message.contains(part), "`{part}` is not in `{message}`");
        }
        answer => panic!("expected {expected:?}, got {answer:?}"),
    }
}

fn x(shape: Value, data: Value) -> Value {
    json!({ "name": "x", "datatype": "FP32", "shape": shape, "data": data })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    repository.add(
        "add",
        2,
        "input x FP32 -1,2\noutput y FP32 -1,2\nop add 2\n",
        "[versions]\nall = true\n[labels]\nstable = 1\n",
    );
    repository.add("all", 1, "input b BYTES -1\ninput i INT8 -1\ninput t BOOL -1\noutput ob BYTES -1\noutput oi INT8 -1\noutput ot BOOL -1\n", "");
    let server = Server::start(repository).await;

    let body = json!({ "id": "mine", "inputs": [x(json!([2, 2]), json!([1.0, 2.0, 3.0, 0.1]))] });
    for (version, by, served) in [
        ("", 2.0f32, "2"),
        ("1", 1.0, "1"),
        ("2", 2.0, "2"),
        ("stable", 1.0, "1"),
    ] {
        let raw: Vec<u8> = [1.0f32, 2.0, 3.0, 0.1]
            .iter()
            .flat_map(|v| (v + by).to_le_bytes())
            .collect();
        let expected = Seen::Answer {
            model: "add".into(),
            version: served.into(),
            id: "mine".into(),
            outputs: vec![("y".into(), "FP32".into(), vec![2, 2], raw)],
        };
        assert_eq!(both(&server, "add", version, body.clone()).await, expected);
    }
    let inputs = json!([
        { "name": "t", "datatype": "BOOL", "shape": [1], "data": [true] },
        { "name": "i", "datatype": "INT8", "shape": [1], "data": [-128] },
        { "name": "b", "datatype": "BYTES", "shape": [1], "data": ["a\u{0}é"] },
    ]);
    let outputs = json!([{ "name": "ot" }, { "name": "ob" }, { "name": "ot" }]);
    let seen = both(
        &server,
        "all",
        "",
        json!({ "inputs": inputs, "outputs": outputs }),
    )
    .await;
    let Seen::Answer { outputs, .. } = seen else {
        panic!("{seen:?}")
    };
    assert_eq!(outputs[0], ("ot".into(), "BOOL".into(), vec![1], vec![1]));
    assert_eq!(
        outputs[1],
        (
            "ob".into(),
            "BYTES".into(),
            vec![1],
            b"\x04\0\0\0a\0\xc3\xa9".to_vec()
        )
    );
    assert_eq!(outputs.len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_the_same() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "[batching]\nmax_rows = 4\n");
    repository.add(
        "troubled",
        1,
        &format!("{ADD_ONE}fail_on 666\nrefuse_on 400\npanic_on 13\n"),
        "",
    );
    let server = Server::start(repository).await;
    let good = || json!({ "inputs": [x(json!([1, 2]), json!([1.0, 2.0]))] });
    let with = |key: &str, value: Value| {
        let mut body = good();
        body["parameters"][key] = value;
        body
    };
    let input = |input: Value| json!({ "inputs": [input] });
    use Status::*;
    let cases = [
        ("none", "", good(), NotFound, "none"),
        ("add", "9", good(), NotFound, "9"),
        ("add", "0", good(), InvalidInput, "0"),
        ("add", "-1", good(), InvalidInput, "-1"),
        ("add", "newest", good(), InvalidInput, "newest"),
        (
            "add",
            "",
            json!({ "inputs": [] }),
            InvalidInput,
            "input `x` is missing",
        ),
        (
            "add",
            "",
            input(json!({ "name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 2.0] })),
            InvalidInput,
            "expected datatype FP32, got FP64",
        ),
        (
            "add",
            "",
            input(json!({ "name": "z", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0] })),
            InvalidInput,
            "unexpected input `z`",
        ),
        (
            "add",
            "",
            input(x(json!([2]), json!([1.0, 2.0]))),
            InvalidInput,
            "expected shape [-1,2], got [2]",
        ),
        (
            "add",
            "",
            input(x(json!([5, 2]), json!([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))),
            InvalidInput,
            "5 rows",
        ),
        (
            "add",
            "",
            json!({ "inputs": good()["inputs"], "outputs": [{ "name": "q" }] }),
            InvalidInput,
            "unknown requested output `q`",
        ),
        (
            "add",
            "",
            with("timeout", json!("soon")),
            InvalidInput,
            "parameter `timeout`",
        ),
        (
            "add",
            "",
            with("timeout", json!(-1)),
            InvalidInput,
            "parameter `timeout`",
        ),
        (
            "troubled",
            "",
            input(x(json!([1, 2]), json!([666.0, 0.0]))),
            Internal,
            "",
        ),
        (
            "troubled",
            "",
            input(x(json!([1, 2]), json!([400.0, 0.0]))),
            InvalidInput,
            "",
        ),
        (
            "troubled",
            "",
            input(x(json!([1, 2]), json!([13.0, 0.0]))),
            Internal,
            "panicked",
        ),
    ];
    for (model, version, body, status, part) in cases {
        refused(both(&server, model, version, body).await, status, part);
    }
    // Neither the failure nor the panic took the model or the server down.
    assert!(matches!(
        both(&server, "troubled", "", good()).await,
        Seen::Answer { .. }
    ));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_crowded_out_requests_are_refused_alike_and_never_run() {
    let repository = Repository::new();
    // The explicit batch size: no merge probe runs at load, where the closed gate would hold it.
    repository.add("add", 1, ADD_ONE, "[batching]\nmax_queue = 1\nmax_rows = 8\n");
    let server = Server::start_with(repository, |_| {}).await;
    let gate = Gate::closed();
    server.wait_ready().await;
    server.fake.hold_runs(gate.clone());
    // The gate holds models loaded from now on.
    let unloaded = server.post("/v2/repository/models/add/unload", "").await;
    assert_eq!(unloaded.status, 200);
    let loading = server.post("/v2/repository/models/add/load", "");
    let (loaded, ()) = tokio::join!(loading, async { gate.pass(0) });
    assert_eq!(loaded.status, 200, "{loaded:?}");

    let body = json!({ "inputs": [x(json!([1, 2]), json!([1.0, 2.0]))] });
    let mut late = body.clone();
    late["parameters"]["timeout"] = json!(20_000);
    let probe = server
        .fake
        .probe(&server.repository.path().join("add/1/model.fake"));
    let before = probe.executions();
    let request = to_grpc("add", "", &body);
    let ask = |mut client: GrpcInferenceServiceClient<Channel>| {
        let request = request.clone();
        tokio::spawn(async move { client.model_infer(request).await })
    };
    let arrivals = async |runs| {
        let gate = gate.clone();
        let waited = tokio::task::spawn_blocking(move || gate.wait_for_arrivals(runs));
        waited.await.unwrap();
    };
    let holder = ask(server.grpc().await);
    arrivals(1).await;
    let waiter = ask(server.grpc().await);
    // Nothing else was queued yet, so that the depth is the waiter's.
    let queued = "crossfade_queue_depth{model=\"add\",version=\"1\"} 1\n";
    while !server.scrape().await.contains(queued) {
        tokio::task::yield_now().await;
    }
    refused(
        both(&server, "add", "", body.clone()).await,
        Status::Overloaded,
        "queue is full",
    );
    gate.pass(2);
    assert!(holder.await.unwrap().is_ok());
    assert!(waiter.await.unwrap().is_ok());

    // One runs; there is room for one more, which is late; one after the other, since the queue has one place.
    let holder = ask(server.grpc().await);
    arrivals(3).await;
    refused(
        over_grpc(&server, "add", "", &late).await,
        Status::DeadlineExceeded,
        "deadline",
    );
    refused(
        over_http(&server, "add", "", &late).await,
        Status::DeadlineExceeded,
        "deadline",
    );
    gate.open();
    assert!(holder.await.unwrap().is_ok());
    assert_eq!(
        probe.executions() - before,
        3,
        "only those that nobody refused ran"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_loading_is_not_ready() {
    let repository = Repository::new();
    repository.add("add", 1, ADD_ONE, "");
    let server = Server::start(repository).await;
    let gate = Gate::closed();
    server.fake.hold_loads(gate.clone());
    server
        .repository
        .add("add", 2, ADD_ONE, "[versions]\nall = true\n");
    let service = server.app.service.clone();
    let call = Call::anonymous(Listener::Http, None);
    let load = tokio::spawn(async move { service.load(call, "", "add", Default::default()).await });
    let arrivals = tokio::task::spawn_blocking({
        let gate = gate.clone();
        move || gate.wait_for_arrivals(1)
    });
    arrivals.await.unwrap();
    let body = json!({ "inputs": [x(json!([1, 2]), json!([1.0, 2.0]))] });
    refused(
        both(&server, "add", "2", body.clone()).await,
        Status::NotReady,
        "loading",
    );
    assert!(matches!(
        both(&server, "add", "", body.clone()).await,
        Seen::Answer { .. }
    ));
    gate.open();
    load.await.unwrap().unwrap();
    let Seen::Answer { version, .. } = both(&server, "add", "", body).await else {
        panic!("version 2 serves")
    };
    assert_eq!(version, "2");
    server.stop().await;
}
