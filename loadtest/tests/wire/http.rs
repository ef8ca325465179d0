//! A scripted V2 server over HTTP: what it does depends on the model's name alone.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

#[derive(Debug, Default)]
struct State {
    requests: u64,
    stall_at: u64,
    stall: Duration,
    stalled_until: Option<Instant>,
    loads: Vec<String>,
}

/// A server that runs as long as the test.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Scripted {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Versions that `swapped` was loaded with, in order.
    pub(crate) fn loads(&self) -> Vec<String> {
        self.state.lock().expect("no test panics with it").loads.clone()
    }
}

pub(crate) async fn serve() -> Scripted {
    serve_with_stall(u64::MAX, Duration::ZERO).await
}

/// From inference `at` on, none is answered for `stall`.
pub(crate) async fn serve_with_stall(at: u64, stall: Duration) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has ports");
    let address = listener.local_addr().expect("it listens");
    let state = Arc::new(Mutex::new(State {
        stall_at: at,
        stall,
        ..State::default()
    }));
    let scripted = Scripted { address, state };
    let served = scripted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let scripted = served.clone();
            let service = service_fn(move |request| answer(scripted.clone(), request));
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                // Clients close when they like, and `breaks` breaks.
                connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    scripted
}

type Answer = Result<Response<Full<Bytes>>, std::io::Error>;

async fn answer(scripted: Scripted, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let binary = request.headers().contains_key("inference-header-content-length");
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    let model = path
        .split('/')
        .skip_while(|part| *part != "models")
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let json = |value: Value| Ok(Response::new(Full::from(value.to_string())));
    if path == "/v2" {
        return json(json!({ "name": "scripted", "version": "1", "extensions": [] }));
    }
    if path.ends_with("/infer") || path == "/raw" {
        if path == "/raw" && body != "any bytes".as_bytes()
            || path != "/raw" && !plausible(binary, &parts.headers, &body)
        {
            return refused(400);
        }
        return infer(&scripted, &model).await;
    }
    if path == "/v1/embeddings" {
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let model = request["model"].as_str().unwrap_or_default().to_owned();
        let texts = request["input"].as_array().cloned().unwrap_or_default();
        let words = |text: &Value| text.as_str().map_or(0, |text| text.split(' ').count());
        if texts.is_empty() || !texts.iter().all(|text| (3..9).contains(&words(text))) {
            return refused(400);
        }
        return infer(&scripted, &model).await;
    }
    if path.ends_with("/config") {
        return json(json!({ "name": model, "max_batch_size": 8, "version_policy": { "all": {} } }));
    }
    if path.ends_with("/load") {
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let config = request["parameters"]["config"].as_str().unwrap_or_default();
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        // What else the configuration says must have come back with it.
        if config["max_batch_size"] != 8 {
            return refused(400);
        }
        let version = config["version_policy"]["specific"]["versions"][0].to_string();
        scripted
            .state
            .lock()
            .expect("no test panics with it")
            .loads
            .push(version);
        return json(json!({}));
    }
    if path.ends_with("/stats") {
        let requests = scripted.state.lock().expect("no test panics with it").requests;
        let spell = |ns: u64| json!({ "count": requests, "ns": requests * ns });
        return json(json!({ "model_stats": [{
            "name": model, "version": "2", "execution_count": requests / 2,
            "inference_stats": { "success": spell(9000), "queue": spell(2000), "compute_infer": spell(5000) },
            "batch_stats": [{ "batch_size": 2, "compute_infer": { "count": requests / 2, "ns": 1 } }],
        }] }));
    }
    json(json!({ "name": model, "inputs": [{ "name": "x", "datatype": "FP32", "shape": [-1, 4] }] }))
}

/// Whether a body is a request with one row of four floats.
fn plausible(binary: bool, headers: &hyper::HeaderMap, body: &Bytes) -> bool {
    let length = headers
        .get("inference-header-content-length")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let (json, rest) = body.split_at(length.unwrap_or(body.len()));
    let Ok(request) = serde_json::from_slice::<Value>(json) else {
        return false;
    };
    let data = request["inputs"][0]["data"].as_array().map_or(0, Vec::len);
    request["inputs"][0]["shape"] == json!([1, 4]) && if binary { rest.len() == 16 } else { data == 4 }
}

fn refused(status: u16) -> Answer {
    let mut response = Response::new(Full::from(r#"{"error": "as the script says"}"#));
    *response.status_mut() = hyper::StatusCode::from_u16(status).expect("a status");
    Ok(response)
}

async fn infer(scripted: &Scripted, model: &str) -> Answer {
    let (until, swapped_to) = {
        let mut state = scripted.state.lock().expect("no test panics with it");
        state.requests += 1;
        if state.requests == state.stall_at {
            state.stalled_until = Some(Instant::now() + state.stall);
        }
        (
            state.stalled_until,
            state.loads.last().cloned().unwrap_or_default(),
        )
    };
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
    let body = |version: &str| {
        Full::from(json!({ "model_name": model, "model_version": version, "outputs": [] }).to_string())
    };
    match model {
        "full" => refused(429),
        "breaks" => Err(std::io::Error::other("as the script says")),
        "silent" => {
            std::future::pending::<Infallible>().await;
            refused(500)
        }
        // The version in the body alone; in the header alone otherwise.
        "odd" => Ok(Response::new(body("1"))),
        _ => {
            let version = if model == "swapped" {
                swapped_to
            } else {
                "2".to_owned()
            };
            let response = Response::builder().header("x-model-version", version);
            Ok(response
                .body(Full::from("{}"))
                .expect("a version is a header's value"))
        }
    }
}
