//! The parts of a request's path, one by one: decode, route, decide, gather, encode.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossfade_batcher::assemble::{Gather, Member};
use crossfade_batcher::policy::{Candidate, Forecast, Limits, MergeRule, Waiting, decide};
use crossfade_models::State;
use crossfade_models::traffic::{Division, RouteView, VersionSelector, Wish, route};
use crossfade_proto::inference::ModelInferRequest;
use crossfade_proto::inference::model_infer_request::InferInputTensor;
use crossfade_rollout::routing::{Portion, Salt, Traffic};
use crossfade_runtimes_core::{Datatype, ModelSignature, ShapeSpec, Tensor, TensorSpec};
use crossfade_server::grpc::decode::request_from_wire;
use crossfade_server::http::{binary, json};
use crossfade_server::infer::InferResponse;
use prost::Message;

/// Floats per request.
const WIDTH: usize = 2048;

fn floats() -> Vec<f32> {
    (0..WIDTH).map(|k| (k as f32).sin()).collect()
}

fn raw() -> Bytes {
    floats()
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect::<Vec<u8>>()
        .into()
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode FP32[1,2048]");
    group.throughput(Throughput::Elements(WIDTH as u64));
    let data: Vec<String> = floats().iter().map(f32::to_string).collect();
    let text = format!(
        r#"{{"inputs":[{{"name":"x","shape":[1,{WIDTH}],"datatype":"FP32","data":[{}]}}]}}"#,
        data.join(",")
    );
    let body = Bytes::from(text);
    group.bench_function("JSON, ours", |b| {
        b.iter(|| json::decode_request("m", "", black_box(&body)))
    });
    group.bench_function("JSON, through serde_json::Value", |b| {
        b.iter(|| {
            let value: serde_json::Value = serde_json::from_slice(black_box(&body)).expect("valid JSON");
            let data = value["inputs"][0]["data"].as_array().expect("an array");
            data.iter()
                .flat_map(|v| v.as_f64().unwrap_or(0.0).to_le_bytes())
                .collect::<Vec<u8>>()
        });
    });
    let head = format!(
        r#"{{"inputs":[{{"name":"x","shape":[1,{WIDTH}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
        WIDTH * 4
    );
    let length = head.len().to_string();
    let body = Bytes::from([head.as_bytes(), &raw()].concat());
    group.bench_function("HTTP binary", |b| {
        b.iter(|| binary::decode_request("m", "", black_box(&body), Some(&length)));
    });
    let message = ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, i64::try_from(WIDTH).expect("a small width")],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![raw()],
        ..ModelInferRequest::default()
    };
    let message = Bytes::from(message.encode_to_vec());
    group.bench_function("gRPC", |b| {
        b.iter(|| request_from_wire(black_box(message.clone())))
    });
    group.finish();
}

fn routing(c: &mut Criterion) {
    let versions = BTreeMap::from([(1, State::Ready), (2, State::Ready)]);
    let labels = BTreeMap::from([("stable".to_owned(), 1)]);
    let view = RouteView {
        versions: &versions,
        chosen: &[2],
        labels: &labels,
        division: None,
    };
    let mut group = c.benchmark_group("route");
    for text in ["", "1", "stable"] {
        group.bench_function(format!("selector `{text}`"), |b| {
            b.iter(|| VersionSelector::parse(black_box(text)).map(|selector| route(selector, &view)));
        });
    }
    // What a running canary adds to a request: one header looked up, one hash.
    let division = Division {
        release: Some("01a203be-9208-7000-8024-d330b997a637".into()),
        traffic: Traffic::Canary {
            champion: 1,
            candidate: 2,
            portion: Portion::percent(5.0),
            salt: Salt::of("01a203be-9208-7000-8024-d330b997a637"),
        },
        epoch: 1,
        shadow: None,
        key_headers: vec!["x-user-id".to_owned()],
        rules: Vec::new(),
    };
    for (name, key) in [("by key", Some(&b"user-4711"[..])), ("by request", None)] {
        let header = |_: &str| black_box(key);
        let wish = Wish {
            selector: "",
            header: &header,
            id: b"01a203bf-3e8f-7000-8038-1b3185e044a1",
        };
        group.bench_function(format!("canary, {name}"), |b| {
            b.iter(|| black_box(&division).draw(black_box(&wish)));
        });
    }
    group.finish();
}

fn signature() -> ModelSignature {
    let spec = |name| TensorSpec::new(name, Datatype::Fp32, ShapeSpec::from(&[-1, 2048][..]));
    ModelSignature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
        max_rows: None,
        ..Default::default()
    }
}

fn batching(c: &mut Criterion) {
    let now = Instant::now();
    let inputs = [Some(Tensor {
        datatype: Datatype::Fp32,
        shape: [1, WIDTH].into(),
        data: raw(),
    })];
    let rule = MergeRule::new(&signature(), true);
    let (key, alone) = rule.key(&inputs, 1);
    let waiting: Vec<Waiting> = (0..64)
        .map(|_| Waiting {
            cost: 1,
            length: 1,
            key: key.clone(),
            alone,
            queued: now,
            deadline: None,
        })
        .collect();
    let limits = Limits {
        max_cost: 32,
        max_rows: usize::MAX,
        pads: false,
        preferred: Vec::new(),
        max_delay: Duration::ZERO,
        in_order: false,
    };
    c.bench_function("decide, 64 waiting, 32 fit", |b| {
        b.iter(|| {
            let candidates = waiting.iter().map(|waiting| Candidate {
                waiting,
                cancelled: false,
            });
            let forecast = Forecast {
                waiting: 64,
                run: &|_| Duration::from_micros(100),
            };
            decide(candidates, black_box(&limits), forecast, now)
        });
    });
    let signature = signature();
    let members: Vec<Member<'_>> = (0..32)
        .map(|_| Member {
            inputs: &inputs,
            outputs: &[0],
            rows: 1,
        })
        .collect();
    let mut gather = Gather::new(&signature);
    let mut group = c.benchmark_group("gather");
    group.throughput(Throughput::Bytes((members.len() * WIDTH * 4) as u64));
    group.bench_function("32 requests of 8 KB", |b| {
        b.iter(|| gather.gather(black_box(&signature), black_box(&members), 32));
    });
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let tensor = Tensor {
        datatype: Datatype::Fp32,
        shape: [1, WIDTH].into(),
        data: raw(),
    };
    let response = InferResponse {
        model: "m".into(),
        version: 1,
        id: None,
        tokens: None,
        outputs: vec![("y".into(), tensor)],
    };
    let mut group = c.benchmark_group("encode FP32[1,2048]");
    group.throughput(Throughput::Elements(WIDTH as u64));
    group.bench_function("JSON, ours", |b| {
        b.iter(|| json::encode_response(black_box(&response)))
    });
    let value = serde_json::json!({ "data": floats() });
    group.bench_function("JSON, serde_json::Value", |b| {
        b.iter(|| serde_json::to_vec(black_box(&value)))
    });
    group.finish();
}

criterion_group!(benches, decoding, routing, batching, encoding);
criterion_main!(benches);
