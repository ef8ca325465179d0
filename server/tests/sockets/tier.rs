//! A tier as it stands, on the whole of its way: nothing of it is changed but how long its stages last at least.

use std::sync::Arc;

use crossfade_proto::inference::ModelInferRequest;
use crossfade_proto::inference::model_infer_request::InferInputTensor;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::approval::{ALL, approvers, serving, signed};
use crate::gates::{adds, labelled};
use crate::harness::{Repository, Server};

/// The tier `medium` with other durations. Latency is looked at and does not decide: it would be this machine's.
const MEDIUM: &str = "risk = 'medium'\n[decision]\noutput = 'y'\nkind = 'threshold'\nthreshold = 100\n\
    [gates.quality]\ndata = 'validation.parquet'\nmetric = 'rmse'\nmax_drop = 0.1\n\
    [rollout]\nbake = '2s'\n[rollout.shadow]\nmin = '1s'\n\
    [[rollout.step]]\npercent = 5\nmin = '2s'\nmin_units = 200\n\
    [[rollout.step]]\npercent = 25\nmin = '5s'\nmin_units = 500\n\
    [[rollout.step]]\npercent = 50\nmin = '5s'\nmin_units = 500\n\
    [[rollout.check]]\nmetric = 'latency'\ncritical = false\n";

fn request(x: f32) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 1],
            ..Default::default()
        }],
        raw_input_contents: vec![x.to_le_bytes().to_vec().into()],
        ..Default::default()
    }
}

/// Requests of both protocols, so many at a time; each is answered with one more than it asks.
async fn asked(server: &Arc<Server>, clients: u16, each: u16) {
    let mut all = JoinSet::new();
    for client in 0..clients {
        let server = server.clone();
        all.spawn(async move {
            let mut grpc = server.grpc().await;
            for turn in 0..each {
                let x = f32::from((client * 37 + turn * 7) % 200);
                if turn % 16 == 0 {
                    let body = json!({ "inputs": [{
                        "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x],
                    }] });
                    let answer = server.post("/v2/models/m/infer", body.to_string()).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert_eq!(answer.json()["outputs"][0]["data"], json!([x + 1.0]));
                } else {
                    let answer = grpc.model_infer(request(x)).await.unwrap().into_inner();
                    assert_eq!(answer.raw_output_contents, [(x + 1.0).to_le_bytes().to_vec()]);
                }
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

/// Asks and looks until the release leaves this state.
async fn leaves(server: &Arc<Server>, state: &Value, clients: u16) -> Value {
    for _ in 0..400 {
        asked(server, clients, 256).await;
        server.look();
        let release = server.release();
        if release["state"] != *state {
            return release;
        }
    }
    panic!("it does not leave {state}: {}", server.release());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_the_middle_tier_goes_its_whole_way() {
    let data = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.add("m", 1, &adds(1.0), MEDIUM);
    labelled(&repository.path().join("m/validation.parquet"));
    let golden = repository.path().join("m/golden");
    std::fs::create_dir(&golden).unwrap();
    let tensor =
        |name: &str, x: f64| json!([{ "name": name, "datatype": "FP32", "shape": [1, 1], "data": [x] }]);
    let (asks, says) = (
        json!({ "inputs": tensor("x", 5.0) }),
        json!({ "outputs": tensor("y", 6.0) }),
    );
    std::fs::write(golden.join("five.request.json"), asks.to_string()).unwrap();
    std::fs::write(golden.join("five.response.json"), says.to_string()).unwrap();
    let server = Arc::new(serving(repository, data.path(), approvers()).await);

    // The same function in other bytes.
    let file = format!("# version 2\n{}", adds(1.0));
    server.arrive(2, &file, MEDIUM).await;
    let release = server.release();
    let id = release["id"].as_str().unwrap().to_owned();
    let gates: Vec<_> = release["gates"].as_array().unwrap().iter().collect();
    let said: Vec<_> = gates
        .iter()
        .map(|gate| (&gate["name"], &gate["outcome"]))
        .collect();
    let passed = [("load", "passed"), ("golden", "passed"), ("quality", "passed")];
    assert_eq!(said.len(), passed.len(), "{release}");
    assert!(
        said.iter()
            .zip(passed)
            .all(|(said, passed)| *said.0 == passed.0 && *said.1 == passed.1),
        "{release}"
    );
    assert_eq!(gates[2]["evidence"]["report"]["drop"], 0, "{release}");
    assert_eq!(
        (&release["state"], &release["percent"]),
        (&json!({ "state": "shadow" }), &json!(0.0))
    );

    // One client, so that there are moments in which a copy may run.
    let mut release = leaves(&server, &json!({ "state": "shadow" }), 1).await;
    assert!(release["shadow"]["pairs"].as_u64().unwrap() >= 500, "{release}");
    assert_eq!(release["shadow"]["flips"], 0, "{release}");
    for (step, percent) in [5.0, 25.0, 50.0].into_iter().enumerate() {
        let state = json!({ "state": "canary", "step": step });
        assert_eq!(
            (&release["state"], &release["percent"]),
            (&state, &json!(percent)),
            "{release}"
        );
        release = leaves(&server, &state, 8).await;
        let checks = release["report"]["checks"].as_array().unwrap();
        let names: Vec<_> = checks
            .iter()
            .map(|check| check["metric"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["errors", "latency", "output"], "{release}");
    }
    let waits = json!({ "state": "awaiting_approval", "next": "promoting" });
    assert_eq!(
        (&release["state"], &release["percent"]),
        (&waits, &json!(0.0)),
        "{release}"
    );
    asked(&server, 1, 32).await;
    server.look();
    assert_eq!(server.release()["state"], waits, "nobody has agreed");

    let line = || format!("POST {ALL}/{id}:approve");
    let view = server.seen(&id).await;
    let stranger = server.tell("bob", line(), &signed(&view, 9)).await;
    assert_eq!(stranger.status, 403, "{stranger:?}");
    let approved = server.tell("bob", line(), &signed(&view, 3)).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    assert_eq!(approved.json()["approval"]["given"], json!(["eve"]));
    assert_eq!(
        (&approved.json()["state"], &approved.json()["percent"]),
        (&json!({ "state": "baking" }), &json!(100.0))
    );
    let release = leaves(&server, &json!({ "state": "baking" }), 1).await;
    assert_eq!(
        (&release["state"]["state"], &release["live"]),
        (&json!("live"), &json!(2)),
        "{release}"
    );
    let answer = server.get("/v2/models/m").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    asked(&server, 1, 32).await;

    // It cannot be changed under its number.
    server.repository.add("m", 2, &adds(2.0), MEDIUM);
    let changed = server.post("/v2/repository/models/m/load", "").await;
    assert_eq!(changed.status, 400, "{changed:?}");
    asked(&server, 1, 32).await;
    let server = Arc::into_inner(server).expect("the clients are gone");
    server.stop().await;
}
