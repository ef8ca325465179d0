//! Models that take text: over REST v2 and gRPC, OpenAI's embeddings and text-embeddings-inference's routes; small real
//! encoders, with made-up weights, through candle.

use std::path::{Path, PathBuf};

use base64::Engine;
use crossfade_proto::inference as wire;
use serde_json::{Value, json};

use crate::harness::{Repository, Server};

/// Puts a committed model into the repository.
fn add(repository: &Repository, name: &str, version: u64, model: &str, config: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimes/candle/tests/models");
    let to: PathBuf = repository.path().join(name).join(version.to_string());
    std::fs::create_dir_all(&to).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(model).join(file), to.join(file)).unwrap();
    }
    std::fs::write(repository.path().join(name).join("model.toml"), config).unwrap();
}

async fn serving(models: &[(&str, &str)]) -> Server {
    let repository = Repository::new();
    for (name, model) in models {
        add(&repository, name, 1, model, "");
    }
    Server::start(repository).await
}

fn vector(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

#[track_caller]
fn close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    let furthest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(furthest < 1e-5, "{furthest:e}");
}

async fn embedded(server: &Server, input: Value) -> Vec<Vec<f64>> {
    let body = json!({ "model": "m", "input": input });
    let answer = server.post("/v1/embeddings", body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let data = answer["data"].as_array().unwrap();
    data.iter().map(|row| vector(&row["embedding"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_its_tokens_give_the_same_vector_over_every_protocol() {
    let server = serving(&[("m", "bert")]).await;
    let text = json!({ "inputs": [{ "name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["The cat sat"] }] });
    let answer = server.post("/v2/models/m/infer", text.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["outputs"][0]["name"], "embeddings");
    let by_text = vector(&answer["outputs"][0]["data"]);

    // [CLS] the cat sat [SEP]
    let tokens = json!({ "inputs": [{ "name": "input_ids", "datatype": "INT64", "shape": [1, 5], "data": [2, 5, 6, 10, 3] }] });
    let answer = server.post("/v2/models/m/infer", tokens.to_string()).await.json();
    close(&vector(&answer["outputs"][0]["data"]), &by_text);

    let request = wire::ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![wire::model_infer_request::InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![1, 1],
            contents: Some(wire::InferTensorContents {
                bytes_contents: vec!["the CAT sat".as_bytes().to_vec().into()],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = server
        .grpc()
        .await
        .model_infer(request)
        .await
        .unwrap()
        .into_inner();
    let raw = answer.raw_output_contents[0].chunks_exact(4);
    let raw: Vec<f64> = raw
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    close(&raw, &by_text);

    close(&embedded(&server, json!("the cat sat")).await[0], &by_text);
    close(&embedded(&server, json!([2, 5, 6, 10, 3])).await[0], &by_text);
    let plain = server
        .post("/embed", r#"{"inputs": "the cat sat", "normalize": false}"#)
        .await
        .json();
    close(&vector(&plain[0]), &by_text);
    let unit = vector(&server.post("/embed", r#"{"inputs": "the cat sat"}"#).await.json()[0]);
    assert!((unit.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6);
    let metrics = server.scrape().await;
    assert!(
        metrics.contains("crossfade_tokens_total{model=\"m\",version=\"1\"} 35"),
        "{metrics}"
    );
    assert!(
        metrics.contains("protocol=\"openai\",status=\"ok\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("protocol=\"tei\",status=\"ok\"} 2"), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_texts_of_all_lengths_gives_each_its_own_vector() {
    let repository = Repository::new();
    // So small that every list is divided.
    add(
        &repository,
        "m",
        1,
        "roberta",
        "[model]\nparameters = { \"text.max_batch_tokens\" = \"20\" }\n",
    );
    let server = Server::start(repository).await;
    let words = [
        "cat",
        "the dog",
        "a red bird flew over the sea",
        "fish and fish and fish in the blue sea",
        "sky",
    ];
    let texts: Vec<String> = (0..60)
        .map(|k| format!("{} {}", words[k % 5], words[k * 7 % 4]))
        .collect();
    let together = embedded(&server, json!(texts)).await;
    assert_eq!(together.len(), texts.len());
    for (text, vector) in texts.iter().zip(&together).step_by(7) {
        close(&embedded(&server, json!(text)).await[0], vector);
    }
    // 60 texts of 5 tokens and more, 20 in a batch, and 9 single ones.
    let metrics = server.scrape().await;
    let batches = metrics
        .lines()
        .find(|line| line.starts_with("crossfade_batch_rows_count{model=\"m\""));
    let batches: u64 = batches.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(batches >= 9 + 15, "{batches} batches");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_clients_get_their_forms_and_their_errors() {
    let repository = Repository::new();
    add(&repository, "m", 1, "bert", "");
    let server = Server::start_with(repository, |config| config.text.max_inputs = 3).await;
    server.wait_ready().await;
    let post = async |body: Value| server.post("/v1/embeddings", body.to_string()).await;
    let answer = post(json!({ "model": "m", "input": ["cat", "the dog"], "user": "u" }))
        .await
        .json();
    assert_eq!(
        (&answer["object"], &answer["model"]),
        (&json!("list"), &json!("m"))
    );
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 7, "total_tokens": 7 }));
    assert_eq!(
        (&answer["data"][1]["index"], &answer["data"][1]["object"]),
        (&json!(1), &json!("embedding"))
    );
    let floats = vector(&answer["data"][0]["embedding"]);
    let coded = post(json!({ "model": "m", "input": "cat", "encoding_format": "base64" }))
        .await
        .json();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(coded["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let decoded: Vec<f64> = bytes
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    close(&decoded, &floats);
    let short = post(json!({ "model": "m", "input": "cat", "dimensions": 4 }))
        .await
        .json();
    let short = vector(&short["data"][0]["embedding"]);
    assert_eq!(short.len(), 4);
    assert!((short.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6);

    let long = vec!["cat"; 40].join(" ");
    for (body, status, named) in [
        (json!({ "model": "other", "input": "cat" }), 404, "`other`"),
        (json!({ "model": "m", "input": [] }), 400, "at least one"),
        (json!({ "model": "m", "input": "" }), 400, "empty string"),
        (
            json!({ "model": "m", "input": ["a", "b", "c", "d"] }),
            400,
            "text.max_inputs",
        ),
        (json!({ "model": "m", "input": 7 }), 400, "must be a string"),
        (json!({ "model": "m" }), 400, "`input`"),
        (
            json!({ "model": "m", "input": "cat", "dimensions": 99 }),
            400,
            "24",
        ),
        (json!({ "model": "m", "input": [[4, 999]] }), 400, "999"),
        (json!({ "model": "m", "input": long }), 400, "34 tokens"),
    ] {
        let refused = post(body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {refused:?}");
        let error = &refused.json()["error"];
        assert!(
            error["message"].as_str().unwrap().contains(named),
            "{body}: {error}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        let code = if status == 404 {
            json!("model_not_found")
        } else {
            Value::Null
        };
        assert_eq!(error["code"], code);
    }
    let runs = async || {
        let stats = server.get("/v2/models/m/stats").await.json();
        stats["model_stats"][0]["execution_count"].as_u64().unwrap()
    };
    let before = runs().await;
    for dimensions in [0, 25] {
        let refused = post(json!({ "model": "m", "input": "cat", "dimensions": dimensions })).await;
        assert_eq!(refused.status, 400, "{refused:?}");
    }
    assert_eq!(runs().await, before, "what cannot be answered is not computed");
    let models = server.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "m");
    assert_eq!(models["models"], json!(["m"]));
    assert_eq!(server.get("/v1/embeddings").await.status, 405);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rerankers_and_classifiers_answer_as_text_embeddings_inference_does() {
    let server = serving(&[("ranker", "xlmr_ranker"), ("classes", "distilbert_classifier")]).await;
    let texts = ["the cat sat on the mat", "a red fish", "the sky and the sea"];
    let ask = async |more: Value| {
        let mut body = json!({ "query": "the cat", "texts": texts });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.post("/rerank", body.to_string()).await
    };
    let ranked = ask(json!({ "return_text": true })).await;
    assert_eq!(ranked.status, 200, "{ranked:?}");
    let ranked = ranked.json();
    let ranked = ranked.as_array().unwrap();
    let scores: Vec<f64> = ranked
        .iter()
        .map(|rank| rank["score"].as_f64().unwrap())
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores.iter().all(|score| (0.0..=1.0).contains(score)));
    for rank in ranked {
        assert_eq!(rank["text"], texts[rank["index"].as_u64().unwrap() as usize]);
    }
    // The same pair over the protocol itself, and its logit.
    let best = ranked[0]["index"].as_u64().unwrap() as usize;
    let pair = json!({ "inputs": [
        { "name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["the cat"] },
        { "name": "text_pair", "datatype": "BYTES", "shape": [1, 1], "data": [texts[best]] },
    ] });
    let logit = server
        .post("/v2/models/ranker/infer", pair.to_string())
        .await
        .json();
    let logit = logit["outputs"][0]["data"][0].as_f64().unwrap();
    assert!((1.0 / (1.0 + (-logit).exp()) - scores[0]).abs() < 1e-5);
    let raw = ask(json!({ "raw_scores": true })).await.json();
    assert!((raw[0]["score"].as_f64().unwrap() - logit).abs() < 1e-5);
    assert!(raw[0].get("text").is_none());

    // Both classify; the configuration would say which.
    let unsaid = server.post("/predict", r#"{"inputs": "cat"}"#).await;
    assert_eq!(unsaid.status, 409);
    let said = unsaid.json();
    assert!(
        said["error"].as_str().unwrap().contains("text.predict_model"),
        "{said}"
    );
    assert_eq!(server.post("/embed", r#"{"inputs": "cat"}"#).await.status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_have_the_names_of_the_folder_and_mistakes_their_codes() {
    let repository = Repository::new();
    add(&repository, "ranker", 1, "xlmr_ranker", "");
    add(&repository, "classes", 1, "distilbert_classifier", "");
    let server = Server::start_with(repository, |config| {
        config.text.predict = Some("classes".to_owned());
        config.text.max_inputs = 2;
    })
    .await;
    server.wait_ready().await;
    let one = server.post("/predict", r#"{"inputs": "the cat"}"#).await.json();
    let labels: Vec<&str> = one
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels.len(), 3);
    assert!(
        labels.iter().all(|label| label.starts_with("label ")),
        "{labels:?}"
    );
    let sum: f64 = one
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["score"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-5);
    let batch = server
        .post("/predict", r#"{"inputs": [["the cat"], ["a dog"]]}"#)
        .await
        .json();
    assert_eq!(batch[0], one);
    let pair = server
        .post("/predict", r#"{"inputs": ["the cat", "a dog"]}"#)
        .await
        .json();
    assert_eq!(pair.as_array().unwrap().len(), 3);
    // V2's classification extension names them too.
    let top = json!({
        "inputs": [{ "name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["the cat"] }],
        "outputs": [{ "name": "logits", "parameters": { "classification": 1 } }],
    });
    let top = server
        .post("/v2/models/classes/infer", top.to_string())
        .await
        .json();
    assert!(
        top["outputs"][0]["data"][0]
            .as_str()
            .unwrap()
            .ends_with(labels[0]),
        "{top}"
    );

    let long = vec!["cat"; 99].join(" ");
    for (path, body, status, kind) in [
        (
            "/predict",
            json!({ "inputs": [["a"], ["b"], ["c"]] }),
            413,
            "validation",
        ),
        (
            "/predict",
            json!({ "inputs": [["a"], ["b", "c"]] }),
            422,
            "tokenizer",
        ),
        ("/predict", json!({ "inputs": 1 }), 422, "validation"),
        ("/predict", json!({ "inputs": long }), 422, "tokenizer"),
        (
            "/rerank",
            json!({ "query": "", "texts": ["a"] }),
            422,
            "tokenizer",
        ),
        ("/rerank", json!({ "query": "a", "texts": [] }), 422, "tokenizer"),
        (
            "/rerank",
            json!({ "query": "a".repeat(17 << 20), "texts": ["b", "c"] }),
            413,
            "validation",
        ),
        // As clients write what they leave to the server, and against a model that would be set to cut.
        (
            "/predict",
            json!({ "inputs": long, "truncate": null, "truncation_direction": null }),
            422,
            "tokenizer",
        ),
        (
            "/predict",
            json!({ "inputs": long, "truncate": false }),
            422,
            "tokenizer",
        ),
    ] {
        let refused = server.post(path, body.to_string()).await;
        assert_eq!(refused.status, status, "{path} {body}: {refused:?}");
        assert_eq!(refused.json()["error_type"], kind, "{path} {body}");
    }
    let cut = json!({ "inputs": long, "truncate": true });
    assert_eq!(server.post("/predict", cut.to_string()).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_answers_as_the_only_model_can_and_the_version_asked_for_by_its_own_outputs() {
    let repository = Repository::new();
    add(&repository, "m", 1, "bert", "[versions]\nall = true\n");
    add(&repository, "m", 2, "bert_classifier", "[versions]\nall = true\n");
    let server = Server::start(repository).await;
    let body =
        json!({ "model": "m", "input": "the cat", "encoding_format": null, "dimensions": null }).to_string();
    let first = server
        .post_with("/v1/embeddings", &[("x-model-version", "1")], body.as_bytes())
        .await;
    assert_eq!(first.status, 200, "{first:?}");
    let second = server
        .post_with("/v1/embeddings", &[("x-model-version", "2")], body.as_bytes())
        .await;
    assert_eq!(second.status, 400, "{second:?}");
    let said = second.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.contains("version 2 of model `m` is none that"), "{said}");
    server.stop().await;

    let server = serving(&[("m", "bert")]).await;
    let embedded = server.post("/embed", r#"{"inputs": ["the cat"]}"#).await;
    let root = server
        .post("/", r#"{"inputs": ["the cat"], "prompt_name": null}"#)
        .await;
    assert_eq!((embedded.status, root.status), (200, 200), "{root:?}");
    assert_eq!(embedded.json(), root.json());
    assert_eq!(server.get("/health").await.status, 200);
    let prompted = server
        .post("/embed", r#"{"inputs": "the cat", "prompt_name": "query"}"#)
        .await;
    assert_eq!(prompted.status, 422);
    let said = prompted.json()["error"].as_str().unwrap().to_owned();
    assert!(said.contains("`prompt_name`"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_takes_few_places_and_fewer_rows_at_once_than_it_has() {
    let repository = Repository::new();
    // Room for 64 tokens in a batch, for 4 rows, and for 3 requests in the queue.
    let config = "[batching]\nmax_rows = 4\nmax_queue = 3\n[model]\nparameters = { \"text.max_batch_tokens\" = \"64\" }\n";
    add(&repository, "m", 1, "bert", config);
    let server = Server::start(repository).await;
    let texts: Vec<String> = (1..=200).map(|n| vec!["cat"; 1 + n % 30].join(" ")).collect();
    let vectors = embedded(&server, json!(texts)).await;
    assert_eq!(vectors.len(), 200);
    for index in [0, 57, 199] {
        close(&embedded(&server, json!(texts[index])).await[0], &vectors[index]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_is_the_end_or_the_beginning_as_asked() {
    let server = serving(&[("m", "bert")]).await;
    let infer = async |text: &str, parameters: Value| {
        let body = json!({
            "parameters": parameters,
            "inputs": [{ "name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text] }],
        });
        server.post("/v2/models/m/infer", body.to_string()).await
    };
    let data = |answer: crate::harness::Answer| vector(&answer.json()["outputs"][0]["data"]);
    // 34 tokens with the special ones: 32 words.
    let (cats, dogs) = (vec!["cat"; 32].join(" "), vec!["dog"; 32].join(" "));
    let long = format!("{cats} {dogs}");
    let refused = infer(&long, json!({})).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.error().contains("34 tokens") && refused.error().contains("truncate"),
        "{refused:?}"
    );
    let first = data(infer(&cats, json!({})).await);
    let last = data(infer(&dogs, json!({})).await);
    close(&data(infer(&long, json!({ "truncate": true })).await), &first);
    let left = json!({ "truncate": true, "truncation_direction": "left" });
    close(&data(infer(&long, left).await), &last);
    for (parameters, named) in [
        (json!({ "truncate": "yes" }), "`truncate`"),
        (json!({ "truncation_direction": "up" }), "`truncation_direction`"),
    ] {
        let refused = infer("cat", parameters).await;
        assert!(
            refused.status == 400 && refused.error().contains(named),
            "{refused:?}"
        );
    }
    let both = json!({ "inputs": [
        { "name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["cat"] },
        { "name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [4] },
    ] });
    let refused = server.post("/v2/models/m/infer", both.to_string()).await;
    assert!(
        refused.status == 400 && refused.error().contains("either"),
        "{refused:?}"
    );
    let mut bytes = vec![2, 0, 0, 0, 0xff, 0xfe];
    let json = r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":6}}]}"#;
    let mut body = json.as_bytes().to_vec();
    body.append(&mut bytes);
    let length = json.len().to_string();
    let refused = server
        .post_with(
            "/v2/models/m/infer",
            &[("Inference-Header-Content-Length", &length)],
            &body,
        )
        .await;
    assert!(
        refused.status == 400 && refused.error().contains("not UTF-8"),
        "{refused:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_while_texts_come_and_none_is_lost() {
    let server = std::sync::Arc::new(serving(&[("m", "bert")]).await);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|k| {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::spawn(async move {
                let texts: Vec<String> = (0..5).map(|n| vec!["cat"; 1 + (k + n) * 3].join(" ")).collect();
                let body = json!({ "model": "m", "input": texts }).to_string();
                let mut answered = 0;
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let answer = server.post("/v1/embeddings", &body).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 5);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for (version, model) in [(2, "bert_tanh"), (3, "bert")] {
        add(&server.repository, "m", version, model, "");
        let loaded = server.post("/v2/repository/models/m/load", "").await;
        assert_eq!(loaded.status, 200, "{loaded:?}");
        let answer = server
            .post("/v1/embeddings", r#"{"model": "m", "input": "cat"}"#)
            .await;
        assert_eq!(answer.headers.get("x-model-version"), Some(&version.to_string()));
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    std::sync::Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_cannot_be_served_say_why() {
    let repository = Repository::new();
    for (name, file, from, to) in [
        ("broken", "tokenizer.json", "{", "["),
        ("other", "config.json", "BertModel", "LlamaForCausalLM"),
        (
            "short",
            "config.json",
            "\"max_position_embeddings\": 34",
            "\"max_position_embeddings\": 4",
        ),
    ] {
        add(&repository, name, 1, "bert", "");
        let path = repository.path().join(name).join("1").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }
    add(
        &repository,
        "setting",
        1,
        "bert",
        "[model]\nparameters = { \"text.pooling\" = \"median\" }\n",
    );
    add(
        &repository,
        "plain",
        1,
        "bert",
        "[model]\nparameters = { \"text.enabled\" = \"0\" }\n",
    );
    let server = Server::start_with(repository, |_| {}).await;
    let load = async |name: &str| {
        server
            .post(&format!("/v2/repository/models/{name}/load"), "")
            .await
    };
    for (name, named) in [
        ("broken", "tokenizer.json"),
        ("other", "LlamaForCausalLM"),
        ("short", "4 tokens"),
        ("setting", "text.pooling"),
    ] {
        let refused = load(name).await;
        assert!(
            refused.status != 200 && refused.error().contains(named),
            "{name}: {refused:?}"
        );
    }
    assert_eq!(load("plain").await.status, 200);
    let metadata = server.get("/v2/models/plain").await.json();
    assert_eq!(metadata["inputs"][0]["name"], "input_ids");
    assert_eq!(metadata["outputs"][0]["name"], "last_hidden_state");
    server.stop().await;
}
